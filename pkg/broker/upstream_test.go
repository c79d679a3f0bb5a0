package broker

import (
	"context"
	"errors"
	"fmt"
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
				for i := range sent {
					all = append(all, i)
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

func rowOf(user string) Row { return Row{Connection: Connection{UserID: user, Provider: "main"}} }

// While a provider fails, one attempt at a time asks whether it is back, however many callers ask;
// and once it is, all are served.
func TestAProviderThatFailsIsAskedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newUpstream("main", nil, provider.Config{})
		away := &provider.Error{Outcome: provider.Unknown}
		for i := range manyFailures {
			if err := up.admit(time.Now()); err != nil {
				t.Fatalf("attempt %d was refused after too few failures: %v", i, err)
			}
			up.note(rowOf(fmt.Sprint(i)), away, time.Now())
		}
		attempts := 0
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(50 * time.Millisecond) {
			if up.admit(time.Now()) == nil {
				attempts++
				up.note(rowOf(fmt.Sprint("other", attempts)), away, time.Now())
			}
		}
		if attempts < 12 || attempts > 25 {
			t.Errorf("%d attempts in a minute of an outage, want between 12 and 25", attempts)
		}
		up.note(rowOf("one"), nil, time.Now())
		for range 100 {
			if err := up.admit(time.Now()); err != nil {
				t.Fatalf("after an answer: %v", err)
			}
		}
	})
}

// One connection that fails while others are served delays nobody but itself, and itself for longer and
// longer.
func TestOneGrantThatFailsDelaysOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newUpstream("main", nil, provider.Config{})
		broken := rowOf("alice")
		broken.FailingSince = time.Now()
		refused := &provider.Error{Outcome: provider.Misconfigured, Code: "invalid_scope", Status: 400}
		last := time.Duration(0)
		for range 40 {
			time.Sleep(15 * time.Second)
			up.note(rowOf("bob"), nil, time.Now())
			last, _ = up.note(broken, refused, time.Now())
			if err := up.admit(time.Now()); err != nil {
				t.Fatalf("bob is refused for alice's sake: %v", err)
			}
		}
		if last < maxGrantBackOff || last > 2*maxGrantBackOff {
			t.Errorf("after ten minutes alice's connection rests for %s, want about %s", last, maxGrantBackOff)
		}
	})
}

// What may be one grant's fault is the client's once several were told so with none served between; what
// can only be the client's is so at once; and a caller is told for how long.
func TestWhoseFaultARejectionIs(t *testing.T) {
	for name, row := range map[string]struct {
		code   string
		users  int
		helped bool // another is served before the last
		held   bool
	}{
		"invalid_client":                    {code: "invalid_client", users: 1, held: true},
		"invalid_scope of one":              {code: "invalid_scope", users: 1},
		"invalid_scope of two":              {code: "invalid_scope", users: 2},
		"invalid_scope of three":            {code: "invalid_scope", users: 3, held: true},
		"unauthorized_client of three":      {code: "unauthorized_client", users: 3, held: true},
		"of three, and another was served":  {code: "invalid_scope", users: 3, helped: true},
		"unsupported_grant_type of another": {code: "unsupported_grant_type", users: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := newUpstream("main", nil, provider.Config{})
				retry := time.Duration(0)
				for i := range row.users {
					if row.helped && i == row.users-1 {
						up.note(rowOf("served"), nil, time.Now())
					}
					_, retry = up.note(rowOf(fmt.Sprint(i)), &provider.Error{Outcome: provider.Misconfigured, Code: row.code, Status: 400}, time.Now())
				}
				err := up.admit(time.Now())
				if (err != nil) != row.held {
					t.Errorf("another user: got %v, want refused %t", err, row.held)
				}
				var unavailable *Unavailable
				if row.held && (!errors.As(err, &unavailable) || retry < unavailable.RetryAfter || unavailable.RetryAfter > misconfiguredFor) {
					t.Errorf("the caller is told %s, and the provider rests for %v", retry, err)
				}
			})
		})
	}
}

func TestABackOffGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newUpstream("main", nil, provider.Config{})
		away := &provider.Error{Outcome: provider.Unsent}
		if rest, _ := up.note(rowOf("u"), away, time.Now()); rest < minBackOff || rest > 2*minBackOff {
			t.Errorf("at first: %s", rest)
		}
		time.Sleep(20 * time.Second)
		if rest, _ := up.note(rowOf("u"), away, time.Now()); rest < maxBackOff || rest > 2*maxBackOff {
			t.Errorf("after 20 s: %s, want about %s, so that the end of an outage is seen soon", rest, maxBackOff)
		}
		if up.note(rowOf("v"), up.tooMany, time.Now()); len(up.failing) != 1 {
			t.Errorf("a full queue of ours counts as the provider's failure")
		}
		time.Sleep(time.Hour)
		if rest, _ := up.note(rowOf("u"), away, time.Now()); rest > 2*minBackOff {
			t.Errorf("after an hour in which nobody asked: %s", rest)
		}
	})
}

