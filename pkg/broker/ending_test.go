package broker_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/broker"
)

const day = 24 * time.Hour

// endedAt are grants of as many users that ended at these ages, a day after another, the first one last.
func endedAt(ages ...time.Duration) (ended []broker.Ended) {
	at := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	for i, age := range ages {
		end := at.Add(-time.Duration(i) * day)
		ended = append(ended, broker.Ended{Provider: "main", UserID: fmt.Sprint("u", i), ConnectedAt: end.Add(-age), EndedAt: end})
	}
	return ended
}

func TestTheHabitsOfProviders(t *testing.T) {
	times := func(count int, age time.Duration) (ages []time.Duration) {
		for range count {
			ages = append(ages, age)
		}
		return ages
	}
	of := func(user string, ended []broker.Ended) []broker.Ended {
		for i := range ended {
			ended[i].UserID = user
		}
		return ended
	}
	atOnce := func(ended []broker.Ended) []broker.Ended {
		for i := range ended {
			moved := ended[0].EndedAt.Add(time.Duration(i) * time.Hour).Sub(ended[i].EndedAt)
			ended[i].ConnectedAt, ended[i].EndedAt = ended[i].ConnectedAt.Add(moved), ended[i].EndedAt.Add(moved)
		}
		return ended
	}
	for name, row := range map[string]struct {
		ended []broker.Ended
		want  time.Duration // 0: there is no habit
	}{
		"none":                                   {},
		"three users agree, and the smallest is": {endedAt(30*day+time.Hour, 30*day, 31*day), 30 * day},
		"two users are too few":                  {endedAt(30*day, 30*day), 0},
		"one user is too few":                    {of("u", endedAt(times(5, 30*day)...)), 0},
		"within an hour, where grants are short": {endedAt(8*time.Hour, 9*time.Hour, 8*time.Hour+30*time.Minute), 8 * time.Hour},
		"they do not agree":                      {endedAt(10*day, 20*day, 30*day), 0},
		"a third disagrees":                      {endedAt(30*day, 2*day, 30*day, 30*day, 9*day, 30*day), 30 * day},
		"half is no majority":                    {endedAt(30*day, 30*day, 30*day, 2*day, 9*day, 14*day), 0},
		"all in one incident":                    {atOnce(endedAt(times(6, 30*day)...)), 0},
		"what was before the latest twenty":      {endedAt(append(times(20, 14*day), times(30, 30*day)...)...), 14 * day},
		"the habit has changed":                  {endedAt(append(times(11, 14*day), times(9, 30*day)...)...), 14 * day},
	} {
		t.Run(name, func(t *testing.T) {
			others := endedAt(time.Hour, day, 9*day)
			for i := range others {
				others[i].Provider = "second"
			}
			want := broker.Habits{}
			if row.want != 0 {
				want["main"] = row.want
			}
			if diff := cmp.Diff(want, broker.HabitsOf(append(row.ended, others...))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Which ends of grants show how old a provider lets them become.
func TestEndsThatAreObserved(t *testing.T) {
	at := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		change func(was, next *broker.Row)
		want   bool
	}{
		"refused by the provider":     {func(_, _ *broker.Row) {}, true},
		"a rotation was lost":         {func(_, next *broker.Row) { next.Reason = "lost_in_rotation" }, false},
		"another account answered":    {func(_, next *broker.Row) { next.Reason = "identity_changed" }, false},
		"disconnected":                {func(_, next *broker.Row) { next.Phase, next.Reason = broker.Disconnected, "" }, false},
		"in doubt":                    {func(_, next *broker.Row) { next.Phase = broker.Suspect }, false},
		"it was broken before":        {func(was, _ *broker.Row) { was.Phase = broker.Broken }, false},
		"the provider stated the end": {func(_, next *broker.Row) { next.RefreshExpiresAt = at.Add(day) }, false},
		"idle for a week":             {func(_, next *broker.Row) { next.AccessIssuedAt = at.Add(-7 * day) }, false},
		"idle, but within a token's own life": {func(_, next *broker.Row) {
			next.AccessIssuedAt, next.AccessExpiresAt = at.Add(-7*day), at.Add(time.Hour)
		}, true},
		"it is not known when it was served":       {func(_, next *broker.Row) { next.AccessIssuedAt = time.Time{} }, false},
		"connected later, by a clock that is back": {func(_, next *broker.Row) { next.ConnectedAt = at.Add(time.Second) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			next := broker.Row{Connection: broker.Connection{
				UserID: "u", Provider: "main", Phase: broker.Broken, Reason: "revoked", RefreshToken: "rt", ConnectedAt: at.Add(-30 * day),
				AccessIssuedAt: at.Add(-time.Hour), AccessExpiresAt: at.Add(-time.Minute),
			}}
			was := next
			was.Phase, was.Reason = broker.Refreshing, ""
			row.change(&was, &next)
			ended, observed := broker.ObserveEnd(was, next, at)
			if observed != row.want {
				t.Errorf("observed: %t, want %t", observed, row.want)
			}
			if want := (broker.Ended{Provider: "main", UserID: "u", ConnectedAt: at.Add(-30 * day), EndedAt: at}); observed && ended != want {
				t.Errorf("got %v, want %v", ended, want)
			}
		})
	}
}

func TestWhenAGrantEnds(t *testing.T) {
	now := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	habits := broker.Habits{"main": 30 * day}
	for name, row := range map[string]struct {
		connection broker.Connection
		want       time.Time
		expected   bool
	}{
		"stated": {broker.Connection{Provider: "main", RefreshToken: "rt", RefreshExpiresAt: now.Add(day), ConnectedAt: now}, now.Add(day), false},
		"the access token is the grant": {
			broker.Connection{Provider: "second", AccessExpiresAt: now.Add(time.Hour), ConnectedAt: now}, now.Add(time.Hour), false,
		},
		"expected":                 {broker.Connection{Provider: "main", RefreshToken: "rt", ConnectedAt: now.Add(-29 * day)}, now.Add(day), true},
		"it has outlived the age":  {broker.Connection{Provider: "main", RefreshToken: "rt", ConnectedAt: now.Add(-30 * day)}, time.Time{}, false},
		"nothing is known":         {broker.Connection{Provider: "second", RefreshToken: "rt", ConnectedAt: now}, time.Time{}, false},
		"broken":                   {broker.Connection{Provider: "main", Phase: broker.Broken, RefreshToken: "rt", ConnectedAt: now}, time.Time{}, false},
		"disconnected":             {broker.Connection{Provider: "main", Phase: broker.Disconnected, ConnectedAt: now}, time.Time{}, false},
		"no token, as a page sees": {broker.Connection{Provider: "main", ConnectedAt: now}, now.Add(30 * day), true},
	} {
		t.Run(name, func(t *testing.T) {
			if at, expected := habits.Ending(row.connection, now); !at.Equal(row.want) || expected != row.expected {
				t.Errorf("got %v, %t; want %v, %t", at, expected, row.want, row.expected)
			}
		})
	}
}

// A habit is learnt from refreshes that the provider refuses; afterwards it is known of a token in memory, without a
// statement. It ends nothing: a grant that has reached the age is served.
func TestAHabitIsLearnt(t *testing.T) {
	h := newFixture(t)
	db, err := sql.Open("sqlite", h.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(statement string, arguments ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	connectedFor := func(userID string, age time.Duration) {
		t.Helper()
		exec("UPDATE connections SET connected_at = connected_at - ? WHERE user_id = ?", age.Milliseconds(), userID)
		h.Forget(userID, "main")
	}
	alice := h.connect(t, "main", "", "alice", "a").UserID
	for i := range 3 {
		bob := h.connect(t, "main", "", "bob", "b").UserID
		connectedFor(bob, 30*day+time.Duration(i)*time.Hour)
		h.main.Revoke("bob")
		h.advance(2 * time.Minute)
		if _, err := h.Token(t.Context(), bob, "main", time.Minute); !errors.Is(err, broker.ErrGrantBroken) {
			t.Fatalf("got %v, want %v", err, broker.ErrGrantBroken)
		}
		// He is another person each time, and a day later.
		exec("UPDATE grants_ended SET user_id = ?, connected_at = connected_at + ?, ended_at = ended_at + ? WHERE user_id = ?", fmt.Sprint("user ", i), i*86400000, i*86400000, bob)
	}
	h.clock.Store(0)
	connectedFor(alice, 26*day)
	if token := h.token(t, alice, time.Second); !token.GrantEnds.IsZero() {
		t.Errorf("before it is learnt the end is %v", token.GrantEnds)
	}
	if err := h.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := h.count()
	token := h.token(t, alice, time.Second)
	if left := time.Until(token.GrantEnds); !token.GrantEndExpected || left < 4*day-time.Minute || left > 4*day+time.Minute {
		t.Errorf("got an end at %v, expected: %t; want one in four days", token.GrantEnds, token.GrantEndExpected)
	}
	if h.count() != before {
		t.Errorf("that took %d statements", h.count()-before)
	}
	connection, err := h.Connection(t.Context(), alice, "main")
	if err != nil {
		t.Fatal(err)
	}
	if at, expected := h.Ending(connection); !expected || at.Sub(token.GrantEnds).Abs() > time.Second {
		t.Errorf("a page is told %v, %t; want %v", at, expected, token.GrantEnds)
	}
	connectedFor(alice, 30*day)
	if token := h.token(t, alice, time.Second); !token.GrantEnds.IsZero() {
		t.Errorf("it has outlived the age, and is said to end at %v", token.GrantEnds)
	}
}
