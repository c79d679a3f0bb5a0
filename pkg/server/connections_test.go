package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

// stub is a client's end: it gives bytes, and says whether it was closed.
type stub struct {
	net.Conn
	from   string
	bytes  bytes.Reader
	closed bool
}

func (s *stub) RemoteAddr() net.Addr          { return text(s.from) }
func (s *stub) Read(into []byte) (int, error) { return s.bytes.Read(into) }
func (s *stub) Close() error                  { s.closed = true; return nil }

type text string

func (text) Network() string  { return "tcp" }
func (t text) String() string { return string(t) }

// queue is a listener of connections that are there already.
type queue []*stub

func (q *queue) Accept() (net.Conn, error) {
	if len(*q) == 0 {
		return nil, errors.New("no more")
	}
	next := (*q)[0]
	*q = (*q)[1:]
	return next, nil
}
func (*queue) Close() error   { return nil }
func (*queue) Addr() net.Addr { return text("here") }

// take accepts connections, one from each address.
func take(t *testing.T, c *Connections, clients ...*stub) []net.Conn {
	t.Helper()
	waiting := queue(clients)
	from := c.Listener(&waiting)
	var accepted []net.Conn
	for {
		one, err := from.Accept()
		if err != nil {
			return accepted
		}
		accepted = append(accepted, one)
	}
}

func client(number int, head int) *stub {
	s := &stub{from: fmt.Sprintf("10.%d.%d.%d:1", number>>16, number>>8&255, number&255)}
	s.bytes.Reset(make([]byte, head))
	return s
}

// Rule F2: beyond the bound, the connection that has been silent longest makes room, and none that is being
// answered.
func TestConnectionsMakeRoom(t *testing.T) {
	c := NewConnections(func(netip.Addr) bool { return true })
	var clients []*stub
	for number := range maxConnections {
		clients = append(clients, client(number, 0))
	}
	accepted := take(t, c, clients...)
	busy := c.Context(context.Background(), accepted[0])
	answering, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(answering)
			take(t, c, client(maxConnections, 0), client(maxConnections+1, 0))
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(busy))
	}()
	<-answering
	<-done
	if clients[0].closed || !clients[1].closed || !clients[2].closed || clients[3].closed {
		t.Errorf("closed are: the one that is answered: %v, the longest silent: %v, %v, another: %v", clients[0].closed, clients[1].closed, clients[2].closed, clients[3].closed)
	}
	if len(c.all) != maxConnections {
		t.Errorf("%d connections are held", len(c.all))
	}
}

func TestConnectionsOfOnePeer(t *testing.T) {
	proxy := netip.MustParseAddr("10.9.9.9")
	c := NewConnections(func(address netip.Addr) bool { return address != proxy })
	many := func(from string) (clients []*stub) {
		for range maxOfOnePeer + 10 {
			clients = append(clients, &stub{from: from})
		}
		return clients
	}
	if got := len(take(t, c, many("10.0.0.1:1")...)); got != maxOfOnePeer {
		t.Errorf("a peer has %d", got)
	}
	if got := len(take(t, c, many("10.9.9.9:1")...)); got != maxOfOnePeer+10 {
		t.Errorf("a proxy has %d", got)
	}
	accepted := take(t, c, &stub{from: "10.0.0.2:1"})
	_ = accepted[0].Close()
	if c.peers[netip.MustParseAddr("10.0.0.2")] != 0 {
		t.Error("a connection that was closed counts")
	}
}

// Beyond the bound of unfinished heads, the largest one goes; what is read of a request that is being answered
// is no head.
func TestUnfinishedHeadsMakeRoom(t *testing.T) {
	c := NewConnections(func(netip.Addr) bool { return true })
	const each = 60 << 10
	var clients []*stub
	for number := range maxHeads/each + 20 {
		clients = append(clients, client(number, each))
	}
	small := client(100_000, 500)
	accepted := take(t, c, append(clients, small)...)
	for _, one := range accepted[:len(accepted)-1] {
		_, _ = one.Read(make([]byte, each))
	}
	_, _ = accepted[len(accepted)-1].Read(make([]byte, 500))
	closed := 0
	for _, one := range clients {
		if one.closed {
			closed++
		}
	}
	if c.heads.Load() > maxHeads || closed < 19 || closed > 25 || small.closed {
		t.Errorf("%d bytes of heads are held, %d of the large ones were closed, the small one: %v", c.heads.Load(), closed, small.closed)
	}
	// A head that is finished, and one whose connection was ended, count no more.
	held := c.heads.Load()
	last := accepted[len(accepted)-1]
	c.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if got := c.heads.Load(); got != held-500 {
			t.Errorf("while its request is answered a head counts: %d of %d bytes", got, held)
		}
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(c.Context(context.Background(), last)))
	ended := client(100_001, 500)
	from := take(t, c, ended)[0]
	_ = from.Close()
	_, _ = from.Read(make([]byte, 500))
	if got := c.heads.Load(); got != held-500 {
		t.Errorf("what came after its end counts: %d bytes", got-held+500)
	}
	small.bytes.Reset(make([]byte, 10))
	_, _ = last.Read(make([]byte, 10))
	c.EndSilent()
	if small.closed {
		t.Error("a head that is under way counts as silent")
	}
}

// A client whose head is refused reads the refusal and its end before the rest of what it sent is reset.
func TestARefusalIsRead(t *testing.T) {
	connections := NewConnections(func(netip.Addr) bool { return false })
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := &http.Server{Handler: connections.Handler(http.NotFoundHandler()), ConnContext: connections.Context, MaxHeaderBytes: 1 << 10, ReadHeaderTimeout: time.Minute}
	go func() { _ = serving.Serve(connections.Listener(inner)) }()
	defer serving.Close()
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\nX: "), bytes.Repeat([]byte("a"), 64<<10)...)); err != nil {
		t.Fatal(err)
	}
	_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(client)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 431 ")) {
		t.Errorf("%.40q, %v; want 431 and its end", answer, err)
	}
}
