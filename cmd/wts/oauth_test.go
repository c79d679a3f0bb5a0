package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// withOAuth has audiences whose API tokens are exchanged and introspected.
func withOAuth(c *config.Config) {
	withJWTs(c)
	files := c.Audiences["files"]
	files.Scopes, files.Secret = []string{"read", "write"}, siteSecret
	files.Access = []issuer.Access{{Everyone: true, Scopes: []string{"read"}}, {Users: []string{"alice"}}}
	c.Audiences["files"] = files
}

// form posts a form to an OAuth endpoint; names and values by turns.
func (r *replica) form(t *testing.T, path string, pairs ...string) answer {
	t.Helper()
	form := url.Values{}
	headers := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for i := 0; i < len(pairs); i += 2 {
		if name, ok := strings.CutPrefix(pairs[i], "header "); ok {
			headers = append(headers, name, pairs[i+1])
			continue
		}
		form.Add(pairs[i], pairs[i+1])
	}
	return r.sendJSON(t, nil, http.MethodPost, path, form.Encode(), headers...)
}

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessToken   = "urn:ietf:params:oauth:token-type:access_token"
)

func (r *replica) exchange(t *testing.T, subject string, pairs ...string) answer {
	t.Helper()
	return r.form(t, "/oauth2/token", append([]string{"grant_type", exchangeGrant, "subject_token", subject, "subject_token_type", accessToken}, pairs...)...)
}

// oauthError is an error of an OAuth endpoint.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	ConnectURL  string `json:"connect_url"`
}

func (a answer) oauthError() (e oauthError) {
	_ = json.Unmarshal([]byte(a.body), &e)
	return e
}

