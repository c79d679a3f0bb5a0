// Package verifiertest is an issuer for the tests of services that verify tokens of wts: it publishes its keys over
// HTTP, as wts does, and signs what a test asks for.
//
//	issuer := verifiertest.Start(t)
//	v, err := verifier.New(t.Context(), issuer.URL, "my-service")
//	request.Header.Set("Authorization", "Bearer "+issuer.Mint("my-service", "u1", map[string]any{"scope": "read"}))
package verifiertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Issuer is an issuer with one ES256 key.
type Issuer struct {
	// URL is its issuer identifier.
	URL string

	t   testing.TB
	key *ecdsa.PrivateKey
}

const keyID = "verifiertest"

// Start runs an issuer until the test ends.
func Start(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &Issuer{t: t, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.answer(w, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/.well-known/jwks.json"})
	})
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		point, err := key.PublicKey.Bytes() // 4, x, y (SEC 1, 2.3.3)
		if err != nil {
			t.Error(err)
			return
		}
		i.answer(w, map[string]any{"keys": []map[string]any{{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": keyID, "x": encode(point[1:33]), "y": encode(point[33:]),
		}}})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	i.URL = server.URL
	return i
}

func (i *Issuer) answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		i.t.Error(err)
	}
}

// Mint signs a token for an audience, about a subject, that lives for ten minutes. The claims are added, or take the
// place of those that it has; nil takes one out.
func (i *Issuer) Mint(audience, subject string, claims map[string]any) string {
	i.t.Helper()
	now := time.Now().Unix()
	all := map[string]any{
		"iss": i.URL, "aud": audience, "sub": subject, "client_id": "verifiertest", "iat": now, "exp": now + 600, "jti": rand.Text(), "preferred_username": subject,
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return i.Sign(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": keyID}, all)
}

// Sign signs any header and claims with the issuer's key by ES256, for tests of what is refused.
func (i *Issuer) Sign(header, claims map[string]any) string {
	i.t.Helper()
	part := func(value any) string {
		text, err := json.Marshal(value)
		if err != nil {
			i.t.Fatal(err)
		}
		return encode(text)
	}
	input := part(header) + "." + part(claims)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		i.t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + encode(signature)
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
