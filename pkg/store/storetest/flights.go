package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// The rules are tested where they stand, in pkg/broker. What is tested here is that a database stores what
// they say, all of it or nothing, and that of many who come at once one wins.

var flightNumber atomic.Int64

func newClaim(row broker.Row) broker.Claim {
	return broker.Claim{Version: row.Version, Flight: fmt.Sprint("flight-", flightNumber.Add(1)), Replica: "r1"}
}

// fly claims a user's row as it is now.
func fly(t *testing.T, s Store, userID string) broker.Row {
	t.Helper()
	row := read(t, s, userID, "main")
	change, err := apply(t, s, row, newClaim(row))
	if err != nil {
		t.Fatalf("claiming: %v", err)
	}
	return change.Row
}

// apply applies an action, and holds what is stored to what the rule made of the row, field by field.
func apply(t *testing.T, s Store, row broker.Row, action broker.Action) (broker.Change, error) {
	t.Helper()
	change, err := s.Apply(t.Context(), row, action)
	if err == nil {
		stored := read(t, s, row.UserID, row.Provider)
		if diff := cmp.Diff(change.Row, stored, cmpopts.IgnoreFields(broker.Row{}, "Reading")); diff != "" {
			t.Errorf("what is stored after %T (-want +got):\n%s", action, diff)
		}
	}
	return change, err
}

func commitOf(flight broker.Row, tokens provider.Tokens) broker.Commit {
	commit := broker.Commit{Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: tokens}
	if tokens.RefreshToken != "" {
		commit.Successor = []byte("digest of " + string(tokens.RefreshToken))
	}
	return commit
}

func commit(t *testing.T, s Store, flight broker.Row, tokens provider.Tokens) error {
	t.Helper()
	_, err := apply(t, s, flight, commitOf(flight, tokens))
	return err
}

func settle(t *testing.T, s Store, flight broker.Row, phase broker.Phase, after time.Duration) error {
	t.Helper()
	verdict := broker.Verdict{Flight: flight.FlightID, Presented: flight.Digest, Token: flight.RefreshToken, Phase: phase, After: after}
	if phase != broker.Ready {
		verdict.Reason = string(phase)
	}
	_, err := apply(t, s, flight, verdict)
	return err
}

func refresh(t *testing.T, s Store, userID string, tokens provider.Tokens) {
	t.Helper()
	if err := commit(t, s, fly(t, s, userID), tokens); err != nil {
		t.Fatalf("committing: %v", err)
	}
}

func flightSwaps(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	first := fly(t, s, alice)
	stored := read(t, s, alice, "main")
	equal(t, "the claim as it is stored", []any{first.FlightID, "r1", broker.Refreshing, first.Version}, []any{stored.FlightID, stored.Replica, stored.Phase, stored.Version})
	equal(t, "the times of the claim", []time.Time{first.ClaimedAt, first.PresentedAt}, []time.Time{stored.ClaimedAt, stored.PresentedAt})
	if err := commit(t, s, first, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	second := read(t, s, alice, "main")
	equal(t, "rotated", []any{secret.Text("rt-2"), secret.Text("at-2"), broker.Ready, broker.RotationYes}, []any{second.RefreshToken, second.AccessToken, second.Phase, second.Rotates})
	if second.Version <= first.Version {
		t.Errorf("the version went from %d to %d, want it to grow", first.Version, second.Version)
	}
	if err := commit(t, s, first, tokensOf("rt-2", "at-2")); err != nil {
		t.Errorf("the same commit once more, its acknowledgement lost: got %v, want nil", err)
	}
	refresh(t, s, alice, tokensOf("", "at-3"))
	third := read(t, s, alice, "main")
	equal(t, "not rotated: the refresh token is kept", []secret.Text{"rt-2", "at-3"}, []secret.Text{third.RefreshToken, third.AccessToken})
	connect(t, s, grantOf("alice", tokensOf("rt-9", "at-9")))
	want(t, "a successor of a token that is no longer stored", commit(t, s, first, tokensOf("rt-x", "at-x")), broker.ErrSuperseded)
	equal(t, "the login's stays", secret.Text("rt-9"), read(t, s, alice, "main").RefreshToken)
}

func oneClaim(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	row := read(t, s, alice, "main")
	results := make([]error, 12)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { _, results[i] = s.Apply(context.Background(), row, newClaim(row)) })
	}
	all.Wait()
	given := 0
	for _, err := range results {
		if err == nil {
			given++
		} else if !errors.Is(err, broker.ErrClaimed) {
			t.Errorf("a claim that lost: got %v, want ErrClaimed", err)
		}
	}
	if given != 1 {
		t.Errorf("%d claims were given, want 1", given)
	}
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	old := read(t, s, bob, "main")
	refresh(t, s, bob, tokensOf("rt-3", "at-3"))
	_, err := s.Apply(t.Context(), old, newClaim(old))
	want(t, "a claim on a row as it was before", err, broker.ErrSuperseded)
	old.UserID = "no such user"
	_, err = s.Apply(t.Context(), old, newClaim(old))
	want(t, "a claim on a row that is not there", err, broker.ErrSuperseded)
}

