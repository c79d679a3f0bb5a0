package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// withMoreClients has clients of each kind beside those of withClients.
func withMoreClients(c *config.Config) {
	withClients(c)
	files := c.Audiences["files"]
	files.Scopes = append(files.Scopes, "token", "api", "api:read", "api:create")
	files.Access = []issuer.Access{{Everyone: true, Scopes: []string{"read", "token", "api", "api:read", "api:create"}}, {Users: []string{"alice"}}}
	c.Audiences["files"] = files
	for name, client := range map[string]grant.Client{
		"short":  {Name: "Short", Audiences: []string{"wts"}},
		"gadget": {Name: "Gadget", Audiences: []string{"files"}, Device: true},
		"silent": {Name: "Silent", Audiences: []string{"files"}, Refresh: true, SkipConsent: true},
	} {
		client.RedirectURIs = []string{portalCallback}
		c.Grants.Clients[name] = client
	}
}

// letIn has a person let in a client, and returns what it gets.
func (r *replica) letIn(t *testing.T, browser *http.Client, client, scope string) granted {
	t.Helper()
	return decoded[granted](t, r.redeem(t, client, r.code(t, browser, wishOf(client, portalCallback, "scope", scope))), http.StatusOK)
}

// bearing asks with a token.
func (r *replica) bearing(t *testing.T, token, path string) answer {
	t.Helper()
	return r.sendJSON(t, nil, http.MethodGet, path, "", bearerOf(token)...)
}

// What a program's token is good for is what its scopes say, at every entrance, and nothing where it has none.
func TestScopesOfAProgram(t *testing.T) {
	r := startReplica(t, withMoreClients)
	alice := r.signedIn(t, "alice")
	none, reading := r.letIn(t, alice, "short", ""), r.letIn(t, alice, "short", "api:read")
	for name, got := range map[string]answer{
		"no scope, an audience":          r.bearing(t, none.AccessToken, "/token?audience=storage"),
		"no scope, a provider":           r.bearing(t, none.AccessToken, "/token?idp=second"),
		"no scope, the default provider": r.bearing(t, none.AccessToken, "/token?idp=first"),
		"no scope, the API":              r.bearing(t, none.AccessToken, "/api/v1/tokens"),
		"reading, an audience":           r.bearing(t, reading.AccessToken, "/token?audience=storage"),
		"reading, by exchange":           r.exchange(t, reading.AccessToken, "audience", "storage"),
		"reading, a provider's":          r.exchange(t, reading.AccessToken, "audience", "first"),
	} {
		if got.status == http.StatusOK || got.member("code") != "token_scope" {
			t.Errorf("%s: %d %s, want a refusal for want of a scope", name, got.status, got.body)
		}
	}
	// A service that is sent a program's token cannot use it here, whatever its scopes are called.
	sent := r.letIn(t, alice, "lasting", "api token api:create api:read")
	for _, path := range []string{"/api/v1/tokens", "/token?audience=storage", "/api/v1/sessions"} {
		if got := r.bearing(t, sent.AccessToken, path); got.status != http.StatusUnauthorized {
			t.Errorf("a token for another audience, at %s: %d %s, want 401", path, got.status, got.body)
		}
	}
	// One of no login, that a route passes over, hinders no session.
	portal := r.letIn(t, alice, "portal", "read")
	if got := r.call(t, alice, http.MethodGet, "/token?idp=first", bearerOf(portal.AccessToken)...); got.member("code") == "invalid_token" {
		t.Errorf("a session beside it: %d %s", got.status, got.body)
	}
	// It ends with its user.
	execSQLite(t, r, "UPDATE users SET disabled_at = 1 WHERE username = 'alice'")
	r.authn.Forget()
	if got := r.bearing(t, reading.AccessToken, "/api/v1/tokens"); got.status != http.StatusForbidden || got.member("code") != "disabled" {
		t.Errorf("of a user who is disabled: %d %s, want 403", got.status, got.body)
	}
}

