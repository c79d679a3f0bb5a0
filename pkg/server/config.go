package server

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/workspace-token-service/wts/web"
)

// Config is the server, as the operator writes it.
type Config struct {
	// URL is the public base URL, as browsers and verifiers reach the service.
	URL string `config:"url"`
	// Listen are the addresses to listen on. Default :8080.
	Listen []string `config:"listen"`
	// TLS is served on them where a certificate is named; else something before the service does that.
	TLS TLSConfig `config:"tls"`
	// MetricsListen is the address of /metrics, apart from everything else. Default 127.0.0.1:9090;
	// "off" has none.
	MetricsListen string `config:"metrics_listen"`
	// DefaultAudience is whom /token mints for where the request names neither audience nor idp.
	// Without one it hands on the default provider's own access token, as Gen3 expects.
	DefaultAudience string `config:"default_audience"`
	// RateLimits are how many requests of a kind one caller may make in a second, where the defaults do not do.
	RateLimits map[string]float64 `config:"rate_limits"`
	// Page is how the pages present their organisation.
	Page web.Config `config:"page"`
	// Portal says that the service stands behind Gen3's portal, which has sessions of its own and does not
	// end ours: ours count for logins and pages alone, so that the portal's logout ends access (Gen3
	// contract 1.4).
	Portal bool `config:"-"`
	// Version and Commit are what /_version says.
	Version, Commit string `config:"-"`
}

// TLSConfig names a certificate and its key, PEM files that are read again when they change.
type TLSConfig struct {
	CertFile string `config:"cert_file"`
	KeyFile  string `config:"key_file"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults() Config {
	c.URL = strings.TrimRight(c.URL, "/")
	if len(c.Listen) == 0 {
		c.Listen = []string{":8080"}
	}
	if c.MetricsListen == "" {
		c.MetricsListen = "127.0.0.1:9090"
	}
	return c
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var pair error
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		pair = errors.New("tls: cert_file and key_file go together")
	}
	return errors.Join(pair, c.validateURL(), checkLimits(c.RateLimits), c.Page.Validate())
}

// validateURL wants the address that browsers and verifiers reach: cookies, redirects and the issuer follow from it.
func (c Config) validateURL() error {
	parsed, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		return errors.New("url: is missing; it is how browsers reach the service, like https://wts.example.org")
	case err != nil || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "":
		return fmt.Errorf("url: is not a URL like https://wts.example.org: %q", c.URL)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		return fmt.Errorf("url: must be https (or http, on localhost): %q", c.URL)
	}
	return nil
}
