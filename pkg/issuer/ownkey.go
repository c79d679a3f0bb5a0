package issuer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Services that read no key set know one key alone: a secret that they share with us (HS256), or a public key that was
// copied into their configuration. Such a key is the audience's own, and is replaced in two steps, with the service's
// change between them: the next one is made and shown, the service is told of it, and then it begins to sign.

var (
	// ErrNoSecret: the audience signs with a key of its own, and none was made yet.
	ErrNoSecret = errors.New("the audience has no key of its own yet; an admin makes one")
	// ErrPending: a next key was made already, and waits for its activation.
	ErrPending = errors.New("a next key was made already; activate it, or drop it")
	// ErrNoNext: there is no next key.
	ErrNoNext = errors.New("there is no next key; make one first")
	// ErrNotOwn: the audience's tokens are signed with the service's keys, or with a secret of the configuration.
	ErrNotOwn = errors.New("the audience has no key of its own that could be replaced")
)

// AudienceKey is a key of one audience's own. Times are the database's.
type AudienceKey struct {
	ID, Audience, Algorithm string
	// Secret is that of HS256, Private that of another algorithm. Both are empty where the keyring at hand does not open
	// the key.
	Secret  secret.Text
	Private crypto.Signer
	Public  crypto.PublicKey
	// CreatedAt is when it was made; ActivatesAt when it began to sign, zero for the next one; RetiredAt when another one
	// took its place.
	CreatedAt, ActivatesAt, RetiredAt time.Time
}

// State is where in its life a key stands.
func (k AudienceKey) State() State {
	switch {
	case k.ActivatesAt.IsZero():
		return Next
	case k.RetiredAt.IsZero():
		return Active
	}
	return Retired
}

// PEM is the public half of a key for a service's configuration (RFC 7468 13); empty for a secret.
func (k AudienceKey) PEM() string {
	raw, err := x509.MarshalPKIXPublicKey(k.Public)
	if k.Public == nil || err != nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw}))
}

// OwnKeys tells that an audience's tokens are signed with keys of its own, which are made and replaced here.
func (r registry) OwnKeys(audience string) bool {
	found, ok := r[audience]
	return ok && found.ownKeys() && found.SigningSecret == ""
}

// ownKeys tells that its tokens are signed with a key that is no other audience's.
func (a *Audience) ownKeys() bool { return a.Algorithm == HS256 || profiles[a.Profile].pinned }

// AudienceKeys are an audience's own keys, the newest first.
func (i *audienceKeys) AudienceKeys(ctx context.Context, audience string) ([]AudienceKey, error) {
	all, err := i.store.AudienceKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of audiences: %w", err)
	}
	all = slices.DeleteFunc(all, func(key AudienceKey) bool { return key.Audience != audience })
	slices.Reverse(all)
	return all, nil
}

// MakeAudienceKey makes an audience's next key and returns it: the only time that a secret is shown. Where the audience
// has none that signs, it signs at once. The errors are ErrAudience, ErrNotOwn and ErrPending.
func (i *audienceKeys) MakeAudienceKey(ctx context.Context, audience string) (AudienceKey, error) {
	of, ok := i.config.Audiences[audience]
	switch {
	case !ok:
		return AudienceKey{}, ErrAudience
	case !i.OwnKeys(audience):
		return AudienceKey{}, ErrNotOwn
	}
	made, err := newAudienceKey(audience, of.Algorithm)
	if err != nil {
		return AudienceKey{}, err
	}
	err = i.changeAudienceKeys(ctx, func(keys []AudienceKey, now time.Time) ([]AudienceKey, error) {
		made.CreatedAt, made.ActivatesAt = now, now
		for _, key := range keys {
			switch {
			case key.Audience != audience:
			case key.State() == Next:
				return nil, ErrPending
			case key.State() == Active && key.Algorithm == of.Algorithm:
				made.ActivatesAt = time.Time{}
			}
		}
		if !made.ActivatesAt.IsZero() { // one of another algorithm signs no more
			retire(keys, audience, now)
		}
		return append(keys, made), nil
	})
	return made, err
}

// ActivateAudienceKey has the next key of an audience sign from now on. The one before it is kept for as long as a token
// that it signed may be valid. An id says which key is meant, the one that was tried; an empty one any. The errors are
// ErrNotOwn, and ErrNoNext also where the next key is another one.
func (i *audienceKeys) ActivateAudienceKey(ctx context.Context, audience, id string) (AudienceKey, error) {
	var activated time.Time
	key, err := i.withNext(ctx, audience, id, func(keys []AudienceKey, next int, now time.Time) []AudienceKey {
		retire(keys, audience, now)
		activated, keys[next].ActivatesAt = now, now
		return keys
	})
	key.ActivatesAt = activated
	return key, err
}

