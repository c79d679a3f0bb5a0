package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

const (
	forbidden = "You don't have access to this resource: "
	unproven  = "Authentication Error: "
)

// Every row of the Gen3 contract's 1.2, as amended by 1.4. alice has linked the default provider; carol
// is in a pod and has linked nothing; 127.0.0.1 is no pod.
func TestGen3Answers(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	expired := c.fence.AccessToken("alice", func(claims map[string]any) { claims["exp"] = time.Now().Add(-time.Hour).Unix() })
	forged := c.other.AccessToken("alice", func(claims map[string]any) { claims["iss"] = c.fence.Issuer })
	foreign := c.other.AccessToken("alice", nil)
	identity := c.fence.AccessToken("alice", func(claims map[string]any) { claims["pur"] = "id" })
	unscoped := c.fence.AccessToken("alice", func(claims map[string]any) { claims["scope"] = []string{"user"} })
	bearer := func(token string) []string { return []string{"Authorization", "bearer " + token} }
	pod, podless, nobody := workerAt("127.0.0.2"), workerAt("127.0.0.5"), http.DefaultClient
	for name, row := range map[string]struct {
		caller  *http.Client
		path    string
		headers []string
		status  int
		message string // with "error:" before one that is not under "message"
	}{
		"no proof":                           {caller: nobody, path: "/token/", status: 403, message: forbidden + "You need to be authenticated to use this resource"},
		"no proof, bogus idp":                {caller: nobody, path: "/token/?idp=bogus", status: 403, message: forbidden + "You need to be authenticated to use this resource"},
		"no proof, bad expires":              {caller: nobody, path: "/token/?expires=abc", status: 403, message: forbidden + "You need to be authenticated to use this resource"},
		"pod without a row":                  {caller: podless, path: "/token/", status: 403, message: forbidden + "User doesn't have a refresh token"},
		"pod, bogus idp":                     {caller: pod, path: "/token/?idp=bogus", status: 400, message: `Requested IdP "bogus" is not configured`},
		"pod, empty idp":                     {caller: pod, path: "/token/?idp=", status: 400, message: `Requested IdP "" is not configured`},
		"pod, bad expires before bogus idp":  {caller: pod, path: "/token/?expires=abc&idp=bogus", status: 400, message: "error:expires has to be an integer"},
		"pod, negative expires":              {caller: pod, path: "/token/?expires=-1", status: 400, message: "error:expires has to be a positive number of seconds"},
		"pod, expires of zero":               {caller: pod, path: "/token/?expires=0", status: 400, message: "error:expires has to be a positive number of seconds"},
		"pod, empty expires":                 {caller: pod, path: "/token/?expires=", status: 200},
		"pod":                                {caller: pod, path: "/token/", status: 200},
		"pod, default by name":               {caller: pod, path: "/token/?idp=default", status: 200},
		"pod, no slash":                      {caller: pod, path: "/token", status: 200},
		"pod, many slashes":                  {caller: pod, path: "//token//", status: 200},
		"pod, somebody else's bearer":        {caller: pod, path: "/token/", headers: c.bearer("bob"), status: 200},
		"nobody's address, bearer":           {caller: nobody, path: "/token/", headers: c.bearer("alice"), status: 403, message: forbidden + "You need to be authenticated to use this resource"},
		"bearer, one segment":                {caller: pod, path: "/token/?idp=other-google", headers: bearer("nonsense"), status: 401, message: unproven + "Not enough segments"},
		"bearer, expired":                    {caller: pod, path: "/token/?idp=other-google", headers: bearer(expired), status: 401, message: unproven + "Signature has expired"},
		"bearer, forged":                     {caller: pod, path: "/token/?idp=other-google", headers: bearer(forged), status: 401, message: unproven + "Signature verification failed"},
		"bearer, an id_token":                {caller: pod, path: "/token/?idp=other-google", headers: bearer(identity), status: 401, message: unproven + "claims have incorrect purpose: expected access, got id"},
		"bearer, without openid":             {caller: pod, path: "/token/?idp=other-google", headers: bearer(unscoped), status: 401, message: unproven + "token is missing required scopes: {'openid'}"},
		"bearer, another issuer":             {caller: pod, path: "/token/?idp=other-google", headers: bearer(foreign), status: 401, message: unproven + "invalid issuer: the token is of another one than the default provider"},
		"bearer, unreadable":                 {caller: pod, path: "/token/?idp=other-google", headers: []string{"Authorization", "bearer"}, status: 401, message: unproven + "could not parse authorization header"},
		"bearer, not linked":                 {caller: nobody, path: "/token/?idp=other-google", headers: c.bearer("alice"), status: 403, message: forbidden + "User doesn't have a refresh token"},
		"connected, no header":               {caller: nobody, path: "/oauth2/connected", status: 401, message: unproven + "user is not logged in"},
		"connected, a pod without a header":  {caller: pod, path: "/oauth2/connected", status: 401, message: unproven + "user is not logged in"},
		"connected, bad header":              {caller: nobody, path: "/oauth2/connected", headers: bearer(expired), status: 401, message: unproven + "user is not logged in"},
		"connected, not linked":              {caller: nobody, path: "/oauth2/connected", headers: c.bearer("bob"), status: 403, message: forbidden + "user is not connected with token service or expired"},
		"connected, never seen":              {caller: nobody, path: "/oauth2/connected", headers: c.bearer("dave"), status: 403, message: forbidden + "user is not connected with token service or expired"},
		"connected":                          {caller: nobody, path: "/oauth2/connected", headers: c.bearer("alice"), status: 200},
		"connected, many slashes":            {caller: nobody, path: "//oauth2//connected", headers: c.bearer("alice"), status: 200},
		"connected, bogus idp":               {caller: nobody, path: "/oauth2/connected?idp=bogus", status: 400, message: `Requested IdP "bogus" is not configured`},
		"connected, another provider":        {caller: nobody, path: "/oauth2/connected?idp=other-google", headers: c.bearer("alice"), status: 403, message: forbidden + "user is not connected with token service or expired"},
		"connected, another Fence's token":   {caller: nobody, path: "/oauth2/connected?idp=other-google", headers: bearer(foreign), status: 401, message: unproven + "user is not logged in"},
		"redirect to a host":                 {caller: nobody, path: "/oauth2/authorization_url?redirect=https://evil.example", status: 400, message: "only support relative redirect"},
		"redirect to a host, without scheme": {caller: nobody, path: "/oauth2/authorization_url?redirect=//evil.example", status: 400, message: "only support relative redirect"},
		"authorize, no state":                {caller: nobody, path: "/oauth2/authorize?code=x", status: 403, message: forbidden + "could not authorize; state did not match across auth requests"},
		"authorize, another state":           {caller: nobody, path: "/oauth2/authorize?code=x&state=y", status: 403, message: forbidden + "could not authorize; state did not match across auth requests"},
		"aggregate, not in the list":         {caller: nobody, path: "/aggregate/secret", status: 404, message: "supplied endpoint is not configured in the Workspace Token Service aggregate endpoint allowlist"},
		"aggregate, bad header":              {caller: nobody, path: "/aggregate/authz/mapping", headers: bearer(expired), status: 401, message: unproven + "Signature has expired"},
		"external_oidc, bad header":          {caller: nobody, path: "/external_oidc", headers: bearer(expired), status: 200},
		"not found":                          {caller: nobody, path: "/nowhere", status: 404, message: "There is nothing at this address"},
		"connected with a slash":             {caller: nobody, path: "/oauth2/connected/", status: 404, message: "There is nothing at this address"},
		"status with a slash":                {caller: nobody, path: "/_status/", status: 404, message: "There is nothing at this address"},
		"oauth2":                             {caller: nobody, path: "/oauth2", status: 404, message: "There is nothing at this address"},
		"oauth2 with a slash":                {caller: nobody, path: "/oauth2/", status: 404, message: "There is nothing at this address"},
		"aggregate alone":                    {caller: nobody, path: "/aggregate", status: 404, message: "There is nothing at this address"},
		"aggregate with a slash":             {caller: nobody, path: "/aggregate/", status: 404, message: "There is nothing at this address"},
		"metrics":                            {caller: nobody, path: "/metrics", status: 404, message: "There is nothing at this address"},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.call(t, row.caller, http.MethodGet, row.path, row.headers...)
			member, want := "message", row.message
			if text, ok := strings.CutPrefix(row.message, "error:"); ok {
				member, want = "error", text
			}
			if got.status != row.status || got.member(member) != want {
				t.Errorf("got %d %s, want %d %q", got.status, got.body, row.status, row.message)
			}
			if head := c.call(t, row.caller, http.MethodHead, row.path, row.headers...); head.body != "" || head.status != row.status && !strings.HasPrefix(row.path, "/oauth2/authorize?") {
				t.Errorf("HEAD: %d %q", head.status, head.body)
			}
			if row.status == 200 && strings.Contains(row.path, "token") && (got.member("token") == "" || !strings.HasPrefix(got.body, `{"token":"`)) {
				t.Errorf("got %s", got.body)
			}
		})
	}
}

