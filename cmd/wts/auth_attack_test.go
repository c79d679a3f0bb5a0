package main

import (
	"net/http"
	"sync"
	"testing"
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
