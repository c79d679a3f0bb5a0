package issuer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrRotating says that a successor is named already and has yet to take over.
var ErrRotating = errors.New("a rotation is under way: the next key has not begun to sign")

// ErrManyKeys says that as many keys are published as verifiers read.
var ErrManyKeys = errors.New("as many keys are published as verifiers read: wait until the tokens of the oldest have expired")

// settle is what is added to the JWKS max-age before a new key signs: the time within which every
// replica has heard of it and publishes it (the change feed polls every 2 s).
const settle = 3 * time.Second

// overlap is how long a retired key is published beyond its last token: the verifiers' clocks.
const overlap = 2 * time.Minute

// Reload reads the keys into memory. Replicas call it when the change feed says so. Of two that run at once, the one
// that began to read first does not undo the other: it may have read before a key was made.
func (i *signing) Reload(ctx context.Context) error {
	turn := i.reads.Add(1)
	keys, _, err := i.store.SigningKeys(ctx)
	if err != nil {
		return fmt.Errorf("reading the signing keys: %w", err)
	}
	state, err := newKeyState(keys)
	if err != nil {
		return err
	}
	own, err := i.store.AudienceKeys(ctx)
	if err != nil {
		return fmt.Errorf("reading the keys of audiences: %w", err)
	}
	state.own = map[string][]AudienceKey{}
	for _, key := range own {
		state.own[key.Audience] = append(state.own[key.Audience], key)
	}
	i.reading.Lock()
	defer i.reading.Unlock()
	if turn > i.read {
		i.read = turn
		i.state.Store(state)
	}
	return nil
}

