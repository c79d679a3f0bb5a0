package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
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
				begin := make(chan struct{})
				for range replicas {
					up := newUpstream("main", nil, provider.Config{RefreshRate: rate})
					up.share(replicas)
					for range 10 {
						go func() {
							<-begin
							for up.rate.Wait(ctx) == nil {
								sent <- time.Now()
							}
						}()
					}
				}
				time.Sleep(10 * time.Second)
				close(begin)
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
		for range 10 {
			time.Sleep(maxBackOff)
			up.note(away, time.Now())
		}
		if rest := up.note(away, time.Now()); rest < maxBackOff || rest > 2*maxBackOff {
			t.Errorf("after five minutes: %s", rest)
		}
		if up.note(up.tooMany, time.Now()); up.failures != 1012 {
			t.Errorf("our own queue was taken for the provider's failure")
		}
		up.note(nil, time.Now())
		if rest := up.note(away, time.Now()); rest > 2*minBackOff {
			t.Errorf("after an answer: %s", rest)
		}
		time.Sleep(time.Hour)
		if rest := up.note(away, time.Now()); rest > 2*minBackOff {
			t.Errorf("after an hour in which nobody asked: %s", rest)
		}
	})
}

// busyEngine is a provider whose rate is used up, and a store that notes how flights end.
type busyEngine struct {
	Flights
	Refresher
	asked, settled int
}

func (e *busyEngine) Refresh(context.Context, secret.Text, provider.Gate) (provider.Tokens, error) {
	e.asked++
	return provider.Tokens{}, &provider.Error{Outcome: provider.Unexpected}
}

func (e *busyEngine) Settle(context.Context, Flight, Verdict) error {
	e.settled++
	return nil
}

// While the rate is used up, a refresh waits for its turn no longer than leaves the provider half of the
// timeout; and a doubt within the provider's grace does not wait at all, since the grace does not.
func TestAFullQueue(t *testing.T) {
	for name, line := range map[string]struct {
		flight  Flight
		grace   time.Duration
		asked   int
		atLeast time.Duration
		atMost  time.Duration
	}{
		"the first presentation":       {flight: Flight{First: true}, grace: 10 * time.Second, asked: 0, atMost: 5 * time.Second},
		"a doubt within the grace":     {flight: Flight{Doubtful: true, Presented: 2 * time.Second}, grace: 10 * time.Second, asked: 1},
		"a doubt whose grace is over":  {flight: Flight{Doubtful: true, Presented: 11 * time.Second}, grace: 10 * time.Second, asked: 0, atMost: 5 * time.Second},
		"a doubt where there is none":  {flight: Flight{Doubtful: true}, asked: 0, atMost: 5 * time.Second},
		"a turn that comes in time":    {flight: Flight{First: true}, asked: 1, atLeast: time.Second, atMost: 5 * time.Second},
		"a takeover within the grace ": {flight: Flight{Doubtful: true, Presented: time.Second, over: true}, grace: 10 * time.Second, asked: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			engine := &busyEngine{}
			b := New(Parts{Config: Config{DefaultProvider: "main"}, Flights: engine, Observer: quiet{}, Now: time.Now})
			up := newUpstream("main", engine, provider.Config{RefreshRate: 10, RefreshTimeout: 10 * time.Second, ReuseGrace: line.grace})
			queue := 400
			if line.atLeast > 0 {
				queue = 20
			}
			for range queue {
				up.rate.Reserve()
			}
			line.flight.claimed = time.Now()
			began := time.Now()
			_, _ = b.fly(t.Context(), up, line.flight)
			if took := time.Since(began); engine.asked != line.asked || engine.settled != 1 || took > line.atMost || took < line.atLeast {
				t.Errorf("%s: asked %d times, settled %d times, after %s", name, engine.asked, engine.settled, took)
			}
		})
	}
}

func TestWhoIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Parts{Config: Config{DefaultProvider: "main"}, Observer: quiet{}, Now: time.Now})
		up := newUpstream("main", nil, provider.Config{RefreshRate: 10, RefreshTimeout: 10 * time.Second, ReuseGrace: 12 * time.Second})
		now := time.Now()
		living := Connection{Phase: Ready, RefreshToken: "rt", AccessToken: "at", AccessIssuedAt: now, AccessExpiresAt: now.Add(time.Hour)}
		dead := living
		dead.AccessExpiresAt = now.Add(-time.Second)
		doubt, inFlight := dead, dead
		doubt.Phase, inFlight.Phase = Suspect, Refreshing
		for _, step := range []struct {
			reserved                        int
			living, dead, doubted, inFlight bool
		}{
			{reserved: 0},
			{reserved: 15, living: true},
			{reserved: 400, living: true, dead: true},
		} {
			for range step.reserved {
				up.rate.Reserve()
			}
			got := []bool{b.turnedAway(up, living) != nil, b.turnedAway(up, dead) != nil, b.turnedAway(up, doubt) != nil, b.turnedAway(up, inFlight) != nil}
			if diff := cmp.Diff([]bool{step.living, step.dead, step.doubted, step.inFlight}, got); diff != "" {
				t.Errorf("%d before: %s", step.reserved, diff)
			}
		}
	})
}

// quiet observes nothing.
type quiet struct{}

func (quiet) Refreshed(string, string, time.Duration) {}
func (quiet) GrantLost(string, string)                {}
func (quiet) Doubted(string)                          {}
func (quiet) Resolved(string, string)                 {}
func (quiet) Revoked(string, string)                  {}
func (quiet) SpoolFailed(error)                       {}
func (quiet) Serving(string) func(time.Duration)      { return func(time.Duration) {} }
