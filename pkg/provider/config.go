package provider

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// How the client proves itself at the token endpoint (OIDC Core 9). It is pinned, never detected:
// detecting means to send the same code or refresh token twice.
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
)

// The kinds of provider.
const (
	TypeOIDC  = "oidc"
	TypeFence = "fence" // Gen3's
	// TypeGitHub is GitHub, or an own server of it: an OAuth app or a GitHub App.
	TypeGitHub = "github"
)

// The callbacks of a provider that is not the default one.
const (
	CallbackOwn    = "own"
	CallbackShared = "shared"
)

// Config is one upstream identity provider, as the operator writes it.
type Config struct {
	// Type is TypeOIDC (the default), TypeFence or TypeGitHub, which says what its endpoints, scopes and claims are
	// where nothing else is said.
	Type string `config:"type"`
	// Name is what a person reads; the provider's id where it is empty.
	Name string `config:"name"`
	// Issuer is the provider's issuer identifier, byte for byte as its discovery document states it.
	Issuer string `config:"issuer"`
	// AuthURL and TokenURL, together, are for a provider without a discovery document. One is looked for
	// all the same; without its keys an id_token is taken on the word of TLS (OIDC Core 3.1.3.7, 6).
	AuthURL  string `config:"auth_url"`
	TokenURL string `config:"token_url"`
	// BaseURL is the commons that the provider belongs to: what /external_oidc calls it, whom /aggregate
	// asks, where a discovery document is looked for without an issuer.
	BaseURL string `config:"base_url"`
	// RedirectURI is the one registered there, where it is not ours: whoever is behind it sends the
	// browser on to us, by the first label of our host name, which the state then begins with.
	RedirectURI string `config:"redirect_uri"`
	// Callback is where the provider sends browsers back to: CallbackOwn (the default), which is
	// <url>/oauth2/authorize/<id>, or CallbackShared, which is <url>/oauth2/authorize, for a provider whose
	// registration cannot be changed yet. The default provider's is <url>/oauth2/authorize in either case.
	Callback string `config:"callback"`
	// ReuseGrace is how long the provider accepts a spent refresh token once more (Okta, Auth0, Cognito,
	// Hydra and Dex have such a time, Dex 3 s by default): a refresh whose outcome is not known is then
	// tried again at once. It shortens no timeout.
	ReuseGrace time.Duration `config:"reuse_grace"`
	// RevokesAccess says that a refresh ends the access token before: nothing is refreshed ahead of need.
	RevokesAccess bool `config:"revokes_access"`
	// RefreshRate bounds the refreshes of all replicas together in any second; four fifths of it can be
	// kept up. A replica whose part is less than two sends one at a time. Default 50.
	RefreshRate float64 `config:"refresh_rate"`
	// Quirks names one of the known ways in which providers differ (quirks.go): github, gitea, hydra, entra.
	Quirks string `config:"quirks"`
	// NextClientSecret is tried where the provider does not take ClientSecret: for a change-over.
	NextClientSecret secret.Text `config:"next_client_secret"`
	// Rotates says whether a refresh gives a new refresh token; nil where that is not known.
	Rotates *bool `config:"rotates"`
	// Position orders the providers where a person sees them; those of the same by name.
	Position int `config:"position"`

	ClientID     string      `config:"client_id"`
	ClientSecret secret.Text `config:"client_secret"`
	// ClientSecretFile names a file that holds the secret; it wins over ClientSecret.
	ClientSecretFile string `config:"client_secret_file"`
	// ClientAuth is AuthBasic (the default) or AuthPost.
	ClientAuth string `config:"client_auth"`
	// Scopes are the ones asked for, and no others.
	Scopes []string `config:"scopes"`
	// UsernameClaim is the path, with dots, of the id_token's claim that names the person.
	UsernameClaim string `config:"username_claim"`
	// GroupsClaim is the path of the claim that names a person's groups, in the id_token or in UserInfo, for audiences
	// whose access rules name groups. None where it is empty.
	GroupsClaim string `config:"groups_claim"`
	// TrustUnverifiedEmail lets an e-mail address name a person though the provider does not say that
	// it has verified it: only for providers whose people cannot choose their address.
	TrustUnverifiedEmail bool `config:"trust_unverified_email"`
	// Prompt is sent at login; "consent" is what Google and node oidc-provider want before they
	// give a refresh token.
	Prompt string `config:"prompt"`
	// LoginParams are further parameters of the authorization request.
	LoginParams map[string]string `config:"login_params"`
	// Timeout bounds one call to the provider. Default 10 s. A refresh may take longer, since giving up
	// on one that the provider is only slow with can end the grant: RefreshTimeout, default 60 s.
	Timeout        time.Duration `config:"timeout"`
	RefreshTimeout time.Duration `config:"refresh_timeout"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults(id string) Config {
	if c.Name == "" {
		c.Name = id
	}
	switch c.Type {
	case TypeFence:
		c = c.withFenceDefaults()
	case TypeGitHub:
		c = c.withGitHubDefaults()
	}
	if c.ClientAuth == "" {
		c.ClientAuth = AuthBasic
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "profile", "email", "offline_access"}
	}
	if c.UsernameClaim == "" {
		c.UsernameClaim = "email"
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.RefreshTimeout == 0 {
		c.RefreshTimeout = time.Minute
	}
	if c.RefreshRate == 0 {
		c.RefreshRate = 50
	}
	return c
}

// reserved are the parameters of the authorization request that are ours to set (RFC 6749 4.1.1,
// RFC 7636 4.3, OIDC Core 3.1.2.1).
var reserved = []string{
	"response_type", "client_id", "redirect_uri", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "response_mode", "request", "request_uri",
}

// Reserved tells that a parameter of the authorization request is ours to set.
func Reserved(name string) bool { return slices.Contains(reserved, name) }

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Type != "" && c.Type != TypeOIDC && c.Type != TypeFence && c.Type != TypeGitHub {
		fault("type: is %q, want %s, %s or %s", c.Type, TypeOIDC, TypeFence, TypeGitHub)
	}
	if c.Type == TypeGitHub && (c.AuthURL != "" || c.TokenURL != "") {
		fault("auth_url, token_url: are known of GitHub; for an own server set base_url")
	}
	faults = append(faults, c.checkAddresses()...)
	if c.ClientID == "" {
		fault("client_id: is missing; it is what the provider gave when wts was registered there")
	}
	if c.ClientSecret == "" && c.ClientSecretFile == "" {
		fault("client_secret: is missing (or client_secret_file)")
	}
	if c.Callback != "" && c.Callback != CallbackOwn && c.Callback != CallbackShared {
		fault("callback: is %q, want %s or %s", c.Callback, CallbackOwn, CallbackShared)
	}
	if c.ClientAuth != "" && c.ClientAuth != AuthBasic && c.ClientAuth != AuthPost {
		fault("client_auth: is %q, want %s or %s", c.ClientAuth, AuthBasic, AuthPost)
	}
	if len(c.Scopes) > 0 && !c.Identifies() && !c.explicit() {
		fault("scopes: lack openid, without which no login says who the person is")
	}
	for name := range c.LoginParams {
		if Reserved(name) {
			fault("login_params.%s: is for wts to set", name)
		}
	}
	if c.Timeout < 0 || c.RefreshTimeout < 0 || c.ReuseGrace < 0 || c.RefreshRate < 0 || math.IsNaN(c.RefreshRate) || math.IsInf(c.RefreshRate, 0) {
		fault("timeout, refresh_timeout, reuse_grace, refresh_rate: must be numbers, and not negative")
	}
	if _, known := quirks[c.Quirks]; !known {
		fault("quirks: is %q, want one of %s", c.Quirks, strings.Join(slices.Sorted(maps.Keys(quirks))[1:], ", "))
	}
	return errors.Join(faults...)
}

// checkURL wants https, or http to this very machine (security.md A4).
func checkURL(text string) error {
	parsed, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("is missing")
	case err != nil || parsed.Host == "" || parsed.User != nil || parsed.Fragment != "" || parsed.RawQuery != "":
		return fmt.Errorf("is not a URL like https://login.example.org: %q", text)
	case parsed.Scheme == "https", parsed.Scheme == "http" && loopback(parsed.Hostname()):
		return nil
	default:
		return fmt.Errorf("must be https (http only on a loopback address): %q", text)
	}
}

// loopback tells a host that is this machine, where http is accepted.
func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.IsLoopback()
}

// checkAddresses judges the addresses, each where it is needed or given.
func (c Config) checkAddresses() (faults []error) {
	given := map[string]string{"auth_url": c.AuthURL, "token_url": c.TokenURL, "base_url": c.BaseURL, "redirect_uri": c.RedirectURI}
	for _, name := range []string{"auth_url", "token_url", "base_url", "redirect_uri"} {
		if err := checkURL(given[name]); given[name] != "" && err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	switch err := checkURL(c.Issuer); {
	case (c.AuthURL == "") != (c.TokenURL == ""):
		faults = append(faults, errors.New("auth_url, token_url: go together"))
	case c.Issuer == "" && (c.explicit() || c.Type == TypeGitHub || c.Type == TypeFence && c.BaseURL != ""):
	case err != nil:
		faults = append(faults, fmt.Errorf("issuer: %w", err))
	}
	return faults
}

// explicit tells that the endpoints are configured rather than discovered.
func (c Config) explicit() bool { return c.AuthURL != "" && c.TokenURL != "" }

// OwnCallback tells that the provider sends browsers back to an address of its own, so that another
// provider's code cannot be taken for one of its own (RFC 9700 4.4). The service behind a redirect_uri
// sends browsers on to the shared one.
func (c Config) OwnCallback() bool { return c.Callback != CallbackShared && c.RedirectURI == "" }

// Identifies tells whether a login says who the person is there.
func (c Config) Identifies() bool {
	return c.Type == TypeGitHub || len(c.Scopes) == 0 || slices.Contains(c.Scopes, "openid")
}

// NeverRotates tells that a refresh token of the provider's is known to stay the same.
func (c Config) NeverRotates() bool { return c.Rotates != nil && !*c.Rotates }

// Plaintext tells whether the provider is reached without TLS, which deserves a line in the log.
func (c Config) Plaintext() bool {
	return strings.HasPrefix(c.Issuer, "http://") || strings.HasPrefix(c.TokenURL, "http://")
}

// Unsigned tells whether id_tokens may have to be taken without their signature, which deserves a
// word to the operator.
func (c Config) Unsigned() bool { return c.explicit() && c.Issuer == "" && c.Identifies() }
