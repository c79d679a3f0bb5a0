package verifier

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// minSecretBytes is the least of a secret for HS256 (RFC 7518 3.2): a shorter one is found by trying, offline.
const minSecretBytes = 32

// Key is a key that a service was given by hand. It belongs to one algorithm, so that a token cannot choose another one
// for it (RFC 8725 3.1). Printing it shows nothing of a secret.
type Key struct {
	algorithm string
	// open returns the payload where the signature holds. It is a function, since no format prints what one holds.
	open func(token string) ([]byte, error)
}

// SecretKey is a secret that is shared with the issuer, for HS256. It has at least 32 bytes, and is no PEM: a public key
// that counts as a secret lets everybody sign.
func SecretKey(secret string) (Key, error) {
	switch {
	case strings.Contains(secret, "-----BEGIN"):
		return Key{}, errors.New("verifier: a PEM is no secret; give it as a public key")
	case len(secret) < minSecretBytes:
		return Key{}, fmt.Errorf("verifier: a secret for HS256 has %d bytes, want at least %d (RFC 7518 3.2)", len(secret), minSecretBytes)
	}
	key := []byte(secret)
	return Key{"HS256", func(token string) ([]byte, error) { return openHMAC(token, key) }}, nil
}

// openHMAC verifies by HS256 (RFC 7518 3.2), in constant time.
func openHMAC(token string, key []byte) ([]byte, error) {
	end := strings.LastIndexByte(token, '.')
	input := token[:max(end, 0)]
	signature, err := base64.RawURLEncoding.Strict().DecodeString(token[end+1:])
	if err != nil {
		return nil, ErrSignature
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(input))
	if !hmac.Equal(signature, mac.Sum(nil)) {
		return nil, ErrSignature
	}
	// The claims are decoded after the signature was found good, from the very bytes that it covers.
	_, text, _ := strings.Cut(input, ".")
	payload, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the claims are not base64url", ErrMalformed)
	}
	return payload, nil
}

// PublicKeys are the public keys of a PEM text (RFC 7468), one or several: RSA of 2,048 bits and more for RS256, P-256
// for ES256. Ed25519 keys are read from a key set only.
func PublicKeys(text []byte) ([]Key, error) {
	var keys []Key
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		key, err := publicKeyOf(block)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("verifier: the text holds no PEM of a public key")
	}
	return keys, nil
}

// publicKeyOf reads one block. The kind of the key decides on the algorithm, here and not when a token comes.
func publicKeyOf(block *pem.Block) (Key, error) {
	var raw any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		raw, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		raw, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return Key{}, fmt.Errorf("verifier: a PEM of type %q, want PUBLIC KEY", block.Type)
	}
	if err != nil {
		return Key{}, fmt.Errorf("verifier: a PEM of a public key cannot be read: %w", err)
	}
	algorithm := ""
	switch raw.(type) {
	case *rsa.PublicKey:
		algorithm = "RS256"
	case *ecdsa.PublicKey:
		algorithm = "ES256"
	}
	key := &publicKey{algorithm: algorithm, raw: raw}
	if !key.fits(algorithm) || !sound(raw) {
		return Key{}, fmt.Errorf("verifier: a public key is of another kind or size than RSA of %d to %d bits or P-256", minRSABits, maxRSABits)
	}
	return Key{algorithm, func(token string) ([]byte, error) { return key.open(token, algorithm) }}, nil
}

// Pinned checks tokens by keys that the service was given by hand, of issuers that publish none. Whom a token is for,
// and who issued it, is what the caller reads from its claims: a secret or a key belongs to one issuer and one purpose.
// It is safe for concurrent use.
type Pinned struct {
	keys     []Key
	settings settings
}

// NewPinned makes a verifier of tokens by any of the keys: several, while one takes the place of another. Of the options
// WithTypes, WithLeeway, WithClock and WithUsernameClaim count. The types accepted are JWT and none unless told
// otherwise: tokens that keys of the same issuer signed for another purpose state theirs (RFC 8725 3.11).
func NewPinned(keys []Key, options ...Option) (*Pinned, error) {
	if len(keys) == 0 || slices.ContainsFunc(keys, func(key Key) bool { return key.open == nil }) {
		return nil, errors.New("verifier: no key is given, or one that is empty; make keys with SecretKey or PublicKeys")
	}
	chosen := settings{types: []string{"JWT", ""}, now: time.Now}
	for _, option := range options {
		option(&chosen)
	}
	return &Pinned{slices.Clone(keys), chosen}, nil
}

// Verify returns what a good token says. A token that names a status list is refused: without its issuer nothing is
// known of whether it was revoked. It waits for nothing; the context makes it fit where a Verifier does.
func (p *Pinned) Verify(_ context.Context, token string) (*Claims, error) {
	if len(token) > maxTokenBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxTokenBytes)
	}
	head, err := readHeader(token)
	switch {
	case err != nil:
		return nil, err
	case head.forbidden != "":
		return nil, fmt.Errorf("%w: %s", ErrHeader, head.forbidden)
	case !slices.ContainsFunc(p.settings.types, func(name string) bool { return sameType(name, head.Type) }):
		return nil, ErrType
	}
	payload, err := p.open(token, head.Algorithm)
	if err != nil {
		return nil, err
	}
	claims, err := readClaims(payload, p.settings)
	switch {
	case err != nil:
		return nil, err
	case claims.otherKind:
		return nil, fmt.Errorf("%w: its claims are those of an id_token, a refresh token or a logout token", ErrType)
	case claims.status != nil:
		return nil, fmt.Errorf("%w: it can be revoked, which only its issuer's verifier can tell", ErrType)
	}
	return claims, p.settings.timely(claims, p.settings.now())
}

// open tries the keys of the algorithm that the header names, and no other.
func (p *Pinned) open(token, algorithm string) ([]byte, error) {
	refusal := ErrAlgorithm
	for _, key := range p.keys {
		if key.algorithm != algorithm {
			continue
		}
		payload, err := key.open(token)
		if err == nil {
			return payload, nil
		}
		refusal = err
	}
	return nil, refusal
}
