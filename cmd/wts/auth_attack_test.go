package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Attacks on the logins at /auth that no lesson is about yet.

// A client that proves itself with PKCE takes no code that was asked for without it: such a code is one that another person
// asked for, and put into this client's way (RFC 9700 4.8.2).
func TestAuthTakesNoVerifierForACodeWithoutAChallenge(t *testing.T) {
	r := startReplica(t, withHub)
	code := r.authCodeOf(t, "alice", toHub).Get("code")
	got := r.authRedeem(t, code, `, "client_redirect_uri": "`+hubCallback+`", "code_verifier": "verifier-verifier-verifier-verifier-verifier"`)
	if got.status != http.StatusBadRequest || detailOf(got) != "Invalid authorization code." {
		t.Errorf("a code without a challenge, with a verifier: %d %s", got.status, got.body)
	}
}

// A login begins in the window itself alone, so that no page can begin one unseen (rule A1).
func TestAuthLoginsBeginInAWindow(t *testing.T) {
	r := startReplica(t, withHub)
	for dest, want := range map[string]int{"image": http.StatusForbidden, "iframe": http.StatusForbidden, "document": http.StatusFound} {
		got := r.call(t, nil, http.MethodGet, "/auth/login"+toHub, "Sec-Fetch-Dest", dest, "Accept", "application/json")
		if got.status != want {
			t.Errorf("%s: %d %s, want %d", dest, got.status, got.body, want)
		}
	}
}

// Of many requests for keys at once, those beyond the fifth are refused.
func TestFiveKeysAtOnce(t *testing.T) {
	r := startReplica(t, withHub)
	login := r.hubToken(t, "alice")
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() { r.authAs(t, login, http.MethodPost, "/auth/user/keys", "{}") })
	}
	all.Wait()
	listed := decoded[keysShown](t, r.authAs(t, login, http.MethodGet, "/auth/user/keys", ""), http.StatusOK).Keys
	if len(listed) != 5 {
		t.Errorf("there are %d keys, want 5", len(listed))
	}
}

// Who may not have the hub's tokens any more has none that counts.
func TestAuthEndsWithTheRight(t *testing.T) {
	hub := func(users ...string) func(*config.Config) {
		return func(c *config.Config) {
			withHub(c)
			of := c.Audiences["hub"]
			of.Access = []issuer.Access{{Users: users}}
			c.Audiences["hub"] = of
			c.Issuer.Audiences = c.Audiences
		}
	}
	r := startReplica(t, hub("alice"))
	login := r.hubToken(t, "alice")
	key := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", "{}"), http.StatusOK).Key.Key
	hub("bob")(&r.config)
	r = restarted(t, r)
	for name, token := range map[string]string{"login": login, "key": key} {
		for path, body := range map[string]string{"/auth/session": "", "/auth/user/keys": "", "/authz/check": `{"namespace": "alice", "action": "edit"}`} {
			method := http.MethodGet
			if body != "" {
				method = http.MethodPost
			}
			if got := r.authAs(t, token, method, path, body); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
				t.Errorf("her %s at %s: %d %s", name, path, got.status, got.body)
			}
		}
	}
	hub("alice")(&r.config)
	r = restarted(t, r)
	if got := r.authAs(t, login, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("her login once she may again: %d %s", got.status, got.body)
	}
}

