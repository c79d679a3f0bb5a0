package provider

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Rule A4: a provider's document sends us to no address of an inner network, unless the provider is in
// one itself or the operator configured the host.
func TestInnerAddressesAreNotCalled(t *testing.T) {
	var called atomic.Int32
	neighbour := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	defer neighbour.Close()
	_, port, _ := net.SplitHostPort(neighbour.Listener.Addr().String())
	for name, row := range map[string]struct {
		issuer, target string
		reached        bool
	}{
		"loopback":                       {issuer: "https://login.invalid", target: "127.0.0.1"},
		"loopback by a name":             {issuer: "https://login.invalid", target: "localhost"},
		"loopback, mapped":               {issuer: "https://login.invalid", target: "[::ffff:127.0.0.1]"},
		"the provider is on loopback":    {issuer: "http://localhost", target: "127.0.0.1", reached: true},
		"the operator configured it":     {issuer: "http://127.0.0.1", target: "127.0.0.1", reached: true},
		"the metadata service":           {issuer: "https://login.invalid", target: "169.254.169.254"},
		"a private network":              {issuer: "https://login.invalid", target: "10.0.0.1"},
		"a carrier's network":            {issuer: "https://login.invalid", target: "100.64.0.1"},
		"an IPv6 network of the cluster": {issuer: "https://login.invalid", target: "[fd00::1]"},
		"this host":                      {issuer: "https://login.invalid", target: "0.0.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Issuer: row.issuer, ClientID: "c", ClientSecret: "s"}
			for kind, transport := range map[string]http.RoundTripper{
				"documents": newReader(time.Second, config.guard()).Transport, "tokens": newPosts(time.Second, config.guard()),
			} {
				t.Run(kind, func(t *testing.T) {
					before := called.Load()
					request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+row.target+":"+port+"/admin", nil)
					if err != nil {
						t.Fatal(err)
					}
					response, err := transport.RoundTrip(request)
					if err == nil {
						_ = response.Body.Close()
					}
					if reached := called.Load() > before; reached != row.reached || !row.reached && !errors.Is(err, errInside) {
						t.Errorf("reached: %v, %v", reached, err)
					}
				})
			}
		})
	}
	// A proxy is the operator's, wherever it is.
	guarded := Config{Issuer: "https://login.invalid"}.guard()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	proxy, _ := url.Parse(neighbour.URL)
	transport.Proxy = http.ProxyURL(proxy)
	transport.DialContext = guarded.apply(transport, &net.Dialer{})
	response, err := (&http.Client{Transport: transport}).Get("http://elsewhere.invalid/token")
	if err != nil {
		t.Fatalf("by way of a proxy: %v", err)
	}
	_ = response.Body.Close()
}

// Rule A4: endpoints that a document names are https, where the issuer is.
func TestEndpointsOfAnHTTPSIssuerAreHTTPS(t *testing.T) {
	for name, row := range map[string]struct {
		issuer, endpoint, configured string
		good                         bool
	}{
		"https":                            {issuer: "https://login.example.org", endpoint: "https://login.example.org/token", good: true},
		"http on loopback":                 {issuer: "https://login.example.org", endpoint: "http://127.0.0.1:15000/quitquitquit"},
		"http on loopback, by the name":    {issuer: "https://login.example.org", endpoint: "http://localhost:15000"},
		"http on loopback, the issuer too": {issuer: "http://127.0.0.1:9", endpoint: "http://127.0.0.1:8/token", good: true},
		"http elsewhere":                   {issuer: "http://127.0.0.1:9", endpoint: "http://login.example.org/token"},
		"http on loopback, as configured":  {issuer: "https://login.example.org", endpoint: "http://127.0.0.1:8/token", configured: "http://127.0.0.1:8/token", good: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := New("p", Config{Issuer: row.issuer, AuthURL: row.configured, TokenURL: row.configured, ClientID: "c", ClientSecret: "s"}, "https://wts.example.org/x")
			if err := p.checkEndpoint(row.endpoint, row.issuer); (err == nil) != row.good {
				t.Errorf("got %v", err)
			}
		})
	}
}

func keyText(bytes int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("\xff" + strings.Repeat("k", bytes-1)))
}

// Rule A4: of a provider's key set only keys of a size and form that can verify are used.
func TestKeySetsAreBounded(t *testing.T) {
	rsa := func(bits int, exponent string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":"k","n":"%s","e":"%s"}`, keyText(bits/8), exponent)
	}
	for name, row := range map[string]struct {
		keys string
		left int // -1: the set is refused
	}{
		"RSA of 2,048 bits":     {rsa(2048, "AQAB"), 1},
		"RSA of 8,192 bits":     {rsa(8192, "AQAB"), 1},
		"RSA of 8,200 bits":     {rsa(8200, "AQAB"), 0},
		"RSA of 560,000 bits":   {rsa(560_000, "AQAB"), 0},
		"a large exponent":      {rsa(2048, keyText(5)), 0},
		"no exponent":           {rsa(2048, ""), 0},
		"P-256":                 {fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}`, keyText(32), keyText(32)), 1},
		"P-256, short":          {fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}`, keyText(31), keyText(32)), 0},
		"a curve of no name":    {fmt.Sprintf(`{"kty":"EC","crv":"P-1","x":"%s","y":"%s"}`, keyText(32), keyText(32)), 0},
		"Ed25519":               {fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":"%s"}`, keyText(32)), 1},
		"Ed25519, one byte":     {`{"kty":"OKP","crv":"Ed25519","x":"AA"}`, 0},
		"symmetric":             {`{"kty":"oct","k":"AAAA"}`, 0},
		"a bad one beside good": {`{"kty":7},` + rsa(2048, "AQAB"), 1},
		"50 keys":               {strings.Repeat(rsa(2048, "AQAB")+",", 49) + rsa(2048, "AQAB"), 50},
		"51 keys":               {strings.Repeat(rsa(2048, "AQAB")+",", 50) + rsa(2048, "AQAB"), -1},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := onlySound([]byte(`{"keys":[` + row.keys + `]}`))
			var set struct{ Keys []any }
			left := -1
			if err == nil && json.Unmarshal(body, &set) == nil {
				left = len(set.Keys)
			}
			if left != row.left {
				t.Errorf("%d keys are left, want %d; %v", left, row.left, err)
			}
		})
	}
}

// Whatever a key set holds, what is left of it is a key set within the bounds.
func FuzzKeySet(f *testing.F) {
	for _, seed := range []string{`{"keys":[]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`, `{"keys":null}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		left, err := onlySound(body)
		if err != nil {
			return
		}
		var set struct{ Keys []publishedKey }
		if err := json.Unmarshal(left, &set); err != nil || len(set.Keys) > MaxKeys {
			t.Fatalf("%d keys, %v", len(set.Keys), err)
		}
		for _, key := range set.Keys {
			if !key.sound() {
				t.Fatalf("%+v is left", key)
			}
		}
	})
}
