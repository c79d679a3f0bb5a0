//go:build torture

package torture

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

var outage = flag.Duration("torture.outage", 3*time.Second, "how long the provider, and then the database, is away")

// sealed is what must not change while somebody is away: every sealed token and every end.
func (r *rack) sealed(t *testing.T) (rows []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, r.database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	found, err := connection.Query(ctx, `SELECT user_id || ' ' || encode(refresh_token, 'hex') || ' ' || encode(access_token, 'hex') || ' ' || access_expires_at || ' ' ||
		coalesce(refresh_expires_at, 0) || ' ' || encode(refresh_digest, 'hex') FROM connections ORDER BY user_id`)
	if err != nil {
		t.Fatal(err)
	}
	rows, err = pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func (r *rack) providerAway() { r.provider.Fail(&providertest.Fault{Down: true}) }

// renewAll lets every connection begin a new life, so that all of them are due at once.
func (r *rack) renewAll(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, r.database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	if _, err := connection.Exec(ctx, "UPDATE connections SET access_expires_at = access_issued_at + 1; INSERT INTO changes (at, kind, object) SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, 'connection', user_id || '/' || provider FROM connections"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // for the replicas to hear of it
	if lost := r.lost(t); len(lost) > 0 {
		t.Fatalf("lost: %v", lost)
	}
}

// The provider away, then the database: workers whose token lives are served, nothing that is kept
// changes, and at the end nobody is stampeded. The outages fall when tokens are due for renewal.
func TestOutages(t *testing.T) {
	const people, rate = 15, 500
	life := *outage * 10 / 3
	r := newRack(t, 0, people, 2, life, "")
	for _, turn := range []struct {
		name      string
		away, end func()
	}{
		{"the provider", r.providerAway, func() { r.provider.Fail(nil) }},
		{"the database", func() {
			if err := r.database.Stop(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := r.database.Start(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(turn.name, func(t *testing.T) {
			r.renewAll(t)
			seen, stop := &tally{}, make(chan struct{})
			working := r.work(t, seen, stop)
			time.Sleep(life * 6 / 10)
			before := r.sealed(t)
			atFirst := seen.calls.Load() - seen.served.Load()
			turn.away()
			time.Sleep(*outage)
			during := seen.calls.Load()
			if turn.name == "the provider" { // the other way it cannot be asked
				if diff := cmp.Diff(before, r.sealed(t)); diff != "" {
					t.Errorf("something that is kept has changed: %s", diff)
				}
			}
			missed := seen.calls.Load() - seen.served.Load() - atFirst
			if share := float64(missed) / float64(max(during, 1)); share > 0.001 {
				t.Errorf("%d of %d calls were not served though their token lives", missed, during)
			}
			posts := r.provider.Ledger().TokenPosts
			turn.end()
			most := 0
			for range 5 {
				time.Sleep(time.Second)
				now := r.provider.Ledger().TokenPosts
				most, posts = max(most, now-posts), now
			}
			close(stop)
			working.Wait()
			if most > rate*len(r.wts) {
				t.Errorf("%d posts in a second", most)
			}
			t.Logf("%d calls, %d of them not served while %s was away for %s; then at most %d posts a second", seen.calls.Load(), missed, turn.name, *outage, most)
			if lost := r.lost(t); len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
		})
	}
}
