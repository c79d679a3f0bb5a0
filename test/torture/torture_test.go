//go:build torture

package torture

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/network"
)

var (
	duration = flag.Duration("torture.duration", 20*time.Second, "how long, once every fault has come")
	seed     = flag.Uint64("torture.seed", 1, "of the schedule of faults")
	grace    = flag.Duration("torture.grace", 10*time.Second, "how long the provider accepts a spent token once more; 0 is not at all")
	people   = flag.Int("torture.people", 80, "how many people's workers ask")
	replicas = flag.Int("torture.replicas", 3, "how many processes")
	longest  = flag.Duration("torture.longest", 2*time.Second, "how long a pause or dropped packets last, at most; and not longer than a grace less 5 s")
	overlap  = flag.Bool("torture.overlap", false, "begin a fault while what the one before held up may still arrive: grants may be lost whatever the grace")
	late     = flag.Duration("torture.late", 2*time.Second, "how late an answer of the provider is, at most")
)

// life is that of the access tokens, short, so that every connection is refreshed again and again.
const life = 3 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	code := instance.Main(m)
	os.Exit(code)
}

// TestTorture runs for a minute with the other tests, and as long as it is told by `make torture`.
// The same seed gives the same schedule of faults.
func TestTorture(t *testing.T) {
	if !network.Own(t) {
		return
	}
	r := newTortured(t, deployment.Setup{
		People: *people, Replicas: *replicas, Grace: *grace, Life: life, Rate: 1000, Timeout: *late + 5*time.Second, Log: "info", Apart: true,
	})
	before := r.Provider.Ledger()
	seen, over := &tally{}, make(chan struct{})
	working := r.work(t, seen, r.everybody(), over)
	began, nemesis := time.Now(), newNemesis(r)
	go nemesis.watch(over)
	faults := nemesis.hurt(t, began.Add(*duration))
	time.Sleep(5 * time.Second) // to come to rest
	close(over)
	working.Wait()
	unserved := r.lost(t)
	// A token that was lost towards the end comes back now.
	refused := int(seen.refused.Load())
	unserved = slices.DeleteFunc(unserved, func(name string) bool {
		name, late := strings.CutSuffix(name, fmt.Sprintf(" (%d)", http.StatusForbidden))
		if late {
			refused++
			seen.refuse(r.rowOf(name))
		}
		return late
	})
	counts, events := r.Provider.Ledger(), r.Provider.Events()
	ledger := read(events)
	lost := ledger.losses(events, faults)
	causes, failures := map[string]int{}, 0
	for _, one := range lost {
		causes[one.cause]++
		// What is on its way to a process when it is killed, and an answer that does not come, cannot be kept
		// where the provider has no grace. Where it has one that is long enough, everything can.
		failed := one.cause == byNothing || *grace > 5*time.Second
		switch {
		case failed && one.apart:
			causes["  after an outage longer than the grace less 5 s"]++
		case failed:
			failures++
		}
		fmt.Println(r.history(ledger, one, faults, seen.refusals))
	}
	again, double := doubts(events, faults)
	rotations := counts.Rotations - before.Rotations
	table := &strings.Builder{}
	line := func(what string, is any) { fmt.Fprintf(table, "| %-56s | %20v |\n", what, is) }
	line("seed", *seed)
	line("time", time.Since(began).Round(time.Second))
	line("replicas, connections", fmt.Sprintf("%d, %d", len(r.WTS), len(r.Names)))
	line("grace of the provider", *grace)
	for _, what := range append(slices.Clone(kinds), stall) {
		line(what, count(faults, what))
	}
	line("rotations", rotations)
	line("posts at the token endpoint", counts.TokenPosts-before.TokenPosts)
	line("spent tokens presented again within the grace", again)
	line("  after two faults or more", double)
	line("grants lost", len(lost))
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		line("  "+cause, causes[cause])
	}
	line("calls", seen.calls.Load())
	line("  served", seen.served.Load())
	line("  503, to be tried again", seen.unavailable.Load())
	line("  replica away", seen.unreachable.Load())
	line("  401 or 403, of a grant that is lost", min(refused, len(lost)))
	line("  401 or 403, which nothing explains", max(0, refused-len(lost)))
	line("  another person's token", len(seen.foreign))
	line("  a token that had ended before the call", len(seen.ended))
	line("p50, p99 of those served", fmt.Sprintf("%s, %s", seen.percentile(.5).Round(10*time.Microsecond), seen.percentile(.99).Round(time.Millisecond)))
	fmt.Printf("\n%s\n", table)
	if len(seen.foreign)+len(seen.ended) > 0 {
		t.Errorf("%d answers were another person's token, %d had ended before the call: %v %v", len(seen.foreign), len(seen.ended), some(seen.foreign), some(seen.ended))
	}
	if failures > 0 || refused > len(lost) || len(unserved) > 0 {
		t.Errorf("%d grants were lost that had to be kept; %d calls were refused, %d families ended; not served at the end: %v", failures, refused, len(lost), unserved)
	}
	for _, what := range kinds {
		if count(faults, what) == 0 {
			t.Errorf("no %s", what)
		}
	}
	if rotations < 100 {
		t.Errorf("hardly anything happened")
	}
	if t.Failed() {
		for _, one := range faults {
			t.Logf("%s to %s: %s", one.began.Format(clock), one.over.Format(clock), one)
		}
	}
}

// some are the first of many.
func some[T any](many []T) []T { return many[:min(len(many), 20)] }

func count(faults []fault, what string) (times int) {
	for _, one := range faults {
		if one.what == what {
			times++
		}
	}
	return times
}
