package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/audit"
	grants "github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/store"
)

// trailOf has a process mint tokens at times that are an hour apart, the first one long ago.
func trailOf(t *testing.T, s *store.Store, process string, count int) {
	t.Helper()
	at := time.Now().Add(-time.Duration(count) * time.Hour)
	trail := audit.NewTrail(s.Audit, process, func() time.Time { return at })
	for i := range count {
		trail.Add(audit.Event{
			Action: audit.Mint, UserID: "u-" + process, Username: "alice", Proof: "pod", Actor: "pod 10.0.0.7", Provider: "p", Audience: "files", Resource: "r", Client: "c", Token: fmt.Sprintf("%s-%d", process, i),
		}, "request", "10.0.0.7")
		at = at.Add(time.Hour)
	}
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func verified(t *testing.T, s *store.Store) audit.Verified {
	t.Helper()
	found, err := audit.Verify(t.Context(), s.Audit, nil)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Who alters the database without the keyring is found out.
func TestTheAuditIsAltered(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		s := open(t, url, keys)
		db := raw(t, url)
		for _, process := range []string{"one", "two", "three"} {
			trailOf(t, s, process, 10)
		}
		const second = "chain = (SELECT id FROM audit_chains WHERE number = 2)"
		for name, row := range map[string]struct{ do, says string }{
			"nothing":          {"", ""},
			"one altered":      {"UPDATE audit_entries SET username = 'bob' WHERE seq = 5 AND " + second, "entry 5 was altered"},
			"one removed":      {"DELETE FROM audit_entries WHERE seq = 5 AND " + second, "entry 5 was removed"},
			"two reordered":    {"UPDATE audit_entries SET seq = CASE seq WHEN 105 THEN 6 WHEN 106 THEN 5 END WHERE seq IN (105, 106) AND " + second, "entry 5 was altered"},
			"its end":          {"DELETE FROM audit_entries WHERE seq > 7 AND " + second, "cut off after entry 7"},
			"its end and head": {"UPDATE audit_chains SET seq = 7 WHERE number = 2", "does not open"},
			"the head of another": {
				"UPDATE audit_chains SET head = (SELECT head FROM audit_chains WHERE number = 1) WHERE number = 2", "does not open",
			},
			"as if old":    {"UPDATE audit_chains SET cut_seq = 9, cut = head WHERE number = 2", "does not open"},
			"all of it":    {"DELETE FROM audit_chains WHERE number = 2", "chain 2 is missing"},
			"the newest":   {"DELETE FROM audit_chains WHERE number = 3", "chain 3 is missing"},
			"all chains":   {"DELETE FROM audit_chains", "chain 3 is missing"},
			"their number": {"UPDATE audit_register SET number = 2", "how many chains there are does not open"},
			"who began it": {"UPDATE audit_chains SET process = 'x' WHERE number = 2", "entry 1 was altered"},
		} {
			t.Run(name, func(t *testing.T) {
				restore := keep(t, db)
				defer restore()
				if name == "two reordered" { // past each other, since the numbers are unique
					exec(t, db, "UPDATE audit_entries SET seq = seq + 100 WHERE seq IN (5, 6) AND "+second)
				}
				if row.do != "" {
					exec(t, db, row.do)
				}
				found := verified(t, s)
				if row.says == "" && len(found.Faults) > 0 || row.says != "" && (len(found.Faults) != 1 || !strings.Contains(found.Faults[0], row.says)) {
					t.Errorf("got %q, want %q", found.Faults, row.says)
				}
			})
		}
		if found := verified(t, s); len(found.Faults) > 0 || found.Entries != 30 {
			t.Fatalf("the tests left it altered: %+v", found)
		}
		other := open(t, url, newKeys(t))
		if found := verified(t, other); len(found.Faults) != 4 {
			t.Errorf("with another keyring: %q, want that nothing opens", found.Faults)
		}
	})
}

// keep keeps the tables of the audit, and returns what puts them back.
func keep(t *testing.T, db *sql.DB) func() {
	t.Helper()
	for _, table := range []string{"audit_entries", "audit_chains", "audit_register"} {
		exec(t, db, "CREATE TABLE kept_"+table+" AS SELECT * FROM "+table)
	}
	return func() {
		for _, table := range []string{"audit_entries", "audit_chains", "audit_register"} {
			exec(t, db, "DELETE FROM "+table)
			exec(t, db, "INSERT INTO "+table+" SELECT * FROM kept_"+table)
			exec(t, db, "DROP TABLE kept_"+table)
		}
	}
}

