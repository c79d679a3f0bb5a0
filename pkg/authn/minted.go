package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Minted verifies a token that this service minted, for an audience; an empty audience is any. The errors are ErrBearer
// for a token that is not good, and outages.
func (a *Authenticator) Minted(ctx context.Context, token, audience string) (*verifier.Claims, error) {
	claims, err := a.minted.Verify(ctx, token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return nil, outage(err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBearer, err)
	case audience != "" && !slices.Contains(claims.Audience, audience):
		return nil, fmt.Errorf("%w: it is for another audience", ErrBearer)
	}
	return claims, nil
}
