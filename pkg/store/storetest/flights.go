package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

var flightNumber atomic.Int64

// claimOf asks for a flight over a row as it is now.
func claimOf(t *testing.T, s Store, userID, replica string) broker.Claim {
	t.Helper()
	row := read(t, s, userID, "main")
	return broker.Claim{UserID: userID, Provider: "main", Version: row.Version, ID: fmt.Sprint("flight-", flightNumber.Add(1)), Replica: replica}
}

func fly(t *testing.T, s Store, userID string) broker.Flight {
	t.Helper()
	flight, err := s.Claim(t.Context(), claimOf(t, s, userID, "r1"))
	if err != nil {
		t.Fatalf("claiming: %v", err)
	}
	return flight
}

func refresh(t *testing.T, s Store, userID string, tokens provider.Tokens) {
	t.Helper()
	if err := s.Commit(t.Context(), fly(t, s, userID), tokens); err != nil {
		t.Fatalf("committing: %v", err)
	}
}

func flightSwaps(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	first := fly(t, s, alice)
	equal(t, "the flight", []any{secret.Text("rt-1"), true, false, broker.Refreshing}, []any{first.RefreshToken, first.First, first.Doubtful, first.Phase})
	if err := s.Commit(t.Context(), first, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	second := read(t, s, alice, "main")
	equal(t, "rotated", []any{secret.Text("rt-2"), secret.Text("at-2"), broker.Ready, broker.RotationYes}, []any{second.RefreshToken, second.AccessToken, second.Phase, second.Rotates})
	if second.Version <= first.Version {
		t.Errorf("the version went from %d to %d", first.Version, second.Version)
	}
	if err := s.Commit(t.Context(), first, tokensOf("rt-2", "at-2")); err != nil {
		t.Errorf("the same once more, its acknowledgement lost: %v", err)
	}
	refresh(t, s, alice, tokensOf("", "at-3"))
	third := read(t, s, alice, "main")
	equal(t, "not rotated: the old one is kept", []secret.Text{"rt-2", "at-3"}, []secret.Text{third.RefreshToken, third.AccessToken})
	connect(t, s, grantOf("alice", tokensOf("rt-9", "at-9")))
	want(t, "a successor of a token that is no longer stored", s.Commit(t.Context(), first, tokensOf("rt-x", "at-x")), broker.ErrSuperseded)
	equal(t, "the login's stays", secret.Text("rt-9"), read(t, s, alice, "main").RefreshToken)

	bob := connect(t, s, grantOf("bob", tokensOf("rt-b", "at-b")))
	refresh(t, s, bob, tokensOf("", "at-b2"))
	equal(t, "seen not to rotate", broker.RotationNo, read(t, s, bob, "main").Rotates)
}

func oneClaim(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	claims := make([]broker.Claim, 12)
	for at := range claims {
		claims[at] = claimOf(t, s, alice, "r1")
	}
	results := make([]error, len(claims))
	var all sync.WaitGroup
	for at := range claims {
		all.Go(func() { _, results[at] = s.Claim(context.Background(), claims[at]) })
	}
	all.Wait()
	given := 0
	for _, err := range results {
		if err == nil {
			given++
		} else if !errors.Is(err, broker.ErrClaimed) {
			t.Errorf("a loser: %v", err)
		}
	}
	if given != 1 {
		t.Errorf("%d flights were given", given)
	}
	_, err := s.Claim(t.Context(), claimOf(t, s, alice, "r2"))
	want(t, "a later claim", err, broker.ErrClaimed)
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	old := claimOf(t, s, bob, "r1")
	refresh(t, s, bob, tokensOf("rt-3", "at-3"))
	_, err = s.Claim(t.Context(), old)
	want(t, "a claim on what was read before", err, broker.ErrSuperseded)
	old.UserID = "nobody"
	_, err = s.Claim(t.Context(), old)
	want(t, "a claim on nothing", err, broker.ErrSuperseded)
}

func claimRecognised(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	claim := claimOf(t, s, alice, "r1")
	first, err := s.Claim(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Claim(t.Context(), claim)
	if err != nil || again.Version != first.Version || again.RefreshToken != "rt-1" {
		t.Errorf("%+v, %v", again, err)
	}
}

func verdicts(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	flight := fly(t, s, alice)
	if err := s.Settle(t.Context(), flight, broker.Verdict{Phase: broker.Broken, Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	broken := read(t, s, alice, "main")
	equal(t, "broken, and its tokens are kept", []any{broker.Broken, "revoked", secret.Text("rt-1")}, []any{broken.Phase, broken.Reason, broken.RefreshToken})
	_, err := s.Claim(t.Context(), claimOf(t, s, alice, "r1"))
	want(t, "a claim on a broken one", err, broker.ErrSuperseded)

	// Somebody who was paused comes back with the successor of the very token that was judged.
	if err := s.Commit(t.Context(), flight, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	revived := read(t, s, alice, "main")
	equal(t, "revived", []any{broker.Ready, "", secret.Text("rt-2")}, []any{revived.Phase, revived.Reason, revived.RefreshToken})
	bob := connect(t, s, grantOf("bob", tokensOf("rt-b", "at-b")))
	late := fly(t, s, bob)
	if err := s.Settle(t.Context(), late, broker.Verdict{Phase: broker.Broken, Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	want(t, "an access token without a successor revives nothing", s.Commit(t.Context(), late, tokensOf("", "at-late")), broker.ErrSuperseded)
	equal(t, "broken still", broker.Broken, read(t, s, bob, "main").Phase)
	want(t, "a late verdict on the old token", s.Settle(t.Context(), flight, broker.Verdict{Phase: broker.Broken, Reason: "revoked"}), broker.ErrSuperseded)
}

func unsent(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	before := read(t, s, alice, "main")
	flight := fly(t, s, alice)
	if err := s.Settle(t.Context(), flight, broker.Verdict{Phase: broker.Ready, After: 50 * time.Millisecond, Unsent: true}); err != nil {
		t.Fatal(err)
	}
	after := read(t, s, alice, "main")
	if after.Version <= before.Version {
		t.Error("the version stands still")
	}
	before.Version = after.Version
	equal(t, "the row", before, after)
	var notYet *broker.NotYet
	if _, err := s.Claim(t.Context(), claimOf(t, s, alice, "r1")); !errors.As(err, &notYet) || notYet.In <= 0 || notYet.In > 50*time.Millisecond {
		t.Errorf("at once: %v", err)
	}
	time.Sleep(60 * time.Millisecond)
	equal(t, "nobody has presented it", true, fly(t, s, alice).First)
	want(t, "a flight that is over", s.Settle(t.Context(), flight, broker.Verdict{Phase: broker.Ready}), broker.ErrSuperseded)
}

func doubts(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	if err := s.Settle(t.Context(), fly(t, s, alice), broker.Verdict{Phase: broker.Suspect, Reason: "suspect"}); err != nil {
		t.Fatal(err)
	}
	equal(t, "in doubt", broker.Suspect, read(t, s, alice, "main").Phase)
	second := fly(t, s, alice)
	equal(t, "presented before", []bool{true, false}, []bool{second.Doubtful, second.First})
	if err := s.Commit(t.Context(), second, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	third := fly(t, s, alice)
	equal(t, "a new token", []bool{false, true}, []bool{third.Doubtful, third.First})
}

func forks(t *testing.T, s Store) {
	fork := func(name string) (userID string, early, late broker.Flight) {
		userID = connect(t, s, grantOf(name, tokensOf("rt-1", "at-1")))
		early = fly(t, s, userID)
		claim := claimOf(t, s, userID, "r2")
		claim.Over = early.ID
		late, err := s.Claim(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		return userID, early, late
	}
	alice, early, late := fork("alice")
	if err := errors.Join(s.Commit(t.Context(), early, tokensOf("rt-early", "at")), s.Commit(t.Context(), late, tokensOf("rt-late", "at"))); err != nil {
		t.Fatal(err)
	}
	equal(t, "the later claim's", secret.Text("rt-late"), read(t, s, alice, "main").RefreshToken)

	bob, early, late := fork("bob")
	if err := s.Commit(t.Context(), late, tokensOf("rt-late", "at")); err != nil {
		t.Fatal(err)
	}
	want(t, "the earlier claim's, after", s.Commit(t.Context(), early, tokensOf("rt-early", "at")), broker.ErrSuperseded)
	equal(t, "the later claim's stays", secret.Text("rt-late"), read(t, s, bob, "main").RefreshToken)

	carol, early, late := fork("carol")
	if err := s.Commit(t.Context(), early, tokensOf("rt-early", "at")); err != nil {
		t.Fatal(err)
	}
	fly(t, s, carol)
	want(t, "once the stored one is claimed again", s.Commit(t.Context(), late, tokensOf("rt-late", "at")), broker.ErrSuperseded)
	equal(t, "the stored one stays", secret.Text("rt-early"), read(t, s, carol, "main").RefreshToken)
}

func takeOver(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	first := fly(t, s, alice)
	claim := claimOf(t, s, alice, "r2")
	claim.Over = "another flight"
	_, err := s.Claim(t.Context(), claim)
	want(t, "over a flight that is not there", err, broker.ErrClaimed)
	claim.Over = first.ID
	second, err := s.Claim(t.Context(), claim)
	if err != nil || !second.Doubtful || second.First {
		t.Fatalf("%+v, %v", second, err)
	}
	want(t, "the first one's doubt", s.Settle(t.Context(), first, broker.Verdict{Phase: broker.Suspect}), broker.ErrSuperseded)
	if err := s.Commit(t.Context(), first, tokensOf("rt-2", "at-2")); err != nil {
		t.Errorf("the first one, with a successor: %v", err)
	}
	equal(t, "stored", secret.Text("rt-2"), read(t, s, alice, "main").RefreshToken)
}

func orphans(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	connect(t, s, grantOf("carol", tokensOf("rt-3", "at-3")))
	if living, err := s.Beat(t.Context(), "r1"); err != nil || living != 1 {
		t.Fatalf("%d replicas live, %v", living, err)
	}
	flight := fly(t, s, alice)
	if err := s.Settle(t.Context(), fly(t, s, bob), broker.Verdict{Phase: broker.Suspect, Reason: "suspect"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if _, err := s.Beat(t.Context(), "r1"); err != nil {
		t.Fatal(err)
	}
	if living, err := s.Beat(t.Context(), "r2"); err != nil || living != 2 {
		t.Fatalf("%d replicas live, %v", living, err)
	}
	found, err := s.Orphans(t.Context(), "r1", nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]broker.Orphan{}
	for _, one := range found {
		seen[one.UserID] = one
	}
	if one := seen[alice]; len(seen) != 1 && one.Flight != flight.ID || one.Silent > time.Second || one.Claimed < time.Second || one.Claimed > time.Minute || one.RefreshToken != "rt-1" || string(one.Digest) != string(flight.Digest) {
		t.Errorf("%+v", seen)
	}
	if one, there := seen[bob]; there && (one.Flight != "" || one.Phase != broker.Suspect || one.Presented < time.Second) {
		t.Errorf("%+v", one)
	}
}

func tombstone(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	flight := fly(t, s, alice)
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	grave := read(t, s, alice, "main")
	equal(t, "the tombstone", []any{broker.Disconnected, secret.Text(""), secret.Text("")}, []any{grave.Phase, grave.RefreshToken, grave.AccessToken})
	want(t, "a refresh that comes back late", s.Commit(t.Context(), flight, tokensOf("rt-2", "at-2")), broker.ErrSuperseded)
	equal(t, "is to be revoked, as what was disconnected is", map[secret.Text]bool{"rt-1": true, "rt-2": true}, revocations(t, s))
	want(t, "twice", s.Disconnect(t.Context(), alice, "main"), broker.ErrNotConnected)
	want(t, "what never was", s.Disconnect(t.Context(), alice, "other"), broker.ErrNotConnected)
	connect(t, s, grantOf("alice", tokensOf("rt-9", "at-9")))
	if again := read(t, s, alice, "main"); again.Version <= grave.Version || again.Phase != broker.Ready {
		t.Errorf("connected again: version %d after %d, phase %s", again.Version, grave.Version, again.Phase)
	}
}

// revocations takes every one that is due.
func revocations(t *testing.T, s Store) map[secret.Text]bool {
	t.Helper()
	tokens := map[secret.Text]bool{}
	for {
		one, err := s.TakeRevocation(t.Context())
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
	one, err := s.TakeRevocation(t.Context())
	if err != nil || one.Token != "rt-1" || one.Provider != "main" {
		t.Fatalf("%+v, %v", one, err)
	}
	equal(t, "nobody else has it meanwhile", 0, len(revocations(t, s)))
	if err := s.Revoked(t.Context(), one.ID); err != nil {
		t.Error(err)
	}
	if err := s.Revoked(t.Context(), one.ID); err != nil {
		t.Errorf("twice: %v", err)
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
	equal(t, "only bob's is left", map[secret.Text]bool{"rt-2": true}, revocations(t, s))

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
	equal(t, "another subject's login cancels nothing", map[secret.Text]bool{"rt-a": true}, revocations(t, s))
}
