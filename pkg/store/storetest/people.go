package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/secret"
)

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
		"subject": func() (authn.User, error) { return s.UserBySubject(t.Context(), "https://op", "sub-alice", "alice") },
	} {
		found, err := find()
		if err != nil {
			t.Errorf("by %s: %v", what, err)
		}
		equal(t, "by "+what, authn.User{ID: alice, Username: "alice.cooper"}, found)
	}
	_, err = s.UserBySubject(t.Context(), "https://other-op", "sub-alice", "alice")
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
	equal(t, "their grant is kept, apart", secret.Text("rt-1"), read(t, s, first, "main").RefreshToken)

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
			stored, err := s.Connect(context.Background(), grantOf("alice", tokensOf(secret.Text(fmt.Sprint("rt-", i)), "at")))
			if err != nil {
				t.Error(err)
			}
			ids[i] = stored.UserID
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
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	session := authn.BrowserSession{Digest: [32]byte{7}, UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour), Address: "192.0.2.1", Agent: "a browser"}
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
	ended := func(what string, userID string, digest *authn.SessionDigest, wanted ...authn.SessionDigest) {
		t.Helper()
		got, err := s.EndSessions(t.Context(), userID, digest)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, what, wanted, got)
	}
	second := session
	second.Digest, second.SeenAt = [32]byte{8}, session.SeenAt.Add(time.Minute)
	others := authn.BrowserSession{Digest: [32]byte{9}, UserID: bob, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	for _, one := range []authn.BrowserSession{second, others} {
		if err := s.CreateSession(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.SessionsOf(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "alice's", []authn.BrowserSession{second, session}, all)
	ended("bob ends alice's", bob, &session.Digest)
	ended("one", "", &session.Digest, session.Digest)
	ended("what has ended", "", &session.Digest)
	_, err = s.Session(t.Context(), session.Digest)
	want(t, "ended", err, authn.ErrUnknown)
	ended("all of alice's", alice, nil, second.Digest)
	if _, err := s.Session(t.Context(), others.Digest); err != nil {
		t.Errorf("bob's: got %v", err)
	}
}

func disabled(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	session := authn.BrowserSession{Digest: [32]byte{9}, UserID: alice, CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	if err := s.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	program, code := grantDigest("program"), grantDigest("code of a program")
	want(t, "allowed", s.GrantStore.CreateAuthorization(t.Context(), grant.Authorization{Digest: code, Client: "cli", Audience: "wts", State: grant.Allowed, UserID: alice, CreatedAt: now(), ExpiresAt: now().Add(time.Minute)}), nil)
	_, spent := s.GrantStore.Spend(t.Context(), code, &program)
	want(t, "spent", spent, nil)
	login := grant.Login{Digest: program, Secret: grantDigest("secret"), UserID: alice, Client: "cli", Audience: "wts", CreatedAt: now(), SeenAt: now(), EndsAt: now().Add(time.Hour)}
	want(t, "a program's login", s.GrantStore.CreateLogin(t.Context(), login, 9), nil)
	if err := s.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	_, gone := s.GrantStore.Login(t.Context(), program)
	want(t, "a program's login, of who is disabled", gone, grant.ErrUnknown)
	if found, err := s.UserByName(t.Context(), "alice"); err != nil || !found.Disabled {
		t.Errorf("disabled: %v, %v", found, err)
	}
	_, err := s.Session(t.Context(), session.Digest)
	want(t, "the session, by which the person is told why", err, nil)
	_, err = s.Connect(t.Context(), grantOf("alice", tokensOf("rt-2", "at-2")))
	want(t, "a login", err, broker.ErrUserDisabled)
	equal(t, "the grant is kept", secret.Text("rt-1"), read(t, s, alice, "main").RefreshToken)
	if err := s.SetDisabled(t.Context(), "alice", false); err != nil {
		t.Fatal(err)
	}
	_, err = s.Session(t.Context(), session.Digest)
	want(t, "the session, of who is enabled again", err, authn.ErrUnknown)
	connect(t, s, grantOf("alice", tokensOf("rt-3", "at-3")))
	want(t, "nobody", s.SetDisabled(t.Context(), "nobody", true), authn.ErrUnknown)
}

func signingKeys(t *testing.T, s Store) {
	// Through the issuer, which is who makes keys; several replicas start at once.
	config := issuer.Config{URL: "https://wts", Audiences: map[string]issuer.Audience{"a": {}, "b": {Algorithm: issuer.EdDSA}}}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := issuer.New(config, s.Issuer, time.Now).Maintain(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	keys, at, err := s.Issuer.SigningKeys(t.Context())
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
	err = s.Issuer.UpdateSigningKeys(t.Context(), func([]issuer.Key, time.Time) ([]issuer.Key, error) { return nil, failure })
	want(t, "an update that fails", err, failure)
	if after, _, _ := s.Issuer.SigningKeys(t.Context()); len(after) != 2 {
		t.Error("an update that failed changed the keys")
	}
	err = s.Issuer.UpdateSigningKeys(t.Context(), func(keys []issuer.Key, now time.Time) ([]issuer.Key, error) {
		keys[0].LeavesAt = now.Add(time.Hour)
		return keys[:1], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := s.Issuer.SigningKeys(t.Context())
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
	alice := connect(t, s, grantOf("alice", tokensOf(secret.Text(big), secret.Text(big))))
	equal(t, "8 kB", secret.Text(big), read(t, s, alice, "main").RefreshToken)
}
