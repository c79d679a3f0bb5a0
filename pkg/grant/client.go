package grant

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Config is which programs may ask, as the operator writes it.
type Config struct {
	Clients map[string]Client `config:"clients"`
	// Auth is the audience whose clients log in at /auth, in PEPhub's way.
	Auth AuthConfig `config:"auth"`
}

// Client is a program that people let act for them. It holds no secret: what it is sent to is what proves it.
type Client struct {
	// Name is what people are told who asks.
	Name string `config:"name"`
	// RedirectURIs are where a browser is sent back to, each matched as it stands; of those with the address of a
	// loopback interface, such as http://127.0.0.1/callback, the port is free (RFC 8252 7.3).
	RedirectURIs []string `config:"redirect_uris"`
	// Origins are the sites whose scripts may call the token endpoint, such as https://portal.example.org.
	Origins []string `config:"origins"`
	// Audiences are those whose tokens it may ask for; the first one where it names none.
	Audiences []string `config:"audiences"`
	// Device lets it use the device flow (RFC 8628).
	Device bool `config:"device"`
	// Refresh gives it refresh tokens: it acts on without its person, for 30 days from each use and 90 in all.
	Refresh bool `config:"refresh"`
	// SkipConsent asks the person nothing: for a portal of the same organisation. A site that has its people's sessions
	// here gets a token as soon as they open it.
	SkipConsent bool `config:"skip_consent"`

	internal bool // it is no client of the OAuth endpoints
}

// CommandLine is the client that needs no registration: wts itself, on a person's own machine. An operator who writes
// one of this name has that in its place: without device, say, or without refresh.
const CommandLine = "wts-cli"

// commandLine asks for nothing but tokens of wts itself.
var commandLine = Client{
	Name: "the wts command", RedirectURIs: []string{"http://127.0.0.1/callback", "http://[::1]/callback"},
	Audiences: []string{issuer.OwnAudience}, Device: true, Refresh: true,
}

// reserved are the words that stand in client_id for who proved themselves otherwise.
var reserved = []string{"api_token", "bearer", "pod", "service_account", "session", "trusted_publisher", "client", "login", AuthClient}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate(audience func(id string) bool) error {
	var faults []error
	for _, id := range slices.Sorted(maps.Keys(c.Clients)) {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("clients."+id+format, args...))
		}
		if slices.Contains(reserved, id) || strings.ContainsAny(id, " \t\n\"\\:") {
			fault(": the name is taken, or no word")
		}
		c.Clients[id].validate(audience, fault)
	}
	return errors.Join(append(faults, c.Auth.validate(audience)...)...)
}

// validate tells every fault of one client.
func (c Client) validate(audience func(id string) bool, fault func(format string, args ...any)) {
	for i, text := range c.RedirectURIs {
		if why := faultOfRedirect(text); why != "" {
			fault(".redirect_uris[%d]: %s: %q", i, why, text)
		} else if c.SkipConsent && !strings.HasPrefix(text, "https://") {
			fault(".skip_consent: %q is an address that any program of the machine may have", text)
		}
	}
	for i, text := range c.Origins {
		if parsed, err := url.Parse(text); err != nil || parsed.Host == "" || text != parsed.Scheme+"://"+parsed.Host || !encrypted(parsed) {
			fault(".origins[%d]: want an origin like https://portal.example.org, not %q", i, text)
		}
	}
	if len(c.Audiences) == 0 {
		fault(".audiences: names none")
	}
	for i, name := range c.Audiences {
		if !audience(name) {
			fault(".audiences[%d]: %q is not among audiences", i, name)
		}
	}
	if len(c.RedirectURIs) == 0 && !c.Device {
		fault(": has neither redirect_uris nor device, so that it can get no token")
	}
}

// faultOfRedirect says why an address may not be registered; nothing where it may.
func faultOfRedirect(text string) string {
	parsed, err := url.Parse(text)
	switch {
	case err != nil || parsed.Scheme == "":
		return "is no absolute URL"
	case parsed.Fragment != "" || strings.HasSuffix(text, "#"):
		return "has a fragment (RFC 6749 3.1.2)"
	case parsed.User != nil || strings.ContainsAny(text, "* \\\t\n"):
		return "has a name, a wildcard or a blank in it; addresses are matched as they stand"
	case parsed.Scheme == "http" || parsed.Scheme == "https":
		if parsed.Host == "" || !encrypted(parsed) {
			return "want https, or http on a loopback address"
		}
	case !strings.Contains(parsed.Scheme, "."):
		return "a scheme of one's own has a dot in it, as in org.example.app (RFC 8252 7.1)"
	}
	return ""
}

// encrypted tells an address of which no one between can read what is sent: https, or http on this machine.
func encrypted(address *url.URL) bool {
	return address.Scheme == "https" || address.Scheme == "http" && (isLoopback(address) || address.Hostname() == "localhost")
}

// isLoopback tells a literal address of a loopback interface; a name may be made to mean another (RFC 8252 8.3).
func isLoopback(address *url.URL) bool {
	ip := net.ParseIP(address.Hostname())
	return ip != nil && ip.IsLoopback()
}

// Where a code is sent is the whole of a public client's proof. So an address is compared as text, without unescaping or
// lower case: two addresses that some reader takes for one, and another for two, are two here. For loopback addresses,
// of which the port is chosen by the machine, what is compared is written anew from what was parsed.

// redirects tells whether an address is one of the client's (RFC 9700 2.1, RFC 8252 7.3).
func (c Client) redirects(text string) bool {
	for _, registered := range c.RedirectURIs {
		if text == registered || withoutPort(registered) != "" && withoutPort(text) == withoutPort(registered) {
			return true
		}
	}
	return false
}

// withoutPort is an address of a loopback interface without its port; empty for any other, which has to fit as it
// stands. It is written anew, so that nothing that is read in two ways gets through.
func withoutPort(text string) string {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "http" || !isLoopback(parsed) || parsed.User != nil || parsed.Fragment != "" || strings.ContainsAny(text, "\\#") {
		return ""
	}
	return "http://" + parsed.Hostname() + parsed.EscapedPath() + "?" + parsed.RawQuery
}
