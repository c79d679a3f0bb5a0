package apitoken

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

const (
	// maxActive is how many tokens of one owner, a user or a resource, may be active.
	maxActive = 100
	// defaultOverlap and maxOverlap are how long both values of a rotated token work.
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 30 * 24 * time.Hour

	maxName, maxDescription, maxNetworks = 100, 1000, 32 // the first two in bytes
)

// Audiences is what the issuer says of audiences.
type Audiences interface {
	// APITokens is what may be made for an audience; false where it is not registered.
	APITokens(audience string) (issuer.APITokens, bool)
	// Allow judges whether a user may have tokens for an audience with these scopes now.
	Allow(audience string, who issuer.Person, scopes []string) error
}

// Service makes tokens and says what they are worth. It is safe for concurrent use.
type Service struct {
	*checker
	*owners
	*lists
	audiences Audiences
	notices   Notices
	webhook   WebhookConfig
	now       func() time.Time
}

// Parts are what a Service is made of.
type Parts struct {
	Store     Store
	Uses      Uses
	Resources Resources
	Statuses  Statuses
	Audiences Audiences
	Signer    Signer
	Notices   Notices
	Webhook   WebhookConfig
	Admins    []string // usernames
	Now       func() time.Time
}

// New makes a service of its parts.
func New(parts Parts) *Service {
	return &Service{
		checker:   &checker{store: parts.Store, uses: parts.Uses, known: newKnown(), now: parts.Now, background: func(task func()) { go task() }},
		lists:     &lists{statuses: parts.Statuses, signer: parts.Signer, now: parts.Now},
		owners:    &owners{resources: parts.Resources, admins: parts.Admins},
		audiences: parts.Audiences, notices: parts.Notices, webhook: parts.Webhook, now: parts.Now,
	}
}

// Forget drops what is remembered of a value, which has changed on some replica. The change feed calls it, on every one.
func (s *Service) Forget(digest Digest) {
	s.known.forget(digest)
	s.changed()
}

// ForgetAll drops everything. It is for when changes may have been missed.
func (s *Service) ForgetAll() {
	s.known.forgetAll()
	s.changed()
}

// Every change of a token goes through one function of the store, under a lock on its row, and is told to every replica
// in the same transaction: what was revoked on one is refused by all, and of two changes at once none is lost.

// Wanted is what a token is made of.
type Wanted struct {
	Audience, Resource string // a resource makes it the resource's
	Format             Format // Opaque where it is empty
	Name, Description  string
	Scopes             []string
	Networks           []string
	// Lifetime is how long it lives; 0 is the audience's default. Endless gives it no end.
	Lifetime time.Duration
	Endless  bool
}