// What is old goes, and what is kept can be verified; what was cut does not come back as if it were kept.
func TestTheAuditIsCut(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		db := raw(t, url)
		trailOf(t, s, "one", 10)
		trailOf(t, s, "two", 3)
		cut := func(before time.Time, entries int64) {
			t.Helper()
			if err := s.Audit.Cut(t.Context(), before); err != nil {
				t.Fatal(err)
			}
			if found := verified(t, s); len(found.Faults) > 0 || found.Entries != entries || found.Chains != 2 {
				t.Errorf("got %+v, want %d entries in 2 chains, and no fault", found, entries)
			}
		}
		cut(time.Now().Add(-365*24*time.Hour), 13)
		cut(time.Now().Add(-4*time.Hour-30*time.Minute), 7) // four hours of one, all of two
		cut(time.Now().Add(-4*time.Hour-30*time.Minute), 7)
		func() { // a time that was altered deletes nothing
			defer keep(t, db)()
			exec(t, db, "UPDATE audit_entries SET at = 0 WHERE seq IN (7, 8)")
			if err := s.Audit.Cut(t.Context(), time.Now().Add(-4*time.Hour-30*time.Minute)); err != nil {
				t.Fatal(err)
			}
			if found := verified(t, s); len(found.Faults) != 1 || !strings.Contains(found.Faults[0], "was altered") {
				t.Errorf("times were altered, and tidying came by: %q", found.Faults)
			}
		}()
		func() {
			defer keep(t, db)()
			exec(t, db, "UPDATE audit_entries SET username = 'bob' WHERE seq = 8")
			if found := verified(t, s); len(found.Faults) != 1 || !strings.Contains(found.Faults[0], "entry 8 was altered") {
				t.Errorf("altered after the cut: %q", found.Faults)
			}
			exec(t, db, "DELETE FROM audit_entries WHERE seq = 7")
			if found := verified(t, s); len(found.Faults) != 1 || !strings.Contains(found.Faults[0], "entry 7 was removed") {
				t.Errorf("removed right after the cut: %q", found.Faults)
			}
		}()
		cut(time.Now().Add(time.Minute), 0)
		trailOf(t, s, "three", 2)
		if found := verified(t, s); len(found.Faults) > 0 || found.Entries != 2 {
			t.Errorf("after a cut of everything: %+v", found)
		}
		var rows int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM audit_entries").Scan(&rows); err != nil || rows != 2 {
			t.Errorf("%d rows are left, %v; want 2", rows, err)
		}
	})
}

