package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// commitOf is what a flight brought, as an action on its row. The reading translates the times.
func (p *presentation) commitOf(tokens provider.Tokens, reading Reading) Commit {
	commit := Commit{
		Flight: p.flight.FlightID, Version: p.flight.Version, Presented: p.flight.Digest, Token: p.flight.RefreshToken, Tokens: tokens,
		Tell: p.up.config.RevokesAccess,
	}
	commit.Tokens.IssuedAt, commit.Tokens.AccessExpiresAt = reading.ToDatabase(tokens.IssuedAt), reading.ToDatabase(tokens.AccessExpiresAt)
	commit.Tokens.RefreshExpiresAt = reading.ToDatabase(tokens.RefreshExpiresAt)
	if tokens.RefreshToken == p.flight.RefreshToken {
		commit.Tokens.RefreshToken = ""
	}
	if commit.Tokens.RefreshToken != "" {
		commit.Successor = p.digest(string(tokens.RefreshToken))
	}
	if tokens.IdentityFlaw != "" {
		commit.Broken = identityChanged
	}
	if tokens.AccessToken == "" {
		commit.After = backOff(0, minBackOff, cacheKey{p.flight.UserID, p.flight.Provider}, p.now())
	}
	return commit
}

// commit stores first and answers after (refresh-engine.md steps 6 and 7). Where the database does not
// take the successor, it goes to the spool and is offered again and again; the access token is served
// meanwhile, and the flight stays aloft. stored is false then.
func (p *presentation) commit(ctx context.Context, tokens provider.Tokens) (got *held, stored bool, err error) {
	reading := p.clock.newest(p.flight.Reading) // the clock may have been set back since the claim
	commit := p.commitOf(tokens, reading)
	change, err := p.apply(ctx, p.flight.Row, commit)
	stored = err == nil
	switch {
	case errors.Is(err, ErrSuperseded):
		return nil, true, errAgain
	case err != nil:
		p.keepOffering(tokens, commit)
		change, err = Apply(p.flight.Row, Event{At: p.flight.Reading.Now(), Action: commit})
		if err != nil {
			return nil, false, errAgain
		}
	}
	switch {
	case commit.Broken != "":
		p.ended(commit.Broken)
		return nil, stored, ErrGrantBroken
	case tokens.AccessToken == "":
		return nil, stored, &Unavailable{RetryAfter: max(commit.After, time.Second), Cause: errors.New("no access token came that may be handed out")}
	}
	row := change.Row
	row.Reading, row.Reading.Behind = reading, 0 // which the times were translated by
	return p.cache.remember(cacheKey{p.flight.UserID, p.flight.Provider}, row, p.flight.stamp), stored, nil
}

// Why a grant is broken.
const (
	revoked         = "revoked"
	lostInRotation  = "lost_in_rotation"
	identityChanged = "identity_changed"
)

// RanOut is the reason of a tombstone whose grant nobody ended: its time was over, and its tokens were deleted.
const RanOut = "ran_out"

// settle ends a flight that brought nothing, by what its failure means (refresh-engine.md step 8). Where
// the database does not take the verdict, it is offered until it does, and the flight is kept aloft:
// nobody is to count it as one that was never sent. settled is false then.
func (p *presentation) settle(ctx context.Context, failure error) (settled bool, answer error) {
	var failed *provider.Error
	if !errors.As(failure, &failed) {
		failed = &provider.Error{Provider: p.flight.Provider, Doing: "refresh", Outcome: provider.Unknown}
	}
	rest, retry := p.up.note(p.flight.Row, failed, p.now())
	if failed.Outcome == provider.Refused {
		verdict := p.flight.verdict(Broken)
		verdict.Reason = revoked
		if p.flight.Doubtful {
			verdict.Reason = lostInRotation
		}
		return p.end(ctx, verdict)
	}
	verdict := p.verdictOf(failed, rest)
	_, err := p.apply(ctx, p.flight.Row, verdict)
	switch {
	case errors.Is(err, ErrSuperseded):
		return true, errAgain
	case err != nil:
		p.keepSaying(verdict)
	case verdict.Phase == Suspect && !verdict.Unsent:
		p.resolve(cacheKey{p.flight.UserID, p.flight.Provider}, verdict.After)
	}
	return err == nil, &Unavailable{RetryAfter: max(retry, verdict.After), Cause: fmt.Errorf("refreshing: %w", failure)}
}

