package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

const (
	hubSecret   = "canary-secret-that-pephub-and-wts-share"
	hubCallback = "https://hub.example.org/login/callback"
	hubOrigin   = "https://hub.example.org"
)

// withHub serves the audience hub at /auth, whose secret is known.
func withHub(c *config.Config) {
	hub := issuer.Audience{Profile: issuer.ProfilePEPhub, SigningSecret: hubSecret, APITokens: issuer.APITokens{Personal: true, JWT: true}}
	c.Audiences = map[string]issuer.Audience{"hub": hub, "storage": {}}
	c.Issuer.Audiences = c.Audiences
	c.Grants.Auth = grant.AuthConfig{Audience: "hub", RedirectURIs: []string{hubCallback, "http://127.0.0.1:8000/callback"}, Origins: []string{hubOrigin}}
}

// signedByWTS has the hub verify with a published key, so that none but wts can sign its tokens.
func signedByWTS(c *config.Config) {
	hub := c.Audiences["hub"]
	hub.SigningSecret, hub.Algorithm = "", issuer.ES256
	c.Audiences["hub"] = hub
}

// stopping is a browser that follows no redirect away from the service and its provider, and keeps where it was to go.
func stopping(browser *http.Client, away *string) *http.Client {
	copied := *browser
	copied.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(next.URL.String(), hubOrigin) || next.URL.Path == "/auth/login/success" {
			*away = next.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	return &copied
}

// authCodeOf logs a person in at /auth/login, and returns the query with which the browser is sent to the client.
func (r *replica) authCodeOf(t *testing.T, name, query string) url.Values {
	t.Helper()
	var away string
	r.logIn(t, stopping(providertest.Browser(), &away), "/auth/login"+query, name)
	address, err := url.Parse(away)
	if err != nil || address.Query().Get("code") == "" {
		t.Fatalf("the login leads to %q, which has no code", away)
	}
	return address.Query()
}

// authRedeem trades a code as PEPhub's web application does.
func (r *replica) authRedeem(t *testing.T, code, more string) answer {
	t.Helper()
	return r.sendJSON(t, nil, http.MethodPost, "/auth/token", `{"code": "`+code+`"`+more+`}`)
}

const toHub = `?client_redirect_uri=https%3A%2F%2Fhub.example.org%2Flogin%2Fcallback`

// hubToken is a token of a login of a person.
func (r *replica) hubToken(t *testing.T, name string) string {
	t.Helper()
	got := r.authRedeem(t, r.authCodeOf(t, name, toHub).Get("code"), `, "client_redirect_uri": "`+hubCallback+`"`)
	return decoded[struct{ Token string }](t, got, http.StatusOK).Token
}

// authAs calls /auth with a token as PEPHubClient sends it: without a word before it.
func (r *replica) authAs(t *testing.T, token, method, path, body string) answer {
	t.Helper()
	return r.sendJSON(t, nil, method, path, body, "Authorization", token)
}

// detailOf is the text of an error of /auth.
func detailOf(got answer) string { return got.member("detail") }

type keysShown struct {
	Keys []struct{ Key, Expires string }
}

type keyMade struct {
	Key struct {
		Key       string
		CreatedAt string `json:"created_at"`
		Expires   string
	}
}

// PEPhub's login from the browser to the end of the session: GitHub's login and organisations in a token that PEPhub
// verifies with its secret, asked about, renewed with the groups of now, and ended.
func TestAuthLogin(t *testing.T) {
	r, hub := atGitHub(t, false, withHub)
	query := r.authCodeOf(t, "alice", toHub+"&client_finally_send_to=%2Fdatabio%2Fexample")
	if query.Get("client_finally_send_to") != "/databio/example" {
		t.Errorf("the client is sent %v", query)
	}
	got := r.authRedeem(t, query.Get("code"), `, "client_redirect_uri": "`+hubCallback+`", "client_finally_send_to": "/databio/example"`)
	made := decoded[struct {
		Token    string
		Redirect string `json:"client_redirect_uri"`
	}](t, got, http.StatusOK)
	if made.Redirect != hubCallback || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %s %v", got.body, got.header)
	}
	claims := jwtClaims(t, made.Token)
	if claims["login"] != "alice" || claims["id"] != 7.0 || claims["name"] != "Alice Zhao" || cmp.Diff([]any{"databio", "pepkit", "lab-3"}, claims["orgs"]) != "" {
		t.Errorf("the claims are %v", claims)
	}
	if life := claims["exp"].(float64) - claims["iat"].(float64); life != 3*24*3600 {
		t.Errorf("it lives for %v s, want three days", life)
	}
	if at := strings.LastIndexByte(made.Token, '.'); hs256(made.Token[:at], []byte(hubSecret)) != made.Token {
		t.Error("it is not signed with the secret")
	}
	for _, header := range []string{made.Token, "Bearer " + made.Token} {
		session := r.sendJSON(t, nil, http.MethodGet, "/auth/session", "", "Authorization", header)
		if said := decoded[map[string]any](t, session, http.StatusOK); said["login"] != "alice" || said["jti"] != claims["jti"] {
			t.Errorf("/auth/session says %v", said)
		}
	}
	hub.Change("alice", func(one *providertest.GitHubUser) { one.Organisations = []string{"pepkit"} })
	var renewed string
	eventually(t, "a renewed token has the groups of now", func() bool {
		token := made.Token
		if renewed != "" {
			token = renewed
		}
		renewed = decoded[struct{ Token string }](t, r.authAs(t, token, http.MethodPost, "/auth/renew", ""), http.StatusOK).Token
		return cmp.Diff([]any{"pepkit"}, jwtClaims(t, renewed)["orgs"]) == ""
	})
	if got := r.authAs(t, made.Token, http.MethodPost, "/auth/renew", ""); got.status != http.StatusConflict {
		t.Errorf("renewed by a token of the past: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, made.Token, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("the token before, which has not expired: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, renewed, http.MethodPost, "/auth/logout", ""); got.status != http.StatusOK {
		t.Fatalf("logout: %d %s", got.status, got.body)
	}
	for _, token := range []string{made.Token, renewed} {
		if got := r.authAs(t, token, http.MethodGet, "/auth/session", ""); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
			t.Errorf("after the logout: %d %s", got.status, got.body)
		}
	}
	if got := r.authAs(t, "nonsense", http.MethodGet, "/auth/session", ""); got.status != http.StatusUnauthorized || detailOf(got) != "Invalid token" {
		t.Errorf("nonsense: %d %s", got.status, got.body)
	}
	if log := r.log.String(); strings.Contains(log, made.Token) || strings.Contains(log, hubSecret) || strings.Contains(log, query.Get("code")) {
		t.Error("a token, the secret or a code is in the log")
	}
}

