package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// fresh gets a token from the row, or from the provider: one flight for each row in this process,
// on a context of its own, so that a caller who goes away does not take a rotation with them.
func (b *Broker) fresh(ctx context.Context, key cacheKey, life time.Duration) (*held, error) {
	flight := b.flights.DoChan(key.userID+"\x00"+key.provider, func() (any, error) {
		return b.refresh(context.WithoutCancel(ctx), key, life)
	})
	deadline := time.NewTimer(b.config.Wait)
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

// refresh is one flight. Where a grant turns out to be dead, and another has taken its place in the
// store meanwhile, that one is tried too.
func (b *Broker) refresh(ctx context.Context, key cacheKey, life time.Duration) (*held, error) {
	got, err := b.refreshOnce(ctx, key, life)
	if errors.Is(err, ErrGrantBroken) {
		if _, again := b.readWithin(ctx, key); again == nil {
			return b.refreshOnce(ctx, key, life)
		}
	}
	return got, err
}

// refreshOnce reads the row, and where its token does not live long enough, presents the refresh token once and
// stores the successor before anyone gets the access token that came with it.
func (b *Broker) refreshOnce(ctx context.Context, key cacheKey, life time.Duration) (*held, error) {
	readAt := b.forgotten.Load()
	connection, err := b.readWithin(ctx, key)
	if err != nil {
		return nil, err
	}
	if hold(connection).enough(life, b.now()) {
		return b.remember(key, connection, readAt), nil
	}
	if connection.RefreshToken == "" { // the access token is the whole grant, and lives: see read
		return b.remember(key, connection, readAt), nil
	}
	if err, failed := b.failing.GetIfPresent(key); failed {
		return b.orLiving(key, connection, readAt, err)
	}
	upstream, ok := b.providers[key.provider]
	if !ok {
		return nil, ErrProvider
	}
	began := b.now()
	tokens, err := upstream.Refresh(ctx, connection.RefreshToken)
	b.observer.Refreshed(key.provider, outcome(err), b.now().Sub(began))
	if err != nil {
		return b.judge(ctx, key, connection, err, readAt)
	}
	return b.commit(ctx, key, connection, tokens, readAt)
}

const statementTimeout = 5 * time.Second

func (b *Broker) readWithin(ctx context.Context, key cacheKey) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return b.read(ctx, key)
}

// commit stores first and answers after. A successor that cannot be stored is tried for as long as
// it matters: once it is lost, so is the grant.
func (b *Broker) commit(ctx context.Context, key cacheKey, presented Connection, tokens provider.Tokens, readAt uint64) (*held, error) {
	var err error
	for wait := 50 * time.Millisecond; wait < 30*time.Second; wait *= 2 {
		if err = b.store.Refreshed(ctx, presented, tokens); err == nil || errors.Is(err, ErrSuperseded) {
			break
		}
		time.Sleep(wait)
	}
	switch {
	case errors.Is(err, ErrSuperseded):
		return b.winner(ctx, key, b.forgotten.Load())
	case err != nil:
		b.observer.GrantLost(key.provider, "not_stored")
		return nil, outage(err)
	}
	stored := presented
	stored.AccessToken, stored.AccessIssuedAt, stored.AccessExpiresAt = tokens.AccessToken, tokens.IssuedAt, tokens.AccessExpiresAt
	if tokens.RefreshToken != "" || !tokens.RefreshExpiresAt.IsZero() {
		stored.RefreshExpiresAt = tokens.RefreshExpiresAt
	}
	return b.remember(key, stored, readAt), nil
}

// winner takes what another login or replica stored meanwhile.
func (b *Broker) winner(ctx context.Context, key cacheKey, readAt uint64) (*held, error) {
	connection, err := b.readWithin(ctx, key)
	if err != nil {
		return nil, err
	}
	if !hold(connection).living(b.now()) {
		return nil, &Unavailable{RetryAfter: time.Second, Cause: ErrSuperseded}
	}
	return b.remember(key, connection, readAt), nil
}

// judge says what a failed refresh means (refresh-engine.md step 8): only the provider's own
// verdict ends a grant, and only if the token that it judged is still the one stored.
func (b *Broker) judge(ctx context.Context, key cacheKey, presented Connection, failure error, readAt uint64) (*held, error) {
	var of *provider.Error
	if errors.As(failure, &of) && of.Outcome == provider.Refused {
		err := b.store.Broken(ctx, presented, "revoked: the provider refused the refresh token")
		switch {
		case errors.Is(err, ErrSuperseded):
			return b.winner(ctx, key, b.forgotten.Load())
		case err != nil:
			return nil, outage(err)
		}
		b.observer.GrantLost(key.provider, "revoked")
		b.Forget(key.userID, key.provider)
		return nil, ErrGrantBroken
	}
	unavailable := &Unavailable{RetryAfter: 2 * time.Second, Cause: fmt.Errorf("refreshing: %w", failure)}
	if of != nil && of.RetryAfter > 0 {
		unavailable.RetryAfter = of.RetryAfter
	}
	if b.forgotten.Load() != readAt { // a login or a disconnect came meanwhile: the row decides
		return b.winner(ctx, key, b.forgotten.Load())
	}
	_, _ = b.failing.Set(key, unavailable)
	return b.orLiving(key, presented, readAt, unavailable)
}

// orLiving answers with the row's own token where it lives, though not for as long as was asked.
func (b *Broker) orLiving(key cacheKey, of Connection, readAt uint64, otherwise error) (*held, error) {
	if !hold(of).living(b.now()) {
		return nil, otherwise
	}
	return b.remember(key, of, readAt), nil
}

// backOff is how long a failed refresh is not tried again, with jitter, so that the callers of many
// users do not come back at once.
func backOff(entry otter.Entry[cacheKey, error]) time.Duration {
	wait := time.Second + rand.N(time.Second)
	var unavailable *Unavailable
	if errors.As(entry.Value, &unavailable) {
		wait = max(wait, unavailable.RetryAfter)
	}
	return wait
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
