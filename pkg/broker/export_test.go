package broker

import "time"

// Beating tells whether the replica's lease holds, so that it may claim.
func (b *Broker) Beating() bool {
	_, holds := b.engine.lease.now(time.Now())
	return holds
}
