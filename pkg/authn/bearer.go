package authn

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// bearer takes the caller for the subject of an access token of the default provider. The user is
// found by issuer and subject, never by a name in the token.
func (a *Authenticator) bearer(r *http.Request) (Caller, error) {
	token, ok := verifier.Bearer(r)
	if !ok {
		return Caller{}, fmt.Errorf("%w: could not parse authorization header", ErrBearer)
	}
	// Told apart by what the token claims, to say what is wrong; nothing is trusted by it.
	if claimedIssuer(token) == a.own {
		return Caller{}, fmt.Errorf("%w: it is a token that this service made for another one", ErrBearer)
	}
	if a.bearers == nil {
		return Caller{}, fmt.Errorf("%w: bearer tokens are off here; an operator turns them on with bearer.audiences", ErrBearer)
	}
	claims, err := a.bearers.Verify(r.Context(), token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return Caller{}, outage(err)
	case err != nil:
		return Caller{}, fmt.Errorf("%w: %w", ErrBearer, err)
	}
	user, err := a.people.directory.UserBySubject(r.Context(), claims.Issuer, claims.Subject)
	switch {
	case errors.Is(err, ErrUnknown):
		user = User{Username: claims.Username}
	case err != nil:
		return Caller{}, outage(err)
	}
	return allowed(Caller{User: user, Proof: Bearer, Actor: "token " + claims.ID})
}

func claimedIssuer(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	_ = json.Unmarshal(payload, &claims)
	return claims.Issuer
}

// NewBearers makes the verifier for access tokens of the default provider. Providers that predate
// RFC 9068 sign them with the type JWT, or none; id_tokens are told apart by their claims.
func NewBearers(options ...verifier.Option) []verifier.Option {
	return append(options, verifier.WithTypes("at+jwt", "JWT", ""))
}
