package provider

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// Refresh presents a refresh token, once. RefreshToken in the answer is the successor, or empty
// where the provider keeps the old one. Errors are *Error, whose Outcome says what became of the
// grant. The caller's context must be detached from any request: giving up in the middle of a
// rotation loses the successor.
func (p *Provider) Refresh(ctx context.Context, refreshToken Secret) (Tokens, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.RefreshTimeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(oidc.ClientContext(ctx, p.client), &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	issuedAt := p.now()
	answer, err := ends.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: string(refreshToken)}).Token()
	if err != nil {
		return Tokens{}, p.classify("refresh", err, sent.Load())
	}
	tokens := p.read(answer, issuedAt)
	if tokens.RefreshToken == refreshToken { // x/oauth2 repeats ours where none came
		tokens.RefreshToken = ""
	}
	return tokens, nil
}
