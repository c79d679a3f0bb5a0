// Package broker keeps users' connections and trades them for access tokens.
//
// It owns the login at a provider from its first redirect to the stored grant, the cache of access
// tokens, and the refresh: which token is presented, when, and what an answer means for the
// connection. It does not own who is calling, nor the wire to a provider.
package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

var (
	// ErrProvider: no such provider is configured.
	ErrProvider = errors.New("the provider is not configured")
	// ErrNotConnected: the user has no grant there.
	ErrNotConnected = errors.New("the user is not connected with the provider")
	// ErrGrantExpired: the grant has run out; a login mends it.
	ErrGrantExpired = errors.New("the grant has expired")
	// ErrGrantBroken: the provider revoked the grant, or it cannot be read; a login mends it.
	ErrGrantBroken = errors.New("the grant is no longer good")
	// ErrUnavailable: a provider or the database cannot be reached; time mends it.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrSuperseded: a store found another token than the one presented; whoever gets it reads again.
	ErrSuperseded = errors.New("another token was stored meanwhile")
)

// Unavailable is an outage with a time after which to try again. It is ErrUnavailable.
type Unavailable struct {
	RetryAfter time.Duration
	Cause      error
}

func (u *Unavailable) Error() string { return fmt.Sprintf("%v: %v", ErrUnavailable, u.Cause) }

// Unwrap gives ErrUnavailable, and the cause.
func (u *Unavailable) Unwrap() []error { return []error{ErrUnavailable, u.Cause} }

// Phase is where in its life a connection stands (refresh-engine.md).
type Phase string

// The phases.
const (
	Ready        Phase = "ready"
	Refreshing   Phase = "refreshing" // a flight has it
	Suspect      Phase = "suspect"    // the outcome of a presentation is not known
	Broken       Phase = "broken"
	Disconnected Phase = "disconnected"
)

// Connection is one user's grant at one provider.
type Connection struct {
	UserID, Provider string
	Subject          string // who the user is there
	Phase            Phase
	Reason           string      // why it is broken, in our own words
	Version          int64       // grows with every change, over disconnects and logins too
	RefreshToken     secret.Text // empty where the provider gives none: the access token is the grant
	AccessToken      secret.Text
	// Zero times are unknown.
	AccessIssuedAt, AccessExpiresAt, RefreshExpiresAt time.Time
	ConnectedAt                                       time.Time
	Rotates                                           Rotation
	// Unreadable says that the keyring at hand does not open the tokens. The row is kept: the right
	// keyring reads it.
	Unreadable bool
}

// ends is when the grant runs out; zero where that is not known. Without a refresh token the access
// token is the grant.
func (c *Connection) ends() time.Time {
	if c.RefreshToken == "" {
		return c.AccessExpiresAt
	}
	return c.RefreshExpiresAt
}

// Store keeps connections. Each method is one transaction. The same rules hold on every database;
// storetest states them.
type Store interface {
	// Connection reads a row; ErrNotConnected where there is none.
	Connection(ctx context.Context, userID, providerID string) (Connection, error)
	// Connections reads all of a user's rows, in whatever phase.
	Connections(ctx context.Context, userID string) ([]Connection, error)
	// Disconnect leaves a tombstone, from which nothing is handed out; ErrNotConnected where there
	// is nothing to disconnect.
	Disconnect(ctx context.Context, userID, providerID string) error
}

// Observer hears what the broker does. Its methods are called often and must be quick.
type Observer interface {
	Refreshed(providerID, outcome string, took time.Duration)
	GrantLost(providerID, cause string)
	// Doubted: a presentation's outcome is not known. Resolved: what became of one that an earlier flight
	// had left: kept, lost, superseded, or open still.
	Doubted(providerID string)
	Resolved(providerID, how string)
	Revoked(providerID, how string)
	// Serving is asked once for each provider; what it returns is told how much life a token had left that
	// was handed out, negative where it does not expire.
	Serving(providerID string) func(left time.Duration)
	SpoolFailed(err error)
}

// Config is the broker, as the operator writes it.
type Config struct {
	// DefaultProvider establishes who a user is.
	DefaultProvider string `koanf:"default_provider"`
	// Wait is how long a caller waits for a refresh in all. Default 15 s.
	Wait time.Duration `koanf:"-"`
	// SpoolWait is how long a replica that fell silent with a token in flight is waited for, where
	// presenting the token again could end the grant. Default 2 min.
	SpoolWait time.Duration `koanf:"spool_wait"`
	// SpoolDir is a folder for successors that the database did not take, which should outlive the process.
	// Default a folder in the temporary one.
	SpoolDir string `koanf:"spool_dir"`
}

