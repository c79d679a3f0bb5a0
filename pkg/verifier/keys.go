package verifier

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"golang.org/x/sync/singleflight"
)

const maxKeySetBytes = 256 << 10

// publicKey is one key of the issuer's.
type publicKey struct {
	id        string
	algorithm string // the key's own "alg", empty where it states none
	raw       any    // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey
}

// curves are the ones that belong to an algorithm (RFC 7518 3.4): a key on another curve is a
// mismatch even though its type fits.
var curves = map[string]string{"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

// fits tells whether the algorithm that a header names is one for this key. It is what keeps an
// RSA key from being used as an HMAC secret and the like.
func (k *publicKey) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch raw := k.raw.(type) {
	case *ecdsa.PublicKey:
		return curves[algorithm] == raw.Params().Name
	case *rsa.PublicKey:
		return (strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")) && raw.N.BitLen() >= minRSABits
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// open verifies a token's signature by an algorithm that fits the key, and returns the payload.
func (k *publicKey) open(token, algorithm string) ([]byte, error) {
	payload, err := jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(algorithm), crypto.PublicKey(k.raw)))
	if err != nil {
		return nil, ErrSignature
	}
	return payload, nil
}

// keySet holds the issuer's last good keys and fetches new ones, seldom, one fetch at a time.
type keySet struct {
	base     context.Context //nolint:containedctx // bounds the fetches that outlive a request
	issuer   string
	settings settings

	fetching singleflight.Group
	renewing atomic.Bool // somebody fetches for those who know their key

	mu        sync.RWMutex
	keys      map[string]*publicKey
	fetchedAt time.Time // of the last good set
	triedAt   time.Time
}

func newKeySet(ctx context.Context, issuer string, settings settings) *keySet {
	return &keySet{base: ctx, issuer: issuer, settings: settings}
}

// find returns the key of that id: the one at hand, or the issuer's after a look at most once in
// the look-up interval.
func (s *keySet) find(ctx context.Context, id string) (*publicKey, error) {
	if s.get(id) != nil {
		s.renew(ctx)
		if key := s.get(id); key != nil {
			return key, nil
		}
		return nil, ErrUnknownKey
	}
	err := s.refresh(ctx)
	switch key := s.get(id); {
	case key != nil:
		return key, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return nil, ErrUnknownKey
	}
}

// current tells whether a key that once verified a token is still published, as far as is known.
func (s *keySet) current(ctx context.Context, key *publicKey) bool {
	s.renew(ctx)
	return s.get(key.id) == key
}

func (s *keySet) get(id string) *publicKey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keys[id]
}

// patience is how long a caller whose key is known waits for newer keys.
const patience = time.Second

// renew keeps the keys from growing old, for callers who could go on with those at hand: beside them
// when they are half as old as they may grow, so that nobody waits; and only where nobody came for
// so long that they are older, one caller waits, a little. While the issuer is away, the last good
// keys go on, and nobody waits for it.
func (s *keySet) renew(ctx context.Context) {
	s.mu.RLock()
	now := s.settings.now()
	age, tried := now.Sub(s.fetchedAt), now.Sub(s.triedAt)
	s.mu.RUnlock()
	if age < s.settings.refresh/2 || tried < s.settings.lookup || !s.renewing.CompareAndSwap(false, true) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.renewing.Store(false)
		_ = s.refresh(s.base) // where it fails, the last good set holds
	}()
	if age < s.settings.refresh {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(patience):
	}
}

// refresh fetches the keys, unless that was tried a moment ago. Whoever comes while another fetches
// waits for that fetch, or for their own context.
func (s *keySet) refresh(ctx context.Context) error {
	came := s.settings.now()
	fetched := s.fetching.DoChan("", func() (any, error) { return nil, s.fetchOnce(came) })
	select {
	case answer := <-fetched:
		return answer.Err
	case <-ctx.Done():
		return fmt.Errorf("waiting for keys: %w", ctx.Err())
	}
}

