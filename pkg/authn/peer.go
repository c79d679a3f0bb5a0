package authn

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Peer is where a request comes from.
type Peer struct {
	// Addr is the TCP peer; behind a trusted proxy, the nearest address that is not one.
	Addr netip.Addr
	// Proxied tells that the TCP peer is a trusted proxy. No worker is recognised then.
	Proxied bool
}

// Network is the address by which requests of the same origin are counted together: an IPv6 client has a
// whole /64 to choose its address from.
func (p Peer) Network() netip.Addr {
	if !p.Addr.Is6() || p.Addr.Is4In6() {
		return p.Addr.Unmap()
	}
	network, err := p.Addr.Prefix(64)
	if err != nil {
		return p.Addr
	}
	return network.Addr()
}

// Peer finds the peer (kubernetes.md rule 1). Forwarding headers are read only where the TCP peer
// is a trusted proxy, from the right, up to the first address that is not one: what stands left of
// it is the client's own invention.
func (a *Authenticator) Peer(r *http.Request) Peer {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return Peer{}
	}
	peer := Peer{Addr: address.Addr().Unmap().WithZone("")}
	if !a.trusts(peer.Addr) {
		return peer
	}
	peer.Proxied = true
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return peer
		}
		if peer.Addr = hop.Unmap(); !a.trusts(peer.Addr) {
			return peer
		}
	}
	return peer
}

// Bounded tells that connections from an address are counted by it: where no proxy is configured, any address
// may be one.
func (a *Authenticator) Bounded(address netip.Addr) bool {
	return len(a.trusted) > 0 && !a.trusts(address)
}

// trusts tells the address of a proxy that the operator has named.
func (a *Authenticator) trusts(address netip.Addr) bool {
	for _, network := range a.trusted {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// parseNetwork reads a network, or one address.
func parseNetwork(text string) (netip.Prefix, error) {
	if network, err := netip.ParsePrefix(text); err == nil {
		return network.Masked(), nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither a network like 10.0.0.0/8 nor an address", text)
	}
	return netip.PrefixFrom(address, address.BitLen()), nil
}

// fromBrowser tells that a browser sent the request: one that runs on a worker's address, or is
// tunnelled through it, is not the worker. Browsers leave Sec-Fetch out over plain http; a page that
// reached us by a name of its own (DNS rebinding) is told by Accept-Language, which every browser
// sends and no page can take away.
func fromBrowser(r *http.Request) bool {
	for _, name := range [...]string{"Cookie", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Accept-Language", "Referer"} {
		if len(r.Header[name]) > 0 {
			return true
		}
	}
	return false
}
