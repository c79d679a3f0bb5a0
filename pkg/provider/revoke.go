package provider

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Revoke tells the provider that a refresh token is no longer wanted (RFC 7009). A provider without a
// revocation endpoint is told nothing, which is no error. Errors are *Error.
func (p *Provider) Revoke(ctx context.Context, refreshToken secret.Text) error {
	ends, err := p.discover(ctx)
	if err != nil {
		return err
	}
	if ends.revocation == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	form := url.Values{"token": {string(refreshToken)}, "token_type_hint": {"refresh_token"}}
	if p.Config.ClientAuth == AuthPost {
		form.Set("client_id", p.Config.ClientID)
		form.Set("client_secret", string(p.Config.ClientSecret))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, ends.revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return p.distrust("revocation", "the endpoint is not a URL")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if p.Config.ClientAuth != AuthPost {
		request.SetBasicAuth(url.QueryEscape(p.Config.ClientID), url.QueryEscape(string(p.Config.ClientSecret)))
	}
	response, err := p.client.Do(request)
	if err != nil {
		return &Error{Provider: p.ID, Doing: "revocation", Outcome: Unknown, Reason: plain(err)}
	}
	defer response.Body.Close()
	// Unknown and already revoked tokens are answered with 200 (RFC 7009 2.2); Fence says 204.
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return &Error{Provider: p.ID, Doing: "revocation", Outcome: p.verdict(response.StatusCode, ""), Status: response.StatusCode, RetryAfter: retryAfter(response.Header)}
	}
	return nil
}
