package broker

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// A database that fails over to a standby may lose its last commits: the rows of the standby then hold
// tokens that are spent, and grants that have ended. So every replica keeps the rows that it stored of
// late, and offers them again when the database turns out to be another one (refresh-engine.md,
// "A failover that loses commits"). The database takes nothing else until all have offered theirs.

// Restore brings back a row as a replica had stored it. Of two rows that the former server held the one
// whose token was stored by the later claim wins, and of one token's the higher version; an end wins over
// what came before it. A row that was changed since the failover has a version above all of them.
type Restore struct {
	Row Row // as it was stored, its version included
	// Revoke is what that change had put into the outbox.
	Revoke []Unwanted
	// Person is the user whom a login had made or found; nil for any other change.
	Person *Person
	// Separate: each login at the provider is a grant of its own.
	Separate bool
}

// Person is a user as a login established them.
type Person struct {
	UserID   string
	Identity provider.Identity
}

// on brings a row back, unless the database holds something later of it: a failover loses the end of a history, never
// its middle.
func (r Restore) on(row Row, _ time.Time) (Change, error) {
	if !r.later(row) {
		// An end wins over a successor, which goes to the outbox in its place.
		if row.Phase == Disconnected && r.Row.RefreshToken != "" && !r.Row.ConnectedAt.After(row.ConnectedAt) {
			return Change{Keep: true, Revoke: []Unwanted{{r.Row.Subject, r.Row.RefreshToken}}, Refusal: ErrSuperseded}, nil
		}
		return Change{}, ErrSuperseded
	}
	next := r.Row
	next.Reading = row.Reading
	if next.Phase == Disconnected {
		next.Subject, next.StoredVersion = cmp.Or(row.Subject, next.Subject), max(row.StoredVersion, next.StoredVersion)
		next.Rotates = cmp.Or(row.Rotates, next.Rotates, RotationUnknown)
	}
	change := Change{Row: next, restored: true, Tell: true, Landed: true, Revoke: r.Revoke}
	if next.Phase == Disconnected && row.RefreshToken != "" {
		change.Revoke = append(change.Revoke[:len(change.Revoke):len(change.Revoke)], Unwanted{row.Subject, row.RefreshToken})
	}
	change.Cancel = next.Phase != Disconnected && !r.Separate && next.ConnectedAt.After(row.ConnectedAt)
	return change, nil
}

// later tells that the row that was kept is later than the one that the database holds.
func (r Restore) later(row Row) bool {
	if row.Phase != Disconnected && r.Row.Phase != Disconnected && r.Row.StoredVersion != row.StoredVersion {
		return r.Row.StoredVersion > row.StoredVersion
	}
	return r.Row.Version > row.Version
}

// Timeline is the number of the database's timeline, which each failover raises; 0 where it does not say.
func (r Reading) Timeline() int64 {
	_, hex, _ := strings.Cut(r.Incarnation, "/")
	number, err := strconv.ParseInt(hex, 16, 64)
	if err != nil {
		return 0
	}
	return number
}

// versionsOfTimeline is how far apart the versions of two timelines are: more than the former server can
// have given after the standby was cut off from it.
const versionsOfTimeline = 1 << 32

// nextVersion is the version that a change gives to a row, above all that former servers may have given.
func nextVersion(row Row, timeline int64) int64 {
	return max(row.Version+1, (timeline-1)*versionsOfTimeline)
}

// Failovers is what the engine asks of a database that a failover may set back.
type Failovers interface {
	// Behind tells which of these rows, by index, the database holds in an earlier version or not at all.
	Behind(ctx context.Context, rows []Row) ([]int, error)
	// Restore applies a Restore. The errors are ErrSuperseded, and ErrNotConnected where the user is not
	// there yet whose row it is.
	Restore(ctx context.Context, lost Restore) error
	// Recommit applies a Commit of a process that is gone, from its spool. The error is ErrSuperseded where
	// the database does not hold the token that was presented, or does not hold it yet.
	Recommit(ctx context.Context, userID, providerID string, commit Commit) (Change, error)
	// RestoreEnds brings back what the change feed told of that must not come back to life, as far as it was
	// heard within that time before the database fell silent.
	RestoreEnds(ctx context.Context, window time.Duration) error
	// Settle notes that all that was lost was offered in this incarnation.
	Settle(ctx context.Context, incarnation string) error
}

// Pulse is what a heartbeat finds in the database, and when.
type Pulse struct {
	Reading Reading
	// Beats are the heartbeats of every replica that is kept. A value means nothing but that it changes.
	Beats map[string]int64
	// Gone are those of which a replica says that their process is dead, and that it has offered what their
	// spool held.
	Gone map[string]bool
	// Offered tells which of them have offered what they had stored to the database as it is.
	Offered map[string]bool
	// Stepped are the last steps back of the database's clock that replicas saw, living or dead.
	Stepped []Step
	// Settled: what a failover lost was offered by all; else nothing but that is stored.
	Settled bool
}

