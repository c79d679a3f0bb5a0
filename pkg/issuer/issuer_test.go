package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/paired"
)

// memory is an issuer.Store of one map; the real ones are tested in pkg/store.
type memory struct {
	mu   sync.Mutex
	keys []issuer.Key
	err  error
	open time.Duration // how long updates took in all
	full error         // what storing ends in
	own  []issuer.AudienceKey
}

func (m *memory) AudienceKeys(context.Context) ([]issuer.AudienceKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.own), nil
}

func (m *memory) UpdateAudienceKeys(_ context.Context, update func([]issuer.AudienceKey, time.Time) ([]issuer.AudienceKey, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys, err := update(slices.Clone(m.own), time.Now())
	if err == nil {
		m.own = keys
	}
	return err
}

func (m *memory) SigningKeys(context.Context) ([]issuer.Key, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]issuer.Key(nil), m.keys...), time.Now(), m.err
}

func (m *memory) UpdateSigningKeys(_ context.Context, update func([]issuer.Key, time.Time) ([]issuer.Key, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	began := time.Now()
	defer func() { m.open += time.Since(began) }()
	keys, err := update(append([]issuer.Key(nil), m.keys...), time.Now())
	if err == nil && m.full != nil {
		return m.full
	}
	if err == nil {
		m.keys = keys
	}
	return err
}

const url = "https://wts.example.org"

func config() issuer.Config {
	return issuer.Config{
		URL: url, JWKSMaxAge: 5 * time.Minute, RotateEvery: 24 * time.Hour,
		Audiences: map[string]issuer.Audience{
			"storage": {MaxLifetime: time.Hour, DefaultLifetime: 10 * time.Minute, Scopes: []string{"read", "write"}},
			"gen3":    {Algorithm: issuer.RS256},
			"edge":    {Algorithm: issuer.EdDSA},
		},
	}
}

func started(t *testing.T, store issuer.Store) *issuer.Issuer {
	t.Helper()
	i := issuer.New(config(), store, time.Now)
	if err := i.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	return i
}

func mint(t *testing.T, i *issuer.Issuer, request issuer.Request) issuer.Token {
	t.Helper()
	token, err := i.Mint(request)
	if err != nil {
		t.Fatalf("minting: %v", err)
	}
	return token
}

func part(t *testing.T, token string, at int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[at])
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// Security.md D1; RFC 9068 2.
func TestWhatATokenSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		i := started(t, store)
		token := mint(t, i, issuer.Request{
			Audience: "storage", Person: issuer.Person{ID: "u1", Username: "alice"}, ClientID: "pod",
			Actor: issuer.Actor{Subject: "worker 10.0.0.7"}, Scopes: []string{"read"}, Lifetime: 600 * time.Second,
		})
		now := float64(time.Now().Unix())
		want := map[string]any{
			"iss": url, "sub": "u1", "aud": "storage", "client_id": "pod", "iat": now, "exp": now + 600, "jti": token.ID,
			"preferred_username": "alice", "scope": "read", "act": map[string]any{"sub": "worker 10.0.0.7"},
		}
		if diff := cmp.Diff(want, part(t, token.Value, 1)); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": store.keys[0].ID}, part(t, token.Value, 0)); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
		if len(token.ID) < 26 {
			t.Errorf("the id %q has fewer than 128 bits", token.ID)
		}
	})
}

