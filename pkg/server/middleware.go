package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
)

// policy is what a route asks of its callers.
type policy struct {
	accepts authn.Accepts
	// refine narrows what is accepted by what the request asks for.
	refine func(s *Server, x *exchange, accepts authn.Accepts) authn.Accepts
	// anonymous lets in whoever proves nothing; strict refuses a bearer that is no good even so.
	anonymous, strict bool
	// action is what the audit calls a request of this route, even one that is refused at the door.
	action audit.Action
}

var policyOfOptions = policy{}

// exchange is one request and its answer. It is used again for later requests, so nothing may keep
// it beyond its handler.
type exchange struct {
	*gin.Context
	id     string
	caller authn.Caller
	// refused is why a bearer was not accepted, where the request went on without it.
	refused error
	peer    authn.Peer
	event   audit.Event
	err     error
	began   time.Time
	ended   func(error) // of a login that was admitted
	route   string
	logged  bool
	attrs   []slog.Attr
}

// handler is the one way in: it knows the caller before the handler runs, renders the error where
// there is one, and writes one line for each request at its end, which is the audit's as well.
func (s *Server) handler(route string, policy policy, handle func(*exchange) error) gin.HandlerFunc {
	count := s.Observer.Route(route)
	return func(c *gin.Context) {
		x := s.begin(c)
		x.route, x.event.Action = route, policy.action
		defer s.end(x, route, count)
		if x.err = s.admit(x, policy); x.err == nil {
			x.err = handle(x)
		}
		if x.err != nil {
			s.fail(x, x.err)
		}
	}
}

func (s *Server) begin(c *gin.Context) *exchange {
	x, _ := s.exchanges.Get().(*exchange)
	x.Context, x.began, x.id = c, time.Now(), newRequestID()
	x.peer = s.Authn.Peer(c.Request)
	header := c.Writer.Header()
	header["X-Request-Id"] = []string{x.id}
	header["X-Content-Type-Options"] = nosniff
	header["Referrer-Policy"] = noReferrer
	header["Cache-Control"] = noStore
	if c.Request.TLS != nil { // else what ends TLS before us says so, or does not want to
		header["Strict-Transport-Security"] = oneYear
	}
	if s.draining.Load() {
		header["Connection"] = closing // so that clients go elsewhere before we are gone
	}
	if c.Request.Body != nil && c.Request.Body != http.NoBody {
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
	}
	return x
}

const maxBody = 64 << 10 // bytes

// Values of headers, made once; nobody changes them.
var (
	nosniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	noStore    = []string{"no-store"}
	closing    = []string{"close"}
	oneYear    = []string{"max-age=31536000"}
	jsonType   = []string{"application/json"}
)

func newRequestID() string {
	var raw [8]byte
	rand.Read(raw[:])
	var text [16]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// admit finds the caller.
func (s *Server) admit(x *exchange, policy policy) error {
	accepts := policy.accepts
	if policy.refine != nil {
		accepts = policy.refine(s, x, accepts)
	}
	if accepts == (authn.Accepts{}) {
		return nil
	}
	caller, err := s.Authn.Authenticate(x.Request, x.peer, accepts)
	if policy.anonymous && !policy.strict && errors.Is(err, authn.ErrBearer) {
		// A proxy may turn a cookie that has expired into a bearer: that must not keep its user from
		// logging in again. Until then the caller is not known: a session in the same browser may be
		// another user's.
		x.refused = err
		caller, err = authn.Caller{}, authn.ErrNoProof
	}
	x.caller = caller
	if err == nil {
		s.Observer.Proven(caller.Proof)
		if s.Config.Portal && caller.Proof == authn.Bearer {
			return s.endOthersSession(x)
		}
	}
	if policy.anonymous && errors.Is(err, authn.ErrNoProof) {
		return nil
	}
	return err
}

// endOthersSession ends the session in the browser where the bearer is another user's: the portal's user
// has changed since (Gen3 contract 1.4).
func (s *Server) endOthersSession(x *exchange) error {
	ended, err := s.Sessions.EndUnlessOf(x.Request, x.caller.User.ID)
	if ended {
		s.cookie(x, s.Sessions.Cookie, "", -1)
	}
	return err
}

// end counts and logs the request. A panic becomes a 500 that says nothing; what was panicked with
// is not logged either, since it may be anything: the stack says where.
func (s *Server) end(x *exchange, route string, count func(int, time.Duration)) {
	if panicked := recover(); panicked != nil {
		x.err = fmt.Errorf("%w: %T", errPanic, panicked)
		s.Log.Error("panic", slog.String("request", x.id), slog.String("stack", string(debug.Stack())))
		if !x.Writer.Written() {
			s.fail(x, x.err)
		}
	}
	x.Writer.WriteHeaderNow()
	status, took := x.Writer.Status(), time.Since(x.began)
	count(status, took)
	if !x.logged {
		s.logLine(x, route, status, took)
	}
	attrs := x.attrs[:0]
	clear(x.attrs[:cap(x.attrs)])
	*x = exchange{attrs: attrs}
	s.exchanges.Put(x)
}

var errPanic = errors.New("a handler panicked")

// record writes the line of a request that is about to be answered with a token: the audit has it before the
// caller does, whatever becomes of this process.
func (s *Server) record(x *exchange) {
	s.logLine(x, x.route, http.StatusOK, time.Since(x.began))
	x.logged = true
}

// logLine writes the one line of a request. Queries are left out: they hold codes.
func (s *Server) logLine(x *exchange, route string, status int, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case status >= 500:
		level = slog.LevelError
	case x.event.Action == "" && x.err == nil && quiet(route):
		level = slog.LevelDebug
	}
	if !s.Log.Enabled(context.Background(), level) {
		return
	}
	peer, _, _ := strings.Cut(x.Request.RemoteAddr, "]")
	if at := strings.LastIndexByte(x.Request.RemoteAddr, ':'); at > 0 {
		peer = x.Request.RemoteAddr[:at]
	}
	x.attrs = append(x.attrs[:0],
		slog.String("request", x.id), slog.String("method", x.Request.Method), slog.String("route", route),
		slog.Int("status", status), slog.Int64("us", took.Microseconds()), slog.String("peer", peer))
	if x.peer.Proxied {
		x.attrs = append(x.attrs, slog.String("client", x.peer.Addr.String()))
	}
	if x.event.Action != "" {
		if x.err != nil && x.event.Reason == "" {
			x.event.Reason = x.err.Error()
		}
		x.event.UserID, x.event.Username = x.caller.User.ID, x.caller.User.Username
		x.event.Proof, x.event.Actor = string(x.caller.Proof), x.caller.Actor
		x.attrs = x.event.Attrs(x.attrs)
	} else if x.err != nil {
		x.attrs = append(x.attrs, slog.String("error", x.err.Error()))
	}
	s.Log.LogAttrs(context.Background(), level, "request", x.attrs...)
}

// quiet are the routes that probes call all the time.
func quiet(route string) bool {
	switch route {
	case "/_status", "/healthz", "/readyz", "/static/wts.css":
		return true
	}
	return false
}
