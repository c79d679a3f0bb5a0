package authn_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Security.md D1: where the accepted audience is that of id_tokens, a token has to show that it is an
// access token.
func TestIDTokensAreNoBearers(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	}))
	defer keys.Close()
	v, err := verifier.New(t.Context(), "https://op", "wts", authn.ProviderTokens(), verifier.WithAudiences("other"), verifier.WithKeySetURL(keys.URL))
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	a := authn.New(authn.Parts{Directory: f.directory, Sessions: f.sessions, OwnIssuer: "https://wts", Bearers: &authn.Bearers{Verifier: v, Issuer: "https://op", ClientID: "wts"}})
	for name, row := range map[string]struct {
		kind   string // the header's typ
		claims map[string]any
		good   bool
	}{
		"an id_token of a refresh":               {kind: "JWT", claims: map[string]any{"aud": "wts", "email": "a@b", "auth_time": 1}},
		"an id_token of a refresh, with azp":     {claims: map[string]any{"aud": []string{"wts", "other"}, "azp": "other"}},
		"an access token, by its type":           {kind: "at+jwt", claims: map[string]any{"aud": "wts"}, good: true},
		"an access token, by its scope":          {kind: "JWT", claims: map[string]any{"aud": "wts", "scope": "openid"}, good: true},
		"an access token, by its client":         {kind: "JWT", claims: map[string]any{"aud": "wts", "client_id": "x"}, good: true},
		"a token for an audience of its own":     {kind: "JWT", claims: map[string]any{"aud": "other"}, good: true},
		"an id_token of a login, with the nonce": {kind: "JWT", claims: map[string]any{"aud": "wts", "nonce": "n", "scope": "openid"}},
	} {
		t.Run(name, func(t *testing.T) {
			claims := map[string]any{"iss": "https://op", "sub": "sub-alice", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
			for claim, value := range row.claims {
				claims[claim] = value
			}
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, (&jose.SignerOptions{}).WithType(jose.ContentType(row.kind)))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := json.Marshal(claims)
			signed, err := signer.Sign(body)
			if err != nil {
				t.Fatal(err)
			}
			token, _ := signed.CompactSerialize()
			r := request("192.0.2.1:1", "Authorization", "Bearer "+token)
			caller, err := a.Authenticate(r, a.Peer(r), authn.Accepts{Bearer: true})
			if row.good && (err != nil || caller.User.ID != "u1") || !row.good && !errors.Is(err, authn.ErrBearer) {
				t.Errorf("got %+v, %v", caller, err)
			}
		})
	}
}
