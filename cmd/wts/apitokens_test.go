package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

const siteSecret = "canary-site-secret-of-the-audience"

// withTokens is a replica whose audiences allow API tokens: wts for tokens of wts itself, sites for those of resources.
func withTokens(c *config.Config) {
	c.Audiences = map[string]issuer.Audience{
		"storage": {Scopes: []string{"read", "write"}, Access: []issuer.Access{{Everyone: true, Scopes: []string{"read"}}, {Users: []string{"alice"}}}},
		"wts":     {Scopes: []string{"token", "provider:second"}, APITokens: issuer.APITokens{Personal: true}},
		"sites":   {Scopes: []string{"upload"}, Secret: secret.Text(siteSecret), APITokens: issuer.APITokens{Resource: true, Endless: true, MaxLifetime: 60 * 24 * time.Hour}},
		"closed":  {Scopes: []string{"read"}},
	}
	c.Issuer.Audiences = c.Audiences
	c.Admins = []string{"bob"}
}

// sendJSON sends JSON as a page of wts does.
func (r *replica) sendJSON(t *testing.T, client *http.Client, method, path, body string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{response.StatusCode, response.Header, string(text)}
	hold(t, method, path, body, got)
	return got
}

// shown is what the API says of a token.
type shown struct {
	ID, Kind, State, Audience, Resource, Name, Hint, Token string
	Scopes, Networks                                       []string
	ExpiresAt                                              *time.Time `json:"expires_at"`
	LastUsedAt                                             *time.Time `json:"last_used_at"`
	LastUsedFrom                                           string     `json:"last_used_from"`
	RevokedBy                                              string     `json:"revoked_by"`
}

func decoded[T any](t *testing.T, got answer, status int) (value T) {
	t.Helper()
	if got.status != status {
		t.Fatalf("got %d %s; want %d", got.status, got.body, status)
	}
	if err := json.Unmarshal([]byte(got.body), &value); err != nil {
		t.Fatalf("%s: %v", got.body, err)
	}
	return value
}

func (r *replica) signedIn(t *testing.T, name string) *http.Client {
	t.Helper()
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", name)
	return browser
}

func (r *replica) makeToken(t *testing.T, browser *http.Client, body string) shown {
	t.Helper()
	return decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens", body), http.StatusCreated)
}

func bearerOf(token string) []string { return []string{"Authorization", "Bearer " + token} }

const personalToken = `{"audience": "wts", "name": "laptop", "scopes": ["token"]}`

// A personal token from its making to its end: seen once, used as its user, revoked at once.
func TestAPersonalToken(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, `{"audience": "wts", "name": "laptop", "description": "of mine", "scopes": ["token"], "networks": ["127.0.0.0/8", "::1"], "expires_in": 3600}`)
	if !strings.HasPrefix(made.Token, "wtsp_") || made.State != "active" || made.Kind != "personal" || made.ExpiresAt == nil || time.Until(*made.ExpiresAt) > time.Hour {
		t.Fatalf("got %+v, want an active personal token for an hour", made)
	}
	listed := r.sendJSON(t, browser, http.MethodGet, "/api/v1/tokens", "")
	if strings.Contains(listed.body, made.Token) || !strings.Contains(listed.body, made.Token[len(made.Token)-4:]) || !strings.Contains(listed.body, made.ID) {
		t.Errorf("got %s; want the token's end, and not the token", listed.body)
	}
	got := r.call(t, nil, http.MethodGet, "/token?audience=storage&scope=read&expires=60", bearerOf(made.Token)...)
	if got.status != http.StatusOK {
		t.Fatalf("got %d %s; want a minted token", got.status, got.body)
	}
	claims := jwtClaims(t, got.member("token"))
	if claims["preferred_username"] != "alice" || claims["client_id"] != "api_token" || fmt.Sprint(claims["act"]) != "map[sub:token "+made.ID+"]" {
		t.Errorf("got the claims %v, want alice by an API token of that id", claims)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		self := decoded[shown](t, r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(made.Token)...), http.StatusOK)
		if self.LastUsedAt != nil && self.LastUsedFrom == "127.0.0.1" {
			break
		}
		r.apiTokens.ForgetAll()
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want when and from where it was used", self)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for name, path := range map[string]string{"a provider's token": "/token?idp=second", "the default provider's": "/token?idp=first"} {
		t.Run(name, func(t *testing.T) {
			if got := r.call(t, nil, http.MethodGet, path, bearerOf(made.Token)...); got.status != http.StatusForbidden || got.member("code") != "token_scope" {
				t.Errorf("got %d %s; want 403 token_scope", got.status, got.body)
			}
		})
	}
	if got := decoded[shown](t, r.sendJSON(t, browser, http.MethodDelete, "/api/v1/tokens/"+made.ID, ""), http.StatusOK); got.State != "revoked" || got.RevokedBy != "alice" {
		t.Errorf("got %+v, want it revoked by alice", got)
	}
	for _, path := range []string{"/token?audience=storage", "/api/v1/tokens/self"} {
		if got := r.call(t, nil, http.MethodGet, path, bearerOf(made.Token)...); got.status != http.StatusUnauthorized || !strings.Contains(got.body, "revoked") {
			t.Errorf("%s: got %d %s; want 401, revoked", path, got.status, got.body)
		}
	}
	if !strings.Contains(r.sendJSON(t, browser, http.MethodGet, "/api/v1/tokens?state=revoked", "").body, made.ID) {
		t.Error("the revoked token is not listed, want it seen")
	}
}