func claimRecognised(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	row := read(t, s, alice, "main")
	claim := newClaim(row)
	first, err := s.Apply(t.Context(), row, claim)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Apply(t.Context(), row, claim)
	if err != nil || again.Row.Version != first.Row.Version || again.Row.FlightID != claim.Flight {
		t.Errorf("the same claim again: got version %d and %v, want version %d and nil", again.Row.Version, err, first.Row.Version)
	}
}

// A replayed spool record has no row at hand, and another row may have been read long ago.
func notAtHand(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	old := read(t, s, alice, "main")
	bare := broker.Row{Connection: broker.Connection{UserID: alice, Provider: "main"}}
	flight := fly(t, s, alice)
	for what, row := range map[string]broker.Row{"none": bare, "one of before": old} {
		if _, err := apply(t, s, row, commitOf(flight, tokensOf("rt-2", "at-2"))); err != nil {
			t.Errorf("a commit with %s at hand: got %v, want nil", what, err)
		}
	}
	equal(t, "the successor", secret.Text("rt-2"), read(t, s, alice, "main").RefreshToken)
	flight = fly(t, s, alice)
	bare.Version = flight.Version
	verdict := broker.Verdict{Flight: flight.FlightID, Presented: flight.Digest, Phase: broker.Suspect, Reason: "suspect", After: time.Minute}
	if _, err := apply(t, s, bare, verdict); err != nil {
		t.Errorf("a verdict with a row at hand that was never read: got %v, want nil", err)
	}
	row := read(t, s, alice, "main")
	if rest := row.NextAttemptAt.Sub(row.Reading.Database); row.Phase != broker.Suspect || rest < 50*time.Second || rest > time.Minute {
		t.Errorf("the row is %s and rests for %s, want suspect, for a minute", row.Phase, rest)
	}
	_, err := s.Apply(t.Context(), broker.Row{Connection: broker.Connection{UserID: "no such user", Provider: "main"}}, verdict)
	want(t, "a row that is not there", err, broker.ErrSuperseded)
}

func verdictsStored(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	flight := fly(t, s, alice)
	if err := settle(t, s, flight, broker.Broken, 0); err != nil {
		t.Fatal(err)
	}
	broken := read(t, s, alice, "main")
	equal(t, "broken, and its tokens are kept", []any{broker.Broken, secret.Text("rt-1"), secret.Text("at-1")}, []any{broken.Phase, broken.RefreshToken, broken.AccessToken})
	if err := commit(t, s, flight, tokensOf("rt-2", "at-2")); err != nil {
		t.Fatal(err)
	}
	revived := read(t, s, alice, "main")
	equal(t, "a successor of the judged token revives it", []any{broker.Ready, "", secret.Text("rt-2")}, []any{revived.Phase, revived.Reason, revived.RefreshToken})

	bob := connect(t, s, grantOf("bob", tokensOf("rt-b", "at-b")))
	before := read(t, s, bob, "main")
	flight = fly(t, s, bob)
	verdict := broker.Verdict{Flight: flight.FlightID, Presented: flight.Digest, Phase: broker.Ready, After: 200 * time.Millisecond, Unsent: true, First: true, Failure: "status 418"}
	if _, err := apply(t, s, flight, verdict); err != nil {
		t.Fatal(err)
	}
	after := read(t, s, bob, "main")
	if left := after.NextAttemptAt.Sub(after.Reading.Database); left <= 0 || left > 300*time.Millisecond {
		t.Errorf("the row rests for %s, want about 200 ms", left)
	}
	equal(t, "what the provider answered", "status 418", after.Failure)
	var notYet *broker.NotYet
	if _, err := s.Apply(t.Context(), after, newClaim(after)); !errors.As(err, &notYet) {
		t.Errorf("a claim before that: got %v, want NotYet", err)
	}
	after.Version, after.NextAttemptAt, after.Failure, after.FailingSince = before.Version, time.Time{}, "", time.Time{}
	equal(t, "the rest of the row", before.Connection, after.Connection)
	equal(t, "nothing says that the token was presented", time.Time{}, after.PresentedAt)
}