func TestGen3FixedAnswers(t *testing.T) {
	c := startCommons(t, nil)
	for path, want := range map[string]string{
		"/_status":          "Healthy",
		"/oauth2/connected": "",
		"/":                 `{"/.well-known/jwks.json":"keys that verify our tokens","/external_oidc":"list available identity providers","/oauth2":"oauth2 resources","/token":"get temporary token"}` + "\n",
	} {
		t.Run(path, func(t *testing.T) {
			if path == "/oauth2/connected" {
				c.link(t, "alice", "")
			}
			got := c.call(t, nil, http.MethodGet, path, c.bearer("alice")...)
			if got.status != 200 || got.body != want {
				t.Errorf("got %d %q; want 200 %q", got.status, got.body, want)
			}
			if html := strings.HasPrefix(got.header.Get("Content-Type"), "text/html"); html == (path == "/") {
				t.Errorf("got %s; want a page at / alone", got.header.Get("Content-Type"))
			}
		})
	}
	for _, path := range []string{"/_status", "/_version", "/", "/token", "/token/", "/external_oidc", "/external_oidc/", "/oauth2/connected", "/oauth2/authorization_url", "/oauth2/logout", "/aggregate/user/user"} {
		t.Run(path, func(t *testing.T) {
			if got := c.call(t, nil, http.MethodOptions, path); got.status != 200 || got.header.Get("Allow") != "OPTIONS, GET, HEAD" {
				t.Errorf("OPTIONS %s: %d %q", path, got.status, got.header.Get("Allow"))
			}
		})
	}
	if got := c.call(t, nil, http.MethodGet, "/_version"); got.status != 200 || !strings.HasPrefix(got.body, `{"commit":"`) {
		t.Errorf("version: %s", got.body)
	}
	if got := c.call(t, nil, http.MethodPost, "/external_oidc"); got.status != 405 || got.member("message") == "" {
		t.Errorf("another method: %d %s", got.status, got.body)
	}
	if got := c.call(t, nil, http.MethodGet, "/oauth2/logout"); got.status != 204 || got.body != "" {
		t.Errorf("logout: %d %s", got.status, got.body)
	}
}

