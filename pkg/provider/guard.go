package provider

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
)

// errInside says that an address named by the provider's document was not called (rule A4).
var errInside = errors.New("it names an address of an inner network, though the provider itself is not in one; such an address is not called")

// guard keeps a provider's document from sending us to addresses of inner networks: the neighbours of our
// pod, the metadata service of a cloud. Hosts that the operator configured may be anywhere.
type guard struct {
	trusted []string // host names, of the configured addresses
	proxies sync.Map // host:port of the proxies that the environment names
}

// guard trusts the hosts that the operator wrote down, wherever they are. Those that a document names are not among
// them.
func (c Config) guard() *guard {
	g := &guard{}
	for _, text := range []string{c.Issuer, c.BaseURL, c.AuthURL, c.TokenURL} {
		if parsed, err := url.Parse(text); err == nil && parsed.Hostname() != "" {
			g.trusted = append(g.trusted, parsed.Hostname())
		}
	}
	return g
}

// apply has a transport ask the guard at each dial, when the name has become an address. A proxy's address
// is the operator's too; what a proxy may reach is its own business.
func (g *guard) apply(transport *http.Transport, dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	if find := transport.Proxy; find != nil {
		transport.Proxy = func(request *http.Request) (*url.URL, error) {
			proxy, err := find(request)
			if proxy != nil {
				g.proxies.Store(withPort(proxy), true)
			}
			return proxy, err
		}
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if _, proxy := g.proxies.Load(address); err != nil || proxy || g.trusts(host) {
			return dialer.DialContext(ctx, network, address)
		}
		guarded, control := *dialer, dialer.Control
		guarded.Control = nil
		guarded.ControlContext = func(ctx context.Context, network, resolved string, connection syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(resolved); err != nil || inside(at.Addr()) && !g.isInside(ctx) {
				return errInside
			}
			if control == nil {
				return nil
			}
			return control(network, resolved, connection)
		}
		return guarded.DialContext(ctx, network, address)
	}
}

// trusts tells a host that the operator wrote down.
func (g *guard) trusts(host string) bool {
	for _, one := range g.trusted {
		if strings.EqualFold(one, host) {
			return true
		}
	}
	return false
}

// isInside tells that the provider itself is in an inner network: then its endpoints may be too.
func (g *guard) isInside(ctx context.Context) bool {
	for _, host := range g.trusted {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			continue
		}
		for _, address := range addresses {
			if inside(address) {
				return true
			}
		}
	}
	return false
}

// sharedSpace is the carriers' part of the address space (RFC 6598), where some clusters have their pods.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// inside tells an address that is not on the public internet.
func inside(address netip.Addr) bool {
	address = address.Unmap()
	return address.IsLoopback() || address.IsPrivate() || address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast() ||
		address.IsInterfaceLocalMulticast() || address.IsMulticast() || address.IsUnspecified() || sharedSpace.Contains(address)
}

// withPort is the address that a proxy is dialled at.
func withPort(address *url.URL) string {
	port := address.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[address.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(address.Hostname(), port)
}
