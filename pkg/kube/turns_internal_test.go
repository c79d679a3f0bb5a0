package kube

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// How often a crowd makes wts ask about all pods depends on how long an answer takes.
func TestHowOftenAllPodsAreAskedFor(t *testing.T) {
	for _, row := range []struct {
		name         string
		takes, apart time.Duration
		fails        bool
	}{
		{name: "at once", apart: 20 * time.Millisecond},
		{name: "quickly", takes: 10 * time.Millisecond, apart: 40 * time.Millisecond},
		{name: "slowly", takes: 60 * time.Millisecond, apart: 100 * time.Millisecond},
		{name: "with a failure", apart: 100 * time.Millisecond, fails: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var began []time.Time
				asked := turns{
					one: func(context.Context, want, func(*pod)) error { return nil },
					all: func(context.Context, map[want]*found, func(*pod)) error {
						began = append(began, time.Now())
						time.Sleep(row.takes)
						if row.fails {
							return errors.New("away")
						}
						return nil
					},
				}
				ends := time.Now().Add(3 * time.Second)
				var crowd sync.WaitGroup
				for i := range 8 {
					crowd.Go(func() {
						for time.Now().Before(ends) {
							_, _ = asked.ask(t.Context(), want{address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, false)
						}
					})
				}
				crowd.Wait()
				if len(began) < 5 {
					t.Fatalf("asked %d times", len(began))
				}
				for i := 2; i < len(began); i++ { // the first answers the first caller alone
					if apart := began[i].Sub(began[i-1]); apart != row.apart {
						t.Errorf("question %d came %v after the one before, want %v", i, apart, row.apart)
					}
				}
			})
		})
	}
}
