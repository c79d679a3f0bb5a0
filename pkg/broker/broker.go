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
	"time"

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
	Account          string // what they are called there; empty where the provider did not say it
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

// Observer hears what the broker does. Its functions are called often and must be quick; one that is nil is not
// called.
type Observer struct {
	Refreshed func(providerID, outcome string, took time.Duration)
	GrantLost func(providerID, cause string)
	// Doubted: a presentation's outcome is not known. Resolved: what became of one that an earlier flight
	// had left: kept, lost, superseded, or open still.
	Doubted  func(providerID string)
	Resolved func(providerID, how string)
	Revoked  func(providerID, how string)
	// Serving is asked once for each provider; what it returns is told how much life a token had left that
	// was handed out, negative where it does not expire.
	Serving     func(providerID string) func(left time.Duration)
	SpoolFailed func(err error)
	// Restored: a row was brought back that a failover of the database had set back, or could not be (failed);
	// FailedOver: all that was lost was offered, and the database is used again.
	Restored   func(providerID, how string)
	FailedOver func()
}

// withSilence has a function in every place.
func (o Observer) withSilence() Observer {
	silent := func(string, string) {}
	for _, one := range []*func(string, string){&o.GrantLost, &o.Resolved, &o.Revoked, &o.Restored} {
		if *one == nil {
			*one = silent
		}
	}
	if o.Refreshed == nil {
		o.Refreshed = func(string, string, time.Duration) {}
	}
	if o.Doubted == nil {
		o.Doubted = func(string) {}
	}
	if o.Serving == nil {
		o.Serving = func(string) func(time.Duration) { return func(time.Duration) {} }
	}
	if o.SpoolFailed == nil {
		o.SpoolFailed = func(error) {}
	}
	if o.FailedOver == nil {
		o.FailedOver = func() {}
	}
	return o
}

// Config is the broker, as the operator writes it.
type Config struct {
	// DefaultProvider establishes who a user is.
	DefaultProvider string `config:"default_provider"`
	// Wait is how long a caller waits for a refresh in all. Default 15 s.
	Wait time.Duration `config:"-"`
	// SpoolWait is how long a replica that fell silent with a token in flight is waited for, where
	// presenting the token again could end the grant. Default 2 min.
	SpoolWait time.Duration `config:"spool_wait"`
	// SpoolDir is a folder for successors that the database did not take, which should outlive the process.
	// Default a folder in the temporary one.
	SpoolDir string `config:"spool_dir"`
	// SpoolTag names the database in the spool's file names.
	SpoolTag string `config:"-"`
	// ClaimsMaxAge is how old what the default provider says of a user's groups may be, where it can be asked. Default
	// 5 min.
	ClaimsMaxAge time.Duration `config:"claims_max_age"`
	// RideThroughMax is how old it may be where the provider fails.
	RideThroughMax time.Duration `config:"-"`
	// FailoverWindow is how long a change that was stored is kept, to be offered again when the database
	// fails over to a standby that lacks it. Default 1 min.
	FailoverWindow time.Duration `config:"failover_window"`
}

// Broker trades connections for access tokens. It is safe for concurrent use.
type Broker struct {
	*catalog
	*claims
	*endings
	config Config
	store  Store
	logins LoginStore
	keys   *keyring.Keyring
	cache  *cache
	engine *engine
	now    func() time.Time
}

// Parts are what a Broker is made of; all of them are needed.
type Parts struct {
	Config    Config
	Providers []*provider.Provider
	Store     Store
	Logins    LoginStore
	Claims    ClaimStore
	Replicas  Replicas
	Outbox    Outbox
	Failovers Failovers
	Ended     EndedStore
	Alone     bool // no other process uses the database
	Keys      *keyring.Keyring
	Observer  Observer
	Now       func() time.Time
}

// New makes a broker. A spool that cannot be used is reported, and the broker goes on without one.
func New(parts Parts) *Broker {
	parts.Config.Wait = cmp.Or(parts.Config.Wait, 15*time.Second)
	parts.Config.SpoolWait = cmp.Or(parts.Config.SpoolWait, 2*time.Minute)
	parts.Config.ClaimsMaxAge = cmp.Or(parts.Config.ClaimsMaxAge, 5*time.Minute)
	parts.Config.FailoverWindow = cmp.Or(parts.Config.FailoverWindow, time.Minute)
	known, observer := newCache(), parts.Observer.withSilence()
	b := &Broker{
		catalog: &catalog{map[string]*provider.Provider{}, parts.Config.DefaultProvider},
		config:  parts.Config, store: parts.Store, logins: parts.Logins,
		claims: newClaims(parts.Claims), endings: newEndings(parts.Ended, parts.Now), keys: parts.Keys, now: parts.Now, cache: known,
		engine: &engine{
			config: parts.Config, replica: rand.Text(), alone: parts.Alone, store: parts.Store, replicas: parts.Replicas, outbox: parts.Outbox,
			keys: parts.Keys, digest: parts.Keys.Digest, cache: known, observer: observer, now: parts.Now, upstreams: map[string]*upstream{},
			landings: landings{awaited: map[cacheKey]chan struct{}{}}, aloft: aloft{ids: map[string]struct{}{}},
			peers: peers{seen: map[string]heard{}}, lease: lease{begun: make(chan struct{})}, failovers: parts.Failovers, kept: kept{keys: parts.Keys, rows: map[cacheKey]*keptRow{}},
		},
	}
	for _, one := range parts.Providers {
		b.providers[one.ID] = one
		up := newUpstream(one.ID, one, one.Config)
		up.served = observer.Serving(one.ID)
		b.engine.upstreams[one.ID] = up
	}
	b.engine.failover.engine, b.broker = b.engine, b
	var err error
	if b.engine.spool, err = newSpool(parts.Config.SpoolDir, parts.Config.SpoolTag, b.engine.replica); err != nil {
		observer.SpoolFailed(err)
	}
	return b
}

// Run keeps the engine. It returns when the context has ended and everything with it.
func (b *Broker) Run(ctx context.Context) { b.engine.run(ctx) }

// Drain begins no flight any more, waits until every one of this process has ended, or the context has,
// and returns how many have not.
func (b *Broker) Drain(ctx context.Context) (left int) { return b.engine.drain(ctx) }

// Landed tells those who wait for a connection's flight to read the row again. The store's feed calls it.
func (b *Broker) Landed(userID, providerID string) {
	b.engine.landings.land(cacheKey{userID, providerID})
}

// Forget drops what is held of a connection. The change feed calls it, on every replica.
func (b *Broker) Forget(userID, providerID string) {
	key := cacheKey{userID, providerID}
	b.entries.Invalidate(userID) // a login may have said others
	b.cache.forget(key)
	b.engine.landings.land(key)
}

// ForgetAll drops everything. It is for when changes may have been missed.
func (b *Broker) ForgetAll() {
	b.cache.forgetAll()
	b.entries.InvalidateAll()
}

// outage marks a failure of the database.
func outage(err error) error { return &Unavailable{RetryAfter: 2 * time.Second, Cause: err} }
