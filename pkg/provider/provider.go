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
	*discovery
	statePrefix string
	posts       http.RoundTripper // for tokens: each connection carries one request, and is aborted
}

// discovery is what is known of a provider, and how it comes to be known: by the configuration, or by a document
// (OIDC Discovery 1.0).
type discovery struct {
	ID     string
	Config Config

	redirectURL string
	reader      *http.Client // for documents
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
		discovery: &discovery{ID: id, Config: config, redirectURL: redirectURL, reader: newReader(config.Timeout, config.guard()), now: time.Now},
		posts:     capped{newPosts(config.RefreshTimeout, config.guard())},
	}
	if config.RedirectURI != "" {
		p.redirectURL, p.statePrefix = config.RedirectURI, sharedPrefix(config.RedirectURI, redirectURL)
	}
	switch {
	case config.Type == TypeGitHub:
		p.discovered = p.githubEndpoints()
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
func (d *discovery) discover(ctx context.Context) (*endpoints, error) {
	d.mu.Lock()
	known, failed, failedAt, now := d.discovered, d.failed, d.failedAt, d.now()
	d.mu.Unlock()
	wait := discoveryWait
	if d.Config.explicit() {
		wait = explicitWait
	}
	switch {
	case known != nil && (known.fixed || now.Sub(known.at) < discoveryLife || now.Sub(failedAt) < wait):
		return known, nil
	case known == nil && failed != nil && now.Sub(failedAt) < discoveryWait:
		return nil, failed
	}
	reading := d.reading.DoChan("", func() (any, error) { return d.readDocument(context.WithoutCancel(ctx)) })
	if known != nil {
		return known, nil
	}
	select {
	case read := <-reading:
		ends, _ := read.Val.(*endpoints)
		return ends, read.Err
	case <-ctx.Done():
		return nil, &Error{Provider: d.ID, Doing: "discovery", Outcome: Unsent, Reason: "no answer in time"}
	}
}

// readDocument reads and judges the document. What is found takes the place of what was known; a failure does not.
func (d *discovery) readDocument(ctx context.Context) (*endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Config.Timeout)
	defer cancel()
	issuer := d.Config.Issuer
	if issuer == "" {
		issuer = strings.TrimRight(d.Config.BaseURL, "/")
	}
	reader, status := *d.reader, 0
	reader.Transport = roundTrip(func(request *http.Request) (*http.Response, error) {
		response, err := d.reader.Transport.RoundTrip(request)
		if err == nil {
			status = response.StatusCode
		}
		return response, err
	})
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, &reader), issuer)
	if err != nil {
		return nil, d.undiscovered(d.discoveryError(err, issuer, status))
	}
	ends, failure := d.accept(found, issuer, d.now())
	if failure != nil {
		return nil, d.undiscovered(failure)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.discovered, d.failed = ends, nil
	return ends, nil
}

// undiscovered notes a failure, after which it is not tried again for a moment.
func (d *discovery) undiscovered(failure *Error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed, d.failedAt = failure, d.now()
	return failure
}

