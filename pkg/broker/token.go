package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// Token returns an access token of the user's at a provider that has at least that much life left,
// within the caps of held.enough. From memory where it can: then it touches neither database nor
// network.
//
// The errors are ErrNotConnected, ErrGrantExpired and ErrGrantBroken, which a login mends, and
// ErrUnavailable, which time mends.
func (b *Broker) Token(ctx context.Context, userID, providerID string, life time.Duration) (Token, error) {
	if userID == "" {
		return Token{}, ErrNotConnected
	}
	key, now := cacheKey{userID, providerID}, b.now()
	known, ok := b.cache.GetIfPresent(key)
	if ok && known.enough(life, now) && !known.ended(now) {
		return known.token, nil
	}
	fresh, err := b.fresh(ctx, key, life)
	if err == nil {
		return fresh.token, nil
	}
	// The provider or the database is away: a token that still lives is better than none. It is asked
	// for again, since the wait may have been long and a disconnect may have come.
	now = b.now()
	if known, ok = b.cache.GetIfPresent(key); ok && errors.Is(err, ErrUnavailable) && known.living(now) && !known.ended(now) {
		return known.token, nil
	}
	return Token{}, err
}

// Living makes sure that a user's grant still lives. Nothing is minted for somebody whose grant at the
// default provider was removed, revoked or ran out.
func (b *Broker) Living(ctx context.Context, userID, providerID string) error {
	if userID == "" {
		return ErrNotConnected
	}
	key, now := cacheKey{userID, providerID}, b.now()
	if known, ok := b.cache.GetIfPresent(key); ok && !known.ended(now) {
		return nil
	}
	readAt := b.forgotten.Load()
	connection, err := b.read(ctx, key)
	if err != nil {
		return err
	}
	b.remember(key, connection, readAt)
	return nil
}

// read reads a connection and refuses one that is not good.
func (b *Broker) read(ctx context.Context, key cacheKey) (Connection, error) {
	connection, err := b.store.Connection(ctx, key.userID, key.provider)
	switch {
	case errors.Is(err, ErrNotConnected):
		return Connection{}, ErrNotConnected
	case err != nil:
		return Connection{}, outage(err)
	}
	if err := connection.flaw(b.now()); err != nil {
		return Connection{}, err
	}
	return connection, nil
}

// flaw says why a connection is not good, if it is not.
func (c *Connection) flaw(now time.Time) error {
	switch {
	case c.Phase == Disconnected:
		return ErrNotConnected
	case c.Phase == Broken, c.Unreadable:
		return ErrGrantBroken
	case !c.ends().IsZero() && !now.Before(c.ends()):
		return ErrGrantExpired
	}
	return nil
}

// Connections are a user's connections that are good, the newest first.
func (b *Broker) Connections(ctx context.Context, userID string) ([]Connection, error) {
	if userID == "" {
		return nil, nil
	}
	all, err := b.store.Connections(ctx, userID)
	if err != nil {
		return nil, outage(err)
	}
	now := b.now()
	all = slices.DeleteFunc(all, func(one Connection) bool { return one.flaw(now) != nil })
	slices.SortFunc(all, func(a, b Connection) int {
		return cmp.Or(b.ConnectedAt.Compare(a.ConnectedAt), strings.Compare(a.Provider, b.Provider))
	})
	return all, nil
}

// Ends is when the grant runs out; zero where that is not known.
func (c *Connection) Ends() time.Time { return c.ends() }

// Connection returns a user's connection, for a page that shows it.
func (b *Broker) Connection(ctx context.Context, userID, providerID string) (Connection, error) {
	return b.read(ctx, cacheKey{userID, providerID})
}

// Disconnect ends a connection at once, on every replica.
func (b *Broker) Disconnect(ctx context.Context, userID, providerID string) error {
	err := b.store.Disconnect(ctx, userID, providerID)
	if err != nil && !errors.Is(err, ErrNotConnected) {
		return outage(err)
	}
	b.Forget(userID, providerID)
	return err
}