func TestWhoMayMakeAPersonalToken(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	for name, row := range map[string]struct {
		browser    *http.Client
		body       string
		headers    []string
		status     int
		code, says string
	}{
		"nobody":                       {body: personalToken, status: 403, code: "no_proof"},
		"an API token makes none":      {body: personalToken, headers: bearerOf(made.Token), status: 403, code: "no_proof"},
		"a page of another site":       {browser: alice, body: personalToken, headers: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, code: "crossing"},
		"a form of another site":       {browser: alice, body: personalToken, headers: []string{"Content-Type", "text/plain"}, status: 400, says: "Content-Type"},
		"an audience that is none":     {browser: alice, body: `{"audience": "x", "name": "n"}`, status: 400, code: "audience"},
		"an audience that allows none": {browser: alice, body: `{"audience": "closed", "name": "n"}`, status: 400, says: "no personal tokens"},
		"one for resources alone":      {browser: alice, body: `{"audience": "sites", "name": "n"}`, status: 400, says: "no personal tokens"},
		"a scope that is none":         {browser: alice, body: `{"audience": "wts", "name": "n", "scopes": ["root"]}`, status: 403, code: "scope"},
		"no name":                      {browser: alice, body: `{"audience": "wts", "name": " "}`, status: 400, says: "name is missing"},
		"a name that hides something":  {browser: alice, body: `{"audience": "wts", "name": "a\u202eb"}`, status: 400, says: "cannot be seen"},
		"a name that is too long":      {browser: alice, body: `{"audience": "wts", "name": "` + strings.Repeat("x", 101) + `"}`, status: 400, says: "longer than 100"},
		"no end":                       {browser: alice, body: `{"audience": "wts", "name": "n", "expires_in": null}`, status: 400, says: "has to have an end"},
		"a life in text":               {browser: alice, body: `{"audience": "wts", "name": "n", "expires_in": "1"}`, status: 400, says: "expires_in"},
		"a negative life":              {browser: alice, body: `{"audience": "wts", "name": "n", "expires_in": -1}`, status: 400, says: "expires_in"},
		"ten years":                    {browser: alice, body: `{"audience": "wts", "name": "n", "expires_in": 315360000}`, status: 400, says: "at most"},
		"a network that is none":       {browser: alice, body: `{"audience": "wts", "name": "n", "networks": ["10.0.0.0/33"]}`, status: 400, says: "networks"},
		"a member that is not known":   {browser: alice, body: `{"audience": "wts", "name": "n", "user": "bob"}`, status: 400, says: "not known"},
		"no JSON":                      {browser: alice, body: `audience=wts`, status: 400, says: "no JSON"},
		"two values":                   {browser: alice, body: personalToken + personalToken, status: 400, says: "more than one"},
		"somebody else":                {browser: bob, body: personalToken, status: 201},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.sendJSON(t, row.browser, http.MethodPost, "/api/v1/tokens", row.body, row.headers...)
			if got.status != row.status || row.code != "" && problemOf(got)["code"] != row.code || !strings.Contains(got.body, row.says) {
				t.Fatalf("got %d %s; want %d, %s %s", got.status, got.body, row.status, row.code, row.says)
			}
			if kind := got.header.Get("Content-Type"); row.status >= 400 && kind != "application/problem+json" {
				t.Errorf("got %s, want a problem", kind)
			}
		})
	}
	t.Run("a login of hours ago", func(t *testing.T) {
		execSQLite(t, r, "UPDATE sessions SET created_at = created_at - 3601000")
		r.authn.Forget()
		if got := r.sendJSON(t, alice, http.MethodPost, "/api/v1/tokens", personalToken); got.status != 403 || problemOf(got)["code"] != "step_up" || problemOf(got)["connect_url"] == nil {
			t.Errorf("got %d %s; want 403 step_up, and where to log in", got.status, got.body)
		}
		for _, path := range []string{"", "/" + made.ID + "/rotate"} {
			method := map[bool]string{true: http.MethodDelete, false: http.MethodPost}[path == ""]
			if got := r.sendJSON(t, alice, method, "/api/v1/tokens"+path, ""); got.status != 403 || problemOf(got)["code"] != "step_up" {
				t.Errorf("%s %s: got %d %s; want 403 step_up", method, path, got.status, got.body)
			}
		}
		if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/tokens", ""); got.status != 200 {
			t.Errorf("a list: got %d %s; want 200", got.status, got.body)
		}
		if got := r.sendJSON(t, alice, http.MethodDelete, "/api/v1/tokens/"+made.ID, ""); got.status != 200 {
			t.Errorf("revoking one: got %d %s; want 200, for it is urgent", got.status, got.body)
		}
	})
	t.Run("all at once", func(t *testing.T) {
		again := r.signedIn(t, "bob")
		r.makeToken(t, again, personalToken)
		if got := r.sendJSON(t, again, http.MethodDelete, "/api/v1/tokens", ""); got.status != 200 || !strings.Contains(got.body, `"revoked":2`) {
			t.Errorf("got %d %s; want bob's two tokens revoked", got.status, got.body)
		}
	})
}

func problemOf(got answer) (members map[string]any) {
	_ = json.Unmarshal([]byte(got.body), &members)
	return members
}

