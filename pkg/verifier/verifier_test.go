package verifier_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

const audience = "storage"

// authority is an issuer whose keys and faults the test chooses.
type authority struct {
	*httptest.Server
	mu      sync.Mutex
	keys    map[string]crypto.Signer
	down    bool
	fetches atomic.Int64
	// list answers for a status list.
	list http.HandlerFunc
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{keys: map[string]crypto.Signer{"ec": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": a.URL, "jwks_uri": a.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		a.fetches.Add(1)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(a.set())
	})
	mux.HandleFunc("/status/0", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		list := a.list
		a.mu.Unlock()
		list(w, r)
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) set() jwk.Set {
	set := jwk.NewSet()
	for id, key := range a.keys {
		public := must(jwk.FromRaw(key.Public()))
		_ = public.Set(jwk.KeyIDKey, id)
		_ = set.AddKey(public)
	}
	return set
}

func (a *authority) change(change func(a *authority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

type object = map[string]any

func (a *authority) claims(changes object) object {
	claims := object{
		"iss": a.URL, "aud": audience, "sub": "u1", "client_id": "c", "jti": rand.Text(), "preferred_username": "alice",
		"scope": "read write", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	}
	for name, value := range changes {
		if value == nil {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	return claims
}

func encode(value any) string {
	if text, ok := value.(string); ok {
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	return base64.RawURLEncoding.EncodeToString(must(json.Marshal(value)))
}

// forge signs whatever it is given. A header or payload that is a string is taken as its JSON text.
func forge(head, payload any, key any) string {
	input := encode(head) + "." + encode(payload)
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s := must2(ecdsa.Sign(rand.Reader, key, digest[:]))
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	case *rsa.PrivateKey:
		signature = must(rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:]))
	case ed25519.PrivateKey:
		signature = ed25519.Sign(key, []byte(input))
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func newVerifier(t *testing.T, a *authority, options ...verifier.Option) *verifier.Verifier {
	t.Helper()
	v, err := verifier.New(t.Context(), a.URL, audience, options...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoodTokens(t *testing.T) {
	a := newAuthority(t)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	a.change(func(a *authority) { a.keys["rsa"], a.keys["ed"] = rsaKey, edKey })
	v := newVerifier(t, a)
	for name, token := range map[string]string{
		"ES256":                 forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(nil), a.keys["ec"]),
		"RS256":                 forge(object{"alg": "RS256", "kid": "rsa", "typ": "at+jwt"}, a.claims(nil), rsaKey),
		"EdDSA":                 forge(object{"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}, a.claims(nil), edKey),
		"the long type":         forge(object{"alg": "ES256", "kid": "ec", "typ": "application/at+jwt"}, a.claims(nil), a.keys["ec"]),
		"one of many audiences": forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(object{"aud": []string{"x", audience}}), a.keys["ec"]),
		"a clock a little ahead": forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"},
			a.claims(object{"iat": time.Now().Add(30 * time.Second).Unix()}), a.keys["ec"]),
	} {
		t.Run(name, func(t *testing.T) {
			for _, time := range []string{"first", "second"} {
				t.Run(time, func(t *testing.T) {
					claims, err := v.Verify(t.Context(), token)
					if err != nil {
						t.Errorf("%s, at its %s sight: %v", name, time, err)
						return
					}
					if diff := cmp.Diff([]any{"alice", "u1", []string{"read", "write"}}, []any{claims.Username, claims.Subject, claims.Scopes}); diff != "" {
						t.Errorf("%s: (-want +got)\n%s", name, diff)
					}
				})
			}
		})
	}
}

// Security.md D2, and A5 where it is about tokens; RFC 8725.
func TestHostileTokens(t *testing.T) {
	a := newAuthority(t)
	ec := a.keys["ec"].(*ecdsa.PrivateKey)
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rsaKey, weak := must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 1024))
	a.change(func(a *authority) { a.keys["rsa"], a.keys["weak"] = rsaKey, weak })
	good := object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}
	with := func(changes object) object {
		head := object{}
		for _, from := range []object{good, changes} {
			for name, value := range from {
				head[name] = value
			}
		}
		for name, value := range head {
			if value == nil {
				delete(head, name)
			}
		}
		return head
	}
	ecDER := must(x509.MarshalPKIXPublicKey(ec.Public()))
	ecPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ecDER})
	jwkOfStranger := must(jwk.FromRaw(stranger.Public()))
	now := time.Now()

	for name, row := range map[string]struct {
		token string
		want  error
	}{
		"alg none":                       {encode(with(object{"alg": "none"})) + "." + encode(a.claims(nil)) + ".", verifier.ErrAlgorithm},
		"alg None, another case":         {encode(with(object{"alg": "nOnE"})) + "." + encode(a.claims(nil)) + ".", verifier.ErrAlgorithm},
		"alg none with a signature":      {forge(with(object{"alg": "none"}), a.claims(nil), ec), verifier.ErrAlgorithm},
		"HS256 with the public PEM":      {forge(with(object{"alg": "HS256"}), a.claims(nil), ecPEM), verifier.ErrAlgorithm},
		"HS256 with the public DER":      {forge(with(object{"alg": "HS256"}), a.claims(nil), ecDER), verifier.ErrAlgorithm},
		"RS256 named for an EC key":      {forge(with(object{"alg": "RS256"}), a.claims(nil), rsaKey), verifier.ErrAlgorithm},
		"ES256 named for an RSA key":     {forge(with(object{"kid": "rsa"}), a.claims(nil), ec), verifier.ErrAlgorithm},
		"a weak RSA key":                 {forge(with(object{"alg": "RS256", "kid": "weak"}), a.claims(nil), weak), verifier.ErrAlgorithm},
		"ES384 for a P-256 key":          {forge(with(object{"alg": "ES384"}), a.claims(nil), ec), verifier.ErrAlgorithm},
		"another key's signature":        {forge(good, a.claims(nil), stranger), verifier.ErrSignature},
		"no kid":                         {forge(with(object{"kid": nil}), a.claims(nil), ec), verifier.ErrUnknownKey},
		"an unknown kid":                 {forge(with(object{"kid": "x"}), a.claims(nil), ec), verifier.ErrUnknownKey},
		"jwk in the header":              {forge(with(object{"jwk": jwkOfStranger}), a.claims(nil), stranger), verifier.ErrHeader},
		"jku in the header":              {forge(with(object{"jku": "https://evil"}), a.claims(nil), ec), verifier.ErrHeader},
		"x5u in the header":              {forge(with(object{"x5u": "https://evil"}), a.claims(nil), ec), verifier.ErrHeader},
		"x5c in the header":              {forge(with(object{"x5c": []string{"AA"}}), a.claims(nil), ec), verifier.ErrHeader},
		"crit":                           {forge(with(object{"crit": []string{"exp"}}), a.claims(nil), ec), verifier.ErrHeader},
		"an id_token's type":             {forge(with(object{"typ": "JWT"}), a.claims(nil), ec), verifier.ErrType},
		"no type":                        {forge(with(object{"typ": nil}), a.claims(nil), ec), verifier.ErrType},
		"a logout token":                 {forge(with(object{"typ": "logout+jwt"}), a.claims(nil), ec), verifier.ErrType},
		"another issuer":                 {forge(good, a.claims(object{"iss": "https://evil"}), ec), verifier.ErrIssuer},
		"the issuer with a slash":        {forge(good, a.claims(object{"iss": a.URL + "/"}), ec), verifier.ErrIssuer},
		"another audience":               {forge(good, a.claims(object{"aud": "other"}), ec), verifier.ErrAudience},
		"no audience":                    {forge(good, a.claims(object{"aud": nil}), ec), verifier.ErrAudience},
		"an audience that begins alike":  {forge(good, a.claims(object{"aud": audience + "-2"}), ec), verifier.ErrAudience},
		"expired":                        {forge(good, a.claims(object{"exp": now.Add(-time.Second).Unix()}), ec), verifier.ErrExpired},
		"no expiry":                      {forge(good, a.claims(object{"exp": nil}), ec), verifier.ErrMalformed},
		"an expiry in words":             {forge(good, a.claims(object{"exp": "tomorrow"}), ec), verifier.ErrMalformed},
		"an expiry beyond time":          {forge(good, a.claims(object{"exp": 1e300}), ec), verifier.ErrMalformed},
		"issued in the future":           {forge(good, a.claims(object{"iat": now.Add(2 * time.Minute).Unix()}), ec), verifier.ErrNotYetValid},
		"not yet valid":                  {forge(good, a.claims(object{"nbf": now.Add(2 * time.Minute).Unix()}), ec), verifier.ErrNotYetValid},
		"a claim twice":                  {forge(good, strings.Replace(string(must(json.Marshal(a.claims(nil)))), "{", `{"aud":"other",`, 1), ec), verifier.ErrMalformed},
		"a claim twice, in another case": {forge(good, strings.Replace(string(must(json.Marshal(a.claims(nil)))), "{", `{"EXP":99999999999,`, 1), ec), verifier.ErrMalformed},
		"a header member twice":          {forge(`{"alg":"none","alg":"ES256","kid":"ec","typ":"at+jwt"}`, a.claims(nil), ec), verifier.ErrMalformed},
		"claims nested without end":      {forge(good, strings.Replace(string(must(json.Marshal(a.claims(nil)))), "{", `{"x":`+strings.Repeat("[", 50)+strings.Repeat("]", 50)+",", 1), ec), verifier.ErrMalformed},
		"more after the claims":          {forge(good, string(must(json.Marshal(a.claims(nil))))+"{}", ec), verifier.ErrMalformed},
		"claims that are an array":       {forge(good, "[]", ec), verifier.ErrMalformed},
		"two parts":                      {"a.b", verifier.ErrMalformed},
		"five parts, encrypted":          {"a.b.c.d.e", verifier.ErrMalformed},
		"nothing":                        {"", verifier.ErrMalformed},
		"longer than is read":            {strings.Repeat("a", 20<<10), verifier.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, a, verifier.WithLookup(time.Nanosecond))
			if claims, err := v.Verify(t.Context(), row.token); !errors.Is(err, row.want) || claims != nil && err == nil {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
}

func TestATokenThatWasSeenExpiresAllTheSame(t *testing.T) {
	a := newAuthority(t)
	now := time.Now()
	v := newVerifier(t, a, verifier.WithClock(func() time.Time { return now }))
	token := forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(nil), a.keys["ec"])
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, verifier.ErrExpired) {
		t.Errorf("got %v, want ErrExpired", err)
	}
}

// Security.md D6.
func TestKeysComeAndGo(t *testing.T) {
	a := newAuthority(t)
	now := time.Now()
	v := newVerifier(t, a, verifier.WithClock(func() time.Time { return now }), verifier.WithRefresh(5*time.Minute), verifier.WithLookup(10*time.Second))
	sign := func(kid string) string {
		return forge(object{"alg": "ES256", "kid": kid, "typ": "at+jwt"}, a.claims(object{"exp": now.Add(time.Hour).Unix()}), a.keys[kid])
	}
	first := sign("ec")
	check := func(what, token string, want error) {
		t.Helper()
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	check("the first key", first, nil)

	a.change(func(a *authority) { a.keys["new"] = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	now = now.Add(11 * time.Second)
	check("a new key is looked up", sign("new"), nil)

	before := a.fetches.Load()
	for i := range 200 {
		check("a forged kid", forge(object{"alg": "ES256", "kid": fmt.Sprint("forged-", i), "typ": "at+jwt"}, a.claims(nil), a.keys["ec"]), verifier.ErrUnknownKey)
	}
	if fetches := a.fetches.Load() - before; fetches > 1 {
		t.Errorf("200 forged key ids caused %d fetches, want at most 1", fetches)
	}

	a.change(func(a *authority) { a.down = true })
	now = now.Add(6 * time.Minute)
	check("the last good keys go on while the issuer is down", first, nil)

	a.change(func(a *authority) { a.down = false; delete(a.keys, "ec") })
	now = now.Add(11 * time.Second)
	check("a key that was withdrawn is distrusted, for tokens seen before too", first, verifier.ErrUnknownKey)
}

// A key set with a key of a kind that is not known yet is still a key set.
func TestAKeyOfAnUnknownKind(t *testing.T) {
	a := newAuthority(t)
	known := string(must(json.Marshal(a.set())))
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Replace(known, `"keys":[`, `"keys":[{"kty":"AKP","kid":"pq","alg":"ML-DSA-44","pub":"AA"},`, 1))
	}))
	defer keys.Close()
	token := forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(nil), a.keys["ec"])
	if _, err := newVerifier(t, a, verifier.WithKeySetURL(keys.URL)).Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
}

