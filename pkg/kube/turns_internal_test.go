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

// How often callers make wts ask about all pods depends on how long an answer takes: a crowd, and a stranger alone at
// whose address no pod is.
func TestHowOftenAllPodsAreAskedFor(t *testing.T) {
	for _, row := range []struct {
		name         string
		takes, apart time.Duration
		fails        bool
		alone        bool
	}{
		{name: "at once", apart: 20 * time.Millisecond},
		{name: "quickly", takes: 10 * time.Millisecond, apart: 40 * time.Millisecond},
		{name: "slowly", takes: 60 * time.Millisecond, apart: 100 * time.Millisecond},
		{name: "with a failure", apart: 100 * time.Millisecond, fails: true},
		{name: "by a stranger, slowly", takes: 60 * time.Millisecond, apart: 100 * time.Millisecond, alone: true},
		{name: "by a stranger, with a failure", apart: 100 * time.Millisecond, fails: true, alone: true},
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
				callers := 8
				if row.alone {
					callers = 1
				}
				for i := range callers {
					crowd.Go(func() {
						for time.Now().Before(ends) {
							_, _ = asked.ask(t.Context(), want{address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, row.alone)
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
