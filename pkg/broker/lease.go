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
	sent  time.Time     // before the last heartbeat that was acknowledged
	begun chan struct{} // closed by the first one
	first sync.Once
}

// renewed notes a heartbeat that was acknowledged just now. The gap ends with the acknowledgement: until
// then nobody may have known of the heartbeat. Another database, after a failover, does not know of the
// claims that were made before.
func (l *lease) renewed(sent, acknowledged time.Time, another bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if another || elapsed(l.sent, acknowledged) >= leaseLife {
		l.epoch++
	}
	l.begin()
	l.sent = sent
}

// begin lets those go on who wait for the first heartbeat.
func (l *lease) begin() {
	l.first.Do(func() {
		if l.begun != nil {
			close(l.begun)
		}
	})
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
	since time.Time // from when on its silence counts
	// changed is when this process saw it change; zero where it never did: what is first seen, or seen again
	// after a time in which nothing could be, is no sign of life.
	changed time.Time
	unheard bool // it was asked about, and has never been heard of
	dead    bool // another process found its spool lock free, and has offered what its spool held
}

// look notes the heartbeats as they are, by a statement that was sent and answered then. After a time in
// which this process could not look, every replica counts as heard just now.
func (p *peers) look(pulse Pulse, sent, answered time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent.Before(p.looked) {
		return // another look overtook it
	}
	blind := elapsed(p.looked, sent) >= leaseLife
	p.looked = sent
	seen := make(map[string]heard, len(pulse.Beats))
	for id, beat := range pulse.Beats {
		one, known := p.seen[id]
		known = known && !one.unheard
		switch {
		case known && one.beat != beat:
			one.changed, one.since = answered, answered
		case blind, !known:
			one.since = answered
		}
		one.beat, one.dead, one.unheard = beat, pulse.Gone[id], false
		seen[id] = one
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
		before = heard{since: p.looked, unheard: true}
		p.seen[id] = before
	}
	return max(p.looked.Sub(before.since), 0)
}

// changed is when a replica's heartbeat was last seen to change, and whether another replica says that it is
// dead.
func (p *peers) changed(id string) (at time.Time, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[id].changed, p.seen[id].dead
}

// alive are the replicas whose heartbeats had changed within a lease's life at the last look.
func (p *peers) alive() (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, before := range p.seen {
		if !before.unheard && p.looked.Sub(before.since) < leaseLife {
			ids = append(ids, id)
		}
	}
	return ids
}

// begun waits for the first heartbeat: until then it is not known whether the database's clock was set back.
func (e *engine) begun() bool {
	if e.replicas == nil {
		return true
	}
	select {
	case <-e.lease.begun:
		return true
	case <-time.After(leaseLife):
		return false
	}
}

// beat keeps the lease for as long as the context lasts.
func (e *engine) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		sent, stepped := time.Now(), false
		within, cancel := context.WithTimeout(ctx, leaseLife)
		if pulse, err := e.replicas.Beat(within, Beat{e.replica, e.failover.offered, e.clock.latest()}); err == nil {
			acknowledged := time.Now()
			if e.lease.never() {
				e.clock.begin(pulse)
			}
			stepped = e.noteClock(pulse.Reading)
			if e.clock.adopt(pulse.Stepped) {
				e.cache.forgetAll() // rows may have been read in the meantime, and taken to be valid for too long
			}
			another := e.failover.seen(pulse, e.peers.alive(), acknowledged)
			e.lease.renewed(sent, acknowledged, another)
			e.peers.look(pulse, sent, acknowledged)
			e.failover.attend(within, pulse, acknowledged)
			count := len(e.peers.alive())
			for _, up := range e.upstreams {
				up.share(count)
			}
		}
		cancel()
		next := tick.C
		switch {
		case e.lease.never(): // the schema is about to be made
			next = time.After(beatEvery / 10)
		case stepped: // so that the others, and those who begin, know at once
			next = time.After(0)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
	}
}
