package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// ownTokens says which API tokens act for their users here; it implements authn.APITokens.
type ownTokens struct{ *apitoken.Service }

// Looks implements authn.APITokens.
func (o ownTokens) Looks(token string) bool { return apitoken.Looks(token) }

// User implements authn.APITokens. What the user may do today is judged where it is known what the token is used for.
func (o ownTokens) User(ctx context.Context, value string, from netip.Addr) (authn.OwnedToken, error) {
	token, err := o.Check(ctx, value, from)
	owned := authn.OwnedToken{ID: token.ID, UserID: token.UserID, Scopes: token.Scopes, ExpiresAt: token.ExpiresAt}
	refused := []error{apitoken.ErrForm, apitoken.ErrUnknown, apitoken.ErrRevoked, apitoken.ErrExpired, apitoken.ErrReplaced, apitoken.ErrNetwork}
	for _, why := range refused {
		if errors.Is(err, why) {
			return owned, fmt.Errorf("%w: %w", authn.ErrBearer, why)
		}
	}
	switch {
	case err != nil:
		return owned, err
	case token.Kind != apitoken.Personal:
		return owned, fmt.Errorf("%w: a resource's token acts for no user", authn.ErrBearer)
	case token.Audience != issuer.OwnAudience:
		return owned, fmt.Errorf("%w: the token is for another audience than wts", authn.ErrBearer)
	}
	return owned, nil
}

// owners says who the owners of API tokens are now; it implements apitoken.People.
type owners struct{ *service }

// Now implements apitoken.People.
func (o owners) Now(ctx context.Context, userID string, groups bool, unseen time.Duration) (issuer.Person, error) {
	user, err := o.authn.Owner(ctx, userID)
	if err != nil {
		return issuer.Person{}, err
	}
	who := issuer.Person{ID: user.ID, Username: user.Username}
	if err := o.broker.LivingWithin(ctx, userID, o.config.Broker.DefaultProvider, unseen); err != nil || !groups {
		return who, err
	}
	said, err := o.broker.About(ctx, userID)
	who.Groups, who.Subject, who.Name, who.Email = said.Groups, said.Subject, said.Name, said.Email
	return who, err
}
