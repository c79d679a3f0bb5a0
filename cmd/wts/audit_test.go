package main

import (
	"context"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Not a byte of a token leaves before its line is in the audit, however large the token is.
func TestNoByteOfATokenLeavesBeforeTheAuditHasIt(t *testing.T) {
	r := startReplica(t)
	now := time.Now()
	_, err := r.store.Logins.Connect(t.Context(), broker.Grant{
		Provider: "first", Identity: provider.Identity{Issuer: r.first.Issuer, Subject: "alice", Username: "alice"},
		Tokens: provider.Tokens{RefreshToken: "rt", AccessToken: secret.Text(strings.Repeat("t", 32<<10)), IssuedAt: now, AccessExpiresAt: now.Add(time.Hour)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, path string) (int, error) {
		client := clientAt(workerAddress)
		client.Transport.(*http.Transport).DisableKeepAlives = true
		response, err := get(ctx, client, r.url+path, nil)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, nil
	}
	for _, path := range []string{"/token/", "/token/?audience=storage"} {
		t.Run(path, func(t *testing.T) {
			if status, err := ask(t.Context(), path); err != nil || status != http.StatusOK {
				t.Fatalf("got %d, %v; want 200", status, err)
			}
			r.log.hold.Lock()
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			if status, err := ask(ctx, path); err == nil {
				t.Errorf("%s is answered with %d, and the audit cannot be written", path, status)
			}
			cancel()
			r.log.hold.Unlock()
		})
	}
}

// Where bearers are accepted, the service knows which audience is that of id_tokens.
func TestBearersKnowTheClient(t *testing.T) {
	r := startReplica(t, func(c *config.Config) { c.Authn.Bearer.Audiences = []string{"wts"} })
	bearers, err := newBearers(t.Context(), r.config)
	if err != nil || bearers.ClientID != "wts" {
		t.Errorf("the client is %+v, %v", bearers, err)
	}
}

// The collector keeps to a part of the container's memory.
func TestTheCollectorKeepsToTheContainersMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "") // restored at the end
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
		t.Fatal(err)
	}
	limitMemory(memlimit.Limit(1000 << 20))
	if got := debug.SetMemoryLimit(-1); got != 800<<20 {
		t.Errorf("the limit is %d bytes, want 800 MiB", got)
	}
}