// DropAudienceKey drops the next key of an audience, which never signed. The errors are ErrNotOwn and ErrNoNext.
func (i *audienceKeys) DropAudienceKey(ctx context.Context, audience string) (AudienceKey, error) {
	return i.withNext(ctx, audience, "", func(keys []AudienceKey, next int, _ time.Time) []AudienceKey {
		return slices.Delete(keys, next, next+1)
	})
}

// withNext changes the keys by the next one of an audience, which it returns.
func (i *audienceKeys) withNext(ctx context.Context, audience, id string, change func([]AudienceKey, int, time.Time) []AudienceKey) (next AudienceKey, err error) {
	if !i.OwnKeys(audience) {
		return AudienceKey{}, ErrNotOwn
	}
	err = i.changeAudienceKeys(ctx, func(keys []AudienceKey, now time.Time) ([]AudienceKey, error) {
		at := slices.IndexFunc(keys, func(key AudienceKey) bool { return key.Audience == audience && key.State() == Next })
		if at < 0 || id != "" && keys[at].ID != id {
			return nil, ErrNoNext
		}
		next = keys[at]
		return change(keys, at, now), nil
	})
	return next, err
}

// retire ends the signing of an audience's key.
func retire(keys []AudienceKey, audience string, now time.Time) {
	for i := range keys {
		if keys[i].Audience == audience && keys[i].State() == Active {
			keys[i].RetiredAt = now
		}
	}
}

// changeAudienceKeys changes the keys under the store's lock, drops what no token needs any more, and reads them again.
func (i *audienceKeys) changeAudienceKeys(ctx context.Context, change func([]AudienceKey, time.Time) ([]AudienceKey, error)) error {
	err := i.store.UpdateAudienceKeys(ctx, func(keys []AudienceKey, now time.Time) ([]AudienceKey, error) {
		changed, err := change(keys, now)
		return slices.DeleteFunc(changed, func(key AudienceKey) bool {
			return !i.counts(key, now)
		}), err
	})
	if err != nil {
		return fmt.Errorf("changing the keys of audiences: %w", err)
	}
	return i.Reload(ctx)
}

// counts tells whether a token that a key signed, or will sign, may be valid. A key that was replaced is dropped at the
// next change only, which may be years away.
func (i *signing) counts(key AudienceKey, now time.Time) bool {
	return key.RetiredAt.IsZero() || !now.After(key.RetiredAt.Add(i.ownTokenLife(key.Audience)+overlap))
}

// ownTokenLife is the longest that a token of an audience may live.
func (i *signing) ownTokenLife(audience string) time.Duration {
	of := i.config.Audiences[audience]
	if of.APITokens.JWT {
		return max(of.MaxLifetime, of.APITokens.MaxLifetime)
	}
	return of.MaxLifetime
}

// secretBytes is how many random bytes a secret has: as many as HS256 computes with (RFC 7518 3.2).
const secretBytes = 32

// newAudienceKey makes a key. A secret is text, as readers configure it: its bytes are what both sides compute with.
func newAudienceKey(audience, algorithm string) (AudienceKey, error) {
	key := AudienceKey{ID: rand.Text()[:16], Audience: audience, Algorithm: algorithm}
	if algorithm == HS256 {
		var random [secretBytes]byte
		rand.Read(random[:]) // never fails: crypto/rand ends the program instead
		key.Secret = secret.Text(base64.RawURLEncoding.EncodeToString(random[:]))
		return key, nil
	}
	private, err := generate(algorithm)
	if err != nil {
		return key, fmt.Errorf("generating a key for %s: %w", algorithm, err)
	}
	key.Private, key.Public = private, private.Public()
	return key, nil
}

// signer signs with the key, whose header is that of any JWT: who was told one key alone looks at no other member.
func (k AudienceKey) signer() signer {
	return *(&signer{id: k.ID, algorithm: k.Algorithm, private: k.Private, secret: []byte(k.Secret)}).as("JWT")
}

