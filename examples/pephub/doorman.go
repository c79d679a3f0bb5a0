package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// doorman says who calls.
type doorman struct{ tokens *verifier.Verifier }

func newDoorman(ctx context.Context, issuer, audience string) (*doorman, error) {
	// Tokens of the profile pephub say whom they are for in a claim of their own: PEPhub itself takes none with an aud.
	tokens, err := verifier.New(ctx, issuer, audience,
		verifier.WithAudienceClaim("audience"), verifier.WithTypes("pephub+jwt"), verifier.WithAlgorithms("RS256", "ES256"))
	if err != nil {
		return nil, err
	}
	return &doorman{tokens}, nil
}

// visitor is who calls, and why they are not known though they sent a token.
type visitor struct {
	namespace.Caller
	flaw error // nil, or one of verifier's
}

// visitor reads the token, which PEPHubClient sends as it is, and other clients as a bearer. A token that is not good
// makes the caller anonymous, and no request fail: public data needs none.
func (d *doorman) visitor(r *http.Request) visitor {
	token := strings.TrimSpace(r.Header.Get("Authorization"))
	if bearer, ok := verifier.Bearer(r); ok {
		token = bearer
	}
	if token == "" {
		return visitor{}
	}
	claims, err := d.tokens.Verify(r.Context(), token)
	if err != nil {
		return visitor{flaw: err}
	}
	var said struct {
		Login string   `json:"login"`
		Orgs  []string `json:"orgs"`
	}
	if claims.Decode(&said) != nil || said.Login == "" {
		return visitor{flaw: verifier.ErrMalformed}
	}
	return visitor{Caller: namespace.Caller{Login: said.Login, Orgs: said.Orgs}}
}

// refusal is an answer other than the one that was asked for.
type refusal struct {
	status int
	detail string
}

func (r *refusal) Error() string { return r.detail }

// The texts that PEPHub's clients look at.
const (
	hasExpired = "JWT has expired"
	wasRevoked = "JWT has been revoked"
)

// refuse is what a visitor is told whom the table does not allow something. What it says of a private thing is what it
// says of a missing one.
func (v visitor) refuse(decision namespace.Decision, missing string) error {
	switch {
	case errors.Is(v.flaw, verifier.ErrRevoked):
		return &refusal{http.StatusUnauthorized, wasRevoked}
	case errors.Is(v.flaw, verifier.ErrUnavailable):
		return &refusal{http.StatusServiceUnavailable, "the keys of wts cannot be had, so that the token is neither good nor bad; try again in a moment"}
	case decision == namespace.Hide && errors.Is(v.flaw, verifier.ErrExpired):
		return &refusal{http.StatusNotFound, missing + ". " + hasExpired}
	case decision == namespace.Hide:
		return &refusal{http.StatusNotFound, missing}
	case decision == namespace.Forbid:
		return &refusal{http.StatusForbidden, "The user does not have permission to write to this namespace."}
	case errors.Is(v.flaw, verifier.ErrExpired):
		return &refusal{http.StatusUnauthorized, hasExpired}
	case v.flaw != nil:
		return &refusal{http.StatusUnauthorized, "Invalid token. Log in again."}
	}
	return &refusal{http.StatusUnauthorized, "Log in first: this changes what is in the namespace."}
}

// may is nil where the table allows it. A token that was revoked is told so whatever it is shown for: its holder is to
// learn of it, or another person has it who should not.
func (v visitor) may(action namespace.Action, key key, visibility namespace.Visibility) error {
	decision := namespace.Decide(v.Caller, action, key.namespace, visibility)
	if decision.Allowed() && !errors.Is(v.flaw, verifier.ErrRevoked) {
		return nil
	}
	return v.refuse(decision, "Project "+key.String()+" not found")
}
