package publisher

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Service keeps trusted publishers, and exchanges the tokens of their jobs. It is safe for concurrent use.
type Service struct {
	store     Store
	resources Resources
	audiences Audiences
	verifiers map[string]*verifier.Verifier // by issuer
	now       func() time.Time
}

// Resources says who maintains what.
type Resources interface {
	// Manages returns nil to who may manage the tokens of a resource.
	Manages(ctx context.Context, who issuer.Person, audience, resource string) error
}

// Audiences is what the issuer says of audiences, and its tokens.
type Audiences interface {
	APITokens(audience string) (issuer.APITokens, bool)
	Allow(audience string, who issuer.Person, scopes []string) error
	Mint(request issuer.Request) (issuer.Token, error)
}

// Parts are what a Service is made of.
type Parts struct {
	Config    Config
	Store     Store
	Resources Resources
	Audiences Audiences
	// Own is our own issuer: the audience that a job's token has to be for.
	Own string
	Now func() time.Time
}

// New makes a service of a valid configuration. It asks no issuer yet; the context bounds the look-ups of their keys.
func New(ctx context.Context, parts Parts) (*Service, error) {
	s := &Service{store: parts.Store, resources: parts.Resources, audiences: parts.Audiences, verifiers: map[string]*verifier.Verifier{}, now: parts.Now}
	for _, trusted := range parts.Config.Issuers {
		v, err := verifier.New(ctx, trusted, parts.Own, verifier.WithTypes("JWT", "at+jwt", ""), verifier.WithMaxKeys(50), verifier.WithClock(parts.Now))
		if err != nil {
			return nil, fmt.Errorf("trusted_issuers: %s: %w", trusted, err)
		}
		s.verifiers[trusted] = v
	}
	return s, nil
}

// Create stores a trusted publisher of a resource. The errors are ErrInput, ErrFull, those of Resources, and those of
// issuer.Allow for its scopes.
func (s *Service) Create(ctx context.Context, who issuer.Person, publisher Publisher) (Publisher, error) {
	if err := s.resources.Manages(ctx, who, publisher.Audience, publisher.Resource); err != nil {
		return publisher, err
	}
	if policy, ok := s.audiences.APITokens(publisher.Audience); !ok || !policy.Resource {
		return publisher, fmt.Errorf("%w: no tokens of resources may be made for the audience", ErrInput)
	}
	if err := publisher.check(); err != nil {
		return publisher, err
	}
	if s.verifiers[publisher.Issuer] == nil {
		return publisher, fmt.Errorf("%w: issuer is not one that the operator trusts: want %s", ErrInput, strings.Join(s.Issuers(), ", "))
	}
	if err := s.audiences.Allow(publisher.Audience, who, publisher.Scopes); err != nil {
		return publisher, err
	}
	publisher.ID, publisher.CreatedBy, publisher.CreatedAt = rand.Text(), who.ID, s.now()
	return publisher, s.store.CreatePublisher(ctx, publisher, maxPublishers)
}

