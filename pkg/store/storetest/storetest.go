// Package storetest is what every database has to do for us: one suite, run against each of them.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
)

// Store is everything that a database keeps.
type Store interface {
	broker.Store
	broker.LoginStore
	authn.Directory
	authn.SessionStore
	issuer.Store
	SetDisabled(ctx context.Context, username string, disabled bool) error
	Tidy(ctx context.Context) error
	Unreadable(ctx context.Context) (unreadable, total int, err error)
}

// Run runs the suite; open gives an empty store each time.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Store){
		"a grant comes back as it was stored":           grantComesBack,
		"a refresh swaps on the token presented":        refreshSwaps,
		"of many refreshes with one token one wins":     oneRefreshWins,
		"a verdict is for the token presented":          verdicts,
		"a disconnect leaves a tombstone":               tombstone,
		"a login without a refresh token keeps the old": keepsRefreshToken,
		"another account is not swapped in":             otherAccount,
		"users are who issuer and subject say":          identities,
		"a name with another subject inherits nothing":  namesComeBack,
		"a first login in two tabs makes one user":      oneUserFromManyLogins,
		"a login state is good once":                    statesOnce,
		"sessions begin, are seen and end":              sessions,
		"a disabled user":                               disabled,
		"signing keys change under one lock":            signingKeys,
		"tidying leaves what is alive":                  tidying,
		"big tokens":                                    bigTokens,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// now has the precision of the databases.
func now() time.Time { return time.Now().Truncate(time.Millisecond) }

func grantOf(name string, tokens provider.Tokens) broker.Grant {
	return broker.Grant{
		Provider: "main", Tokens: tokens,
		Identity: provider.Identity{Issuer: "https://op", Subject: "sub-" + name, Username: name},
	}
}

func tokensOf(refresh, access broker.Secret) provider.Tokens {
	at := now()
	return provider.Tokens{RefreshToken: refresh, AccessToken: access, IssuedAt: at, AccessExpiresAt: at.Add(time.Minute)}
}

func connect(t *testing.T, s Store, grant broker.Grant) (userID string) {
	t.Helper()
	userID, _, err := s.Connect(t.Context(), grant)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return userID
}

func read(t *testing.T, s Store, userID, providerID string) broker.Connection {
	t.Helper()
	connection, err := s.Connection(t.Context(), userID, providerID)
	if err != nil {
		t.Fatalf("reading the connection: %v", err)
	}
	return connection
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equal(t *testing.T, what string, want, got any, options ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(options, cmpopts.EquateApproxTime(0))...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func grantComesBack(t *testing.T, s Store) {
	tokens := tokensOf("rt-1", "at-1")
	tokens.RefreshExpiresAt = now().Add(time.Hour)
	alice := connect(t, s, grantOf("alice", tokens))
	got := read(t, s, alice, "main")
	equal(t, "the connection", broker.Connection{
		UserID: alice, Provider: "main", Subject: "sub-alice", Phase: broker.Ready, Version: 1,
		RefreshToken: "rt-1", AccessToken: "at-1", AccessIssuedAt: tokens.IssuedAt, AccessExpiresAt: tokens.AccessExpiresAt,
		RefreshExpiresAt: tokens.RefreshExpiresAt,
	}, got, cmpopts.IgnoreFields(broker.Connection{}, "ConnectedAt"))
	if since := time.Since(got.ConnectedAt); since < -time.Minute || since > time.Minute {
		t.Errorf("connected %s ago", since)
	}
	_, err := s.Connection(t.Context(), alice, "other")
	want(t, "another provider", err, broker.ErrNotConnected)
	_, err = s.Connection(t.Context(), "nobody", "main")
	want(t, "another user", err, broker.ErrNotConnected)
}

func refreshSwaps(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	first := read(t, s, alice, "main")
	if err := s.Refreshed(t.Context(), first, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	second := read(t, s, alice, "main")
	equal(t, "rotated", []broker.Secret{"rt-2", "at-2"}, []broker.Secret{second.RefreshToken, second.AccessToken})
	if second.Version <= first.Version {
		t.Errorf("the version went from %d to %d", first.Version, second.Version)
	}
	want(t, "a successor of a token that is no longer stored", s.Refreshed(t.Context(), first, tokensOf("rt-x", "at-x")), broker.ErrSuperseded)

	if err := s.Refreshed(t.Context(), second, tokensOf("", "at-3")); err != nil {
		t.Fatal(err)
	}
	third := read(t, s, alice, "main")
	equal(t, "not rotated: the old one is kept", []broker.Secret{"rt-2", "at-3"}, []broker.Secret{third.RefreshToken, third.AccessToken})
}

func oneRefreshWins(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	presented := read(t, s, alice, "main")
	results := make([]error, 8)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			results[i] = s.Refreshed(context.Background(), presented, tokensOf(broker.Secret(fmt.Sprint("rt-new-", i)), "at"))
		})
	}
	all.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else {
			want(t, "a loser", err, broker.ErrSuperseded)
		}
	}
	if won != 1 {
		t.Errorf("%d won, want 1", won)
	}
}

