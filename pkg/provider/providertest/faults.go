package providertest

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is what goes wrong at the token endpoint, for the next Times requests.
type Fault struct {
	// Times is how many requests it befalls; 0 is all, until the next Fail.
	Times int
	// Delay is waited before the provider acts.
	Delay time.Duration
	// Status and Body are answered without asking the provider, where Status is not 0.
	Status int
	Body   string
	Header http.Header
	// Thinks lets the provider act, rotate and all, and then waits this long with its answer.
	Thinks time.Duration
	// LoseAnswer lets the provider act, rotate and all, and then breaks the connection.
	LoseAnswer bool
	// Down breaks every connection, discovery and keys too, before anything is done.
	Down bool
}

type faults struct {
	mu      sync.Mutex
	current *Fault
	left    int
}

// Fail sets the fault; nil mends the provider.
func (s *Server) Fail(fault *Fault) { s.faults.set(fault) }

func (f *faults) set(fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = fault
	if fault != nil {
		f.left = fault.Times
	}
}

// take says what befalls this request.
func (f *faults) take(atTokenEndpoint bool) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil || !atTokenEndpoint && !f.current.Down {
		return Fault{}
	}
	fault := *f.current
	if fault.Times > 0 {
		if f.left--; f.left == 0 {
			f.current = nil
		}
	}
	return fault
}

// around puts the faults, and the ledger's count of requests, before the provider. The function tells whose a
// refresh token is; nil where the provider does not say.
func (f *faults) around(ledger *ledger, whose func(refreshToken string) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atTokenEndpoint := strings.HasSuffix(r.URL.Path, "/oauth/token") || strings.HasSuffix(r.URL.Path, "/oauth2/token")
		if !atTokenEndpoint {
			ledger.count(func(l *Ledger) { l.OtherRequests++ })
			if f.take(false).Down {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
			return
		}
		fault, current := f.take(true), ledger.posted(r, whose)
		current.answerLost, current.thinks = fault.LoseAnswer, fault.Thinks
		r = r.WithContext(context.WithValue(r.Context(), post{}, current))
		answer := &answered{ResponseWriter: w}
		defer func() {
			ledger.write(Event{What: Answered, Post: current.number, From: current.from, Subject: current.subject, Status: answer.status, Gone: r.Context().Err() != nil})
			if answer.status != 0 {
				go ledger.awaitReceipt(r.Context(), current)
			}
		}()
		fault.befall(answer, r, next)
	})
}

// befall lets the provider answer one request at the token endpoint as the fault has it.
func (f Fault) befall(w http.ResponseWriter, r *http.Request, next http.Handler) {
	time.Sleep(f.Delay)
	switch {
	case f.Down:
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		for name, values := range f.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
	case f.LoseAnswer:
		next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case f.Thinks > 0:
		// It has acted, whatever becomes of its caller.
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
		time.Sleep(f.Thinks)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	default:
		next.ServeHTTP(w, r)
	}
}

// answered notes the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Write(body []byte) (int, error) {
	a.status = cmp.Or(a.status, http.StatusOK)
	return a.ResponseWriter.Write(body)
}

// Ledger counts what was asked of the provider and how it went.
type Ledger struct {
	TokenPosts    int // requests at the token endpoint, the failed ones too
	OtherRequests int // discovery, keys and the rest
	Grants        int // codes that became a grant
	Refreshes     int // refreshes that succeeded
	Rotations     int // those that gave a new refresh token
	Reused        int // spent tokens presented again, each of which ended a family
	Refused       int // unknown tokens, and tokens of a family that had ended
	Revocations   int // refresh tokens that the client revoked
}

// What an event was.
const (
	Posted   = "posted"   // a request at the token endpoint
	Answered = "answered" // and its end
	Received = "received" // the caller's machine acknowledged the answer; not on every system
	Granted  = "granted"  // a login's first refresh token
	Rotated  = "rotated"  // a refresh token was spent, and another given
	Reused   = "reused"   // a spent token came back, and the family ended
	Refused  = "refused"  // a token was unknown, or its family had ended
	Revoked  = "revoked"  // the client revoked a token, and the family ended
)

// Event is one line of the ledger.
type Event struct {
	What string
	At   time.Time
	// Post numbers the request at the token endpoint that the event belongs to, and From is where it came
	// from; 0 and empty outside one.
	Post    int
	From    string
	Subject string // whose token it was; empty where that is not known
	// Presented and Given are refresh tokens.
	Presented, Given string
	// SpentAt is when the token that was presented had been spent before; zero where it had not.
	SpentAt time.Time
	// AnswerLost: the fault of that name befell the request.
	AnswerLost bool
	// Thinks is how long the answer took after that.
	Thinks time.Duration
	// Status is the answer's, 0 where the connection was broken instead; Gone: the caller had gone by then.
	Status int
	Gone   bool
}

// post is a request at the token endpoint, and where its context keeps it.
type post struct {
	number        int
	from, subject string
	answerLost    bool
	thinks        time.Duration
}

// event begins a line of the ledger that belongs to the request of the context, if any does.
func event(ctx context.Context, what string) Event {
	of, _ := ctx.Value(post{}).(post)
	return Event{What: what, Post: of.number, From: of.from, Subject: of.subject, AnswerLost: of.answerLost, Thinks: of.thinks}
}

// posted notes a request at the token endpoint when it arrives, and then reads whose token it presents.
func (l *ledger) posted(r *http.Request, whose func(refreshToken string) string) post {
	current := post{from: r.RemoteAddr}
	arrived := time.Now()
	line := Event{What: Posted, At: arrived, From: r.RemoteAddr}
	if whose != nil {
		line.Presented = r.PostFormValue("refresh_token")
		line.Subject = whose(line.Presented)
		current.subject = line.Subject
	}
	l.count(func(l *Ledger) { l.TokenPosts++; current.number = l.TokenPosts })
	line.Post = current.number
	l.write(line)
	return current
}

type ledger struct {
	mu sync.Mutex
	Ledger
	events []Event
}

// peer is where the context of a request keeps its connection.
type peer struct{}

func withPeer(ctx context.Context, connection net.Conn) context.Context {
	if encrypted, ok := connection.(*tls.Conn); ok {
		connection = encrypted.NetConn()
	}
	return context.WithValue(ctx, peer{}, connection)
}

// awaitReceipt notes when all that was answered is acknowledged by the caller's machine. The caller may be dead
// by then; but what never was, did not reach it.
func (l *ledger) awaitReceipt(ctx context.Context, of post) {
	connection, ok := ctx.Value(peer{}).(*net.TCPConn)
	if !ok {
		return
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		time.Sleep(wait)
		switch left, open := unacknowledged(connection); {
		case !open:
			return
		case left == 0:
			l.write(Event{What: Received, Post: of.number, From: of.from, Subject: of.subject})
			return
		}
	}
}

func (l *ledger) write(event Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if event.At.IsZero() {
		event.At = time.Now()
	}
	l.events = append(l.events, event)
}

// Events are the ledger's lines so far, in order.
func (s *Server) Events() []Event {
	s.store.ledger.mu.Lock()
	defer s.store.ledger.mu.Unlock()
	return slices.Clone(s.store.ledger.events)
}

func (l *ledger) count(change func(*Ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.Ledger)
}

func (l *ledger) copy() Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Ledger
}
