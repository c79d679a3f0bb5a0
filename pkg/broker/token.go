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
	if err := b.confirm(ctx, key, now); err != nil {
		return Token{}, err
	}
	known, ok := b.cache.get(key)
	if ok && known.enough(life, now) && !known.ended(now) {
		b.renewBeside(key, known, now)
		return b.served(key, known, now), nil
	}
	patience := b.config.Wait
	if ok && known.valid(now) && !known.ended(now) {
		if b.engine.troubled(key.provider, now) { // nobody with a valid token waits for what does not answer
			b.renewBeside(key, known, now)
			return b.degraded(key, known, now), nil
		}
		patience = min(patience, livingPatience)
	}
	began := time.Now()
	fresh, err := b.engine.fresh(ctx, key, life, patience)
	now = b.now()
	if err == nil && !fresh.degraded && !fresh.enough(life, now) && fresh.issued < began.UnixNano() {
		// It joined the flight of somebody who asked for less, and to whom an older token was enough.
		fresh, err = b.engine.fresh(ctx, key, life, patience)
		now = b.now()
	}
	if err == nil {
		return b.served(key, fresh, now), nil
	}
	// The provider or the database is away: a token that is still valid is better than none. It is asked
	// for again, since the wait may have been long and a disconnect may have come.
	if known, ok = b.cache.get(key); ok && errors.Is(err, ErrUnavailable) && known.valid(now) && !known.ended(now) {
		return b.degraded(key, known, now), nil
	}
	return Token{}, err
}

// livingPatience is how long a caller waits for a better token than one that lives.
const livingPatience = 3 * time.Second

// served makes the token that is handed out, and tells the metrics how much life it has left.
func (b *Broker) served(key cacheKey, known *held, now time.Time) Token {
	askBeside(b, key, known, now)
	token := known.token()
	token.GrantEnds, token.GrantEndExpected = b.endOf(key, known, now)
	left := time.Duration(-1)
	if !token.ExpiresAt.IsZero() {
		left = token.ExpiresAt.Sub(now)
	}
	if up := b.engine.upstreams[key.provider]; up != nil {
		up.served(left)
	}
	return token
}

// degraded hands out a token that lives for less than was asked, and says so.
func (b *Broker) degraded(key cacheKey, known *held, now time.Time) Token {
	token := b.served(key, known, now)
	token.Degraded = true
	return token
}

// troubled tells that the provider or the database did not answer a moment ago, or that others wait for
// their turn there.
func (e *engine) troubled(providerID string, now time.Time) bool {
	up := e.upstreams[providerID]
	return e.away(now) || up != nil && (up.troubled() || up.queue() > 0)
}

// renewAgain is how long after a renewal that failed the next one is tried.
const renewAgain = 3 * time.Second

// renewBeside renews a token before its time, beside the caller who uses it: connections in use are
// refreshed at about three quarters of their token's life. It gives way to those whose token is dead.
func (b *Broker) renewBeside(key cacheKey, known *held, now time.Time) {
	at := known.renewAt.Load()
	if at == 0 || now.UnixNano() < at || !known.renewing.CompareAndSwap(false, true) {
		return
	}
	up := b.engine.upstreams[key.provider]
	if up == nil || up.config.RevokesAccess || up.rate.Tokens() < float64(up.rate.Burst())/2 {
		known.renewing.Store(false)
		return
	}
	b.engine.background(func(ctx context.Context) {
		_, _ = b.engine.fresh(ctx, key, wholeLife, b.config.Wait) // whatever comes of it, the cache says
		known.renewAt.Store(b.now().Add(renewAgain + spread(renewAgain, key, b.now())).UnixNano())
		known.renewing.Store(false)
	})
}

// wholeLife asks for more than any token has: what is asked is capped by what the token's own life is.
const wholeLife = 100 * 365 * 24 * time.Hour

// Living is LivingWithin without any time unseen.
func (b *Broker) Living(ctx context.Context, userID, providerID string) error {
	return b.LivingWithin(ctx, userID, providerID, 0)
}

