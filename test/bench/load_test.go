package bench

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
)

func cores() int { return runtime.NumCPU() }

// load keeps connections busy with the same request each, one after the other. It writes and reads
// bytes: on this machine a client that did more would measure itself.
type load struct {
	request []byte
	// lanes are asked at once, the connections of one by turns.
	lanes [][]*busy
}

type busy struct {
	net.Conn
	reader *bufio.Reader
}

// newLoad opens connections from the address of a person's worker.
func newLoad(b *testing.B, address, path string, person, connections int) *load {
	b.Helper()
	l := &load{request: requestOf(address, path)}
	for range connections {
		l.lanes = append(l.lanes, []*busy{newBusy(b, address, person)})
	}
	return l
}

// newCrowd opens a connection from each of these people's workers, at address after address, and has them asked in so
// many lanes. Each is asked at once too: one on which no question comes is closed.
func newCrowd(b *testing.B, addresses []string, path string, people []int, lanes int) *load {
	b.Helper()
	l := &load{request: requestOf(addresses[0], path), lanes: make([][]*busy, lanes)}
	for i, person := range people {
		one := newBusy(b, addresses[person%len(addresses)], person)
		if status := one.ask(l.request); status != http.StatusOK {
			b.Fatalf("answered %d", status)
		}
		l.lanes[i%lanes] = append(l.lanes[i%lanes], one)
	}
	return l
}

func (l *load) close() {
	for _, one := range slices.Concat(l.lanes...) {
		_ = one.Close()
	}
}

func requestOf(address, path string, headers ...string) []byte {
	lines := append([]string{"GET " + path + " HTTP/1.1", "Host: " + address}, headers...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
}

// newBusy opens a connection from the address of a person's worker.
func newBusy(b *testing.B, address string, person int) *busy {
	b.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(deployment.AddressOf(person))}}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = connection.Close() })
	return &busy{Conn: connection, reader: bufio.NewReader(connection)}
}

// run asks for that long, and returns how long each answer took.
func (l *load) run(b *testing.B, duration time.Duration) []time.Duration {
	b.Helper()
	each, until := make([][]time.Duration, len(l.lanes)), time.Now().Add(duration)
	var all sync.WaitGroup
	for i, lane := range l.lanes {
		all.Go(func() {
			for began := time.Now(); began.Before(until); began = time.Now() {
				connection := lane[len(each[i])%len(lane)]
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
