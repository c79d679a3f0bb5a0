// Package provider is one upstream identity provider, seen from its client: where a person logs
// in, how a code becomes a grant, how a refresh token becomes an access token.
//
// It owns the wire to the provider and what an answer means. It does not own users, rows, locks or
// retries: every method makes at most one call that could spend something.
package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
)

// Provider speaks to one identity provider. It is safe for concurrent use, and making one calls
// nobody: a provider that is down never keeps the service from starting.
type Provider struct {
	ID     string
	Config Config

	redirectURL string
	statePrefix string
	posts       http.RoundTripper // for tokens: each connection carries one request, and is aborted
	reader      *http.Client      // for documents
	now         func() time.Time

	reading    singleflight.Group
	mu         sync.Mutex // never held over a call
	discovered *endpoints
	failed     *Error
	failedAt   time.Time
	keys       *providerKeys
}

// New makes a provider of a valid configuration. The redirect URL is the one registered there.
func New(id string, config Config, redirectURL string) *Provider {
	config = config.WithDefaults(id)
	p := &Provider{
		ID: id, Config: config, redirectURL: redirectURL, now: time.Now,
		posts: capped{newPosts(config.RefreshTimeout, config.guard())}, reader: newReader(config.Timeout, config.guard()),
	}
	if config.RedirectURI != "" {
		p.redirectURL, p.statePrefix = config.RedirectURI, sharedPrefix(config.RedirectURI, redirectURL)
	}
	switch {
	case config.Type == TypeFence:
		p.discovered = p.fenceEndpoints()
	case config.explicit():
		p.discovered = p.explicitEndpoints()
	}
	return p
}

// endpoints is what discovery found.
type endpoints struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
	// revocation is where tokens are revoked (RFC 7009); empty where the provider has no such place.
	revocation string
	// userInfo is where claims are that an id_token lacks (OIDC Core 5.3); empty where there is none.
	userInfo string
	at       time.Time
	// issuer is the one that the document states; empty without a document.
	issuer string
	// issParam: the provider promises iss on its callbacks (RFC 9207 2.3).
	issParam bool
	// fixed: they are known without a document, and none is read.
	fixed bool
	// unsigned: id_tokens are taken on the word of TLS, since no keys are known.
	unsigned bool
}

const (
	discoveryLife = time.Hour       // how long a found document is used before it is read again
	discoveryWait = 2 * time.Second // how soon a failed discovery is tried again
	// explicitWait is how soon it is where the endpoints are configured: there may be no document.
	explicitWait = 10 * time.Minute
)

// discover finds the provider's endpoints: one reading of the document at a time, and seldom. A
// document that has grown old is read again beside the callers, who go on with it: a provider whose
// document hangs, and whose token endpoint does not, slows nobody.
func (p *Provider) discover(ctx context.Context) (*endpoints, error) {
	p.mu.Lock()
	known, failed, failedAt, now := p.discovered, p.failed, p.failedAt, p.now()
	p.mu.Unlock()
	wait := discoveryWait
	if p.Config.explicit() {
		wait = explicitWait
	}
	switch {
	case known != nil && (known.fixed || now.Sub(known.at) < discoveryLife || now.Sub(failedAt) < wait):
		return known, nil
	case known == nil && failed != nil && now.Sub(failedAt) < discoveryWait:
		return nil, failed
	}
	reading := p.reading.DoChan("", func() (any, error) { return p.readDocument(context.WithoutCancel(ctx)) })
	if known != nil {
		return known, nil
	}
	select {
	case read := <-reading:
		ends, _ := read.Val.(*endpoints)
		return ends, read.Err
	case <-ctx.Done():
		return nil, &Error{Provider: p.ID, Doing: "discovery", Outcome: Unsent, Reason: "no answer in time"}
	}
}

