package provider

import (
	"context"
	"net/url"
	"strings"

	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// Refresh presents a refresh token, once. RefreshToken in the answer is the successor, or empty where
// the provider keeps the old one. Errors are *Error, whose Outcome says what became of the grant. The
// caller's context must be detached from any request: giving up in the middle of a rotation loses the
// successor. The subject is who the grant is of; where it is known and the answer's id_token names
// another, IdentityFlaw says so.
func (p *Provider) Refresh(ctx context.Context, refreshToken secret.Text, subject string, gate Gate) (Tokens, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.RefreshTimeout)
	defer cancel()
	form := func() url.Values {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {string(refreshToken)}}
		if quirks[p.Config.Quirks].scopeOnRefresh {
			form.Set("scope", strings.Join(p.Config.Scopes, " "))
		}
		return form
	}
	issuedAt := p.now()
	said, failure := p.ask(ctx, "refresh", ends, form(), p.Config.ClientSecret, gate)
	if failure != nil && failure.Code == "invalid_client" && p.Config.NextClientSecret != "" {
		issuedAt = p.now()
		said, failure = p.ask(ctx, "refresh", ends, form(), p.Config.NextClientSecret, gate)
	}
	if failure != nil {
		return Tokens{}, failure
	}
	tokens := read(said, issuedAt)
	if tokens.AccessExpiresAt.IsZero() { // the refresh token that we have is still the grant
		tokens.AccessExpiresAt = issuedAt.Add(unknownLife)
	}
	if tokens.RefreshToken == refreshToken {
		tokens.RefreshToken = ""
	}
	tokens.IdentityFlaw = p.identityFlaw(said.idToken, subject)
	return tokens, nil
}

// identityFlaw compares who the id_token of a refresh names with whose grant it is (OIDC Core 12.2). One
// that cannot be read says nothing; it came from the token endpoint itself, so that its signature adds
// nothing (OIDC Core 3.1.3.7).
func (p *Provider) identityFlaw(idToken secret.Text, subject string) string {
	if subject == "" || !p.Config.Identifies() {
		return ""
	}
	var claims struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
	}
	if unverified.Claims(string(idToken), &claims) != nil {
		return ""
	}
	switch {
	case claims.Subject != "" && claims.Subject != subject:
		return "the id_token of a refresh names another person"
	case claims.Issuer != "" && p.Config.Issuer != "" && claims.Issuer != p.Config.Issuer:
		return "the id_token of a refresh comes from another issuer"
	}
	return ""
}