// A client for wts without refresh has a login that ends with its token, and is listed and ended as others are.
func TestAShortLogin(t *testing.T) {
	r := startReplica(t, withMoreClients)
	alice := r.signedIn(t, "alice")
	short := r.letIn(t, alice, "short", "api:read")
	listed := func() (found []struct{ Client, ID, Agent, Address, EndsAt string }) {
		t.Helper()
		all := decoded[struct {
			Sessions []struct {
				Client, ID, Agent, Address string
				EndsAt                     string `json:"ends_at"`
			} `json:"sessions"`
		}](t, r.sendJSON(t, alice, http.MethodGet, "/api/v1/sessions", ""), http.StatusOK)
		for _, one := range all.Sessions {
			if one.Client != "" {
				found = append(found, struct{ Client, ID, Agent, Address, EndsAt string }{one.Client, one.ID, one.Agent, one.Address, one.EndsAt})
			}
		}
		return found
	}
	all := listed()
	if len(all) != 1 || short.RefreshToken != "" {
		t.Fatalf("got %+v and %+v, want one login, and no refresh token", all, short)
	}
	if ends, err := time.Parse(time.RFC3339, all[0].EndsAt); err != nil || time.Until(ends) > time.Duration(short.ExpiresIn+1)*time.Second {
		t.Errorf("it ends at %s, %v; want with its token, in %d s", all[0].EndsAt, err, short.ExpiresIn)
	}
	if got := r.bearing(t, short.AccessToken, "/api/v1/tokens"); got.status != http.StatusOK {
		t.Errorf("its token: %d %s", got.status, got.body)
	}
	// A login that was not used for a day is listed still, and one whose end has come has no token.
	r.later(t, "sessions", "seen_at", -24*time.Hour)
	alice = r.signedIn(t, "alice")
	if len(listed()) != 1 {
		t.Error("a login that was not used for a day is not listed")
	}
	r.later(t, "sessions", "ends_at", -time.Duration(short.ExpiresIn)*time.Second)
	if got := r.bearing(t, short.AccessToken, "/api/v1/tokens"); got.status != http.StatusUnauthorized {
		t.Errorf("after the login's end: %d %s, want 401", got.status, got.body)
	}

	// Of a device, it is said which one.
	alice = r.signedIn(t, "alice")
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read", "header User-Agent", "cluster"), http.StatusOK)
	r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...), "allow")
	decoded[granted](t, r.poll(t, "lasting", shown.DeviceCode), http.StatusOK)
	found := fmt.Sprint(listed())
	if !strings.Contains(found, "cluster") || !strings.Contains(found, "127.0.0.1") {
		t.Errorf("got %s, want what the device calls itself, and its address", found)
	}
}

// What lasts wants a login of the last hour, at each step; and a program's login is as old as its person's (rule C6).
func TestOldSessionsLetNoProgramIn(t *testing.T) {
	r := startReplica(t, withMoreClients)
	isLogin := func(name string, got answer) {
		t.Helper()
		if got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/oauth2/authorization_url?") {
			t.Errorf("%s: %d to %q, want a login", name, got.status, got.header.Get("Location"))
		}
	}
	alice := r.signedIn(t, "alice")
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
	asked := map[string]answer{
		"lasting": r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("lasting", portalCallback).Encode(), page...),
		"short":   r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("short", portalCallback, "scope", "token").Encode(), page...),
		"device":  r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...),
	}
	if got := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/", "prompt", "consent").Encode(), page...); got.status != http.StatusOK {
		t.Errorf("prompt=consent: %d, want the question", got.status)
	}
	r.later(t, "sessions", "created_at", -2*time.Minute)
	isLogin("prompt=login", r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/", "prompt", "login").Encode(), page...))
	r.later(t, "sessions", "created_at", -48*time.Minute)

	// As old as its person's: by code and by device, and after a refresh.
	wantAge := func(name, token string) {
		t.Helper()
		var claims struct {
			At int64 `json:"auth_time"`
		}
		if err := unverified.Claims(token, &claims); err != nil || time.Since(time.Unix(claims.At, 0)).Round(time.Minute) != 50*time.Minute {
			t.Errorf("%s: auth_time is %v ago, %v; want 50 min", name, time.Since(time.Unix(claims.At, 0)), err)
		}
	}
	login := r.letIn(t, alice, "lasting", "read")
	wantAge("a code", login.AccessToken)
	login = decoded[granted](t, r.refreshWith(t, "lasting", login.RefreshToken), http.StatusOK)
	wantAge("a refresh", login.AccessToken)
	second := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
	r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+second.UserCode, page...), "allow")
	device := decoded[granted](t, r.poll(t, "lasting", second.DeviceCode), http.StatusOK)
	wantAge("a device", device.AccessToken)
	wantAge("a device's refresh", decoded[granted](t, r.refreshWith(t, "lasting", device.RefreshToken), http.StatusOK).AccessToken)

	r.later(t, "sessions", "created_at", -20*time.Minute)
	for name, page := range asked {
		isLogin(name+", a form of before", r.decide(t, alice, page, "allow"))
	}
	isLogin("a silent client that lasts", r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("silent", portalCallback).Encode(), page...))
	isLogin("tokens of wts itself", r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("short", portalCallback, "scope", "token").Encode(), page...))
}