// verdictOf is what a failure that ends no grant does to the row.
func (p *presentation) verdictOf(failed *provider.Error, rest time.Duration) Verdict {
	verdict := p.flight.verdict(Ready)
	if p.flight.Doubtful {
		verdict = p.flight.verdict(Suspect)
	}
	verdict.After, verdict.Failure = rest, failed.Answer()
	soon := p.soon()
	within := p.flight.presentedFor()+soon+graceSlack < p.up.config.ReuseGrace
	switch failed.Outcome {
	case provider.Unsent:
		verdict.Unsent = true
	case provider.Unknown, provider.Unanswered:
		doubt := p.flight.verdict(Suspect)
		doubt.After, doubt.Failure = rest, verdict.Failure
		verdict = doubt
		p.observer.Doubted(p.flight.Provider)
		switch {
		case within:
			verdict.After = min(rest, soon) // however often the provider has failed others
		case failed.Outcome == provider.Unanswered && !p.up.config.NeverRotates():
			verdict.After = p.config.SpoolWait // the provider may still be working on it
		}
	case provider.Misconfigured, provider.Throttled:
		if !p.flight.Doubtful && !failed.OneGrant() {
			verdict.After = 0 // it is the provider that rests
		}
	case provider.Refused, provider.Unexpected, provider.Untrusted:
	}
	return verdict
}

// soon is how long a doubt rests within the provider's grace.
func (p *presentation) soon() time.Duration {
	grace := p.up.config.ReuseGrace
	return grace/10 + spread(grace/20, cacheKey{p.flight.UserID, p.flight.Provider}, p.now())
}

// end takes a verdict that ends the grant, and only for the token that was judged.
func (p *presentation) end(ctx context.Context, verdict Verdict) (settled bool, answer error) {
	_, err := p.apply(ctx, p.flight.Row, verdict)
	switch {
	case errors.Is(err, ErrSuperseded):
		return true, errAgain
	case err != nil:
		p.keepSaying(verdict)
		return false, outage(err)
	}
	p.ended(verdict.Reason)
	// Another grant may stand in its place by now: Gen3's table may hold one that a Python pod was given.
	if _, err := p.read(ctx, cacheKey{p.flight.UserID, p.flight.Provider}); err == nil {
		return true, errAgain
	}
	return true, ErrGrantBroken
}

// ended reports a grant that is dead.
func (p *presentation) ended(cause string) {
	p.observer.GrantLost(p.flight.Provider, cause)
	p.cache.forget(cacheKey{p.flight.UserID, p.flight.Provider})
}

// keepSaying offers a verdict to the database until it takes it.
func (p *presentation) keepSaying(verdict Verdict) {
	p.again(func(ctx context.Context) bool {
		_, err := p.apply(ctx, p.flight.Row, verdict)
		if err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
		p.aloft.remove(p.flight.FlightID)
		switch {
		case verdict.Phase == Suspect:
			p.resolve(cacheKey{p.flight.UserID, p.flight.Provider}, verdict.After)
		case verdict.Phase == Broken && err == nil:
			p.ended(verdict.Reason)
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
func (p *presentation) keepOffering(tokens provider.Tokens, commit Commit) {
	if err := p.spool.add(p.keys, recordOf(p.flight.UserID, p.flight.Provider, commit)); err != nil {
		p.observer.SpoolFailed(err)
	}
	p.again(func(ctx context.Context) bool {
		_, err := p.apply(ctx, p.flight.Row, p.commitOf(tokens, p.clock.newest(p.flight.Reading)))
		if err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
		p.spool.done()
		p.aloft.remove(p.flight.FlightID)
		if err != nil {
			p.cache.forget(cacheKey{p.flight.UserID, p.flight.Provider})
		}
		return true
	})
}

// outcome names how a refresh ended, for the metrics.
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
