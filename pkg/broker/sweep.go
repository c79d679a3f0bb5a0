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

// sweeper looks for flights that nobody ends, and for what processes that are gone have left. Beside the engine it has
// what one sweep leaves for the next.
type sweeper struct {
	*engine
	gone   map[string]time.Time // replicas whose spool lock was found free, and since when
	unsaid map[string]struct{}  // those of them that the others were not told of yet
	seen   map[string]time.Time // flights, and when they were first found
	// looked is when the database was last looked at. What it would not take meanwhile comes first, so that
	// flights count from the next look on.
	looked time.Time
}

// newSweeper looks after the rows of flights that fell silent.
func newSweeper(e *engine) *sweeper {
	return &sweeper{engine: e, gone: map[string]time.Time{}, unsaid: map[string]struct{}{}, seen: map[string]time.Time{}}
}

// sweep finds flights whose replica is gone, and presents their tokens again as soon as that is safe;
// and it stores what a process that is gone left in its spool.
func (s *sweeper) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.sweepOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepOnce is one look. The spools come first: a successor that is stored in time makes its orphan none.
func (s *sweeper) sweepOnce(ctx context.Context) {
	if !s.unsettled.Load() { // what a failover lost comes first
		for _, id := range s.spool.replay(ctx, s.keys, s.replay) {
			s.gone[id], s.unsaid[id] = time.Now(), struct{}{}
		}
		s.sayGone(ctx)
	}
	maps.DeleteFunc(s.gone, func(_ string, since time.Time) bool { return time.Since(since) > goneKept })
	stamp := s.cache.stamp()
	orphans, err := s.orphans(ctx)
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
		s.judge(ctx, orphan, s.owner(orphan), stamp)
	}
	s.seen = seen
}

// sayGone tells the other replicas, and those that begin later, which processes are dead: their spools are
// gone with the finding.
func (s *sweeper) sayGone(ctx context.Context) {
	for id := range s.unsaid {
		within, cancel := context.WithTimeout(ctx, StatementTimeout)
		err := s.replicas.Gone(within, id)
		cancel()
		if err != nil {
			return // the next sweep says it
		}
		delete(s.unsaid, id)
	}
}

// replay offers a record of a process that is gone.
func (s *sweeper) replay(ctx context.Context, record spooled) error {
	_, err := s.apply(ctx, Row{Connection: Connection{UserID: record.UserID, Provider: record.Provider}}, record.commit(s.digest))
	return err
}

// orphans asks what there is to judge, and looks at the heartbeats after the flights: a replica that was
// silent before a flight of its own began may be alive.
func (s *sweeper) orphans(ctx context.Context) ([]Orphan, error) {
	look := Look{Replica: s.replica, Overdue: flightSlack, Rested: sweepEvery}
	for _, id := range s.peers.alive() {
		if _, gone := s.gone[id]; !gone && id != s.replica {
			look.Healthy = append(look.Healthy, id)
		}
	}
	shortest := time.Duration(math.MaxInt64) - look.Overdue
	for _, up := range s.upstreams {
		shortest = min(shortest, up.config.RefreshTimeout)
	}
	look.Overdue += shortest
	ctx, cancel := context.WithTimeout(ctx, StatementTimeout)
	defer cancel()
	sent := time.Now()
	orphans, pulse, err := s.store.Orphans(ctx, look)
	if err == nil {
		s.peers.look(pulse, sent, time.Now())
	}
	return orphans, err
}

// owner is what this process knows about the replica that holds a flight.
func (s *sweeper) owner(orphan Orphan) Owner {
	if orphan.FlightID == "" {
		return Owner{}
	}
	owner := Owner{Self: orphan.Replica == s.replica, Holds: s.aloft.has(orphan.FlightID), Silent: s.peers.silent(orphan.Replica)}
	since, free := s.gone[orphan.Replica]
	changed, dead := s.peers.changed(orphan.Replica)
	// One that was heard since is not gone, whatever its lock says.
	owner.Dead = dead || free && !changed.After(since.Add(beatEvery))
	return owner
}

// judge decides about one orphan, and presents its token where that is the judgement.
func (s *sweeper) judge(ctx context.Context, orphan Orphan, owner Owner, stamp uint64) {
	up, configured := s.upstreams[orphan.Provider]
	if !configured {
		return
	}
	policy := s.policy(up)
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
		_, _ = s.apply(ctx, orphan.Row, verdict) // the next sweep tries again
		return
	case Present:
	}
	if orphan.Presented+graceSlack >= policy.Grace && (up.queue() > s.maxQueue(up) || up.admit(s.now()) != nil) {
		return
	}
	select {
	case up.takeovers <- struct{}{}:
	default:
		return
	}
	s.background(func(ctx context.Context) {
		defer func() { <-up.takeovers }()
		ctx = context.WithoutCancel(ctx)
		flight, err := s.claim(ctx, orphan.Row, Claim{Over: orphan.FlightID, Dead: owner.Dead}, stamp)
		if err != nil {
			return
		}
		_, err = (&presentation{s.engine, up, flight}).fly(ctx)
		s.observer.Resolved(orphan.Provider, resolution(err))
	})
}

// resolution names what became of an orphan, for the metrics.
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