// asymmetric are the id_token algorithms we accept. "none" and the HS family are not among them:
// with those, whoever knows a public key or the client secret could say who a person is.
var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// accept checks the document's endpoints as strictly as the configured issuer.
func (d *discovery) accept(found *oidc.Provider, issuer string, now time.Time) (*endpoints, *Error) {
	var document struct {
		KeysURL    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
		IssParam   bool     `json:"authorization_response_iss_parameter_supported"`
		Revocation string   `json:"revocation_endpoint"`
		UserInfo   string   `json:"userinfo_endpoint"`
	}
	if err := found.Claims(&document); err != nil {
		return nil, d.distrust("discovery", "the document cannot be read")
	}
	endpoint := found.Endpoint()
	if d.Config.explicit() {
		endpoint.AuthURL, endpoint.TokenURL = d.Config.AuthURL, d.Config.TokenURL
	}
	for name, text := range map[string]string{
		"authorization_endpoint": endpoint.AuthURL, "token_endpoint": endpoint.TokenURL, "jwks_uri": document.KeysURL,
	} {
		parsed, err := url.Parse(text)
		if err != nil || d.checkEndpoint((&url.URL{Scheme: parsed.Scheme, Host: parsed.Host}).String(), issuer) != nil {
			return nil, d.distrust("discovery", name+" is missing or not https")
		}
	}
	if document.Revocation != "" && d.checkEndpoint(document.Revocation, issuer) != nil {
		document.Revocation = "" // nothing is sent there
	}
	if document.UserInfo != "" && d.checkEndpoint(document.UserInfo, issuer) != nil {
		document.UserInfo = ""
	}
	algorithms := slices.DeleteFunc(slices.Clone(asymmetric), func(name string) bool {
		return len(document.Algorithms) > 0 && !slices.Contains(document.Algorithms, name)
	})
	if len(algorithms) == 0 {
		return nil, d.distrust("discovery", "it signs id_tokens with no algorithm that is accepted")
	}
	return &endpoints{
		oauth: d.oauth(endpoint.AuthURL, endpoint.TokenURL),
		verifier: oidc.NewVerifier(issuer, d.keysAt(document.KeysURL), &oidc.Config{
			ClientID:             d.Config.ClientID,
			SupportedSigningAlgs: algorithms,
			Now:                  d.now,
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
func (d *discovery) checkEndpoint(text, issuer string) error {
	if strings.HasPrefix(text, "http:") && !strings.HasPrefix(issuer, "http:") &&
		!strings.HasPrefix(d.Config.AuthURL, text) && !strings.HasPrefix(d.Config.TokenURL, text) {
		return errors.New("is http, and the issuer is not")
	}
	return checkURL(text)
}

// oauth is the client at two endpoints. How it authenticates is pinned.
func (d *discovery) oauth(authURL, tokenURL string) oauth2.Config {
	style := oauth2.AuthStyleInHeader
	if d.Config.ClientAuth == AuthPost {
		style = oauth2.AuthStyleInParams
	}
	return oauth2.Config{
		ClientID:     d.Config.ClientID,
		ClientSecret: string(d.Config.ClientSecret),
		Endpoint:     oauth2.Endpoint{AuthURL: authURL, TokenURL: tokenURL, AuthStyle: style},
		RedirectURL:  d.redirectURL,
		Scopes:       d.Config.Scopes,
	}
}

// explicitEndpoints are those of a provider that need have no discovery document: signatures cannot
// be verified until one is found. Audience, expiry, nonce and, where it is known, the issuer are
// checked all the same, and the id_token came from the token endpoint itself, over TLS.
func (d *discovery) explicitEndpoints() *endpoints {
	return &endpoints{
		oauth: d.oauth(d.Config.AuthURL, d.Config.TokenURL),
		verifier: oidc.NewVerifier(d.Config.Issuer, nil, &oidc.Config{
			ClientID: d.Config.ClientID, SkipIssuerCheck: d.Config.Issuer == "", InsecureSkipSignatureCheck: true, Now: d.now,
		}),
		fixed:    d.Config.Issuer == "" && d.Config.BaseURL == "",
		unsigned: true,
	}
}

// keyed is discover for whoever is about to believe an id_token: while no keys are known, and a document
// may name some, it waits for one attempt to read it. A provider whose issuer is configured has to have
// keys.
func (d *discovery) keyed(ctx context.Context) (*endpoints, error) {
	ends, err := d.discover(ctx)
	if err != nil || !ends.unsigned {
		return ends, err
	}
	d.mu.Lock()
	tried := !d.failedAt.IsZero()
	d.mu.Unlock()
	if !ends.fixed && !tried {
		reading := d.reading.DoChan("", func() (any, error) { return d.readDocument(context.WithoutCancel(ctx)) })
		select {
		case read := <-reading:
			if found, ok := read.Val.(*endpoints); ok && read.Err == nil {
				ends = found
			}
		case <-ctx.Done():
		}
	}
	if ends.unsigned && d.Config.Issuer != "" {
		return nil, &Error{Provider: d.ID, Doing: "discovery", Outcome: Unsent, Reason: "the provider's keys cannot be had"}
	}
	return ends, nil
}

// distrust is the error of a discovery document that is not to be believed.
func (d *discovery) distrust(doing, reason string) *Error {
	return &Error{Provider: d.ID, Doing: doing, Outcome: Untrusted, Reason: reason}
}

// roundTrip is a function as an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

const wellKnown = "/.well-known/openid-configuration"

// discoveryError says which document could not be used, and what to change.
func (d *discovery) discoveryError(err error, issuer string, status int) *Error {
	document := strings.TrimSuffix(issuer, "/") + wellKnown
	var mismatch *oidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return d.distrust("discovery", fmt.Sprintf("%s states the issuer %.200q, and %q is configured; compare them byte for byte, a trailing slash counts", document, mismatch.Discovered, issuer))
	case status != 0 && status != http.StatusOK:
		reason := fmt.Sprintf("%s answered %d", document, status)
		if strings.Contains(issuer, "/.well-known/") {
			reason += "; give the issuer, not the discovery URL"
		} else if status == http.StatusNotFound {
			reason += "; is the issuer right?"
		}
		return &Error{Provider: d.ID, Doing: "discovery", Outcome: Unsent, Status: status, Reason: reason}
	case status == http.StatusOK:
		return &Error{Provider: d.ID, Doing: "discovery", Outcome: Unsent, Reason: document + " is not a discovery document"}
	}
	return &Error{Provider: d.ID, Doing: "discovery", Outcome: Unsent, Reason: document + ": " + plain(err)}
}

// Issuer is the provider's issuer: the configured one, else the one that a document has confirmed; empty
// where neither is known.
func (d *discovery) Issuer() string {
	if d.Config.Issuer != "" {
		return d.Config.Issuer
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.discovered == nil {
		return ""
	}
	return d.discovered.issuer
}