// fetchOnce fetches unless someone else did since the caller came, or within the interval.
func (s *keySet) fetchOnce(came time.Time) error {
	s.mu.RLock()
	triedAt, fetchedAt, have := s.triedAt, s.fetchedAt, s.keys != nil
	s.mu.RUnlock()
	if !triedAt.IsZero() && came.Sub(triedAt) < s.settings.lookup {
		if have && fetchedAt.Equal(triedAt) || have && came.Sub(fetchedAt) < s.settings.refresh {
			return nil
		}
		return errors.New("the last attempt failed a moment ago")
	}
	keys, err := s.fetch()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.triedAt = s.settings.now()
	if err != nil {
		return err
	}
	for id, key := range s.keys { // a key that stays is the same key, so that tokens seen stay seen
		if now, ok := keys[id]; ok && now.same(key) {
			keys[id] = key
		}
	}
	s.keys, s.fetchedAt = keys, s.triedAt
	return nil
}

// same tells that a key was published again unchanged: what it verified stays verified.
func (k *publicKey) same(other *publicKey) bool {
	key, ok := k.raw.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && k.algorithm == other.algorithm && key.Equal(other.raw)
}

// fetch reads the issuer's keys. Only a document under the same name, and keys under https where the issuer is, are
// believed (OIDC Discovery 1.0, 4.3).
func (s *keySet) fetch() (map[string]*publicKey, error) {
	ctx, cancel := context.WithTimeout(s.base, 10*time.Second)
	defer cancel()
	address := s.settings.jwksURL
	if address == "" {
		var document struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		body, err := s.read(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return nil, err
		}
		if json.Unmarshal(body, &document) != nil || document.Issuer != s.issuer || document.Keys == "" {
			return nil, errors.New("the discovery document does not name this issuer and its keys")
		}
		if strings.HasPrefix(s.issuer, "https://") && !strings.HasPrefix(document.Keys, "https://") {
			return nil, errors.New("the discovery document names keys that are not under https")
		}
		address = document.Keys
	}
	body, err := s.read(ctx, address)
	if err != nil {
		return nil, err
	}
	return parseKeys(body, s.settings.maxKeys)
}

// read fetches one document of the issuer's: its discovery document, its keys, or a list whose address begins with the
// issuer. Its errors repeat nothing of what came back.
func (s *keySet) read(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil) //nolint:gosec // the issuer's own
	if err != nil {
		return nil, errors.New("the address of the keys is not a URL")
	}
	response, err := s.settings.client.Do(request) //nolint:gosec // the issuer's own
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching keys: status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeySetBytes+1))
	if err != nil || len(body) > maxKeySetBytes {
		return nil, errors.New("fetching keys: the document is cut off, or too large")
	}
	return body, nil
}

// The bounds of a key set: a signature by a larger key costs seconds of a CPU to verify.
const (
	defaultMaxKeys         = 500
	minRSABits, maxRSABits = 2048, 8192
)

// sound tells a public key that can verify, of a size that is accepted. Symmetric keys cannot.
func sound(raw any) bool {
	switch key := raw.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() <= maxRSABits && key.E > 1
	case *ecdsa.PublicKey:
		return true
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize
	}
	return false
}

// parseKeys reads a JWK Set (RFC 7517 5). Symmetric keys, keys for encryption and keys without an
// id are passed over: no token of ours can need them.
func parseKeys(body []byte, maxKeys int) (map[string]*publicKey, error) {
	set, err := jwk.Parse(body, jwk.WithIgnoreParseError(true)) // a key of a kind that is new takes no other along
	if err != nil {
		return nil, errors.New("the key set cannot be read")
	}
	if set.Len() > maxKeys {
		return nil, errors.New("the key set has more keys than are accepted")
	}
	keys := map[string]*publicKey{}
	for i := range set.Len() {
		key, _ := set.Key(i)
		if key.KeyID() == "" || key.KeyUsage() != "" && key.KeyUsage() != "sig" {
			continue
		}
		public, err := key.PublicKey()
		if err != nil {
			continue
		}
		var raw any
		if err := public.Raw(&raw); err != nil {
			continue
		}
		if !sound(raw) {
			continue
		}
		algorithm := ""
		if stated := key.Algorithm(); stated != nil {
			algorithm = stated.String()
		}
		keys[key.KeyID()] = &publicKey{id: key.KeyID(), algorithm: algorithm, raw: raw}
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set holds no key that can verify")
	}
	return keys, nil
}
