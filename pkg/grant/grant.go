// Package grant serves the OAuth grants by which a program comes to act for a person: the authorization code with PKCE
// (RFC 6749 4.1, RFC 7636), the device flow (RFC 8628), and the refresh tokens of the logins that begin so.
//
// It owns which program may ask for what, and what a code or a refresh token is worth. Who the person is, and whether
// they allow it, is found out by the edge; what an audience allows is the issuer's to say.
package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

var (
	// ErrClient: no such program is registered. Nothing is redirected to an address that it names.
	ErrClient = errors.New("no such client is registered")
	// ErrRedirect: the redirect URI is none of the client's. Nothing is redirected to it.
	ErrRedirect = errors.New("the redirect_uri is not one that is registered for the client")
	// ErrRequest: a fault of the request; what wraps it says which.
	ErrRequest = errors.New("the request is not good")
	// ErrUnauthorized: the client may not ask in this way, or not for this audience.
	ErrUnauthorized = errors.New("the client is not registered for this")
	// ErrGrant: a code or a refresh token is not good, or not any more.
	ErrGrant = errors.New("the code or the refresh token is not good, or not any more; log in again")
	// ErrPending: the person has not decided yet.
	ErrPending = errors.New("the person has not decided yet; ask again")
	// ErrDenied: the person said no.
	ErrDenied = errors.New("the person did not allow it")
	// ErrExpired: the person did not decide in time.
	ErrExpired = errors.New("the person did not decide in time; begin again")
	// ErrUnknown: a Store holds no such thing, or it is over.
	ErrUnknown = errors.New("there is no such code, or it is over")
	// ErrReplayed: a refresh token was presented that another one has followed: one of two holders is a thief.
	ErrReplayed = errors.New("the refresh token was used before, so that its login was ended; log in again")
	// ErrUnavailable: it cannot be told now; an outage, never a refusal.
	ErrUnavailable = errors.New("the grant cannot be looked up at the moment")
)

// Digest is the SHA-256 of a code or of a part of a refresh token: what the database knows of it.
type Digest [sha256.Size]byte

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// digestOf is the digest of a code that was shown.
func digestOf(text string) Digest { return sha256.Sum256([]byte(text)) }

// State is how far an authorization has come.
type State string

// The states. An authorization code begins as Allowed.
const (
	Pending State = "pending" // of a device: the person has not decided
	Allowed State = "allowed"
	Denied  State = "denied" // by its person, or taken back with all else that they end
	Spent   State = "spent"  // a token was given for it, or refused
)

// An authorization has one way through its states. A code is made Allowed, and the first who presents it makes it
// Spent, whether or not it is theirs to present. A device's begins Pending; its person makes it Allowed or Denied, once;
// the device makes it Spent. None is good after ExpiresAt, whatever its state, and rows go ten minutes later: until
// then it is known that a code was used before.

// Authorization is what a person allows a program, until the program fetches its token.
type Authorization struct {
	Digest Digest // of the code, or the device code
	// Client, Audience and Scopes are what was asked for, and judged when it was; what the person may do on the day is
	// judged again when the token is made.
	Client   string
	Audience string
	Scopes   []string
	State    State
	// RedirectURI and Challenge (RFC 7636 4.2) are those of a code; UserCode is the digest of what a device shows.
	RedirectURI, Challenge string
	UserCode               *Digest
	// UserID is who decided, and AuthenticatedAt when they logged in.
	UserID          string
	AuthenticatedAt time.Time
	// Login is the login that was begun for it, where one was.
	Login *Digest
	// Address and Agent are those of the program that asks from a device.
	Address, Agent       string
	CreatedAt, ExpiresAt time.Time
}

// Login is a program that goes on acting for a person, by refresh tokens. It stands among the person's sessions and is
// ended there.
type Login struct {
	Digest   Digest // of the part of the refresh token that stays
	Secret   Digest // of the part that is another one after each use
	UserID   string
	Client   string
	Audience string
	Scopes   []string
	// CreatedAt is when the person logged in; the login ends at EndsAt, which each use puts off.
	CreatedAt, SeenAt, EndsAt time.Time
	Address, Agent            string
}

// Store keeps authorizations. The errors are ErrUnknown where there is no such one, and ErrUnavailable.
type Store interface {
	CreateAuthorization(ctx context.Context, authorization Authorization) error
	// Authorization is read as it is.
	Authorization(ctx context.Context, digest Digest) (Authorization, error)
	// Waiting is the one of a device that shows a code and waits for its person.
	Waiting(ctx context.Context, userCode Digest) (Authorization, error)
	// Decide ends the wait, once.
	Decide(ctx context.Context, userCode Digest, state State, userID string, authenticatedAt time.Time) error
	// Spend returns an authorization as it was, and makes it Spent, with the login that begins. Of many at once one gets it
	// as it was before.
	Spend(ctx context.Context, digest Digest, login *Digest) (Authorization, error)
}

// Logins keeps programs' logins. The errors are ErrUnknown where there is no such one, and ErrUnavailable.
type Logins interface {
	// CreateLogin begins one, for the authorization that was spent for it: ErrUnknown where that was taken back since, or
	// the user was disabled. Of those of a user and client that are more than so many it ends the oldest.
	CreateLogin(ctx context.Context, login Login, most int) error
	Login(ctx context.Context, digest Digest) (Login, error)
	// RotateLogin puts a fresh secret in the place of an old one, and the end off. ErrReplayed where the secret is another.
	RotateLogin(ctx context.Context, digest, old, fresh Digest, seen, ends time.Time) error
	// EndLogin ends a login, or none.
	EndLogin(ctx context.Context, digest Digest) error
}

// People says who a user is now; see apitoken.People.
type People interface {
	Now(ctx context.Context, userID string, groups bool, unseen time.Duration) (issuer.Person, error)
}

// Audiences is what the issuer says of audiences, and its tokens.
type Audiences interface {
	Audience(id string) bool
	// Groups tells whether an audience's tokens say anything of groups, or depend on them; and whether they decide who may
	// have one.
	Groups(id string) (asked, decide bool)
	Allow(audience string, who issuer.Person, scopes []string) error
	Narrow(audience string, who *issuer.Person, scopes []string) ([]string, error)
	Mint(request issuer.Request) (issuer.Token, error)
}
