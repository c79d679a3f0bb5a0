package apitoken

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

const (
	// maxActive is how many tokens of one owner, a user or a resource, may be active.
	maxActive = 100
	// defaultOverlap and maxOverlap are how long both values of a rotated token work.
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 30 * 24 * time.Hour
	// maxValues bounds the values of one token, those that were rotated included: each change of the token reads them.
	maxValues = 100

	maxName, maxDescription, maxNetworks = 100, 1000, 32 // the first two in bytes
)

// Audiences is what the issuer says of audiences.
type Audiences interface {
	// APITokens is what may be made for an audience; false where it is not registered.
	APITokens(audience string) (issuer.APITokens, bool)
	// PersonalJWTs are the audiences of personal tokens that are JWTs, each with its max_unseen.
	PersonalJWTs() map[string]time.Duration
	// Groups tells whether an audience's tokens say anything of groups, or depend on them; and whether they decide who may
	// have one.
	Groups(audience string) (asked, decide bool)
	// Allow judges whether a user may have tokens for an audience with these scopes now.
	Allow(audience string, who issuer.Person, scopes []string) error
	// Narrow returns those of the scopes that a user may have now; no user, that the audience has.
	Narrow(audience string, who *issuer.Person, scopes []string) ([]string, error)
}

// Service makes tokens and says what they are worth. It is safe for concurrent use.
type Service struct {
	*presenter
	*owners
	*lists
	*notifier
	now func() time.Time
}

// Parts are what a Service is made of.
type Parts struct {
	Store     Store
	Uses      Uses
	Resources Resources
	Statuses  Statuses
	// DefaultProvider is whose grant personal tokens depend on.
	DefaultProvider string
	// RideThrough is how long a status list is served while the database is away.
	RideThrough time.Duration
	Audiences   Audiences
	People      People
	Signer      Signer
	Notices     Notices
	Connections ConnectionNotices // of people's connections; nil where none are sent
	Webhook     WebhookConfig
	Admins      []string // usernames
	AdminGroups []string // whose members are admins too
	Now         func() time.Time
}

// New makes a service of its parts.
func New(parts Parts) *Service {
	return &Service{
		presenter: &presenter{
			checker: &checker{
				store: parts.Store, uses: parts.Uses, known: newKnown(), strangers: newStrangers(), now: parts.Now, background: func(task func()) { go task() },
			},
			judge:  &judge{audiences: parts.Audiences, people: parts.People},
			signer: parts.Signer,
		},
		lists: &lists{
			statuses: parts.Statuses, signer: parts.Signer, audiences: parts.Audiences, provider: parts.DefaultProvider, rideThrough: parts.RideThrough, now: parts.Now,
		},
		owners:   &owners{resources: parts.Resources, admins: parts.Admins, adminGroups: parts.AdminGroups},
		notifier: &notifier{notices: parts.Notices, connections: parts.Connections, webhook: parts.Webhook, resources: parts.Resources, now: parts.Now},
		now:      parts.Now,
	}
}

// Forget drops what is remembered of a value, which has changed on some replica. The change feed calls it, on every one.
func (s *Service) Forget(digest Digest) {
	s.known.forget(digest)
	s.changed()
}

// UsersChanged has the status lists made anew: a user was disabled, or is no longer.
func (s *Service) UsersChanged() { s.changed() }

// ForgetAll drops everything. It is for when changes may have been missed.
func (s *Service) ForgetAll() {
	s.known.forgetAll()
	s.changed()
}

// Create makes a token for a person, and returns its value: the only time that it can be seen. The errors are
// ErrInput, ErrPolicy, ErrForbidden, ErrFull, those of People for a personal token, and those of issuer.Mint.
func (s *Service) Create(ctx context.Context, who issuer.Person, wanted Wanted) (token Token, value string, err error) {
	if wanted.Resource == "" {
		asked, _ := s.judge.audiences.Groups(wanted.Audience)
		if who, err = s.people.Now(ctx, who.ID, asked, 0); err != nil {
			return Token{}, "", err
		}
	}
	token, err = s.draft(who, wanted)
	if err != nil {
		return Token{}, "", err
	}
	if token.Kind == Resource {
		if err := s.maintains(ctx, who, token.Audience, token.Resource); err != nil {
			return Token{}, "", err
		}
	}
	value, made, err := s.value(ctx, token, who, token.CreatedAt)
	if err != nil {
		return Token{}, "", err
	}
	token.Values = []Value{made}
	if err := s.store.CreateToken(ctx, token, Most{All: maxActive, Alike: wanted.AtMost}); err != nil {
		return Token{}, "", err
	}
	return token, value, nil
}

// value makes a value of a token. A JWT says of a personal token what its user is called now, and of a resource's that
// the resource is who acts.
func (s *Service) value(ctx context.Context, token Token, who issuer.Person, now time.Time) (string, Value, error) {
	if token.Format != JWT {
		value := newValue(token.Kind)
		return value, Value{Digest: DigestOf(value), Suffix: suffix(value), CreatedAt: now}, nil
	}
	status, err := s.statuses.NextStatus(ctx)
	if err != nil {
		return "", Value{}, err
	}
	if asked, _ := s.judge.audiences.Groups(token.Audience); !asked { // they may be known for who is an admin
		who.Groups = nil
	}
	request := issuer.Request{
		Audience: token.Audience, Resource: token.Resource, Scopes: token.Scopes, Person: who, ClientID: "api_token", Actor: issuer.Actor{Subject: "token " + token.ID},
	}
	if token.Kind == Resource {
		request.Person = issuer.Person{ID: "resource:" + token.Resource}
	}
	s.given(status)
	id := fmt.Sprintf("%s-%d", token.ID, status) // by which the audit finds the token
	signed, err := s.presenter.signer.MintLasting(request, issuer.Lasting{ID: id, ExpiresAt: token.ExpiresAt, Status: status})
	if err != nil {
		return "", Value{}, err
	}
	return signed.Value, Value{Digest: DigestOf(signed.Value), Suffix: suffix(signed.Value), CreatedAt: now, Status: 1 + status}, nil
}

