// Package verifier checks the tokens that wts signs, offline, against its published keys.
//
// A resource service imports it:
//
//	v, err := verifier.New(ctx, "https://wts.example.org", "my-service")
//	...
//	http.ListenAndServe(addr, v.Middleware(handler))
//
// It owns what makes a token good: signature, type, issuer, audience, times. It holds no web
// framework, no database and nothing of Kubernetes, and it calls nobody but the issuer's discovery
// document and key set, seldom. It works for any issuer of signed JWT access tokens (RFC 9068).
package verifier

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Why a token is refused. Every error of Verify wraps one of these, so that errors.Is tells them
// apart; all but ErrUnavailable mean that this token is not good (401).
var (
	ErrMalformed   = errors.New("not a JWT that can be read")
	ErrHeader      = errors.New("the header holds a member that is not accepted")
	ErrType        = errors.New("not an access token")
	ErrAlgorithm   = errors.New("the algorithm is not accepted")
	ErrUnknownKey  = errors.New("signed by a key that the issuer does not publish")
	ErrSignature   = errors.New("the signature does not hold")
	ErrIssuer      = errors.New("of another issuer")
	ErrAudience    = errors.New("for another audience")
	ErrExpired     = errors.New("expired")
	ErrNotYetValid = errors.New("dated in the future")
	// ErrUnavailable says that the issuer's keys could not be had, so that nothing is known of the
	// token: an outage (503), not a refusal.
	ErrUnavailable = errors.New("the issuer's keys cannot be had")
)

const (
	maxTokenBytes = 16 << 10
	// futureTolerance is how far ahead iat and nbf may lie: two clocks, both a little wrong.
	futureTolerance = time.Minute
	seenTokens      = 4096
)

// Verifier checks tokens of one issuer for one audience. It is safe for concurrent use.
type Verifier struct {
	issuer    string
	audiences []string
	settings  settings
	keys      *keySet
	seen      *seen
	statuses  statusLists
}

type settings struct {
	algorithms    []string
	types         []string
	moreAudiences []string
	anyAudience   bool
	audienceClaim string
	username      string
	leeway        time.Duration
	client        *http.Client
	jwksURL       string
	now           func() time.Time
	maxKeys       int
	refresh       time.Duration
	lookup        time.Duration
	realm         string
	metadata      string
	introspection *introspection
}

// Option changes how a Verifier works.
type Option func(*settings)

// WithAlgorithms replaces the algorithms accepted: ES256, RS256 and EdDSA unless told otherwise.
// "none" and the HS family cannot be named; New refuses them.
func WithAlgorithms(names ...string) Option { return func(s *settings) { s.algorithms = names } }

// WithTypes replaces the header types accepted: "at+jwt" unless told otherwise (RFC 9068 2.1).
// Providers that predate the RFC sign access tokens as "JWT"; with that, id_tokens have to be told
// apart by their claims, and are: one that holds a nonce or an at_hash is refused.
func WithTypes(names ...string) Option { return func(s *settings) { s.types = names } }

// WithLeeway accepts tokens for so long after their expiry. None unless told otherwise.
func WithLeeway(leeway time.Duration) Option { return func(s *settings) { s.leeway = leeway } }

// WithHTTPClient replaces the client that fetches keys.
func WithHTTPClient(client *http.Client) Option { return func(s *settings) { s.client = client } }

// WithKeySetURL names the key set directly; discovery is not asked then.
func WithKeySetURL(address string) Option { return func(s *settings) { s.jwksURL = address } }

// WithMaxKeys bounds the keys of the key set: 500 unless told otherwise. An issuer whose tokens live for a year publishes
// each key that signed one of them; of another issuer fewer do.
func WithMaxKeys(count int) Option { return func(s *settings) { s.maxKeys = count } }

// WithAudiences accepts tokens for these audiences too, beside the one given to New.
func WithAudiences(names ...string) Option {
	return func(s *settings) { s.moreAudiences = append(s.moreAudiences, names...) }
}

// AnyAudience accepts tokens whatever their audience is; New is then given an empty one. It is for an
// issuer that names in every token whom all its tokens are for, as Gen3's Fence does: with any other
// issuer, a token that was meant for somebody else would pass.
func AnyAudience() Option { return func(s *settings) { s.anyAudience = true } }

// WithAudienceClaim says which claim names whom a token is for: aud unless told otherwise (RFC 7519 4.1.3). It is for
// tokens whose other readers do not accept an aud, as those of the profile pephub. A token that has an aud beside the
// claim has to be for this verifier by both, and one without the claim is for no audience. What introspection says of an
// opaque token is judged by its aud alone.
func WithAudienceClaim(name string) Option { return func(s *settings) { s.audienceClaim = name } }

