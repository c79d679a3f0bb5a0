package verifier

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Claims is what a good token says (RFC 9068 2.2). They are shared between requests: read them,
// change nothing.
type Claims struct {
	Issuer   string
	Subject  string   // the user's own id, never reused
	Audience []string // at least the verifier's; what WithAudienceClaim names, where there is no aud
	ClientID string
	ID       string // jti
	Username string // preferred_username
	Scopes   []string
	Groups   []string
	Session  string // sid: the login of a program that a person let in; empty for a token of none
	Resource string // the thing inside the audience that the token is for; empty for none
	// Zero where the token does not state them; ExpiresAt always is stated.
	IssuedAt, NotBefore, ExpiresAt time.Time

	raw []byte
	// named is whom the token is for by the claim that the verifier reads it from; the audience where that is aud.
	named []string
	// status is where it stands whether the token was revoked; nil for one that cannot be.
	status *statusAt
	// otherKind says that the claims are those of a token which is no access token.
	otherKind bool
}

// Decode reads all claims into a value of your own, as json.Unmarshal does.
func (c *Claims) Decode(into any) error {
	if err := json.Unmarshal(c.raw, into); err != nil {
		return fmt.Errorf("reading the claims: %w", err)
	}
	return nil
}

// HasScopes tells whether the token was given every one of these scopes.
func (c *Claims) HasScopes(names ...string) bool {
	for _, name := range names {
		if !slices.Contains(c.Scopes, name) {
			return false
		}
	}
	return true
}

// statusAt is a place in a status list.
type statusAt struct {
	uri   string
	index int64
}

// readStatus reads where a token's status stands. Providers have a claim of that name too, which is no object, or says
// something else: only a status list is meant.
func (c *Claims) readStatus(raw json.RawMessage) error {
	var status struct {
		List json.RawMessage `json:"status_list"`
	}
	if bytes.HasPrefix(raw, []byte("{")) {
		_ = json.Unmarshal(raw, &status) // what cannot be read is none
	}
	if len(status.List) == 0 {
		return nil
	}
	var entry struct {
		Index *int64  `json:"idx"`
		URI   *string `json:"uri"`
	}
	if json.Unmarshal(status.List, &entry) != nil || entry.Index == nil || entry.URI == nil {
		return fmt.Errorf("%w: its place in a status list cannot be read", ErrMalformed)
	}
	c.status = &statusAt{uri: *entry.URI, index: *entry.Index}
	return nil
}

// wireClaims are the registered claims as they stand in the payload.
type wireClaims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  stringOrSet     `json:"aud"`
	ClientID  string          `json:"client_id"`
	ID        string          `json:"jti"`
	Username  string          `json:"preferred_username"`
	Scope     scopes          `json:"scope"`
	Groups    stringOrSet     `json:"groups"`
	Resource  stringOrSet     `json:"resource"`
	Session   json.RawMessage `json:"sid"`
	IssuedAt  *seconds        `json:"iat"`
	NotBefore *seconds        `json:"nbf"`
	ExpiresAt *seconds        `json:"exp"`
	Status    json.RawMessage `json:"status"`
	kinds
}

// first is the claim where it is one word.
func (s stringOrSet) first() string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// kinds are the claims by which providers tell their tokens apart where the header's type does not:
// Fence by pur, Cognito by token_use, Keycloak by typ.
type kinds struct {
	Purpose  any `json:"pur"`
	TokenUse any `json:"token_use"`
	Type     any `json:"typ"`
}

// otherKind tells an id_token, a refresh token or a logout token by what only they hold.
func (k kinds) otherKind(members []string) bool {
	for _, name := range []string{"nonce", "at_hash", "c_hash", "events"} {
		if slices.Contains(members, name) {
			return true
		}
	}
	return k.Purpose != nil && k.Purpose != "access" || k.TokenUse != nil && k.TokenUse != "access" || k.Type != nil && k.Type != "Bearer"
}

