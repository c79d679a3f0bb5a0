package store_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/store"
)

const day = 24 * time.Hour

// ending is a store whose connections are made older than they are.
type ending struct {
	*store.Store
	db *sql.DB
}

func openEnding(t *testing.T, url string) ending {
	t.Helper()
	return ending{open(t, url, newKeys(t)), raw(t, url)}
}

// connected is a connection of so long ago, whose end is stated where it ends in some time.
func (e ending) connected(t *testing.T, name string, ago, endsIn time.Duration) (userID string) {
	t.Helper()
	login := grant(name)
	if endsIn != 0 {
		login.Tokens.RefreshExpiresAt = time.Now().Add(endsIn)
	}
	stored, err := e.Logins.Connect(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, e.db, fmt.Sprintf("UPDATE connections SET connected_at = connected_at - %d, end_stated_at = NULL WHERE user_id = '%s'", ago.Milliseconds(), stored.UserID))
	return stored.UserID
}

// row reads a connection.
func (e ending) row(t *testing.T, userID string) broker.Row {
	t.Helper()
	row, err := e.Connections.Row(t.Context(), userID, "main")
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// claimed claims a connection.
func (e ending) claimed(t *testing.T, userID string) broker.Row {
	t.Helper()
	change, err := e.Connections.Apply(t.Context(), e.row(t, userID), claimOf(e.row(t, userID)))
	if err != nil {
		t.Fatal(err)
	}
	return change.Row
}

// refused is a provider's verdict at a refresh.
func (e ending) refused(t *testing.T, userID, reason string) {
	t.Helper()
	row := e.claimed(t, userID)
	verdict := broker.Verdict{Flight: row.FlightID, Presented: row.Digest, Token: row.RefreshToken, Phase: broker.Broken, Reason: reason}
	if _, err := e.Connections.Apply(t.Context(), row, verdict); err != nil {
		t.Fatal(err)
	}
}

// habit lets the provider have ended grants at an age.
func (e ending) habit(t *testing.T, age time.Duration) {
	t.Helper()
	for i := range 3 {
		ended := time.Now().Add(-time.Duration(i) * day).UnixMilli()
		exec(t, e.db, fmt.Sprintf("INSERT INTO grants_ended (provider, user_id, connected_at, ended_at) VALUES ('main', 'user %d', %d, %d)", i, ended-age.Milliseconds(), ended))
	}
}

// taken is what is told now: names, and days before the end.
func (e ending) taken(t *testing.T) (told []string) {
	t.Helper()
	for {
		notice, due, err := e.Endings.TakeNotice(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if !due {
			return told
		}
		told = append(told, fmt.Sprint(notice.Username, " ", notice.Days))
		if err := e.Endings.Noticed(t.Context(), notice); err != nil {
			t.Fatal(err)
		}
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(5*time.Second)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Grants that their provider ended are noted with the verdict; those that ended otherwise are not.
func TestGrantsThatProvidersEndedAreNoted(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		e := openEnding(t, url)
		alice := e.connected(t, "alice", 30*day, 0)
		e.refused(t, alice, "revoked")
		e.refused(t, e.connected(t, "bob", 30*day, 40*day), "revoked")
		e.refused(t, e.connected(t, "carol", 30*day, 0), "lost_in_rotation")
		if err := e.Connections.Disconnect(t.Context(), e.connected(t, "dave", 30*day, 0), "main"); err != nil {
			t.Fatal(err)
		}
		if err := e.Users.SetDisabled(t.Context(), "dave", true); err != nil {
			t.Fatal(err)
		}
		got, err := e.Endings.Ended(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		same(t, "what is noted", []broker.Ended{{Provider: "main", UserID: alice, ConnectedAt: time.Now().Add(-30 * day), EndedAt: time.Now()}}, got)
	})
}

func TestTheLatestEndedGrantsAreKept(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		e := openEnding(t, url)
		for i := range 2 * broker.HabitsOfLatest {
			exec(t, e.db, fmt.Sprintf("INSERT INTO grants_ended (provider, user_id, connected_at, ended_at) VALUES ('main', 'u%d', 1, %d)", i, 1000+i))
		}
		exec(t, e.db, "INSERT INTO grants_ended (provider, user_id, connected_at, ended_at) VALUES ('second', 'u', 1, 2)")
		if err := e.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		kept, err := e.Endings.Ended(t.Context())
		if err != nil || len(kept) != broker.HabitsOfLatest+1 {
			t.Fatalf("%d are kept, %v; want %d of one provider and 1 of the other", len(kept), err, broker.HabitsOfLatest)
		}
		for _, one := range kept {
			if one.Provider == "main" && one.EndedAt.UnixMilli() < 1000+broker.HabitsOfLatest {
				t.Errorf("%v is kept, one of the oldest", one)
			}
		}
	})
}

// Who is told of a connection's end, and when.
func TestNoticesOfConnections(t *testing.T) {
	for name, each := range map[string]struct {
		ago, endsIn time.Duration
		habit       time.Duration
		prepare     func(t *testing.T, e ending, alice string)
		want        []string
	}{
		"in six days":                        {ago: 30 * day, endsIn: 6 * day, want: []string{"alice 7"}},
		"in half a day":                      {ago: 30 * day, endsIn: 12 * time.Hour, want: []string{"alice 1"}},
		"in eight days":                      {ago: 30 * day, endsIn: 8 * day},
		"it has ended":                       {ago: 30 * day, endsIn: -time.Hour},
		"of two days, the last one is news":  {ago: day + time.Hour, endsIn: 23 * time.Hour, want: []string{"alice 1"}},
		"of two days, a week ahead is none":  {ago: time.Hour, endsIn: 47 * time.Hour},
		"it lives for eight hours":           {ago: time.Hour, endsIn: 7 * time.Hour},
		"nothing is known of its end":        {ago: 300 * day},
		"it is expected to end in five days": {ago: 25 * day, habit: 30 * day, want: []string{"alice 7"}},
		"it has outlived what is expected":   {ago: 31 * day, habit: 30 * day},
		"the provider has the word":          {ago: 25 * day, endsIn: 100 * day, habit: 30 * day},
		"a grant expected to live for hours": {ago: time.Hour, habit: 8 * time.Hour},
		"disabled": {ago: 30 * day, endsIn: 6 * day, prepare: func(t *testing.T, e ending, _ string) {
			t.Helper()
			if err := e.Users.SetDisabled(t.Context(), "alice", true); err != nil {
				t.Fatal(err)
			}
		}},
		"broken": {ago: 30 * day, endsIn: 6 * day, prepare: func(t *testing.T, e ending, alice string) { t.Helper(); e.refused(t, alice, "revoked") }},
		"disconnected": {ago: 30 * day, endsIn: 6 * day, prepare: func(t *testing.T, e ending, alice string) {
			t.Helper()
			if err := e.Connections.Disconnect(t.Context(), alice, "main"); err != nil {
				t.Fatal(err)
			}
		}},
		"its end moves on with every use": {ago: 30 * day, endsIn: time.Hour, prepare: func(t *testing.T, e ending, alice string) {
			t.Helper()
			e.extend(t, alice, 20*time.Hour)
		}},
		"the same end, stated again": {ago: 30 * day, endsIn: 6*day + time.Second, prepare: func(t *testing.T, e ending, alice string) {
			t.Helper()
			e.extend(t, alice, 6*day)
		}, want: []string{"alice 7"}},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, url string) {
				e := openEnding(t, url)
				alice := e.connected(t, "alice", each.ago, each.endsIn)
				if each.habit != 0 {
					e.habit(t, each.habit)
				}
				if each.prepare != nil {
					each.prepare(t, e, alice)
				}
				same(t, "told", each.want, e.taken(t))
				same(t, "told again", []string(nil), e.taken(t))
			})
		})
	}
}

