//go:build torture

package torture

import (
	"context"
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/deployment"
)

var outage = flag.Duration("torture.outage", 3*time.Second, "how long the provider, and then the database, is away")

// sealed is what must not change while somebody is away: every sealed token and every end.
func (r tortured) sealed(t *testing.T) (rows []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, r.Database.URL)
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

func (r tortured) providerAway() { r.Provider.Fail(&providertest.Fault{Down: true}) }

// renewAll lets every connection begin a new life, so that all of them are due at once.
func (r tortured) renewAll(t *testing.T) {
	t.Helper()
	r.Exec(t, "UPDATE connections SET access_expires_at = access_issued_at + 1")
	if lost := r.lost(t); len(lost) > 0 {
		t.Fatalf("lost: %v", lost)
	}
}

// shorten leaves the tokens of these people that long to live.
func (r tortured) shorten(t *testing.T, people []int, left time.Duration) {
	t.Helper()
	for _, at := range people {
		r.Exec(t, "UPDATE connections SET access_expires_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1 WHERE user_id = (SELECT id FROM users WHERE username = $2)", left.Milliseconds(), r.Names[at])
	}
	time.Sleep(time.Second) // for the replicas to hear of it
}

// The provider away, then the database: workers whose token lives are served, and nothing that is kept
// changes. The outages fall when tokens are due for renewal. At the end of them workers who were idle
// come with tokens that are dead by then: the provider is asked no more often than its rate allows, and
// for them first.
func TestOutages(t *testing.T) {
	const rate = 20
	const working, idle = 20, 30
	life := *outage * 10 / 3
	r := newTortured(t, deployment.Setup{People: working + idle, Replicas: 2, Life: life, Rate: rate})
	for _, turn := range []struct {
		name      string
		away, end func()
	}{
		{"the provider", r.providerAway, func() { r.Provider.Fail(nil) }},
		{"the database", func() {
			if err := r.Database.Stop(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := r.Database.Start(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(turn.name, func(t *testing.T) {
			r.renewAll(t)
			r.shorten(t, r.everybody()[working:], life*6/10+*outage/2)
			seen, stop := &tally{}, make(chan struct{})
			atWork := r.work(t, seen, r.everybody()[:working], stop)
			time.Sleep(life * 6 / 10)
			before, rotations := r.sealed(t), r.Provider.Ledger().Rotations
			calls, served := seen.calls.Load(), seen.served.Load()
			turn.away()
			time.Sleep(*outage)
			calls, served = seen.calls.Load()-calls, seen.served.Load()-served
			if turn.name == "the provider" { // the other way it cannot be asked
				if diff := cmp.Diff(before, r.sealed(t)); diff != "" {
					t.Errorf("something that is kept has changed: %s", diff)
				}
			}
			if now := r.Provider.Ledger().Rotations; now != rotations {
				t.Errorf("%d tokens were spent meanwhile", now-rotations)
			}
			if missed := calls - served; missed*1000 > calls || calls == 0 {
				t.Errorf("%d of %d calls were not served though their token lives", missed, calls)
			}
			recovered := time.Now()
			late := &tally{}
			turn.end()
			after := r.work(t, late, r.everybody()[working:], stop)
			if lost := r.lost(t); len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
			close(stop)
			atWork.Wait()
			after.Wait()
			most, living := r.recovery(recovered, r.Names[working:])
			t.Logf("%d calls while %s was away for %s, %d of them not served; then at most %d posts in a second (the rate is %d), and %d tokens that lived were refreshed before the last dead one",
				calls, turn.name, *outage, calls-served, most, rate, living)
			// Each replica has its own queue: one whose dead are done goes on while another still has some.
			if most > rate || living > working/2 {
				t.Errorf("a stampede")
			}
		})
	}
}

// recovery is how many posts there were in the busiest second since then, and how many living tokens
// were refreshed before the last of the dead.
func (r tortured) recovery(since time.Time, dead []string) (most, living int) {
	var posts []time.Time
	before, seen := 0, map[string]bool{}
	for _, event := range r.Provider.Events() {
		switch {
		case event.At.Before(since):
		case event.What == providertest.Posted:
			posts = append(posts, event.At)
		case event.What == providertest.Rotated && !seen[event.Subject]:
			seen[event.Subject] = true
			if slices.Contains(dead, event.Subject) {
				living = before
			} else {
				before++
			}
		}
	}
	for first := range posts {
		within := 0
		for _, at := range posts[first:] {
			if at.Sub(posts[first]) >= time.Second {
				break
			}
			within++
		}
		most = max(most, within)
	}
	return most, living
}