// readClaims reads a verified payload. A token without exp is refused: it would be good for ever.
func readClaims(payload []byte, settings settings) (*Claims, error) {
	var wire wireClaims
	members, err := strictObject(payload, &wire)
	if err != nil {
		return nil, err
	}
	if wire.ExpiresAt == nil {
		return nil, fmt.Errorf("%w: it has no exp", ErrMalformed)
	}
	if settings.username != "" {
		var all map[string]any
		if err := json.Unmarshal(payload, &all); err != nil {
			return nil, fmt.Errorf("%w: not one JSON object", ErrMalformed)
		}
		wire.Username = textAt(all, settings.username)
	}
	claims := &Claims{
		Issuer: wire.Issuer, Subject: wire.Subject, Audience: wire.Audience, ClientID: wire.ClientID, ID: wire.ID,
		Username: wire.Username, Scopes: wire.Scope, Groups: wire.Groups, Resource: wire.Resource.first(),
		IssuedAt: wire.IssuedAt.time(), NotBefore: wire.NotBefore.time(), ExpiresAt: wire.ExpiresAt.time(),
		raw:       payload,
		otherKind: wire.otherKind(members),
	}
	_ = json.Unmarshal(wire.Session, &claims.Session) // what is no text is another issuer's matter
	if err := claims.readNamed(settings.audienceClaim, slices.ContainsFunc(members, isAud)); err != nil {
		return nil, err
	}
	return claims, claims.readStatus(wire.Status)
}

// isAud tells a member that encoding/json reads as aud.
func isAud(member string) bool { return strings.EqualFold(member, "aud") }

// readNamed reads whom the token is for. Where a claim of another name says so, an aud that is stated counts beside it.
func (c *Claims) readNamed(claim string, stated bool) error {
	c.named = c.Audience
	if claim == "" {
		return nil
	}
	var all map[string]json.RawMessage
	var named stringOrSet
	if json.Unmarshal(c.raw, &all) != nil || all[claim] != nil && json.Unmarshal(all[claim], &named) != nil {
		return fmt.Errorf("%w: whom it is for is neither a text nor texts", ErrMalformed)
	}
	c.named = named
	if !stated {
		c.Audience = named
	}
	return nil
}

// textAt follows a path with dots into nested members; a whole name with dots wins, since some issuers
// use URLs for names.
func textAt(members map[string]any, path string) string {
	if text, ok := members[path].(string); ok {
		return text
	}
	first, rest, nested := strings.Cut(path, ".")
	inner, ok := members[first].(map[string]any)
	if !ok || !nested {
		return ""
	}
	return textAt(inner, rest)
}

// seconds is a NumericDate (RFC 7519 2).
type seconds float64

func (s *seconds) UnmarshalJSON(text []byte) error {
	var number float64
	if err := json.Unmarshal(text, &number); err != nil || math.Abs(number) > 1<<53 {
		return errors.New("a time is not a number of seconds")
	}
	*s = seconds(number)
	return nil
}

func (s *seconds) time() time.Time {
	if s == nil {
		return time.Time{}
	}
	whole, part := math.Modf(float64(*s))
	return time.Unix(int64(whole), int64(part*1e9))
}

// stringOrSet is a claim that may be one string or an array of them, as aud may (RFC 7519 4.1.3).
type stringOrSet []string

func (s *stringOrSet) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*s = stringOrSet{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(s))
}

// scopes are words with spaces between (RFC 8693 4.2), or an array, as Fence has it.
type scopes []string

func (s *scopes) UnmarshalJSON(text []byte) error {
	var words string
	if json.Unmarshal(text, &words) == nil {
		*s = strings.Fields(words)
		return nil
	}
	return json.Unmarshal(text, (*[]string)(s))
}

const maxDepth = 16

// strictObject decodes one JSON object and nothing after it, and returns its members' names. A
// name that stands twice, at any depth, is refused: two readers could take two meanings from it
// (RFC 8725 3.12, RFC 7519 4).
func strictObject(text []byte, into any) ([]string, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	members, err := scan(decoder, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) || len(text) == 0 || bytes.TrimSpace(text)[0] != '{' {
		return nil, fmt.Errorf("%w: not one JSON object", ErrMalformed)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, fmt.Errorf("%w: a member is of another type than it has to be", ErrMalformed)
	}
	return members, nil
}

// scan walks one JSON value; the names it returns are those of the outermost object.
func scan(decoder *json.Decoder, depth int) ([]string, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	token, err := decoder.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	delimiter, composite := token.(json.Delim)
	if !composite {
		return nil, nil
	}
	var names []string
	for decoder.More() {
		if delimiter == '{' {
			name, err := decoder.Token()
			if err != nil {
				return nil, errors.New("not JSON")
			}
			// encoding/json matches names without regard to case, so "EXP" would count as exp.
			if slices.ContainsFunc(names, func(other string) bool { return strings.EqualFold(other, name.(string)) }) {
				return nil, errors.New("a member stands twice")
			}
			names = append(names, name.(string))
		}
		if _, err := scan(decoder, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	return names, nil
}
