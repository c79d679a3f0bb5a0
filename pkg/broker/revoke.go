package broker

import (
	"context"
	"errors"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

const (
	revokeEvery = 2 * time.Second
	// revocationSlack is how much longer than the provider's timeout a revocation is leased for.
	revocationSlack = 5 * time.Second
)

// revoker ends grants at one provider that nobody wants any more.
type revoker struct {
	*engine
	up *upstream
}

// revoke tells a provider which tokens are no longer wanted, until it was told of each. Each provider has
// a loop of its own, so that one that hangs holds back no other's.
func (r *revoker) revoke(ctx context.Context) {
	tick := time.NewTicker(revokeEvery)
	defer tick.Stop()
	for {
		for r.revokeOne(ctx) {
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// revokeOne tells whether there may be more to do. Nothing is sent once the lease may be over: a login of
// the same person waits for its end, and a revocation after it would end that login's grant.
func (r *revoker) revokeOne(ctx context.Context) (more bool) {
	lease := r.up.config.Timeout + revocationSlack
	began := time.Now()
	taking, cancel := context.WithTimeout(ctx, StatementTimeout)
	defer cancel()
	due, err := r.outbox.TakeRevocation(taking, r.up.id, lease)
	if err != nil || due.ID == "" {
		return false
	}
	sending, cancelSending := context.WithDeadline(ctx, began.Add(lease-time.Second))
	defer cancelSending()
	gate := func() bool { return elapsed(began, time.Now()) < lease-time.Second }
	switch err := r.up.Revoke(sending, due.Token, gate); {
	case errors.Is(err, provider.ErrNoRevocation):
		r.observer.Revoked(r.up.id, "unsupported")
	case err != nil:
		r.observer.Revoked(r.up.id, "failed")
		return true // it is due again later
	default:
		r.observer.Revoked(r.up.id, "revoked")
	}
	ending, cancelEnding := context.WithTimeout(context.WithoutCancel(ctx), StatementTimeout)
	defer cancelEnding()
	return r.outbox.Revoked(ending, due.ID) == nil
}
