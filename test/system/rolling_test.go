package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
)

// balancer sends requests to the replicas that were ready when it looked last, once a second, as a Service
// of Kubernetes does, in turn. Each person's requests come from that person's address.
type balancer struct {
	replicas []*instance.Instance
	people   []*http.Client
	next     atomic.Int64

	mu    sync.Mutex
	ready []string
}

func (b *balancer) look(ctx context.Context) {
	client := &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	for tick := time.NewTicker(time.Second); ; {
		var ready []string
		for _, one := range b.replicas {
			response, err := client.Get("http://" + one.Address + "/readyz")
			if err == nil && response.StatusCode == http.StatusOK {
				ready = append(ready, one.Address)
			}
			if err == nil {
				_ = response.Body.Close()
			}
		}
		b.mu.Lock()
		b.ready = ready
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	ready := b.ready
	b.mu.Unlock()
	if len(ready) == 0 {
		http.Error(w, "no replica is ready", http.StatusBadGateway)
		return
	}
	var person int
	_, _ = fmt.Sscan(r.Header.Get("Person"), &person)
	address := ready[int(b.next.Add(1))%len(ready)]
	response, err := b.people[person].Get("http://" + address + r.URL.RequestURI())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

// A rolling update of three replicas, one after the other, with 200 requests a second for 20 s, of people
// whose tokens are at hand and people whose tokens have expired: each is answered, and with 200.
func TestARollingUpdateRefusesNoRequest(t *testing.T) {
	const people, each = 50, 200
	r := deployment.New(t, deployment.Setup{People: people, Replicas: 3, Life: 3 * time.Second, Rate: 200, DrainDelay: 2500 * time.Millisecond})
	b := &balancer{replicas: r.WTS}
	for i, name := range r.Names {
		r.Connect(t, name, 3*time.Second, false)
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(deployment.AddressOf(i))}}
		b.people = append(b.people, &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go b.look(ctx)
	proxy := httptest.NewServer(b)
	defer proxy.Close()
	time.Sleep(time.Second)

	updated := make(chan struct{})
	go func() {
		defer close(updated)
		for _, one := range r.WTS {
			took, code := one.Terminate()
			if code != 0 || took > 10*time.Second {
				t.Errorf("it stopped with %d after %s", code, took)
			}
			one.Restart(t)
			one.AwaitReady(t)
			time.Sleep(2 * time.Second) // until the balancer has seen it
		}
	}()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	var calls sync.WaitGroup
	var sent, good atomic.Int64
	other := sync.Map{}
	tick := time.NewTicker(time.Second / each)
	defer tick.Stop()
	for began, rolling := time.Now(), true; rolling || time.Since(began) < 20*time.Second; {
		<-tick.C
		select {
		case <-updated:
			rolling = false
		default:
		}
		number := sent.Add(1)
		calls.Go(func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, proxy.URL+"/token/?expires=1", nil)
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("Person", fmt.Sprint(number%people))
			response, err := client.Do(request)
			if err != nil {
				other.Store(err.Error(), true)
				return
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode == http.StatusOK && strings.Contains(string(body), "token") {
				good.Add(1)
			} else {
				other.Store(fmt.Sprintf("%d %s", response.StatusCode, body), true)
			}
		})
	}
	calls.Wait()
	t.Logf("%d of %d requests were answered with 200", good.Load(), sent.Load())
	other.Range(func(answer, _ any) bool { t.Errorf("another answer: %v", answer); return true })
}
