package storetest

import (
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// revocations takes every one of a provider's that is due.
func revocations(t *testing.T, s Store, providerID string) map[secret.Text]bool {
	t.Helper()
	tokens := map[secret.Text]bool{}
	for {
		one, err := s.TakeRevocation(t.Context(), providerID, lease)
		if err != nil {
			t.Fatal(err)
		}
		if one.ID == "" {
			return tokens
		}
		tokens[one.Token] = true
	}
}

func outbox(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	equal(t, "another provider's loop does not take it", 0, len(revocations(t, s, "second")))
	one, err := s.TakeRevocation(t.Context(), "main", lease)
	if err != nil || one.Token != "rt-1" || one.Provider != "main" {
		t.Fatalf("took %q of %q, %v", string(one.Token), one.Provider, err)
	}
	equal(t, "nobody else has it meanwhile", 0, len(revocations(t, s, "main")))
	for range 2 {
		if err := s.Revoked(t.Context(), one.ID); err != nil {
			t.Error(err)
		}
	}
}

func revocationsCancelled(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	for _, id := range []string{alice, bob} {
		if err := s.Disconnect(t.Context(), id, "main"); err != nil {
			t.Fatal(err)
		}
	}
	connect(t, s, grantOf("alice", tokensOf("rt-3", "at-3")))
	equal(t, "only bob's is left", map[secret.Text]bool{"rt-2": true}, revocations(t, s, "main"))

	link := func(account string, token secret.Text) {
		grant := grantOf(account, tokensOf(token, "at"))
		grant.UserID, grant.Provider = alice, "second"
		connect(t, s, grant)
	}
	link("a-there", "rt-a")
	if err := s.Disconnect(t.Context(), alice, "second"); err != nil {
		t.Fatal(err)
	}
	link("b-there", "rt-b")
	equal(t, "another subject's login cancels nothing", map[secret.Text]bool{"rt-a": true}, revocations(t, s, "second"))
}

// A revocation that is on its way may end the grant that a login has just given.
func revocationUnderWay(t *testing.T, s Store) {
	login := func(began time.Time, separate bool) error {
		grant := grantOf("alice", tokensOf("rt-9", "at-9"))
		grant.Began, grant.Separate = began, separate
		_, err := s.Connect(t.Context(), grant)
		return err
	}
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	taken, err := s.TakeRevocation(t.Context(), "main", 700*time.Millisecond)
	if err != nil || taken.ID == "" {
		t.Fatalf("nothing to revoke: %v", err)
	}
	want(t, "while it is on its way", login(time.Now(), false), broker.ErrRevoking)
	equal(t, "nothing is stored", broker.Disconnected, read(t, s, alice, "main").Phase)
	began := time.Now()
	if err := s.Revoked(t.Context(), taken.ID); err != nil {
		t.Fatal(err)
	}
	want(t, "it ended after the code was exchanged", login(began.Add(-100*time.Millisecond), false), broker.ErrRevoking)
	time.Sleep(20 * time.Millisecond)
	want(t, "it ended before", login(time.Now(), false), nil)

	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	if taken, err = s.TakeRevocation(t.Context(), "main", 700*time.Millisecond); err != nil || taken.ID == "" {
		t.Fatalf("nothing to revoke: %v", err)
	}
	want(t, "a provider where each login is a grant of its own", login(time.Now(), true), nil)
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(800 * time.Millisecond)
	want(t, "its lease is over, and nothing of it is sent any more", login(time.Now(), false), nil)
}

// At some providers each login is a grant of its own.
func separateGrants(t *testing.T, s Store) {
	first := grantOf("alice", tokensOf("rt-1", "at-1"))
	first.Separate = true
	connect(t, s, first)
	second := grantOf("alice", tokensOf("rt-2", "at-2"))
	second.Separate = true
	connect(t, s, second)
	equal(t, "the former grant is to be revoked", map[secret.Text]bool{"rt-1": true}, revocations(t, s, "main"))
}