func TestLifetimes(t *testing.T) {
	i := started(t, &memory{})
	for asked, want := range map[time.Duration]int64{
		0: 600, time.Second: 1, 599 * time.Second: 599, 600 * time.Second: 600, 3600 * time.Second: 3600, 3601 * time.Second: 3600, 1 << 62: 3600,
	} {
		t.Run(fmt.Sprint(asked), func(t *testing.T) {
			token := mint(t, i, issuer.Request{Audience: "storage", Lifetime: asked})
			claims := part(t, token.Value, 1)
			if lives := int64(claims["exp"].(float64) - claims["iat"].(float64)); lives != want || token.ExpiresIn != want {
				t.Errorf("asked for %s: lives %d s and says %d, want %d", asked, lives, token.ExpiresIn, want)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	i := started(t, &memory{})
	for name, row := range map[string]struct {
		request issuer.Request
		want    error
	}{
		"an audience that is not registered": {issuer.Request{Audience: "evil"}, issuer.ErrAudience},
		"no audience":                        {issuer.Request{}, issuer.ErrAudience},
		"a scope beyond the audience's":      {issuer.Request{Audience: "storage", Scopes: []string{"read", "admin"}}, issuer.ErrScope},
		"a scope where there are none":       {issuer.Request{Audience: "gen3", Scopes: []string{"read"}}, issuer.ErrScope},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := i.Mint(row.request); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	if _, err := issuer.New(config(), &memory{}, time.Now).Mint(issuer.Request{Audience: "storage"}); !errors.Is(err, issuer.ErrNoKey) {
		t.Errorf("before there are keys: got %v, want ErrNoKey", err)
	}
}

func TestEveryAlgorithmVerifies(t *testing.T) {
	i := started(t, &memory{})
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body, _, _, _ := i.KeySet()
		_, _ = w.Write(body)
	}))
	defer keys.Close()
	for _, audience := range []string{"storage", "gen3", "edge"} {
		t.Run(audience, func(t *testing.T) {
			v, err := verifier.New(t.Context(), url, audience, verifier.WithKeySetURL(keys.URL))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(t.Context(), mint(t, i, issuer.Request{Audience: audience, Person: issuer.Person{ID: "u1"}}).Value); err != nil {
				t.Errorf("got %v; want no error", err)
			}
		})
	}
}

// Security.md D4.
func TestTheKeySetHoldsNoPrivateMember(t *testing.T) {
	i := started(t, &memory{})
	body, etag, maxAge, err := i.KeySet()
	if err != nil || etag == "" || maxAge != 5*time.Minute {
		t.Fatalf("etag %q, max-age %s, %v", etag, maxAge, err)
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 3 {
		t.Errorf("%d keys, want 3", len(set.Keys))
	}
	for _, key := range set.Keys {
		for member := range key {
			if !strings.Contains(" kty crv x y n e alg use kid ", " "+member+" ") {
				t.Errorf("%s key: member %q", key["kty"], member)
			}
		}
		if key["use"] != "sig" || key["alg"] == nil || key["kid"] == nil {
			t.Errorf("alg, use or kid is missing: %v", key)
		}
	}
}

func states(t *testing.T, i *issuer.Issuer) map[issuer.State]int {
	t.Helper()
	keys, now, err := i.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := map[issuer.State]int{}
	for _, key := range keys {
		if key.Algorithm == issuer.ES256 {
			count[issuer.StateOf(key, keys, now)]++
		}
	}
	return count
}

func kid(t *testing.T, i *issuer.Issuer) string {
	t.Helper()
	return part(t, mint(t, i, issuer.Request{Audience: "storage", Lifetime: time.Hour}).Value, 0)["kid"].(string)
}

func published(t *testing.T, i *issuer.Issuer, kid string) bool {
	t.Helper()
	body, _, _, err := i.KeySet()
	return err == nil && strings.Contains(string(body), kid)
}

// The very first key signs at once, also where an operator asks for a rotation before the service has run.
func TestTheFirstKeySignsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := issuer.New(config(), &memory{}, time.Now)
		from, err := i.Rotate(t.Context())
		if err != nil || !from.Equal(time.Now()) {
			t.Errorf("the first key signs from %s, %v; want now, %s", from, err, time.Now())
		}
		if kid(t, i) == "" {
			t.Error("nothing signs")
		}
	})
}