// An issuer that accepts and never answers makes nobody wait whose key is known.
func TestAnIssuerThatHangs(t *testing.T) {
	a := newAuthority(t)
	var hang atomic.Bool
	known := must(json.Marshal(a.set()))
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(known)
	}))
	defer keys.Close()
	var ahead atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v := must(verifier.New(ctx, a.URL, audience, verifier.WithKeySetURL(keys.URL),
		verifier.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })))
	token := forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(object{"exp": time.Now().Add(time.Hour).Unix()}), a.keys["ec"])
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	hang.Store(true)
	ahead.Store(int64(10 * time.Minute))
	began := time.Now()
	for range 50 {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("50 verifications took %s", took)
	}
}

func TestAnIssuerThatWasNeverReached(t *testing.T) {
	a := newAuthority(t)
	a.change(func(a *authority) { a.down = true })
	v := newVerifier(t, a)
	token := forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(nil), a.keys["ec"])
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, verifier.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	recorder := serve(v, token)
	if recorder.Code != http.StatusServiceUnavailable || recorder.Header().Get("Retry-After") == "" {
		t.Errorf("the middleware answers %d, want 503 with Retry-After", recorder.Code)
	}
}

func serve(v *verifier.Verifier, token string) *httptest.ResponseRecorder {
	handler := v.Middleware(verifier.RequireScope("read")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verifier.FromContext(r.Context())
		fmt.Fprint(w, claims.Username)
	})))
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	if token != "" {
		request.Header.Set("Authorization", "bEaReR "+token)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder
}

