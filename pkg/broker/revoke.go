package broker

import (
	"context"
	"time"
)

const revokeEvery = 2 * time.Second

// revoke tells providers which tokens are no longer wanted, until each was told.
func (b *Broker) revoke(ctx context.Context) {
	tick := time.NewTicker(revokeEvery)
	defer tick.Stop()
	for {
		for b.revokeOne(ctx) {
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// revokeOne tells whether there may be more to do.
func (b *Broker) revokeOne(ctx context.Context) (more bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	due, err := b.outbox.TakeRevocation(ctx)
	if err != nil || due.ID == "" {
		return false
	}
	up, configured := b.upstreams[due.Provider]
	if !configured {
		return true // another replica may know it, or this one later
	}
	if err := up.Revoke(ctx, due.Token); err != nil {
		b.observer.Revoked(due.Provider, "failed")
		return true // it is due again later
	}
	b.observer.Revoked(due.Provider, "revoked")
	return b.outbox.Revoked(ctx, due.ID) == nil
}
