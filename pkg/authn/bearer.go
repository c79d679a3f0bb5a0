package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// authorization judges an Authorization header. Whose token it is, is told by what it claims; nothing
// is trusted by that, it only chooses who verifies it and what a refusal says. used is false where
// the route passes the token over.
func (a *Authenticator) authorization(r *http.Request, peer Peer, accepts Accepts) (caller Caller, used bool, err error) {
	token, readable := verifier.Bearer(r)
	if readable && accepts.Bearer && !accepts.PassOverBearer && a.bearers != nil {
		// Most come again and again. What was verified is known by its hash, before a byte of it is read.
		if claims, known := a.bearers.Verifier.Recall(r.Context(), token); known {
			caller, err = a.bearerOf(r.Context(), token, claims)
			return caller, true, err
		}
	}
	form := formOf(token)
	switch {
	case readable && form.Kubernetes != nil && accepts.ServiceAccount:
		caller, err = a.serviceAccount(r, token)
		return caller, true, err
	case readable && accepts.APIToken && a.apiTokens != nil && a.apiTokens.Looks(token):
		caller, err = a.apiToken(r.Context(), token, peer)
		return caller, true, err
	case readable && accepts.Login && form.Issuer == a.own && form.Session != "":
		caller, err = a.login(r.Context(), token)
		return caller, true, err
	case !accepts.Bearer || accepts.PassOverBearer:
		return Caller{}, false, nil
	case !readable:
		return Caller{}, true, fmt.Errorf("%w: could not parse authorization header", ErrBearer)
	case form.Issuer == a.own:
		return Caller{}, true, fmt.Errorf("%w: it is a token that this service made for another one", ErrBearer)
	}
	caller, err = a.bearer(r, token, form)
	return caller, true, err
}

// BearerToken is the token of a request's Authorization header; empty where there is none that can be read.
func BearerToken(r *http.Request) string {
	token, _ := verifier.Bearer(r)
	return token
}

// Bearers judge access tokens of the default provider.
type Bearers struct {
	Verifier *verifier.Verifier
	// Issuer is whose tokens they are.
	Issuer string
	// ClientID is that of wts at the provider: id_tokens have it as their audience, so that a token with this
	// audience has to show that it is an access token.
	ClientID string
	// Scope has to be among the token's; empty where none is asked for.
	Scope string
	// Names: the provider vouches for the username in its access tokens.
	Names bool
}

// bearer takes the caller for the subject of an access token of the default provider. The user is
// found by issuer and subject, never by a name in the token.
func (a *Authenticator) bearer(r *http.Request, token string, form unverifiedForm) (Caller, error) {
	if a.bearers == nil {
		return Caller{}, fmt.Errorf("%w: bearer tokens are off here; an operator turns them on with bearer.audiences", ErrBearer)
	}
	claims, err := a.bearers.Verifier.Verify(r.Context(), token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return Caller{}, outage(err)
	case err != nil:
		return Caller{}, fmt.Errorf("%w: %s", ErrBearer, a.bearers.flaw(err, form))
	}
	return a.bearerOf(r.Context(), token, claims)
}

// bearerOf is the caller of an access token that was verified.
func (a *Authenticator) bearerOf(ctx context.Context, token string, claims *verifier.Claims) (Caller, error) {
	switch {
	case !a.bearers.isAccess(claims, token):
		return Caller{}, fmt.Errorf("%w: it has the audience of an id_token, and nothing of an access token", ErrBearer)
	case a.bearers.Scope != "" && !claims.HasScopes(a.bearers.Scope):
		return Caller{}, fmt.Errorf("%w: token is missing required scopes: {'%s'}", ErrBearer, a.bearers.Scope)
	}
	username := ""
	if a.bearers.Names {
		username = claims.Username
	}
	user, err := a.people.withSubject(ctx, identity{claims.Issuer, claims.Subject}, username)
	switch {
	case errors.Is(err, ErrUnknown):
		user = User{Username: claims.Username}
	case err != nil:
		return Caller{}, outage(err)
	}
	return allowed(Caller{User: user, Proof: Bearer, Actor: "token " + claims.ID})
}

// isAccess tells an access token from an id_token where both have the same audience: by the type of RFC 9068,
// or by a claim that says what it is good for or whom it was given to. An id_token may lack nonce and at_hash
// (OIDC Core 12.2), so that their absence shows nothing.
func (b *Bearers) isAccess(claims *verifier.Claims, token string) bool {
	if b.ClientID == "" || !slices.Contains(claims.Audience, b.ClientID) {
		return true
	}
	var header struct {
		Type string `json:"typ"`
	}
	if unverified.Header(token, &header) == nil && strings.EqualFold(header.Type, "at+jwt") {
		return true
	}
	var said map[string]any
	if err := claims.Decode(&said); err != nil {
		return false
	}
	for _, name := range []string{"scope", "scp", "client_id", "cid", "appid"} {
		if _, there := said[name]; there {
			return true
		}
	}
	return false
}

// flaw says what is wrong with a bearer, in the words that Gen3's clients know where there are such
// (Gen3 contract 1.2).
func (b *Bearers) flaw(err error, form unverifiedForm) string {
	switch {
	case errors.Is(err, verifier.ErrMalformed) && !form.threeParts:
		return "Not enough segments"
	case errors.Is(err, verifier.ErrIssuer), form.Issuer != "" && form.Issuer != b.Issuer:
		return "invalid issuer: the token is of another one than the default provider"
	case errors.Is(err, verifier.ErrExpired):
		return "Signature has expired"
	case errors.Is(err, verifier.ErrSignature):
		return "Signature verification failed"
	case errors.Is(err, verifier.ErrType) && purposes[form.Purpose]:
		return "claims have incorrect purpose: expected access, got " + form.Purpose
	}
	return err.Error()
}

// purposes are Fence's kinds of token that are no access tokens; no other word is repeated.
var purposes = map[string]bool{"id": true, "refresh": true, "api_key": true, "session": true}

// formOf is what a token says of itself, as far as it decides who verifies it.
func formOf(token string) (form unverifiedForm) {
	if !unverified.IsForm(token) || len(token) > maxBearer {
		return form
	}
	_ = unverified.Claims(token, &form) // what cannot be read says nothing, and nobody accepts it
	form.threeParts = true
	return form
}

const maxBearer = 16 << 10 // bytes, as the verifier's

// ProviderTokens are the verifier's options for access tokens of a provider: those that predate RFC
// 9068 have the type JWT, or none; id_tokens are told apart by their claims.
func ProviderTokens() verifier.Option { return verifier.WithTypes("at+jwt", "JWT", "") }