func TestMiddleware(t *testing.T) {
	a := newAuthority(t)
	v := newVerifier(t, a)
	head := object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}
	for name, row := range map[string]struct {
		token     string
		status    int
		challenge string
	}{
		"good":          {forge(head, a.claims(nil), a.keys["ec"]), 200, ""},
		"none":          {"", 401, "Bearer"},
		"expired":       {forge(head, a.claims(object{"exp": 1}), a.keys["ec"]), 401, `Bearer error="invalid_token"`},
		"lacks a scope": {forge(head, a.claims(object{"scope": "write"}), a.keys["ec"]), 403, `Bearer scope="read", error="insufficient_scope"`},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := serve(v, row.token)
			if recorder.Code != row.status || !strings.HasPrefix(recorder.Header().Get("WWW-Authenticate"), row.challenge) {
				t.Errorf("%d %q, want %d %q", recorder.Code, recorder.Header().Get("WWW-Authenticate"), row.status, row.challenge)
			}
		})
	}
}

func TestAnIDTokenOfAnOldProviderIsNoAccessToken(t *testing.T) {
	a := newAuthority(t)
	v := newVerifier(t, a, verifier.WithTypes("at+jwt", "JWT", ""))
	head := object{"alg": "ES256", "kid": "ec", "typ": "JWT"}
	if _, err := v.Verify(t.Context(), forge(head, a.claims(nil), a.keys["ec"])); err != nil {
		t.Errorf("an access token of the type JWT: %v", err)
	}
	for _, other := range []object{
		{"nonce": "x"},
		{"at_hash": "x"},
		{"c_hash": "x"},
		{"events": object{}},
		{"pur": "refresh"},
		{"pur": "id"},
		{"token_use": "id"},
		{"typ": "ID"},
		{"typ": "Refresh"},
		{"typ": "Logout"},
		{"pur": []string{"access"}},
	} {
		if _, err := v.Verify(t.Context(), forge(head, a.claims(other), a.keys["ec"])); !errors.Is(err, verifier.ErrType) {
			t.Errorf("one with %v: got %v, want ErrType", other, err)
		}
	}
	for _, access := range []object{{"pur": "access"}, {"token_use": "access"}, {"typ": "Bearer"}} {
		if _, err := v.Verify(t.Context(), forge(head, a.claims(access), a.keys["ec"])); err != nil {
			t.Errorf("one with %v: %v", access, err)
		}
	}
}

