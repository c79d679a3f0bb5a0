// Package apitoken makes tokens that live long, for people's programs and for resources, and says what they are worth.
//
// It owns their form, their policy and their end: who may make one, rotate it or revoke it, and what a value that is
// presented means. It keeps no value: only its SHA-256 and its last characters. It does not own what an audience allows,
// which is the issuer's, nor whether a user's grant still lives, which is the broker's.
package apitoken

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Why a value is not accepted; all mean 401 to who presents it. An error that wraps none of them is an outage.
var (
	ErrForm     = errors.New("it is no API token: a character is missing or wrong")
	ErrUnknown  = errors.New("there is no such API token")
	ErrRevoked  = errors.New("the API token was revoked")
	ErrExpired  = errors.New("the API token has expired")
	ErrReplaced = errors.New("the API token was rotated, and its successor is to be used")
	ErrNetwork  = errors.New("the API token may not be used from this address")
)

// ErrUnavailable: the database does not answer, so that nothing is known of the token. What wraps it says why.
var ErrUnavailable = errors.New("API tokens cannot be looked up at the moment")

// ErrTooOften: the network of the caller has sent many values that are no token, and no further ones are looked up.
var ErrTooOften = errors.New("too many unknown API tokens came from this network")

// Why something is not done that was asked for.
var (
	// ErrPolicy: the audience does not allow such a token. What wraps it says why.
	ErrPolicy = errors.New("the audience does not allow this")
	// ErrInput: what was sent makes no sense. What wraps it says why.
	ErrInput = errors.New("the request is not valid")
	// ErrForbidden: the resource is not the caller's to manage.
	ErrForbidden = errors.New("only a maintainer of the resource may do this")
	// ErrFull: the owner has as many as one may have.
	ErrFull = errors.New("there are as many tokens as there may be; revoke one first")
	// ErrRotations: a token has as many values that are still accepted as one may have.
	ErrRotations = errors.New("the token was rotated too often; make another one")
)

// Kind says what a token belongs to.
type Kind string

// The kinds.
const (
	Personal Kind = "personal" // acts for its user, never beyond what they may do now
	Resource Kind = "resource" // belongs to a resource, and lives on when its maker leaves
)

// prefix begins the values of a kind: two, so that a scanner, and a person, tells whose a token is that was found.
func (k Kind) prefix() string {
	if k == Resource {
		return prefixResource
	}
	return prefixPersonal
}

// Format is what a value looks like.
type Format string

// The formats.
const (
	Opaque Format = "opaque" // one word, which a service asks wts about
	JWT    Format = "jwt"    // signed, with a status list: a service verifies it by itself
)

// Token is an API token, without a value.
type Token struct {
	ID     string
	Kind   Kind
	Format Format
	// UserID is whose it is; of a resource's token, who made it.
	UserID             string
	Audience, Resource string
	Name, Description  string
	Scopes             []string
	// Networks from which it may be used; none for all.
	Networks  []netip.Prefix
	CreatedAt time.Time
	// Zero times: it has no end, was not revoked, was not used.
	ExpiresAt, RevokedAt, LastUsedAt time.Time
	// RevokedBy is a username, or what else did it; RevokedFor says why, in our own words.
	RevokedBy, RevokedFor string
	LastUsedFrom          string
	// Values are the one that counts, and those that it has taken the place of, the newest first.
	Values []Value
}

// Value is one value of a token.
type Value struct {
	Digest    Digest
	Suffix    string
	CreatedAt time.Time
	// Status is 1 and the value's number in the status lists; 0 for one that is in none.
	Status int64
	// Until is when a value stops being accepted that was rotated; zero for the one that counts.
	Until time.Time
}

// State is where in its life a token stands.
func (t *Token) State(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return "expired"
	}
	return "active"
}

// Hint is what a person recognises a token by: its beginning and its end.
func (t *Token) Hint() string {
	if len(t.Values) == 0 {
		return ""
	}
	if t.Format == JWT {
		return "…" + t.Values[0].Suffix
	}
	return t.Kind.prefix() + "…" + t.Values[0].Suffix
}

// Holds tells whether the token was given every one of these scopes.
func (t *Token) Holds(scopes ...string) bool {
	for _, scope := range scopes {
		if !slices.Contains(t.Scopes, scope) {
			return false
		}
	}
	return true
}

// check says why a value of the token is not accepted now, from an address.
func (t *Token) check(digest Digest, from netip.Addr, now time.Time) error {
	switch t.State(now) {
	case "revoked":
		return ErrRevoked
	case "expired":
		return ErrExpired
	}
	i := slices.IndexFunc(t.Values, func(value Value) bool { return value.Digest == digest })
	switch {
	case i < 0:
		return ErrUnknown
	case !t.Values[i].Until.IsZero() && !now.Before(t.Values[i].Until):
		return ErrReplaced
	case len(t.Networks) > 0 && !slices.ContainsFunc(t.Networks, func(network netip.Prefix) bool { return network.Contains(from.Unmap()) }):
		return ErrNetwork
	}
	return nil
}

// Filter narrows a list of tokens. Empty fields match all.
type Filter struct {
	UserID             string // of personal tokens
	Audience, Resource string // of a resource's
	// UnusedSince are tokens that were not used since then.
	UnusedSince time.Time
	// After is the id of the last one of the page before.
	After string
	Limit int
}

// Most is how many active tokens an owner may have: in all, and of the audience and the format of the one that is made; 0
// bounds nothing.
type Most struct{ All, Alike int }

// Store keeps tokens. Each method is one transaction. Its errors are ErrUnknown, those of a function that it was given,
// and ErrUnavailable.
type Store interface {
	// CreateToken stores a token with its first value, unless its owner has as many that are active as they may: ErrFull.
	CreateToken(ctx context.Context, token Token, most Most) error
	Token(ctx context.Context, id string) (Token, error)
	// TokenOf reads the token of a value.
	TokenOf(ctx context.Context, digest Digest) (Token, error)
	// Tokens lists tokens by the time they were made, the newest first.
	Tokens(ctx context.Context, filter Filter) ([]Token, error)
	// UpdateToken hands a token and the database's time to a function, stores what comes back, and tells every replica.
	// Values that the function leaves out are deleted.
	UpdateToken(ctx context.Context, id string, update func(token Token, now time.Time) (Token, error)) (Token, error)
}

// Uses notes when tokens are used.
type Uses interface {
	// Used notes a use, unless one was noted less than a pause before.
	Used(ctx context.Context, id string, at time.Time, from string, pause time.Duration) error
}

// Maintainer is one who manages the tokens of a resource.
type Maintainer struct {
	Username string
	// UserID is empty while no user has logged in by that name.
	UserID string
}

// ResourceInfo is a thing inside an audience that has maintainers of its own.
type ResourceInfo struct {
	Audience, ID, Name string
	Maintainers        []Maintainer
	UpdatedAt          time.Time
}

// Resources keeps resources and who maintains them.
type Resources interface {
	// Resource reads one; ErrUnknown where there is none.
	Resource(ctx context.Context, audience, id string) (ResourceInfo, error)
	// PutResource makes or replaces one. A maintainer who stays keeps the user that the name was bound to.
	PutResource(ctx context.Context, resource ResourceInfo) error
	// EditResource hands a resource to a function and stores what comes back, as PutResource does.
	EditResource(ctx context.Context, audience, id string, edit func(ResourceInfo) (ResourceInfo, error)) (ResourceInfo, error)
	// ResourcesOf are those that a user maintains; with an empty user, those that nobody who can log in does.
	ResourcesOf(ctx context.Context, userID string) ([]ResourceInfo, error)
}
