package apitoken

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// People says who a user is now.
type People interface {
	// Now is the user with an id as they are now, with their groups where those are asked for. The error says why nothing
	// is to be done for them: they are disabled, have to log in again, or have no grant at the default provider that is
	// good, or ran out by time at most unseen ago.
	Now(ctx context.Context, userID string, groups bool, unseen time.Duration) (issuer.Person, error)
}

// Present says what a value is worth that is presented from an address now: its token, with those of its scopes that
// count now. The errors are those of Check, of People, and issuer.ErrAccess and issuer.ErrAudience.
func (s *Service) Present(ctx context.Context, value string, from netip.Addr) (Token, error) {
	token, err := s.Check(ctx, value, from)
	if err != nil {
		return token, err
	}
	_, token.Scopes, err = s.rights(ctx, token)
	return token, err
}

// rights are who a token acts for now, and with which of its scopes. A personal token does what its user may do today:
// one who is disabled, disconnected or out of a group takes their tokens along. One of a resource goes on without its
// maker, and is bound by what the audience has.
func (s *Service) rights(ctx context.Context, token Token) (who issuer.Person, scopes []string, err error) {
	policy, registered := s.audiences.APITokens(token.Audience)
	switch {
	case !registered:
		return who, nil, issuer.ErrAudience
	case token.Kind == Personal && !policy.Personal, token.Kind == Resource && !policy.Resource:
		return who, nil, fmt.Errorf("%w: the audience takes no such API tokens any more", issuer.ErrAccess)
	case token.Kind == Resource:
		scopes, err = s.audiences.Narrow(token.Audience, nil, token.Scopes)
		return issuer.Person{ID: "resource:" + token.Resource}, scopes, err
	}
	who, err = s.people.Now(ctx, token.UserID, s.audiences.AsksGroups(token.Audience), policy.MaxUnseen)
	if err != nil {
		return who, nil, err
	}
	scopes, err = s.audiences.Narrow(token.Audience, &who, token.Scopes)
	return who, scopes, err
}