// signerOf is what signs the tokens of an audience now.
func (i *signing) signerOf(id string, audience Audience, now, expiresAt time.Time) (*signer, error) {
	kind := profiles[audience.Profile].kind
	if !audience.ownKeys() {
		found, err := i.signer(audience.Algorithm, now, expiresAt)
		if err != nil || kind == "" {
			return found, err
		}
		return found.as(kind), nil
	}
	if audience.SigningSecret != "" {
		own := AudienceKey{ID: "configured", Algorithm: HS256, Secret: audience.SigningSecret}.signer()
		return &own, nil
	}
	state := i.state.Load()
	if state == nil {
		return nil, ErrNoKey
	}
	for _, key := range state.own[id] {
		if key.State() == Active && key.Algorithm == audience.Algorithm {
			if key.Secret == "" && key.Private == nil {
				return nil, ErrNoKey // this keyring does not open it
			}
			own := key.signer()
			return &own, nil
		}
	}
	return nil, audience.errKeyless()
}

// errKeyless is the error of an audience whose first key is missing: an admin makes a secret, and Maintain a public key.
func (a *Audience) errKeyless() error {
	if a.Algorithm == HS256 {
		return ErrNoSecret
	}
	return ErrNoKey
}

// A key that a service was told of wrongly is found before it signs for people: a trial is signed with the next key, and
// judged by the service as any other token.

// Trial is Mint with the next key of an audience. The errors are those of Mint, ErrNotOwn and ErrNoNext.
func (i *Issuer) Trial(request Request) (Token, error) {
	if !i.OwnKeys(request.Audience) {
		return Token{}, ErrNotOwn
	}
	request.trial = true
	return i.Mint(request)
}

// nextSignerOf is what will sign the tokens of an audience.
func (i *signing) nextSignerOf(id string, audience Audience, _, _ time.Time) (*signer, error) {
	state := i.state.Load()
	if state == nil {
		return nil, ErrNoKey
	}
	for _, key := range state.own[id] {
		if key.State() != Next || key.Algorithm != audience.Algorithm {
			continue
		}
		if key.Secret == "" && key.Private == nil {
			return nil, ErrNoKey // this keyring does not open it
		}
		own := key.signer()
		return &own, nil
	}
	return nil, ErrNoNext
}

// PublicKeys are the public keys of an audience with which its tokens are verified, as PEM: the one that signs, then the
// next one, then those whose tokens may be valid. Touches memory alone. The errors are ErrNotOwn, of an audience whose
// readers know no public key of its own, and ErrNoKey where none signs yet.
func (i *signing) PublicKeys(audience string) ([]string, error) {
	of, ok := i.config.Audiences[audience]
	if !ok || of.Algorithm == HS256 || !i.OwnKeys(audience) {
		return nil, ErrNotOwn
	}
	state := i.state.Load()
	if state == nil {
		return nil, ErrNoKey
	}
	var pems []string
	for _, wanted := range []State{Active, Next, Retired} {
		for _, key := range state.own[audience] {
			if key.State() == wanted && key.Algorithm == of.Algorithm && i.counts(key, i.now()) {
				pems = append(pems, key.PEM())
			}
		}
		if wanted == Active && len(pems) == 0 {
			return nil, ErrNoKey
		}
	}
	return pems, nil
}

// errThere ends the making of a first key that another replica has made meanwhile.
var errThere = errors.New("the audience has a key")

// makeFirst makes the first key of each audience whose readers know one public key, so that the operator finds it when
// they configure the reader. A secret is made by an admin, since it is shown once. A key that this keyring does not open
// counts too: this replica may be the one that is wrong.
func (i *audienceKeys) makeFirst(ctx context.Context) error {
	state := i.state.Load()
	for _, id := range i.Audiences() {
		of := i.config.Audiences[id]
		has := func(key AudienceKey) bool {
			return key.Audience == id && key.Algorithm == of.Algorithm && key.State() == Active
		}
		if of.Algorithm == HS256 || !of.ownKeys() || slices.ContainsFunc(state.own[id], has) {
			continue
		}
		made, err := newAudienceKey(id, of.Algorithm)
		if err != nil {
			return err
		}
		err = i.changeAudienceKeys(ctx, func(keys []AudienceKey, now time.Time) ([]AudienceKey, error) {
			if slices.ContainsFunc(keys, has) {
				return nil, errThere
			}
			made.CreatedAt, made.ActivatesAt = now, now
			return append(keys, made), nil
		})
		switch {
		case errors.Is(err, errThere):
			err = i.Reload(ctx)
		case err == nil && i.added != nil:
			i.added(Key{ID: made.ID, Algorithm: made.Algorithm, ActivatesAt: made.ActivatesAt})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