// What a person may not have, their word gives no program, whatever the form says.
func TestAPersonGivesNoMoreThanTheyMay(t *testing.T) {
	r := startReplica(t, withMoreClients)
	bob := r.signedIn(t, "bob")
	asked := r.call(t, bob, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback).Encode(), page...)
	if back := backOf(t, r.decide(t, bob, asked, "allow", "field scope", "write")); back.Get("error") != "access_denied" || back.Get("code") != "" {
		t.Errorf("got %v, want access_denied", back)
	}
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "write"), http.StatusOK)
	asked = r.call(t, bob, http.MethodGet, "/device?user_code="+shown.UserCode, page...)
	if got := r.decide(t, bob, asked, "allow"); got.status != http.StatusForbidden {
		t.Errorf("a device: %d %s, want 403", got.status, got.body)
	}
	if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "authorization_pending" {
		t.Errorf("the device: %s, want that it waits", got.body)
	}
}

// A device code that was allowed is good for its ten minutes, once; and no page of another site says yes.
func TestADeviceThatWasAllowed(t *testing.T) {
	r := startReplica(t, withMoreClients)
	alice := r.signedIn(t, "alice")
	allowed := func(client string) deviceBegun {
		t.Helper()
		shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", client, "scope", "read"), http.StatusOK)
		asked := r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...)
		bare := &http.Client{Jar: alice.Jar}
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example.org"}} {
			if got := r.decide(t, bare, asked, "allow", header...); got.status != http.StatusForbidden {
				t.Errorf("%v: %d %s, want 403", header, got.status, got.body)
			}
		}
		r.decide(t, alice, asked, "allow")
		return shown
	}
	for _, client := range []string{"lasting", "gadget"} { // with and without a login that goes on
		shown := allowed(client)
		var good atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if r.poll(t, client, shown.DeviceCode).status == http.StatusOK {
					good.Add(1)
				}
			})
		}
		all.Wait()
		if good.Load() != 1 {
			t.Errorf("%s: %d got tokens for one device code, want 1", client, good.Load())
		}
	}
	shown := allowed("lasting")
	r.later(t, "authorizations", "expires_at", -11*time.Minute)
	if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "expired_token" {
		t.Errorf("eleven minutes later: %d %s, want expired_token", got.status, got.body)
	}
}

// A login does what its person and its client may on the day.
func TestALoginThatMayLess(t *testing.T) {
	database := pgtest.Database(t)
	r := startReplica(t, withMoreClients, func(c *config.Config) { c.Database.URL = secret.Text(database) })
	alice := r.signedIn(t, "alice")
	again := func(change func(c *config.Config)) *replica {
		t.Helper()
		return startReplica(t, withMoreClients, func(c *config.Config) {
			c.Database.URL, c.Keys = secret.Text(database), r.config.Keys
			change(c)
		})
	}
	less := again(func(c *config.Config) {
		files := c.Audiences["files"]
		files.Access = []issuer.Access{{Everyone: true, Scopes: []string{"read"}}}
		c.Audiences["files"] = files
	})
	ended := again(func(c *config.Config) {
		client := c.Grants.Clients["lasting"]
		client.Refresh = false
		c.Grants.Clients["lasting"] = client
	})
	login := r.letIn(t, alice, "lasting", "read write")
	if got := ended.refreshWith(t, "lasting", login.RefreshToken); got.oauthError().Error != "invalid_grant" {
		t.Errorf("a client that may not refresh any more: %d %s, want invalid_grant", got.status, got.body)
	}
	narrowed := decoded[granted](t, less.refreshWith(t, "lasting", login.RefreshToken), http.StatusOK)
	if narrowed.Scope != "read" {
		t.Errorf("a person who may less: got %q, want read", narrowed.Scope)
	}
	r.call(t, alice, http.MethodPost, "/oauth2/logout?idp=first")
	eventually(t, "who disconnected has no program that goes on", func() bool {
		return r.refreshWith(t, "lasting", narrowed.RefreshToken).oauthError().Error == "invalid_grant"
	})
}

// What is sent twice is refused, a registered query is kept, and HTTP Basic with a secret is no public client.
func TestHowProgramsAsk(t *testing.T) {
	r := startReplica(t, withMoreClients)
	alice := r.signedIn(t, "alice")
	for _, name := range []string{"client_id", "redirect_uri", "scope", "code_challenge", "state"} {
		wish := wishOf("portal", portalCallback)
		wish.Add(name, "another")
		if got := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wish.Encode(), page...); got.status != http.StatusBadRequest {
			t.Errorf("%s twice: %d, want 400", name, got.status)
		}
	}
	asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", "https://portal.example.org/two?x=1").Encode(), page...)
	if back := backOf(t, r.decide(t, alice, asked, "allow")); back.Get("x") != "1" || back.Get("code") == "" {
		t.Errorf("got %v, want the registered query too", back)
	}
	code := r.code(t, alice, wishOf("portal", portalCallback))
	redeem := func(secret string) answer {
		return r.form(t, "/oauth2/token", "grant_type", "authorization_code", "code", code, "redirect_uri", portalCallback, "code_verifier", codeVerifier,
			"header Authorization", basicOf("portal", secret))
	}
	if got := redeem("x"); got.oauthError().Error != "invalid_client" {
		t.Errorf("HTTP Basic with a secret: %d %s, want invalid_client", got.status, got.body)
	}
	if got := redeem(""); got.status != http.StatusOK {
		t.Errorf("HTTP Basic without one: %d %s", got.status, got.body)
	}
}

