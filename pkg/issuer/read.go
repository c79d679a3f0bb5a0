package issuer

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// Where an audience's people come back with the token that they were given, as PEPhub's do, it is read here: most readers
// of our tokens cannot, since the secret of HS256 is known to the audience and to us alone.

var (
	// ErrNotOurs: a text is no token that was made here for the audience.
	ErrNotOurs = errors.New("it is no token for this service")
	// ErrEnded: a token has expired.
	ErrEnded = errors.New("the token has expired")
)

// Said is what a token says that was made here.
type Said struct {
	Subject string // the user's own id
	ID      string // jti
	Session string // the login that it is of; empty for none
	// ExpiresAt is when it ends; it may have.
	ExpiresAt time.Time
	// Claims are all of them.
	Claims json.RawMessage
}

// Read verifies a token of an audience whose tokens are signed with a secret, or of the profile pephub. Who knows the
// secret can make such tokens: what matters has to be known of the login besides. The errors are ErrNotOurs and ErrEnded,
// with which what the token says is returned too.
func (i *signing) Read(audience, token string) (Said, error) {
	of, ok := i.config.Audiences[audience]
	parts := strings.Split(token, ".")
	if !ok || len(parts) != 3 || len(token) > maxRead {
		return Said{}, ErrNotOurs
	}
	var head struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}
	if decode(parts[0], &head) != nil || head.Algorithm != of.Algorithm || !i.signed(audience, of, head.KeyID, head.Type, token) {
		return Said{}, ErrNotOurs
	}
	var said struct {
		Issuer    string `json:"iss"`
		Audience  string `json:"audience"`
		Subject   string `json:"sub"`
		ID        string `json:"jti"`
		Session   string `json:"sid"`
		ExpiresAt int64  `json:"exp"`
	}
	if decode(parts[1], &said) != nil || said.Issuer != i.config.URL || said.Audience != audience || said.ExpiresAt == 0 {
		return Said{}, ErrNotOurs
	}
	read := Said{Subject: said.Subject, ID: said.ID, Session: said.Session, ExpiresAt: time.Unix(said.ExpiresAt, 0)}
	_ = decode(parts[1], &read.Claims) // it was read before
	if !i.now().Before(read.ExpiresAt) {
		return read, ErrEnded
	}
	return read, nil
}

// maxRead is how long a token may be that is read, in bytes.
const maxRead = 64 << 10

// A token chooses neither the algorithm nor the type by which it is verified: the audience has one of each (RFC 8725 3.1,
// 3.11). A retired secret reads on for as long as what it signed may be valid, and the next one reads nothing yet.

// signed tells whether a token's signature is by a key of the audience's.
func (i *signing) signed(id string, audience Audience, keyID, kind, token string) bool {
	state := i.state.Load()
	if state == nil {
		return false
	}
	if audience.Algorithm != HS256 {
		key, known := state.public[keyID]
		if !known || key.Algorithm != audience.Algorithm || kind != profiles[audience.Profile].kind {
			return false
		}
		_, err := jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(key.Algorithm), key.Public))
		return err == nil
	}
	input, signature, _ := strings.Cut(token[strings.IndexByte(token, '.')+1:], ".")
	input = token[:strings.IndexByte(token, '.')+1] + input
	presented, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil {
		return false
	}
	for _, key := range i.secretsOf(state, id, audience) {
		own := key.signer()
		if expected, err := own.signature([]byte(input)); err == nil && hmac.Equal(expected, presented) {
			return true
		}
	}
	return false
}

// secretsOf are the secrets that may have signed a valid token of an audience.
func (i *signing) secretsOf(state *keyState, id string, audience Audience) (keys []AudienceKey) {
	if audience.SigningSecret != "" {
		return []AudienceKey{{ID: "configured", Algorithm: HS256, Secret: audience.SigningSecret}}
	}
	for _, key := range state.own[id] {
		if key.Secret != "" && key.State() != Next && i.counts(key, i.now()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// decode reads a part of a token.
func decode(part string, into any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
