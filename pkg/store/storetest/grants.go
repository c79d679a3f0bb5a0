package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/grant"
)

// GrantStore is what programs that a person lets in are kept in.
type GrantStore interface {
	grant.Store
	grant.Logins
}

func grantDigest(text string) grant.Digest { return sha256.Sum256([]byte(text)) }

// What a person allows comes back as it was stored, is decided on once and spent once.
func authorizationsKept(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	keeper, shown, login := s.GrantStore, grantDigest("shown"), grantDigest("login")
	code := grant.Authorization{
		Digest: grantDigest("code"), Client: "portal", Audience: "files", Scopes: []string{"read", "write"}, State: grant.Allowed, RedirectURI: "https://portal",
		Challenge: "c", UserID: alice, AuthenticatedAt: now(), CreatedAt: now(), ExpiresAt: now().Add(time.Minute),
	}
	device := grant.Authorization{
		Digest: grantDigest("device"), UserCode: &shown, Client: "cli", Audience: "files", Scopes: []string{}, State: grant.Pending, Address: "10.0.0.7", Agent: "curl",
		CreatedAt: now(), ExpiresAt: now().Add(time.Minute),
	}
	for _, one := range []grant.Authorization{code, device} {
		want(t, "stored", keeper.CreateAuthorization(t.Context(), one), nil)
		read, err := keeper.Authorization(t.Context(), one.Digest)
		want(t, "read", err, nil)
		equal(t, "as it was stored", one, read)
	}
	_, err := keeper.Authorization(t.Context(), grantDigest("other"))
	want(t, "another one", err, grant.ErrUnknown)
	_, err = keeper.Waiting(t.Context(), code.Digest)
	want(t, "a code waits for no one", err, grant.ErrUnknown)
	waiting, err := keeper.Waiting(t.Context(), shown)
	want(t, "waiting", err, nil)
	equal(t, "what waits", device, waiting)

	decided := now()
	want(t, "decided", keeper.Decide(t.Context(), shown, grant.Allowed, alice, decided), nil)
	want(t, "decided again", keeper.Decide(t.Context(), shown, grant.Denied, alice, decided), grant.ErrUnknown)
	device.State, device.UserID, device.AuthenticatedAt = grant.Allowed, alice, decided
	read, err := keeper.Authorization(t.Context(), device.Digest)
	want(t, "read", err, nil)
	equal(t, "after the decision", device, read)

	// Of many at once one gets it as it was.
	var first, later atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch spent, err := keeper.Spend(t.Context(), device.Digest, &login); {
			case err != nil:
				t.Error(err)
			case spent.State == grant.Allowed && spent.Login == nil:
				first.Add(1)
			case spent.State == grant.Spent && spent.Login != nil && *spent.Login == login:
				later.Add(1)
			default:
				t.Errorf("got %+v", spent)
			}
		})
	}
	all.Wait()
	equal(t, "who spent one authorization", "1 and 7", fmt.Sprintf("%d and %d", first.Load(), later.Load()))
	_, err = keeper.Spend(t.Context(), grantDigest("other"), nil)
	want(t, "spending another one", err, grant.ErrUnknown)

	old := code
	old.Digest, old.ExpiresAt = grantDigest("old"), now().Add(-time.Hour)
	want(t, "one that is over", keeper.CreateAuthorization(t.Context(), old), nil)
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = keeper.Authorization(t.Context(), old.Digest)
	want(t, "after tidying, one that is over", err, grant.ErrUnknown)
	_, err = keeper.Authorization(t.Context(), code.Digest)
	want(t, "after tidying, one that is not", err, nil)
}