// WithUsernameClaim says which claim is Claims.Username, with dots into nested ones:
// preferred_username unless told otherwise.
func WithUsernameClaim(path string) Option { return func(s *settings) { s.username = path } }

// WithRefresh sets how old the keys may grow: a key that the issuer withdrew is distrusted at most
// this long afterwards. Five minutes unless told otherwise.
func WithRefresh(interval time.Duration) Option { return func(s *settings) { s.refresh = interval } }

// WithLookup sets how often a key that is not known may be looked up: forged key ids cause at most
// one fetch in this time, whoever sends them. Ten seconds unless told otherwise.
func WithLookup(interval time.Duration) Option { return func(s *settings) { s.lookup = interval } }

// WithRealm names what is protected, in challenges (RFC 9110 11.5).
func WithRealm(name string) Option { return func(s *settings) { s.realm = name } }

// WithResourceMetadata names the address of the resource's metadata in challenges (RFC 9728 5.1): where Metadata is
// served.
func WithResourceMetadata(address string) Option { return func(s *settings) { s.metadata = address } }

// WithClock replaces the clock, for tests.
func WithClock(now func() time.Time) Option { return func(s *settings) { s.now = now } }

// supported are the algorithms that can be asked for; all are asymmetric.
var supported = []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"}

// New makes a verifier for the tokens of one issuer that are meant for one audience. It calls
// nobody yet: an issuer that is down does not keep a service from starting. The context bounds the
// fetches of keys that it will make.
func New(ctx context.Context, issuer, audience string, options ...Option) (*Verifier, error) {
	chosen := settings{
		algorithms: []string{"ES256", "RS256", "EdDSA"},
		types:      []string{"at+jwt"},
		client:     &http.Client{Timeout: 10 * time.Second, CheckRedirect: sameHost},
		now:        time.Now,
		refresh:    5 * time.Minute,
		maxKeys:    defaultMaxKeys,
		lookup:     10 * time.Second,
	}
	for _, option := range options {
		option(&chosen)
	}
	if issuer == "" || (audience == "") != chosen.anyAudience {
		return nil, errors.New("verifier: an issuer and an audience are needed; without them a token for anybody would pass")
	}
	if chosen.anyAudience && chosen.audienceClaim != "" {
		return nil, errors.New("verifier: AnyAudience reads no audience, so that WithAudienceClaim has no meaning beside it; leave out one of the two")
	}
	for _, name := range chosen.algorithms {
		if !slices.Contains(supported, name) {
			return nil, fmt.Errorf("verifier: the algorithm %q is not one of %s", name, strings.Join(supported, ", "))
		}
	}
	return &Verifier{
		issuer: issuer, audiences: append([]string{audience}, chosen.moreAudiences...), settings: chosen,
		keys: newKeySet(ctx, issuer, chosen),
		seen: newSeen(seenTokens), statuses: statusLists{lists: map[string]*knownList{}},
	}, nil
}

// sameHost follows no redirect to another host, which could choose whose keys are trusted.
func sameHost(next *http.Request, via []*http.Request) error {
	if next.URL.Host != via[0].URL.Host || next.URL.Scheme != via[0].URL.Scheme || len(via) > 3 {
		return errors.New("redirected to another host")
	}
	return nil
}

// Verify returns what a good token says. A token found good is remembered until it expires or its
// key is withdrawn, so that seeing it again costs a hash and a look-up.
func (v *Verifier) Verify(ctx context.Context, token string) (*Claims, error) {
	if len(token) > maxTokenBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxTokenBytes)
	}
	fingerprint := sha256.Sum256([]byte(token))
	now := v.settings.now()
	if v.settings.introspection != nil && strings.Count(token, ".") != 2 {
		return v.settings.introspection.verify(ctx, v, token, fingerprint, now)
	}
	if claims, known, err := v.recall(ctx, fingerprint, now); known {
		return claims, err
	}
	head, err := readHeader(token)
	if err != nil {
		return nil, err
	}
	if err := v.acceptable(head); err != nil {
		return nil, err
	}
	key, err := v.keys.find(ctx, head.KeyID)
	if err != nil {
		return nil, err
	}
	claims, err := v.check(token, head, key, now)
	if err != nil {
		return nil, err
	}
	v.seen.put(fingerprint, verified{claims: claims, key: key})
	return v.living(ctx, claims)
}

