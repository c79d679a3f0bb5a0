//go:build !race

package server

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/test/paired"
)

// These are exact, and the race detector would add allocations of its own: `make test` runs them
// once more without it.

// again is a ResponseWriter that is used again, as a connection's is.
type again struct {
	header http.Header
	status int
	bytes  int
}

func (a *again) Header() http.Header            { return a.header }
func (a *again) WriteHeader(status int)         { a.status = status }
func (a *again) Write(body []byte) (int, error) { a.bytes = len(body); return len(body), nil }

func workersRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/token/?idp=main&expires=600", nil)
	r.RemoteAddr = "10.0.0.7:4711"
	return r
}

// A cached answer, with request id, caller, audit and log line, allocates at
// most 8 times, and asks nobody anything.
func TestExactCostOfACachedToken(t *testing.T) {
	for name, log := range map[string]*slog.Logger{
		"with a log line": slog.New(slog.NewJSONHandler(io.Discard, nil)),
		"without":         slog.New(slog.DiscardHandler),
	} {
		t.Run(name, func(t *testing.T) {
			s, one := newServer(t, log)
			w, r := &again{header: http.Header{}}, workersRequest()
			s.ServeHTTP(w, r)
			if w.status != http.StatusOK || w.bytes < 900 {
				t.Fatalf("answered %d with %d bytes", w.status, w.bytes)
			}
			asked := one.asked
			allocations := testing.AllocsPerRun(1000, func() { s.ServeHTTP(w, r) })
			if allocations > 8 {
				t.Errorf("%.0f allocations, want at most 8", allocations)
			}
			if one.asked != asked {
				t.Errorf("the store was asked %d times", one.asked-asked)
			}
			t.Logf("%s: %.0f allocations", name, allocations)
		})
	}
}

// The handler itself, without what surrounds it, allocates at most 3 times.
func TestExactCostOfTheHandler(t *testing.T) {
	parts, _ := newParts(slog.New(slog.DiscardHandler))
	tokens := &tokens{broker: parts.Broker, issuer: parts.Issuer, limits: newLimits(plenty)}
	w, r := &again{header: http.Header{}}, workersRequest()
	context, _ := gin.CreateTestContext(httptest.NewRecorder())
	context.Request = r
	context.Writer = &plainWriter{again: w}
	x := &exchange{Context: context, edge: &edge{log: parts.Log}, caller: authn.Caller{User: alice, Proof: authn.PodAddress}}
	run := func() {
		tokens.proofs(x, authn.Accepts{})
		if err := tokens.token(x); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if allocations := testing.AllocsPerRun(1000, run); allocations > 3 {
		t.Errorf("%.0f allocations, want at most 3", allocations)
	}
}

// plainWriter is gin's writer around again.
type plainWriter struct {
	gin.ResponseWriter
	*again
}

func (p *plainWriter) Header() http.Header            { return p.again.Header() }
func (p *plainWriter) WriteHeader(status int)         { p.again.WriteHeader(status) }
func (p *plainWriter) Write(body []byte) (int, error) { return p.again.Write(body) }
func (p *plainWriter) WriteString(body string) (int, error) {
	p.bytes = len(body)
	return len(body), nil
}

// recorded is what answers a request and writes to a new recorder, as a connection is written to.
func recorded(handler http.Handler) func() {
	r := workersRequest()
	return func() { handler.ServeHTTP(httptest.NewRecorder(), r) }
}

// bareGin answers as many bytes as a cached token has, from memory, and does nothing else.
func bareGin() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine, body := gin.New(), make([]byte, 913)
	engine.GET("/token/", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", body) })
	return engine
}

// A cached token within the process, beside a bare gin handler with the same body.
func BenchmarkCachedToken(b *testing.B) {
	b.Run("handler", func(b *testing.B) {
		parts, _ := newParts(slog.New(slog.DiscardHandler))
		tokens, shared := &tokens{broker: parts.Broker, issuer: parts.Issuer, limits: newLimits(plenty)}, &edge{log: parts.Log}
		engine := gin.New()
		x := &exchange{} // is kept from request to request, with what it writes into
		engine.GET("/token/", func(c *gin.Context) {
			*x = exchange{Context: c, edge: shared, caller: authn.Caller{User: alice, Proof: authn.PodAddress}, out: x.out}
			tokens.proofs(x, authn.Accepts{})
			if err := tokens.token(x); err != nil {
				b.Error(err)
			}
		})
		for b.Loop() {
			paired.Report(b, paired.CPU(recorded(engine), recorded(bareGin())), "x-CPU-of-bare-gin", "≤3")
		}
	})
	b.Run("with-everything", func(b *testing.B) {
		s, _ := newServer(b, slog.New(slog.NewJSONHandler(io.Discard, nil)))
		for b.Loop() {
			paired.Report(b, paired.CPU(recorded(s), recorded(bareGin())), "x-CPU-of-bare-gin", "≤8")
		}
	})
}