const (
	// failoverPatience is how long a replica that lived before a failover, and has not offered what it had
	// stored, is waited for.
	failoverPatience = 10 * time.Second
	// failoverRest is the least time until a database is settled, in which replicas show that they live.
	failoverRest = leaseLife
	// offeringFor is how long what cannot be stored is offered again.
	offeringFor = 5 * time.Second
)

// failover is what this replica knows of the database's last failover. The heartbeat's goroutine has it.
type failover struct {
	*engine
	incarnation string    // at the last heartbeat
	offered     string    // the incarnation in which it has offered what it had stored
	since       time.Time // when it first saw the incarnation
	waited      map[string]time.Time
	offering    chan offered // a task that offers; nil where there is none
}

// offered is how a task ended that offered what was kept, to the database of that incarnation.
type offered struct {
	incarnation string
	err         error
}

// seen takes account of a heartbeat's finding. It tells whether the database is another one than it was at
// the heartbeat before.
func (f *failover) seen(pulse Pulse, alive []string, now time.Time) (another bool) {
	if pulse.Reading.Incarnation == f.incarnation {
		return false
	}
	another = f.incarnation != ""
	f.incarnation, f.since, f.waited = pulse.Reading.Incarnation, now, map[string]time.Time{}
	for _, id := range alive {
		f.waited[id] = now
	}
	return another
}

// attend does this replica's part in a failover, one step at each heartbeat: it offers what it had stored,
// and notes the database as settled when all have.
func (f *failover) attend(ctx context.Context, pulse Pulse, now time.Time) {
	if f.offering != nil {
		select {
		case done := <-f.offering:
			f.offering = nil
			if done.err == nil {
				f.offered = done.incarnation
			}
		default:
		}
	}
	switch {
	case pulse.Reading.Incarnation == "":
		f.kept.prune(f.config.FailoverWindow)
	case f.offered != pulse.Reading.Incarnation && f.offering == nil:
		f.unsettled.Store(!pulse.Settled)
		done, last := make(chan offered, 1), now.Sub(f.since) > offeringFor
		f.offering = done
		f.background(func(ctx context.Context) { done <- offered{pulse.Reading.Incarnation, f.offer(ctx, last)} })
	case pulse.Settled:
		f.unsettled.Store(false)
		f.kept.prune(f.config.FailoverWindow)
	case f.offered == pulse.Reading.Incarnation && f.allOffered(pulse, now):
		if f.failovers.Settle(ctx, pulse.Reading.Incarnation) == nil {
			f.observer.FailedOver()
		}
	}
}

// allOffered tells that every replica that lived when the database failed over has offered what it had
// stored, or was waited for in vain.
func (f *failover) allOffered(pulse Pulse, now time.Time) bool {
	for _, id := range f.peers.alive() {
		if _, known := f.waited[id]; !known {
			f.waited[id] = now
		}
	}
	for id, since := range f.waited {
		if id != f.replica && !pulse.Offered[id] && now.Sub(since) < failoverPatience {
			return false
		}
	}
	return now.Sub(f.since) >= failoverRest
}

// offer offers what was kept and is lost. The last time it goes on with the next where one cannot be stored: a
// single row must not keep the database from being used.
func (f *failover) offer(ctx context.Context, last bool) error {
	if err := f.failovers.RestoreEnds(ctx, f.config.FailoverWindow); err != nil && !last {
		return err
	}
	all := f.kept.all()
	rows := make([]Row, 0, len(all))
	for _, one := range all {
		rows = append(rows, one.restore.Row)
	}
	behind, err := f.failovers.Behind(ctx, rows)
	if err != nil {
		return err
	}
	var missing error
	for _, i := range behind {
		switch err := f.restore(ctx, all[i]); {
		case err == nil, errors.Is(err, ErrSuperseded):
		case last:
			f.observer.Restored(rows[i].Provider, "failed")
		case errors.Is(err, ErrNotConnected): // the login that made the user may yet be offered
			missing = err
		default:
			return err
		}
	}
	if missing != nil {
		return missing
	}
	f.spool.replay(ctx, f.keys, func(ctx context.Context, record spooled) error {
		change, err := f.failovers.Recommit(ctx, record.UserID, record.Provider, record.commit(f.digest))
		if err == nil {
			f.kept.keep(change, nil, false)
		}
		if err != nil && (!last || !errors.Is(err, ErrSuperseded)) { // the row that it belongs to may yet be brought back
			missing = err
			return errAgain
		}
		return err
	})
	return missing
}

// restore offers one row.
func (f *failover) restore(ctx context.Context, one *keptRow) error {
	lost, ok := f.kept.open(one)
	if !ok {
		return ErrSuperseded
	}
	ctx, cancel := context.WithTimeout(ctx, StatementTimeout)
	defer cancel()
	err := f.failovers.Restore(ctx, lost)
	if err == nil {
		f.observer.Restored(lost.Row.Provider, "restored")
	}
	return err
}

// setBack brings a row back that the database holds in an earlier version than this replica has stored, and
// tells whether it did: the database was set back without another name.
func (f *failover) setBack(ctx context.Context, key cacheKey, version int64) bool {
	one, ok := f.kept.of(key)
	return ok && one.restore.Row.Version > version && f.restore(ctx, one) == nil
}
