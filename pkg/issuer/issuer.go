// Package issuer makes our own tokens: JWTs for one audience each, and the keys that sign them.
//
// It owns who may be an audience, what a token says, and the life of a signing key: next
// (published, not yet signing), active, retired (published until the last token it signed has
// expired), gone. It does not own who the caller is, nor whether their grant still lives: whoever
// calls Mint has made sure of both.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrAudience: no such audience is registered.
	ErrAudience = errors.New("the audience is not registered")
	// ErrAccess: the user may not have tokens for the audience, or not with such a scope.
	ErrAccess = errors.New("the user may not have such a token for the audience")
	// ErrScope: a scope was asked for that the audience does not give. Less is never given silently.
	ErrScope = errors.New("the scope is not one of the audience's")
	// ErrNoKey: no key can sign now; an outage of ours.
	ErrNoKey = errors.New("no signing key is at hand")
)

// Config is the issuer, as the operator writes it.
type Config struct {
	// URL is the issuer identifier, the service's public base URL without a slash at its end.
	URL string `config:"-"`
	// JWKSMaxAge is how long verifiers may keep the key set. A new key is published for at least
	// as long before it signs. Default 5 minutes.
	JWKSMaxAge time.Duration `config:"jwks_max_age"`
	// RotateEvery is the age at which the signing key is replaced. Default 30 days.
	RotateEvery time.Duration       `config:"rotate_every"`
	Audiences   map[string]Audience `config:"-"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults() Config {
	if c.JWKSMaxAge == 0 {
		c.JWKSMaxAge = 5 * time.Minute
	}
	if c.RotateEvery == 0 {
		c.RotateEvery = 30 * 24 * time.Hour
	}
	audiences := make(map[string]Audience, len(c.Audiences))
	for id, audience := range c.Audiences {
		audiences[id] = audience.withDefaults()
	}
	c.Audiences = audiences
	return c
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.JWKSMaxAge < 0 || c.JWKSMaxAge > 24*time.Hour {
		fault("issuer.jwks_max_age: is %s, want 1s to 24h", c.JWKSMaxAge)
	}
	if c.RotateEvery != 0 && c.RotateEvery < time.Hour {
		fault("issuer.rotate_every: is %s, want at least 1h", c.RotateEvery)
	}
	for id, audience := range c.Audiences {
		if id == "" {
			fault("audiences: one has an empty id")
		}
		faults = append(faults, audience.validate(id))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if count := c.publishedKeys(); count > maxPublished {
		fault("issuer.rotate_every: is %s, so that up to %d keys are published at once while the longest tokens are valid; want at most %d: raise it, or lower max_lifetime of the audiences",
			c.WithDefaults().RotateEvery, count, maxPublished)
	}
	return errors.Join(faults...)
}

// maxPublished bounds the keys that are published at once: verifiers bound what they read.
const maxPublished = 200

// publishedKeys is how many keys may be published at once, of all algorithms: one for each time that a key is replaced
// while the tokens of the first are valid, the first itself and the next.
func (c Config) publishedKeys() (count int64) {
	i := New(c, nil, nil)
	for _, algorithm := range i.algorithms() {
		count += int64(i.maxLifetime(algorithm)/i.config.RotateEvery) + 2
	}
	return count
}

// Store keeps the signing keys, for all replicas.
type Store interface {
	// SigningKeys returns every key and the database's time.
	SigningKeys(ctx context.Context) ([]Key, time.Time, error)
	// UpdateSigningKeys hands the keys and the database's time to a function, under a lock that all
	// replicas share, and stores what comes back: new keys are added, changed ones changed, absent
	// ones deleted.
	UpdateSigningKeys(ctx context.Context, update func(keys []Key, now time.Time) ([]Key, error)) error
	// AudienceKeys returns the keys that are one audience's own, the oldest first.
	AudienceKeys(ctx context.Context) ([]AudienceKey, error)
	// UpdateAudienceKeys is UpdateSigningKeys for them.
	UpdateAudienceKeys(ctx context.Context, update func(keys []AudienceKey, now time.Time) ([]AudienceKey, error)) error
}

// Issuer mints tokens. It is safe for concurrent use; Mint and KeySet touch memory only.
type Issuer struct {
	*signing
	*audienceKeys
}

// signing is what tokens are signed with, and read by: the keys of all audiences, and those of one alone.
type signing struct {
	registry
	config Config
	store  Store
	now    func() time.Time
	state  atomic.Pointer[keyState]
	added  func(Key) // is told of each key that this process adds

	reads   atomic.Uint64 // readings of the keys that have begun
	reading sync.Mutex    // of read, and the storing of state
	read    uint64        // which of them state is
}

// audienceKeys makes and replaces the keys that are one audience's own.
type audienceKeys struct{ *signing }

// New makes an issuer of a valid configuration. It has no keys until Reload.
func New(config Config, store Store, now func() time.Time) *Issuer {
	config = config.WithDefaults()
	keys := &signing{registry: config.Audiences, config: config, store: store, now: now}
	return &Issuer{signing: keys, audienceKeys: &audienceKeys{keys}}
}

// OnAdded has a function told of each key that this process adds, once it is stored. Set it before anything else is
// called.
func (i *Issuer) OnAdded(told func(Key)) { i.added = told }

// URL is the issuer identifier.
func (i *Issuer) URL() string { return i.config.URL }

// algorithms are those that some audience wants; ES256 always, so that a fresh service has a key.
func (i *Issuer) algorithms() []string {
	wanted := []string{ES256}
	for _, audience := range i.config.Audiences {
		if !audience.ownKeys() && !slices.Contains(wanted, audience.Algorithm) {
			wanted = append(wanted, audience.Algorithm)
		}
	}
	return wanted
}

// maxLifetime is the longest that a token signed by that algorithm may live.
func (i *Issuer) maxLifetime(algorithm string) time.Duration {
	longest := time.Hour
	for _, audience := range i.config.Audiences {
		if audience.Algorithm != algorithm || audience.ownKeys() {
			continue
		}
		longest = max(longest, audience.MaxLifetime)
		if audience.APITokens.JWT {
			longest = max(longest, audience.APITokens.MaxLifetime)
		}
	}
	return longest
}
