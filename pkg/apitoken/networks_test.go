package apitoken

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestNetworks(t *testing.T) {
	for name, row := range map[string]struct {
		network, from string
		want          error
	}{
		"inside":                         {"192.0.2.0/24", "192.0.2.255", nil},
		"outside":                        {"192.0.2.0/24", "192.0.3.0", ErrNetwork},
		"one address":                    {"192.0.2.7", "192.0.2.7", nil},
		"its neighbour":                  {"192.0.2.7", "192.0.2.8", ErrNetwork},
		"bits beyond the mask":           {"192.0.2.77/24", "192.0.2.1", nil},
		"IPv6":                           {"2001:db8::/32", "2001:db8:ffff::1", nil},
		"IPv6, outside":                  {"2001:db8::/32", "2001:db9::1", ErrNetwork},
		"an IPv4 address written as v6":  {"192.0.2.0/24", "::ffff:192.0.2.1", nil},
		"an IPv4 network written as v6":  {"::ffff:192.0.2.0/120", "192.0.2.1", nil},
		"and outside of it":              {"::ffff:192.0.2.0/120", "192.0.3.1", ErrNetwork},
		"all of IPv4 is none of IPv6":    {"0.0.0.0/0", "2001:db8::1", ErrNetwork},
		"an address that is not known":   {"0.0.0.0/0", "", ErrNetwork},
		"a zone does not matter, as one": {"fe80::/10", "fe80::1", nil},
	} {
		t.Run(name, func(t *testing.T) {
			networks, err := parseNetworks([]string{row.network})
			if err != nil {
				t.Fatal(err)
			}
			from, _ := netip.ParseAddr(row.from)
			digest := DigestOf("x")
			token := Token{Networks: networks, Values: []Value{{Digest: digest}}}
			if got := token.check(digest, from, time.Now()); !errors.Is(got, row.want) {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
	for _, text := range []string{"", "x", "192.0.2.0/33", "192.0.2", "fe80::1%eth0", "192.0.2.0/24 ", "192.0.2.0/-1", "/24"} {
		t.Run("no network: "+text, func(t *testing.T) {
			if got, err := parseNetworks([]string{text}); err == nil {
				t.Errorf("got %v, want an error", got)
			}
		})
	}
}

// What is parsed contains its own first address, is written and read again as the same, and never grows.
func FuzzNetworks(f *testing.F) {
	for _, text := range []string{"192.0.2.0/24", "::ffff:10.0.0.0/104", "2001:db8::/32", "10.0.0.1", "::/0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		networks, err := parseNetworks([]string{text})
		if err != nil {
			return
		}
		network := networks[0]
		again, err := parseNetworks([]string{network.String()})
		if err != nil || again[0] != network {
			t.Errorf("%q became %s, and that %v, %v", text, network, again, err)
		}
		if !network.Contains(network.Addr()) || network != network.Masked() || network.Addr().Is4In6() {
			t.Errorf("%q became %s", text, network)
		}
	})
}
