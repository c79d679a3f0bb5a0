package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// providers reads /external_oidc.
func (c *commons) externals(t *testing.T, path string, headers ...string) (ids []string, expirations map[string]any) {
	t.Helper()
	got := c.call(t, nil, http.MethodGet, path, headers...)
	var body struct {
		Providers []map[string]any `json:"providers"`
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != 200 {
		t.Fatalf("%d %s: %v", got.status, got.body, err)
	}
	expirations = map[string]any{}
	for _, one := range body.Providers {
		id, _ := one["idp"].(string)
		ids = append(ids, id)
		expirations[id] = one["refresh_token_expiration"]
	}
	return ids, expirations
}

func TestGen3ExternalProviders(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	c.link(t, "alice", "other-google")
	c.link(t, "alice", "keycloak")
	all := []string{"other-google", "other-ras", "keycloak"}
	for _, path := range []string{"/external_oidc", "/external_oidc/", "/external_oidc/?unexpired=1", "/external_oidc?unexpired=false"} {
		t.Run(path, func(t *testing.T) {
			ids, expirations := c.externals(t, path)
			if diff := cmp.Diff(all, ids); diff != "" {
				t.Errorf("%s, anonymous: %s", path, diff)
			}
			if expirations["other-google"] != nil {
				t.Errorf("%s, anonymous: %v", path, expirations)
			}
		})
	}
	_, expirations := c.externals(t, "/external_oidc", c.bearer("alice")...)
	if diff := cmp.Diff(map[string]any{"other-google": "29 days", "other-ras": nil, "keycloak": "an unknown time"}, expirations); diff != "" {
		t.Error(diff)
	}
	ids, _ := c.externals(t, "/external_oidc/?unexpired=TRUE", c.bearer("alice")...)
	if diff := cmp.Diff([]string{"other-google", "keycloak"}, ids); diff != "" {
		t.Error(diff)
	}
	if ids, _ = c.externals(t, "/external_oidc/?unexpired=true"); len(ids) != 0 {
		t.Errorf("anonymous has linked %v", ids)
	}
	got := c.call(t, nil, http.MethodGet, "/external_oidc")
	want := `{"base_url":"` + c.other.BaseURL + `","idp":"other-google","name":"Other Google","urls":[{"name":"Other Google","url":"` + c.portal + `/wts/oauth2/authorization_url?idp=other-google"}],"refresh_token_expiration":null}`
	if !strings.Contains(got.body, want) {
		t.Errorf("got %s\nwant %s", got.body, want)
	}
}

// The sidecar of a workspace, as gen3-fuse's script does it: the service's health by HEAD, the default
// token of the pod by curl and jq, then what is linked beside it, with that token, again and again.
const sidecar = `set -eu
until curl -sfI "$WTS/_status" >/dev/null; do sleep 0.1; done
token=null
while [ "$token" = null ] || [ -z "$token" ]; do
	token=$(curl -s --interface 127.0.0.2 "$WTS/token/?idp=default" | jq -r .token)
	[ "$token" != null ] || { echo waiting; sleep 0.2; }
done
echo "default ${#token}"
tries=0
while [ $tries -lt 100 ]; do
	idps=$(curl -s "$WTS/external_oidc/?unexpired=true" -H "Authorization: bearer $token" | jq -r '.providers[].idp' | tr '\n' ' ')
	[ -z "$idps" ] || break
	tries=$((tries + 1)); sleep 0.1
done
for idp in $idps; do
	external=$(curl -s "$WTS/token/?idp=$idp" -H "Authorization: bearer $token" | jq -r .token)
	echo "$idp ${#external}"
done
`

func TestGen3Sidecar(t *testing.T) {
	c := startCommons(t, nil)
	script := exec.CommandContext(t.Context(), "/bin/sh", "-c", sidecar)
	script.Env = append(os.Environ(), "WTS="+c.url)
	output := &syncBuffer{}
	script.Stdout, script.Stderr = output, output
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sidecar waits for a token", func() bool { return strings.Contains(output.String(), "waiting") })
	c.link(t, "alice", "")
	eventually(t, "the sidecar has the default token", func() bool { return strings.Contains(output.String(), "default ") })
	c.link(t, "alice", "other-google")
	c.link(t, "alice", "keycloak")
	if err := script.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	lines := strings.Split(strings.TrimSpace(output.String()), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "other-google ") && !strings.HasPrefix(last, "keycloak ") || strings.HasSuffix(last, " 4") || strings.HasSuffix(last, " 0") {
		t.Errorf("the sidecar ended with:\n%s", output)
	}
}

// The Python SDK, by its calls (Gen3 contract 1.1): the pod's token, whose iss and exp it decodes; a
// user's token by bearer with its headers; the list of providers, anonymous; errors that are JSON.
const sdk = `
import base64, json, sys, urllib.error, urllib.request
base, bearer, fence = sys.argv[1:]
def get(path, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as failed:
        return failed.code, json.loads(failed.read())
def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
status, providers = get("/external_oidc/")
assert status == 200 and [p["idp"] for p in providers["providers"]] == ["other-google", "other-ras", "keycloak"], providers
assert all(p["base_url"] and p["urls"][0]["url"] and p["refresh_token_expiration"] is None for p in providers["providers"])
headers = {"Authorization": "bearer " + bearer, "Content-Type": "application/json", "Accept": "application/json", "Connection": "keep-alive"}
status, answer = get("/token/?idp=other-google", **headers)
assert status == 200, (status, answer)
token = claims(answer["token"])
assert token["iss"].endswith("/user") and token["exp"] > token["iat"] and token["context"]["user"]["name"] == "alice", token
status, answer = get("/token/?idp=other-ras", **headers)
assert status == 403 and "refresh token" in answer["message"], (status, answer)
status, answer = get("/token/?idp=other-google", Authorization="bearer nonsense")
assert status == 401 and answer["message"], (status, answer)
status, answer = get("/nowhere")
assert status == 404 and answer["message"], (status, answer)
`

func TestGen3PythonSDK(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	c.link(t, "alice", "other-google")
	path := filepath.Join(t.TempDir(), "sdk.py")
	if err := os.WriteFile(path, []byte(sdk), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), "python3", path, c.url, c.fence.AccessToken("alice", nil), c.fence.Issuer).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	// The pod's own, as gen3-fuse decodes it: 200 and a token, or another status and no token.
	got := c.call(t, workerAt("127.0.0.2"), http.MethodGet, "/token/")
	if got.status != 200 || strings.Count(got.member("token"), ".") != 2 {
		t.Errorf("the pod's token: %d", got.status)
	}
}