// extend is a refresh after which the grant ends in some time.
func (e ending) extend(t *testing.T, userID string, endsIn time.Duration) {
	t.Helper()
	row := e.claimed(t, userID)
	tokens := grant("extended").Tokens
	tokens.RefreshExpiresAt = time.Now().Add(endsIn)
	commit := broker.Commit{Flight: row.FlightID, Version: row.Version, Presented: row.Digest, Token: row.RefreshToken, Tokens: tokens, Successor: []byte("next")}
	if _, err := e.Connections.Apply(t.Context(), row, commit); err != nil {
		t.Fatal(err)
	}
}

// A notice is one replica's at a time, comes back where it was not sent, and comes once; a new login begins anew.
func TestANoticeIsTakenOnce(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		e := openEnding(t, url)
		alice := e.connected(t, "alice", 30*day, 6*day)
		version := e.row(t, alice).Version
		take := func(want bool) (notice apitoken.ConnectionNotice) {
			t.Helper()
			notice, due, err := e.Endings.TakeNotice(t.Context(), time.Minute)
			if err != nil || due != want {
				t.Fatalf("got %t, %v; want %t", due, err, want)
			}
			return notice
		}
		want := apitoken.ConnectionNotice{UserID: alice, Username: "alice", Provider: "main", ConnectedAt: time.Now().Add(-30 * day), EndsAt: time.Now().Add(6 * day), Days: 7}
		same(t, "the notice", want, take(true))
		take(false)
		bob := e.connected(t, "bob", 30*day, 6*day+time.Hour)
		same(t, "another one, while the first is being sent", bob, take(true).UserID)
		exec(t, e.db, "UPDATE connections SET phase = 'disconnected' WHERE user_id = '"+bob+"'")
		exec(t, e.db, "UPDATE grant_notices SET notice_at = notice_at - 60000")
		again := take(true)
		if err := e.Endings.Noticed(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		take(false)
		if got := e.row(t, alice).Version; got != version {
			t.Errorf("the row has version %d, and had %d", got, version)
		}
		exec(t, e.db, fmt.Sprintf("UPDATE connections SET refresh_expires_at = refresh_expires_at - %d", (5*day+time.Hour).Milliseconds()))
		same(t, "a day ahead", []string{"alice 1"}, e.taken(t))
		e.connected(t, "alice", 30*day, 6*day)
		same(t, "after a new login", []string{"alice 7"}, e.taken(t))
	})
}

