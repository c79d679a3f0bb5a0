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
	user, err := a.Owner(ctx, owned.UserID)
	caller := Caller{User: user, Proof: APIToken, Actor: "token " + owned.ID}
	if err != nil {
		return caller, err
	}
	caller.Scopes, caller.ExpiresAt = append([]string{}, owned.Scopes...), owned.ExpiresAt
	return caller, nil
}

// Owner is the user with an id, whose API token is presented. The errors are ErrBearer for one who has to log in again,
// ErrDisabled, and outages.
func (a *Authenticator) Owner(ctx context.Context, id string) (User, error) {
	user, err := a.people.withID(ctx, id)
	switch {
	case errors.Is(err, ErrUnknown):
		return User{}, fmt.Errorf("%w: its user has to log in again", ErrBearer)
	case err != nil:
		return User{}, fmt.Errorf("the user of an API token: %w", err)
	case user.Disabled:
		return user, ErrDisabled
	}
	return user, nil
}