// Maintain makes the first key, and that of each audience with a public key of its own, names a successor for one that
// is old, and removes those that are gone. Any replica may call it at any time.
func (i *Issuer) Maintain(ctx context.Context) error {
	err := i.update(ctx, func(c *change) error {
		c.keys = slices.DeleteFunc(c.keys, func(key Key) bool { return key.gone(c.now) })
		var err error
		for _, algorithm := range i.algorithms() {
			err = errors.Join(err, i.maintain(c, algorithm))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("maintaining the signing keys: %w", err)
	}
	if err := i.Reload(ctx); err != nil {
		return err
	}
	return i.makeFirst(ctx)
}

// maintain names a successor where one is due, in the transaction that holds the keys: two replicas that find the same
// age name one.
func (i *Issuer) maintain(c *change, algorithm string) error {
	life := i.maxLifetime(algorithm)
	newest := -1
	for i := range c.keys {
		if c.keys[i].Algorithm != algorithm {
			continue
		}
		c.keys[i].TokenLife = max(c.keys[i].TokenLife, life)
		if newest < 0 || c.keys[i].ActivatesAt.After(c.keys[newest].ActivatesAt) {
			newest = i
		}
	}
	switch {
	case newest < 0:
		return i.succeed(c, algorithm)
	case c.keys[newest].Private == nil:
		// This replica's keyring does not open the key. It may be the replica that is wrong, so it
		// does not push its own key upon the others: an operator decides (`wts keys rotate`).
		return nil
	case c.now.Sub(c.keys[newest].ActivatesAt) >= i.config.RotateEvery:
		return i.succeed(c, algorithm)
	}
	return nil
}

// Rotate names a successor for the active key of every algorithm, and returns the time from which
// the new keys sign. It is ErrRotating while an earlier successor waits.
func (i *Issuer) Rotate(ctx context.Context) (time.Time, error) {
	var from time.Time
	err := i.update(ctx, func(c *change) error {
		if slices.ContainsFunc(c.keys, func(key Key) bool { return StateOf(key, c.keys, c.now) == Next && key.Private != nil }) {
			return ErrRotating
		}
		if len(c.keys) >= 2*maxPublished {
			return ErrManyKeys
		}
		from = c.from
		var err error
		for _, algorithm := range i.algorithms() {
			err = errors.Join(err, i.succeed(c, algorithm))
		}
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("rotating the signing keys: %w", err)
	}
	return from, i.Reload(ctx)
}

// change is what is done to the keys in one transaction of the store.
type change struct {
	keys []Key
	now  time.Time // the database's
	from time.Time // when a key that is added begins to sign
	// prepared are private keys, one for an algorithm; added are the keys that were made of them.
	prepared map[string]crypto.Signer
	missing  []string // algorithms without one
	added    []Key
}

// errUnprepared says that a change needs private keys which nobody has made yet.
var errUnprepared = errors.New("a private key is missing")

// update applies a change to the keys. Private keys are made outside the store's transaction: an RSA key takes
// seconds on a slow machine, and others wait for the lock. A change that lacks one is begun again with it.
func (i *Issuer) update(ctx context.Context, apply func(*change) error) error {
	prepared := map[string]crypto.Signer{}
	for {
		c := change{prepared: prepared}
		err := i.store.UpdateSigningKeys(ctx, func(keys []Key, now time.Time) ([]Key, error) {
			c = change{keys: keys, now: now, from: now, prepared: prepared}
			// Where there is no key at all, no service can hold an older key set. Else each that holds one has to read
			// the new one before a new key signs.
			if len(keys) > 0 {
				c.from = now.Add(i.config.JWKSMaxAge + settle)
			}
			err := apply(&c)
			return c.keys, err
		})
		if !errors.Is(err, errUnprepared) {
			for _, key := range c.added {
				if err == nil && i.added != nil {
					i.added(key)
				}
			}
			return err
		}
		for _, algorithm := range c.missing {
			if prepared[algorithm], err = generate(algorithm); err != nil {
				return fmt.Errorf("generating a key for %s: %w", algorithm, err)
			}
		}
	}
}

// succeed adds the next key of an algorithm and says when the present ones leave: once the last token that they
// can have signed has expired.
func (i *Issuer) succeed(c *change, algorithm string) error {
	private := c.prepared[algorithm]
	if private == nil {
		c.missing = append(c.missing, algorithm)
		return errUnprepared
	}
	for i := range c.keys {
		if c.keys[i].Algorithm == algorithm && c.keys[i].LeavesAt.IsZero() {
			c.keys[i].LeavesAt = c.from.Add(c.keys[i].TokenLife + overlap)
		}
	}
	next, err := newKey(algorithm, private, c.now, c.from, i.maxLifetime(algorithm))
	if err != nil {
		return err
	}
	c.keys, c.added = append(c.keys, next), append(c.added, next)
	return nil
}

// Keys returns every key, newest first, and the database's time.
func (i *Issuer) Keys(ctx context.Context) ([]Key, time.Time, error) {
	keys, now, err := i.store.SigningKeys(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the signing keys: %w", err)
	}
	keys = byAge(keys)
	for at := range keys {
		keys[at].RotatesAt = keys[at].ActivatesAt.Add(i.config.RotateEvery)
	}
	return keys, now, nil
}

// keyState is what Mint and KeySet read; it is replaced whole.
type keyState struct {
	signers []signer // newest first
	keySet  []byte
	etag    string
	sealed  int                      // keys whose private half does not open
	own     map[string][]AudienceKey // by audience
	public  map[string]Key           // by id, as Read verifies with them
}

// newKeyState renders what is asked for at every request: the key set, and the signers with the newest first.
func newKeyState(keys []Key) (*keyState, error) {
	keys = byAge(keys)
	body, etag, err := renderKeySet(keys)
	if err != nil {
		return nil, err
	}
	state := &keyState{keySet: body, etag: etag, public: map[string]Key{}}
	for _, key := range keys {
		state.public[key.ID] = key
		if key.Private == nil {
			state.sealed++
			continue
		}
		state.signers = append(state.signers, newSigner(key))
	}
	return state, nil
}

// KeySet is the JWKS document (RFC 7517 5), its ETag, and how long it may be kept.
func (i *signing) KeySet() (body []byte, etag string, maxAge time.Duration, err error) {
	state := i.state.Load()
	if state == nil {
		return nil, "", 0, ErrNoKey
	}
	return state.keySet, state.etag, i.config.JWKSMaxAge, nil
}

// Sealed is how many keys are published whose private half the keyring does not open.
func (i *signing) Sealed() int {
	if state := i.state.Load(); state != nil {
		return state.sealed
	}
	return 0
}