func TestManyReplicasTakeANotice(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		e := openEnding(t, url)
		const replicas, rounds = 8, 10
		e.connected(t, "alice", 30*day, 6*day)
		for range rounds { // the first ones open the connections, one after another
			taken, begin := make(chan bool, replicas), make(chan struct{})
			for range replicas {
				go func() {
					<-begin
					_, due, err := e.Endings.TakeNotice(t.Context(), time.Minute)
					if err != nil {
						t.Error(err)
					}
					taken <- due
				}()
			}
			close(begin)
			count := 0
			for range replicas {
				if <-taken {
					count++
				}
			}
			if count != 1 {
				t.Fatalf("%d of them took it, want one", count)
			}
			exec(t, e.db, "DELETE FROM grant_notices")
		}
	})
}

// What is counted and what is listed agree with what the broker says of each connection.
func TestGrantsThatEndAreCountedAndListed(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		e := openEnding(t, url)
		e.habit(t, 30*day)
		e.connected(t, "today", 30*day, 12*time.Hour)
		e.connected(t, "this week", 30*day, 5*day)
		e.connected(t, "expected", 26*day, 0)
		e.connected(t, "outlived", 31*day, 0)
		e.connected(t, "next week", 30*day, 9*day)
		e.connected(t, "for hours", time.Hour, 7*time.Hour)
		e.connected(t, "disabled", 30*day, 4*day)
		if err := e.Users.SetDisabled(t.Context(), "disabled", true); err != nil {
			t.Fatal(err)
		}
		e.refused(t, e.connected(t, "broken", 30*day, 5*day), "revoked")
		soon, err := e.Endings.Soon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		same(t, "counted", []store.EndingSoon{{Provider: "main", Day: 1, Week: 3}}, soon)
		for _, each := range []struct {
			username string
			within   time.Duration
			want     []string
		}{
			{"", 7 * day, []string{"for hours", "today", "expected", "disabled", "this week"}},
			{"", 10 * time.Hour, []string{"for hours"}},
			{"expected", 7 * day, []string{"expected"}},
			{"next week", 7 * day, nil},
		} {
			listed, err := e.Connections.List(t.Context(), store.ConnectionFilter{Username: each.username, Within: each.within})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, one := range listed {
				names = append(names, one.Username)
				if one.Expected != (one.Username == "expected") || one.Ends.Before(time.Now()) || one.Ends.After(time.Now().Add(each.within)) {
					t.Errorf("%s ends at %v, expected: %t", one.Username, one.Ends, one.Expected)
				}
			}
			same(t, fmt.Sprint(each.username, " within ", each.within), each.want, names)
		}
		all, err := e.Connections.List(t.Context(), store.ConnectionFilter{})
		if err != nil || len(all) != 8 {
			t.Fatalf("%d connections, %v; want 8", len(all), err)
		}
		for _, one := range all {
			if none := one.Ends.IsZero(); none != (one.Username == "outlived" || one.Username == "broken") {
				t.Errorf("%s ends at %v", one.Username, one.Ends)
			}
		}
	})
}

// What is asked every minute finds its rows by an index, however many connections there are.
func TestEndingsAreFoundByAnIndex(t *testing.T) {
	url := databases["sqlite"](t)
	e := openEnding(t, url)
	for name, each := range map[string]struct{ where, index string }{
		"stated":   {"c.phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN c.refresh_token IS NULL THEN c.access_expires_at ELSE c.refresh_expires_at END > 1", "connections_by_end"},
		"expected": {"c.provider = 'main' AND c.phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN c.refresh_token IS NULL THEN c.access_expires_at ELSE c.refresh_expires_at END IS NULL AND c.connected_at > 1", "connections_without_end"},
	} {
		t.Run(name, func(t *testing.T) {
			var id, parent, unused int
			var plan string
			if err := e.db.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN SELECT c.user_id FROM connections c WHERE "+each.where).Scan(&id, &parent, &unused, &plan); err != nil {
				t.Fatal(err)
			}
			if want := "SEARCH c USING INDEX " + each.index; len(plan) < len(want) || plan[:len(want)] != want {
				t.Errorf("got %s; want %s", plan, want)
			}
		})
	}
}
