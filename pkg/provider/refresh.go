package provider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// ErrGate is what a Gate says that lets nothing through any more.
var ErrGate = errors.New("the right to present the token had lapsed before it was sent")

// Gate is asked once, in the moment before the first byte of a refresh token leaves: after the dial
// and the handshake, which may have taken long. Nothing is sent where it returns false.
type Gate func() bool

// Refresh presents a refresh token, once. RefreshToken in the answer is the successor, or empty
// where the provider keeps the old one. Errors are *Error, whose Outcome says what became of the
// grant. The caller's context must be detached from any request: giving up in the middle of a
// rotation loses the successor.
func (p *Provider) Refresh(ctx context.Context, refreshToken secret.Text, gate Gate) (Tokens, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.RefreshTimeout)
	defer cancel()
	tokens, failure := p.present(ctx, ends.oauth, refreshToken, gate)
	if failure != nil && failure.Code == "invalid_client" && p.Config.NextClientSecret != "" {
		next := ends.oauth
		next.ClientSecret = string(p.Config.NextClientSecret)
		tokens, failure = p.present(ctx, next, refreshToken, gate)
	}
	if failure != nil {
		return Tokens{}, failure
	}
	return tokens, nil
}

func (p *Provider) present(ctx context.Context, client oauth2.Config, refreshToken secret.Text, gate Gate) (Tokens, *Error) {
	post := &gatedPost{next: p.client.Transport, gate: gate}
	if quirks[p.Config.Quirks].scopeOnRefresh {
		post.scope = strings.Join(p.Config.Scopes, " ")
	}
	gated := &http.Client{Transport: post, CheckRedirect: p.client.CheckRedirect}
	issuedAt := p.now()
	answer, err := client.TokenSource(oidc.ClientContext(ctx, gated), &oauth2.Token{RefreshToken: string(refreshToken)}).Token()
	if err != nil {
		failure := p.classify("refresh", err, post.sent.Load())
		if post.html.Load() && failure.Outcome == Unknown && failure.Status == 0 {
			failure.Outcome, failure.Reason = Unexpected, "the answer is a page: something between answered for the provider"
		}
		return Tokens{}, failure
	}
	tokens := p.read(answer, issuedAt)
	if tokens.RefreshToken == refreshToken { // x/oauth2 repeats ours where none came
		tokens.RefreshToken = ""
	}
	return tokens, nil
}

// gatedPost sends a POST through the gate, and notes whether a byte of it may have left.
type gatedPost struct {
	next       http.RoundTripper
	gate       Gate
	scope      string
	sent, html atomic.Bool
}

func (g *gatedPost) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	text, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	if g.scope != "" {
		text = append(text, "&scope="+url.QueryEscape(g.scope)...)
		request.ContentLength = int64(len(text))
	}
	// A connection from the pool that turns out to be dead before anything was written is replaced by
	// the transport; the body is then read again, and the gate asked again.
	request.GetBody = func() (io.ReadCloser, error) {
		return &gatedBody{gatedPost: g, text: strings.NewReader(string(text))}, nil
	}
	request.Body, _ = request.GetBody()
	response, err := g.next.RoundTrip(request)
	if err == nil {
		g.html.Store(strings.Contains(response.Header.Get("Content-Type"), "text/html"))
	}
	return response, err
}

type gatedBody struct {
	*gatedPost
	text   *strings.Reader
	passed bool
}

func (b *gatedBody) Read(into []byte) (int, error) {
	if !b.passed {
		if b.gate != nil && !b.gate() {
			return 0, ErrGate
		}
		b.passed = true
		b.sent.Store(true)
	}
	return b.text.Read(into)
}

func (b *gatedBody) Close() error { return nil }
