package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrRotating says that a successor is named already and has yet to take over.
var ErrRotating = errors.New("a rotation is under way: the next key has not begun to sign")

// settle is what is added to the JWKS max-age before a new key signs: the time within which every
// replica has heard of it and publishes it (the change feed polls every 2 s).
const settle = 3 * time.Second

// overlap is how long a retired key is published beyond its last token: the verifiers' clocks.
const overlap = 2 * time.Minute

// Reload reads the keys into memory. Replicas call it when the change feed says so.
func (i *Issuer) Reload(ctx context.Context) error {
	keys, _, err := i.store.SigningKeys(ctx)
	if err != nil {
		return fmt.Errorf("reading the signing keys: %w", err)
	}
	state, err := newKeyState(keys)
	if err != nil {
		return err
	}
	i.state.Store(state)
	return nil
}

// Maintain makes the first key, names a successor for one that is old, and removes those that are
// gone. Any replica may call it at any time.
func (i *Issuer) Maintain(ctx context.Context) error {
	err := i.store.UpdateSigningKeys(ctx, func(keys []Key, now time.Time) ([]Key, error) {
		// Without any key no service can hold an older key set; else one that holds such has to read the new one
		// before a key of a new algorithm signs.
		from := now
		if len(keys) > 0 {
			from = now.Add(i.config.JWKSMaxAge + settle)
		}
		keys = slices.DeleteFunc(keys, func(key Key) bool { return key.gone(now) })
		for _, algorithm := range i.algorithms() {
			var err error
			if keys, err = i.maintain(keys, algorithm, now, from); err != nil {
				return nil, err
			}
		}
		return keys, nil
	})
	if err != nil {
		return fmt.Errorf("maintaining the signing keys: %w", err)
	}
	return i.Reload(ctx)
}

func (i *Issuer) maintain(keys []Key, algorithm string, now, from time.Time) ([]Key, error) {
	life := i.maxLifetime(algorithm)
	newest := -1
	for at := range keys {
		if keys[at].Algorithm != algorithm {
			continue
		}
		keys[at].TokenLife = max(keys[at].TokenLife, life)
		if newest < 0 || keys[at].ActivatesAt.After(keys[newest].ActivatesAt) {
			newest = at
		}
	}
	switch {
	case newest < 0:
		first, err := newKey(algorithm, now, from, life)
		return append(keys, first), err
	case keys[newest].Private == nil:
		// This replica's keyring does not open the key. It may be the replica that is wrong, so it
		// does not push its own key upon the others: an operator decides (`wts keys rotate`).
		return keys, nil
	case now.Sub(keys[newest].ActivatesAt) >= i.config.RotateEvery:
		return i.succeed(keys, algorithm, now)
	}
	return keys, nil
}

// Rotate names a successor for the active key of every algorithm, and returns the time from which
// the new keys sign. It is ErrRotating while an earlier successor waits.
func (i *Issuer) Rotate(ctx context.Context) (time.Time, error) {
	var from time.Time
	err := i.store.UpdateSigningKeys(ctx, func(keys []Key, now time.Time) ([]Key, error) {
		if slices.ContainsFunc(keys, func(key Key) bool { return StateOf(key, keys, now) == Next && key.Private != nil }) {
			return nil, ErrRotating
		}
		var err error
		for _, algorithm := range i.algorithms() {
			if keys, err = i.succeed(keys, algorithm, now); err != nil {
				return nil, err
			}
		}
		from = now.Add(i.config.JWKSMaxAge + settle)
		return keys, nil
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("rotating the signing keys: %w", err)
	}
	return from, i.Reload(ctx)
}

// succeed adds the next key and says when the present ones leave: once the last token that they
// can have signed has expired.
func (i *Issuer) succeed(keys []Key, algorithm string, now time.Time) ([]Key, error) {
	activatesAt := now.Add(i.config.JWKSMaxAge + settle)
	for at := range keys {
		if keys[at].Algorithm == algorithm && keys[at].LeavesAt.IsZero() {
			keys[at].LeavesAt = activatesAt.Add(keys[at].TokenLife + overlap)
		}
	}
	next, err := newKey(algorithm, now, activatesAt, i.maxLifetime(algorithm))
	return append(keys, next), err
}

// Keys returns every key, newest first, and the database's time.
func (i *Issuer) Keys(ctx context.Context) ([]Key, time.Time, error) {
	keys, now, err := i.store.SigningKeys(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the signing keys: %w", err)
	}
	return byAge(keys), now, nil
}

// keyState is what Mint and KeySet read; it is replaced whole.
type keyState struct {
	signers []signer // newest first
	keySet  []byte
	etag    string
	sealed  int // keys whose private half does not open
}

func newKeyState(keys []Key) (*keyState, error) {
	keys = byAge(keys)
	body, etag, err := renderKeySet(keys)
	if err != nil {
		return nil, err
	}
	state := &keyState{keySet: body, etag: etag}
	for _, key := range keys {
		if key.Private == nil {
			state.sealed++
			continue
		}
		state.signers = append(state.signers, newSigner(key))
	}
	return state, nil
}

// KeySet is the JWKS document (RFC 7517 5), its ETag, and how long it may be kept.
func (i *Issuer) KeySet() (body []byte, etag string, maxAge time.Duration, err error) {
	state := i.state.Load()
	if state == nil {
		return nil, "", 0, ErrNoKey
	}
	return state.keySet, state.etag, i.config.JWKSMaxAge, nil
}

// Sealed is how many keys are published whose private half the keyring does not open.
func (i *Issuer) Sealed() int {
	if state := i.state.Load(); state != nil {
		return state.sealed
	}
	return 0
}
