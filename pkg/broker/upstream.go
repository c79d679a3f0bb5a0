package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// Refresher is what the engine asks of a provider.
type Refresher interface {
	Refresh(ctx context.Context, refreshToken Secret, gate provider.Gate) (provider.Tokens, error)
	Revoke(ctx context.Context, refreshToken Secret) error
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

	mu        sync.Mutex
	heldUntil time.Time // it asked for patience, or does not take us for its client
	held      error
	failures  int // in a row
}

func newUpstream(id string, refresher Refresher, config provider.Config) *upstream {
	config = config.WithDefaults(id)
	return &upstream{takeovers: make(chan struct{}, maxTakeovers), Refresher: refresher, id: id, config: config, rate: rate.NewLimiter(rate.Limit(config.RefreshRate), max(1, int(config.RefreshRate)))}
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
	maxBackOff       = time.Minute
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
	u.failures++
	rest = min(time.Second<<min(u.failures-1, 6), maxBackOff)
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