func orphans(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	connect(t, s, grantOf("carol", tokensOf("rt-3", "at-3")))
	flight := fly(t, s, alice)
	if err := settle(t, s, fly(t, s, bob), broker.Suspect, 0); err != nil {
		t.Fatal(err)
	}
	dave := connect(t, s, grantOf("dave", tokensOf("rt-4", "at-4")))
	if err := settle(t, s, fly(t, s, dave), broker.Suspect, time.Hour); err != nil {
		t.Fatal(err)
	}
	if young, _, err := s.Orphans(t.Context(), broker.Look{Replica: "r2", Rested: time.Second}); err != nil || len(young) > 0 {
		t.Errorf("found %d of the last second, %v; want none", len(young), err)
	}
	time.Sleep(1100 * time.Millisecond)
	beaten, err := s.Beat(t.Context(), broker.Beat{Replica: "r2"})
	if err != nil {
		t.Fatal(err)
	}
	find := func(look broker.Look) map[string]broker.Orphan {
		found, heard, err := s.Orphans(t.Context(), look)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the heartbeats that come with it", beaten.Beats, heard.Beats)
		byUser := map[string]broker.Orphan{}
		for _, one := range found {
			byUser[one.UserID] = one
		}
		return byUser
	}
	for name, row := range map[string]struct {
		look   broker.Look
		flight bool
	}{
		"another replica's flight":                         {broker.Look{Replica: "r2", Overdue: time.Hour}, true},
		"one of a replica that is healthy":                 {broker.Look{Replica: "r2", Healthy: []string{"r1"}, Overdue: time.Hour}, false},
		"one of a healthy replica that lasts for too long": {broker.Look{Replica: "r2", Healthy: []string{"r1"}, Overdue: time.Second}, true},
		"its own": {broker.Look{Replica: "r1", Healthy: []string{"r1"}, Overdue: time.Hour}, true},
	} {
		found := find(row.look)
		orphan, there := found[alice]
		if there != row.flight {
			t.Errorf("%s: found is %t, want %t", name, there, row.flight)
		}
		if there && (orphan.FlightID != flight.FlightID || orphan.RefreshToken != "rt-1" || orphan.Reading.Now().Sub(orphan.PresentedAt) < time.Second) {
			t.Errorf("%s: found flight %s presented at %s", name, orphan.FlightID, orphan.PresentedAt)
		}
		if doubt := found[bob]; doubt.Phase != broker.Suspect || doubt.FlightID != "" {
			t.Errorf("%s: the doubt is %s, want suspect", name, doubt.Phase)
		}
		if _, early := found[dave]; early || len(found) > 2 {
			t.Errorf("%s: found %d, among them a doubt that is not due: %t", name, len(found), early)
		}
	}
	all := broker.Look{Replica: "r2", Overdue: time.Hour}
	if found := find(all); found[alice].ProviderRotates || found[bob].ProviderRotates {
		t.Error("the provider rotates, and no refresh has shown it")
	}
	elsewhere := grantOf("there", tokensOf("rt-5", "at-5"))
	elsewhere.UserID, elsewhere.Provider = alice, "second"
	connect(t, s, elsewhere)
	row := read(t, s, alice, "second")
	claimed, err := apply(t, s, row, newClaim(row))
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, claimed.Row, tokensOf("rt-6", "at-6")); err != nil {
		t.Fatal(err)
	}
	if found := find(all); found[alice].ProviderRotates {
		t.Error("the provider rotates because another provider does")
	}
	refresh(t, s, connect(t, s, grantOf("erin", tokensOf("rt-7", "at-7"))), tokensOf("rt-8", "at-8"))
	if found := find(all); !found[alice].ProviderRotates || !found[bob].ProviderRotates {
		t.Error("the provider rotates not, and another connection's refresh has shown that it does")
	}
}