func verdicts(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	first := read(t, s, alice, "main")
	if err := s.Broken(t.Context(), first, "revoked"); err != nil {
		t.Fatal(err)
	}
	broken := read(t, s, alice, "main")
	equal(t, "broken, and its tokens are kept", []any{broker.Broken, "revoked", broker.Secret("rt-1")}, []any{broken.Phase, broken.Reason, broken.RefreshToken})

	// Somebody who was paused comes back with the successor of the very token that was judged.
	if err := s.Refreshed(t.Context(), first, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	revived := read(t, s, alice, "main")
	equal(t, "revived", []any{broker.Ready, "", broker.Secret("rt-2")}, []any{revived.Phase, revived.Reason, revived.RefreshToken})
	want(t, "a late verdict on the old token", s.Broken(t.Context(), first, "revoked"), broker.ErrSuperseded)
}

func tombstone(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	before := read(t, s, alice, "main")
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	grave := read(t, s, alice, "main")
	equal(t, "the tombstone", []any{broker.Disconnected, broker.Secret(""), broker.Secret("")}, []any{grave.Phase, grave.RefreshToken, grave.AccessToken})
	want(t, "a refresh that comes back late", s.Refreshed(t.Context(), before, tokensOf("rt-2", "at-2")), broker.ErrSuperseded)
	want(t, "twice", s.Disconnect(t.Context(), alice, "main"), broker.ErrNotConnected)
	want(t, "what never was", s.Disconnect(t.Context(), alice, "other"), broker.ErrNotConnected)
	connect(t, s, grantOf("alice", tokensOf("rt-9", "at-9")))
	if again := read(t, s, alice, "main"); again.Version <= grave.Version || again.Phase != broker.Ready {
		t.Errorf("connected again: version %d after %d, phase %s", again.Version, grave.Version, again.Phase)
	}
}

func keepsRefreshToken(t *testing.T, s Store) {
	bob := connect(t, s, grantOf("bob", tokensOf("rt-old", "at-1")))
	ended := tokensOf("rt-ended", "at-2")
	ended.RefreshExpiresAt = now().Add(-time.Minute)
	if err := s.Refreshed(t.Context(), read(t, s, bob, "main"), ended); err != nil {
		t.Fatal(err)
	}
	connect(t, s, grantOf("bob", tokensOf("", "at-3")))
	equal(t, "one that has come to its end is not kept", broker.Secret(""), read(t, s, bob, "main").RefreshToken)

	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	connect(t, s, grantOf("alice", tokensOf("", "at-2")))
	got := read(t, s, alice, "main")
	equal(t, "kept", []broker.Secret{"rt-1", "at-2"}, []broker.Secret{got.RefreshToken, got.AccessToken})
}

func otherAccount(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	link := func(account string, refresh broker.Secret) error {
		grant := grantOf(account, tokensOf(refresh, "at"))
		grant.UserID, grant.Provider = alice, "second"
		_, _, err := s.Connect(t.Context(), grant)
		return err
	}
	if err := link("a-at-second", "rt-a"); err != nil {
		t.Fatal(err)
	}
	want(t, "another account", link("b-at-second", "rt-b"), broker.ErrOtherAccount)
	equal(t, "the first stays", broker.Secret("rt-a"), read(t, s, alice, "second").RefreshToken)
	if err := s.Disconnect(t.Context(), alice, "second"); err != nil {
		t.Fatal(err)
	}
	if err := link("b-at-second", "rt-b"); err != nil {
		t.Errorf("after a disconnect: %v", err)
	}

	// Two users may connect one external account; neither takes anything from the other.
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	shared := grantOf("b-at-second", tokensOf("rt-c", "at"))
	shared.UserID, shared.Provider = bob, "second"
	connect(t, s, shared)
	equal(t, "alice's", broker.Secret("rt-b"), read(t, s, alice, "second").RefreshToken)

	gone := grantOf("x", tokensOf("rt", "at"))
	gone.UserID = "no such user"
	_, _, err := s.Connect(t.Context(), gone)
	want(t, "a user that is gone", err, broker.ErrSignInFirst)
}

func identities(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	if again := connect(t, s, grantOf("alice", tokensOf("rt-2", "at-2"))); again != alice {
		t.Errorf("the same person became %s and %s", alice, again)
	}
	renamed := grantOf("alice", tokensOf("rt-3", "at-3"))
	renamed.Identity.Username = "alice.cooper"
	if again := connect(t, s, renamed); again != alice {
		t.Errorf("renamed: became %s", again)
	}
	_, err := s.UserByName(t.Context(), "alice")
	want(t, "the old name", err, authn.ErrUnknown)
	for what, find := range map[string]func() (authn.User, error){
		"id":      func() (authn.User, error) { return s.UserByID(t.Context(), alice) },
		"name":    func() (authn.User, error) { return s.UserByName(t.Context(), "alice.cooper") },
		"subject": func() (authn.User, error) { return s.UserBySubject(t.Context(), "https://op", "sub-alice") },
	} {
		found, err := find()
		if err != nil {
			t.Errorf("by %s: %v", what, err)
		}
		equal(t, "by "+what, authn.User{ID: alice, Username: "alice.cooper"}, found)
	}
	_, err = s.UserBySubject(t.Context(), "https://other-op", "sub-alice")
	want(t, "the subject of another issuer", err, authn.ErrUnknown)
}

func namesComeBack(t *testing.T, s Store) {
	first := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	session := authn.BrowserSession{Digest: [32]byte{1}, UserID: first, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	if err := s.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	other := grantOf("alice", tokensOf("rt-2", "at-2"))
	other.Identity.Subject = "another person"
	second := connect(t, s, other)
	if first == second {
		t.Fatal("another subject became the same user")
	}
	found, err := s.UserByName(t.Context(), "alice")
	if err != nil || found.ID != second {
		t.Errorf("the name means %v, %v; want the new user", found, err)
	}
	_, err = s.UserByID(t.Context(), first)
	want(t, "the one set aside", err, authn.ErrUnknown)
	_, err = s.Session(t.Context(), session.Digest)
	want(t, "their session", err, authn.ErrUnknown)
	equal(t, "their grant is kept, apart", broker.Secret("rt-1"), read(t, s, first, "main").RefreshToken)

	back := grantOf("alice", tokensOf("rt-3", "at-3"))
	back.Identity.Username = "alice-the-first"
	if again := connect(t, s, back); again != first {
		t.Errorf("the first one, back under another name, became %s", again)
	}
	if found, err := s.UserByID(t.Context(), first); err != nil || found.Username != "alice-the-first" {
		t.Errorf("back: %v, %v", found, err)
	}
}

func oneUserFromManyLogins(t *testing.T, s Store) {
	ids := make([]string, 6)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			id, _, err := s.Connect(context.Background(), grantOf("alice", tokensOf(broker.Secret(fmt.Sprint("rt-", i)), "at")))
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one person became several users: %v", ids)
		}
	}
}

