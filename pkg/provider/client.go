package provider

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Bodies that we fetch are capped (security.md A4), in bytes.
const (
	maxDocument = 100 << 10 // discovery and JWKS
	maxToken    = 1 << 20   // token endpoint
)

// userAgent says who calls: firewalls before some providers let no nameless client pass, and those
// before Fence know this name (Gen3 contract 3).
const userAgent = "Gen3WTS (wts)"

var (
	errRedirect = errors.New("it redirected to another host, which is not followed")
	errTooLarge = errors.New("the answer is larger than is accepted")
)

// newReader makes the HTTP client for a provider's documents. Connections are kept: a new TLS handshake
// costs thirty times a request on an open one.
func newReader(timeout time.Duration, guarded *guard) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	transport.TLSHandshakeTimeout = dialTimeout
	transport.DialContext = guarded.apply(transport, &net.Dialer{Timeout: dialTimeout, KeepAlive: probeEvery})
	return &http.Client{
		Transport: capped{transport}, Timeout: timeout,
		// A redirect to another host would let a provider choose whose keys we trust.
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			first := via[0]
			if first.Method != http.MethodGet || next.URL.Host != first.URL.Host || next.URL.Scheme != first.URL.Scheme || len(via) > 3 {
				return errRedirect
			}
			return nil
		},
	}
}

// capped lets no answer grow beyond its cap.
type capped struct{ next http.RoundTripper }

func (c capped) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Header.Get("User-Agent") == "" {
		request = request.Clone(request.Context())
		request.Header.Set("User-Agent", userAgent)
	}
	response, err := c.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	limit := int64(maxDocument)
	if request.Method == http.MethodPost {
		limit = maxToken
	}
	response.Body = &cappedBody{response.Body, limit}
	return response, nil
}

type cappedBody struct {
	io.ReadCloser
	left int64
}

// Read fails where there is more than the cap, in place of an end: half a document must not pass for a whole one.
func (b *cappedBody) Read(into []byte) (int, error) {
	if b.left <= 0 {
		// One byte more tells an answer that just fits from one that is too large.
		var probe [1]byte
		if n, err := b.ReadCloser.Read(probe[:]); n == 0 {
			return 0, err
		}
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(into[:min(int64(len(into)), b.left)])
	b.left -= int64(n)
	return n, err
}

// valueAt follows a path with dots into nested claims; nil where there is none. A whole name with dots wins, since
// some providers use URLs for claim names.
func valueAt(claims map[string]any, path string) any {
	if value, ok := claims[path]; ok {
		return value
	}
	first, rest, nested := strings.Cut(path, ".")
	if inner, ok := claims[first].(map[string]any); ok && nested {
		return valueAt(inner, rest)
	}
	return nil
}

// claimAt is a claim that is text.
func claimAt(claims map[string]any, path string) string {
	text, _ := valueAt(claims, path).(string)
	return text
}
