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

var (
	pairs     = flag.Int("torture.pairs", 60, "how many expiries of a connection 500 callers meet at once")
	shortLife = flag.Duration("torture.life", 6*time.Second, "of tokens of which workers ask for 600 s all the time, for nearly two lives")
)

// Tokens that do not live for what is asked are refreshed once in half a life, however many ask.
func TestPostsForShortLives(t *testing.T) {
	const connections, callers = 10, 50 // of each
	r := newTortured(t, deployment.Setup{People: connections, Replicas: 3, Life: *shortLife, Rate: 1000})
	before := r.Provider.Ledger()
	stop := time.Now().Add(*shortLife * 195 / 100)
	var all sync.WaitGroup
	for i := range connections {
		for caller := range callers {
			all.Go(func() {
				worker := r.Worker(i)
				for time.Now().Before(stop) {
					if got := r.WTS[caller%len(r.WTS)].Token(t, worker, "?expires=600"); got.Status != http.StatusOK {
						t.Errorf("got %d; want 200", got.Status)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
	}
	all.Wait()
	posts := r.Provider.Ledger().TokenPosts - before.TokenPosts
	t.Logf("%d connections, %d callers, tokens of %s, in 1.95 lives: %d posts; the caps allow %d", connections, connections*callers, *shortLife, posts, 4*connections)
	if posts > 4*connections || posts < 3*connections {
		t.Errorf("%d posts", posts)
	}
}

// Without faults: however many ask at once, on however many replicas, each expiry costs one post.
func TestOnePostForEachExpiry(t *testing.T) {
	const connections, callers = 20, 500
	const life = 4 * time.Second // so that a token is enough for two of them: what is asked is capped at half
	r := newTortured(t, deployment.Setup{People: connections, Replicas: 3, Life: life, Rate: 1000, Revokes: true})
	began, before := time.Now(), r.Provider.Ledger()
	workers := make([][]*http.Client, connections)
	last, renewed := make([]string, connections), make([]time.Time, connections)
	for i := range connections {
		renewed[i] = time.Now()
		for range r.WTS {
			worker := r.Worker(i)
			worker.Transport.(*http.Transport).MaxIdleConnsPerHost = callers
			workers[i] = append(workers[i], worker)
		}
	}
	for pair := range *pairs {
		at := pair % connections
		time.Sleep(time.Until(renewed[at].Add(life/2 + 50*time.Millisecond)))
		posts := r.Provider.Ledger().TokenPosts
		var all sync.WaitGroup
		var mu sync.Mutex
		answers, begin := map[string]int{}, make(chan struct{})
		for caller := range callers {
			all.Go(func() {
				<-begin
				replica := caller % len(r.WTS)
				got := r.WTS[replica].Token(t, workers[at][replica], "?expires=600")
				mu.Lock()
				answers[got.Token]++
				mu.Unlock()
			})
		}
		close(begin)
		all.Wait()
		renewed[at] = time.Now()
		if posts := r.Provider.Ledger().TokenPosts - posts; posts != 1 || len(answers) != 1 || answers[""]+answers[last[at]] != 0 {
			t.Fatalf("pair %d: %d posts, %d different answers to %d callers", pair, posts, len(answers), callers)
		}
		for token := range answers {
			last[at] = token
		}
	}
	ledger := r.Provider.Ledger()
	posts := ledger.TokenPosts - before.TokenPosts
	t.Logf("%d pairs of connection and expiry, %d callers at each, on %d replicas, in %s: %d posts, %.2f for each expiry",
		*pairs, callers, len(r.WTS), time.Since(began).Round(time.Second), posts, float64(posts)/float64(*pairs))
	if posts != *pairs || ledger.Reused+ledger.Refused != 0 {
		t.Errorf("%d posts for %d expiries; the ledger: %+v", posts, *pairs, ledger)
	}
}
