package broker

import (
	"context"
	"errors"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Where a provider gives no refresh token, the access token is the grant, and no refresh finds out that it has ended: the
// provider says so where the token is used, as at GitHub's user endpoint (refresh-engine.md).

// refused ends a grant without a refresh token, whose access token the provider refused.
type refused struct{ access secret.Text }

// on ends the grant, unless another token was stored since.
func (r refused) on(row Row, _ time.Time) (Change, error) {
	if row.Version == 0 || row.Phase == Disconnected || row.RefreshToken != "" || row.AccessToken != r.access {
		return Change{}, ErrSuperseded
	}
	next := row
	next.Phase, next.Reason = Broken, revoked
	return Change{Row: next, Tell: true, Landed: true}, nil
}

// The row is read and changed without a lock held over what the provider was asked: who signs in meanwhile stores another
// token, which the change then finds, and leaves alone.

// noteRefusal ends a grant whose access token its provider has just refused. What cannot be stored is found out again.
func noteRefusal(ctx context.Context, b *Broker, userID, providerID string, access secret.Text, err error) {
	var failure *provider.Error
	if !errors.As(err, &failure) || failure.Outcome != provider.Refused {
		return
	}
	row, err := b.store.Row(ctx, userID, providerID)
	if err != nil || row.RefreshToken != "" || row.AccessToken != access {
		return
	}
	if _, err := b.store.Apply(ctx, row, refused{access}); err == nil {
		b.Forget(userID, providerID)
		b.engine.observer.GrantLost(providerID, revoked)
	}
}

// Where the access token is the grant, it has no end, and nothing is asked of its provider while it is handed out: a person
// may have ended it there long ago. So the provider is asked now and then beside a caller who uses it, as often as it is
// asked for groups. The caller does not wait, and the next one is told.

// askBeside asks the provider of a token without an end whether it still accepts it.
func askBeside(b *Broker, key cacheKey, known *held, now time.Time) {
	up := b.engine.upstreams[key.provider]
	if known.expires != 0 || up == nil || !up.config.AccessIsGrant() {
		return
	}
	last, pause := known.asked.Load(), int64(b.config.ClaimsMaxAge)
	if now.UnixNano()-max(last, known.issued) < pause || !known.asked.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	b.engine.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, b.config.Wait)
		defer cancel()
		noteRefusal(ctx, b, key.userID, key.provider, known.value, b.providers[key.provider].Accepts(ctx, known.value))
	})
}
