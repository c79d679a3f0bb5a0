package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the connections (rule F2). A connection costs about 20 kB, and what its client has sent of an
// unfinished request's head.
const (
	maxConnections = 4096
	maxOfOnePeer   = 512      // where peers can be told apart
	maxHeads       = 32 << 20 // bytes of unfinished heads, of all connections together
)

// Connections bounds what clients can make us hold who have not finished a request's head: it ends those
// that hold most, or are silent longest, so that a client which sends a whole request always finds a place.
type Connections struct {
	bounded func(netip.Addr) bool // tells a peer that is no proxy, which has many connections for many people

	heads atomic.Int64 // bytes of unfinished heads

	mu    sync.Mutex // not taken while a request is served
	all   map[*connection]bool
	peers map[netip.Addr]int
}

// NewConnections bounds connections in all, and those of a peer where bounded says so.
func NewConnections(bounded func(netip.Addr) bool) *Connections {
	return &Connections{bounded: bounded, all: map[*connection]bool{}, peers: map[netip.Addr]int{}}
}

// connection is one of them.
type connection struct {
	net.Conn
	of   *Connections
	peer netip.Addr
	head atomic.Int64 // bytes of the head that is being read
	busy atomic.Bool  // a request is being answered
	last atomic.Int64 // when its last byte came, in unix nanoseconds
	gone atomic.Bool  // it is not counted any more
}

// Listener bounds the connections of a listener.
func (c *Connections) Listener(from net.Listener) net.Listener { return listener{from, c} }

type listener struct {
	net.Listener
	of *Connections
}

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := l.of.admit(accepted); admitted != nil {
			return admitted, nil
		}
		_ = accepted.Close()
	}
}

// admit takes a connection in, for which it ends another where there are too many. It is nil for one too many
// of one peer.
func (c *Connections) admit(accepted net.Conn) net.Conn {
	admitted := &connection{Conn: accepted, of: c}
	admitted.last.Store(time.Now().UnixNano())
	if address, err := netip.ParseAddrPort(accepted.RemoteAddr().String()); err == nil {
		admitted.peer = address.Addr().Unmap().WithZone("")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers[admitted.peer] >= maxOfOnePeer && c.bounded(admitted.peer) {
		return nil
	}
	if len(c.all) >= maxConnections {
		c.endLocked(silentLongest)
	}
	c.all[admitted] = true
	c.peers[admitted.peer]++
	return admitted
}

// endLocked ends the connection that comes first by an order, of those that answer no request, and tells
// whether there was one.
func (c *Connections) endLocked(before func(a, b *connection) bool) bool {
	var first *connection
	for one := range c.all {
		if !one.busy.Load() && (first == nil || before(one, first)) {
			first = one
		}
	}
	if first != nil {
		c.forgetLocked(first)
		_ = first.Conn.Close()
	}
	return first != nil
}

func silentLongest(a, b *connection) bool { return a.last.Load() < b.last.Load() }
func largestHead(a, b *connection) bool   { return a.head.Load() > b.head.Load() }

// forgetLocked takes a connection out of the books, once.
func (c *Connections) forgetLocked(one *connection) {
	if !c.all[one] {
		return
	}
	delete(c.all, one)
	one.gone.Store(true)
	one.finish()
	if c.peers[one.peer]--; c.peers[one.peer] == 0 {
		delete(c.peers, one.peer)
	}
}

// Read implements net.Conn.
func (one *connection) Read(into []byte) (int, error) {
	n, err := one.Conn.Read(into)
	if n == 0 || one.busy.Load() {
		return n, err
	}
	one.last.Store(time.Now().UnixNano())
	one.head.Add(int64(n))
	if one.of.heads.Add(int64(n)) > maxHeads {
		one.of.makeRoom()
	}
	if one.gone.Load() { // ended meanwhile
		one.finish()
	}
	return n, err
}

// finish takes the head out of the count.
func (one *connection) finish() { one.of.heads.Add(-one.head.Swap(0)) }

// makeRoom ends connections until the heads that are under way fit into memory again: those with the largest first,
// since an honest head is small.
func (c *Connections) makeRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.heads.Load() > maxHeads && c.endLocked(largestHead) {
	}
}

// Close implements net.Conn.
func (one *connection) Close() error {
	one.of.mu.Lock()
	one.of.forgetLocked(one)
	one.of.mu.Unlock()
	return one.Conn.Close()
}

// CloseWrite ends what is sent: net/http does so after it refused a head, and waits, so that the refusal is read
// before the rest of the head is answered with a reset.
func (one *connection) CloseWrite() error {
	if half, ok := one.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

type connectionKey struct{}

// Context gives a connection's context what Begun and Ended find it by; an HTTP server calls it for each.
func (*Connections) Context(ctx context.Context, accepted net.Conn) context.Context {
	if encrypted, ok := accepted.(*tls.Conn); ok {
		accepted = encrypted.NetConn()
	}
	if one, ok := accepted.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, one)
	}
	return ctx
}

// Handler tells the connections which of them have finished a head and are being answered.
func (c *Connections) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if one, ok := r.Context().Value(connectionKey{}).(*connection); ok {
			one.busy.Store(true)
			one.finish()
			defer one.busy.Store(false)
		}
		next.ServeHTTP(w, r)
	})
}

// EndSilent ends the connections that answer no request: at the end of the service nothing comes of them.
func (c *Connections) EndSilent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.all {
		if !one.busy.Load() && one.head.Load() == 0 {
			c.forgetLocked(one)
			_ = one.Conn.Close()
		}
	}
}
