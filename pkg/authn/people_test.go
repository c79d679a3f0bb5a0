package authn_test

import (
	"errors"
	"testing"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
)

// Whom a bearer means is remembered, and nothing of it that may change: one who is disabled is refused, and one who was
// set aside is looked up anew.
func TestWhomABearerMeans(t *testing.T) {
	f := newFixture(t)
	issuer := verifiertest.Start(t)
	tokens, err := verifier.New(t.Context(), issuer.URL, "wts")
	if err != nil {
		t.Fatal(err)
	}
	a := authn.New(authn.Parts{Directory: f.directory, Sessions: f.sessions, Bearers: &authn.Bearers{Verifier: tokens, Issuer: issuer.URL}})
	token := issuer.Mint("wts", "sub-alice", nil)
	who := func() (authn.Caller, error) {
		r := request("10.0.0.9:1")
		r.Header.Set("Authorization", "Bearer "+token)
		return a.Authenticate(r, a.Peer(r), authn.Accepts{Bearer: true})
	}
	first, err := who()
	if err != nil || first.User.Username != "alice" {
		t.Fatalf("%+v, %v", first, err)
	}
	_, _ = who() // which reads the user by the id
	asked := f.directory.asked
	for range 5 {
		if again, err := who(); err != nil || again.User.ID != first.User.ID {
			t.Fatalf("again: %+v, %v", again, err)
		}
	}
	if f.directory.asked != asked {
		t.Errorf("five that were known asked the directory %d times", f.directory.asked-asked)
	}
	change := func(user authn.User) {
		f.directory.mu.Lock()
		f.directory.people["alice"] = user
		f.directory.mu.Unlock()
		a.ForgetUser(first.User.ID, "alice")
	}
	change(authn.User{ID: first.User.ID, Username: "alice", Disabled: true})
	if _, err := who(); !errors.Is(err, authn.ErrDisabled) {
		t.Errorf("disabled: %v", err)
	}
	change(authn.User{ID: "another", Username: "alice"})
	if next, err := who(); err != nil || next.User.ID != "another" {
		t.Errorf("set aside, and known anew: %+v, %v", next, err)
	}
}
