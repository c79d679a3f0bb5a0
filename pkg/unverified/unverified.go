// Package unverified reads what a JWT says before, or without, a look at its signature: to choose who verifies it, or
// when to ask for the next one. Nothing may be granted by it; package verifier is for that.
package unverified

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// ErrForm: the text is no JWT in the compact serialization (RFC 7519 3, RFC 7515 3.1).
var ErrForm = errors.New("it is no JWT")

// maxToken is how long a token may be that is looked at, in bytes.
const maxToken = 64 << 10

// Claims reads a token's claims into what encoding/json can fill. The error is ErrForm.
func Claims(token string, claims any) error { return part(token, 1, claims) }

// Header reads a token's protected header (RFC 7515 4). The error is ErrForm.
func Header(token string, header any) error { return part(token, 0, header) }

// Mentions tells whether a token's claims hold a text as it stands there: a quick look, before Claims.
func Mentions(token, text string) bool {
	claims, err := raw(token, 1)
	return err == nil && bytes.Contains(claims, []byte(text))
}

func part(token string, number int, into any) error {
	text, err := raw(token, number)
	if err != nil || json.Unmarshal(text, into) != nil {
		return ErrForm
	}
	return nil
}

// raw is a part of a token as it is before it is read.
func raw(token string, number int) ([]byte, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > maxToken {
		return nil, ErrForm
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[number])
	if err != nil {
		return nil, ErrForm
	}
	return text, nil
}

// IsForm tells whether a text has the three parts of a JWT.
func IsForm(token string) bool { return strings.Count(token, ".") == 2 }

// Expiry is when a token says that it ends (RFC 7519 4.1.4), to the second; the zero time where it is no JWT, or says
// nothing that makes sense.
func Expiry(token string) time.Time {
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	if Claims(token, &claims) != nil || claims.Expiry <= 0 || claims.Expiry > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expiry), 0)
}
