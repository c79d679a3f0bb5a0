package broker

import (
	"context"
	"sync"
	"time"
)

const (
	beatEvery = time.Second
	// leaseLife is how long after a heartbeat a replica counts as alive.
	leaseLife = 3 * time.Second
)

// elapsed is the time between two readings of this process's clock: the larger of the monotonic and the
// wall clock's, since the monotonic one stands still while a machine is suspended.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// lease is a replica's unbroken line of heartbeats. A gap longer than its life, counted from before the
// statement was sent, begins a new epoch: others may by then have taken over what was under way, so
// that no flight of an older epoch ever sends.
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
	if elapsed(l.sent, acknowledged) >= leaseLife {
		l.epoch++
	}
	l.sent = sent
}

// now is the epoch, while the lease holds.
func (l *lease) now(at time.Time) (epoch int64, holds bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch, l.epoch > 0 && elapsed(l.sent, at) < leaseLife
}

// never tells that no heartbeat was acknowledged yet.
func (l *lease) never() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch == 0
}

// peers are the replicas' heartbeats as this process saw them change, on its own clock alone: a step of
// the database's clock makes nobody look silent, and neither does an outage of the database, during
// which nobody can be heard.
type peers struct {
	mu     sync.Mutex
	looked time.Time // before the last look
	seen   map[string]heard
}

type heard struct {
	beat  int64
	since time.Time // when this process saw it change
}

// look notes the heartbeats as they are, by a statement that was sent and answered then. After a time in
// which this process could not look, every replica counts as heard just now.
func (p *peers) look(beats map[string]int64, sent, answered time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent.Before(p.looked) {
		return // another look overtook it
	}
	blind := elapsed(p.looked, sent) >= leaseLife
	p.looked = sent
	seen := make(map[string]heard, len(beats))
	for id, beat := range beats {
		before, known := p.seen[id]
		if blind || !known || before.beat != beat {
			before = heard{beat, answered}
		}
		seen[id] = before
	}
	for id, before := range p.seen { // one that is kept no longer is silent, not unknown
		if _, kept := seen[id]; !kept && !blind && sent.Sub(before.since) < goneKept {
			seen[id] = before
		}
	}
	p.seen = seen
}

// silent is how long a replica's heartbeat had not changed at the last look. One that was never heard of
// counts from that look on.
func (p *peers) silent(id string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.seen[id]
	if !known {
		before = heard{since: p.looked}
		p.seen[id] = before
	}
	return max(p.looked.Sub(before.since), 0)
}

// since is when a replica's heartbeat last changed.
func (p *peers) since(id string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[id].since
}

// alive are the replicas whose heartbeats had changed within a lease's life at the last look.
func (p *peers) alive() (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, before := range p.seen {
		if p.looked.Sub(before.since) < leaseLife {
			ids = append(ids, id)
		}
	}
	return ids
}

// beat keeps the lease for as long as the context lasts.
func (e *engine) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		sent := time.Now()
		within, cancel := context.WithTimeout(ctx, leaseLife)
		if beats, err := e.replicas.Beat(within, e.replica); err == nil {
			acknowledged := time.Now()
			e.lease.renewed(sent, acknowledged)
			e.peers.look(beats, sent, acknowledged)
			count := len(e.peers.alive())
			for _, up := range e.upstreams {
				up.share(count)
			}
		}
		cancel()
		next := tick.C
		if e.lease.never() { // the schema is about to be made
			next = time.After(beatEvery / 10)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
	}
}