// A client without an address is sent to a page of ours, and a code is good for it alone.
func TestAuthWithoutAnAddress(t *testing.T) {
	r := startReplica(t, withHub)
	code := r.authCodeOf(t, "alice", "").Get("code")
	got := r.authRedeem(t, code, `, "client_redirect_uri": null`)
	if got.status != http.StatusOK || !strings.Contains(got.body, `"client_redirect_uri":null`) {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if page := r.see(t, nil, "/auth/login/success?code=x"); page.status != http.StatusOK || titleOf(page) != "Login successful" {
		t.Errorf("the page: %d %s", page.status, page.body)
	}
	challenge := challengeOf("verifier-verifier-verifier-verifier-verifier")
	pkce := r.authCodeOf(t, "alice", toHub+"&code_challenge_method=S256&code_challenge="+challenge).Get("code")
	if got := r.authRedeem(t, pkce, `, "client_redirect_uri": "`+hubCallback+`"`); got.status != http.StatusBadRequest {
		t.Errorf("without the verifier: %d %s", got.status, got.body)
	}
	pkce = r.authCodeOf(t, "alice", toHub+"&code_challenge_method=S256&code_challenge="+challenge).Get("code")
	if got := r.authRedeem(t, pkce, `, "client_redirect_uri": "`+hubCallback+`", "code_verifier": "verifier-verifier-verifier-verifier-verifier"`); got.status != http.StatusOK {
		t.Errorf("with the verifier: %d %s", got.status, got.body)
	}
}

// A script of the hub's own site reads the answers, and no other's.
func TestAuthCrossOrigin(t *testing.T) {
	r := startReplica(t, withHub)
	for origin, want := range map[string]string{hubOrigin: hubOrigin, "https://evil.example.org": "", "https://hub.example.org.evil": "", "null": ""} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			got := r.call(t, nil, method, "/auth/session", "Origin", origin, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization")
			if allowed := got.header.Get("Access-Control-Allow-Origin"); allowed != want || got.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %s: allowed is %q, want %q", method, origin, allowed, want)
			}
		}
	}
}

