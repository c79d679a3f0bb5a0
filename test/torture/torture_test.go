//go:build torture

package torture

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/rack"
)

var (
	duration = flag.Duration("torture.duration", 25*time.Second, "how long")
	seed     = flag.Uint64("torture.seed", 1, "of the schedule of faults")
	grace    = flag.Duration("torture.grace", 10*time.Second, "how long the provider accepts a spent token once more; 0 is not at all")
	people   = flag.Int("torture.people", 80, "how many people's workers ask")
	replicas = flag.Int("torture.replicas", 3, "how many processes")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := instance.Main(m)
	os.Exit(code)
}

// fault is one line of the schedule, as it was carried out.
type fault struct {
	what         string
	began, ended time.Time
}

// The faults.
const (
	kill     = "kills (SIGKILL)"
	pause    = "pauses (SIGSTOP)"
	restart  = "database restarts (immediate)"
	cut      = "answers to be cut off after the provider had acted"
	slow     = "times the provider was slow"
	thinks   = "times the provider acted, and answered late"
	stop     = "graceful stops (SIGTERM)"
	failing  = "times the provider failed"
	notThere = "times the provider was away"
)

// hurt follows the schedule that the seed gives, one fault after the other, each over before the next:
// two at once are another question. A database is away for less than the grace less 5 s.
func (r victim) hurt(t *testing.T, until time.Time) (done []fault) {
	t.Helper()
	chance := rand.New(rand.NewPCG(*seed, 1<<40))
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(chance.Int64N(int64(high-low)))
	}
	for time.Now().Before(until) {
		one := r.WTS[chance.IntN(len(r.WTS))]
		now := fault{began: time.Now()}
		switch roll := chance.IntN(46); {
		case roll < 20:
			now.what = kill
			one.Kill()
			time.Sleep(between(50*time.Millisecond, 600*time.Millisecond))
			one.Restart(t)
		case roll < 26:
			now.what = pause
			one.Pause(between(500*time.Millisecond, 5*time.Second))
		case roll < 28:
			now.what = restart
			if err := r.Database.Stop(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(between(200*time.Millisecond, 2500*time.Millisecond))
			if err := r.Database.Start(); err != nil {
				t.Fatal(err)
			}
		case roll < 33: // the provider rotates, and its answer is lost
			now.what = cut
			r.Provider.Fail(&providertest.Fault{Times: 1 + chance.IntN(3), LoseAnswer: true})
			time.Sleep(between(200*time.Millisecond, time.Second))
		case roll < 35:
			now.what = slow
			r.Provider.Fail(&providertest.Fault{Times: 5, Delay: between(200*time.Millisecond, 2*time.Second)})
			time.Sleep(between(500*time.Millisecond, 2*time.Second))
		case roll < 37:
			now.what = failing
			r.Provider.Fail(&providertest.Fault{Times: 5, Status: http.StatusServiceUnavailable})
			time.Sleep(between(500*time.Millisecond, time.Second))
		case roll < 40:
			now.what = thinks // for longer than a short grace, and shorter than it is waited for
			r.Provider.Fail(&providertest.Fault{Times: 8, Thinks: between(500*time.Millisecond, refreshTimeout-500*time.Millisecond)})
			time.Sleep(between(500*time.Millisecond, 2*time.Second))
		case roll < 43:
			now.what = stop
			if _, code := one.Terminate(); code != 0 {
				t.Errorf("a replica that was told to stop exited with %d:\n%s", code, one.Log())
			}
			one.Restart(t)
		default:
			now.what = notThere
			r.Provider.Fail(&providertest.Fault{Down: true})
			time.Sleep(between(200*time.Millisecond, 2*time.Second))
			r.Provider.Fail(nil)
		}
		now.ended = time.Now()
		done = append(done, now)
		time.Sleep(between(200*time.Millisecond, 900*time.Millisecond))
	}
	r.Provider.Fail(nil)
	return done
}

// What ended a grant, by the ledger.
const (
	byCut     = "its answer was cut off"
	byKill    = "killed between the provider's commit and ours"
	byPause   = "stopped for longer than an answer is waited for"
	byNothing = "nothing explains it"
)

// landing is how long after the provider has spent a token its successor may take to be stored.
const landing = 500 * time.Millisecond

// causes says, for each family that the provider ended because a spent token came back, what had become
// of the successor.
func causes(events []providertest.Event, faults []fault) (causes map[string]int, unexplained []string) {
	causes = map[string]int{}
	spent := map[string]providertest.Event{} // by subject: the last rotation
	for _, event := range events {
		switch event.What {
		case providertest.Rotated:
			spent[event.Subject] = event
		case providertest.Reused:
			cause := causeOf(spent[event.Subject], event, faults)
			causes[cause]++
			if cause == byNothing {
				unexplained = append(unexplained, fmt.Sprintf("%s, spent at %s, came back after %s", event.Subject, event.SpentAt.Format("15:04:05.000"), event.At.Sub(event.SpentAt)))
			}
		}
	}
	return causes, unexplained
}

