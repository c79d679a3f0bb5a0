//go:build torture

package torture

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/network"
)

// fault is one line of the schedule, as it was carried out.
type fault struct {
	what    string
	replica int // whom it befell; everyone for all of them
	detail  string
	by      time.Duration // how far a clock was moved
	// ended is when it was taken away; what it held up may have arrived later, by over.
	began, ended, over time.Time
}

const everyone = -1

func (f fault) String() string {
	whom := "all"
	if f.replica != everyone {
		whom = fmt.Sprintf("r%d", f.replica)
	}
	return fmt.Sprintf("%s: %s %s (%s)", whom, f.what, f.detail, f.ended.Sub(f.began).Round(time.Millisecond))
}

// The faults.
const (
	kill         = "kills (SIGKILL)"
	pause        = "pauses (SIGSTOP)"
	stop         = "graceful stops (SIGTERM)"
	restart      = "database restarts (immediate)"
	stepForward  = "steps of the database's clock, forward"
	stepBack     = "steps of the database's clock, backward"
	dropProvider = "times packets to and from the provider were dropped"
	dropDatabase = "times packets to and from the database were dropped"
	dropAll      = "times packets to and from both were dropped"
	cut          = "answers to be cut off after the provider had acted"
	slow         = "times the provider was slow"
	thinks       = "times the provider acted, and answered late"
	failing      = "times the provider failed"
	notThere     = "times the provider was away"
	stall        = "times this machine stood still for a second"
)

// deck is how often each fault is drawn before all of them are shuffled again.
var deck = map[string]int{
	kill: 20, pause: 4, stop: 1, restart: 1, stepForward: 1, stepBack: 1, dropProvider: 3, dropDatabase: 3, dropAll: 1,
	cut: 3, slow: 1, thinks: 2, failing: 1, notThere: 2,
}

// kinds are the faults in the order of the table.
var kinds = []string{kill, pause, stop, restart, stepForward, stepBack, dropProvider, dropDatabase, dropAll, cut, slow, thinks, failing, notThere}

// nemesis carries out the schedule that a seed gives.
type nemesis struct {
	tortured
	chance *rand.Rand
	// longest is how long an outage lasts at most: where the provider has a grace, 5 s less than that. late is
	// how late an answer may be.
	longest, late time.Duration

	mu     sync.Mutex
	faults []fault
}

func newNemesis(r tortured) *nemesis {
	n := &nemesis{tortured: r, chance: rand.New(rand.NewPCG(*seed, 1<<40)), longest: *longest, late: *late}
	if spare := *grace - 5*time.Second; spare > 0 {
		n.longest = min(n.longest, spare)
	}
	return n
}

func (n *nemesis) between(low, high time.Duration) time.Duration {
	return low + time.Duration(n.chance.Int64N(int64(max(high-low, 1))))
}

// hurt carries out one fault after the other, each over before the next: two at once are another question.
// Every kind comes once before any comes again.
func (n *nemesis) hurt(t *testing.T, until time.Time) []fault {
	t.Helper()
	cards := append([]string{}, kinds...)
	for first := true; first || time.Now().Before(until); first = false {
		n.chance.Shuffle(len(cards), func(a, b int) { cards[a], cards[b] = cards[b], cards[a] })
		for _, what := range cards {
			if !first && !time.Now().Before(until) {
				break
			}
			n.befall(t, what)
			time.Sleep(n.between(200*time.Millisecond, 900*time.Millisecond))
		}
		cards = cards[:0]
		for _, what := range kinds {
			for range deck[what] {
				cards = append(cards, what)
			}
		}
	}
	n.Provider.Fail(nil)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.faults
}

func (n *nemesis) note(done fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, done)
}