// The portal: at login it asks whether the user is connected; 403 sends the browser to be linked,
// whereupon it is; a grant that is revoked, or cannot be read, is linked anew in the same way.
func TestGen3PortalLinksAnewByItself(t *testing.T) {
	c := startCommons(t, nil)
	browser := c.portalUser(t, "alice")
	ask := func() int {
		return c.through(t, c.portal, &http.Client{Jar: browser.Jar}, http.MethodGet, "/wts/oauth2/connected").status
	}
	pod := workerAt("127.0.0.2")
	token := func() answer { return c.call(t, pod, http.MethodGet, "/token/?expires=1200") }
	visit := func(when string) {
		t.Helper()
		if got := ask(); got != 403 {
			t.Fatalf("%s: connected answers %d", when, got)
		}
		c.linkIn(t, browser, "alice", "")
		if got := ask(); got != 200 {
			t.Fatalf("%s, linked: connected answers %d", when, got)
		}
		if got := token(); got.status != 200 || got.member("token") == "" {
			t.Fatalf("%s, linked: %d %s", when, got.status, got.body)
		}
	}
	visit("at first")
	c.sql(t, "UPDATE connections SET refresh_expires_at = 1")
	c.sql(t, "DELETE FROM refresh_token")
	c.broker.ForgetAll()
	visit("expired")
	c.fence.Revoke("alice")
	c.sql(t, "UPDATE connections SET access_expires_at = access_issued_at + 1")
	c.broker.ForgetAll()
	if got := token(); got.status != 403 || got.member("message") != forbidden+"your refresh token is no longer valid, please login again" {
		t.Fatalf("revoked: %d %s", got.status, got.body)
	}
	visit("revoked")
	c.sql(t, "UPDATE connections SET refresh_token = '\\x00', access_token = NULL")
	c.sql(t, "DELETE FROM refresh_token")
	c.broker.ForgetAll()
	if got := token(); got.status != 403 {
		t.Fatalf("unreadable: %d %s", got.status, got.body)
	}
	visit("unreadable")
}

