package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// commitOf is what a flight brought, as an action on its row. The reading translates the times.
func (e *engine) commitOf(up *upstream, flight Flight, tokens provider.Tokens, reading Reading) Commit {
	commit := Commit{
		Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: tokens,
		Tell: up.config.RevokesAccess,
	}
	commit.Tokens.IssuedAt, commit.Tokens.AccessExpiresAt = reading.ToDatabase(tokens.IssuedAt), reading.ToDatabase(tokens.AccessExpiresAt)
	commit.Tokens.RefreshExpiresAt = reading.ToDatabase(tokens.RefreshExpiresAt)
	if tokens.RefreshToken == flight.RefreshToken {
		commit.Tokens.RefreshToken = ""
	}
	if commit.Tokens.RefreshToken != "" {
		commit.Successor = e.digest(string(tokens.RefreshToken))
	}
	if tokens.IdentityFlaw != "" {
		commit.Broken = identityChanged
	}
	if tokens.AccessToken == "" {
		commit.After = backOff(0, minBackOff, cacheKey{flight.UserID, flight.Provider}, e.now())
	}
	return commit
}

// commit stores first and answers after (refresh-engine.md steps 6 and 7). Where the database does not
// take the successor, it goes to the spool and is offered again and again; the access token is served
// meanwhile, and the flight stays aloft. stored is false then.
func (e *engine) commit(ctx context.Context, up *upstream, flight Flight, tokens provider.Tokens) (got *held, stored bool, err error) {
	reading := e.clock.newest(flight.Reading) // the clock may have been set back since the claim
	commit := e.commitOf(up, flight, tokens, reading)
	change, err := e.apply(ctx, flight.Row, commit)
	stored = err == nil
	switch {
	case errors.Is(err, ErrSuperseded):
		return nil, true, errAgain
	case err != nil:
		e.keepOffering(up, flight, tokens, commit)
		change, err = Apply(flight.Row, Event{At: flight.Reading.Now(), Action: commit})
		if err != nil {
			return nil, false, errAgain
		}
	}
	switch {
	case commit.Broken != "":
		e.ended(flight, commit.Broken)
		return nil, stored, ErrGrantBroken
	case tokens.AccessToken == "":
		return nil, stored, &Unavailable{RetryAfter: max(commit.After, time.Second), Cause: errors.New("no access token came that may be handed out")}
	}
	row := change.Row
	row.Reading, row.Reading.Behind = reading, 0 // which the times were translated by
	return e.cache.remember(cacheKey{flight.UserID, flight.Provider}, row, flight.stamp), stored, nil
}

// Why a grant is broken.
const (
	revoked         = "revoked"
	lostInRotation  = "lost_in_rotation"
	identityChanged = "identity_changed"
)

// settle ends a flight that brought nothing, by what its failure means (refresh-engine.md step 8). Where
// the database does not take the verdict, it is offered until it does, and the flight is kept aloft:
// nobody is to count it as one that was never sent. settled is false then.
func (e *engine) settle(ctx context.Context, up *upstream, flight Flight, failure error) (settled bool, answer error) {
	var failed *provider.Error
	if !errors.As(failure, &failed) {
		failed = &provider.Error{Provider: flight.Provider, Doing: "refresh", Outcome: provider.Unknown}
	}
	rest, retry := up.note(flight.Row, failed, e.now())
	if failed.Outcome == provider.Refused {
		verdict := flight.verdict(Broken)
		verdict.Reason = revoked
		if flight.Doubtful {
			verdict.Reason = lostInRotation
		}
		return e.end(ctx, flight, verdict)
	}
	verdict := e.verdictOf(up, flight, failed, rest)
	_, err := e.apply(ctx, flight.Row, verdict)
	switch {
	case errors.Is(err, ErrSuperseded):
		return true, errAgain
	case err != nil:
		e.keepSaying(flight, verdict)
	case verdict.Phase == Suspect && !verdict.Unsent:
		e.resolve(cacheKey{flight.UserID, flight.Provider}, verdict.After)
	}
	return err == nil, &Unavailable{RetryAfter: max(retry, verdict.After), Cause: fmt.Errorf("refreshing: %w", failure)}
}

