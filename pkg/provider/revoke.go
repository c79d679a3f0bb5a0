package provider

import (
	"context"
	"errors"
	"net/url"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// ErrNoRevocation says that a provider has no revocation endpoint: it keeps honouring a token that a
// person has disconnected, until the token ends by itself.
var ErrNoRevocation = errors.New("the provider has no revocation endpoint")

// Revoke tells the provider that a refresh token is no longer wanted (RFC 7009), once, through the gate.
// Errors are ErrNoRevocation and *Error.
func (p *Provider) Revoke(ctx context.Context, refreshToken secret.Text, gate Gate) error {
	ends, err := p.discover(ctx)
	if err != nil {
		return err
	}
	if ends.revocation == "" {
		return ErrNoRevocation
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	failure := &Error{Provider: p.ID, Doing: "revocation"}
	post := &gatedPost{gate: gate}
	response, err := p.post(ctx, ends.revocation, url.Values{"token": {string(refreshToken)}, "token_type_hint": {"refresh_token"}}, p.Config.ClientSecret, post)
	if err != nil {
		return p.unanswered(ctx, failure, err, post.sent.Load())
	}
	defer response.Body.Close()
	// Unknown and already revoked tokens are answered with 200 (RFC 7009 2.2); Fence says 204.
	if response.StatusCode < 200 || response.StatusCode > 299 {
		failure.Status, failure.RetryAfter = response.StatusCode, retryAfter(response.Header)
		failure.Outcome = p.Config.verdict(response.StatusCode, answer{})
		return failure
	}
	return nil
}

// Revokes tells whether the provider, as far as it is known, can be told to revoke a token.
func (p *Provider) Revokes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.discovered == nil || p.discovered.revocation != ""
}
