package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Secret is a value that must never be seen: however it is printed, it prints as [redacted].
// Convert it to a string to use it.
type Secret string

const redacted = "[redacted]"

func (Secret) String() string { return redacted }

// GoString keeps the secret out of %#v.
func (Secret) GoString() string { return redacted }

// MarshalText keeps the secret out of JSON, YAML and slog alike.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// How the client proves itself at the token endpoint (OIDC Core 9). It is pinned, never detected:
// detecting means to send the same code or refresh token twice.
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
)

// Config is one upstream identity provider, as the operator writes it.
type Config struct {
	// Name is what a person reads; the provider's id where it is empty.
	Name string `koanf:"name"`
	// Issuer is the provider's issuer identifier, byte for byte as its discovery document states it.
	Issuer       string `koanf:"issuer"`
	ClientID     string `koanf:"client_id"`
	ClientSecret Secret `koanf:"client_secret"`
	// ClientSecretFile names a file that holds the secret; it wins over ClientSecret.
	ClientSecretFile string `koanf:"client_secret_file"`
	// ClientAuth is AuthBasic (the default) or AuthPost.
	ClientAuth string `koanf:"client_auth"`
	// Scopes are the ones asked for, and no others.
	Scopes []string `koanf:"scopes"`
	// UsernameClaim is the path, with dots, of the id_token's claim that names the person.
	UsernameClaim string `koanf:"username_claim"`
	// TrustUnverifiedEmail lets an e-mail address name a person though the provider does not say that
	// it has verified it: only for providers whose people cannot choose their address.
	TrustUnverifiedEmail bool `koanf:"trust_unverified_email"`
	// Prompt is sent at login; "consent" is what Google and node oidc-provider want before they
	// give a refresh token.
	Prompt string `koanf:"prompt"`
	// LoginParams are further parameters of the authorization request.
	LoginParams map[string]string `koanf:"login_params"`
	// Timeout bounds one call to the provider. Default 10 s; a refresh may take longer, since
	// giving up on one risks the grant: RefreshTimeout, default 60 s.
	Timeout        time.Duration `koanf:"timeout"`
	RefreshTimeout time.Duration `koanf:"refresh_timeout"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults(id string) Config {
	if c.Name == "" {
		c.Name = id
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
	return c
}

// reserved are the parameters of the authorization request that are ours to set (RFC 6749 4.1.1,
// RFC 7636 4.3, OIDC Core 3.1.2.1).
var reserved = []string{
	"response_type", "client_id", "redirect_uri", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "response_mode", "request", "request_uri",
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if err := checkURL(c.Issuer); err != nil {
		fault("issuer: %w", err)
	}
	if c.ClientID == "" {
		fault("client_id: is missing; it is what the provider gave when wts was registered there")
	}
	if c.ClientSecret == "" && c.ClientSecretFile == "" {
		fault("client_secret: is missing (or client_secret_file)")
	}
	if c.ClientAuth != "" && c.ClientAuth != AuthBasic && c.ClientAuth != AuthPost {
		fault("client_auth: is %q, want %s or %s", c.ClientAuth, AuthBasic, AuthPost)
	}
	if len(c.Scopes) > 0 && !slices.Contains(c.Scopes, "openid") {
		fault("scopes: lack openid, without which no login says who the person is")
	}
	for name := range c.LoginParams {
		if slices.Contains(reserved, name) {
			fault("login_params.%s: is for wts to set", name)
		}
	}
	if c.Timeout < 0 || c.RefreshTimeout < 0 {
		fault("timeout, refresh_timeout: must not be negative")
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

func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.IsLoopback()
}

// Plaintext tells whether the provider is reached without TLS, which deserves a line in the log.
func (c Config) Plaintext() bool { return strings.HasPrefix(c.Issuer, "http://") }