func TestGen3Aggregate(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	c.link(t, "alice", "other-google")
	c.link(t, "alice", "other-ras") // the same commons a second time
	host := func(address string) string { return strings.TrimPrefix(address, "http://") }
	here, there, plain := host(c.fence.BaseURL), host(c.other.BaseURL), host(c.plain.BaseURL)
	get := func(t *testing.T, path string, headers ...string) map[string]any {
		t.Helper()
		got := c.call(t, nil, http.MethodGet, path, headers...)
		var body map[string]any
		if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != 200 {
			t.Fatalf("%d %s: %v", got.status, got.body, err)
		}
		return body
	}
	authz := map[string]any{"/a": []any{}}
	said := func(bearer bool, tags string) map[string]any {
		return map[string]any{"authz": authz, "bearer": bearer, "tags": tags, "evil": ""}
	}
	each := func(answer any) map[string]any { return map[string]any{here: answer, there: answer, plain: answer} }
	c.link(t, "carol", "")
	for _, id := range []string{"", "other-google", "keycloak"} {
		c.link(t, "dave", id)
	}
	alice := c.bearer("alice")
	for name, row := range map[string]struct {
		path    string
		headers []string
		want    map[string]any
	}{
		"anonymous":                            {path: "/aggregate/user/user", want: map[string]any{here: said(false, ""), there: said(false, ""), plain: said(false, "")}},
		"two linked":                           {path: "/aggregate/authz/mapping", headers: alice, want: map[string]any{here: said(true, ""), there: said(true, ""), plain: said(false, "")}},
		"a slash at the end":                   {path: "/aggregate/authz/mapping/", headers: alice, want: map[string]any{here: said(true, ""), there: said(true, ""), plain: said(false, "")}},
		"none linked":                          {path: "/aggregate/user/user", headers: c.bearer("bob"), want: map[string]any{here: said(false, ""), there: said(false, ""), plain: said(false, "")}},
		"one linked":                           {path: "/aggregate/user/user", headers: c.bearer("carol"), want: map[string]any{here: said(true, ""), there: said(false, ""), plain: said(false, "")}},
		"three linked":                         {path: "/aggregate/user/user", headers: c.bearer("dave"), want: map[string]any{here: said(true, ""), there: said(true, ""), plain: said(true, "")}},
		"parameters, repeated, and no headers": {path: "/aggregate/user/user?tag=a&tag=b%26c", headers: append([]string{"X-Evil", "1"}, alice...), want: map[string]any{here: said(true, "a+b&c"), there: said(true, "a+b&c"), plain: said(false, "a+b&c")}},
		"filters":                              {path: "/aggregate/user/user?filters=authz&filters=tags&tag=x", headers: alice, want: each(map[string]any{"authz": authz, "tags": "x"})},
		"a filter that no answer has":          {path: "/aggregate/user/user?filters=authz&filters=zz", headers: alice, want: each(map[string]any{"authz": authz, "zz": nil})},
		"a list":                               {path: "/aggregate/list", headers: alice, want: each([]any{1.0, 2.0})},
		"a list with filters":                  {path: "/aggregate/list?filters=a", headers: alice, want: each(nil)},
		"no JSON":                              {path: "/aggregate/text", headers: alice, want: each(nil)},
		"too much":                             {path: "/aggregate/huge", headers: alice, want: each(nil)},
		"a redirect is not followed":           {path: "/aggregate/redirect", headers: alice, want: each(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, get(t, row.path, row.headers...)); diff != "" {
				t.Error(diff)
			}
		})
	}
	// Where the newest connection of a commons gives no token, an older one does; where none does, the commons
	// is asked without a token.
	for _, row := range []struct {
		broken string
		token  bool
	}{{"other-ras", true}, {"other-google", false}} {
		t.Run("broken: "+row.broken, func(t *testing.T) {
			c.sql(t, "UPDATE connections SET phase = 'broken' WHERE provider = '"+row.broken+"'")
			c.sql(t, "DELETE FROM refresh_token")
			c.broker.ForgetAll()
			wanted := map[string]any{here: said(true, ""), there: said(row.token, ""), plain: said(false, "")}
			if diff := cmp.Diff(wanted, get(t, "/aggregate/user/user", alice...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A commons that is slow costs its own answer, and no other caller's time.
func TestGen3AggregateWithASlowCommons(t *testing.T) {
	c := startCommons(t, func(c *commons) { c.env = append(c.env, "WTS_AGGREGATE__TIMEOUT=300ms") })
	slow := make(chan answer, 1)
	go func() { slow <- c.call(t, nil, http.MethodGet, "/aggregate/slow") }()
	began := time.Now()
	if got := c.call(t, nil, http.MethodGet, "/aggregate/user/user"); got.status != 200 || time.Since(began) > 250*time.Millisecond {
		t.Errorf("another caller: %d after %s", got.status, time.Since(began))
	}
	got := <-slow
	var body map[string]any
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatal(err)
	}
	if body[strings.TrimPrefix(c.other.BaseURL, "http://")] != nil || body[strings.TrimPrefix(c.fence.BaseURL, "http://")] == nil {
		t.Errorf("got %s", got.body)
	}
}
