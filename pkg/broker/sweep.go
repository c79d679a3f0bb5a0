package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

const (
	sweepEvery = time.Second
	// flightSlack is how much longer than its provider's timeout a flight may take to end.
	flightSlack = 5 * time.Second
	// goneKept is how long a replica is remembered as gone: by then its flights have long been judged.
	goneKept = time.Hour
	// maxTakeovers bounds the orphans that one replica presents to one provider at once.
	maxTakeovers = 32
)

// sweep finds flights whose replica is gone, and presents their tokens again as soon as that is safe;
// and it stores what a process that is gone left in its spool.
func (b *Broker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var reached time.Time          // since when the database answers without a break
	gone := map[string]time.Time{} // replicas that are known to be, and since when
	for {
		for _, one := range b.spool.replay(ctx, b.keys, func(flight Flight, record spooled) error {
			return b.commitWithin(ctx, flight, record.tokens())
		}) {
			gone[one] = b.now()
		}
		maps.DeleteFunc(gone, func(_ string, since time.Time) bool { return b.now().Sub(since) > goneKept })
		orphans, err := b.orphans(ctx, slices.Collect(maps.Keys(gone)))
		switch {
		case err != nil:
			reached = time.Time{}
		case reached.IsZero():
			reached = b.now()
		}
		for _, one := range orphans {
			since, dead := gone[one.Replica]
			// Who was heard since is not gone, whatever its lock says. And who had taken over another's flight
			// leaves that other, who may come back.
			dead = dead && one.Silent+500*time.Millisecond >= b.now().Sub(since) && one.Reason != string(Suspect)
			b.judge(ctx, one, dead, b.now().Sub(reached))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *Broker) orphans(ctx context.Context, gone []string) ([]Orphan, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return b.engine.Orphans(ctx, b.replica, gone)
}

// judge decides about one orphan. Others are judged only one lease after the database was reached:
// just after an outage of it everybody looks silent. Of one that is dead nothing more will come: its spool
// has been read.
func (b *Broker) judge(ctx context.Context, one Orphan, dead bool, reachable time.Duration) {
	up, configured := b.upstreams[one.Provider]
	switch {
	case !configured, one.RefreshToken == "":
		return
	case one.Flight != "" && one.Replica == b.replica:
		if !b.aloft.has(one.Flight) { // its claim was made, and the word of it was lost
			_ = b.settleWithin(ctx, Flight{ID: one.Flight, Connection: one.Connection, Digest: one.Digest, First: one.First}, Verdict{Phase: phaseOf(one), Reason: one.Reason, Unsent: true})
		}
		return
	case one.Flight != "" && !dead && !b.orphaned(one, up, reachable):
		return
	case one.Flight != "" && !dead && !b.safe(one, up) && min(one.Silent, reachable) < b.config.SpoolWait:
		return // its owner may come back with the successor
	case (up.ready(b.now()) != nil || up.queue() > b.maxQueue(up)) && one.Presented+graceSlack >= up.config.ReuseGrace:
		return
	}
	select {
	case up.takeovers <- struct{}{}:
	default:
		return
	}
	b.background(func(ctx context.Context) {
		defer func() { <-up.takeovers }()
		ctx = context.WithoutCancel(ctx)
		flight, err := b.claim(ctx, one.Connection, one.Flight)
		if err != nil {
			return
		}
		flight.over = one.Flight != "" && !dead
		_, err = b.fly(ctx, up, flight)
		b.observer.Resolved(one.Provider, resolution(err))
	})
}

func resolution(err error) string {
	switch {
	case err == nil:
		return "kept"
	case errors.Is(err, ErrGrantBroken):
		return "lost"
	case errors.Is(err, errAgain):
		return "superseded"
	default:
		return "open"
	}
}

// phaseOf is what a row goes back to whose token was not presented after all.
func phaseOf(one Orphan) Phase {
	if one.Reason == string(Suspect) {
		return Suspect
	}
	return Ready
}

// orphaned tells that a flight's replica is gone, or that the flight has taken longer than any can.
func (b *Broker) orphaned(one Orphan, up *upstream, reachable time.Duration) bool {
	return reachable >= leaseLife && (one.Silent >= leaseLife || one.Claimed > up.config.RefreshTimeout+flightSlack)
}

// safe tells that presenting the token again cannot end the grant, whatever became of the first time.
func (b *Broker) safe(one Orphan, up *upstream) bool {
	switch {
	case b.exclusive: // nobody else is there who could come back with a successor
		return true
	case up.config.NeverRotates(), one.Rotates == RotationNo && !one.ProviderRotates:
		return true
	default:
		return up.config.ReuseGrace > 0 && one.Presented+graceSlack < up.config.ReuseGrace
	}
}
