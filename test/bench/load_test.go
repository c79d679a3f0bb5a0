package bench

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
)

func cores() int { return runtime.NumCPU() }

// load keeps connections busy with the same request each, one after the other. It writes and reads
// bytes: on this machine a client that did more would measure itself.
type load struct {
	request     []byte
	connections []*busy
}

type busy struct {
	net.Conn
	reader *bufio.Reader
}

// newLoad opens connections from the address of a person's worker.
func newLoad(b *testing.B, address, path string, person, connections int) *load {
	b.Helper()
	l := &load{request: []byte("GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\n\r\n")}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(deployment.AddressOf(person))}}
	for range connections {
		connection, err := dialer.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = connection.Close() })
		l.connections = append(l.connections, &busy{Conn: connection, reader: bufio.NewReader(connection)})
	}
	return l
}

// run asks for that long, and returns how long each answer took.
func (l *load) run(b *testing.B, duration time.Duration) []time.Duration {
	b.Helper()
	each, until := make([][]time.Duration, len(l.connections)), time.Now().Add(duration)
	var all sync.WaitGroup
	for i, connection := range l.connections {
		all.Go(func() {
			for began := time.Now(); began.Before(until); began = time.Now() {
				if status := connection.ask(l.request); status != http.StatusOK {
					b.Errorf("answered %d", status)
					return
				}
				each[i] = append(each[i], time.Since(began))
			}
		})
	}
	all.Wait()
	return slices.Concat(each...)
}

func (c *busy) ask(request []byte) (status int) {
	if _, err := c.Write(request); err != nil {
		return 0
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode
}
