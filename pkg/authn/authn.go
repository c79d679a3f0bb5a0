// Package authn finds out who is calling, and by which proof.
//
// It owns the order of the proofs and the rules of each. It does not own what a caller may do: a
// route names the proofs that it accepts, and what the caller's grant is worth is the broker's.
package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

var (
	// ErrNoProof: nothing in the request says who is calling.
	ErrNoProof = errors.New("nothing says who is calling")
	// ErrBearer: a bearer token was sent, and it is not good. What wraps it says why.
	ErrBearer = errors.New("the bearer token is not accepted")
	// ErrDisabled: the user was shut out by an operator.
	ErrDisabled = errors.New("the user is disabled")
	// ErrUnavailable: who is calling cannot be told now; an outage, never a refusal.
	ErrUnavailable = errors.New("who is calling cannot be told at the moment")
	// ErrUnknown: a Directory or a SessionStore holds no such thing.
	ErrUnknown = errors.New("unknown")
)

// Proof is how a caller showed who they are.
type Proof string

// The proofs, in the order in which they are tried.
const (
	ServiceAccount Proof = "service_account"
	Bearer         Proof = "bearer"
	APIToken       Proof = "api_token"
	Login          Proof = "login" // of a program that a person let act for them
	Session        Proof = "session"
	PodAddress     Proof = "pod"
)

// User is a person. ID is ours and never reused; it is empty for somebody who is named by a proof
// but has never logged in.
type User struct {
	ID       string
	Username string
	Disabled bool
}

// Caller is who makes a request.
type Caller struct {
	User  User
	Proof Proof
	// Actor is what the proof was, for the audit: an address, a session's or a token's id.
	Actor string
	// Since is when the person of a session, or of a program's login, logged in; zero for any other proof.
	Since time.Time
	// Scopes are those of an API token or a program's; nil for any other proof, which is not narrowed by scopes.
	Scopes []string
	// ExpiresAt is when an API token ends; zero for one without an end, and for any other proof.
	ExpiresAt time.Time
}

// Accepts says which proofs count for a route.
type Accepts struct {
	ServiceAccount, Bearer, APIToken, Login, Session, Pod bool
	// PassOverBearer ignores an Authorization header: what a provider's bearer may not do (an
	// upstream token of the default provider) it must not hinder either (Gen3 contract 1.2).
	PassOverBearer bool
}

// Config is the authenticator, as the operator writes it.
type Config struct {
	// Bearer says which access tokens of the default provider are accepted.
	Bearer BearerConfig `config:"bearer"`
	// TrustedProxies are the networks whose X-Forwarded-For is believed. A request that comes
	// through one is never taken for a worker's. None unless told otherwise.
	TrustedProxies []string `config:"trusted_proxies"`
	// Session bounds a browser's session: by its idle time (default 12 hours) and altogether
	// (default 7 days).
	Session SessionConfig `config:"session"`
	// Workers maps peer addresses to user names.
	Workers map[string]string `config:"-"`
}

// BearerConfig is off while Audiences is empty: without an audience to check, any client of the
// same provider could pose as its users. Gen3's Fence is the exception, whose tokens are always taken
// as its own services take them (Gen3 contract 1.3).
type BearerConfig struct {
	Audiences []string `config:"audiences"`
}