// Create makes a token for a person, and returns its value: the only time that it can be seen. The errors are
// ErrInput, ErrPolicy, ErrForbidden, ErrFull, and those of issuer.Mint.
func (s *Service) Create(ctx context.Context, who issuer.Person, wanted Wanted) (token Token, value string, err error) {
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
	if err := s.store.CreateToken(ctx, token, maxActive); err != nil {
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
	request := issuer.Request{
		Audience: token.Audience, Resource: token.Resource, Scopes: token.Scopes, Person: who, ClientID: "api_token", Actor: issuer.Actor{Subject: "token " + token.ID},
	}
	if token.Kind == Resource {
		request.Person = issuer.Person{ID: "resource:" + token.Resource}
	}
	signed, err := s.signer.MintLasting(request, issuer.Lasting{ID: rand.Text(), ExpiresAt: token.ExpiresAt, Status: status})
	if err != nil {
		return "", Value{}, err
	}
	return signed.Value, Value{Digest: DigestOf(signed.Value), Suffix: suffix(signed.Value), CreatedAt: now, Status: 1 + status}, nil
}

// draft judges what is asked for.
func (s *Service) draft(who issuer.Person, wanted Wanted) (Token, error) {
	policy, registered := s.audiences.APITokens(wanted.Audience)
	kind := Personal
	if wanted.Resource != "" {
		kind = Resource
	}
	networks, err := parseNetworks(wanted.Networks)
	switch {
	case !registered:
		return Token{}, issuer.ErrAudience
	case kind == Personal && !policy.Personal:
		return Token{}, fmt.Errorf("%w: no personal tokens may be made for it", ErrPolicy)
	case kind == Resource && !policy.Resource:
		return Token{}, fmt.Errorf("%w: no tokens of resources may be made for it", ErrPolicy)
	case wanted.Format == JWT && !policy.JWT:
		return Token{}, fmt.Errorf("%w: no tokens that are JWTs may be made for it", ErrPolicy)
	case wanted.Format != "" && wanted.Format != Opaque && wanted.Format != JWT:
		return Token{}, fmt.Errorf("%w: format has to be opaque or jwt", ErrInput)
	case err != nil:
		return Token{}, err
	case wanted.Format == JWT && len(networks) > 0:
		return Token{}, fmt.Errorf("%w: a JWT cannot be held to networks: who verifies it by itself does not ask", ErrPolicy)
	}
	if err := checkText("name", wanted.Name, maxName, true); err != nil {
		return Token{}, err
	}
	if err := checkText("description", wanted.Description, maxDescription, false); err != nil {
		return Token{}, err
	}
	if err := s.audiences.Allow(wanted.Audience, who, wanted.Scopes); err != nil {
		return Token{}, err
	}
	now := s.now()
	expires, err := expiry(kind, policy, wanted, now)
	if err != nil {
		return Token{}, err
	}
	scopes := slices.Clone(wanted.Scopes)
	slices.Sort(scopes)
	return Token{
		ID: rand.Text(), Kind: kind, Format: cmp.Or(wanted.Format, Opaque), UserID: who.ID, Audience: wanted.Audience, Resource: wanted.Resource, Name: wanted.Name,
		Description: wanted.Description, Scopes: slices.Compact(scopes), Networks: networks, CreatedAt: now, ExpiresAt: expires,
	}, nil
}

// expiry is when a token ends that is made now.
func expiry(kind Kind, policy issuer.APITokens, wanted Wanted, now time.Time) (time.Time, error) {
	life := wanted.Lifetime
	if life == 0 {
		life = policy.DefaultLifetime
	}
	switch {
	case wanted.Endless && (kind != Resource || !policy.Endless || wanted.Format == JWT):
		return time.Time{}, fmt.Errorf("%w: a token has to have an end, at most %d days from now", ErrPolicy, policy.MaxLifetime/(24*time.Hour))
	case wanted.Endless:
		return time.Time{}, nil
	case life < time.Minute:
		return time.Time{}, fmt.Errorf("%w: a token lives for at least a minute", ErrInput)
	case life > policy.MaxLifetime:
		return time.Time{}, fmt.Errorf("%w: a token lives for at most %s", ErrPolicy, policy.MaxLifetime)
	}
	return now.Add(life), nil
}

// checkText wants what a person can read: nothing that looks like nothing, or like something else.
func checkText(field, text string, most int, needed bool) error {
	hidden := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	switch {
	case needed && strings.TrimSpace(text) == "":
		return fmt.Errorf("%w: %s is missing", ErrInput, field)
	case len(text) > most:
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrInput, field, most)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, hidden):
		return fmt.Errorf("%w: %s has a character that cannot be seen", ErrInput, field)
	}
	return nil
}

