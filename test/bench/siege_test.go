package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

// Rule F1: the slowest of a hundred answers to a good caller, while anonymous callers attack, beside the same
// while they attack a listener that does nothing: what the attackers cost this machine is in both.
func BenchmarkGoodCallersBesideAttackers(b *testing.B) {
	for b.Loop() {
		r := deployment.New(b, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 100})
		r.Connect(b, r.Names[0], time.Hour, false)
		idle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
		good := newLoad(b, r.WTS[0].Address, "/token/", 0, 4)
		var ratios []float64
		for range 5 {
			var tails [2]time.Duration
			for i, target := range []string{r.WTS[0].Address, strings.TrimPrefix(idle.URL, "http://")} {
				stop := attackers(target)
				tails[i] = paired.Percentile(good.run(b, 2*time.Second), .99)
				stop()
			}
			ratios = append(ratios, float64(tails[0])/float64(tails[1]))
		}
		idle.Close()
		paired.Report(b, paired.Median(ratios), "x-p99-beside-attackers-of-another-listener", "≤3")
	}
}

// attackers call from addresses without a user: for tokens, and to finish logins that were not begun.
func attackers(target string) (stop func()) {
	done := make(chan struct{})
	var attacking sync.WaitGroup
	for caller := range 8 {
		attacking.Go(func() {
			for number := 0; ; number++ {
				select {
				case <-done:
					return
				default:
				}
				client := instance.WorkerAt(fmt.Sprintf("127.6.%d.%d", caller, number%250+1))
				client.Transport.(*http.Transport).DisableKeepAlives = true
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				path := []string{"/token/", "/oauth2/authorization_url", "/oauth2/authorize?code=x&state=y", "/aggregate/x"}[number%4]
				if response, err := client.Get("http://" + target + path); err == nil {
					_ = response.Body.Close()
				}
			}
		})
	}
	return func() { close(done); attacking.Wait() }
}
