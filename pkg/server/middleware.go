package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// policy is what a route asks of its callers.
type policy struct {
	accepts authn.Accepts
	// scopes are those of which a program's login needs one.
	scopes []string
	// refine narrows what is accepted by what the request asks for.
	refine func(x *exchange, accepts authn.Accepts) authn.Accepts
	// anonymous lets in whoever proves nothing; strict refuses a bearer that is no good even so.
	anonymous, strict bool
	// disabled lets in a user who is disabled, as one who proves nothing: to leave.
	disabled bool
	// callback: an error of it is told on a page of another address.
	callback bool
	// both wants a session and a bearer of the same user: behind Gen3's portal a session alone may be one that a user
	// who has logged out there left behind (rule C7).
	both bool
	// action is what the audit calls a request of this route, even one that is refused at the door.
	action audit.Action
	// quiet is for what is called all the time: such a request is logged at level debug where it succeeds.
	quiet bool
	// shape is that of the route's errors: gen3 where it is nil.
	shape shape
	// api: no answer is a page; forPeople: every one is.
	api, forPeople bool
}

// edge is what all routes share: it knows the callers, and writes the log.
type edge struct {
	authn    *authn.Authenticator
	sessions *authn.Sessions
	// What pages show in any case.
	broker    *broker.Broker
	apiTokens *apitoken.Service
	site      *web.Site
	seals     Seals

	observer Observer
	log      *slog.Logger
	trail    *audit.Trail
	portal   bool   // the service stands behind Gen3's portal
	base     string // the path under which the service lives, without a slash at its end
	public   string // the URL of the service, as browsers reach it
	secure   bool   // browsers reach it over https
	// defaultProvider is the one that establishes who a user is.
	defaultProvider string
	draining        atomic.Bool

	exchanges sync.Pool
}

var policyOfOptions = policy{}

// exchange is one request and its answer. It is used again for later requests, so nothing may keep
// it beyond its handler.
type exchange struct {
	*gin.Context
	*edge
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
	quiet   bool
	shape   shape
	api     bool
	// forPeople: every answer is a page. noticed is what this one says of the action before it, once that was read.
	forPeople bool
	noticed   *notice
	from      string // the page on which the form stood that is being answered
	// share is whose share of the rate limits the request takes, where a handler knows it better than the caller says.
	share string
	// byAddress: the route knows workers by their address.
	byAddress bool
	want      tokenWanted // of /token
	logged    bool
	attrs     []slog.Attr
	out       []byte // an answer while it is made
}

// handler is the one way in: it knows the caller before the handler runs, renders the error where
// there is one, and writes one line for each request at its end, which is the audit's as well.
func (e *edge) handler(route string, policy policy, handle func(*exchange) error) gin.HandlerFunc {
	count := e.observer.Route(route)
	if policy.shape == nil {
		policy.shape = gen3
	}
	return func(c *gin.Context) {
		x := e.begin(c)
		x.route, x.quiet, x.shape, x.api, x.forPeople, x.event.Action = route, policy.quiet, policy.shape, policy.api, policy.forPeople, policy.action
		x.byAddress = policy.accepts.Pod
		defer x.end(count)
		if x.err = x.admit(policy); x.err == nil {
			x.err = handle(x)
		}
		if x.err != nil && policy.callback {
			x.err = ofCallback(x.err)
		}
		if x.err != nil {
			x.fail(x.err)
		}
	}
}

