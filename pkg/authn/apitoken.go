package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// APITokens says what API tokens are worth.
type APITokens interface {
	// Looks tells a text that claims to be one.
	Looks(token string) bool
	// User is whose a token is, where it acts for its user here, and which scopes it holds. The errors are ErrBearer
	// for one that is not good or acts for nobody, and outages.
	User(ctx context.Context, token string, from netip.Addr) (OwnedToken, error)
}

// OwnedToken is an API token that acts for its user.
type OwnedToken struct {
	ID, UserID string
	Scopes     []string
	ExpiresAt  time.Time // zero: it has no end
}

// apiToken takes the caller for the user whose API token this is.
func (a *Authenticator) apiToken(ctx context.Context, token string, peer Peer) (Caller, error) {
	if a.apiTokens == nil {
		return Caller{}, fmt.Errorf("%w: API tokens are off here", ErrBearer)
	}
	owned, err := a.apiTokens.User(ctx, token, peer.Addr)
	switch {
	case errors.Is(err, ErrBearer):
		return Caller{Proof: APIToken, Actor: "token " + owned.ID}, err
	case err != nil:
		return Caller{}, outage(err)
	}
	user, err := a.people.withID(ctx, owned.UserID)
	switch {
	case errors.Is(err, ErrUnknown):
		return Caller{}, fmt.Errorf("%w: its user has to log in again", ErrBearer)
	case err != nil:
		return Caller{}, fmt.Errorf("the user of an API token: %w", err)
	}
	return allowed(Caller{User: user, Proof: APIToken, Actor: "token " + owned.ID, Scopes: append([]string{}, owned.Scopes...), ExpiresAt: owned.ExpiresAt})
}