// Nobody sees or changes another's token, nor one under a resource's address that is not its own.
func TestAnothersToken(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	r.putResource(t, "plugin", "alice")
	r.putResource(t, "other", "alice")
	plugin := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "ci", "scopes": ["upload"]}`), http.StatusCreated)
	for name, row := range map[string]struct {
		browser *http.Client
		path    string
	}{
		"another's":                         {bob, "/api/v1/tokens/" + made.ID},
		"an id that is none":                {alice, "/api/v1/tokens/ABCDEF"},
		"a resource's, under another's":     {alice, "/api/v1/resources/sites/other/tokens/" + plugin.ID},
		"a resource's, under no resource":   {alice, "/api/v1/tokens/" + plugin.ID},
		"a personal one, under a resource":  {alice, "/api/v1/resources/sites/plugin/tokens/" + made.ID},
		"a resource's, of another audience": {alice, "/api/v1/resources/storage/plugin/tokens/" + plugin.ID},
	} {
		t.Run(name, func(t *testing.T) {
			for method, path := range map[string]string{http.MethodGet: "", http.MethodDelete: "", http.MethodPatch: "", http.MethodPost: "/rotate"} {
				body := ""
				if method == http.MethodPatch {
					body = `{"name": "taken"}`
				}
				if got := r.sendJSON(t, row.browser, method, row.path+path, body); got.status != 404 {
					t.Errorf("%s: got %d %s; want 404", method, got.status, got.body)
				}
			}
		})
	}
	for name, value := range map[string]string{"the personal one": made.Token, "the resource's": plugin.Token} {
		if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(value)...); got.status != 200 {
			t.Errorf("%s: got %d %s; want it untouched", name, got.status, got.body)
		}
	}
}

func (r *replica) putResource(t *testing.T, id string, maintainers ...string) {
	t.Helper()
	body, _ := json.Marshal(map[string]any{"name": "The " + id, "maintainers": append([]string{}, maintainers...)})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.url+"/api/v1/resources/sites/"+id, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("sites", siteSecret)
	got := r.sendJSON(t, nil, http.MethodPut, "/api/v1/resources/sites/"+id, string(body), "Authorization", request.Header.Get("Authorization"))
	if got.status != 200 {
		t.Fatalf("got %d %s; want the resource", got.status, got.body)
	}
}

// Rule B8.
func TestARotatedToken(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, personalToken)
	works := func(value string) bool {
		t.Helper()
		return r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(value)...).status == 200
	}
	rotated := decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+made.ID+"/rotate", `{"overlap": 2}`), 200)
	if rotated.ID != made.ID || rotated.Token == made.Token || !works(rotated.Token) || !works(made.Token) {
		t.Fatalf("inside the overlap: got %+v, new %t, old %t; want both to work", rotated, works(rotated.Token), works(made.Token))
	}
	self := decoded[shown](t, r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", `{"overlap": 3600}`, bearerOf(rotated.Token)...), 200)
	if !works(self.Token) || !works(rotated.Token) {
		t.Error("rotated by itself: one of the two does not work")
	}
	for deadline := time.Now().Add(10 * time.Second); works(made.Token); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first value works after its overlap")
		}
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 401 || !strings.Contains(got.body, "rotated") {
		t.Errorf("after the overlap: got %d %s; want 401 that says why", got.status, got.body)
	}
	if !strings.Contains(r.log.String(), "the API token was rotated") {
		t.Error("the log has no event of it")
	}
	// Who presents a value that has a successor, to rotate it, has a copy: all of them end.
	got := r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", "", bearerOf(rotated.Token)...)
	if got.status != 401 || works(self.Token) || works(rotated.Token) {
		t.Errorf("got %d %s, the newest works %t; want 401, and the family revoked", got.status, got.body, works(self.Token))
	}
	if after := decoded[shown](t, r.sendJSON(t, browser, http.MethodGet, "/api/v1/tokens/"+made.ID, ""), 200); after.State != "revoked" || after.RevokedBy != "wts" {
		t.Errorf("got %+v, want it revoked by wts", after)
	}
	for name, row := range map[string]struct{ id, body string }{
		"one that is revoked": {made.ID, ""}, "an overlap of a year": {r.makeToken(t, browser, personalToken).ID, `{"overlap": 31536000}`},
		"a negative overlap": {r.makeToken(t, browser, personalToken).ID, `{"overlap": -5}`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+row.id+"/rotate", row.body); got.status < 400 || got.status > 499 {
				t.Errorf("got %d %s; want a refusal", got.status, got.body)
			}
		})
	}
}

// What its user may do now is what a personal token may do; a resource's token lives on.
func TestATokenWhoseMakerIsShutOut(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	personal := r.makeToken(t, alice, personalToken)
	r.putResource(t, "plugin", "alice", "bob")
	plugin := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "ci", "scopes": ["upload"], "expires_in": null}`), http.StatusCreated)
	if plugin.ExpiresAt != nil || !strings.HasPrefix(plugin.Token, "wtsr_") {
		t.Errorf("got %+v, want a resource's token without an end", plugin)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(plugin.Token)...); got.status != 401 || !strings.Contains(got.body, "acts for no user") {
		t.Errorf("got %d %s; want 401: a resource's token acts for no user", got.status, got.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage&scope=write", bearerOf(personal.Token)...); got.status != 200 {
		t.Errorf("alice may write: got %d %s", got.status, got.body)
	}
	bobs := r.makeToken(t, bob, personalToken)
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage&scope=write", bearerOf(bobs.Token)...); got.status != 403 {
		t.Errorf("bob may not write: got %d %s; want 403", got.status, got.body)
	}
	if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(personal.Token)...); got.status == 403 && got.member("code") == "disabled" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("got %d %s; want alice's token refused within 5 s", got.status, got.body)
		}
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(plugin.Token)...); got.status != 200 {
		t.Errorf("the resource's token: got %d %s; want it to go on", got.status, got.body)
	}
	if got := r.sendJSON(t, bob, http.MethodDelete, "/api/v1/resources/sites/plugin/tokens/"+plugin.ID, ""); got.status != 200 {
		t.Errorf("bob, who maintains it too: got %d %s; want it revoked", got.status, got.body)
	}
}

