package provider

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
)

// The bounds of a key set (rule A4): a signature by a larger key costs seconds of a CPU to verify.
const (
	// MaxKeys bounds the keys of a provider.
	MaxKeys    = 50
	maxRSABits = 8192
)

var errKeys = errors.New("the key set has more keys than are accepted, or cannot be read")

// soundKeys hands on the keys of a provider's key set (RFC 7517) that are of a kind, size and form that
// can verify; others are left out, so that one of a new kind takes no other along.
type soundKeys struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s soundKeys) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := s.next.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	if closed := response.Body.Close(); err != nil || closed != nil {
		return nil, errors.Join(err, closed)
	}
	body, err = onlySound(body)
	if err != nil {
		return nil, err
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// onlySound leaves out the keys of a set that nobody should verify with, and keeps the others: one bad key must not
// keep everybody from logging in.
func onlySound(body []byte) ([]byte, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) > MaxKeys {
		return nil, errKeys
	}
	sound := []json.RawMessage{}
	for _, raw := range set.Keys {
		var key publishedKey
		if json.Unmarshal(raw, &key) == nil && key.sound() {
			sound = append(sound, raw)
		}
	}
	return json.Marshal(map[string]any{"keys": sound}) //nolint:wrapcheck // what came out of JSON goes into it
}

// publishedKey are the members of a JWK (RFC 7518 6) that say how large it is.
type publishedKey struct {
	Type     string `json:"kty"`
	Curve    string `json:"crv"`
	Modulus  string `json:"n"`
	Exponent string `json:"e"`
	X        string `json:"x"`
	Y        string `json:"y"`
}

// coordinates are the lengths of a curve's, in bytes (RFC 7518 6.2.1.2, RFC 8037 2).
var coordinates = map[string]int{"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": 32}

// sound tells whether a key is of a size that costs no more than a signature should: a modulus of megabytes would hold
// a processor for seconds at each token.
func (k publishedKey) sound() bool {
	length := func(text string) int {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return -1
		}
		return len(raw)
	}
	switch k.Type {
	case "RSA":
		modulus, err := base64.RawURLEncoding.DecodeString(k.Modulus)
		if err != nil || len(modulus) > maxRSABits/8+1 {
			return false
		}
		exponent := length(k.Exponent)
		return new(big.Int).SetBytes(modulus).BitLen() <= maxRSABits && exponent > 0 && exponent <= 4
	case "EC":
		want := coordinates[k.Curve]
		return want > 0 && k.Curve != "Ed25519" && length(k.X) == want && length(k.Y) == want
	case "OKP":
		return k.Curve == "Ed25519" && length(k.X) == coordinates[k.Curve]
	}
	return false
}
