package provider

import (
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Fence is Gen3's identity provider. It has no PKCE and ignores it, echoes the nonce, signs with RS256
// and never rotates a refresh token (Gen3 contract 1.3).

// withFenceDefaults fills in what every Fence has. Its issuer is its base URL, without a slash at the
// end, under /user at the commons that it belongs to.
func (c Config) withFenceDefaults() Config {
	if c.Issuer == "" {
		c.Issuer = strings.TrimRight(c.BaseURL, "/") + "/user"
	}
	if c.BaseURL == "" {
		c.BaseURL = strings.TrimSuffix(c.Issuer, "/user")
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "data", "user"}
	}
	if c.UsernameClaim == "" {
		c.UsernameClaim = "context.user.name"
	}
	if c.Rotates == nil {
		no := false
		c.Rotates = &no
	}
	return c
}

// FenceKeysURL is where a Fence publishes its keys.
func FenceKeysURL(issuer string) string { return issuer + "/.well-known/jwks" }

// fenceEndpoints are known without a discovery document.
func (d *discovery) fenceEndpoints() *endpoints {
	issuer := d.Config.Issuer
	return &endpoints{
		oauth: d.oauth(issuer+"/oauth2/authorize", issuer+"/oauth2/token"),
		verifier: oidc.NewVerifier(issuer, d.keysAt(FenceKeysURL(issuer)), &oidc.Config{
			ClientID: d.Config.ClientID, SupportedSigningAlgs: []string{oidc.RS256}, Now: d.now,
		}),
		revocation: issuer + "/oauth2/revoke",
		fixed:      true,
	}
}
