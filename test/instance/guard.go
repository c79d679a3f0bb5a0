package instance

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Guarded is a server over TLS that wants a token of alice's: as a bearer, or as a password.
type Guarded struct {
	*httptest.Server
	Host, Authority string // the file with its certificate
	mu              sync.Mutex
	asked           []string
}

// Guard has a server verify tokens before a handler is asked.
func Guard(t testing.TB, v *verifier.Verifier, next http.Handler) *Guarded {
	t.Helper()
	g := &Guarded{}
	g.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := g.note(r)
		claims, err := v.Verify(r.Context(), sent)
		if err != nil || claims.Username != "alice" {
			w.Header().Add("WWW-Authenticate", `Basic realm="storage"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	g.Host = g.Listener.Addr().String()
	g.Authority = filepath.Join(t.TempDir(), "authority.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})
	if err := os.WriteFile(g.Authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

// note is the token that a request has, which is kept.
func (g *Guarded) note(r *http.Request) string {
	sent, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, password, basic := r.BasicAuth(); basic {
		sent, found = password, true
	}
	if !found {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, sent)
	return sent
}

// Asked are the tokens that it was sent, good or bad.
func (g *Guarded) Asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}