// The login of another program for the same audience is none of /auth, and one of /auth ends by itself, and is renewed for
// thirty days from when its person logged in.
func TestAuthTakesItsOwnLoginsAlone(t *testing.T) {
	r := startReplica(t, withHub, func(c *config.Config) {
		c.Grants.Clients = map[string]grant.Client{"app": {Audiences: []string{"hub"}, Refresh: true, RedirectURIs: []string{portalCallback}}}
	})
	revoked := func(name, token, method, path string) {
		t.Helper()
		if got := r.authAs(t, token, method, path, ""); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
			t.Errorf("%s at %s: %d %s", name, path, got.status, got.body)
		}
	}
	alice := r.signedIn(t, "alice")
	wish := wishOf("app", portalCallback)
	wish.Del("scope")
	other := decoded[granted](t, r.redeem(t, "app", r.code(t, alice, wish)), http.StatusOK).AccessToken
	if jwtClaims(t, other)["sid"] == nil {
		t.Fatal("the other program's token is of no login, so that nothing is tried")
	}
	revoked("another program's token", other, http.MethodGet, "/auth/session")
	login := r.hubToken(t, "alice")
	renewed := decoded[struct{ Token string }](t, r.authAs(t, login, http.MethodPost, "/auth/renew", ""), http.StatusOK).Token
	revoked("the token before", login, http.MethodPost, "/auth/user/keys")
	if got := r.authAs(t, login, http.MethodPost, "/auth/renew", ""); got.status != http.StatusConflict {
		t.Errorf("renewed by the token before: %d %s", got.status, got.body)
	}
	r.later(t, "sessions", "created_at", -31*24*time.Hour)
	revoked("after 31 days", renewed, http.MethodPost, "/auth/renew")
	r.later(t, "sessions", "ends_at", -4*24*time.Hour)
	revoked("after its end", renewed, http.MethodGet, "/auth/session")
}

// Nothing counts of a person who is disabled, however their token came to be, and though it has not expired.
func TestAuthRefusesTheDisabled(t *testing.T) {
	r := startReplica(t, withHub, signedByWTS)
	login := r.hubToken(t, "alice")
	tokens := map[string]string{
		"login": login, "key": decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", "{}"), http.StatusOK).Key.Key,
		"minted token": decoded[paintToken](t, r.worker(t, "/token/?audience=hub"), http.StatusOK).Token,
	}
	const body = `{"namespace": "alice", "action": "edit"}`
	for name, token := range tokens {
		if got := r.authAs(t, token, http.MethodPost, "/authz/check", body); got.status != http.StatusOK {
			t.Errorf("her %s before: %d %s", name, got.status, got.body)
		}
	}
	execSQLite(t, r, "UPDATE users SET disabled_at = 1 WHERE username = 'alice'")
	r = restarted(t, r)
	for name, token := range tokens {
		for _, got := range []answer{r.authAs(t, token, http.MethodPost, "/authz/check", body), r.authAs(t, token, http.MethodGet, "/auth/session", "")} {
			if got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
				t.Errorf("her %s: %d %s", name, got.status, got.body)
			}
		}
	}
}

// What a device holds is no code of a browser's, and a key revokes none.
func TestAuthKeepsItsWaysApart(t *testing.T) {
	r := startReplica(t, withHub, func(c *config.Config) {
		c.Grants.Clients = map[string]grant.Client{"app": {Audiences: []string{"hub"}, Device: true}}
	})
	code, address := r.device(t)
	alice := r.signedIn(t, "alice")
	r.decide(t, alice, r.see(t, alice, "/device?user_code="+address[strings.LastIndexByte(address, '/')+1:]), "allow")
	if got := r.authRedeem(t, code, ""); got.status != http.StatusBadRequest || detailOf(got) != "Invalid authorization code." {
		t.Errorf("a device's code at /auth/token: %d %s", got.status, got.body)
	}
	code, address = r.device(t)
	r.decide(t, alice, r.see(t, alice, "/device?user_code="+address[strings.LastIndexByte(address, '/')+1:]), "allow")
	if got := r.form(t, "/oauth2/token", "grant_type", "urn:ietf:params:oauth:grant-type:device_code", "client_id", "app", "device_code", code); got.oauthError().Error != "invalid_grant" {
		t.Errorf("a device's code at /oauth2/token, for another client: %d %s", got.status, got.body)
	}
	if got := r.pollDevice(t, code); got.status != http.StatusOK {
		t.Errorf("its own client, after that: %d %s", got.status, got.body)
	}
	key := decoded[keyMade](t, r.authAs(t, r.hubToken(t, "alice"), http.MethodPost, "/auth/user/keys", "{}"), http.StatusOK).Key.Key
	if got := r.authAs(t, key, http.MethodDelete, "/auth/user/keys", `{"last_five_chars": "`+key[len(key)-5:]+`"}`); got.status != http.StatusForbidden {
		t.Errorf("a key revokes itself by five characters: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, key, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("it is gone: %d %s", got.status, got.body)
	}
}
