package verifier

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// Keys that could not verify, or only at the cost of seconds, are left out.
func TestParseKeys(t *testing.T) {
	text := func(bytes int) string {
		return base64.RawURLEncoding.EncodeToString([]byte("\xff" + strings.Repeat("k", bytes-1)))
	}
	rsa := func(bits int, id string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":"AQAB"}`, id, text(bits/8))
	}
	good := fmt.Sprintf(`{"kty":"OKP","kid":"good","crv":"Ed25519","x":%q}`, text(32))
	for name, row := range map[string]struct {
		keys string
		left int // 0: the set is refused
	}{
		"Ed25519":                     {good, 1},
		"Ed25519 of one byte":         {`{"kty":"OKP","kid":"k","crv":"Ed25519","x":"AA"}`, 0},
		"RSA of 8,192 bits":           {rsa(8192, "k"), 1},
		"RSA of 8,200 bits":           {rsa(8200, "k"), 0},
		"a large one beside a good":   {rsa(560_000, "k") + "," + good, 1},
		"a symmetric one beside good": {`{"kty":"oct","kid":"s","k":"AAAA"},` + good, 1},
		"51 keys":                     {strings.Repeat(good+",", 50) + good, 0},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := parseKeys([]byte(`{"keys":[`+row.keys+`]}`), 50)
			if len(keys) != row.left || (err != nil) != (row.left == 0) {
				t.Errorf("%d keys, %v; want %d", len(keys), err, row.left)
			}
		})
	}
}

// Whatever a key set holds, no key of it can make a verifier panic.
func FuzzParseKeys(f *testing.F) {
	for _, seed := range []string{`{"keys":[]}`, `{"keys":[{"kty":"OKP","kid":"k","crv":"Ed25519","x":"AA"}]}`, `{"keys":[{"kty":"RSA","kid":"k","n":"AQ","e":"AQAB"}]}`, `{"keys":[{"kty":"EC","kid":"k","crv":"P-256","x":"AA","y":"AA"}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseKeys(body, 50)
		if err != nil {
			return
		}
		for _, key := range keys {
			if !sound(key.raw) {
				t.Fatalf("%T is left", key.raw)
			}
		}
	})
}
