package instance

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// WorkerAddress is where Worker calls from.
const WorkerAddress = "127.0.0.2"

// Worker is a client that calls from the worker's address, with new connections, as a job would.
func Worker() *http.Client { return WorkerAt(WorkerAddress) }

// WorkerAt is a worker at another address of this machine.
func WorkerAt(address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 5 * time.Second}
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}
}

// TokenAnswer is what /token answers.
type TokenAnswer struct {
	Status    int         `json:"-"`
	Header    http.Header `json:"-"`
	Token     string      `json:"token"`
	ExpiresIn int64       `json:"expires_in"`
	Message   string      `json:"message"`
}

// Token asks an instance for a token, as a worker.
func (i *Instance) Token(t testing.TB, worker *http.Client, query string) TokenAnswer {
	t.Helper()
	response, err := worker.Get("http://" + i.Address + "/token/" + query)
	if err != nil {
		t.Fatalf("asking for a token: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading a token: %v", err)
	}
	answer := TokenAnswer{Status: response.StatusCode, Header: response.Header}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s answered %d with something that is no JSON: %s", query, response.StatusCode, body)
	}
	return answer
}
