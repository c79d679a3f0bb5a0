package broker

import (
	"context"
	"errors"
	"maps"
	"math"
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

// sweeper is what one sweep leaves for the next.
type sweeper struct {
	gone   map[string]time.Time // replicas whose spool lock was found free, and since when
	unsaid map[string]struct{}  // those of them that the others were not told of yet
	seen   map[string]time.Time // flights, and when they were first found
	// looked is when the database was last looked at. What it would not take meanwhile comes first, so that
	// flights count from the next look on.
	looked time.Time
}

func newSweeper() *sweeper {
	return &sweeper{gone: map[string]time.Time{}, unsaid: map[string]struct{}{}, seen: map[string]time.Time{}}
}

// sweep finds flights whose replica is gone, and presents their tokens again as soon as that is safe;
// and it stores what a process that is gone left in its spool.
func (e *engine) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	s := newSweeper()
	for {
		e.sweepOnce(ctx, s)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (e *engine) sweepOnce(ctx context.Context, s *sweeper) {
	if !e.unsettled.Load() { // what a failover lost comes first
		for _, id := range e.spool.replay(ctx, e.keys, e.replay) {
			s.gone[id], s.unsaid[id] = time.Now(), struct{}{}
		}
		e.sayGone(ctx, s)
	}
	maps.DeleteFunc(s.gone, func(_ string, since time.Time) bool { return time.Since(since) > goneKept })
	stamp := e.cache.stamp()
	orphans, err := e.orphans(ctx, s)
	if err != nil {
		return
	}
	now, seen := time.Now(), map[string]time.Time{}
	if elapsed(s.looked, now) >= leaseLife {
		clear(s.seen)
	}
	s.looked = now
	for _, orphan := range orphans {
		first := now
		if before, known := s.seen[orphan.FlightID]; known {
			first = before
		}
		seen[orphan.FlightID] = first
		// How long the flight lasts is this process's own observation: the database's clock may step. How
		// long ago the token was presented is whichever is longer, since a grace is counted by it.
		orphan.Claimed = now.Sub(first)
		orphan.Presented = max(orphan.Reading.Now().Sub(orphan.PresentedAt), orphan.Claimed)
		e.judge(ctx, orphan, e.owner(orphan, s), stamp)
	}
	s.seen = seen
}

// sayGone tells the other replicas, and those that begin later, which processes are dead: their spools are
// gone with the finding.
func (e *engine) sayGone(ctx context.Context, s *sweeper) {
	for id := range s.unsaid {
		within, cancel := context.WithTimeout(ctx, statementTimeout)
		err := e.replicas.Gone(within, id)
		cancel()
		if err != nil {
			return // the next sweep says it
		}
		delete(s.unsaid, id)
	}
}

// replay offers a record of a process that is gone.
func (e *engine) replay(ctx context.Context, record spooled) error {
	_, err := e.apply(ctx, Row{Connection: Connection{UserID: record.UserID, Provider: record.Provider}}, record.commit(e.digest))
	return err
}

// orphans asks what there is to judge, and looks at the heartbeats after the flights: a replica that was
// silent before a flight of its own began may be alive.
func (e *engine) orphans(ctx context.Context, s *sweeper) ([]Orphan, error) {
	look := Look{Replica: e.replica, Overdue: flightSlack}
	for _, id := range e.peers.alive() {
		if _, gone := s.gone[id]; !gone && id != e.replica {
			look.Healthy = append(look.Healthy, id)
		}
	}
	shortest := time.Duration(math.MaxInt64) - look.Overdue
	for _, up := range e.upstreams {
		shortest = min(shortest, up.config.RefreshTimeout)
	}
	look.Overdue += shortest
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	sent := time.Now()
	orphans, pulse, err := e.store.Orphans(ctx, look)
	if err == nil {
		e.peers.look(pulse, sent, time.Now())
	}
	return orphans, err
}

// owner is what this process knows about the replica that holds a flight.
func (e *engine) owner(orphan Orphan, s *sweeper) Owner {
	if orphan.FlightID == "" {
		return Owner{}
	}
	owner := Owner{Self: orphan.Replica == e.replica, Holds: e.aloft.has(orphan.FlightID), Silent: e.peers.silent(orphan.Replica)}
	since, free := s.gone[orphan.Replica]
	changed, dead := e.peers.changed(orphan.Replica)
	// One that was heard since is not gone, whatever its lock says.
	owner.Dead = dead || free && !changed.After(since.Add(beatEvery))
	return owner
}

// judge decides about one orphan, and presents its token where that is the judgement.
func (e *engine) judge(ctx context.Context, orphan Orphan, owner Owner, stamp uint64) {
	up, configured := e.upstreams[orphan.Provider]
	if !configured {
		return
	}
	policy := e.policy(up)
	switch Judge(orphan, owner, policy) {
	case Wait:
		return
	case Release: // its claim was given, and the acknowledgement was lost
		flight := flightOf(orphan.Row)
		verdict := flight.verdict(Ready)
		if flight.Doubtful {
			verdict = flight.verdict(Suspect)
		}
		verdict.Unsent = true
		_, _ = e.apply(ctx, orphan.Row, verdict) // the next sweep tries again
		return
	case Present:
	}
	if orphan.Presented+graceSlack >= policy.Grace && (up.queue() > e.maxQueue(up) || up.admit(e.now()) != nil) {
		return
	}
	select {
	case up.takeovers <- struct{}{}:
	default:
		return
	}
	e.background(func(ctx context.Context) {
		defer func() { <-up.takeovers }()
		ctx = context.WithoutCancel(ctx)
		flight, err := e.claim(ctx, orphan.Row, Claim{Over: orphan.FlightID, Dead: owner.Dead}, stamp)
		if err != nil {
			return
		}
		_, err = e.fly(ctx, up, flight)
		e.observer.Resolved(orphan.Provider, resolution(err))
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
