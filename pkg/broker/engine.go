package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/workspace-token-service/wts/pkg/keyring"
)

// engine refreshes connections: which token is presented, when, by which replica, and what an answer
// means for the row (refresh-engine.md). It fills the cache; it does not know who asks.
type engine struct {
	tasks
	config   Config
	replica  string // a random id of this process
	alone    bool   // this is the only process on the database
	store    Store
	replicas Replicas
	outbox   Outbox
	keys     *keyring.Keyring
	cache    *cache
	observer Observer
	now      func() time.Time
	digest   func(token string) []byte // the keyring's

	upstreams map[string]*upstream
	flights   singleflight.Group
	lease     lease
	clock     databaseClock
	peers     peers
	failovers Failovers
	failover  failover
	unsettled atomic.Bool // the database takes nothing but what a failover lost
	kept      kept
	landings  landings
	aloft     aloft
	spool     spooler
	// databaseAway is until when the database counts as away, in unix nanoseconds.
	databaseAway atomic.Int64
}

// read reads a connection and refuses one that is not good.
func (e *engine) read(caller context.Context, key cacheKey) (Row, error) {
	ctx, cancel := context.WithTimeout(caller, StatementTimeout)
	defer cancel()
	row, err := e.store.Row(ctx, key.userID, key.provider)
	if (err == nil || errors.Is(err, ErrNotConnected)) && e.failover.setBack(ctx, key, row.Version) {
		row, err = e.store.Row(ctx, key.userID, key.provider)
	}
	switch {
	case errors.Is(err, ErrNotConnected):
		return Row{}, ErrNotConnected
	case err != nil:
		if caller.Err() == nil { // a caller who goes away says nothing of the database
			e.noteAway()
		}
		return Row{}, outage(err)
	}
	e.noteClock(row.Reading)
	row.Reading.Behind = e.clock.behind(row.AccessIssuedAt)
	if err := row.flaw(e.now()); err != nil {
		return Row{}, err
	}
	return row, nil
}

// noteClock takes account of a reading of the database's clock, and tells whether it was set back. Rows that were read
// since, before it was noticed, were taken to be valid for too long: what is remembered of them is forgotten.
func (e *engine) noteClock(reading Reading) (stepped bool) {
	if stepped = e.clock.note(reading); stepped {
		e.cache.forgetAll()
	}
	return stepped
}

// noteAway notes that the database does not answer, and away tells whether that was a moment ago.
func (e *engine) noteAway() { e.databaseAway.Store(e.now().Add(time.Second).UnixNano()) }

func (e *engine) away(now time.Time) bool { return now.UnixNano() < e.databaseAway.Load() }

// apply applies an action to a row in the database.
func (e *engine) apply(ctx context.Context, row Row, action Action) (Change, error) {
	ctx, cancel := context.WithTimeout(ctx, StatementTimeout)
	defer cancel()
	change, err := e.store.Apply(ctx, row, action)
	if err == nil && !e.alone {
		e.kept.keep(change, nil, false)
	}
	return change, err
}

// policy is what the configuration says for the rules.
func (e *engine) policy(up *upstream) Policy {
	return Policy{
		Grace: up.config.ReuseGrace, Timeout: up.config.RefreshTimeout, SpoolWait: e.config.SpoolWait,
		NeverRotates: up.config.NeverRotates(), Alone: e.alone,
	}
}

// tasks are what runs beside the callers, for as long as the engine does.
type tasks struct {
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // the engine's own life, which outlasts every caller's
	running sync.WaitGroup
}

// begin lets tasks run, until the context ends.
func (t *tasks) begin(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx = ctx
}

// background runs a task until it ends or the engine does. Before Run, and after it, nothing is run.
func (t *tasks) background(task func(ctx context.Context)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx == nil || t.ctx.Err() != nil {
		return
	}
	ctx := t.ctx
	t.running.Go(func() { task(ctx) })
}

// again runs a step beside the callers until it says that it is over, with growing pauses.
func (t *tasks) again(step func(ctx context.Context) (over bool)) {
	t.background(func(ctx context.Context) {
		for wait := 100 * time.Millisecond; ; wait = min(wait*2, 2*time.Second) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if step(ctx) {
				return
			}
		}
	})
}

// run keeps the engine: the heartbeat, the sweeper, the spool, the outbox. It returns when the context
// has ended and everything with it.
func (e *engine) run(ctx context.Context) {
	e.begin(ctx)
	e.background(e.beat)
	e.background(newSweeper(e).sweep)
	for _, up := range e.upstreams {
		e.background((&revoker{e, up}).revoke)
	}
	<-ctx.Done()
	e.tasks.running.Wait()
	e.spool.close(e.aloft.count() > 0)
}

// drain begins no flight any more, and waits until every one of this process has ended, or the context
// has: a token that is on its way when the process ends may be lost.
func (e *engine) drain(ctx context.Context) (left int) {
	e.aloft.close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if left = e.aloft.count(); left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}
