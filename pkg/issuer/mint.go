package issuer

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Request is what a token is wanted for. Whoever makes it has proven the caller.
type Request struct {
	Audience string
	Person   Person
	ClientID string // the OAuth client, else the kind of proof
	Actor    Actor
	Scopes   []string
	// Unattended: the token acts for no user, and no rule of who may have one is about it.
	Unattended bool
	// Resource is the thing inside the audience that the token is for; empty for none.
	Resource string
	// Session names the login of a program that the token is of (package grant), and AuthenticatedAt is when its person
	// logged in; empty and zero for others.
	Session         string
	AuthenticatedAt time.Time
	// Lifetime wanted; 0 is the audience's default. More than its maximum is cut to the maximum.
	Lifetime time.Duration
	// Datasets are those of an integration that the token is to name; all of them where it names none. Address is that of
	// the person's browser, for integrations that compare it; the zero address is not known.
	Datasets []string
	Address  netip.Addr
	// ID is the jti where the caller has to know it before the token is made; empty for one that is drawn.
	ID string

	integration *Integration // of the audience
	trial       bool         // the audience's next key signs
}

// Actor says how the caller was proven (RFC 8693 4.1).
type Actor struct {
	Subject string `json:"sub"`
}

// Token is a minted token.
type Token struct {
	Value     string
	ID        string // jti
	KeyID     string // of the key that signed it
	Audience  string
	Scopes    []string
	ExpiresIn int64 // seconds
	ExpiresAt time.Time
}

// Mint signs a token. Every entrance goes through here, so that what an audience allows is decided
// in one place. The errors are ErrAudience, ErrScope, ErrAccess, ErrDataset, ErrAddress, ErrNoSecret and ErrNoKey.
func (i *Issuer) Mint(request Request) (Token, error) {
	audience, ok := i.config.Audiences[request.Audience]
	// A token for wts itself is of a login that its person can end: no worker makes one of its own.
	if !ok || request.Audience == OwnAudience && request.Session == "" {
		return Token{}, ErrAudience
	}
	if request.Unattended {
		audience.Access = nil
	}
	if err := audience.allow(request.Person, request.Scopes); err != nil {
		return Token{}, err
	}
	if err := audience.integrated(&request); err != nil {
		return Token{}, err
	}
	lifetime := request.Lifetime
	if lifetime <= 0 {
		lifetime = audience.DefaultLifetime
	}
	return i.mint(audience, request, min(lifetime, audience.MaxLifetime), cmp.Or(request.ID, rand.Text()), nil) // the id has 130 bits
}

// mint makes a token of what was allowed.
func (i *Issuer) mint(audience Audience, request Request, lifetime time.Duration, id string, revocable *status) (Token, error) {
	now := i.now()
	expiresIn := int64(lifetime / time.Second)
	body := claims{
		Issuer: i.config.URL, Subject: request.Person.ID, Audience: request.Audience, ClientID: request.ClientID,
		IssuedAt: now.Unix(), ExpiresAt: now.Unix() + expiresIn, ID: id, Username: request.Person.Username,
		Scope: words(request.Scopes), Groups: request.Person.Groups, Resource: request.Resource, Status: revocable, Session: request.Session,
	}
	if !request.AuthenticatedAt.IsZero() {
		body.AuthenticatedAt = request.AuthenticatedAt.Unix()
	}
	if request.Actor.Subject != "" {
		body.Actor = &request.Actor
	}
	payload, err := profiles[audience.Profile].render(body, request)
	if err != nil {
		return Token{}, err
	}
	sign := i.signerOf
	if request.trial {
		sign = i.nextSignerOf
	}
	signing, err := sign(request.Audience, audience, now, time.Unix(body.ExpiresAt, 0))
	if err != nil {
		return Token{}, err
	}
	value, err := signing.sign(payload)
	if err != nil {
		return Token{}, fmt.Errorf("signing with %s: %w", audience.Algorithm, err)
	}
	return Token{Value: value, ID: id, KeyID: signing.id, Audience: request.Audience, Scopes: request.Scopes, ExpiresIn: expiresIn, ExpiresAt: time.Unix(body.ExpiresAt, 0)}, nil
}