func TestResources(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob") // bob is an admin
	basic := func(name, password string) []string {
		request, _ := http.NewRequest(http.MethodPut, r.url, nil)
		request.SetBasicAuth(name, password)
		return []string{"Authorization", request.Header.Get("Authorization")}
	}
	for name, row := range map[string]struct {
		path, body string
		headers    []string
		status     int
	}{
		"no credentials":               {"/api/v1/resources/sites/x", `{"name": "n"}`, nil, 401},
		"a wrong secret":               {"/api/v1/resources/sites/x", `{"name": "n"}`, basic("sites", "guess"), 401},
		"another audience's":           {"/api/v1/resources/storage/x", `{"name": "n"}`, basic("sites", siteSecret), 401},
		"an audience without a secret": {"/api/v1/resources/storage/x", `{"name": "n"}`, basic("storage", ""), 401},
		"an id with a blank":           {"/api/v1/resources/sites/x%20y", `{"name": "n"}`, basic("sites", siteSecret), 400},
		"no name":                      {"/api/v1/resources/sites/x", `{"maintainers": ["alice"]}`, basic("sites", siteSecret), 400},
		"too many maintainers":         {"/api/v1/resources/sites/x", `{"name": "n", "maintainers": [` + strings.Repeat(`"m",`, 50) + `"m"]}`, basic("sites", siteSecret), 400},
		"as it should be":              {"/api/v1/resources/sites/x", `{"name": "n"}`, basic("sites", siteSecret), 200},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.sendJSON(t, nil, http.MethodPut, row.path, row.body, row.headers...); got.status != row.status {
				t.Errorf("got %d %s; want %d", got.status, got.body, row.status)
			}
		})
	}
	r.putResource(t, "plugin", "alice", "carol")
	if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/resources", ""); !strings.Contains(got.body, `"plugin"`) || strings.Contains(got.body, `"x"`) {
		t.Errorf("alice's resources: got %s; want plugin alone", got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/resources?unmaintained=true", ""); got.status != 403 {
		t.Errorf("got %d %s; want the list of unmaintained ones for admins alone", got.status, got.body)
	}
	if got := r.sendJSON(t, bob, http.MethodGet, "/api/v1/resources?unmaintained=true", ""); got.status != 200 || !strings.Contains(got.body, `"x"`) || strings.Contains(got.body, `"plugin"`) {
		t.Errorf("got %d %s; want x, which nobody maintains", got.status, got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodPatch, "/api/v1/resources/sites/plugin", `{"maintainers": []}`); got.status != 400 {
		t.Errorf("got %d %s; want a maintainer not to leave it to nobody", got.status, got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodPatch, "/api/v1/resources/sites/plugin", `{"maintainers": ["carol"]}`); got.status != 200 {
		t.Errorf("passing it on: got %d %s", got.status, got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "n"}`); got.status != 403 {
		t.Errorf("after it was passed on: got %d %s; want 403", got.status, got.body)
	}
	if got := r.sendJSON(t, bob, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "n", "audience": "sites"}`); got.status != 201 {
		t.Errorf("an admin: got %d %s; want a token", got.status, got.body)
	}
}

// Who finds a token where it should not be has it revoked, and learns of no other.
func TestALeakedToken(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, personalToken)
	report := func(values ...string) answer {
		t.Helper()
		sent := []map[string]string{}
		for _, value := range values {
			sent = append(sent, map[string]string{"token": value, "type": "wts_personal", "url": "https://github.com/x/y/blob/main/.env"})
		}
		body, _ := json.Marshal(sent)
		return r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/leaked", string(body))
	}
	got := report("wtsp_nonsense", made.Token)
	verdicts := decoded[[]map[string]string](t, got, 200)
	if len(verdicts) != 2 || verdicts[0]["label"] != "false_positive" || verdicts[1]["label"] != "true_positive" || strings.Contains(got.body, made.Token) {
		t.Errorf("got %s; want one of each, and no token", got.body)
	}
	if after := decoded[shown](t, r.sendJSON(t, browser, http.MethodGet, "/api/v1/tokens/"+made.ID, ""), 200); after.State != "revoked" || after.RevokedBy != "a report" {
		t.Errorf("got %+v, want it revoked by a report", after)
	}
	if again := decoded[[]map[string]string](t, report(made.Token), 200); again[0]["label"] != "true_positive" {
		t.Errorf("once more: got %v, want it still called a token, as a scanner that asks again expects", again)
	}
	if !strings.Contains(r.log.String(), `"audit":"revoke token","outcome":"done","user_id":"`) {
		t.Error("no line of the audit says whose token was revoked")
	}
	// Whatever the place is called, the token is revoked, and so are those of the reports after it.
	other, third := r.makeToken(t, browser, personalToken), r.makeToken(t, browser, personalToken)
	places := strings.Repeat("a", 63) + "é"
	body, _ := json.Marshal([]map[string]string{{"token": other.Token, "url": places}, {"token": third.Token, "url": "nul \u0000 \xff"}})
	decoded[[]map[string]string](t, r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/leaked", string(body)), 200)
	for _, one := range []shown{other, third} {
		if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(one.Token)...); got.status != 401 {
			t.Errorf("after a report: got %d %s; want 401", got.status, got.body)
		}
	}
	// The value before the last, which is not accepted any more, says nothing of the one that is.
	first := r.makeToken(t, browser, personalToken)
	second := decoded[shown](t, r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", `{"overlap": 0}`, bearerOf(first.Token)...), 200)
	report(first.Token)
	if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(second.Token)...); got.status != 200 {
		t.Errorf("after the report of a value that had ended: got %d %s; want its token to go on", got.status, got.body)
	}
}