// Issuers are those that may be named.
func (s *Service) Issuers() []string {
	var names []string
	for name := range s.verifiers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// List are the trusted publishers of a resource, for who may manage its tokens.
func (s *Service) List(ctx context.Context, who issuer.Person, audience, resource string) ([]Publisher, error) {
	if err := s.resources.Manages(ctx, who, audience, resource); err != nil {
		return nil, err
	}
	return s.store.Publishers(ctx, audience, resource)
}

// Delete ends a trusted publisher. Tokens that its jobs have got end within minutes.
func (s *Service) Delete(ctx context.Context, who issuer.Person, audience, resource, id string) error {
	if err := s.resources.Manages(ctx, who, audience, resource); err != nil {
		return err
	}
	return s.store.DeletePublisher(ctx, audience, resource, id)
}

// Wanted is what a job asks for.
type Wanted struct {
	Token              string // the job's own, of its CI
	Audience, Resource string
	Scopes             []string // all of the publisher's where it is empty
	Lifetime           time.Duration
}

const (
	// longest is how long a job's token may live: it is remembered for as long, so that it is exchanged once.
	longest = 24 * time.Hour
	// defaultLife and maxLife are those of the token that the job gets.
	defaultLife, maxLife = 10 * time.Minute, 15 * time.Minute
)

// Exchanged is what a job gets, and why.
type Exchanged struct {
	Token     issuer.Token
	Publisher Publisher
	// Subject is the job's, as its CI says it, once that was verified.
	Subject string
}

// Exchange exchanges a job's token for a short one of a resource. The errors are ErrToken, ErrReplayed, ErrNoMatch,
// ErrUnavailable, and those of issuer.Mint.
func (s *Service) Exchange(ctx context.Context, wanted Wanted) (Exchanged, error) {
	policy, registered := s.audiences.APITokens(wanted.Audience)
	if !registered || !policy.Resource {
		return Exchanged{}, issuer.ErrAudience
	}
	claims, err := s.verify(ctx, wanted.Token)
	if err != nil {
		return Exchanged{}, err
	}
	done := Exchanged{Subject: claims.Subject}
	known, err := s.store.Publishers(ctx, wanted.Audience, wanted.Resource)
	if err != nil {
		return done, err
	}
	claim := claimOf(claims)
	at := slices.IndexFunc(known, func(one Publisher) bool {
		return one.fits(claims.Issuer, claims.Subject, claim) && holds(one.Scopes, wanted.Scopes)
	})
	if at < 0 {
		return done, ErrNoMatch
	}
	done.Publisher = known[at]
	scopes := wanted.Scopes
	if len(scopes) == 0 {
		scopes = done.Publisher.Scopes
	}
	digest := sha256.Sum256([]byte(claims.Issuer + "\n" + claims.ID))
	if err := s.store.Spend(ctx, hex.EncodeToString(digest[:]), claims.ExpiresAt, done.Publisher.ID); err != nil {
		return done, err
	}
	done.Token, err = s.audiences.Mint(issuer.Request{
		Audience: wanted.Audience, Resource: wanted.Resource, Person: issuer.Person{ID: "resource:" + wanted.Resource}, Unattended: true, Scopes: scopes,
		Lifetime: min(cmp.Or(wanted.Lifetime, defaultLife), maxLife), ClientID: "trusted_publisher", Actor: issuer.Actor{Subject: "publisher " + done.Publisher.ID},
	})
	return done, err
}

// verify verifies a job's token by the keys of its issuer.
func (s *Service) verify(ctx context.Context, token string) (*verifier.Claims, error) {
	var said struct {
		Issuer string `json:"iss"`
	}
	if err := unverified.Claims(token, &said); err != nil {
		return nil, fmt.Errorf("%w: it is no JWT", ErrToken)
	}
	trusted := s.verifiers[said.Issuer]
	if trusted == nil {
		return nil, fmt.Errorf("%w: its issuer is not one that the operator trusts", ErrToken)
	}
	claims, err := trusted.Verify(ctx, token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, verifier.ErrAudience):
		return nil, fmt.Errorf("%w: it is for another audience than this service; the job asks its CI for one with the audience that the issuer of this service is", ErrToken)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	case claims.ID == "":
		return nil, fmt.Errorf("%w: it has no jti, by which it is exchanged once", ErrToken)
	case claims.Subject == "":
		return nil, fmt.Errorf("%w: it has no sub", ErrToken)
	case len(claims.Audience) != 1:
		return nil, fmt.Errorf("%w: it is for other services too", ErrToken)
	case claims.ExpiresAt.After(s.now().Add(longest)):
		return nil, fmt.Errorf("%w: it lives for more than a day", ErrToken)
	}
	return claims, nil
}

// claimOf reads claims as text: CI writes numbers as text or as numbers, and means the same.
func claimOf(claims *verifier.Claims) func(name string) (string, bool) {
	var all map[string]json.RawMessage
	_ = claims.Decode(&all) // what was verified is JSON
	return func(name string) (string, bool) {
		raw, there := all[name]
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return text, there
		}
		var number json.Number
		var truth bool
		if json.Unmarshal(raw, &number) == nil || json.Unmarshal(raw, &truth) == nil {
			return strings.TrimSpace(string(raw)), there
		}
		return "", false
	}
}

// holds tells whether all of some scopes are among others.
func holds(has, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(scope string) bool { return !slices.Contains(has, scope) })
}
