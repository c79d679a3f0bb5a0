package broker

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	beatEvery = time.Second
	// leaseLife is how long after a heartbeat a replica counts as living.
	leaseLife = 3 * time.Second
)

// lease is a replica's unbroken line of heartbeats. A gap longer than its life, on this process' own
// clock and counted from before the statement was sent, begins a new epoch: others may by then have
// taken over what was under way, so that no flight of an older epoch ever sends.
type lease struct {
	mu    sync.Mutex
	epoch int64
	sent  time.Time // before the last heartbeat that was acknowledged
}

// renewed notes a heartbeat that was acknowledged just now. The gap ends with the acknowledgement: until
// then nobody may have known of the heartbeat.
func (l *lease) renewed(sent, acknowledged time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if acknowledged.Sub(l.sent) >= leaseLife {
		l.epoch++
	}
	l.sent = sent
}

// now is the epoch, while the lease holds.
func (l *lease) now(at time.Time) (epoch int64, holds bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch, l.epoch > 0 && at.Sub(l.sent) < leaseLife
}

// beat keeps the lease for as long as the context lasts.
func (b *Broker) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var living [5]int // the last counts: just after an outage of the database everybody else looks silent
	for at := 0; ; {
		sent := time.Now()
		within, cancel := context.WithTimeout(ctx, leaseLife)
		if replicas, err := b.engine.Beat(within, b.replica); err == nil {
			acknowledged := time.Now()
			living[at%len(living)] = replicas
			at++
			for _, up := range b.upstreams {
				up.share(slices.Max(living[:]))
			}
			b.lease.renewed(sent, acknowledged)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