// An RSA key takes seconds on a slow machine: no key is made while the store's transaction is open.
func TestKeysAreMadeOutsideTheTransaction(t *testing.T) {
	store := &memory{}
	i := issuer.New(config(), store, time.Now)
	var added []string
	i.OnAdded(func(key issuer.Key) { added = append(added, key.Algorithm) })
	began := time.Now()
	if err := i.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); store.open > took/2 {
		t.Errorf("transactions were open for %s of the %s that it took to make three keys", store.open, took)
	}
	slices.Sort(added)
	if diff := cmp.Diff([]string{issuer.ES256, issuer.EdDSA, issuer.RS256}, added); diff != "" {
		t.Errorf("the keys that were added (-want +got)\n%s", diff)
	}
	store.keys, store.full = nil, errors.New("no space left")
	if err := i.Maintain(t.Context()); !errors.Is(err, store.full) || len(added) != 3 {
		t.Errorf("keys that could not be stored: %v, %v; want none to be told of", err, added)
	}
	store.full = nil
	if err := i.Maintain(t.Context()); err != nil || len(added) != 6 {
		t.Errorf("keys that could be stored then: %v, %v", err, added)
	}
	if err := i.Maintain(t.Context()); err != nil || len(added) != 6 {
		t.Errorf("maintained again: %v, %v", added, err)
	}
}

// Security.md D4: two replicas over one store.
func TestARotationRefusesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		one, other := started(t, store), started(t, store)
		old := kid(t, one)
		if got := kid(t, other); got != old {
			t.Fatalf("the replicas sign with %s and %s", old, got)
		}
		from, err := one.Rotate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if wait := time.Until(from); wait < 5*time.Minute {
			t.Errorf("the next key signs in %s, before every verifier can have seen it", wait)
		}
		if _, err := other.Rotate(t.Context()); !errors.Is(err, issuer.ErrRotating) {
			t.Errorf("a rotation within a rotation: got %v, want ErrRotating", err)
		}
		if err := other.Reload(t.Context()); err != nil { // the change feed
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[issuer.State]int{issuer.Next: 1, issuer.Active: 1}, states(t, one)); diff != "" {
			t.Errorf("after the rotation (-want +got):\n%s", diff)
		}
		time.Sleep(time.Until(from) - time.Second)
		if got := kid(t, one); got != old {
			t.Error("the next key signs too early")
		}
		lastOfOld := time.Now()
		time.Sleep(2 * time.Second)
		next := kid(t, one)
		if got := kid(t, other); next == old || got != next {
			t.Errorf("the replicas sign with %s and %s, the old one was %s", next, got, old)
		}
		if diff := cmp.Diff(map[issuer.State]int{issuer.Active: 1, issuer.Retired: 1}, states(t, one)); diff != "" {
			t.Errorf("after the change-over (-want +got):\n%s", diff)
		}

		// The last token of the old key lives for an hour; so long its key is published.
		time.Sleep(time.Until(lastOfOld.Add(time.Hour)))
		if err := one.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !published(t, one, old) {
			t.Error("the retired key is gone while a token of its lives")
		}
		time.Sleep(5 * time.Minute)
		if err := one.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if published(t, one, old) || !published(t, one, next) {
			t.Error("the retired key stays, or the active one is gone")
		}
	})
}

func TestKeysRotateByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := started(t, &memory{})
		first := kid(t, i)
		seen := map[string]bool{first: true}
		for range 3 * 24 * 60 {
			time.Sleep(time.Minute)
			if err := i.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen[kid(t, i)] = true
		}
		if len(seen) != 3 { // every 24 h, and a few minutes
			t.Errorf("%d keys signed within three days, want 3", len(seen))
		}
		if published(t, i, first) {
			t.Error("the first key is still published")
		}
	})
}

