package unverified_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/unverified"
)

func token(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode([]byte(claims)) + ".signature"
}

func TestClaims(t *testing.T) {
	for name, row := range map[string]struct {
		token, issuer string
		err           error
	}{
		"a JWT":                  {token: token(`{"alg":"RS256"}`, `{"iss":"https://a.example"}`), issuer: "https://a.example"},
		"claims of another kind": {token: token(`{}`, `["iss"]`), err: unverified.ErrForm},
		"no JSON":                {token: token(`{}`, `iss`), err: unverified.ErrForm},
		"padded base64":          {token: "e30.e30=.x", err: unverified.ErrForm},
		"two parts":              {token: "e30.e30", err: unverified.ErrForm},
		"five parts, encrypted":  {token: "e30.e30.e30.e30.e30", err: unverified.ErrForm},
		"empty":                  {token: "", err: unverified.ErrForm},
		"larger than is read":    {token: token(`{}`, `{"iss":"`+strings.Repeat("x", 64<<10)+`"}`), err: unverified.ErrForm},
	} {
		t.Run(name, func(t *testing.T) {
			var claims struct {
				Issuer string `json:"iss"`
			}
			if err := unverified.Claims(row.token, &claims); !errors.Is(err, row.err) || claims.Issuer != row.issuer {
				t.Errorf("got %q, %v; want %q, %v", claims.Issuer, err, row.issuer, row.err)
			}
		})
	}
}

func TestHeader(t *testing.T) {
	var header struct {
		Type string `json:"typ"`
	}
	if err := unverified.Header(token(`{"typ":"at+jwt"}`, `{}`), &header); err != nil || header.Type != "at+jwt" {
		t.Errorf("got %q, %v; want at+jwt", header.Type, err)
	}
}

func TestExpiry(t *testing.T) {
	for name, row := range map[string]struct {
		claims string
		want   time.Time
	}{
		"seconds":             {`{"exp":1800000000}`, time.Unix(1800000000, 0)},
		"parts of a second":   {`{"exp":1800000000.9}`, time.Unix(1800000000, 0)},
		"none":                {`{}`, time.Time{}},
		"0, an offline token": {`{"exp":0}`, time.Time{}},
		"negative":            {`{"exp":-1}`, time.Time{}},
		"beyond all years":    {`{"exp":1e300}`, time.Time{}},
		"text":                {`{"exp":"soon"}`, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := unverified.Expiry(token(`{}`, row.claims)); !got.Equal(row.want) {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// Whatever comes, nothing panics, and what has no form gives no time.
func FuzzExpiry(f *testing.F) {
	f.Add(token(`{"alg":"none"}`, `{"exp":1}`))
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if ends := unverified.Expiry(text); !ends.IsZero() && !unverified.IsForm(text) {
			t.Errorf("%q has no form, and ends %s", text, ends)
		}
	})
}