// SigningSince is when the oldest of the keys that sign now began to; zero where none does.
func (i *signing) SigningSince() (oldest time.Time) {
	state, now := i.state.Load(), i.now()
	if state == nil {
		return time.Time{}
	}
	seen := map[string]bool{}
	for i := range state.signers { // the newest first
		key := &state.signers[i]
		if seen[key.algorithm] || now.Before(key.activatesAt) {
			continue
		}
		seen[key.algorithm] = true
		if oldest.IsZero() || key.activatesAt.Before(oldest) {
			oldest = key.activatesAt
		}
	}
	return oldest
}

// signer is the newest key that has begun to sign and is published for as long as the token lives.
func (i *signing) signer(algorithm string, now, expiresAt time.Time) (*signer, error) {
	state := i.state.Load()
	if state == nil {
		return nil, ErrNoKey
	}
	for i := range state.signers {
		key := &state.signers[i]
		if key.algorithm != algorithm || now.Before(key.activatesAt) {
			continue
		}
		if !key.leavesAt.IsZero() && expiresAt.After(key.leavesAt) {
			return nil, fmt.Errorf("%w: the newest one leaves before the token would expire", ErrNoKey)
		}
		return key, nil
	}
	return nil, ErrNoKey
}

// signer signs compact JWS with one key, whose header never changes.
type signer struct {
	id, algorithm         string
	activatesAt, leavesAt time.Time
	private               crypto.Signer
	secret                []byte // of HS256, in the place of private
	head                  string // the encoded header and the dot behind it
}

// as is a signer of another type of token.
func (s *signer) as(kind string) *signer {
	other := *s
	head := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":%q}`, s.algorithm, s.id, kind)
	other.head = base64.RawURLEncoding.EncodeToString([]byte(head)) + "."
	return &other
}

// newSigner prepares what is the same in all tokens of a key. The type is that of access tokens (RFC 9068 2.1).
func newSigner(key Key) signer {
	head := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, key.Algorithm, key.ID)
	return signer{
		id: key.ID, algorithm: key.Algorithm, activatesAt: key.ActivatesAt, leavesAt: key.LeavesAt, private: key.Private,
		head: base64.RawURLEncoding.EncodeToString([]byte(head)) + ".",
	}
}

// sign assembles the token by hand: a JWT library spends half as much again as the signature itself.
func (s *signer) sign(payload []byte) (string, error) {
	encoding := base64.RawURLEncoding
	size := len(s.head) + encoding.EncodedLen(len(payload))
	token := make([]byte, 0, size+1+encoding.EncodedLen(512))
	token = append(token, s.head...)
	token = encoding.AppendEncode(token, payload)
	signature, err := s.signature(token)
	if err != nil {
		return "", err
	}
	return string(encoding.AppendEncode(append(token, '.'), signature)), nil
}

// signature is RFC 7518 3.3 and 3.4, RFC 8037 3.1.
func (s *signer) signature(input []byte) ([]byte, error) {
	if s.algorithm == HS256 {
		code := hmac.New(sha256.New, s.secret)
		code.Write(input)
		return code.Sum(nil), nil
	}
	digest := sha256.Sum256(input)
	switch private := s.private.(type) {
	case *ecdsa.PrivateKey:
		r, t, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			return nil, fmt.Errorf("ecdsa: %w", err)
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		t.FillBytes(signature[32:])
		return signature, nil
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
	default:
		if s.algorithm != EdDSA {
			return nil, errors.New("the key is of another kind than its algorithm")
		}
		return s.private.Sign(rand.Reader, input, crypto.Hash(0))
	}
}