func statesOnce(t *testing.T, s Store) {
	results := make([]error, 6)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { results[i] = s.UseState(context.Background(), []byte("digest"), time.Minute) })
	}
	all.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else {
			want(t, "used before", err, broker.ErrReplayed)
		}
	}
	if won != 1 {
		t.Errorf("one state was good for %d callbacks", won)
	}
	if err := s.UseState(t.Context(), []byte("another"), time.Minute); err != nil {
		t.Error(err)
	}
}

func sessions(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	session := authn.BrowserSession{Digest: [32]byte{7}, UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	if err := s.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	session.SeenAt = session.SeenAt.Add(time.Minute)
	if err := s.TouchSession(t.Context(), session.Digest, session.SeenAt); err != nil {
		t.Fatal(err)
	}
	got, err := s.Session(t.Context(), session.Digest)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the session", session, got)
	for range 2 { // ending what has ended is no error
		if err := s.EndSession(t.Context(), session.Digest); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Session(t.Context(), session.Digest)
	want(t, "ended", err, authn.ErrUnknown)
}

func disabled(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	session := authn.BrowserSession{Digest: [32]byte{9}, UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	if err := s.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	if err := s.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	if found, err := s.UserByName(t.Context(), "alice"); err != nil || !found.Disabled {
		t.Errorf("disabled: %v, %v", found, err)
	}
	_, err := s.Session(t.Context(), session.Digest)
	want(t, "the session", err, authn.ErrUnknown)
	_, _, err = s.Connect(t.Context(), grantOf("alice", tokensOf("rt-2", "at-2")))
	want(t, "a login", err, broker.ErrUserDisabled)
	equal(t, "the grant is kept", broker.Secret("rt-1"), read(t, s, alice, "main").RefreshToken)
	if err := s.SetDisabled(t.Context(), "alice", false); err != nil {
		t.Fatal(err)
	}
	connect(t, s, grantOf("alice", tokensOf("rt-3", "at-3")))
	want(t, "nobody", s.SetDisabled(t.Context(), "nobody", true), authn.ErrUnknown)
}

func signingKeys(t *testing.T, s Store) {
	// Through the issuer, which is who makes keys; several replicas start at once.
	config := issuer.Config{URL: "https://wts", Audiences: map[string]issuer.Audience{"a": {}, "b": {Algorithm: issuer.EdDSA}}}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := issuer.New(config, s, time.Now).Maintain(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	keys, at, err := s.SigningKeys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v; want one for each algorithm", len(keys), err)
	}
	if since := time.Since(at); since < -time.Minute || since > time.Minute {
		t.Errorf("the database's clock is %s off", since)
	}
	for _, key := range keys {
		if key.Private == nil {
			t.Errorf("key %s came back without its private half", key.ID)
		}
	}
	failure := errors.New("no")
	err = s.UpdateSigningKeys(t.Context(), func([]issuer.Key, time.Time) ([]issuer.Key, error) { return nil, failure })
	want(t, "an update that fails", err, failure)
	if after, _, _ := s.SigningKeys(t.Context()); len(after) != 2 {
		t.Error("an update that failed changed the keys")
	}
	err = s.UpdateSigningKeys(t.Context(), func(keys []issuer.Key, now time.Time) ([]issuer.Key, error) {
		keys[0].LeavesAt = now.Add(time.Hour)
		return keys[:1], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := s.SigningKeys(t.Context())
	if err != nil || len(after) != 1 || after[0].ID != keys[0].ID || after[0].LeavesAt.IsZero() || after[0].Private == nil {
		t.Errorf("after an update: %v, %v", after, err)
	}
}

func tidying(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	for i, life := range []time.Duration{-time.Minute, time.Hour} {
		session := authn.BrowserSession{Digest: [32]byte{byte(i)}, UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(life)}
		if err := s.CreateSession(t.Context(), session); err != nil {
			t.Fatal(err)
		}
		if err := s.UseState(t.Context(), []byte{byte(i)}, life); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Session(t.Context(), [32]byte{0})
	want(t, "the old session", err, authn.ErrUnknown)
	if _, err := s.Session(t.Context(), [32]byte{1}); err != nil {
		t.Errorf("the living session: %v", err)
	}
	if err := s.UseState(t.Context(), []byte{0}, time.Minute); err != nil {
		t.Errorf("the old state is forgotten: %v", err)
	}
	want(t, "the living state", s.UseState(t.Context(), []byte{1}, time.Minute), broker.ErrReplayed)
	if unreadable, total, err := s.Unreadable(t.Context()); err != nil || unreadable != 0 || total != 1 {
		t.Errorf("unreadable %d of %d, %v", unreadable, total, err)
	}
}

func bigTokens(t *testing.T, s Store) {
	big := make([]byte, 8<<10)
	for i := range big {
		big[i] = byte('!' + i%90)
	}
	alice := connect(t, s, grantOf("alice", tokensOf(broker.Secret(big), broker.Secret(big))))
	equal(t, "8 kB", broker.Secret(big), read(t, s, alice, "main").RefreshToken)
}