// Recall is Verify for a token that was found good before and still is: it costs a hash, and reads nothing of the token.
// It is false for any other, of which Verify says more.
func (v *Verifier) Recall(ctx context.Context, token string) (*Claims, bool) {
	if len(token) > maxTokenBytes {
		return nil, false
	}
	claims, known, err := v.recall(ctx, sha256.Sum256([]byte(token)), v.settings.now())
	return claims, known && err == nil
}

// recall judges a token that was found good before; known is false for one that was not, or whose key is no longer the
// issuer's.
func (v *Verifier) recall(ctx context.Context, fingerprint [sha256.Size]byte, now time.Time) (claims *Claims, known bool, err error) {
	found, ok := v.seen.get(fingerprint)
	if !ok || !v.keys.current(ctx, found.key) {
		return nil, false, nil
	}
	if err := v.settings.timely(found.claims, now); err != nil {
		return nil, true, err
	}
	claims, err = v.living(ctx, found.claims)
	return claims, true, err
}

// living returns the claims of a token that was not revoked.
func (v *Verifier) living(ctx context.Context, claims *Claims) (*Claims, error) {
	if err := v.revoked(ctx, claims); err != nil {
		return nil, err
	}
	return claims, nil
}

// acceptable judges the header before anything is computed (RFC 8725 3.1, 3.10 to 3.12).
func (v *Verifier) acceptable(head header) error {
	switch {
	case head.forbidden != "":
		return fmt.Errorf("%w: %s", ErrHeader, head.forbidden)
	case !slices.Contains(v.settings.algorithms, head.Algorithm):
		return ErrAlgorithm
	case !slices.ContainsFunc(v.settings.types, func(name string) bool { return sameType(name, head.Type) }):
		return ErrType
	case head.KeyID == "":
		return fmt.Errorf("%w: it names no key", ErrUnknownKey)
	}
	return nil
}

// sameType compares media types as RFC 7515 4.1.9 has them: "application/" may be left out.
func sameType(want, got string) bool {
	got = strings.ToLower(got)
	return strings.ToLower(want) == strings.TrimPrefix(got, "application/")
}

// check verifies the signature before it reads a claim, and the issuer and the audience before the times.
func (v *Verifier) check(token string, head header, key *publicKey, now time.Time) (*Claims, error) {
	if !key.fits(head.Algorithm) {
		return nil, fmt.Errorf("%w: the key is of another kind", ErrAlgorithm)
	}
	payload, err := key.open(token, head.Algorithm)
	if err != nil {
		return nil, err
	}
	claims, err := readClaims(payload, v.settings)
	switch {
	case err != nil:
		return nil, err
	case claims.Issuer != v.issuer:
		return nil, ErrIssuer
	case !v.settings.anyAudience && (!v.among(claims.Audience) || !v.among(claims.named)):
		return nil, ErrAudience
	case !sameType("at+jwt", head.Type) && claims.otherKind:
		return nil, fmt.Errorf("%w: its claims are those of an id_token, a refresh token or a logout token", ErrType)
	}
	return claims, v.settings.timely(claims, now)
}

// among tells whether one of the audiences of a token is the verifier's.
func (v *Verifier) among(audiences []string) bool {
	return slices.ContainsFunc(v.audiences, func(name string) bool { return slices.Contains(audiences, name) })
}

// timely compares the times (RFC 7519 4.1.4 to 4.1.6). The leeway lengthens no life by more than it says.
func (s settings) timely(claims *Claims, now time.Time) error {
	switch {
	case !now.Before(claims.ExpiresAt.Add(s.leeway)):
		return ErrExpired
	case claims.IssuedAt.After(now.Add(futureTolerance)), claims.NotBefore.After(now.Add(futureTolerance)):
		return ErrNotYetValid
	}
	return nil
}

// header is the part of a JWS header that decides.
type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
	forbidden string
}

// readHeader reads the header of a compact JWS and notes what must not be in it: members that
// bring a key of the sender's own, and extensions that would have to be understood (crit).
func readHeader(token string) (header, error) {
	first, rest, ok := strings.Cut(token, ".")
	if !ok || strings.Count(rest, ".") != 1 {
		return header{}, fmt.Errorf("%w: not three parts", ErrMalformed)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return header{}, fmt.Errorf("%w: the header is not base64url", ErrMalformed)
	}
	var head header
	members, err := strictObject(raw, &head)
	if err != nil {
		return header{}, err
	}
	for _, name := range []string{"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"} {
		if slices.Contains(members, name) {
			head.forbidden = name
		}
	}
	return head, nil
}
