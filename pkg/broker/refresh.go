package broker

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// fresh gets a token from the row, or from the provider: one flight for each row in this process,
// on a context of its own, so that a caller who goes away does not take a rotation with them.
func (b *Broker) fresh(ctx context.Context, key cacheKey, life, patience time.Duration) (*held, error) {
	flight := b.flights.DoChan(key.userID+"\x00"+key.provider, func() (any, error) {
		return b.obtain(context.WithoutCancel(ctx), key, life)
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
	statementTimeout = 5 * time.Second
	pollEvery        = 500 * time.Millisecond
	// resolving asks for no life but for a row whose last presentation has a known outcome.
	resolving = time.Duration(-1)
)

// obtain reads the row until it holds a token that lives long enough: stored by another, or by a flight
// of its own. It waits for others as long as its callers do.
func (b *Broker) obtain(ctx context.Context, key cacheKey, life time.Duration) (*held, error) {
	up, configured := b.upstreams[key.provider]
	if !configured {
		return nil, ErrProvider
	}
	deadline := b.now().Add(b.config.Wait)
	defer b.landings.land(key) // one flight for each row, so that nobody else in this process waits
	for {
		landed := b.landings.await(key) // before the row is read, or the word could come in between
		readAt := b.forgotten.Load()
		connection, err := b.readWithin(ctx, key)
		if err != nil {
			return nil, err
		}
		// Without a refresh token the access token is the whole grant, and it lives: see read.
		if hold(connection).enough(life, b.now()) && (life != resolving || connection.Phase == Ready) || connection.RefreshToken == "" {
			return b.remember(key, connection, readAt), nil
		}
		// A doubt is resolved within the provider's grace, whatever it has asked of others: after it, it is
		// too late.
		if err := up.ready(b.now()); err != nil && (connection.Phase != Suspect || up.config.ReuseGrace == 0) {
			return b.orLiving(key, connection, readAt, err)
		}
		if err := b.turnedAway(up, connection); err != nil {
			return b.orLiving(key, connection, readAt, err)
		}
		flight, err := b.claim(ctx, connection, "")
		var notYet *NotYet
		switch {
		case err == nil:
			got, err := b.fly(ctx, up, flight)
			if got != nil || err != nil && !errors.Is(err, errAgain) {
				return got, b.asOutage(key, connection, readAt, err)
			}
			continue
		case errors.As(err, &notYet):
			return b.orLiving(key, connection, readAt, &Unavailable{RetryAfter: notYet.In, Cause: err})
		case errors.Is(err, ErrSuperseded) && b.now().Before(deadline):
			continue // the row is another by now
		case errors.Is(err, errLapsed) && hold(connection).living(b.now()):
			return b.orLiving(key, connection, readAt, outage(err))
		case !errors.Is(err, ErrClaimed) && !errors.Is(err, errLapsed):
			return b.orLiving(key, connection, readAt, outage(err))
		}
		if !b.now().Before(deadline) {
			return b.orLiving(key, connection, readAt, &Unavailable{RetryAfter: time.Second, Cause: err})
		}
		select {
		case <-landed:
		case <-time.After(pollEvery):
		}
	}
}

// asOutage lets a failed flight's row answer where its token lives.
func (b *Broker) asOutage(key cacheKey, of Connection, readAt uint64, err error) error {
	if errors.Is(err, ErrUnavailable) && hold(of).living(b.now()) {
		b.remember(key, of, readAt)
	}
	return err
}

// maxQueue is how long a refresh may wait for its turn, so that the provider has half of the timeout left
// to answer in: what is cut off after it was sent may be lost.
func (b *Broker) maxQueue(up *upstream) time.Duration {
	return min(b.config.Wait, up.config.RefreshTimeout/2)
}

// turnedAway says why a connection is not to be claimed now: nobody claims what would not get its turn in
// time, and who has a token that lives makes room for those whose token is dead. A doubt within a grace
// is never turned away, and who waits for another's flight needs no turn.
func (b *Broker) turnedAway(up *upstream, connection Connection) error {
	queue, bound := up.queue(), b.maxQueue(up)
	switch {
	case connection.Phase == Refreshing, connection.Phase == Suspect && up.config.ReuseGrace > 0:
		return nil
	case queue > bound:
		return &Unavailable{RetryAfter: max(queue-bound, time.Second) + rand.N(time.Second), Cause: up.tooMany}
	case queue > 0 && connection.Phase == Ready && hold(connection).living(b.now()):
		return &Unavailable{RetryAfter: time.Second, Cause: up.tooMany}
	}
	return nil
}

// turn waits until the provider's rate allows one more, and tells whether it did in time. What is in doubt
// within the provider's grace does not wait, for the grace does not: those who come after it do.
func (b *Broker) turn(ctx context.Context, up *upstream, flight Flight) bool {
	if flight.Doubtful && flight.Presented+time.Since(flight.claimed) < up.config.ReuseGrace {
		up.rate.Reserve()
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, b.maxQueue(up))
	defer cancel()
	return up.rate.Wait(ctx) == nil
}

func (b *Broker) readWithin(ctx context.Context, key cacheKey) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	connection, err := b.read(ctx, key)
	if errors.Is(err, ErrUnavailable) {
		b.databaseAway.Store(b.now().Add(time.Second).UnixNano())
	}
	return connection, err
}

// claim asks for a flight. Nothing is claimed while this replica's lease does not hold: others would
// take it for dead.
func (b *Broker) claim(ctx context.Context, of Connection, over string) (Flight, error) {
	before := time.Now()
	epoch, holds := b.lease.now(before)
	if !holds {
		return Flight{}, errLapsed
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	id := crand.Text()
	if !b.aloft.add(id) {
		return Flight{}, errLapsed // this process is about to end
	}
	flight, err := b.engine.Claim(ctx, Claim{UserID: of.UserID, Provider: of.Provider, Version: of.Version, ID: id, Replica: b.replica, Over: over})
	if err != nil {
		b.aloft.remove(id) // where it was made all the same, the sweeper finds it and lets it go
	}
	// Not those of now: the process may have hung since, and another have taken over.
	flight.epoch, flight.claimed = epoch, before
	return flight, err
}

// errAgain: the row has changed, and is to be read again.
var errAgain = errors.New("read again")

// fly presents the token, once, and ends the flight. It returns errAgain where the row decides.
func (b *Broker) fly(ctx context.Context, up *upstream, flight Flight) (*held, error) {
	settled := true
	defer func() {
		if settled {
			b.aloft.remove(flight.ID)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, up.config.RefreshTimeout)
	defer cancel()
	if !b.turn(ctx, up, flight) {
		err, kept := b.settleKept(context.WithoutCancel(ctx), up, flight, up.tooMany)
		settled = !kept
		return nil, err
	}
	began := b.now()
	gate := func() bool {
		now, holds := b.lease.now(time.Now())
		return holds && now == flight.epoch && !b.tooLate(up, flight)
	}
	tokens, err := up.Refresh(ctx, flight.RefreshToken, gate)
	b.observer.Refreshed(flight.Provider, outcome(err), b.now().Sub(began))
	if err != nil {
		var kept bool
		if err, kept = b.settleKept(context.WithoutCancel(ctx), up, flight, err); kept {
			settled = false
		}
		return nil, err
	}
	up.note(nil, b.now())
	if tokens.RefreshToken != "" && tokens.RefreshToken == flight.RefreshToken {
		tokens.RefreshToken = ""
	}
	var got *held
	got, settled, err = b.commit(context.WithoutCancel(ctx), flight, tokens)
	return got, err
}

// commit stores first and answers after. Where the database does not take the successor, it goes to the
// spool and is offered again and again; the access token is served meanwhile, and the flight stays
// aloft. stored is false then.
func (b *Broker) commit(ctx context.Context, flight Flight, tokens provider.Tokens) (got *held, stored bool, err error) {
	readAt := b.forgotten.Load()
	err = b.commitWithin(ctx, flight, tokens)
	switch {
	case errors.Is(err, ErrSuperseded):
		return nil, true, errAgain
	case err != nil:
		b.keepOffering(flight, tokens)
	}
	fresh := flight.Connection
	fresh.Phase, fresh.Reason = Ready, ""
	fresh.AccessToken, fresh.AccessIssuedAt, fresh.AccessExpiresAt = tokens.AccessToken, tokens.IssuedAt, tokens.AccessExpiresAt
	if tokens.RefreshToken != "" || !tokens.RefreshExpiresAt.IsZero() {
		fresh.RefreshExpiresAt = tokens.RefreshExpiresAt
	}
	return b.remember(cacheKey{flight.UserID, flight.Provider}, fresh, readAt), err == nil, nil
}

func (b *Broker) commitWithin(ctx context.Context, flight Flight, tokens provider.Tokens) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return b.engine.Commit(ctx, flight, tokens)
}

// tooLate tells that a flight was taken over because that was safe within the provider's grace, and the
// grace is over: its former owner may yet come back.
func (b *Broker) tooLate(up *upstream, flight Flight) bool {
	return flight.over && !b.exclusive && up.config.ReuseGrace > 0 && flight.Presented < up.config.ReuseGrace &&
		flight.Presented+time.Since(flight.claimed)+graceSlack > up.config.ReuseGrace
}

// graceSlack is what has to be left of a grace when a token is presented within it.
const graceSlack = time.Second

// settleKept ends a flight that brought nothing. Where the database does not take the verdict, it is
// offered until it does, and the flight is kept aloft: nobody is to take it for one that was never sent.
func (b *Broker) settleKept(ctx context.Context, up *upstream, flight Flight, failure error) (answer error, kept bool) {
	unsaid, answer := b.settle(ctx, up, flight, failure)
	if unsaid == nil {
		return answer, false
	}
	b.background(func(ctx context.Context) {
		defer b.aloft.remove(flight.ID)
		for wait := 100 * time.Millisecond; ; wait = min(wait*2, 2*time.Second) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if err := b.settleWithin(ctx, flight, *unsaid); err == nil || errors.Is(err, ErrSuperseded) {
				switch {
				case unsaid.Phase == Suspect:
					b.resolve(cacheKey{flight.UserID, flight.Provider}, unsaid.After)
				case unsaid.Phase == Broken && err == nil:
					b.observer.GrantLost(flight.Provider, unsaid.Reason)
					b.Forget(flight.UserID, flight.Provider)
				}
				return
			}
		}
	})
	return answer, true
}

// settle ends a flight by what its failure means (refresh-engine.md step 8). unsaid is the verdict that
// could not be stored, nil where it was.
func (b *Broker) settle(ctx context.Context, up *upstream, flight Flight, failure error) (unsaid *Verdict, answer error) {
	var of *provider.Error
	if !errors.As(failure, &of) {
		of = &provider.Error{Provider: flight.Provider, Doing: "refresh", Outcome: provider.Unknown}
	}
	rest := up.note(of, b.now())
	verdict := Verdict{Phase: Ready, After: rest}
	if flight.Doubtful {
		verdict.Phase, verdict.Reason = Suspect, string(Suspect)
	}
	switch of.Outcome {
	case provider.Unsent:
		verdict.Unsent = true
	case provider.Unknown:
		verdict.Phase, verdict.Reason = Suspect, string(Suspect)
		if grace := up.config.ReuseGrace; grace > 0 {
			// However often the provider has failed others: within its grace the token is good, after it not.
			rest = min(rest, grace/10+rand.N(grace/20+1))
			verdict.After = rest
		}
		b.observer.Doubted(flight.Provider)
	case provider.Refused:
		return b.breakGrant(ctx, flight)
	case provider.Misconfigured, provider.Throttled:
		if !flight.Doubtful {
			verdict.After = 0 // it is the provider that rests
		}
	case provider.Unexpected, provider.Untrusted:
	}
	if flight.over && !b.exclusive && !up.config.NeverRotates() && flight.Presented+time.Since(flight.claimed)+verdict.After+graceSlack > up.config.ReuseGrace {
		// No longer within a grace: the former owner has its time to come back, as if nobody had tried.
		verdict.After = max(verdict.After, b.config.SpoolWait)
	}
	err := b.settleWithin(ctx, flight, verdict)
	if errors.Is(err, ErrSuperseded) {
		return nil, errAgain
	}
	if err != nil {
		unsaid = &verdict
	}
	unavailable := &Unavailable{RetryAfter: max(rest, time.Second), Cause: fmt.Errorf("refreshing: %w", failure)}
	if of.RetryAfter > 0 {
		unavailable.RetryAfter = of.RetryAfter
	}
	if of.Outcome == provider.Unknown && unsaid == nil {
		b.resolve(cacheKey{flight.UserID, flight.Provider}, verdict.After)
	}
	return unsaid, unavailable
}

func (b *Broker) settleWithin(ctx context.Context, flight Flight, verdict Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return b.engine.Settle(ctx, flight, verdict)
}

// breakGrant takes the provider's verdict, and only for the token that it judged.
func (b *Broker) breakGrant(ctx context.Context, flight Flight) (unsaid *Verdict, answer error) {
	cause := "revoked"
	if flight.Doubtful {
		cause = "lost_in_rotation"
	}
	verdict := Verdict{Phase: Broken, Reason: cause}
	err := b.settleWithin(ctx, flight, verdict)
	switch {
	case errors.Is(err, ErrSuperseded):
		return nil, errAgain
	case err != nil:
		return &verdict, outage(err)
	}
	b.observer.GrantLost(flight.Provider, cause)
	b.Forget(flight.UserID, flight.Provider)
	// Another grant may stand in its place by now: Gen3's table may hold one that a Python pod was given.
	if _, err := b.readWithin(ctx, cacheKey{flight.UserID, flight.Provider}); err == nil {
		return nil, errAgain
	}
	return nil, ErrGrantBroken
}

// resolve presents a token again whose last presentation has no known outcome: nobody else can come
// back with a successor. It is a new claim, like anybody's.
func (b *Broker) resolve(key cacheKey, rest time.Duration) {
	b.background(func(ctx context.Context) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest + 10*time.Millisecond):
		}
		_, _ = b.fresh(ctx, key, resolving, b.config.Wait) // whatever comes of it, the row says
	})
}

// orLiving answers with the row's own token where it lives, though not for as long as was asked.
func (b *Broker) orLiving(key cacheKey, of Connection, readAt uint64, otherwise error) (*held, error) {
	if !hold(of).living(b.now()) {
		return nil, otherwise
	}
	known := b.remember(key, of, readAt)
	known.renewAt.Store(b.now().Add(renewAgain).UnixNano())
	degraded := &held{value: known.value, body: known.body, sum: known.sum, issued: known.issued, expires: known.expires, grantEnds: known.grantEnds}
	degraded.degraded = true
	return degraded, nil
}

func outcome(err error) string {
	var of *provider.Error
	switch {
	case err == nil:
		return "refreshed"
	case errors.As(err, &of):
		return string(of.Outcome)
	default:
		return "failed"
	}
}
