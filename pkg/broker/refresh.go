package broker

import (
	"context"
	crand "crypto/rand"
	"errors"
	"time"
)

// fresh gets a token from the row, or from the provider: one flight for each row in this process, on a
// context of its own, so that a caller who goes away does not take a rotation with them.
func (e *engine) fresh(ctx context.Context, key cacheKey, life, patience time.Duration) (*held, error) {
	flight := e.flights.DoChan(key.userID+"\x00"+key.provider, func() (any, error) {
		return e.obtain(context.WithoutCancel(ctx), key, life)
	})
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case landed := <-flight:
		got, _ := landed.Val.(*held)
		return got, landed.Err
	case <-deadline.C:
		return nil, &Unavailable{RetryAfter: time.Second, Cause: errors.New("the provider takes long to answer")}
	case <-ctx.Done():
		return nil, &Unavailable{RetryAfter: time.Second, Cause: ctx.Err()}
	}
}

const (
	// StatementTimeout bounds what is asked of the database, and what a Store does in one transaction: whatever was
	// written is committed, or never will be, this long after.
	StatementTimeout = 5 * time.Second

	pollEvery = 500 * time.Millisecond
	// resolving asks for no life but for a row whose last presentation has a known outcome.
	resolving = time.Duration(-1)
)

// obtain reads the row until it holds a token that lives long enough: stored by another, or by a flight
// of its own. It waits for others as long as its callers do.
func (e *engine) obtain(ctx context.Context, key cacheKey, life time.Duration) (*held, error) {
	up, configured := e.upstreams[key.provider]
	if !configured {
		return nil, ErrProvider
	}
	deadline := e.now().Add(e.config.Wait)
	if !e.begun() {
		return nil, outage(errLapsed)
	}
	defer e.landings.land(key) // one flight for each row, so that nobody else in this process waits
	for {
		landed := e.landings.await(key) // before the row is read, or the word could come in between
		stamp := e.cache.stamp()
		row, err := e.read(ctx, key)
		if err != nil {
			return nil, err
		}
		// Without a refresh token the access token is the whole grant, and it is valid: see read.
		if hold(row).enough(life, e.now()) && (life != resolving || row.Phase == Ready) || row.RefreshToken == "" {
			return e.cache.remember(key, row, stamp), nil
		}
		if err := e.turnedAway(up, row); err != nil {
			return e.orValid(key, row, stamp, err)
		}
		flight, err := e.claim(ctx, row, Claim{}, stamp)
		var notYet *NotYet
		switch {
		case err == nil:
			got, err := (&presentation{e, up, flight}).fly(ctx)
			if got != nil || err != nil && !errors.Is(err, errAgain) {
				return got, e.asOutage(key, row, stamp, err)
			}
			continue
		case errors.As(err, &notYet):
			return e.orValid(key, row, stamp, &Unavailable{RetryAfter: notYet.In, Cause: err})
		case errors.Is(err, ErrSuperseded) && e.now().Before(deadline):
			continue // the row is another by now
		case errors.Is(err, errLapsed) && hold(row).valid(e.now()):
			return e.orValid(key, row, stamp, outage(err))
		case !errors.Is(err, ErrClaimed) && !errors.Is(err, errLapsed):
			return e.orValid(key, row, stamp, outage(err))
		}
		if !e.now().Before(deadline) {
			return e.orValid(key, row, stamp, &Unavailable{RetryAfter: time.Second, Cause: err})
		}
		select {
		case <-landed:
		case <-time.After(pollEvery):
		}
	}
}

// asOutage lets a failed flight's row answer where its token is valid.
func (e *engine) asOutage(key cacheKey, row Row, stamp uint64, err error) error {
	if errors.Is(err, ErrUnavailable) && hold(row).valid(e.now()) {
		e.cache.remember(key, row, stamp)
	}
	return err
}

// orValid answers with the row's own token where it is valid, though not for as long as was asked.
func (e *engine) orValid(key cacheKey, row Row, stamp uint64, otherwise error) (*held, error) {
	if !hold(row).valid(e.now()) {
		return nil, otherwise
	}
	known := e.cache.remember(key, row, stamp)
	known.renewAt.Store(e.now().Add(renewAgain).UnixNano())
	degraded := &held{value: known.value, body: known.body, sum: known.sum, issued: known.issued, expires: known.expires, grantEnds: known.grantEnds, read: known.read}
	degraded.degraded = true
	return degraded, nil
}

// maxQueue is how long a refresh may wait for its turn, so that the provider has half of the timeout left
// to answer in: what is cut off after it was sent may be lost.
func (e *engine) maxQueue(up *upstream) time.Duration {
	return min(e.config.Wait, up.config.RefreshTimeout/2)
}