func beats(t *testing.T, s Store) {
	step := broker.Step{Until: now(), By: 1234 * time.Millisecond}
	beat := func(id string) map[string]int64 {
		pulse, err := s.Beat(t.Context(), broker.Beat{Replica: id, Offered: "an incarnation before", Stepped: step})
		if err != nil {
			t.Fatal(err)
		}
		if !pulse.Settled || pulse.Offered[id] {
			t.Errorf("the database is settled: %t; %s has offered what it had stored: %t; want true, false", pulse.Settled, id, pulse.Offered[id])
		}
		for _, each := range pulse.Stepped {
			equal(t, "a step of the clock that was seen", step.By, each.By)
			equal(t, "until when", step.Until, each.Until)
		}
		if len(pulse.Stepped) != len(pulse.Beats) {
			t.Errorf("%d of %d replicas say what they saw of the clock", len(pulse.Stepped), len(pulse.Beats))
		}
		return pulse.Beats
	}
	first := beat("r1")
	time.Sleep(5 * time.Millisecond)
	second := beat("r2")
	if len(second) != 2 || second["r1"] != first["r1"] {
		t.Fatalf("the other replica's heartbeat changed from %v to %v", first, second)
	}
	third := beat("r1")
	if third["r1"] == first["r1"] || third["r2"] != second["r2"] {
		t.Errorf("a heartbeat did not change: %v then %v", second, third)
	}
	if err := s.Gone(t.Context(), "r1"); err != nil {
		t.Fatal(err)
	}
	if pulse, err := s.Beat(t.Context(), broker.Beat{Replica: "r2"}); err != nil || !pulse.Gone["r1"] || pulse.Gone["r2"] {
		t.Errorf("gone are %v, %v; want r1 alone", pulse.Gone, err)
	}
}

func tombstone(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	flight := fly(t, s, alice)
	if err := s.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	grave := read(t, s, alice, "main")
	equal(t, "the tombstone", []any{broker.Disconnected, secret.Text(""), secret.Text(""), 0}, []any{grave.Phase, grave.RefreshToken, grave.AccessToken, len(grave.Digest)})
	rows, err := s.Rows(t.Context(), alice)
	if err != nil || len(rows) != 1 || rows[0].Phase != broker.Disconnected || rows[0].Version != grave.Version {
		t.Fatalf("all of the user's rows: %d, %v; want the tombstone", len(rows), err)
	}
	one := rows[0].Reading
	if off := one.Now().Sub(grave.Reading.Now()).Abs(); off > time.Second || one.Received.Before(one.Sent) {
		t.Errorf("it was read %s off, and received %s after it was sent", off, one.Received.Sub(one.Sent))
	}
	want(t, "a refresh that comes back late", commit(t, s, flight, tokensOf("rt-2", "at-2")), broker.ErrSuperseded)
	equal(t, "is to be revoked, as what was disconnected is", map[secret.Text]bool{"rt-1": true, "rt-2": true}, revocations(t, s, "main"))
	want(t, "twice", s.Disconnect(t.Context(), alice, "main"), broker.ErrNotConnected)
	want(t, "what never was", s.Disconnect(t.Context(), alice, "other"), broker.ErrNotConnected)
	want(t, "a user who is not there", s.Disconnect(t.Context(), "no such user", "main"), broker.ErrNotConnected)
	if rows, err := s.Rows(t.Context(), "no such user"); err != nil || len(rows) > 0 {
		t.Errorf("a user who is not there has %d rows, %v", len(rows), err)
	}
	connect(t, s, grantOf("alice", tokensOf("rt-9", "at-9")))
	if again := read(t, s, alice, "main"); again.Version <= grave.Version || again.Phase != broker.Ready {
		t.Errorf("connected again: version %d after %d, phase %s; want a greater one, ready", again.Version, grave.Version, again.Phase)
	}
}

const lease = 15 * time.Second