// What is revoked on one replica is refused by it at once, and by another within five seconds.
func TestATokenIsRevokedOnEveryReplica(t *testing.T) {
	database := pgtest.Database(t)
	change := func(c *config.Config) {
		withTokens(c)
		c.Database.URL = secret.Text(database)
	}
	one := startReplica(t, change)
	two := secondReplica(t, one)
	browser := one.signedIn(t, "alice")
	made := one.makeToken(t, browser, personalToken)
	for _, r := range []*replica{one, two} {
		if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 200 {
			t.Fatalf("got %d %s; want a token of each replica", got.status, got.body)
		}
	}
	began := time.Now()
	if got := one.sendJSON(t, browser, http.MethodDelete, "/api/v1/tokens/"+made.ID, ""); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	if got := one.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 401 {
		t.Errorf("the replica that revoked it: got %d, want 401 at once", got.status)
	}
	for two.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...).status != 401 {
		if time.Since(began) > 5*time.Second {
			t.Fatal("the other replica serves it after 5 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Nothing that was secret stands in the log or in the database.
func TestNoTokenIsKept(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, personalToken)
	rotated := decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+made.ID+"/rotate", ""), 200)
	minted := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(rotated.Token)...).member("token")
	r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", "", bearerOf(made.Token)...)
	r.putResource(t, "plugin", "alice")
	for _, canary := range []string{made.Token, rotated.Token, minted, siteSecret} {
		if canary == "" || strings.Contains(r.log.String(), canary) || strings.Contains(string(everyFile(t, r)), canary) {
			t.Errorf("%.5s…: stands in the log or in the database", canary)
		}
	}
	if !apitoken.Looks(made.Token) {
		t.Errorf("%q is no token", made.Token)
	}
}

func jwtClaims(t *testing.T, token string) (claims map[string]any) {
	t.Helper()
	if err := unverified.Claims(token, &claims); err != nil {
		t.Fatalf("%q: %v", token, err)
	}
	return claims
}

// secondReplica starts another replica on the first one's database.
func secondReplica(t *testing.T, first *replica) *replica {
	t.Helper()
	port := instance.FreePort(t)
	settings := first.config
	settings.Server.Listen = []string{fmt.Sprintf("127.0.0.1:%d", port)}
	second := &replica{url: fmt.Sprintf("http://localhost:%d", port), log: &syncBuffer{}, first: first.first, second: first.second}
	second.start(t, settings)
	return second
}

func databaseFile(r *replica) string {
	return strings.TrimPrefix(string(r.config.Database.URL), "sqlite:")
}

