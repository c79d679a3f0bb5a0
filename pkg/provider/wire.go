package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// ErrGate is what a Gate says that lets nothing through any more.
var ErrGate = errors.New("the right to present the token had lapsed before it was sent")

// Gate is asked once, in the moment before the first byte of a request leaves: after the dial and the
// handshake, which may have taken long. Where it returns false nothing is sent, not even the request's
// head.
type Gate func() bool

const (
	dialTimeout = 5 * time.Second
	// pathSlack is how much longer than its refresh timeout a request may stay unacknowledged before the
	// kernel gives its connection up (RFC 5482): a path that comes back in time still brings the answer.
	pathSlack = 5 * time.Second
	// probeEvery is how often an idle connection is asked whether it is still there.
	probeEvery = 5 * time.Second
)

// newPosts makes the transport for tokens: HTTP/1.1 alone, so that one connection carries one request, and
// connections that are aborted rather than closed. What the kernel holds of a request that was given up
// would else be delivered when a partition heals, as a replay of a token that another replica has spent
// since.
func newPosts(refreshTimeout time.Duration, guarded *guard) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	transport.MaxResponseHeaderBytes = 64 << 10
	transport.ResponseHeaderTimeout = 0 // the deadline is the context's
	transport.TLSHandshakeTimeout = dialTimeout
	transport.ForceAttemptHTTP2 = false
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	dialer := &net.Dialer{
		Timeout: dialTimeout, Control: userTimeout(refreshTimeout + pathSlack),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeEvery, Interval: probeEvery, Count: max(3, int((refreshTimeout+pathSlack)/probeEvery))},
	}
	dial := guarded.apply(transport, dialer)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if tcp, ok := dialled.(*net.TCPConn); ok {
			// From now on, so that the kernel drops what was not sent even where the process is killed.
			if err := tcp.SetLinger(0); err != nil {
				return nil, errors.Join(err, tcp.Close())
			}
		}
		return &wire{Conn: dialled}, nil
	}
	return transport
}

// wire is a connection that asks the gate of the request that it is about to carry.
type wire struct {
	net.Conn
	mu   sync.Mutex
	post *gatedPost // the request under way that has not been let through yet
}

func (w *wire) arm(post *gatedPost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.post = post
}

// Write implements net.Conn. Under TLS these are the encrypted bytes of the request.
func (w *wire) Write(data []byte) (int, error) {
	w.mu.Lock()
	post := w.post
	w.post = nil
	w.mu.Unlock()
	if post != nil {
		if post.gate != nil && !post.gate() {
			return 0, ErrGate
		}
		post.sent.Store(true)
	}
	return w.Conn.Write(data)
}

// armed has the connection that a request gets ask the request's gate.
func (g *gatedPost) armed(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		connection := got.Conn
		if encrypted, ok := connection.(*tls.Conn); ok {
			connection = encrypted.NetConn()
		}
		if own, ok := connection.(*wire); ok {
			own.arm(g)
		}
	}})
}