func basicOf(name, secret string) string {
	request, _ := http.NewRequest(http.MethodGet, "/", nil)
	request.SetBasicAuth(name, secret)
	return request.Header.Get("Authorization")
}

// Guesses are limited.
func TestGuessesAreLimited(t *testing.T) {
	for name, ask := range map[string]func(r *replica, alice *http.Client) answer{
		"user codes, seen": func(r *replica, alice *http.Client) answer {
			return r.call(t, alice, http.MethodGet, "/device?user_code=BCDF-GHJK", page...)
		},
		"user codes, decided": func(r *replica, alice *http.Client) answer {
			return r.sendJSON(t, alice, http.MethodPost, "/device", url.Values{"user_code": {"BCDF-GHJK"}, "decision": {"allow"}, "for": {r.idOf(t, "alice")}}.Encode(),
				"Content-Type", "application/x-www-form-urlencoded")
		},
		"codes":      func(r *replica, _ *http.Client) answer { return r.redeem(t, "portal", "AAAA") },
		"revocation": func(r *replica, _ *http.Client) answer { return r.form(t, "/oauth2/revoke", "token", "wtsl_x") },
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, withMoreClients, func(c *config.Config) { c.Server.RateLimits = map[string]float64{"mint": 2} })
			alice := r.signedIn(t, "alice")
			for range 60 {
				if ask(r, alice).status == http.StatusTooManyRequests {
					return
				}
			}
			t.Error("sixty at once: want 429")
		})
	}
}

// idOf is the id of a user who has logged in.
func (r *replica) idOf(t *testing.T, username string) string {
	t.Helper()
	user, err := r.store.Users.UserByName(t.Context(), username)
	if err != nil {
		t.Fatal(err)
	}
	return user.ID
}

// The audit says of each step which program it was, whose, and by which login.
func TestTheAuditOfPrograms(t *testing.T) {
	r := startReplica(t, withMoreClients, func(c *config.Config) {
		c.Server.RateLimits = map[string]float64{"read": 1000, "change": 1000}
		c.Authn.TrustedProxies = []string{"127.0.0.9"}
	})
	alice := r.signedIn(t, "alice")
	login := r.letIn(t, alice, "lasting", "read")
	var claims struct {
		ID string `json:"jti"`
	}
	if err := unverified.Claims(login.AccessToken, &claims); err != nil {
		t.Fatal(err)
	}
	asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback).Encode(), page...)
	r.decide(t, alice, asked, "deny")
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
	r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...), "allow")
	r.form(t, "/oauth2/revoke", "token", login.RefreshToken)
	r.call(t, workerAt("127.0.0.9"), http.MethodGet, "/api/v1/sessions", "X-Forwarded-For", "203.0.113.7", "Cookie", cookieOf(t, r, alice))
	eventually(t, "what programs did is in the audit", func() bool {
		seen := decoded[eventsSeen](t, r.sendJSON(t, alice, http.MethodGet, "/api/v1/events", ""), http.StatusOK)
		found := map[string]bool{}
		for _, one := range seen.Events {
			found["mint"] = found["mint"] || one.Action == "mint" && one.Client == "lasting" && one.Token == claims.ID && strings.HasPrefix(one.Actor, "login ") && one.Audience == "files"
			found["deny"] = found["deny"] || one.Action == "allow" && one.Client == "portal" && one.Outcome == "refused"
			found["allow"] = found["allow"] || one.Action == "allow" && one.Client == "lasting" && one.Outcome == "done" && one.Audience == "files"
			found["end"] = found["end"] || one.Action == "end session" && one.Client == "lasting" && strings.HasPrefix(one.Actor, "login ")
			found["proxied"] = found["proxied"] || one.Action == "list sessions" && one.Address == "203.0.113.7"
		}
		return found["mint"] && found["deny"] && found["allow"] && found["end"] && found["proxied"]
	})
}

// cookieOf is a browser's cookie of the session.
func cookieOf(t *testing.T, r *replica, browser *http.Client) string {
	t.Helper()
	address, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range browser.Jar.Cookies(address) {
		if cookie.Name == "wts" {
			return cookie.Name + "=" + cookie.Value
		}
	}
	t.Fatal("the browser has no session")
	return ""
}