// execSQLite changes the replica's database behind its back.
func execSQLite(t *testing.T, r *replica, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", databaseFile(r)+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// everyFile is what stands in the files of the replica's database.
func everyFile(t *testing.T, r *replica) (all []byte) {
	t.Helper()
	files, err := filepath.Glob(databaseFile(r) + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("got the files %v, %v", files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	return all
}

// A token that is a JWT is verified offline, and refused within the status list's life once it has ended.
func TestATokenThatIsAJWT(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		withTokens(c)
		c.Audiences["plugins"] = issuer.Audience{
			Profile: issuer.ProfileResource, Algorithm: issuer.RS256, Scopes: []string{"upload"}, Secret: secret.Text(siteSecret),
			APITokens: issuer.APITokens{Personal: true, Resource: true, JWT: true, MaxLifetime: 300 * 24 * time.Hour},
		}
	})
	browser := r.signedIn(t, "alice")
	var ahead atomic.Int64
	v, err := verifier.New(t.Context(), r.url, "plugins", verifier.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }))
	if err != nil {
		t.Fatal(err)
	}
	later := func() { ahead.Add(int64(50 * time.Second)) } // beyond what a list says of its own life
	make := func(body string) shown { t.Helper(); return r.makeToken(t, browser, body) }
	const body = `{"audience": "plugins", "name": "ci", "format": "jwt", "scopes": ["upload"]}`
	personal := make(body)
	claims, err := v.Verify(t.Context(), personal.Token)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Username != "alice" || !claims.HasScopes("upload") || claims.ClientID != "api_token" || time.Until(claims.ExpiresAt) < 29*24*time.Hour {
		t.Errorf("got %+v, want alice with upload for a month", claims)
	}
	t.Run("what it is not good for", func(t *testing.T) {
		if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(personal.Token)...); got.status == 200 {
			t.Errorf("at /token: got %d", got.status)
		}
		for name, body := range map[string]string{
			"no end":                   `{"audience": "plugins", "name": "n", "format": "jwt", "expires_in": null}`,
			"networks":                 `{"audience": "plugins", "name": "n", "format": "jwt", "networks": ["10.0.0.0/8"]}`,
			"an audience without JWTs": `{"audience": "wts", "name": "n", "format": "jwt"}`,
			"a format that is none":    `{"audience": "plugins", "name": "n", "format": "paseto"}`,
		} {
			if got := r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens", body); got.status != 400 {
				t.Errorf("%s: got %d %s; want 400", name, got.status, got.body)
			}
		}
	})
	t.Run("revoked", func(t *testing.T) {
		other := make(body)
		if _, err := v.Verify(t.Context(), other.Token); err != nil {
			t.Fatal(err)
		}
		r.sendJSON(t, browser, http.MethodDelete, "/api/v1/tokens/"+personal.ID, "")
		time.Sleep(1100 * time.Millisecond) // a list is made at most once a second
		later()
		if _, err := v.Verify(t.Context(), personal.Token); !errors.Is(err, verifier.ErrRevoked) {
			t.Errorf("got %v, want ErrRevoked", err)
		}
		if _, err := v.Verify(t.Context(), other.Token); err != nil {
			t.Errorf("another token: got %v", err)
		}
	})
	t.Run("rotated without an overlap", func(t *testing.T) {
		first := make(body)
		second := decoded[shown](t, r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", `{"overlap": 0}`, bearerOf(first.Token)...), 200)
		time.Sleep(1100 * time.Millisecond)
		later()
		if _, err := v.Verify(t.Context(), first.Token); !errors.Is(err, verifier.ErrRevoked) {
			t.Errorf("the first value: got %v, want ErrRevoked", err)
		}
		if _, err := v.Verify(t.Context(), second.Token); err != nil {
			t.Errorf("the second: got %v", err)
		}
		if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(first.Token)...); got.status != 401 {
			t.Errorf("the first value, asked about: got %d; want 401", got.status)
		}
	})
	t.Run("wts is away", func(t *testing.T) {
		lasting := make(body)
		if _, err := v.Verify(t.Context(), lasting.Token); err != nil {
			t.Fatal(err)
		}
		r.stop()
		<-r.ended
		later()
		if _, err := v.Verify(t.Context(), lasting.Token); err != nil {
			t.Errorf("got %v, want the list at hand to go on", err)
		}
		ahead.Add(int64(2 * time.Hour))
		if _, err := v.Verify(t.Context(), lasting.Token); !errors.Is(err, verifier.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable once the list has ended", err)
		}
	})
}

func TestStatusListsAsTheyAreServed(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		withTokens(c)
		c.Audiences["wts"] = issuer.Audience{APITokens: issuer.APITokens{Personal: true, JWT: true}}
	})
	for name, path := range map[string]string{"before there is a token": "/status/0", "no number": "/status/x", "negative": "/status/-1", "too large": "/status/99999999999999999999"} {
		t.Run(name, func(t *testing.T) {
			if got := r.call(t, nil, http.MethodGet, path); got.status != 404 {
				t.Errorf("got %d %s; want 404", got.status, got.body)
			}
		})
	}
	browser := r.signedIn(t, "alice")
	r.makeToken(t, browser, `{"audience": "wts", "name": "ci", "format": "jwt"}`)
	got := r.call(t, nil, http.MethodGet, "/status/0")
	claims := jwtClaims(t, got.body)
	if got.status != 200 || got.header.Get("Content-Type") != "application/statuslist+jwt" || claims["sub"] != r.url+"/status/0" || claims["ttl"] != 45.0 {
		t.Fatalf("got %d %s with %v", got.status, got.header.Get("Content-Type"), claims)
	}
	if again := r.call(t, nil, http.MethodGet, "/status/0", "If-None-Match", got.header.Get("ETag")); again.status != 304 {
		t.Errorf("the same again: got %d, want 304", again.status)
	}
	if got := r.call(t, nil, http.MethodGet, "/status/1"); got.status != 404 {
		t.Errorf("a list that no token is in: got %d, want 404", got.status)
	}
}