// The authorization request of each kind of provider.
func TestGen3AuthorizationURLs(t *testing.T) {
	shared := "https://parent.example.org/wts-callback"
	c := startCommons(t, func(c *commons) {
		entry, _ := c.creds["external_oidc"].([]any)[0].(map[string]any)
		entry["redirect_uri"] = shared
		c.other.Register(providertest.Client{ID: "wts", Secret: "canary-client-secret", RedirectURI: shared})
	})
	for name, row := range map[string]struct {
		path, prefix, state string
		want                url.Values
	}{
		"default": {"/oauth2/authorization_url", c.fence.Issuer + "/oauth2/authorize?", "", url.Values{
			"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {c.portal + "/wts/oauth2/authorize"}, "scope": {"openid data user"},
		}},
		"empty idp": {"/oauth2/authorization_url?idp=&redirect=", c.fence.Issuer + "/oauth2/authorize?", "", url.Values{
			"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {c.portal + "/wts/oauth2/authorize"}, "scope": {"openid data user"},
		}},
		"login parameters and a shared redirect URI": {"/oauth2/authorization_url?idp=other-ras", c.other.Issuer + "/oauth2/authorize?", "localhost-", url.Values{
			"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {shared}, "scope": {"openid data user"}, "idp": {"fence"}, "fence_idp": {"shibboleth"},
		}},
		"any provider": {"/oauth2/authorization_url?idp=keycloak", c.plain.Issuer + "/oauth2/authorize?", "", url.Values{
			"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {c.portal + "/wts/oauth2/authorize"}, "scope": {"openid profile"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.link(t, "alice", "")
			got := c.call(t, nil, http.MethodGet, row.path, c.bearer("alice")...)
			query, ok := strings.CutPrefix(got.header.Get("Location"), row.prefix)
			if got.status != 302 || !ok {
				t.Fatalf("%d to %s: %s", got.status, got.header.Get("Location"), got.body)
			}
			values, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			if state := values.Get("state"); !strings.HasPrefix(state, row.state) || len(state) < 26+len(row.state) || strings.Contains(strings.TrimPrefix(state, row.state), "-") {
				t.Errorf("the state %q", state)
			}
			if values.Get("nonce") == "" || values.Get("code_challenge_method") != "S256" {
				t.Errorf("neither nonce nor PKCE: %s", query)
			}
			for _, ours := range []string{"state", "nonce", "code_challenge", "code_challenge_method"} {
				values.Del(ours)
			}
			if diff := cmp.Diff(row.want, values); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a callback answers that goes wrong after its state was found good.
func TestGen3FailedCallbacks(t *testing.T) {
	c := startCommons(t, nil)
	begin := func(t *testing.T, browser *http.Client, idp string) (state string) {
		t.Helper()
		still := *browser
		still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		page, err := providertest.Open(t.Context(), &still, c.portal+"/wts/oauth2/authorization_url?idp="+idp)
		if err != nil || page.Status != 302 {
			t.Fatalf("%d, %v: %s", page.Status, err, page.Body)
		}
		at, err := url.Parse(page.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		return at.Query().Get("state")
	}
	// The browser's cookies, without its Accept: a program reads JSON.
	callback := func(t *testing.T, browser *http.Client, query string) answer {
		t.Helper()
		return c.through(t, c.portal, &http.Client{Jar: browser.Jar}, http.MethodGet, "/wts/oauth2/authorize?"+query)
	}
	t.Run("the person said no", func(t *testing.T) {
		browser := c.portalUser(t, "alice")
		got := callback(t, browser, "error=access_denied&state="+begin(t, browser, ""))
		if got.status != 403 || got.member("message") != forbidden+"missing_code: Missing 'code' in response." {
			t.Errorf(`got %d %s; want 403, forbidden+"missing_code: Missing 'code' in response."`, got.status, got.body)
		}
	})
	t.Run("the code is refused", func(t *testing.T) {
		browser := c.portalUser(t, "alice")
		got := callback(t, browser, "code=spent&state="+begin(t, browser, ""))
		if got.status != 403 || !strings.HasPrefix(got.member("message"), forbidden+"invalid_grant: ") {
			t.Errorf(`got %d %s; want 403, a message that begins with invalid_grant`, got.status, got.body)
		}
	})
	t.Run("the provider fails", func(t *testing.T) {
		browser := c.portalUser(t, "alice")
		state := begin(t, browser, "")
		c.fence.Fail(&providertest.Fault{Times: 1, Status: 500, Body: "upstream-canary"})
		got := callback(t, browser, "code=any&state="+state)
		if got.status != 503 || got.header.Get("Retry-After") == "" || got.member("message") == "" || strings.Contains(got.body, "canary") {
			t.Errorf(`got %d %s; want 503, Retry-After, a message, no canary`, got.status, got.body)
		}
	})
	t.Run("nobody is signed in any more", func(t *testing.T) {
		browser := c.link(t, "alice", "")
		state := begin(t, browser, "other-google")
		at, _ := url.Parse(c.portal)
		browser.Jar.SetCookies(at, []*http.Cookie{{Name: "access_token", Path: "/", MaxAge: -1}, {Name: "wts", Path: "/", MaxAge: -1}})
		got := callback(t, browser, "code=any&state="+state)
		if got.status != 401 || got.member("message") != unproven+"no authorization header provided" {
			t.Errorf(`got %d %s; want 401, unproven+"no authorization header provided"`, got.status, got.body)
		}
	})
	t.Run("without a redirect", func(t *testing.T) {
		browser := c.portalUser(t, "alice")
		var back *url.URL
		browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
			if next.URL.Path == "/wts/oauth2/authorize" {
				back = next.URL
				return http.ErrUseLastResponse
			}
			return nil
		}
		if _, err := providertest.LogIn(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url", "alice", "canary-password"); err != nil {
			t.Fatal(err)
		}
		if got := callback(t, browser, back.RawQuery); got.status != 200 || got.member("success") != "connected with fence" {
			t.Errorf(`got %d %s; want 200, "connected with fence"`, got.status, got.body)
		}
	})
}

// A bearer that comes again costs no statement; and one whose user was disabled meanwhile is refused within seconds.
func TestABearerThatComesAgain(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	c.link(t, "alice", "other-google")
	path, headers := "/token/?idp=other-google", c.bearer("alice")
	if got := c.call(t, nil, http.MethodGet, path, headers...); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	fewest := int64(1000)
	for range 5 { // what runs beside may send one
		before := c.store.Statements()
		for range 20 {
			if got := c.call(t, nil, http.MethodGet, path, headers...); got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
		}
		fewest = min(fewest, c.store.Statements()-before)
	}
	if fewest > 0 {
		t.Errorf("20 bearers that were known sent %d statements", fewest)
	}
	if err := c.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the user is refused", func() bool { return c.call(t, nil, http.MethodGet, path, headers...).status == http.StatusForbidden })
	if err := c.store.Users.SetDisabled(t.Context(), "alice", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the user is served again", func() bool { return c.call(t, nil, http.MethodGet, path, headers...).status == http.StatusOK })
}