// An API token for wts is exchanged for a token of an audience or of a provider, by the rules of /token; one for another
// audience for a short token of that audience.
func TestTokenExchange(t *testing.T) {
	r := startReplica(t, withOAuth)
	alice := r.signedIn(t, "alice")
	r.logIn(t, alice, "/oauth2/authorization_url?idp=second", "alice")
	r.putResource(t, "plugin", "alice")
	full := r.makeToken(t, alice, `{"audience": "wts", "name": "all", "scopes": ["token", "provider:second"]}`)
	plain := r.makeToken(t, alice, personalToken)
	files := r.makeToken(t, alice, `{"audience": "files", "name": "n", "scopes": ["read", "write"]}`)
	signed := r.makeToken(t, alice, jwtToken)
	plugin := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "ci", "scopes": ["upload"]}`), 201)
	for name, row := range map[string]struct {
		subject  string
		pairs    []string
		audience string // of the JWT that comes back
		sub      string
		scope    string
	}{
		"for an audience":                  {plain.Token, []string{"audience", "storage", "scope", "read"}, "storage", "", "read"},
		"a short one for its own audience": {files.Token, nil, "files", "", "read write"},
		"with less":                        {files.Token, []string{"audience", "files", "scope", "read"}, "files", "", "read"},
		"a JWT for a short one":            {signed.Token, nil, "files", "", "read"},
		"a resource's":                     {plugin.Token, nil, "sites", "resource:plugin", "upload"},
	} {
		t.Run(name, func(t *testing.T) {
			got := decoded[map[string]any](t, r.exchange(t, row.subject, row.pairs...), 200)
			claims := jwtClaims(t, got["access_token"].(string))
			if got["issued_token_type"] != accessToken || got["token_type"] != "Bearer" || got["expires_in"] != 600.0 || got["scope"] != row.scope {
				t.Errorf("got %v; want a bearer token for ten minutes with %s", got, row.scope)
			}
			if claims["aud"] != row.audience || row.sub != "" && claims["sub"] != row.sub || claims["status"] != nil || claims["scope"] != row.scope {
				t.Errorf("got %v; want a short token for %s", claims, row.audience)
			}
		})
	}
	t.Run("for a provider", func(t *testing.T) {
		got := decoded[map[string]any](t, r.exchange(t, full.Token, "audience", "second"), 200)
		if got["access_token"] == "" || got["token_type"] != "Bearer" || got["expires_in"].(float64) <= 0 {
			t.Errorf("got %v; want the provider's token", got)
		}
	})
	for name, row := range map[string]struct {
		subject string
		pairs   []string
		code    string
		says    string
	}{
		"no token at all":                   {"", nil, "invalid_request", "subject_token is missing"},
		"garbage":                           {"garbage", []string{"audience", "storage"}, "invalid_request", ""},
		"a typo":                            {plain.Token[:len(plain.Token)-1] + "_", []string{"audience", "storage"}, "invalid_request", "a character is missing or wrong"},
		"another type":                      {plain.Token, []string{"subject_token_type", "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request", "sent more than once"},
		"an audience that is none":          {plain.Token, []string{"audience", "none"}, "invalid_target", "not registered"},
		"no audience":                       {plain.Token, nil, "invalid_request", "audience is missing"},
		"the provider without its scope":    {plain.Token, []string{"audience", "second"}, "invalid_scope", "does not hold the scope"},
		"a provider that is not connected":  {full.Token, []string{"audience", "first"}, "invalid_scope", "does not hold the scope"},
		"a scope that is none":              {plain.Token, []string{"audience", "storage", "scope", "root"}, "invalid_scope", ""},
		"a scope of the provider":           {full.Token, []string{"audience", "second", "scope", "openid"}, "invalid_scope", ""},
		"more than the API token has":       {signed.Token, []string{"scope", "write"}, "invalid_scope", ""},
		"another audience than the token's": {files.Token, []string{"audience", "storage"}, "invalid_target", "for another audience"},
		"delegation":                        {plain.Token, []string{"audience", "storage", "actor_token", "x"}, "invalid_request", "actor_token"},
		"a token type that is none of ours": {plain.Token, []string{"audience", "storage", "requested_token_type", "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request", "requested_token_type"},
		"a life that is none":               {plain.Token, []string{"audience", "storage", "expires", "x"}, "invalid_request", "expires"},
		"a resource, which is no parameter": {plain.Token, []string{"resource", "https://storage"}, "invalid_request", "name the audience"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.exchange(t, row.subject, row.pairs...)
			if e := got.oauthError(); got.status != 400 || e.Error != row.code || !strings.Contains(e.Description, row.says) {
				t.Errorf("got %d %s; want 400 %s, %s", got.status, got.body, row.code, row.says)
			}
			if got.header.Get("Cache-Control") != "no-store" || got.header.Get("WWW-Authenticate") != "" {
				t.Errorf("got %v; want no challenge, and nothing kept", got.header)
			}
		})
	}
	minted := decoded[map[string]any](t, r.exchange(t, plain.Token, "audience", "storage"), 200)["access_token"].(string)
	if got := r.exchange(t, minted, "audience", "storage"); got.status != 400 {
		t.Errorf("a minted token is exchanged: got %d %s; want 400", got.status, got.body)
	}
	for name, row := range map[string]struct {
		pairs []string
		code  string
	}{
		"no grant type":               {[]string{"audience", "storage"}, "invalid_request"},
		"another grant type":          {[]string{"grant_type", "password", "username", "alice"}, "unsupported_grant_type"},
		"client credentials":          {[]string{"grant_type", "client_credentials"}, "unsupported_grant_type"},
		"a parameter twice":           {[]string{"grant_type", exchangeGrant, "grant_type", exchangeGrant}, "invalid_request"},
		"JSON in the place of a form": {[]string{"header Content-Type", "application/json"}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.form(t, "/oauth2/token", row.pairs...); got.status != 400 || got.oauthError().Error != row.code {
				t.Errorf("got %d %s; want 400 %s", got.status, got.body, row.code)
			}
		})
	}
	// Parameters of the address do not count: they stand in logs.
	if got := r.form(t, "/oauth2/token?grant_type="+url.QueryEscape(exchangeGrant)+"&subject_token="+plain.Token+"&subject_token_type="+accessToken+"&audience=storage"); got.status != 400 {
		t.Errorf("in the address: got %d %s; want 400", got.status, got.body)
	}
}

// A bearer of the default provider never gets that provider's token, by whichever way it asks.
func TestABearerDoesNotRenewItself(t *testing.T) {
	r := startReplica(t, withOAuth, func(c *config.Config) { c.Authn.Bearer.Audiences = []string{"wts"} })
	alice := r.signedIn(t, "alice")
	r.logIn(t, alice, "/oauth2/authorization_url?idp=second", "alice")
	bearer := r.worker(t, "/token").member("token")
	for name, row := range map[string]struct {
		audience string
		status   int
		code     string
	}{
		"an audience":                        {"storage", 200, ""},
		"another provider":                   {"second", 200, ""},
		"the default provider":               {"first", 400, "invalid_target"},
		"the default one, by its empty name": {"", 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.exchange(t, bearer, "audience", row.audience); got.status != row.status || got.oauthError().Error != row.code {
				t.Errorf("got %d %s; want %d %s", got.status, got.body, row.status, row.code)
			}
		})
	}
}

// RFC 7662: a resource service learns of the tokens for its own audience alone.
func TestIntrospection(t *testing.T) {
	r := startReplica(t, withOAuth)
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice")
	opaque := r.makeToken(t, alice, `{"audience": "files", "name": "n", "scopes": ["read", "write"]}`)
	held := r.makeToken(t, alice, `{"audience": "files", "name": "n", "scopes": ["read"], "networks": ["192.0.2.0/24"]}`)
	signed := r.makeToken(t, alice, jwtToken)
	plugin := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, "/api/v1/resources/sites/plugin/tokens", `{"name": "ci", "description": "of the releases", "scopes": ["upload"], "expires_in": null}`), 201)
	minted := decoded[map[string]any](t, r.exchange(t, opaque.Token), 200)["access_token"].(string)
	other := decoded[map[string]any](t, r.exchange(t, r.makeToken(t, alice, personalToken).Token, "audience", "storage"), 200)["access_token"].(string)
	ask := func(client, token string, pairs ...string) answer {
		t.Helper()
		return r.form(t, "/oauth2/introspect", append([]string{"client_id", client, "client_secret", siteSecret, "token", token}, pairs...)...)
	}
	user, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		client, token string
		want          map[string]any
	}{
		"an opaque one": {"files", opaque.Token, map[string]any{"aud": "files", "sub": user.ID, "username": "alice", "scope": "read write", "jti": opaque.ID, "token_name": nil}},
		"a JWT":         {"files", signed.Token, map[string]any{"aud": "files", "sub": user.ID, "username": "alice", "scope": "read", "jti": signed.ID}},
		"a minted one":  {"files", minted, map[string]any{"aud": "files", "sub": user.ID, "username": "alice", "scope": "read write", "client_id": "api_token"}},
		"a resource's":  {"sites", plugin.Token, map[string]any{"aud": "sites", "sub": "resource:plugin", "resource": "plugin", "scope": "upload", "exp": nil, "token_name": "ci", "token_description": "of the releases"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decoded[map[string]any](t, ask(row.client, row.token), 200)
			if got["active"] != true || got["iss"] != r.url || got["token_type"] != "Bearer" {
				t.Errorf("got %v; want it active", got)
			}
			for member, want := range row.want {
				if got[member] != want {
					t.Errorf("%s is %v, want %v", member, got[member], want)
				}
			}
		})
	}
	for name, row := range map[string]struct {
		client, token string
	}{
		"another audience's opaque one": {"sites", opaque.Token},
		"another audience's JWT":        {"sites", signed.Token},
		"another audience's minted one": {"files", other},
		"garbage":                       {"files", "garbage"},
		"one of another issuer":         {"files", "eyJhbGciOiJFUzI1NiIsImtpZCI6IngiLCJ0eXAiOiJhdCtqd3QifQ.e30.c2ln"},
		"a typo":                        {"files", opaque.Token[:10] + "0" + opaque.Token[11:]},
		"one that is held to networks":  {"files", held.Token},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ask(row.client, row.token); got.status != 200 || got.body != "{\"active\":false}\n" {
				t.Errorf("got %d %s; want that it is not active, and no more", got.status, got.body)
			}
		})
	}
	t.Run("held to networks, and the service says who sent it", func(t *testing.T) {
		for address, active := range map[string]bool{"192.0.2.7": true, "192.0.3.7": false, "x": false} {
			if got := decoded[map[string]any](t, ask("files", held.Token, "client_ip", address), 200); got["active"] != active {
				t.Errorf("from %s: got %v; want active %t", address, got, active)
			}
		}
	})
	t.Run("by Basic", func(t *testing.T) {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url, nil)
		request.SetBasicAuth("files", url.QueryEscape(siteSecret))
		basic := []string{"header Authorization", request.Header.Get("Authorization")}
		if got := r.form(t, "/oauth2/introspect", append(basic, "token", opaque.Token)...); got.status != 200 || !strings.Contains(got.body, `"active":true`) {
			t.Errorf("got %d %s; want it active", got.status, got.body)
		}
		if got := r.form(t, "/oauth2/introspect", append(basic, "token", opaque.Token, "client_secret", siteSecret)...); got.status != 400 {
			t.Errorf("with two credentials: got %d %s; want 400", got.status, got.body)
		}
	})
	for name, pairs := range map[string][]string{
		"without credentials":          {"token", opaque.Token},
		"with another secret":          {"client_id", "files", "client_secret", "wrong", "token", opaque.Token},
		"an audience without a secret": {"client_id", "storage", "client_secret", "", "token", opaque.Token},
		"an audience that is none":     {"client_id", "none", "client_secret", siteSecret, "token", opaque.Token},
		"with the token as a bearer":   {"header Authorization", "Bearer " + opaque.Token, "token", opaque.Token},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.form(t, "/oauth2/introspect", pairs...)
			if got.status != 401 || got.oauthError().Error != "invalid_client" || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Basic") {
				t.Errorf("got %d %s; want 401 invalid_client", got.status, got.body)
			}
		})
	}
	t.Run("pkg/verifier", func(t *testing.T) {
		v, err := verifier.New(t.Context(), r.url, "files", verifier.WithIntrospection(r.url+"/oauth2/introspect", "files", siteSecret))
		if err != nil {
			t.Fatal(err)
		}
		claims, err := v.Verify(t.Context(), opaque.Token)
		if err != nil || claims.Username != "alice" || !claims.HasScopes("read", "write") || claims.Subject != user.ID {
			t.Errorf("got %+v, %v; want alice with read and write", claims, err)
		}
	})
	t.Run("revoked, or its user disabled", func(t *testing.T) {
		r.form(t, "/oauth2/revoke", "token", opaque.Token)
		if got := ask("files", opaque.Token); !strings.Contains(got.body, `"active":false`) {
			t.Errorf("revoked: got %s", got.body)
		}
		if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a minted token and a JWT of a disabled user are not active", func() bool {
			return strings.Contains(ask("files", minted).body, `"active":false`) && strings.Contains(ask("files", signed.Token).body, `"active":false`)
		})
		if got := ask("sites", plugin.Token); !strings.Contains(got.body, `"active":true`) {
			t.Errorf("the resource's: got %s; want it to go on", got.body)
		}
	})
}

// RFC 7009: who has an API token may end it; what is no token is no error.
func TestRevocation(t *testing.T) {
	r := startReplica(t, withOAuth)
	alice := r.signedIn(t, "alice")
	for name, body := range map[string]string{"opaque": personalToken, "a JWT": jwtToken} {
		t.Run(name, func(t *testing.T) {
			made := r.makeToken(t, alice, body)
			for range 2 {
				if got := r.form(t, "/oauth2/revoke", "token", made.Token, "token_type_hint", "access_token"); got.status != 200 {
					t.Errorf("got %d %s; want 200, once and again", got.status, got.body)
				}
			}
			if after := decoded[shown](t, r.sendJSON(t, alice, http.MethodGet, "/api/v1/tokens/"+made.ID, ""), 200); after.State != "revoked" || after.RevokedBy != "its own value" {
				t.Errorf("got %+v; want it revoked by its own value", after)
			}
		})
	}
	minted := decoded[map[string]any](t, r.exchange(t, r.makeToken(t, alice, personalToken).Token, "audience", "storage"), 200)["access_token"].(string)
	for name, row := range map[string]struct {
		token  string
		status int
		code   string
	}{
		"garbage":      {"garbage", 200, ""},
		"an old value": {"wtsp_nonsense", 200, ""},
		"a minted one": {minted, 400, "unsupported_token_type"},
		"none":         {"", 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.form(t, "/oauth2/revoke", "token", row.token); got.status != row.status || got.oauthError().Error != row.code {
				t.Errorf("got %d %s; want %d %s", got.status, got.body, row.status, row.code)
			}
		})
	}
}