// busyEngine is a provider whose rate is used up, and a store that notes how flights end.
type busyEngine struct {
	Store
	Refresher
	asked, settled int
}

func (e *busyEngine) Refresh(context.Context, secret.Text, string, provider.Gate) (provider.Tokens, error) {
	e.asked++
	return provider.Tokens{}, &provider.Error{Outcome: provider.Unexpected}
}

func (e *busyEngine) Apply(context.Context, Row, Action) (Change, error) {
	e.settled++
	return Change{}, nil
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
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := &busyEngine{}
				b := New(Parts{Config: Config{DefaultProvider: "main"}, Store: engine, Now: time.Now})
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
				if _, err := (&presentation{b.engine, up, line.flight}).fly(t.Context()); !errors.Is(err, ErrUnavailable) {
					t.Errorf("got %v, want an outage", err)
				}
				if took := time.Since(began); engine.asked != line.asked || engine.settled != 1 || took > line.atMost || took < line.atLeast {
					t.Errorf("asked %d times, settled %d times, after %s", engine.asked, engine.settled, took)
				}
			})
		})
	}
}

func TestWhoIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Parts{Config: Config{DefaultProvider: "main"}, Now: time.Now})
		up := newUpstream("main", nil, provider.Config{RefreshRate: 10, RefreshTimeout: 10 * time.Second, ReuseGrace: 12 * time.Second})
		now := time.Now()
		living := Row{
			Connection: Connection{Phase: Ready, RefreshToken: "rt", AccessToken: "at", AccessIssuedAt: now, AccessExpiresAt: now.Add(time.Hour)},
			Reading:    Reading{Database: now, Sent: now, Received: now},
		}
		dead := living
		dead.AccessExpiresAt = now.Add(-time.Second)
		doubt, inFlight := dead, dead
		doubt.Phase, inFlight.Phase = Suspect, Refreshing
		doubt.PresentedAt = now
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
			got := []bool{b.engine.turnedAway(up, living) != nil, b.engine.turnedAway(up, dead) != nil, b.engine.turnedAway(up, doubt) != nil, b.engine.turnedAway(up, inFlight) != nil}
			if diff := cmp.Diff([]bool{step.living, step.dead, step.doubted, step.inFlight}, got); diff != "" {
				t.Errorf("%d before: %s", step.reserved, diff)
			}
		}
		for what, line := range map[string]struct {
			row   Row
			least time.Duration // until it may be tried again, and less than a second more
		}{
			"the queue is 414 refreshes, eight a second, of which 5 s may be waited for": {dead, 46750 * time.Millisecond},
			"the same, and its token is valid":                                           {living, 46750 * time.Millisecond},
		} {
			var outage *Unavailable
			if err := b.engine.turnedAway(up, line.row); !errors.As(err, &outage) || outage.RetryAfter < line.least || outage.RetryAfter >= line.least+time.Second {
				t.Errorf("%s: got %v after %s, want after %s", what, err, outage.RetryAfter, line.least)
			}
		}
		resting := doubt
		resting.PresentedAt, resting.NextAttemptAt = now.Add(-12*time.Second), now.Add(300*time.Millisecond)
		var outage *Unavailable
		if err := b.engine.turnedAway(up, resting); !errors.Is(err, errDoubt) || !errors.As(err, &outage) || outage.RetryAfter != time.Second {
			t.Errorf("a doubt that rests a moment more: got %v, want errDoubt and a second", err)
		}
		idle := newUpstream("main", nil, provider.Config{RefreshRate: 10})
		resting.NextAttemptAt = now
		if err := b.engine.turnedAway(idle, resting); err != nil {
			t.Errorf("a doubt that has rested: got %v, want nil", err)
		}
		idle.hold(now.Add(7*time.Second), errFailing)
		for what, row := range map[string]Row{"a dead one": dead, "a valid one": living} {
			if err := b.engine.turnedAway(idle, row); !errors.Is(err, errFailing) || !errors.As(err, &outage) || outage.RetryAfter != 7*time.Second {
				t.Errorf("%s, and the provider rests: got %v after %s, want 7 s", what, err, outage.RetryAfter)
			}
		}
	})
}
