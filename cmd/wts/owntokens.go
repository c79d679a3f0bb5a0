package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
)

// ownAudience is the audience of API tokens that are for wts itself.
const ownAudience = "wts"

// ownTokens says which API tokens act for their users here; it implements authn.APITokens.
type ownTokens struct{ *apitoken.Service }

// Looks implements authn.APITokens.
func (o ownTokens) Looks(token string) bool { return apitoken.Looks(token) }

// User implements authn.APITokens.
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
	case token.Audience != ownAudience:
		return owned, fmt.Errorf("%w: the token is for another audience than wts", authn.ErrBearer)
	}
	return owned, nil
}
