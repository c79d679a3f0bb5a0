package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Refresher is what the engine asks of a provider.
type Refresher interface {
	Refresh(ctx context.Context, refreshToken secret.Text, gate provider.Gate) (provider.Tokens, error)
	Revoke(ctx context.Context, refreshToken secret.Text) error
}

// upstream is a provider and how it has been of late, as this replica saw it.
type upstream struct {
	Refresher
	id     string
	config provider.Config
	rate   *rate.Limiter
	served func(left time.Duration)
	// takeovers are the orphans that are being presented.
	takeovers chan struct{}
	tooMany   *provider.Error // the configured rate is used up

	mu        sync.Mutex
	heldUntil time.Time // it asked for patience, or does not take us for its client
	held      error
	failures  int       // in a row
	failing   time.Time // since when
	failed    time.Time // last
}

func newUpstream(id string, refresher Refresher, config provider.Config) *upstream {
	config = config.WithDefaults(id)
	limit, burst := shareOf(config, 1)
	return &upstream{
		takeovers: make(chan struct{}, maxTakeovers), Refresher: refresher, id: id, config: config, rate: rate.NewLimiter(limit, burst),
		tooMany: &provider.Error{Provider: id, Doing: "refresh", Outcome: provider.Unsent, Reason: "refresh_rate is used up"},
	}
}

// share gives this replica its part of the provider's rate.
func (u *upstream) share(replicas int) {
	limit, burst := shareOf(u.config, replicas)
	u.rate.SetLimit(limit)
	u.rate.SetBurst(burst)
}

// shareOf is a part of the rate such that what may come at once, and what comes in the second after, are
// no more than it together. A replica whose part is less than two a second sends one at a time.
func shareOf(config provider.Config, replicas int) (rate.Limit, int) {
	part := config.RefreshRate / float64(max(replicas, 1))
	if part < 2 {
		return rate.Limit(part / 2), 1
	}
	burst := max(1, int(part/5))
	return rate.Limit(part - float64(burst)), burst
}

// queue is how long a refresh that is asked for now would wait for its turn.
func (u *upstream) queue() time.Duration {
	missing := 1 - u.rate.Tokens()
	return max(0, time.Duration(missing/float64(u.rate.Limit())*float64(time.Second)))
}

// ready tells whether the provider may be asked now; else why not, and for how long.
func (u *upstream) ready(now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Before(u.heldUntil) {
		return &Unavailable{RetryAfter: u.heldUntil.Sub(now), Cause: u.held}
	}
	return nil
}

// troubled tells that the last answers were failures: a caller whose token lives does not wait then.
func (u *upstream) troubled() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failures > 0
}

const (
	misconfiguredFor = 15 * time.Second
	minBackOff       = time.Second
	maxBackOff       = 30 * time.Second
)

// note takes account of an answer, and returns how long the connection that it was about should rest.
func (u *upstream) note(err error, now time.Time) (rest time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var of *provider.Error
	if err == nil || errors.As(err, &of) && of.Outcome == provider.Refused {
		u.failures = 0
		return 0
	}
	if errors.Is(err, u.tooMany) {
		return time.Second + rand.N(time.Second)
	}
	if u.failures++; u.failures == 1 || now.Sub(u.failed) > 2*maxBackOff { // what nobody tried did not fail
		u.failing = now
	}
	u.failed = now
	// Half as long again as it has failed so far, however many users found out: a short outage is over soon.
	rest = min(max(now.Sub(u.failing)/2, minBackOff), maxBackOff)
	rest += rand.N(rest/2 + time.Millisecond)
	if of == nil {
		return rest
	}
	switch of.Outcome {
	case provider.Throttled:
		u.heldUntil, u.held = now.Add(max(of.RetryAfter, time.Second)), err
	case provider.Misconfigured:
		u.heldUntil, u.held = now.Add(misconfiguredFor), err
	default:
		if of.RetryAfter > 0 {
			u.heldUntil, u.held = now.Add(of.RetryAfter), err
		}
	}
	return rest
}
