package main

import (
	"net/http"
	"sync"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Attacks on the logins at /auth that are nobody's lesson yet.

// A client that proves itself with PKCE takes no code that was asked for without it: such a code is one that somebody else
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