func (p *Provider) readDocument(ctx context.Context) (*endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	issuer := p.Config.Issuer
	if issuer == "" {
		issuer = strings.TrimRight(p.Config.BaseURL, "/")
	}
	reader, status := *p.reader, 0
	reader.Transport = roundTrip(func(request *http.Request) (*http.Response, error) {
		response, err := p.reader.Transport.RoundTrip(request)
		if err == nil {
			status = response.StatusCode
		}
		return response, err
	})
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, &reader), issuer)
	if err != nil {
		return nil, p.undiscovered(p.discoveryError(err, issuer, status))
	}
	ends, failure := p.accept(found, issuer, p.now())
	if failure != nil {
		return nil, p.undiscovered(failure)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discovered, p.failed = ends, nil
	return ends, nil
}

// undiscovered notes a failure, after which it is not tried again for a moment.
func (p *Provider) undiscovered(failure *Error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed, p.failedAt = failure, p.now()
	return failure
}

// asymmetric are the id_token algorithms we accept. "none" and the HS family are not among them:
// with those, whoever knows a public key or the client secret could say who a person is.
var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// accept checks the document's endpoints as strictly as the configured issuer.
func (p *Provider) accept(found *oidc.Provider, issuer string, now time.Time) (*endpoints, *Error) {
	var document struct {
		KeysURL    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
		IssParam   bool     `json:"authorization_response_iss_parameter_supported"`
		Revocation string   `json:"revocation_endpoint"`
		UserInfo   string   `json:"userinfo_endpoint"`
	}
	if err := found.Claims(&document); err != nil {
		return nil, p.distrust("discovery", "the document cannot be read")
	}
	endpoint := found.Endpoint()
	if p.Config.explicit() {
		endpoint.AuthURL, endpoint.TokenURL = p.Config.AuthURL, p.Config.TokenURL
	}
	for name, text := range map[string]string{
		"authorization_endpoint": endpoint.AuthURL, "token_endpoint": endpoint.TokenURL, "jwks_uri": document.KeysURL,
	} {
		parsed, err := url.Parse(text)
		if err != nil || p.checkEndpoint((&url.URL{Scheme: parsed.Scheme, Host: parsed.Host}).String(), issuer) != nil {
			return nil, p.distrust("discovery", name+" is missing or not https")
		}
	}
	if document.Revocation != "" && p.checkEndpoint(document.Revocation, issuer) != nil {
		document.Revocation = "" // nothing is sent there
	}
	if document.UserInfo != "" && p.checkEndpoint(document.UserInfo, issuer) != nil {
		document.UserInfo = ""
	}
	algorithms := slices.DeleteFunc(slices.Clone(asymmetric), func(name string) bool {
		return len(document.Algorithms) > 0 && !slices.Contains(document.Algorithms, name)
	})
	if len(algorithms) == 0 {
		return nil, p.distrust("discovery", "it signs id_tokens with no algorithm that is accepted")
	}
	return &endpoints{
		oauth: p.oauth(endpoint.AuthURL, endpoint.TokenURL),
		verifier: oidc.NewVerifier(issuer, p.keysAt(document.KeysURL), &oidc.Config{
			ClientID:             p.Config.ClientID,
			SupportedSigningAlgs: algorithms,
			Now:                  p.now,
		}),
		revocation: document.Revocation,
		userInfo:   document.UserInfo,
		at:         now,
		issuer:     issuer,
		issParam:   document.IssParam,
	}, nil
}

// checkEndpoint judges an address that a document names. http is for a provider whose own issuer is http, on
// this machine, or whose operator configured that very address.
func (p *Provider) checkEndpoint(text, issuer string) error {
	if strings.HasPrefix(text, "http:") && !strings.HasPrefix(issuer, "http:") &&
		!strings.HasPrefix(p.Config.AuthURL, text) && !strings.HasPrefix(p.Config.TokenURL, text) {
		return errors.New("is http, and the issuer is not")
	}
	return checkURL(text)
}