func causeOf(rotation, reuse providertest.Event, faults []fault) string {
	if rotation.AnswerLost {
		return byCut
	}
	for _, one := range faults {
		switch {
		case one.what == kill && !reuse.SpentAt.Before(one.began.Add(-landing-rotation.Thinks)) && reuse.SpentAt.Before(one.ended):
			return byKill
		case one.what == pause && one.ended.Sub(one.began)+rotation.Thinks >= refreshTimeout-landing && !reuse.SpentAt.Before(one.began.Add(-landing-rotation.Thinks)) && reuse.SpentAt.Before(one.ended):
			return byPause
		}
	}
	return byNothing
}

// doubts counts the tokens that were presented again within the grace, and those of them that two faults
// or more had befallen meanwhile.
func doubts(events []providertest.Event, faults []fault) (again, double int) {
	for _, event := range events {
		if event.What != providertest.Rotated || event.SpentAt.IsZero() {
			continue
		}
		again++
		befell := 0
		for _, one := range faults {
			if one.began.Before(event.At) && one.ended.After(event.SpentAt.Add(-landing)) {
				befell++
			}
		}
		if befell > 1 {
			double++
		}
	}
	return again, double
}

// TestTorture runs for half a minute with the other tests, and as long as it is told by `make torture`.
// The same seed gives the same schedule of faults.
func TestTorture(t *testing.T) {
	// The tokens live for a short time, so that every connection is refreshed again and again.
	r := newVictim(t, rack.Setup{People: *people, Replicas: *replicas, Grace: *grace, Life: 3 * time.Second, Rate: 1000})
	before := r.Provider.Ledger()
	seen, over := &tally{}, make(chan struct{})
	working := r.work(t, seen, r.everybody(), over)
	began := time.Now()
	faults := r.hurt(t, began.Add(*duration))
	time.Sleep(5 * time.Second) // to come to rest
	close(over)
	working.Wait()
	lost := r.lost(t)
	ledger, events := r.Provider.Ledger(), r.Provider.Events()
	ended, unexplained := causes(events, faults)
	again, double := doubts(events, faults)
	rotations, refused := ledger.Rotations-before.Rotations, int(seen.refused.Load())
	table := &strings.Builder{}
	line := func(what string, is any) { fmt.Fprintf(table, "| %-56s | %20v |\n", what, is) }
	line("seed", *seed)
	line("time", time.Since(began).Round(time.Second))
	line("replicas, connections", fmt.Sprintf("%d, %d", len(r.WTS), len(r.Names)))
	line("grace of the provider", *grace)
	for _, what := range []string{kill, pause, restart, cut, slow, thinks, failing, notThere, stop} {
		line(what, count(faults, what))
	}
	line("rotations", rotations)
	line("posts at the token endpoint", ledger.TokenPosts-before.TokenPosts)
	line("spent tokens presented again within the grace", again)
	line("  after two faults or more", double)
	line("grants lost", ledger.Reused)
	for _, cause := range slices.Sorted(maps.Keys(ended)) {
		line("  "+cause, ended[cause])
	}
	line("calls", seen.calls.Load())
	line("  served", seen.served.Load())
	line("  503, to be tried again", seen.unavailable.Load())
	line("  replica away", seen.unreachable.Load())
	line("  401 or 403, of a grant that is lost", min(refused, ledger.Reused))
	line("  401 or 403, which nothing explains", max(0, refused-ledger.Reused))
	line("  another person's token", seen.foreign.Load())
	line("  a token that had ended before the call", seen.ended.Load())
	line("p50, p99 of those served", fmt.Sprintf("%s, %s", seen.percentile(.5).Round(10*time.Microsecond), seen.percentile(.99).Round(time.Millisecond)))
	fmt.Printf("\n%s\n", table)
	if seen.foreign.Load() > 0 || seen.ended.Load() > 0 {
		t.Errorf("%d answers were another person's token, %d had ended before the call", seen.foreign.Load(), seen.ended.Load())
	}
	if len(unexplained) > 0 || refused > ledger.Reused || len(lost) > 0 {
		t.Errorf("%d calls were refused, %d families ended; not served at the end: %v; unexplained: %v", refused, ledger.Reused, lost, unexplained)
	}
	// What is on its way to a process when it is killed, and an answer that is cut off, cannot be kept
	// where the provider has no grace. Where it has one, everything can.
	if *grace > 0 && ledger.Reused > 0 {
		t.Errorf("%d grants were lost", ledger.Reused)
	}
	if rotations < 100 || len(faults) == 0 {
		t.Errorf("hardly anything happened")
	}
}

func count(faults []fault, what string) (times int) {
	for _, one := range faults {
		if one.what == what {
			times++
		}
	}
	return times
}