// Broker trades connections for access tokens. It is safe for concurrent use.
type Broker struct {
	config    Config
	providers map[string]*provider.Provider
	store     Store
	logins    LoginStore
	keys      *keyring.Keyring
	observer  Observer
	now       func() time.Time

	cache     *otter.Cache[cacheKey, *held]
	flights   singleflight.Group
	forgotten atomic.Uint64 // counts what the cache was told to forget

	// The engine's.
	engine       Flights
	outbox       Outbox
	exclusive    bool // this is the only process on the database
	replica      string
	upstreams    map[string]*upstream
	lease        lease
	landings     landings
	aloft        aloft
	spool        spooler
	tasks        tasks
	databaseAway atomic.Int64 // until when, in unix nanoseconds, it is taken to be unreachable
}

// Parts are what a Broker is made of; all of them are needed.
type Parts struct {
	Config    Config
	Providers []*provider.Provider
	Store     Store
	Logins    LoginStore
	Flights   Flights
	Outbox    Outbox
	Exclusive bool // no other process uses the database
	Keys      *keyring.Keyring
	Observer  Observer
	Now       func() time.Time
}

// maxHeld bounds the access tokens in memory: about 1 kB each.
const maxHeld = 250_000

// New makes a broker. What it cannot do without is done; that there is no spool is reported and gone
// without.
func New(parts Parts) *Broker {
	parts.Config.Wait = cmp.Or(parts.Config.Wait, 15*time.Second)
	parts.Config.SpoolWait = cmp.Or(parts.Config.SpoolWait, 2*time.Minute)
	b := &Broker{
		config: parts.Config, providers: map[string]*provider.Provider{}, store: parts.Store, logins: parts.Logins,
		keys: parts.Keys, observer: parts.Observer, now: parts.Now,
		cache:  otter.Must(&otter.Options[cacheKey, *held]{MaximumSize: maxHeld}),
		engine: parts.Flights, outbox: parts.Outbox, exclusive: parts.Exclusive, replica: rand.Text(), upstreams: map[string]*upstream{},
		landings: landings{awaited: map[cacheKey]chan struct{}{}}, aloft: aloft{ids: map[string]struct{}{}},
	}
	for _, one := range parts.Providers {
		b.providers[one.ID] = one
		b.upstreams[one.ID] = newUpstream(one.ID, one, one.Config)
		b.upstreams[one.ID].served = parts.Observer.Serving(one.ID)
	}
	var err error
	if b.spool, err = newSpool(parts.Config.SpoolDir, b.replica); err != nil {
		b.observer.SpoolFailed(err)
	}
	return b
}

// Provider resolves the name that a request gives; empty, and "default", are the default provider.
func (b *Broker) Provider(name string) (id string, err error) {
	if name == "" || name == "default" {
		return b.config.DefaultProvider, nil
	}
	if _, ok := b.providers[name]; !ok {
		return "", ErrProvider
	}
	return name, nil
}

// IsDefault tells whether the provider is the one that establishes who a user is.
func (b *Broker) IsDefault(id string) bool { return id == b.config.DefaultProvider }

// NameOf is what a person calls a provider.
func (b *Broker) NameOf(id string) string { return b.providers[id].Config.Name }

// Listed is a provider as a person sees it.
type Listed struct {
	ID, Name string
	Default  bool
	// BaseURL is the commons that it belongs to, or where it is, as the operator wrote it.
	BaseURL string

	position int
}

// Providers lists the providers, the default one first.
func (b *Broker) Providers() []Listed {
	var all []Listed
	for id, one := range b.providers {
		all = append(all, Listed{
			ID: id, Name: one.Config.Name, Default: b.IsDefault(id), position: one.Config.Position,
			BaseURL: cmp.Or(one.Config.BaseURL, one.Config.Issuer, one.Config.AuthURL),
		})
	}
	slices.SortFunc(all, func(a, b Listed) int {
		switch {
		case a.Default:
			return -1
		case b.Default:
			return 1
		}
		return cmp.Or(cmp.Compare(a.position, b.position), strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return all
}

// outage marks a failure of the database.
func outage(err error) error { return &Unavailable{RetryAfter: 2 * time.Second, Cause: err} }