func TestNewRefusesWhatIsNotSafe(t *testing.T) {
	for name, make := range map[string]func() (*verifier.Verifier, error){
		"no issuer":   func() (*verifier.Verifier, error) { return verifier.New(context.Background(), "", "a") },
		"no audience": func() (*verifier.Verifier, error) { return verifier.New(context.Background(), "i", "") },
		"HS256": func() (*verifier.Verifier, error) {
			return verifier.New(context.Background(), "i", "a", verifier.WithAlgorithms("HS256"))
		},
		"none": func() (*verifier.Verifier, error) {
			return verifier.New(context.Background(), "i", "a", verifier.WithAlgorithms("none"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := make(); err == nil {
				t.Error("no error")
			}
		})
	}
}

// canned answers every request with the same body: the fuzzer needs a verifier without goroutines,
// whose coverage would not be the input's.
type canned []byte

func (c canned) RoundTrip(*http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	_, _ = recorder.Write(c)
	return recorder.Result(), nil
}

func FuzzVerify(f *testing.F) {
	a := &authority{Server: &httptest.Server{URL: "https://wts"}, keys: map[string]crypto.Signer{"ec": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}}
	v := must(verifier.New(context.Background(), a.URL, audience, verifier.WithKeySetURL("https://wts/keys"), verifier.WithLookup(time.Hour),
		verifier.WithRefresh(24*time.Hour), verifier.WithHTTPClient(&http.Client{Transport: canned(must(json.Marshal(a.set())))})))
	good := forge(object{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}, a.claims(object{"exp": time.Now().Add(time.Hour).Unix()}), a.keys["ec"])
	if _, err := v.Verify(context.Background(), good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Add(encode(`{"alg":"none"}`) + "." + encode(`{}`) + ".")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.Verify(context.Background(), token); err == nil && token != good {
			t.Fatalf("a forged token passed: %q", token)
		}
	})
}