// begin takes an exchange from the pool and sets the headers that every answer has.
func (e *edge) begin(c *gin.Context) *exchange {
	x, _ := e.exchanges.Get().(*exchange)
	x.Context, x.edge, x.began, x.id = c, e, time.Now(), newRequestID()
	x.peer = e.authn.Peer(c.Request)
	header := c.Writer.Header()
	header["X-Request-Id"] = []string{x.id}
	header["X-Content-Type-Options"] = nosniff
	header["Referrer-Policy"] = noReferrer
	header["Cache-Control"] = noStore
	if c.Request.TLS != nil { // else what ends TLS before us says so, or does not want to
		header["Strict-Transport-Security"] = oneYear
	}
	if e.draining.Load() {
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
	// problemType is RFC 9457's.
	problemType = []string{"application/problem+json"}
)

// newRequestID is what an answer and its line in the log share.
func newRequestID() string {
	var raw [8]byte
	rand.Read(raw[:])
	var text [16]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// admit finds the caller.
func (x *exchange) admit(policy policy) error {
	accepts := policy.accepts
	if policy.refine != nil {
		accepts = policy.refine(x, accepts)
	}
	if accepts == (authn.Accepts{}) {
		return nil
	}
	caller, err := x.authn.Authenticate(x.Request, x.peer, accepts)
	if policy.anonymous && !policy.strict && errors.Is(err, authn.ErrBearer) {
		// A proxy may turn a cookie that has expired into a bearer: that must not keep its user from
		// logging in again. Until then the caller is not known: a session in the same browser may be
		// another user's.
		x.refused = err
		caller, err = authn.Caller{}, authn.ErrNoProof
	}
	x.caller = caller
	if policy.disabled && errors.Is(err, authn.ErrDisabled) {
		x.caller = authn.Caller{}
		return nil
	}
	if err == nil {
		x.observer.Proven(caller.Proof)
		err = proven(x, policy)
	}
	if policy.anonymous && errors.Is(err, authn.ErrNoProof) {
		if caller.Proof != "" { // what was proven is not enough here
			x.caller = authn.Caller{}
		}
		return nil
	}
	return err
}

// proven judges a caller who is known: a program's login by the scopes of the route; and behind Gen3's portal whether
// the browser has the portal's bearer and a session of ours of the same user.
func proven(x *exchange, policy policy) error {
	if x.caller.Proof == authn.Login {
		holds := func(scope string) bool { return slices.Contains(x.caller.Scopes, scope) }
		if policy.refine == nil && !slices.ContainsFunc(policy.scopes, holds) {
			return errTokenScope
		}
		return nil // it is no browser's, so that no session goes with it
	}
	if x.portal && x.caller.Proof == authn.Bearer {
		if err := x.endOthersSession(); err != nil {
			return err
		}
	}
	if policy.both {
		return x.alsoSession(x)
	}
	return nil
}

// alsoSession wants a session of the user whose bearer was accepted, and goes on with it: it says when they logged in.
func (e *edge) alsoSession(x *exchange) error {
	if x.caller.Proof != authn.Bearer {
		return authn.ErrNoProof
	}
	caller, err := e.authn.Authenticate(x.Request, x.peer, authn.Accepts{Session: true})
	if err != nil {
		return err
	}
	if caller.User.ID != x.caller.User.ID {
		return authn.ErrNoProof
	}
	x.caller = caller
	return nil
}

// endOthersSession ends the session in the browser where the bearer is another user's: the portal's user
// has changed since (Gen3 contract 1.4).
func (x *exchange) endOthersSession() error {
	ended, err := x.sessions.EndUnlessOf(x.Request, x.caller.User.ID)
	if ended {
		x.cookie(x.sessions.Cookie, "", -1)
	}
	return err
}

// end counts and logs the request. A panic becomes a 500 that says nothing; what was panicked with
// is not logged either, since it may be anything: the stack says where.
func (x *exchange) end(count func(int, time.Duration)) {
	if panicked := recover(); panicked != nil {
		x.err = fmt.Errorf("%w: %T", errPanic, panicked)
		x.log.Error("panic", slog.String("request", x.id), slog.String("stack", string(debug.Stack())))
		if !x.Writer.Written() {
			x.fail(x.err)
		}
	}
	x.Writer.WriteHeaderNow()
	status, took := x.Writer.Status(), time.Since(x.began)
	count(status, took)
	if !x.logged {
		x.logLine(status, took)
	}
	attrs := x.attrs[:0]
	clear(x.attrs[:cap(x.attrs)])
	of := x.edge
	clear(x.out) // it was a token
	out := x.out[:0]
	if cap(out) > maxKept {
		out = nil
	}
	*x = exchange{attrs: attrs, out: out}
	of.exchanges.Put(x)
}

// maxKept bounds the answer whose memory is used again, in bytes.
const maxKept = 64 << 10

var errPanic = errors.New("a handler panicked")

// record writes the line of a request that is about to be answered with a token: the audit has it before the
// caller does, whatever becomes of this process.
func (x *exchange) record() {
	x.logLine(http.StatusOK, time.Since(x.began))
	x.logged = true
}

// logLine writes the one line of a request, and gives its event to the audit. Queries are left out: they hold codes.
func (x *exchange) logLine(status int, took time.Duration) {
	peer, _, _ := strings.Cut(x.Request.RemoteAddr, "]")
	if at := strings.LastIndexByte(x.Request.RemoteAddr, ':'); at > 0 {
		peer = x.Request.RemoteAddr[:at]
	}
	if x.event.Action != "" {
		addEvent(x, status, peer)
	}
	level := slog.LevelInfo
	switch {
	case status >= 500:
		level = slog.LevelError
	case x.event.Action == "" && x.err == nil && x.quiet:
		level = slog.LevelDebug
	}
	if !x.log.Enabled(context.Background(), level) {
		return
	}
	x.attrs = append(x.attrs[:0],
		slog.String("request", x.id), slog.String("method", x.Request.Method), slog.String("route", x.route),
		slog.Int("status", status), slog.Int64("us", took.Microseconds()), slog.String("peer", peer))
	if x.peer.Proxied {
		x.attrs = append(x.attrs, slog.String("client", x.peer.Addr.String()))
	}
	if x.event.Action != "" {
		x.attrs = x.event.Attrs(x.attrs)
	} else if x.err != nil {
		x.attrs = append(x.attrs, slog.String("error", x.err.Error()))
	}
	x.log.LogAttrs(context.Background(), level, "request", x.attrs...)
}

// addEvent completes the event of a request and gives it to the audit. What a handler knows of the caller stays where
// the middleware does not know it.
func addEvent(x *exchange, status int, peer string) {
	if x.err != nil && x.event.Reason == "" {
		x.event.Reason = x.err.Error()
	}
	x.event.UserID, x.event.Username = cmp.Or(x.caller.User.ID, x.event.UserID), cmp.Or(x.caller.User.Username, x.event.Username)
	x.event.Proof, x.event.Actor = cmp.Or(string(x.caller.Proof), x.event.Proof), cmp.Or(x.caller.Actor, x.event.Actor)
	if x.peer.Proxied {
		peer = x.peer.Addr.String()
	}
	kept := x.event
	if status >= http.StatusInternalServerError && kept.Reason != "" { // it may name hosts; people read this, and operators the log
		kept.Reason = outage
	}
	x.trail.Add(kept, x.id, peer)
}

// outage is what the database's audit says of a request that failed, and was not refused.
const outage = "an outage; the log has it under the request's id"

// alsoDone writes an event that a request brings about beside its own.
func alsoDone(x *exchange, event audit.Event) {
	audit.Write(x.Request.Context(), x.log.With(slog.String("request", x.id)), event)
	x.trail.Add(event, x.id, x.peer.Addr.Unmap().String())
}
