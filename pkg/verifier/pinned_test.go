package verifier_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

func pemOf(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))})
}

func TestPinnedKeys(t *testing.T) {
	secret, next := strings.Repeat("s", 32), strings.Repeat("n", 32)
	rsaKey, ecKey := must(rsa.GenerateKey(rand.Reader, 2048)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	rsaPEM, ecPEM := pemOf(t, rsaKey.Public()), pemOf(t, ecKey.Public())
	shared := must(verifier.NewPinned([]verifier.Key{must(verifier.SecretKey(secret)), must(verifier.SecretKey(next))}))
	public := must(verifier.NewPinned(must(verifier.PublicKeys(append(rsaPEM, ecPEM...)))))
	soon := time.Now().Add(time.Minute).Unix()
	good := object{"exp": soon, "datasets": []string{"ds0"}}
	with := func(alg string) object { return object{"alg": alg, "typ": "JWT"} }
	for name, row := range map[string]struct {
		pinned *verifier.Pinned
		token  string
		want   error
	}{
		"the secret":                      {shared, forge(with("HS256"), good, []byte(secret)), nil},
		"the next secret":                 {shared, forge(with("HS256"), good, []byte(next)), nil},
		"no type":                         {shared, forge(object{"alg": "HS256"}, good, []byte(secret)), nil},
		"RS256":                           {public, forge(with("RS256"), good, rsaKey), nil},
		"ES256":                           {public, forge(with("ES256"), good, ecKey), nil},
		"another secret":                  {shared, forge(with("HS256"), good, []byte(strings.Repeat("x", 32))), verifier.ErrSignature},
		"no signature":                    {shared, encode(with("HS256")) + "." + encode(good) + ".", verifier.ErrSignature},
		"none":                            {shared, encode(with("none")) + "." + encode(good) + ".", verifier.ErrAlgorithm},
		"HS512":                           {shared, forge(with("HS512"), good, []byte(secret)), verifier.ErrAlgorithm},
		"HS256 by the RSA PEM":            {public, forge(with("HS256"), good, rsaPEM), verifier.ErrAlgorithm},
		"HS256 by the EC PEM":             {public, forge(with("HS256"), good, ecPEM), verifier.ErrAlgorithm},
		"PS256":                           {public, forge(with("PS256"), good, rsaKey), verifier.ErrAlgorithm},
		"EdDSA":                           {public, forge(with("EdDSA"), good, edKey), verifier.ErrAlgorithm},
		"another key":                     {public, forge(with("ES256"), good, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))), verifier.ErrSignature},
		"no exp":                          {shared, forge(with("HS256"), object{"datasets": []string{"ds0"}}, []byte(secret)), verifier.ErrMalformed},
		"expired":                         {shared, forge(with("HS256"), object{"exp": time.Now().Unix() - 1}, []byte(secret)), verifier.ErrExpired},
		"not yet":                         {shared, forge(with("HS256"), object{"exp": soon + 600, "nbf": soon + 300}, []byte(secret)), verifier.ErrNotYetValid},
		"exp twice":                       {shared, forge(with("HS256"), fmt.Sprintf(`{"exp":1,"exp":%d}`, soon), []byte(secret)), verifier.ErrMalformed},
		"alg twice":                       {shared, forge(`{"alg":"none","alg":"HS256"}`, good, []byte(secret)), verifier.ErrMalformed},
		"crit":                            {shared, forge(object{"alg": "HS256", "crit": []string{"exp"}}, good, []byte(secret)), verifier.ErrHeader},
		"of another purpose":              {public, forge(object{"alg": "ES256", "typ": "at+jwt"}, good, ecKey), verifier.ErrType},
		"an id_token":                     {public, forge(with("ES256"), object{"exp": soon, "nonce": "n"}, ecKey), verifier.ErrType},
		"one that only its issuer judges": {shared, forge(with("HS256"), object{"exp": soon, "status": object{"status_list": object{"idx": 1, "uri": "https://wts/status/0"}}}, []byte(secret)), verifier.ErrType},
		"nothing":                         {shared, "", verifier.ErrMalformed},
		"two parts":                       {shared, "a.b", verifier.ErrMalformed},
		"longer than is read":             {shared, strings.Repeat("a", 20<<10), verifier.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if claims, err := row.pinned.Verify(t.Context(), row.token); !errors.Is(err, row.want) || err == nil && claims == nil {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	if printed := fmt.Sprintf("%v %+v %#v", shared, *shared, must(verifier.SecretKey(secret))); strings.Contains(printed, secret) {
		t.Errorf("a secret is printed: %s", printed)
	}
}

// What could make a token's algorithm a matter of choice, or a signature cheap, is no key.
func TestWhatIsNoPinnedKey(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for name, text := range map[string][]byte{
		"Ed25519":       pemOf(t, public),
		"1,024 bits":    pemOf(t, weak.Public()),
		"P-384":         pemOf(t, p384.Public()),
		"a private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))}),
		"no PEM":        []byte("secret"),
		"an empty one":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY"}),
	} {
		t.Run(name, func(t *testing.T) {
			if keys, err := verifier.PublicKeys(text); err == nil {
				t.Errorf("%d keys", len(keys))
			}
		})
	}
	for name, secret := range map[string]string{"31 bytes": strings.Repeat("s", 31), "a PEM": string(pemOf(t, public))} {
		t.Run(name, func(t *testing.T) {
			if _, err := verifier.SecretKey(secret); err == nil {
				t.Error("it is accepted as a secret")
			}
		})
	}
	for name, keys := range map[string][]verifier.Key{"no keys": nil, "an empty key": {{}}} {
		t.Run(name, func(t *testing.T) {
			if _, err := verifier.NewPinned(keys); err == nil {
				t.Error("it is a verifier")
			}
		})
	}
}

func FuzzPinned(f *testing.F) {
	secret := strings.Repeat("s", 32)
	pinned := must(verifier.NewPinned([]verifier.Key{must(verifier.SecretKey(secret))}))
	good := forge(object{"alg": "HS256"}, object{"exp": time.Now().Add(time.Hour).Unix()}, []byte(secret))
	for _, seed := range []string{good, "a.b.c", "..", encode(`{"alg":"none"}`) + "." + encode(`{}`) + "."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := pinned.Verify(t.Context(), token); err == nil && token != good {
			t.Fatalf("a forged token passed: %q", token)
		}
	})
}

func FuzzPublicKeys(f *testing.F) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))}))
	f.Add([]byte("-----BEGIN RSA PUBLIC KEY-----\nAA==\n-----END RSA PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if keys, err := verifier.PublicKeys(text); err == nil && len(keys) == 0 {
			t.Fatal("neither a key nor an error")
		}
	})
}