// Security.md D4: a key of an algorithm that was configured later is published for the JWKS max-age
// before it signs; only the very first keys sign at once.
func TestAnAlgorithmThatIsConfiguredLaterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		before := config()
		delete(before.Audiences, "edge")
		first := issuer.New(before, store, time.Now)
		if err := first.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		later := started(t, store)
		if _, err := later.Mint(issuer.Request{Audience: "edge"}); !errors.Is(err, issuer.ErrNoKey) {
			t.Errorf("it signs at once: %v", err)
		}
		mint(t, later, issuer.Request{Audience: "storage"})
		time.Sleep(config().WithDefaults().JWKSMaxAge + time.Minute)
		mint(t, later, issuer.Request{Audience: "edge"})
	})
}

// A lost keyring costs the private halves, not the verification.
func TestAKeyWhosePrivateHalfDoesNotOpen(t *testing.T) {
	store := &memory{}
	first := kid(t, started(t, store))
	for i := range store.keys {
		store.keys[i].Private = nil
	}
	i := started(t, store)
	if _, err := i.Mint(issuer.Request{Audience: "storage"}); !errors.Is(err, issuer.ErrNoKey) {
		t.Errorf("got %v, want ErrNoKey", err)
	}
	if !published(t, i, first) || i.Sealed() != 3 || len(store.keys) != 3 {
		t.Errorf("published %v, %d sealed of %d", published(t, i, first), i.Sealed(), len(store.keys))
	}
}

func TestConfigFaults(t *testing.T) {
	err := issuer.Config{
		JWKSMaxAge: -time.Second, RotateEvery: time.Minute,
		Audiences: map[string]issuer.Audience{"a": {Algorithm: "HS256", MaxLifetime: 25 * time.Hour, DefaultLifetime: 30 * time.Hour}},
	}.Validate()
	for _, want := range []string{"jwks_max_age", "rotate_every", "audiences.a.algorithm", "audiences.a.max_lifetime", "audiences.a.default_lifetime"} {
		t.Run(want, func(t *testing.T) {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no fault about %s in:\n%v", want, err)
			}
		})
	}
	for _, short := range []issuer.Audience{{MaxLifetime: time.Millisecond}, {DefaultLifetime: time.Millisecond}} {
		if (issuer.Config{Audiences: map[string]issuer.Audience{"a": short}}).Validate() == nil {
			t.Errorf("%+v is accepted, of which a token would expire as it is made", short)
		}
	}
	year := issuer.APITokens{Personal: true, JWT: true}
	for name, row := range map[string]struct {
		every    time.Duration
		audience issuer.Audience
		says     string
	}{
		"a key a week, for tokens of a year":        {7 * 24 * time.Hour, issuer.Audience{APITokens: year}, ""},
		"a key a day, for tokens of a year":         {24 * time.Hour, issuer.Audience{APITokens: year}, "up to 367 keys are published"},
		"a default life beyond the default maximum": {0, issuer.Audience{APITokens: issuer.APITokens{DefaultLifetime: 366 * 24 * time.Hour}}, "default_lifetime"},
	} {
		t.Run(name, func(t *testing.T) {
			err := issuer.Config{RotateEvery: row.every, Audiences: map[string]issuer.Audience{"a": row.audience}}.Validate()
			if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want %q", err, row.says)
			}
		})
	}
	if err := config().Validate(); err != nil {
		t.Error(err)
	}
}

// A token minted, beside a bare ES256 signature.
func BenchmarkMint(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("a token"))
	i := issuer.New(config(), &memory{}, time.Now)
	if err := i.Maintain(b.Context()); err != nil {
		b.Fatal(err)
	}
	mint := func() {
		if _, err := i.Mint(issuer.Request{Audience: "storage", Person: issuer.Person{ID: "u1", Username: "alice"}, ClientID: "pod"}); err != nil {
			b.Error(err)
		}
	}
	sign := func() {
		if _, _, err := ecdsa.Sign(rand.Reader, key, digest[:]); err != nil {
			b.Error(err)
		}
	}
	for b.Loop() {
		paired.Report(b, 1/paired.CPU(mint, sign), "x-rate-of-raw-ES256", "≥0.87")
	}
}
