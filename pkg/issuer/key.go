package issuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// The algorithms we sign with (RFC 7518 3.1, RFC 8037 3.1).
const (
	ES256 = "ES256"
	RS256 = "RS256"
	EdDSA = "EdDSA"
	// HS256 signs with a secret that the readers of an audience's tokens share with us (RFC 7518 3.2), for those who read
	// no key set: each of them could make such tokens too.
	HS256 = "HS256"
)

// Algorithms are those whose public keys are in the key set.
var Algorithms = []string{ES256, RS256, EdDSA}

// Key is one signing key. Times are the database's.
type Key struct {
	ID        string // its RFC 7638 thumbprint
	Algorithm string
	// Private is nil where the keyring at hand does not open it: the key is published all the same,
	// so that what it signed still verifies.
	Private crypto.Signer
	Public  crypto.PublicKey
	// It signs from ActivatesAt on; LeavesAt is when the last token it signed has expired, zero
	// while no successor has been named.
	CreatedAt, ActivatesAt, LeavesAt time.Time
	// TokenLife is the longest life of the tokens it signed, as far as replicas were configured.
	TokenLife time.Duration
	// RotatesAt is when a successor is named, as Keys says it; zero where a key was read otherwise.
	RotatesAt time.Time
}

// State is where in its life a key stands.
type State string

// The life of a key, in order.
const (
	Next    State = "next"
	Active  State = "active"
	Retired State = "retired"
	Gone    State = "gone"
)

// StateOf tells where a key stands among all keys at a time.
func StateOf(key Key, all []Key, now time.Time) State {
	switch {
	case key.gone(now):
		return Gone
	case now.Before(key.ActivatesAt):
		return Next
	}
	for _, other := range all {
		if other.Algorithm == key.Algorithm && other.ActivatesAt.After(key.ActivatesAt) && !now.Before(other.ActivatesAt) {
			return Retired
		}
	}
	return Active
}

// gone tells a key that no token needs any more.
func (k Key) gone(now time.Time) bool { return !k.LeavesAt.IsZero() && !now.Before(k.LeavesAt) }

// newKey is a key that signs from that time on.
func newKey(algorithm string, private crypto.Signer, now, activatesAt time.Time, tokenLife time.Duration) (Key, error) {
	key := Key{
		Algorithm: algorithm, Private: private, Public: private.Public(),
		CreatedAt: now, ActivatesAt: activatesAt, TokenLife: tokenLife,
	}
	public, err := publicJWK(key)
	if err != nil {
		return Key{}, err
	}
	key.ID = public.KeyID()
	return key, nil
}

// generate makes a private key. RSA has 3072 bits, which is as strong as P-256 (NIST SP 800-57 part 1, 5.6.1.1) and
// takes seconds on a small machine.
func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		return rsa.GenerateKey(rand.Reader, 3072)
	case EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return nil, fmt.Errorf("the algorithm %q is not one of %v", algorithm, Algorithms)
	}
}

// publicJWK is the key as the JWKS shows it: public members, alg, use and kid.
func publicJWK(key Key) (jwk.Key, error) {
	public, err := jwk.FromRaw(key.Public)
	if err != nil {
		return nil, fmt.Errorf("the public half of a %s key: %w", key.Algorithm, err)
	}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("naming a %s key: %w", key.Algorithm, err)
	}
	return public, errors.Join(
		public.Set(jwk.KeyIDKey, base64.RawURLEncoding.EncodeToString(thumbprint)),
		public.Set(jwk.AlgorithmKey, jwa.SignatureAlgorithm(key.Algorithm)),
		public.Set(jwk.KeyUsageKey, jwk.ForSignature),
	)
}

// renderKeySet is the JWKS document of all keys, in a stable order, and its ETag.
func renderKeySet(keys []Key) (body []byte, etag string, err error) {
	set := jwk.NewSet()
	for _, key := range keys {
		public, err := publicJWK(key)
		if err != nil {
			return nil, "", err
		}
		if err := set.AddKey(public); err != nil {
			return nil, "", fmt.Errorf("publishing a key twice: %w", err)
		}
	}
	body, err = json.Marshal(set)
	if err != nil {
		return nil, "", fmt.Errorf("rendering the key set: %w", err)
	}
	sum := sha256.Sum256(body)
	return body, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, nil
}

// byAge orders keys by the time they sign from, the newest first.
func byAge(keys []Key) []Key {
	sorted := slices.Clone(keys)
	slices.SortFunc(sorted, func(a, b Key) int {
		if order := b.ActivatesAt.Compare(a.ActivatesAt); order != 0 {
			return order
		}
		return bytes.Compare([]byte(a.ID), []byte(b.ID))
	})
	return sorted
}