// oauth is the client at two endpoints. How it authenticates is pinned.
func (p *Provider) oauth(authURL, tokenURL string) oauth2.Config {
	style := oauth2.AuthStyleInHeader
	if p.Config.ClientAuth == AuthPost {
		style = oauth2.AuthStyleInParams
	}
	return oauth2.Config{
		ClientID:     p.Config.ClientID,
		ClientSecret: string(p.Config.ClientSecret),
		Endpoint:     oauth2.Endpoint{AuthURL: authURL, TokenURL: tokenURL, AuthStyle: style},
		RedirectURL:  p.redirectURL,
		Scopes:       p.Config.Scopes,
	}
}

// explicitEndpoints are those of a provider that need have no discovery document: signatures cannot
// be verified until one is found. Audience, expiry, nonce and, where it is known, the issuer are
// checked all the same, and the id_token came from the token endpoint itself, over TLS.
func (p *Provider) explicitEndpoints() *endpoints {
	return &endpoints{
		oauth: p.oauth(p.Config.AuthURL, p.Config.TokenURL),
		verifier: oidc.NewVerifier(p.Config.Issuer, nil, &oidc.Config{
			ClientID: p.Config.ClientID, SkipIssuerCheck: p.Config.Issuer == "", InsecureSkipSignatureCheck: true, Now: p.now,
		}),
		fixed:    p.Config.Issuer == "" && p.Config.BaseURL == "",
		unsigned: true,
	}
}

// keyed is discover for whoever is about to believe an id_token: while no keys are known, and a document
// may name some, it waits for one attempt to read it. A provider whose issuer is configured has to have
// keys.
func (p *Provider) keyed(ctx context.Context) (*endpoints, error) {
	ends, err := p.discover(ctx)
	if err != nil || !ends.unsigned {
		return ends, err
	}
	p.mu.Lock()
	tried := !p.failedAt.IsZero()
	p.mu.Unlock()
	if !ends.fixed && !tried {
		reading := p.reading.DoChan("", func() (any, error) { return p.readDocument(context.WithoutCancel(ctx)) })
		select {
		case read := <-reading:
			if found, ok := read.Val.(*endpoints); ok && read.Err == nil {
				ends = found
			}
		case <-ctx.Done():
		}
	}
	if ends.unsigned && p.Config.Issuer != "" {
		return nil, &Error{Provider: p.ID, Doing: "discovery", Outcome: Unsent, Reason: "the provider's keys cannot be had"}
	}
	return ends, nil
}

func (p *Provider) distrust(doing, reason string) *Error {
	return &Error{Provider: p.ID, Doing: doing, Outcome: Untrusted, Reason: reason}
}

// roundTrip is a function as an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

const wellKnown = "/.well-known/openid-configuration"

// discoveryError says which document could not be used, and what to change.
func (p *Provider) discoveryError(err error, issuer string, status int) *Error {
	document := strings.TrimSuffix(issuer, "/") + wellKnown
	var mismatch *oidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return p.distrust("discovery", fmt.Sprintf("%s states the issuer %.200q, and %q is configured; compare them byte for byte, a trailing slash counts", document, mismatch.Discovered, issuer))
	case status != 0 && status != http.StatusOK:
		reason := fmt.Sprintf("%s answered %d", document, status)
		if strings.Contains(issuer, "/.well-known/") {
			reason += "; give the issuer, not the discovery URL"
		} else if status == http.StatusNotFound {
			reason += "; is the issuer right?"
		}
		return &Error{Provider: p.ID, Doing: "discovery", Outcome: Unsent, Status: status, Reason: reason}
	case status == http.StatusOK:
		return &Error{Provider: p.ID, Doing: "discovery", Outcome: Unsent, Reason: document + " is not a discovery document"}
	}
	return &Error{Provider: p.ID, Doing: "discovery", Outcome: Unsent, Reason: document + ": " + plain(err)}
}

// Issuer is the provider's issuer: the configured one, else the one that a document has confirmed; empty
// where neither is known.
func (p *Provider) Issuer() string {
	if p.Config.Issuer != "" {
		return p.Config.Issuer
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.discovered == nil {
		return ""
	}
	return p.discovered.issuer
}
