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

// revoke tells a provider which tokens are no longer wanted, until it was told of each. Each provider has
// a loop of its own, so that one that hangs holds back no other's.
func (e *engine) revoke(ctx context.Context, up *upstream) {
	tick := time.NewTicker(revokeEvery)
	defer tick.Stop()
	for {
		for e.revokeOne(ctx, up) {
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
func (e *engine) revokeOne(ctx context.Context, up *upstream) (more bool) {
	lease := up.config.Timeout + revocationSlack
	began := time.Now()
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	due, err := e.outbox.TakeRevocation(taking, up.id, lease)
	if err != nil || due.ID == "" {
		return false
	}
	sending, cancelSending := context.WithDeadline(ctx, began.Add(lease-time.Second))
	defer cancelSending()
	gate := func() bool { return elapsed(began, time.Now()) < lease-time.Second }
	switch err := up.Revoke(sending, due.Token, gate); {
	case errors.Is(err, provider.ErrNoRevocation):
		e.observer.Revoked(up.id, "unsupported")
	case err != nil:
		e.observer.Revoked(up.id, "failed")
		return true // it is due again later
	default:
		e.observer.Revoked(up.id, "revoked")
	}
	ending, cancelEnding := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancelEnding()
	return e.outbox.Revoked(ending, due.ID) == nil
}