// verdictOf is what a failure that ends no grant does to the row.
func (e *engine) verdictOf(up *upstream, flight Flight, failed *provider.Error, rest time.Duration) Verdict {
	verdict := flight.verdict(Ready)
	if flight.Doubtful {
		verdict = flight.verdict(Suspect)
	}
	verdict.After, verdict.Failure = rest, failed.Answer()
	soon := e.soon(up, flight)
	within := flight.presentedFor()+soon+graceSlack < up.config.ReuseGrace
	switch failed.Outcome {
	case provider.Unsent:
		verdict.Unsent = true
	case provider.Unknown, provider.Unanswered:
		doubt := flight.verdict(Suspect)
		doubt.After, doubt.Failure = rest, verdict.Failure
		verdict = doubt
		e.observer.Doubted(flight.Provider)
		switch {
		case within:
			verdict.After = min(rest, soon) // however often the provider has failed others
		case failed.Outcome == provider.Unanswered && !up.config.NeverRotates():
			verdict.After = e.config.SpoolWait // the provider may still be working on it
		}
	case provider.Misconfigured, provider.Throttled:
		if !flight.Doubtful && !failed.OneGrant() {
			verdict.After = 0 // it is the provider that rests
		}
	case provider.Refused, provider.Unexpected, provider.Untrusted:
	}
	return verdict
}

// soon is how long a doubt rests within the provider's grace.
func (e *engine) soon(up *upstream, flight Flight) time.Duration {
	grace := up.config.ReuseGrace
	return grace/10 + spread(grace/20, cacheKey{flight.UserID, flight.Provider}, e.now())
}

// end takes a verdict that ends the grant, and only for the token that was judged.
func (e *engine) end(ctx context.Context, flight Flight, verdict Verdict) (settled bool, answer error) {
	_, err := e.apply(ctx, flight.Row, verdict)
	switch {
	case errors.Is(err, ErrSuperseded):
		return true, errAgain
	case err != nil:
		e.keepSaying(flight, verdict)
		return false, outage(err)
	}
	e.ended(flight, verdict.Reason)
	// Another grant may stand in its place by now: Gen3's table may hold one that a Python pod was given.
	if _, err := e.read(ctx, cacheKey{flight.UserID, flight.Provider}); err == nil {
		return true, errAgain
	}
	return true, ErrGrantBroken
}

// ended reports a grant that is dead.
func (e *engine) ended(flight Flight, cause string) {
	e.observer.GrantLost(flight.Provider, cause)
	e.cache.forget(cacheKey{flight.UserID, flight.Provider})
}

// keepSaying offers a verdict to the database until it takes it.
func (e *engine) keepSaying(flight Flight, verdict Verdict) {
	e.again(func(ctx context.Context) bool {
		_, err := e.apply(ctx, flight.Row, verdict)
		if err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
		e.aloft.remove(flight.FlightID)
		switch {
		case verdict.Phase == Suspect:
			e.resolve(cacheKey{flight.UserID, flight.Provider}, verdict.After)
		case verdict.Phase == Broken && err == nil:
			e.ended(flight, verdict.Reason)
		}
		return true
	})
}

// resolve presents a token again whose last presentation has no known outcome: nobody else can come
// back with a successor. It is a new claim, like any other.
func (e *engine) resolve(key cacheKey, rest time.Duration) {
	e.background(func(ctx context.Context) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest + 10*time.Millisecond):
		}
		_, _ = e.fresh(ctx, key, resolving, e.config.Wait) // whatever comes of it, the row says
	})
}

// keepOffering offers a successor to the database until it takes it, or another has taken its place. The
// spool keeps it for the next process meanwhile.
func (e *engine) keepOffering(up *upstream, flight Flight, tokens provider.Tokens, commit Commit) {
	if err := e.spool.add(e.keys, recordOf(flight.UserID, flight.Provider, commit)); err != nil {
		e.observer.SpoolFailed(err)
	}
	e.again(func(ctx context.Context) bool {
		_, err := e.apply(ctx, flight.Row, e.commitOf(up, flight, tokens, e.clock.newest(flight.Reading)))
		if err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
		e.spool.done()
		e.aloft.remove(flight.FlightID)
		if err != nil {
			e.cache.forget(cacheKey{flight.UserID, flight.Provider})
		}
		return true
	})
}

func outcome(err error) string {
	var failed *provider.Error
	switch {
	case err == nil:
		return "refreshed"
	case errors.As(err, &failed):
		return string(failed.Outcome)
	default:
		return "failed"
	}
}