// LivingWithin makes sure that a user's grant is still good. Nothing is minted for a user whose grant at the
// default provider was removed or revoked, or ran out longer ago than unseen. While the database is away, what was read
// before is believed until the change feed has been deaf for too long.
func (b *Broker) LivingWithin(ctx context.Context, userID, providerID string, unseen time.Duration) error {
	if userID == "" {
		return ErrNotConnected
	}
	key, now := cacheKey{userID, providerID}, b.now()
	if err := b.confirm(ctx, key, now); err != nil && unseen == 0 {
		return err
	} // else what it found is looked at again, by other rules
	if known, ok := b.cache.get(key); ok && !known.ended(now.Add(-unseen)) {
		return nil
	}
	stamp := b.cache.stamp()
	row, err := b.engine.read(ctx, key)
	switch {
	case err == nil:
		b.cache.remember(key, row, stamp)
	case unseen > 0 && (errors.Is(err, ErrGrantExpired) || errors.Is(err, ErrNotConnected)):
		return b.seenOf(ctx, key, now.Add(-unseen), err)
	}
	return err
}

// seenOf tells whether a grant that only ran out by time was good after a time; otherwise is why it is not good now.
func (b *Broker) seenOf(ctx context.Context, key cacheKey, after time.Time, otherwise error) error {
	ctx, cancel := context.WithTimeout(ctx, StatementTimeout)
	defer cancel()
	row, err := b.store.Row(ctx, key.userID, key.provider)
	if err != nil && !errors.Is(err, ErrNotConnected) {
		return outage(err)
	}
	ranOut := row.Phase == Ready || row.Phase == Disconnected && row.Reason == RanOut
	if err == nil && ranOut && !row.Unreadable && row.Reading.Local(row.RefreshExpiresAt).After(after) {
		return nil
	}
	return otherwise
}

// confirmPatience is how long a caller waits for a look at a row that memory already answers for.
const confirmPatience = 250 * time.Millisecond

// confirm looks at the row of what was remembered a while ago: one caller in each maxAge, who does not wait
// for a database that hangs. The error is why the connection is no longer good.
func (b *Broker) confirm(ctx context.Context, key cacheKey, now time.Time) error {
	known, ok := b.cache.get(key)
	if !ok || !known.old(now) || b.engine.away(now) || !known.confirming.CompareAndSwap(false, true) {
		return nil
	}
	defer known.confirming.Store(false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmPatience)
	defer cancel()
	stamp := b.cache.stamp()
	row, err := b.engine.read(ctx, key)
	switch {
	case err == nil:
		b.cache.remember(key, row, stamp)
		return nil
	case errors.Is(err, ErrUnavailable):
		b.engine.noteAway()
		return nil
	}
	b.cache.forget(key)
	return err
}

// flaw says why a row is not good, if it is not.
func (r *Row) flaw(now time.Time) error {
	ends := r.Reading.Local(r.ends())
	switch {
	case r.Phase == Disconnected:
		return ErrNotConnected
	case r.Phase == Broken, r.Unreadable:
		return ErrGrantBroken
	case !ends.IsZero() && !now.Before(ends):
		return ErrGrantExpired
	}
	return nil
}

// local is the connection in times of this process's clock.
func (r *Row) local() Connection {
	local := r.Connection
	for _, at := range []*time.Time{&local.AccessIssuedAt, &local.AccessExpiresAt, &local.RefreshExpiresAt, &local.ConnectedAt} {
		*at = r.Reading.Local(*at)
	}
	return local
}

// Connections are a user's connections that are good, the newest first.
func (b *Broker) Connections(ctx context.Context, userID string) ([]Connection, error) {
	if userID == "" {
		return nil, nil
	}
	rows, err := b.store.Rows(ctx, userID)
	if err != nil {
		return nil, outage(err)
	}
	var all []Connection
	for _, row := range rows {
		if row.flaw(b.now()) == nil {
			all = append(all, row.local())
		}
	}
	slices.SortFunc(all, func(a, b Connection) int {
		return cmp.Or(b.ConnectedAt.Compare(a.ConnectedAt), strings.Compare(a.Provider, b.Provider))
	})
	return all, nil
}

// Ends is when the grant runs out; zero where that is not known.
func (c *Connection) Ends() time.Time { return c.ends() }

// Connection returns a user's connection, for a page that shows it.
func (b *Broker) Connection(ctx context.Context, userID, providerID string) (Connection, error) {
	row, err := b.engine.read(ctx, cacheKey{userID, providerID})
	return row.local(), err
}

// Disconnect ends a connection at once, on every replica.
func (b *Broker) Disconnect(ctx context.Context, userID, providerID string) error {
	err := b.store.Disconnect(ctx, userID, providerID)
	b.Forget(userID, providerID) // after a failure too: it may have been done, or be done yet
	if err != nil && !errors.Is(err, ErrNotConnected) {
		return outage(err)
	}
	return err
}