// befall carries out one fault, on a replica of its choice where it befalls one, and waits until it is over.
func (n *nemesis) befall(t *testing.T, what string) {
	t.Helper()
	at := n.chance.IntN(len(n.WTS))
	now := fault{what: what, replica: everyone, began: time.Now()}
	var after time.Duration
	switch what {
	case kill, pause, stop:
		now.replica = at
		n.stopReplica(t, what, at)
	case dropProvider, dropDatabase, dropAll:
		now.replica = at
		now.detail, after = n.drop(t, what, at)
	case restart:
		n.restartDatabase(t)
	case stepForward, stepBack:
		now.by = n.stepClock(t, what)
		now.detail = now.by.String()
	default:
		now.detail, after = n.hurtProvider(what)
	}
	now.ended = time.Now()
	now.over = now.ended.Add(after)
	if !*overlap {
		time.Sleep(after)
	}
	n.note(now)
}

func (n *nemesis) stopReplica(t *testing.T, what string, at int) {
	t.Helper()
	replica := n.WTS[at]
	switch what {
	case kill:
		replica.Kill()
		time.Sleep(n.between(50*time.Millisecond, 600*time.Millisecond))
		replica.Restart(t)
	case pause:
		replica.Pause(n.between(500*time.Millisecond, min(n.longest, 5*time.Second)))
	case stop:
		if _, code := replica.Terminate(); code != 0 {
			t.Errorf("a replica that was told to stop exited with %d:\n%s", code, replica.Log())
		}
		replica.Restart(t)
	}
}

// drop has one replica's packets dropped. What the kernel holds meanwhile is sent again after growing pauses, so
// that it may arrive as long after the end as the fault took.
func (n *nemesis) drop(t *testing.T, what string, at int) (detail string, after time.Duration) {
	t.Helper()
	paths := map[string][]network.Path{
		dropProvider: {network.ToProvider}, dropDatabase: {network.ToDatabase}, dropAll: {network.ToProvider, network.ToDatabase},
	}[what]
	way, took := network.Way(n.chance.IntN(3)), n.between(300*time.Millisecond, n.longest)
	for _, path := range paths {
		if err := n.Hosts[at].Drop(path, way); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(took)
	for _, path := range paths {
		if err := n.Hosts[at].Heal(path); err != nil {
			t.Fatal(err)
		}
	}
	return way.String(), took
}

func (n *nemesis) restartDatabase(t *testing.T) {
	t.Helper()
	if err := n.Database.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(n.between(200*time.Millisecond, min(n.longest, 2500*time.Millisecond)))
	if err := n.Database.Start(); err != nil {
		t.Fatal(err)
	}
}

// stepClock moves the database's clock, and returns by how much.
func (n *nemesis) stepClock(t *testing.T, what string) time.Duration {
	t.Helper()
	by, sign := n.between(2*time.Second, 30*time.Second), time.Duration(1)
	if what == stepBack {
		by, sign = n.between(time.Second, 8*time.Second), -1
	}
	if err := n.Database.StepClock(sign * by); err != nil {
		t.Fatal(err)
	}
	return by
}

// hurtProvider has the provider fail for a while. Late answers have all come after that.
func (n *nemesis) hurtProvider(what string) (detail string, after time.Duration) {
	how, took := providertest.Fault{}, n.between(500*time.Millisecond, 2*time.Second)
	switch what {
	case cut: // the provider rotates, and its answer is lost
		how = providertest.Fault{Times: 1 + n.chance.IntN(3), LoseAnswer: true}
	case slow:
		how = providertest.Fault{Times: 5, Delay: n.between(200*time.Millisecond, 2*time.Second)}
		detail, after = fmt.Sprint("by ", how.Delay), how.Delay
	case thinks: // for longer than a short grace, and shorter than it is waited for
		how = providertest.Fault{Times: 8, Thinks: n.between(n.late/4, n.late)}
		detail, after = fmt.Sprint("by ", how.Thinks), how.Thinks
	case failing:
		how = providertest.Fault{Times: 5, Status: http.StatusServiceUnavailable}
	case notThere:
		how = providertest.Fault{Down: true}
	}
	n.Provider.Fail(&how)
	time.Sleep(took)
	n.Provider.Fail(nil)
	return detail, after
}

// watch notes when this machine stands still: the processes under test do then too.
func (n *nemesis) watch(over <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		if now := time.Now(); now.Sub(last) > time.Second {
			n.note(fault{what: stall, replica: everyone, began: last, ended: now, over: now})
		}
	}
}