// parseNetworks reads networks in CIDR form, or single addresses.
func parseNetworks(texts []string) (networks []netip.Prefix, err error) {
	if len(texts) > maxNetworks {
		return nil, fmt.Errorf("%w: more than %d networks", ErrInput, maxNetworks)
	}
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if address, single := netip.ParseAddr(text); single == nil && address.Zone() == "" {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: networks: %q is no network like 192.0.2.0/24", ErrInput, cut(text))
		}
		if network.Addr().Is4In6() {
			network = netip.PrefixFrom(network.Addr().Unmap(), max(network.Bits()-96, 0))
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

func cut(text string) string { return text[:min(len(text), 64)] }

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

// RevokeAll ends all of a person's own tokens, and says how many.
func (s *Service) RevokeAll(ctx context.Context, who issuer.Person) (count int, err error) {
	filter := Filter{UserID: who.ID, Limit: maxActive}
	for {
		page, err := s.store.Tokens(ctx, filter)
		if err != nil || len(page) == 0 {
			return count, err
		}
		for _, token := range page {
			filter.After = token.ID
			if token.State(s.now()) != "active" {
				continue
			}
			if _, err := s.Revoke(ctx, who, token.ID); err != nil {
				return count, err
			}
			count++
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

// Rotate gives a token another value; the present one goes on for the overlap (a day unless it is said; 0 ends it now).
func (s *Service) Rotate(ctx context.Context, who issuer.Person, id string, overlap *time.Duration) (token Token, value string, err error) {
	token, err = s.Get(ctx, who, id)
	if err != nil {
		return Token{}, "", err
	}
	return s.rotate(ctx, token, who, nil, overlap)
}

// RotateSelf rotates the token whose value is presented. A value that has a successor is nobody's to rotate any more:
// whoever presents it has a copy, and the token is revoked (rule B8).
func (s *Service) RotateSelf(ctx context.Context, presented string, from netip.Addr, overlap *time.Duration) (token Token, value string, err error) {
	token, err = s.Check(ctx, presented, from)
	if err != nil && !errors.Is(err, ErrReplaced) {
		return Token{}, "", err
	}
	digest := DigestOf(presented)
	return s.rotate(ctx, token, issuer.Person{ID: token.UserID}, &digest, overlap)
}

// rotate gives a token another value, for a person, or for who presents a value. Nobody but the newest value may: of
// two programs that have the same token one is a thief, and neither knows which.
func (s *Service) rotate(ctx context.Context, token Token, who issuer.Person, presented *Digest, overlap *time.Duration) (_ Token, value string, err error) {
	pause := defaultOverlap
	if overlap != nil {
		pause = *overlap
	}
	if pause < 0 || pause > maxOverlap {
		return Token{}, "", fmt.Errorf("%w: the overlap is 0 to %d seconds", ErrInput, int64(maxOverlap/time.Second))
	}
	value, made, err := s.value(ctx, token, who, s.now()) // outside the transaction, which it may not be needed in
	if err != nil {
		return Token{}, "", err
	}
	reused := false
	token, err = s.change(ctx, token.ID, func(token Token, now time.Time) (Token, error) {
		switch token.State(now) {
		case "revoked":
			return token, ErrRevoked
		case "expired":
			return token, ErrExpired
		}
		if reused = presented != nil && token.Values[0].Digest != *presented; reused {
			return token.revoke(now, "wts", "a value that had a successor was presented to rotate it"), nil
		}
		token.Values[0].Until = now.Add(pause)
		made.CreatedAt = now
		token.Values = slices.Insert(token.Values, 0, made)
		return token, nil
	})
	switch {
	case err != nil:
		return Token{}, "", err
	case reused:
		return token, "", ErrReplaced
	}
	return token, value, nil
}

// Report revokes a token whose value somebody found where it should not be, and tells whether there was such a one that
// was active. Who has the value needs no other right: it is the token.
func (s *Service) Report(ctx context.Context, value, where string) (Token, bool, error) {
	if !mayBe(value) {
		return Token{}, false, nil
	}
	token, err := s.store.TokenOf(ctx, DigestOf(value))
	if errors.Is(err, ErrUnknown) {
		return Token{}, false, nil
	}
	if err != nil {
		return Token{}, false, err
	}
	active := token.State(s.now()) == "active"
	token, err = s.change(ctx, token.ID, func(token Token, now time.Time) (Token, error) {
		return token.revoke(now, "a report", "its value was found at "+cut(where)), nil
	})
	return token, active, err
}
