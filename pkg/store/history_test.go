package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/audit"
)

// What pages show of the audit: a person's own, of what was done and not refused, by provider and by day.
func TestTheHistoryOfAPerson(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		noon := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
		at := noon
		trail := audit.NewTrail(s.Audit, "one", func() time.Time { return at })
		add := func(daysAgo int, event audit.Event) {
			at = noon.AddDate(0, 0, -daysAgo)
			event.UserID = "alice"
			if event.Reason == "bob's" {
				event.UserID, event.Reason = "bob", ""
			}
			trail.Add(event, "request", "10.0.0.7")
		}
		add(40, audit.Event{Action: audit.Handout, Provider: "a", Actor: "pod n/long-ago 1"})
		add(29, audit.Event{Action: audit.Mint, Audience: "x", Actor: "pod n/first 1"})
		add(2, audit.Event{Action: audit.Handout, Provider: "a", Actor: "pod n/one 1"})
		add(1, audit.Event{Action: audit.Handout, Provider: "a", Actor: "pod n/two 1"})
		add(0, audit.Event{Action: audit.Handout, Provider: "b", Actor: "pod n/three 1"})
		add(0, audit.Event{Action: audit.Handout, Provider: "a", Actor: "pod n/refused 1", Reason: "no"})
		add(0, audit.Event{Action: audit.Handout, Provider: "a", Actor: "pod n/bobs 1", Reason: "bob's"})
		add(0, audit.Event{Action: audit.Login, Provider: "a"})
		if err := trail.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		last, err := s.Audit.Handouts(t.Context(), "alice", []string{"a", "b", "never"})
		if err != nil {
			t.Fatal(err)
		}
		if len(last) != 2 || last["a"].Actor != "pod n/two 1" || !last["a"].At.Equal(noon.AddDate(0, 0, -1)) || last["b"].Actor != "pod n/three 1" {
			t.Errorf("the last of each provider are %+v", last)
		}
		if none, err := s.Audit.Handouts(t.Context(), "alice", nil); err != nil || len(none) != 0 {
			t.Errorf("of no provider: %v, %v", none, err)
		}
		days, err := s.Audit.Days(t.Context(), "alice", 30, noon)
		want := make([]int64, 30)
		want[0], want[27], want[28], want[29] = 1, 1, 1, 1
		if diff := cmp.Diff(want, days); diff != "" || err != nil {
			t.Errorf("%v, (-want +got)\n%s", err, diff)
		}
	})
}

// What is typed is the beginning of a name, and no pattern.
func TestPeopleAreFoundByTheBeginningOfTheirNames(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		db := raw(t, url)
		for id, name := range map[string]string{"1": "alice", "2": "alina", "3": "bob", "4": "a_b", "5": "a%b", "6": `a\\b`} {
			if _, err := db.ExecContext(t.Context(), "INSERT INTO users (id, issuer, subject, username, created_at) VALUES ('"+id+"', 'i', '"+id+"', '"+name+"', 1)"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.ExecContext(t.Context(), "INSERT INTO connections (user_id, provider, subject, phase, version, connected_at, updated_at) VALUES ('1', 'z', 's', 'ready', 1, 1, 1), ('1', 'a', 's', 'suspect', 1, 1, 1), ('1', 'b', 's', 'broken', 1, 1, 1), ('1', 'c', 's', 'disconnected', 1, 1, 1)"); err != nil {
			t.Fatal(err)
		}
		for beginning, want := range map[string][]string{
			"al": {"alice", "alina"}, "lice": nil, "a_": {"a_b"}, "a%": {"a%b"}, `a\`: {`a\\b`}, "%": nil, "bob": {"bob"}, "ALICE": nil,
		} {
			t.Run(beginning, func(t *testing.T) {
				found, err := s.Users.Search(t.Context(), beginning, 10)
				var names []string
				for _, one := range found {
					names = append(names, one.Username)
				}
				if beginning == "ALICE" && len(names) == 1 { // SQLite's LIKE knows no case of ASCII letters
					names = nil
				}
				if diff := cmp.Diff(want, names); diff != "" || err != nil {
					t.Errorf("%v, (-want +got)\n%s", err, diff)
				}
			})
		}
		found, err := s.Users.Search(t.Context(), "", 2)
		if err != nil || len(found) != 2 {
			t.Errorf("all, up to two: %d, %v", len(found), err)
		}
		alice, err := s.Users.Search(t.Context(), "alice", 2)
		if err != nil || cmp.Diff([]string{"a", "z"}, alice[0].Providers) != "" || alice[0].Connections != 2 {
			t.Errorf("alice has %+v, %v", alice, err)
		}
	})
}