// Where no audience is served there, nothing is.
func TestAuthIsOff(t *testing.T) {
	r := startReplica(t)
	for _, path := range []string{"/auth/login", "/auth/session", "/auth/user/keys"} {
		if got := r.call(t, nil, http.MethodGet, path); got.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

// The logins of /auth are no client of the OAuth endpoints.
func TestAuthIsNoOAuthClient(t *testing.T) {
	r := startReplica(t, withHub)
	code := r.authCodeOf(t, "alice", toHub).Get("code")
	for name, got := range map[string]answer{
		"the code":  r.form(t, "/oauth2/token", "grant_type", "authorization_code", "client_id", grant.AuthClient, "code", code, "redirect_uri", hubCallback, "code_verifier", strings.Repeat("v", 43)),
		"a device":  r.form(t, "/oauth2/device_authorization", "client_id", grant.AuthClient),
		"a refresh": r.form(t, "/oauth2/token", "grant_type", "refresh_token", "client_id", grant.AuthClient, "refresh_token", "x"),
	} {
		if got.oauthError().Error != "invalid_client" && got.oauthError().Error != "unauthorized_client" {
			t.Errorf("%s: %d %s, want no such client", name, got.status, got.body)
		}
	}
	if got := r.call(t, r.signedIn(t, "alice"), http.MethodGet, "/oauth2/auth?"+wishOf(grant.AuthClient, hubCallback).Encode()); got.status != http.StatusBadRequest {
		t.Errorf("/oauth2/auth: %d %s", got.status, got.body)
	}
}

// A developer key acts as its user until it is revoked or has run out; an expired one says so.
func TestDeveloperKeys(t *testing.T) {
	r := startReplica(t, withHub)
	login := r.hubToken(t, "alice")
	got := r.authAs(t, login, http.MethodPost, "/auth/user/keys", "{}")
	made := decoded[keyMade](t, got, http.StatusOK).Key
	expires, err := time.Parse("2006-01-02T15:04:05.000000", made.Expires)
	if err != nil || time.Until(expires).Round(time.Hour) != 30*24*time.Hour || strings.HasSuffix(made.Expires, "Z") {
		t.Errorf("it expires at %q: %v", made.Expires, err)
	}
	if claims := jwtClaims(t, made.Key); claims["login"] != "alice" || claims["orgs"] == nil || claims["sid"] != nil {
		t.Errorf("its claims are %v", claims)
	}
	if got := r.authAs(t, made.Key, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("the key as a session: %d %s", got.status, got.body)
	}
	listed := decoded[keysShown](t, r.authAs(t, made.Key, http.MethodGet, "/auth/user/keys", ""), http.StatusOK).Keys
	if want := made.Key[:5] + "**********" + made.Key[len(made.Key)-5:]; len(listed) != 1 || listed[0].Key != want || listed[0].Expires != made.Expires {
		t.Errorf("listed: %v, want %s", listed, want)
	}
	r.later(t, "api_tokens", "expires_at", -31*24*time.Hour)
	if got := r.authAs(t, login, http.MethodGet, "/auth/user/keys", ""); strings.TrimSpace(got.body) != `{"keys":[]}` {
		t.Errorf("with an expired one: %d %s", got.status, got.body)
	}
}

// forged is a token as one can make it who knows the hub's secret.
func forged(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return hs256(encode([]byte(`{"alg":"HS256","typ":"JWT"}`))+"."+encode(payload), []byte(hubSecret))
}

// A service in another language asks about a namespace, and is answered by the groups of now.
func TestAuthzCheck(t *testing.T) {
	r, hub := atGitHub(t, false, withHub)
	alice, bob := r.hubToken(t, "alice"), r.hubToken(t, "bob")
	ask := func(token, body string) answer {
		t.Helper()
		headers := []string{}
		if token != "" {
			headers = []string{"Authorization", token}
		}
		return r.sendJSON(t, nil, http.MethodPost, "/authz/check", body, headers...)
	}
	key := decoded[keyMade](t, r.authAs(t, alice, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	expired := jwtClaims(t, alice)
	expired["exp"] = float64(time.Now().Add(-time.Minute).Unix())
	const edit, private = `{"namespace": "Databio", "action": "edit", "visibility": "public"}`, `{"namespace": "databio", "action": "read", "visibility": "private"}`
	for name, row := range map[string]struct {
		token, body string
		want        int
	}{
		"a member edits":                {alice, edit, 200},
		"a member reads":                {"Bearer " + alice, private, 200},
		"a member's key reads":          {key, private, 200},
		"one that the hub made up":      {forged(t, map[string]any{"iss": r.url, "audience": "hub", "sub": r.idOf(t, "alice"), "exp": float64(time.Now().Add(time.Hour).Unix())}), private, 404},
		"a worker's, as any of the hub": {r.worker(t, "/token/?audience=hub").member("token"), private, 404},
		"another edits":                 {bob, edit, 403},
		"another reads":                 {bob, private, 404},
		"no token edits":                {"", edit, 401},
		"no token reads":                {"", private, 404},
		"an expired token reads":        {forged(t, expired), private, 404},
		"nonsense edits":                {"nonsense", edit, 401},
		"her own namespace":             {alice, `{"namespace": "alice", "action": "submit"}`, 200},
		"public by default":             {"", `{"namespace": "databio", "action": "read"}`, 200},
		"nothing to delete":             {alice, `{"namespace": "databio", "action": "delete", "visibility": "missing"}`, 404},
		"no namespace":                  {alice, `{"action": "edit"}`, 400},
		"an action that there is not":   {alice, `{"namespace": "databio", "action": "rename"}`, 400},
		"no JSON":                       {alice, `x`, 400},
	} {
		if got := ask(row.token, row.body); got.status != row.want {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, row.want)
		}
	}
	hub.Change("alice", func(one *providertest.GitHubUser) { one.Organisations = nil })
	eventually(t, "she is out of it, although her token says otherwise", func() bool { return ask(alice, edit).status == http.StatusForbidden })
	r.authAs(t, alice, http.MethodPost, "/auth/logout", "")
	if got := ask(alice, edit); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
		t.Errorf("after the logout: %d %s", got.status, got.body)
	}
}

// Where none but wts can have signed a token, a worker's counts too.
func TestAuthzCheckOfAWorker(t *testing.T) {
	r := startReplica(t, withHub, signedByWTS)
	r.signedIn(t, "alice")
	token := r.worker(t, "/token/?audience=hub").member("token")
	got := r.sendJSON(t, nil, http.MethodPost, "/authz/check", `{"namespace": "ALICE", "action": "submit"}`, "Authorization", token)
	if got.status != http.StatusOK || got.member("login") != "alice" && !strings.Contains(got.body, `"login":"alice"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := r.authAs(t, token, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("its session: %d %s", got.status, got.body)
	}
}

// A person is sent on, in the end, to a page of the client's own sites, and nowhere else.
func TestWhereALoginEnds(t *testing.T) {
	r := startReplica(t, withHub)
	for address, want := range map[string]int{
		"/databio/example": 302, hubOrigin + "/databio": 302, hubOrigin: 302, "http://127.0.0.1:8000/x": 302,
		"javascript:alert(1)": 400, "https://evil.example.org/": 400, "//evil.example.org": 400, hubOrigin + ".evil.example.org/": 400, "http://127.0.0.1:8001/x": 400,
		"https://hub.example.org@evil.example.org/": 400, "http://hub.example.org/": 400, "data:text/html,x": 400, `https://hub.example.org\@evil.example.org/`: 400,
	} {
		got := r.call(t, nil, http.MethodGet, "/auth/login"+toHub+"&client_finally_send_to="+url.QueryEscape(address))
		if got.status != want {
			t.Errorf("%s: %d %s, want %d", address, got.status, got.body, want)
		}
	}
	for _, redirect := range []string{"http://127.0.0.1:8001/callback", "http://127.0.0.1/callback", "http://localhost:8000/callback"} {
		if got := r.call(t, nil, http.MethodGet, "/auth/login?client_redirect_uri="+url.QueryEscape(redirect)); got.status != http.StatusBadRequest {
			t.Errorf("a program at %s: %d %s", redirect, got.status, got.body)
		}
	}
	config := grant.Config{Auth: grant.AuthConfig{Audience: "hub", RedirectURIs: []string{"org.example.app:/back"}}}
	if err := config.Validate(func(string) bool { return true }); err == nil || !strings.Contains(err.Error(), "auth.redirect_uris[0]: want https") {
		t.Errorf("a scheme of one's own: %v", err)
	}
}