// A program's login stands among its person's sessions, is rotated by who has its secret, and ends with the sessions.
func loginsKept(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	keeper := s.GrantStore
	login := grant.Login{
		Digest: grantDigest("login"), Secret: grantDigest("first"), UserID: alice, Client: "cli", Audience: "wts", Scopes: []string{"token"},
		CreatedAt: now().Add(-time.Hour), SeenAt: now(), EndsAt: now().Add(time.Hour), Address: "10.0.0.7", Agent: "curl",
	}
	browser := authn.BrowserSession{Digest: authn.SessionDigest(grantDigest("browser")), UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	want(t, "a browser's session", s.CreateSession(t.Context(), browser), nil)
	want(t, "for no authorization", keeper.CreateLogin(t.Context(), login, 9), grant.ErrUnknown)
	begin := func(name string, most int) error {
		t.Helper()
		one, code := login, grantDigest("code of "+name)
		one.Digest = grantDigest(name)
		want(t, "allowed", keeper.CreateAuthorization(t.Context(), grant.Authorization{Digest: code, Client: "cli", Audience: "wts", State: grant.Allowed, UserID: alice, CreatedAt: now(), ExpiresAt: now().Add(time.Minute)}), nil)
		_, err := keeper.Spend(t.Context(), code, &one.Digest)
		want(t, "spent", err, nil)
		return keeper.CreateLogin(t.Context(), one, most)
	}
	want(t, "stored", begin("login", 9), nil)
	read := func() grant.Login {
		t.Helper()
		found, err := keeper.Login(t.Context(), login.Digest)
		want(t, "read", err, nil)
		return found
	}
	equal(t, "as it was stored", login, read())
	_, err := keeper.Login(t.Context(), grant.Digest(browser.Digest))
	want(t, "a browser's session as a login", err, grant.ErrUnknown)
	want(t, "ending a browser's session as a login", keeper.EndLogin(t.Context(), grant.Digest(browser.Digest)), nil)
	session, err := s.Session(t.Context(), authn.SessionDigest(login.Digest))
	want(t, "as a session", err, nil)
	equal(t, "whose session it is", "cli "+alice, session.Client+" "+session.UserID)
	all, err := s.SessionsOf(t.Context(), alice)
	want(t, "listed", err, nil)
	equal(t, "sessions", 2, len(all))

	var good, replayed atomic.Int32
	var callers sync.WaitGroup
	seen, ends := now().Add(time.Minute), now().Add(2*time.Hour)
	for i := range 8 {
		callers.Go(func() {
			switch err := keeper.RotateLogin(t.Context(), login.Digest, login.Secret, grantDigest(fmt.Sprint(i)), seen, ends); {
			case err == nil:
				good.Add(1)
			case errors.Is(err, grant.ErrReplayed):
				replayed.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	callers.Wait()
	equal(t, "rotations with one secret", "1 and 7", fmt.Sprintf("%d and %d", good.Load(), replayed.Load()))
	after := read()
	if after.Secret == login.Secret || !after.EndsAt.Equal(ends) || !after.SeenAt.Equal(seen) || !after.CreatedAt.Equal(login.CreatedAt) {
		t.Errorf("after the rotation: %+v, want another secret and %v as its end", after, ends)
	}
	want(t, "rotating another one", keeper.RotateLogin(t.Context(), grantDigest("other"), login.Secret, login.Secret, seen, ends), grant.ErrUnknown)

	// One too many ends the one that was used longest ago.
	for _, name := range []string{"second", "third"} {
		want(t, name, begin(name, 2), nil)
	}
	all, err = s.SessionsOf(t.Context(), alice)
	want(t, "listed", err, nil)
	equal(t, "sessions, with two logins at most", 3, len(all))
	read()

	// All at once: also what was allowed, and not fetched.
	code := grantDigest("not fetched")
	want(t, "allowed", keeper.CreateAuthorization(t.Context(), grant.Authorization{Digest: code, Client: "cli", Audience: "wts", State: grant.Allowed, UserID: alice, CreatedAt: now(), ExpiresAt: now().Add(time.Minute)}), nil)
	ended, err := s.EndSessions(t.Context(), alice, nil)
	want(t, "all ended", err, nil)
	equal(t, "how many", 3, len(ended))
	taken, err := keeper.Authorization(t.Context(), code)
	want(t, "what was not fetched", err, nil)
	equal(t, "its state", grant.Denied, taken.State)
	want(t, "a browser's session again", s.CreateSession(t.Context(), browser), nil)
	want(t, "a login again", begin("again", 9), nil)

	again := grantDigest("again")
	want(t, "ended", keeper.EndLogin(t.Context(), again), nil)
	want(t, "ended again", keeper.EndLogin(t.Context(), again), nil)
	_, err = keeper.Login(t.Context(), again)
	want(t, "after its end", err, grant.ErrUnknown)
	_, err = s.Session(t.Context(), browser.Digest)
	want(t, "the browser's session", err, nil)
}