// Get returns a token that a person may see: their own, or one of a resource that they maintain. Any other is
// ErrUnknown: whether it is there is nobody else's business.
func (s *Service) Get(ctx context.Context, who issuer.Person, id string) (Token, error) {
	token, err := s.store.Token(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return token, s.mayManage(ctx, who, token)
}

// mayManage wants the token to be the person's own, or of a resource that they maintain.
func (s *Service) mayManage(ctx context.Context, who issuer.Person, token Token) error {
	if token.Kind == Personal {
		if token.UserID != who.ID || who.ID == "" {
			return ErrUnknown
		}
		return nil
	}
	if err := s.maintains(ctx, who, token.Audience, token.Resource); errors.Is(err, ErrForbidden) {
		return ErrUnknown
	} else if err != nil {
		return err
	}
	return nil
}

// List lists a person's own tokens, or those of a resource that they maintain.
func (s *Service) List(ctx context.Context, who issuer.Person, filter Filter) ([]Token, error) {
	if filter.Resource == "" {
		filter.UserID = who.ID
	} else if err := s.maintains(ctx, who, filter.Audience, filter.Resource); err != nil {
		return nil, err
	}
	return s.store.Tokens(ctx, filter)
}

// Edit changes what a token is called; nil leaves it as it is.
func (s *Service) Edit(ctx context.Context, who issuer.Person, id string, name, description *string) (Token, error) {
	return s.update(ctx, who, id, func(token Token, _ time.Time) (Token, error) {
		if name != nil {
			token.Name = *name
		}
		if description != nil {
			token.Description = *description
		}
		return token, errors.Join(checkText("name", token.Name, maxName, true), checkText("description", token.Description, maxDescription, false))
	})
}

// Revoke ends a token for good. One that has ended already stays as it is.
func (s *Service) Revoke(ctx context.Context, who issuer.Person, id string) (Token, error) {
	return s.update(ctx, who, id, func(token Token, now time.Time) (Token, error) {
		return token.revoke(now, who.Username, ""), nil
	})
}

// RevokeAll ends all of a person's own tokens, and says which.
func (s *Service) RevokeAll(ctx context.Context, who issuer.Person) (ended []string, err error) {
	filter := Filter{UserID: who.ID, Limit: maxActive}
	for {
		page, err := s.store.Tokens(ctx, filter)
		if err != nil || len(page) == 0 {
			return ended, err
		}
		for _, token := range page {
			filter.After = token.ID
			if token.State(s.now()) != "active" {
				continue
			}
			if _, err := s.Revoke(ctx, who, token.ID); err != nil {
				return ended, err
			}
			ended = append(ended, token.ID)
		}
	}
}

// revoke ends a token; the first who does is the one that is remembered.
func (t Token) revoke(now time.Time, by, why string) Token {
	if t.RevokedAt.IsZero() {
		t.RevokedAt, t.RevokedBy, t.RevokedFor = now, by, why
	}
	return t
}

// update changes a token that a person may manage, here at once and on every other replica with the change feed.
func (s *Service) update(ctx context.Context, who issuer.Person, id string, change func(Token, time.Time) (Token, error)) (Token, error) {
	if _, err := s.Get(ctx, who, id); err != nil {
		return Token{}, err
	}
	return s.change(ctx, id, change)
}

// change changes a token, and forgets at once what this replica has in memory of it.
func (s *Service) change(ctx context.Context, id string, change func(Token, time.Time) (Token, error)) (Token, error) {
	token, err := s.store.UpdateToken(ctx, id, change)
	s.changed()
	for _, value := range token.Values { // after a failure too: it may have been done
		s.known.forget(value.Digest)
	}
	return token, err
}

// Report revokes a token whose value was found where it should not be, and tells whether it is the value of a token. Who
// has the value needs no other right: it is the token. A value that is no longer accepted does no harm to its token.
func (s *Service) Report(ctx context.Context, value, where string) (token Token, found bool, err error) {
	token, err = s.endBy(ctx, value, "a report", "its value was found at "+cut(where))
	if errors.Is(err, ErrForm) || errors.Is(err, ErrUnknown) {
		return Token{}, false, nil
	}
	return token, true, err
}

// RevokeSelf revokes the token whose value is presented (RFC 7009). One that is no token, or no longer, is no error.
func (s *Service) RevokeSelf(ctx context.Context, value string) (Token, error) {
	token, err := s.endBy(ctx, value, "its own value", "")
	if errors.Is(err, ErrForm) || errors.Is(err, ErrUnknown) {
		return Token{}, nil
	}
	return token, err
}

// endBy revokes the token of a value that is accepted; of another one nothing is returned.
func (s *Service) endBy(ctx context.Context, value, by, why string) (Token, error) {
	if !mayBe(value) {
		return Token{}, ErrForm
	}
	digest := DigestOf(value)
	token, err := s.store.TokenOf(ctx, digest)
	if err != nil {
		return Token{}, err
	}
	if err := token.check(digest, netip.Addr{}, s.now()); err != nil && !errors.Is(err, ErrNetwork) {
		return Token{}, nil
	}
	return s.change(ctx, token.ID, func(token Token, now time.Time) (Token, error) { return token.revoke(now, by, why), nil })
}