// inGrace tells that the row is in doubt and that its token, presented again now, comes within the time
// in which the provider accepts it once more.
func inGrace(up *upstream, row Row) bool {
	return row.Phase == Suspect && row.Reading.Now().Sub(row.PresentedAt)+graceSlack < up.config.ReuseGrace
}

// turnedAway says why a connection is not to be claimed now: the provider rests, or the claim would not
// get its turn in time, or its token is valid and makes room for those whose token is not. A doubt
// within a grace is never turned away, since the grace does not wait; and a caller who waits for another's
// flight needs no turn.
func (e *engine) turnedAway(up *upstream, row Row) error {
	if row.Phase == Refreshing || inGrace(up, row) {
		return nil
	}
	if wait := waits(row, e.policy(up), row.Reading.Now()); row.Phase == Suspect && wait > 0 {
		return &Unavailable{RetryAfter: max(wait, time.Second), Cause: errDoubt}
	}
	queue, bound := up.queue(), e.maxQueue(up)
	switch {
	case queue > bound:
		return &Unavailable{RetryAfter: max(queue-bound, time.Second) + spread(time.Second, cacheKey{row.UserID, row.Provider}, e.now()), Cause: up.tooMany}
	case queue > 0 && row.Phase == Ready && hold(row).valid(e.now()):
		return &Unavailable{RetryAfter: time.Second, Cause: up.tooMany}
	}
	return up.admit(e.now())
}

var errDoubt = errors.New("the outcome of the last refresh is not known, and the token is not presented again yet")

// presentation is a flight of this replica's own: one token, presented once to its provider, and what becomes of it.
type presentation struct {
	*engine
	up     *upstream
	flight Flight
}

// turn waits until the provider's rate allows one more, and tells whether it did in time. What is in doubt
// within the provider's grace does not wait: those who come after it do.
func (p *presentation) turn(ctx context.Context) bool {
	if p.flight.Doubtful && p.flight.presentedFor() < p.up.config.ReuseGrace {
		p.up.rate.Reserve()
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, p.maxQueue(p.up))
	defer cancel()
	return p.up.rate.Wait(ctx) == nil
}

// claim asks for a flight. Nothing is claimed while this replica's lease does not hold: others would
// count it as dead. The claim says what is taken over, if anything; the stamp is the cache's from before the row was read.
func (e *engine) claim(ctx context.Context, row Row, claim Claim, stamp uint64) (Flight, error) {
	before := time.Now()
	epoch, holds := e.lease.now(before)
	if !holds {
		return Flight{}, errLapsed
	}
	if e.failover.setBack(ctx, cacheKey{row.UserID, row.Provider}, row.Version) {
		return Flight{}, ErrSuperseded
	}
	id := crand.Text()
	if !e.aloft.add(id) {
		return Flight{}, errClosing
	}
	claim.Version, claim.Flight, claim.Replica = row.Version, id, e.replica
	change, err := e.apply(ctx, row, claim)
	if err != nil {
		e.aloft.remove(id) // where it was given anyway, the sweeper finds it and releases it
		return Flight{}, err
	}
	flight := flightOf(change.Row)
	// Not those of now: the process may have hung since, and another have taken over.
	flight.epoch, flight.claimed, flight.stamp = epoch, before, stamp
	return flight, nil
}

// errAgain: the row has changed, and is to be read again.
var errAgain = errors.New("read again")

// graceSlack is what has to be left of a grace when a token is presented within it.
const graceSlack = time.Second

// tooLate tells that a flight was taken over because that was safe within the provider's grace, and the
// grace is over: its former owner may yet come back.
func (p *presentation) tooLate() bool {
	grace := p.up.config.ReuseGrace
	return p.flight.over && !p.alone && grace > 0 && p.flight.Presented < grace && p.flight.presentedFor()+graceSlack > grace
}

// fly presents the token, once, and ends the flight. It returns errAgain where the row decides.
func (p *presentation) fly(ctx context.Context) (got *held, err error) {
	settled := true
	defer func() {
		if settled {
			p.aloft.remove(p.flight.FlightID)
		}
	}()
	sending, cancel := context.WithTimeout(ctx, p.up.config.RefreshTimeout)
	defer cancel()
	if !p.turn(sending) {
		settled, err = p.settle(ctx, p.up.tooMany)
		return nil, err
	}
	began := p.now()
	gate := func() bool {
		now, holds := p.lease.now(time.Now())
		return holds && now == p.flight.epoch && !p.tooLate()
	}
	tokens, err := p.up.Refresh(sending, p.flight.RefreshToken, p.flight.Subject, gate)
	p.observer.Refreshed(p.flight.Provider, outcome(err), p.now().Sub(began))
	if err != nil {
		settled, err = p.settle(ctx, err)
		return nil, err
	}
	p.up.note(p.flight.Row, nil, p.now())
	got, settled, err = p.commit(ctx, tokens)
	return got, err
}