// Rule F1: a caller has a share of each kind of request, and one that would be refused anyway is told why.
func TestEveryCallerHasAShare(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Server.RateLimits = map[string]float64{"token": 0.2, "mint": 0.2, "change": 0.3} // bursts of 2 and 3
		c.Authn.Workers = map[string]string{"127.0.0.2": "alice", "127.0.0.3": "bob", "127.0.0.4": "carol"}
	})
	alice := r.signedIn(t, "alice")
	r.signedIn(t, "bob")
	from := func(address, path string) answer {
		t.Helper()
		return r.call(t, workerAt(address), http.MethodGet, path)
	}
	for _, path := range []string{"/token", "/token?audience=storage"} {
		t.Run(path, func(t *testing.T) {
			for i, want := range []int{200, 200, 429} {
				got := from("127.0.0.2", path)
				if got.status != want {
					t.Fatalf("request %d: got %d %s; want %d", i, got.status, got.body, want)
				}
				if want == 429 && (got.header.Get("Retry-After") != "5" || got.member("code") != "too_many" || !strings.Contains(got.header.Get("RateLimit"), ";r=0;t=10")) {
					t.Errorf("got %v %s; want when to come again", got.header, got.body)
				}
			}
			if got := from("127.0.0.3", path); got.status != 200 {
				t.Errorf("bob: got %d %s; want a share of his own", got.status, got.body)
			}
		})
	}
	for name, row := range map[string]struct {
		address, path string
		code          string
	}{
		"a user without a connection": {"127.0.0.4", "/token", "not_connected"},
		"a scope that is none":        {"127.0.0.2", "/token?audience=storage&scope=root", "scope"},
		"an audience that is none":    {"127.0.0.2", "/token?audience=none", "bad_request"},
		"a provider that is none":     {"127.0.0.2", "/token?idp=none", "bad_request"},
		"a life that is none":         {"127.0.0.2", "/token?expires=x", "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				if got := from(row.address, row.path); got.status == 429 || got.member("code") != row.code {
					t.Fatalf("got %d %s; want %s, and never 429", got.status, got.body, row.code)
				}
			}
		})
	}
	t.Run("changes of the API", func(t *testing.T) {
		for i, want := range []int{201, 201, 201, 429} {
			got := r.sendJSON(t, alice, http.MethodPost, "/api/v1/tokens", personalToken)
			if got.status != want || got.header.Get("RateLimit") == "" || got.header.Get("RateLimit-Policy") != `"change";q=3;w=10` {
				t.Fatalf("request %d: got %d %v; want %d, and the share", i, got.status, got.header, want)
			}
		}
		if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/tokens", ""); got.status != 200 {
			t.Errorf("a list: got %d; want a share of its own", got.status)
		}
		login := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
		if login.Status != 200 {
			t.Errorf("a login: got %d; want it never kept back", login.Status)
		}
	})
	t.Run("a share comes back", func(t *testing.T) {
		for deadline := time.Now().Add(20 * time.Second); from("127.0.0.2", "/token").status != 200; time.Sleep(200 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it does not")
			}
		}
	})
}

// A group that was taken away at the provider takes effect at the next mint that is claims_max_age later, for a pod and
// for an API token alike; while the provider fails, what it said last counts for ride_through_max.
func TestAGroupThatIsTakenAway(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Audiences["storage"] = issuer.Audience{Scopes: []string{"write"}, Access: []issuer.Access{{Groups: []string{"curators"}}}}
		c.Broker.ClaimsMaxAge, c.Broker.RideThroughMax = 300*time.Millisecond, 3*time.Second
		first := c.Providers["first"]
		first.GroupsClaim = "groups"
		c.Providers["first"] = first
	})
	set := func(groups ...string) {
		r.first.SetUser(providertest.User{Name: "alice", Password: "canary-password", Groups: groups})
	}
	set("curators", "readers")
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, personalToken)
	const path = "/token?audience=storage&scope=write"
	ask := map[string]func() answer{
		"a worker":     func() answer { return r.worker(t, path) },
		"an API token": func() answer { return r.call(t, nil, http.MethodGet, path, bearerOf(made.Token)...) },
	}
	within := func(what string, status int) {
		t.Helper()
		for name, ask := range ask {
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				got := ask()
				if got.status == status {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s, %s: got %d %s; want %d", what, name, got.status, got.body, status)
				}
			}
		}
	}
	got := r.worker(t, path)
	if got.status != 200 || fmt.Sprint(jwtClaims(t, got.member("token"))["groups"]) != "[curators readers]" {
		t.Fatalf("got %d %s; want a token with the groups", got.status, got.body)
	}
	set("readers")
	within("taken away", 403)
	set("readers", "curators")
	within("given back", 200)
	r.first.Fail(&providertest.Fault{Down: true})
	time.Sleep(600 * time.Millisecond)
	if got := r.worker(t, path); got.status != 200 {
		t.Errorf("the provider is away: got %d %s; want what it said last", got.status, got.body)
	}
	time.Sleep(3 * time.Second)
	if got := r.worker(t, path); got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("for too long: got %d %s; want 503", got.status, got.body)
	}
}

// Where a grant has only run out by time, API tokens go on for the audience's max_unseen, and a worker does not.
func TestAGrantThatRanOut(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Audiences["strict"] = issuer.Audience{APITokens: issuer.APITokens{MaxUnseen: time.Hour}}
	})
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, personalToken)
	ranOut := func(ago time.Duration) {
		t.Helper()
		execSQLite(t, r, fmt.Sprintf("UPDATE connections SET refresh_expires_at = %d", time.Now().Add(-ago).UnixMilli()))
		r.broker.ForgetAll()
	}
	ask := func(audience string) answer {
		t.Helper()
		return r.call(t, nil, http.MethodGet, "/token?audience="+audience, bearerOf(made.Token)...)
	}
	ranOut(2 * time.Hour)
	if got := r.worker(t, "/token?audience=storage"); got.status != 403 || got.member("code") != "grant_expired" || got.member("connect_url") != r.url+"/oauth2/authorization_url" {
		t.Errorf("a worker: got %d %s; want 403, and where to log in", got.status, got.body)
	}
	if got := ask("storage"); got.status != 200 {
		t.Errorf("an API token within 90 days: got %d %s", got.status, got.body)
	}
	if got := ask("strict"); got.status != 403 {
		t.Errorf("an API token beyond an hour: got %d %s; want 403", got.status, got.body)
	}
	ranOut(40 * 24 * time.Hour)
	if err := r.store.Tidy(t.Context()); err != nil { // which deletes the tokens of the grant
		t.Fatal(err)
	}
	r.broker.ForgetAll()
	if got := ask("storage"); got.status != 200 {
		t.Errorf("after the janitor: got %d %s; want the API token to go on", got.status, got.body)
	}
	ranOut(91 * 24 * time.Hour)
	if got := ask("storage"); got.status != 403 {
		t.Errorf("beyond 90 days: got %d %s; want 403", got.status, got.body)
	}
}

