//go:build torture

package torture

import (
	"flag"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
)

var promotions = flag.Int("torture.promotions", 1, "how often a standby that lacks the last second of commits takes the database's place")

// A standby that lags takes the place of a primary that is gone: the last second of commits is lost, and with
// it rotations, logins and ends. The provider has no grace, so that each spent token that is presented ends its
// grant. No replica dies here: one that dies with the database takes what it alone knew along.
func TestPromotions(t *testing.T) {
	const working, leaving, newcomers = 40, 2, 1 // of whom the last two leave or come in each lost second
	people := working + (leaving+newcomers)**promotions
	r := deployment.New(t, deployment.Setup{People: people, Replicas: 3, Life: life, Rate: 1000, Standby: true})
	v := tortured{r}
	for i := range working + leaving**promotions {
		if err := r.LogIn(t.Context(), r.Names[i]); err != nil {
			t.Fatal(err)
		}
	}
	before := r.Provider.Ledger()
	seen, over := &tally{}, make(chan struct{})
	atWork := v.work(t, seen, v.everybody()[:working], over)
	var revived []string
	var watched sync.WaitGroup
	var mu sync.Mutex
	lostCommits := 0
	for turn := range *promotions {
		time.Sleep(2 * time.Second)
		if err := r.Pair.CutOff(); err != nil {
			t.Fatal(err)
		}
		began, rotations := time.Now(), r.Provider.Ledger().Rotations
		gone, disabled, newcomer := working+leaving*turn, working+leaving*turn+1, working+leaving**promotions+newcomers*turn
		r.WTS[0].Run(t, "connections", "disconnect", r.Names[gone], "main")
		r.WTS[0].Run(t, "users", "disable", r.Names[disabled])
		if err := r.LogIn(t.Context(), r.Names[newcomer]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(began.Add(time.Second)))
		lostCommits += r.Provider.Ledger().Rotations - rotations
		if err := r.Pair.Promote(); err != nil {
			t.Fatal(err)
		}
		for _, ended := range []int{gone, disabled} {
			watched.Go(func() {
				worker := r.Worker(ended)
				for until := time.Now().Add(15 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
					if status, _ := ask(worker, r.WTS[ended%len(r.WTS)].Address); status == http.StatusOK {
						mu.Lock()
						revived = append(revived, r.Names[ended])
						mu.Unlock()
						return
					}
				}
			})
		}
		await := time.Now()
		for status := 0; status != http.StatusOK; time.Sleep(50 * time.Millisecond) {
			if status, _ = ask(r.Worker(newcomer), r.WTS[turn%len(r.WTS)].Address); time.Since(await) > 40*time.Second {
				t.Fatalf("%s, who logged in in the lost second, is not served: %d", r.Names[newcomer], status)
			}
		}
		t.Logf("promotion %d: a newcomer of the lost second was served again after %s", turn+1, time.Since(await).Round(10*time.Millisecond))
		if err := r.Pair.Follow(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second)
	close(over)
	atWork.Wait()
	watched.Wait()
	var lost []string
	for i := range working {
		status := 0
		for deadline := time.Now().Add(30 * time.Second); status != http.StatusOK && status != http.StatusForbidden && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			status, _ = ask(r.Worker(i), r.WTS[i%len(r.WTS)].Address)
		}
		if status != http.StatusOK {
			lost = append(lost, r.Names[i])
		}
	}
	ledger := r.Provider.Ledger()
	t.Logf("%d promotions, %d rotations, %d of them in the seconds that were lost; %d calls, %d served, %d to be tried again",
		*promotions, ledger.Rotations-before.Rotations, lostCommits, seen.calls.Load(), seen.served.Load(), seen.unavailable.Load())
	if ledger.Reused > 0 || seen.refused.Load() > 0 || len(lost) > 0 {
		t.Errorf("%d grants ended, %d calls were refused; not served at the end: %v", ledger.Reused, seen.refused.Load(), lost)
	}
	if len(revived) > 0 {
		t.Errorf("ended, and served again: %v", revived)
	}
	if lostCommits < *promotions {
		t.Errorf("hardly anything was lost with the primaries")
	}
	if len(seen.foreign)+len(seen.ended) > 0 {
		t.Errorf("another person's token: %v; one that had ended: %v", some(seen.foreign), some(seen.ended))
	}
}

// A database that is set back without another name, as by a crash without synchronous commits: a replica that
// had stored a later row brings it back before it does anything with it.
func TestRowsThatAreSetBack(t *testing.T) {
	r := deployment.New(t, deployment.Setup{People: 10, Replicas: 1, Life: life, Rate: 1000})
	v := tortured{r}
	r.LogInAll(t)
	serve := func(within time.Duration) {
		for i := range r.Names {
			status := 0
			for deadline := time.Now().Add(within); status != http.StatusOK && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				status, _ = ask(r.Worker(i), r.WTS[0].Address)
			}
			if status != http.StatusOK {
				t.Errorf("%s is not served: %d", r.Names[i], status)
			}
		}
	}
	r.Exec(t, "CREATE TABLE before AS SELECT * FROM connections")
	time.Sleep(life)
	rotations := r.Provider.Ledger().Rotations
	serve(5 * time.Second)
	if spent := r.Provider.Ledger().Rotations - rotations; spent < len(v.Names) {
		t.Fatalf("%d tokens were spent, want all of %d", spent, len(v.Names))
	}
	r.Exec(t, "DELETE FROM connections")
	r.Exec(t, "INSERT INTO connections SELECT * FROM before")
	time.Sleep(life)
	serve(10 * time.Second)
	if ledger := r.Provider.Ledger(); ledger.Reused > 0 {
		t.Errorf("%d grants ended", ledger.Reused)
	}
}