// SessionConfig bounds sessions in time.
type SessionConfig struct {
	Idle     time.Duration `config:"idle"`
	Absolute time.Duration `config:"absolute"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults() Config {
	if c.Session.Idle == 0 {
		c.Session.Idle = 12 * time.Hour
	}
	if c.Session.Absolute == 0 {
		c.Session.Absolute = 7 * 24 * time.Hour
	}
	return c
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	for i, text := range c.TrustedProxies {
		if _, err := parseNetwork(text); err != nil {
			faults = append(faults, fmt.Errorf("trusted_proxies[%d]: %w", i, err))
		}
	}
	for text, name := range c.Workers {
		if _, err := netip.ParseAddr(text); err != nil {
			faults = append(faults, fmt.Errorf("workers: %q is not an address", text))
		}
		if name == "" {
			faults = append(faults, fmt.Errorf("workers: %s has an empty user name", text))
		}
	}
	if c.Session.Idle < 0 || c.Session.Absolute < 0 {
		faults = append(faults, errors.New("session: idle and absolute must not be negative"))
	}
	return errors.Join(faults...)
}

// Directory finds people. Its error is ErrUnknown where there is no such person.
type Directory interface {
	UserByID(ctx context.Context, id string) (User, error)
	UserByName(ctx context.Context, username string) (User, error)
	// UserBySubject finds whom a verified identity means. The username is what the identity is called
	// today: it finds somebody of whom only the name is known, as Gen3's table knows people.
	UserBySubject(ctx context.Context, issuer, subject, username string) (User, error)
}

// Account is a user as an operator may see them.
type Account struct {
	ID, Username, Issuer, Subject string
	Groups                        []string
	// Zero times: they are not disabled, were not set aside, have no session.
	CreatedAt, DisabledAt, SetAsideAt, SeenAt time.Time
	// Connections that are good or in doubt, and API tokens and sessions that have not ended.
	Connections, Tokens, Sessions int
	// Providers are those of the connections, by their ids.
	Providers []string
}

// Authenticator tells who is calling. It is safe for concurrent use.
type Authenticator struct {
	config   Config
	trusted  []netip.Prefix
	people   *people
	sessions *Sessions
	own      string // our own issuer: its tokens are never accepted here

	pods            Pods            // nil where no address proves anything
	bearers         *Bearers        // nil while bearers are off
	serviceAccounts ServiceAccounts // nil while they are off
	apiTokens       APITokens       // nil while they are off
	minted          *verifier.Verifier
}

// Parts are what an Authenticator is made of.
type Parts struct {
	Config    Config
	Directory Directory
	Sessions  *Sessions
	OwnIssuer string
	// Minted verifies tokens that this service minted.
	Minted *verifier.Verifier
	// These may be nil: then the proof is off.
	Pods            Pods
	Bearers         *Bearers
	ServiceAccounts ServiceAccounts
	APITokens       APITokens
}

// New makes an authenticator of a valid configuration.
func New(parts Parts) *Authenticator {
	config := parts.Config.WithDefaults()
	a := &Authenticator{
		config: config, people: newPeople(parts.Directory), sessions: parts.Sessions, own: parts.OwnIssuer,
		pods: parts.Pods, bearers: parts.Bearers, serviceAccounts: parts.ServiceAccounts, apiTokens: parts.APITokens, minted: parts.Minted,
	}
	for _, text := range config.TrustedProxies {
		if network, err := parseNetwork(text); err == nil {
			a.trusted = append(a.trusted, network)
		}
	}
	return a
}

// Authenticate goes through the proofs, strongest first; the first that is there decides, good or
// bad. A proof that a route does not accept is passed over, as if it were not there.
func (a *Authenticator) Authenticate(r *http.Request, peer Peer, accepts Accepts) (Caller, error) {
	// 1. A token in the Authorization header, which says of itself whether it is a service account's, one of ours that
	// lives long, or the default provider's: one that is sent and not good is refused, never replaced by a weaker proof.
	bearer := r.Header.Get("Authorization") != ""
	if bearer {
		if caller, used, err := a.authorization(r, peer, accepts); used {
			return caller, err
		}
	}
	// 2. A session of a browser. Where a bearer is passed over, the session may be somebody else's, left
	// behind in the same browser.
	if accepts.Session && (!bearer || !accepts.PassOverBearer) {
		if caller, err := a.session(r); !errors.Is(err, ErrNoProof) {
			return caller, err
		}
	}
	// 3. The pod at the peer's address.
	if accepts.Pod && !peer.Proxied && !fromBrowser(r) {
		return a.atAddress(r.Context(), peer.Addr)
	}
	return Caller{}, ErrNoProof
}

// allowed is the last gate of every proof.
func allowed(caller Caller) (Caller, error) {
	if caller.User.Disabled {
		return caller, ErrDisabled
	}
	return caller, nil
}

// outage marks a failure that says nothing of the caller.
func outage(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }
