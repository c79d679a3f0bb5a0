package broker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// However many replicas there are, and however many ask after a quiet time, no second has more refreshes
// than the provider's rate; and nearly as many are kept up.
func TestTheRateHoldsInAnySecond(t *testing.T) {
	for _, rate := range []float64{1, 5, 20, 50, 400} {
		for _, replicas := range []int{1, 3} {
			synctest.Test(t, func(t *testing.T) {
				sent := make(chan time.Time, 100_000)
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				for range replicas {
					up := newUpstream("main", nil, provider.Config{RefreshRate: rate})
					up.share(replicas)
					time.Sleep(10 * time.Second)
					for range 10 {
						go func() {
							for up.rate.Wait(ctx) == nil {
								sent <- time.Now()
							}
						}()
					}
				}
				<-ctx.Done()
				synctest.Wait()
				close(sent)
				var all []time.Time
				for at := range sent {
					all = append(all, at)
				}
				first := 0
				for last := range all {
					for all[last].Sub(all[first]) >= time.Second {
						first++
					}
					if in := last - first + 1; float64(in) > max(rate, float64(replicas)) {
						t.Fatalf("%v a second, %d replicas: %d in one", rate, replicas, in)
					}
				}
				if float64(len(all)) < rate*20 {
					t.Errorf("%v a second, %d replicas: %d in a minute", rate, replicas, len(all))
				}
			})
		}
	}
}

func TestTheQueueIsWhatOneMoreWouldWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newUpstream("main", nil, provider.Config{RefreshRate: 10}) // two at once, eight a second
		time.Sleep(time.Second)
		if up.queue() != 0 {
			t.Errorf("idle: %s", up.queue())
		}
		for range 10 {
			up.rate.Reserve()
		}
		if got := up.queue(); got < 1100*time.Millisecond || got > 1200*time.Millisecond {
			t.Errorf("eight wait before it: %s", got)
		}
	})
}

// A back-off grows with the time that the provider has failed for, not with how many users found out.
func TestTheBackOffGrowsWithTheOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newUpstream("main", nil, provider.Config{})
		away := &provider.Error{Outcome: provider.Unsent}
		for range 1000 {
			if rest := up.note(away, time.Now()); rest < minBackOff || rest > 2*minBackOff {
				t.Fatalf("at first: %s", rest)
			}
		}
		time.Sleep(20 * time.Second)
		if rest := up.note(away, time.Now()); rest < 10*time.Second || rest > 16*time.Second {
			t.Errorf("after 20 s: %s", rest)
		}
		time.Sleep(time.Hour)
		if rest := up.note(away, time.Now()); rest < maxBackOff || rest > 2*maxBackOff {
			t.Errorf("after an hour: %s", rest)
		}
		if up.note(errTooMany, time.Now()); up.failures != 1002 {
			t.Errorf("our own queue was taken for the provider's failure")
		}
		up.note(nil, time.Now())
		if rest := up.note(away, time.Now()); rest > 2*minBackOff {
			t.Errorf("after an answer: %s", rest)
		}
		if errors.Is(away, errTooMany) {
			t.Error("any failure is one of the queue")
		}
	})
}