// A grant that was disconnected ends an API token's use at once.
func TestADisconnectedUsersToken(t *testing.T) {
	r := startReplica(t, withTokens)
	made := r.makeToken(t, r.signedIn(t, "alice"), personalToken)
	user, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.broker.Disconnect(t.Context(), user.ID, "first"); err != nil {
		t.Fatal(err)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 403 || got.member("code") != "not_connected" {
		t.Errorf("got %d %s; want 403 not_connected", got.status, got.body)
	}
}

// Notices before a token ends: in the answers to it, and to a webhook, signed, once for each of 30, 7 and 1 days, and
// again where it was not taken.
func TestATokenIsToldThatItEnds(t *testing.T) {
	const key = "canary-webhook-secret"
	hook := startHook(t, key)
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Notices = apitoken.WebhookConfig{URL: hook.URL, Secret: key}
	})
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, `{"audience": "wts", "name": "laptop", "scopes": ["token"], "expires_in": 3456000}`) // 40 days
	r.putResource(t, "plugin", "alice", "bob")
	plugin := decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "ci", "expires_in": 5184000}`), 201)
	r.makeToken(t, browser, `{"audience": "wts", "name": "for an hour", "expires_in": 3600}`)
	passes := func(days int) {
		t.Helper()
		execSQLite(t, r, fmt.Sprintf("UPDATE api_tokens SET created_at = created_at - %d, expires_at = expires_at - %d", days*86400000, days*86400000))
		r.apiTokens.ForgetAll()
	}
	notified := func(what string, want ...string) {
		t.Helper()
		hook.told = nil
		err := r.apiTokens.Notify(t.Context())
		if hook.refuse.Load() != (err != nil) {
			t.Errorf("%s: got %v", what, err)
		}
		got := []string{}
		for _, notice := range hook.told {
			got = append(got, fmt.Sprintf("%v in %v", notice["name"], notice["days"]))
		}
		if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	notified("at first, and never of one that was made for an hour")
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.header.Get("Wts-Token-Expires") != "" {
		t.Errorf("40 days before: got %v", got.header)
	}
	passes(11)
	hook.refuse.Store(true)
	if err := r.apiTokens.Notify(t.Context()); err == nil {
		t.Error("the webhook is in trouble, and nothing says so")
	}
	hook.refuse.Store(false)
	notified("it is not asked again for a while")
	execSQLite(t, r, "UPDATE api_tokens SET notice_at = 0")
	notified("ten minutes later", "laptop in 30")
	notified("once is enough")
	for _, path := range []string{"/token?audience=storage", "/api/v1/tokens/self"} {
		if got := r.call(t, nil, http.MethodGet, path, bearerOf(made.Token)...); got.header.Get("Wts-Token-Expires") != made.ExpiresAt.AddDate(0, 0, -11).Format(time.RFC3339) {
			t.Errorf("%s, 29 days before: got %v, want when it ends", path, got.header)
		}
	}
	passes(23)
	notified("six days before its end, and 26 before the other's", "laptop in 7", "ci in 30")
	if len(hook.told) == 2 && fmt.Sprint(hook.told[1]["maintainers"]) != "[alice bob]" || len(hook.told) == 2 && hook.told[0]["user_id"] == nil {
		t.Errorf("got %v; want the owner, and the maintainers", hook.told)
	}
	r.sendJSON(t, browser, http.MethodDelete, "/api/v1/resources/sites/plugin/tokens/"+plugin.ID, "")
	passes(5)
	notified("a day before its end; the other was revoked", "laptop in 1")
	passes(2)
	notified("after its end")
	for _, secret := range []string{made.Token, plugin.Token, key} {
		if strings.Contains(r.log.String(), secret) || strings.Contains(fmt.Sprint(hook.told), secret) {
			t.Error("a secret stands in the log or in a notice")
		}
	}
}

// Who asks from an address that is no worker's is told so.
func TestAnAddressThatIsNoWorkers(t *testing.T) {
	r := startReplica(t, func(c *config.Config) { c.Authn.TrustedProxies = []string{"127.0.0.9"} })
	for address, want := range map[string]string{"127.0.0.7": "no pod or worker at 127.0.0.7", "127.0.0.9": "the request came through a proxy, so that no address says which worker it is from"} {
		t.Run(address, func(t *testing.T) {
			if got := r.call(t, workerAt(address), http.MethodGet, "/token"); got.status != 403 || got.member("code") != "no_proof" || got.member("detail") != want || got.member("request_id") == "" {
				t.Errorf("got %d %s; want 403 no_proof, %s", got.status, got.body, want)
			}
		})
	}
}
