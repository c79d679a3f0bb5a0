package server

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// defaultLife is the life that a caller can count on who asks for none.
const defaultLife = 5 * time.Minute

// tokenWanted is what a request of /token asks for.
type tokenWanted struct {
	idp      string
	audience string // empty: the provider's own token
}

func (s *Server) wanted(x *exchange) tokenWanted {
	idp, named := x.param("idp")
	audience, _ := x.param("audience")
	if audience == "" && !named {
		audience = s.Config.DefaultAudience
	}
	return tokenWanted{idp: idp, audience: audience}
}

// tokenProofs passes over a provider's bearer where the upstream token of the default provider is
// wanted: else a token of twenty minutes could renew itself for ever (Gen3 contract 1.2).
func tokenProofs(s *Server, x *exchange, accepts authn.Accepts) authn.Accepts {
	want := s.wanted(x)
	if want.audience == "" {
		id, err := s.Broker.Provider(want.idp)
		accepts.PassOverBearer = err == nil && s.Broker.IsDefault(id)
	}
	return accepts
}

// token answers GET /token: an upstream access token, or for an audience one of our own.
func (s *Server) token(x *exchange) error {
	want := s.wanted(x)
	x.event.Audience = cut(want.audience)
	life, err := lifetime(x)
	if err != nil {
		return err
	}
	if want.audience != "" {
		return s.mint(x, want, life)
	}
	if value, named := x.param("idp"); named && value == "" {
		return unknownProvider("") // contract 1.2: an empty idp is no default here
	}
	id, err := s.Broker.Provider(want.idp)
	if err != nil {
		return unknownProvider(want.idp)
	}
	x.event.Provider = id
	if life == 0 {
		life = defaultLife
	}
	token, err := s.Broker.Token(x.Request.Context(), x.caller.User.ID, id, life)
	if err != nil {
		return err
	}
	x.event.Token = hex.EncodeToString(token.SHA256[:])
	if token.Degraded {
		x.Header("Wts-Degraded", "the token lives, and no better one can be had at the moment")
	}
	s.record(x)
	x.Writer.Header()["Content-Type"] = jsonType
	x.Writer.WriteHeader(http.StatusOK)
	_, err = x.Writer.WriteString(token.Body)
	return ignoreGone(err)
}

// minted is the answer with a token of our own.
type minted struct {
	Token     string `json:"token"`
	TokenType string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"` // seconds
	Audience  string `json:"audience"`
}

func (s *Server) mint(x *exchange, want tokenWanted, life time.Duration) error {
	x.event.Action = audit.Mint
	if _, named := x.param("idp"); named {
		return badRequest("message", "idp and audience exclude each other: the one asks for a provider's token, the other for one of ours")
	}
	if !s.Issuer.Audience(want.audience) {
		return badRequest("message", fmt.Sprintf("The audience %q is not registered", cut(want.audience)))
	}
	// A token of ours is tied to the living grant of its user.
	defaultID, _ := s.Broker.Provider("") // there always is one
	if err := s.Broker.Living(x.Request.Context(), x.caller.User.ID, defaultID); err != nil {
		return err
	}
	scope, _ := x.param("scope")
	token, err := s.Issuer.Mint(issuer.Request{
		Audience: want.audience, Subject: x.caller.User.ID, Username: x.caller.User.Username,
		ClientID: string(x.caller.Proof), Actor: issuer.Actor{Subject: x.caller.Actor},
		Scopes: strings.Fields(scope), Lifetime: life,
	})
	if err != nil {
		return err
	}
	x.event.Token = token.ID
	s.record(x)
	return x.json(http.StatusOK, minted{Token: token.Value, TokenType: "Bearer", ExpiresIn: token.ExpiresIn, Audience: token.Audience})
}

// maxExpires keeps seconds within what a time.Duration holds; no token lives a century.
const maxExpires = 100 * 365 * 24 * 3600

// lifetime reads expires, in seconds; 0 where it is absent or empty (Gen3 contract 1.2, 1.4).
func lifetime(x *exchange) (time.Duration, error) {
	text, _ := x.param("expires")
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, badRequest("error", "expires has to be an integer")
	}
	if seconds <= 0 {
		return 0, badRequest("error", "expires has to be a positive number of seconds")
	}
	return time.Duration(min(seconds, maxExpires)) * time.Second, nil
}

// json renders a value.
func (x *exchange) json(status int, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("rendering an answer: %w", err)
	}
	x.Writer.Header()["Content-Type"] = jsonType
	x.Writer.WriteHeader(status)
	_, err = x.Writer.Write(append(body, '\n'))
	return ignoreGone(err)
}

// ignoreGone: a caller who went away before the answer was written is nobody's error.
func ignoreGone(error) error { return nil }
