package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// The scopes that the audience has at wts.
const (
	scopeUpload  = "upload"  // of a plugin's token: adds and replaces versions
	scopeRead    = "read"    // of a plugin's token: sees what the checks came to
	scopeApprove = "approve" // of a person on the site's staff, never of a plugin
)

// Why a request does not do what it asks for.
var (
	errToken = errors.New("Invalid token")       //nolint:staticcheck // the words of the interface
	errAway  = errors.New("wts does not answer") // 503
)

// mayUpload returns who uploads, as the version will name it, where the request's token is one of this plugin.
//
// The verifier judges the token: a JWT by the published keys and the status list, an opaque one by introspection. An
// upload is rare and lasts, so that the site then asks wts once more: a token that was revoked a moment ago uploads
// nothing, and the answer says what the maintainers call the token. While wts is away, what the verifier knows counts.
func (s *site) mayUpload(r *http.Request, plugin string) (by string, err error) {
	token, claims, err := s.verified(r)
	switch {
	case err != nil:
		return "", err
	case claims.Resource == "":
		return "", fmt.Errorf("%w: it is for no plugin; make one on the page of the plugin %s at %s", errToken, plugin, s.wts.url)
	case claims.Resource != plugin:
		return "", fmt.Errorf("%w: it is for the plugin %.64s, and not for %s", errToken, claims.Resource, plugin)
	case !claims.HasScopes(scopeUpload):
		return "", fmt.Errorf("%w: it lacks the scope %s; make one that has it", errToken, scopeUpload)
	}
	said, err := s.wts.introspect(r.Context(), token)
	switch {
	case err != nil:
		s.log.Warn("a token is not asked about: what the site knows of it counts", "error", err.Error())
	case !said.Active:
		return "", fmt.Errorf("%w: it was revoked or has expired; make another one at %s", errToken, s.wts.url)
	}
	return label(claims, said), nil
}

// label is what a version says of how it was uploaded: the description of the token, or else its name; of a CI job the
// trusted publisher, by which the audit of wts finds the job.
func label(claims *verifier.Claims, said introspected) string {
	var more struct {
		Actor struct {
			Subject string `json:"sub"`
		} `json:"act"` // RFC 8693 4.1
	}
	_ = claims.Decode(&more) // an opaque token has none
	for _, text := range []string{said.Description, said.Name} {
		if text != "" {
			return "token " + text
		}
	}
	if claims.ClientID == "trusted_publisher" {
		return "trusted " + more.Actor.Subject // publisher, and its id at wts
	}
	if strings.HasPrefix(more.Actor.Subject, "token ") { // a short token, which an API token was traded for
		return more.Actor.Subject
	}
	return "token " + claims.ID
}

// mayApprove wants a person whom wts gives the scope for it. A plugin's own token approves nothing.
func (s *site) mayApprove(r *http.Request) error {
	_, claims, err := s.verified(r)
	switch {
	case err != nil:
		return err
	case claims.Resource != "" || !claims.HasScopes(scopeApprove):
		return fmt.Errorf("%w: a version is approved by a person with the scope %s", errToken, scopeApprove)
	}
	return nil
}

// seesMore tells whether a reader sees what the public does not. One whose token is not good reads what the public
// reads: an old token in a script must not keep it from what is public.
func (s *site) seesMore(r *http.Request, plugin string) bool {
	_, claims, err := s.verified(r)
	return err == nil && claims.Resource == plugin && (claims.HasScopes(scopeRead) || claims.HasScopes(scopeUpload))
}

// verified is the request's token, judged by the verifier.
func (s *site) verified(r *http.Request) (string, *verifier.Claims, error) {
	token, sent := verifier.Bearer(r)
	if !sent {
		return "", nil, fmt.Errorf("%w: send Authorization: Bearer with a token of %s", errToken, s.wts.url)
	}
	claims, err := s.tokens.Verify(r.Context(), token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return "", nil, fmt.Errorf("%w: %w", errAway, err)
	case err != nil:
		return "", nil, fmt.Errorf("%w: %w; make another one at %s", errToken, err, s.wts.url)
	}
	return token, claims, nil
}

// newVerifier judges tokens of both forms, opaque and JWT.
func newVerifier(ctx context.Context, wts *authority) (*verifier.Verifier, error) {
	return verifier.New(ctx, wts.url, wts.audience, verifier.WithRealm("plugins"),
		verifier.WithIntrospection(wts.url+"/oauth2/introspect", wts.audience, wts.secret))
}
