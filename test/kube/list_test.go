//go:build kube

package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
)

// connect asks for the pod at an address on a connection of its own.
func (i *identity) connect(address string) (string, error) {
	pod, err := i.PodAt(authn.WithConnection(context.Background()), netip.MustParseAddr(address))
	return pod.Username, err
}

// manyConnections makes 500 new connections a second under the rights of Gen3's chart, while addresses change
// hands: none is refused, and none is answered by what the server said before the connection came.
func manyConnections(t *testing.T) {
	i := running.identity(t, "gen3-token", kube.Config{Namespaces: []string{"work"}})
	within(t, 10*time.Second, "it says so", func() bool { return i.said("pods cannot be watched") })
	const houses, moving, rate, seconds = 100, 5, 500, 10
	address := func(house int) string { return fmt.Sprintf("10.6.0.%d", house) }
	var generation [houses]atomic.Int64
	var pods [houses]*corev1.Pod
	move := func(house int) {
		if pods[house] != nil {
			running.remove(t, pods[house])
		}
		next := generation[house].Load() + 1
		pods[house] = running.pod(t, fmt.Sprintf("list-%d-%d", house, next), address(house), fmt.Sprintf("%d-%d", house, next))
		generation[house].Store(next) // the server has said so
	}
	for house := range houses {
		move(house)
	}
	ended := make(chan struct{})
	var mover, calling sync.WaitGroup
	mover.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-ended:
				return
			default:
				move(round % moving)
			}
		}
	})
	var mu sync.Mutex
	var took []time.Duration
	before, began := i.count(), time.Now()
	for number := range rate * seconds {
		time.Sleep(time.Until(began.Add(time.Duration(number) * time.Second / rate)))
		calling.Go(func() {
			house := rand.IntN(houses)
			known, start := generation[house].Load(), time.Now()
			user, err := i.connect(address(house))
			lasted := time.Since(start)
			var got int64
			if err == nil {
				_, err = fmt.Sscanf(user, fmt.Sprint(house)+"-%d", &got)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, lasted)
			switch {
			case house < moving && errors.Is(err, authn.ErrUnknown): // between two pods there is none
			case err != nil || got < known:
				t.Errorf("%s is %q, %v; the server had said %d before", address(house), user, err, known)
			}
		})
	}
	calling.Wait()
	lists := i.count() - before
	close(ended)
	mover.Wait()
	for house := range houses {
		running.remove(t, pods[house])
	}
	slices.Sort(took)
	moves := int64(0)
	for house := range moving {
		moves += generation[house].Load()
	}
	t.Logf("%d connections in %s, %d changes of hands; p50 %s, p99 %s; %.1f lists a second", len(took), time.Since(began).Round(time.Millisecond), moves,
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), float64(lists)/time.Since(began).Seconds())
}
