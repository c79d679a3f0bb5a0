package apitoken

import (
	"cmp"
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

// judge says what tokens are worth today.
type judge struct {
	audiences Audiences
	people    People
}

// presenter says what a value is worth that is presented.
type presenter struct {
	*checker
	*judge
	signer Signer
}

// Present says what a value is worth that is presented from an address now: its token, with those of its scopes that
// count now, and who it acts for. The errors are those of Check, of People, and issuer.ErrAccess and issuer.ErrAudience.
func (p *presenter) Present(ctx context.Context, value string, from netip.Addr) (Token, issuer.Person, error) {
	token, err := p.Check(ctx, value, from)
	if err != nil {
		return token, issuer.Person{}, err
	}
	who, scopes, err := p.rights(ctx, token)
	token.Scopes = scopes
	return token, who, err
}

// PresentTo is Present for the service of an audience, which was sent the value from an address; one that does not say
// from which is told of no token that is held to networks. The error is ErrUnknown where the token is for another
// audience.
func (p *presenter) PresentTo(ctx context.Context, audience, value string, from netip.Addr) (Token, issuer.Person, error) {
	token, err := p.look(ctx, value, from, nil)
	switch {
	case token.Audience != audience:
		return Token{}, issuer.Person{}, cmp.Or(err, ErrUnknown)
	case err != nil:
		return token, issuer.Person{}, err
	}
	who, scopes, err := p.rights(ctx, token)
	token.Scopes = scopes
	return token, who, err
}

// Trade mints a short token for the audience of an API token that is presented, with the scopes that are asked for; all
// that count now where none is. The errors are those of Present and of issuer.Mint.
func (p *presenter) Trade(ctx context.Context, value string, from netip.Addr, scopes []string, life time.Duration) (Token, issuer.Token, error) {
	token, who, err := p.Present(ctx, value, from)
	if err != nil {
		return token, issuer.Token{}, err
	}
	if len(scopes) == 0 {
		scopes = token.Scopes
	} else if !token.Holds(scopes...) {
		return token, issuer.Token{}, issuer.ErrScope
	}
	minted, err := p.signer.Mint(issuer.Request{
		Audience: token.Audience, Resource: token.Resource, Person: who, Unattended: token.Kind == Resource, Scopes: scopes, Lifetime: life,
		ClientID: "api_token", Actor: issuer.Actor{Subject: "token " + token.ID},
	})
	return token, minted, err
}

// MayAct tells whether tokens that were minted for a user still count for an audience. The errors are those of People.
func (j *judge) MayAct(ctx context.Context, userID, audience string) error {
	policy, _ := j.audiences.APITokens(audience)
	_, err := j.people.Now(ctx, userID, false, policy.MaxUnseen)
	return err
}

// rights are who a token acts for now, and with which of its scopes. A personal token does what its user may do today:
// one who is disabled, disconnected or out of a group takes their tokens along. One of a resource goes on without its
// maker, and is bound by what the audience has.
func (j *judge) rights(ctx context.Context, token Token) (who issuer.Person, scopes []string, err error) {
	policy, registered := j.audiences.APITokens(token.Audience)
	switch {
	case !registered:
		return who, nil, issuer.ErrAudience
	case token.Kind == Personal && !policy.Personal, token.Kind == Resource && !policy.Resource:
		return who, nil, fmt.Errorf("%w: the audience takes no such API tokens any more", issuer.ErrAccess)
	case token.Kind == Resource:
		scopes, err = j.audiences.Narrow(token.Audience, nil, token.Scopes)
		return issuer.Person{ID: "resource:" + token.Resource}, scopes, err
	}
	asked, _ := j.audiences.Groups(token.Audience)
	who, err = j.people.Now(ctx, token.UserID, asked, policy.MaxUnseen)
	if err != nil {
		return who, nil, err
	}
	scopes, err = j.audiences.Narrow(token.Audience, &who, token.Scopes)
	return who, scopes, err
}