// Entries are found by what they say, the newest first, in pages without a gap.
func TestTheAuditIsQueried(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		trailOf(t, s, "one", 5)
		trailOf(t, s, "two", 4)
		find := func(filter audit.Filter) (found []string) {
			t.Helper()
			filter.Limit = 2
			for {
				page, err := s.Audit.Find(t.Context(), filter)
				if err != nil {
					t.Fatal(err)
				}
				for _, one := range page {
					found = append(found, one.Token)
				}
				if len(page) < filter.Limit {
					return found
				}
				filter.Before = &page[len(page)-1]
			}
		}
		newest, err := s.Audit.Find(t.Context(), audit.Filter{UserID: "u-one", Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(audit.Filter{UserID: "u-one", Until: newest[0].At}); len(got) != 4 {
			t.Errorf("before the newest: %v, want the four others: a time is the beginning of what follows", got)
		}
		if got := find(audit.Filter{UserID: "u-one", Since: newest[0].At}); len(got) != 1 {
			t.Errorf("from the newest on: %v, want it alone", got)
		}
		if got := find(audit.Filter{}); len(got) != 9 {
			t.Errorf("got %v, want all nine", got)
		}
		for name, row := range map[string]struct {
			filter audit.Filter
			want   []string
		}{
			"by user":          {audit.Filter{UserID: "u-one"}, []string{"one-4", "one-3", "one-2", "one-1", "one-0"}},
			"by time":          {audit.Filter{UserID: "u-two", Since: time.Now().Add(-150 * time.Minute), Until: time.Now().Add(-30 * time.Minute)}, []string{"two-3", "two-2"}},
			"by token":         {audit.Filter{Token: "two-1"}, []string{"two-1"}},
			"by another name":  {audit.Filter{Username: "bob"}, nil},
			"by action":        {audit.Filter{Action: audit.Login}, nil},
			"refused":          {audit.Filter{Refused: true}, nil},
			"by another actor": {audit.Filter{Actor: "pod 10.0.0.8"}, nil},
			"by actor":         {audit.Filter{Actor: "pod 10.0.0.7", UserID: "u-two", Action: audit.Mint, Username: "alice"}, []string{"two-3", "two-2", "two-1", "two-0"}},
		} {
			t.Run(name, func(t *testing.T) {
				if diff := cmp.Diff(row.want, find(row.filter)); diff != "" {
					t.Errorf("found (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// Many processes begin and write at once: none waits for another one's chain, and each has a number of its own.
func TestManyTrailsAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				trail := audit.NewTrail(s.Audit, fmt.Sprint(i), time.Now)
				for range 20 {
					trail.Add(audit.Event{Action: audit.Mint}, "", "")
					if err := trail.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if found := verified(t, s); len(found.Faults) > 0 || found.Chains != 6 || found.Entries != 120 {
			t.Errorf("got %+v, want 120 entries in 6 chains", found)
		}
	})
}

// A chain is added to where it ends, and nowhere else; what was added already is no error, and other entries of the same
// number are.
func TestAChainIsAddedToAtItsEnd(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		trailOf(t, s, "one", 3)
		chains, err := s.Audit.Chains(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		chain, head := chains[0], chains[0].Head
		entry := audit.Entry{Event: audit.Event{Action: audit.Mint}, Chain: chain.ID, Seq: 4, At: time.Now(), Times: 1, Digest: audit.Digest{1}}
		to := audit.Head{Seq: 4, Digest: entry.Digest}
		for _, row := range []struct {
			name     string
			from, to audit.Head
			want     error
		}{
			{"not from its end", audit.Head{Seq: 2}, audit.Head{Seq: 3, Digest: audit.Digest{9}}, audit.ErrMoved},
			{"from its end", head, to, nil},
			{"once more", head, to, nil},
			{"other entries", head, audit.Head{Seq: 4, Digest: audit.Digest{2}}, audit.ErrMoved},
		} {
			if err := s.Audit.Append(t.Context(), chain.ID, []audit.Entry{entry}, row.from, row.to); !errors.Is(err, row.want) {
				t.Errorf("%s: got %v, want %v", row.name, err, row.want)
			}
		}
		if err := s.Audit.Append(t.Context(), "another", []audit.Entry{entry}, audit.Head{}, to); !errors.Is(err, audit.ErrMoved) {
			t.Errorf("a chain that is not there: %v, want that it moved", err)
		}
	})
}

// What was altered is kept as it is, however old.
func TestAnAlteredChainIsNotCut(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		trailOf(t, s, "one", 5)
		exec(t, raw(t, url), "UPDATE audit_chains SET seq = 4")
		if err := s.Audit.Cut(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := raw(t, url).QueryRowContext(t.Context(), "SELECT count(*) FROM audit_entries").Scan(&rows); err != nil || rows != 5 {
			t.Errorf("%d entries are left, %v; want all 5", rows, err)
		}
		if found := verified(t, s); len(found.Faults) != 1 {
			t.Errorf("got %q, want that it says so", found.Faults)
		}
	})
}

// Replicas hear that a login was used, since its end is another one; and that a code was used is known for ten minutes.
func TestWhatIsKnownOfLogins(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		db := raw(t, url)
		alice := connect(t, s, "alice")
		code, login := grants.Digest{1}, grants.Digest{2}
		for _, err := range []error{
			s.Grants.CreateAuthorization(t.Context(), grants.Authorization{Digest: code, Client: "c", State: grants.Allowed, UserID: alice, CreatedAt: time.Now(), ExpiresAt: time.Now().Add(-time.Minute)}),
			func() error { _, err := s.Grants.Spend(t.Context(), code, &login); return err }(),
			s.Grants.CreateLogin(t.Context(), grants.Login{Digest: login, UserID: alice, Client: "c", Secret: grants.Digest{3}, EndsAt: time.Now().Add(time.Hour)}, 9),
			s.Tidy(t.Context()),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if spent, err := s.Grants.Spend(t.Context(), code, nil); err != nil || spent.State != grants.Spent || spent.Login == nil {
			t.Errorf("a code a minute after its end: %+v, %v; want that it was used, and for which login", spent, err)
		}
		told := func() (lines int) {
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM changes WHERE kind = 'session'").Scan(&lines); err != nil {
				t.Fatal(err)
			}
			return lines
		}
		before := told()
		if err := s.Grants.RotateLogin(t.Context(), login, grants.Digest{3}, grants.Digest{4}, time.Now(), time.Now().Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if told() != before+1 {
			t.Error("no replica hears of the use of a login")
		}
	})
}
