package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// keys answers /.well-known/.
type keys struct {
	issuer    *issuer.Issuer
	discovery []byte
}

// keySet publishes the keys (RFC 7517 5), from memory.
func (k *keys) keySet(x *exchange) error {
	body, etag, maxAge, err := k.issuer.KeySet()
	if err != nil {
		return err
	}
	x.Header("Cache-Control", fmt.Sprintf("public, max-age=%d", maxAge/time.Second))
	x.Header("ETag", etag)
	x.Header("Access-Control-Allow-Origin", "*") // public, and single-page apps verify too
	if strings.Contains(x.GetHeader("If-None-Match"), etag) {
		x.Status(http.StatusNotModified)
		return nil
	}
	x.Data(http.StatusOK, "application/jwk-set+json", body)
	return nil
}

// discover publishes where the keys are (OIDC Discovery 3, RFC 8414 2).
func (k *keys) discover(x *exchange) error {
	x.Header("Cache-Control", "public, max-age=300")
	x.Header("Access-Control-Allow-Origin", "*")
	x.Data(http.StatusOK, "application/json", k.discovery)
	return nil
}

// renderDiscovery renders the document once: nothing in it changes while the service runs. The scopes are those of tokens
// for wts itself, so that its command knows what it can ask for.
func renderDiscovery(base string, scopes []string) []byte {
	body, _ := json.Marshal(map[string]any{ // words and truths, which always marshal
		"issuer":                                         base,
		"jwks_uri":                                       base + "/.well-known/jwks.json",
		"authorization_endpoint":                         base + "/oauth2/auth",
		"device_authorization_endpoint":                  base + "/oauth2/device_authorization",
		"token_endpoint":                                 base + "/oauth2/token",
		"introspection_endpoint":                         base + "/oauth2/introspect",
		"revocation_endpoint":                            base + "/oauth2/revoke",
		"scopes_supported":                               scopes,
		"grant_types_supported":                          grantTypes,
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          issuer.Algorithms,
		"token_endpoint_auth_methods_supported":          []string{"none"},
		"introspection_endpoint_auth_methods_supported":  []string{"client_secret_basic", "client_secret_post"},
		"revocation_endpoint_auth_methods_supported":     []string{"none"},
	})
	return body
}
