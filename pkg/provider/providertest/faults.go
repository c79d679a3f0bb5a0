package providertest

import (
	"context"
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

// around puts the faults, and the ledger's count of requests, before the provider.
func (f *faults) around(ledger *ledger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atTokenEndpoint := strings.HasSuffix(r.URL.Path, "/oauth/token") || strings.HasSuffix(r.URL.Path, "/oauth2/token")
		if atTokenEndpoint {
			ledger.count(func(l *Ledger) { l.TokenPosts++ })
			ledger.write(Event{What: Posted})
		} else {
			ledger.count(func(l *Ledger) { l.OtherRequests++ })
		}
		fault := f.take(atTokenEndpoint)
		time.Sleep(fault.Delay)
		switch {
		case fault.Down:
			panic(http.ErrAbortHandler)
		case fault.Status != 0:
			for name, values := range fault.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(fault.Status)
			_, _ = w.Write([]byte(fault.Body))
		case fault.LoseAnswer:
			next.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithValue(r.Context(), answerLost{}, true)))
			panic(http.ErrAbortHandler)
		case fault.Thinks > 0:
			// It has acted, whatever becomes of its caller.
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r.WithContext(context.WithValue(context.WithoutCancel(r.Context()), thinking{}, fault.Thinks)))
			time.Sleep(fault.Thinks)
			for name, values := range answer.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		default:
			next.ServeHTTP(w, r)
		}
	})
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
	Posted  = "posted"  // a request at the token endpoint
	Rotated = "rotated" // a refresh token was spent, and another given
	Reused  = "reused"  // a spent token came back, and the family ended
)

// Event is one line of the ledger.
type Event struct {
	What    string
	At      time.Time
	Subject string // whose token it was; empty for a post
	// SpentAt is when the token that was presented had been spent before; zero where it had not.
	SpentAt time.Time
	// AnswerLost: the fault of that name befell the request.
	AnswerLost bool
	// Thinks is how long the answer took after that.
	Thinks time.Duration
}

// thinking is where the context of a request says how long its answer will take.
type thinking struct{}

// answerLost marks the context of a request whose answer is thrown away.
type answerLost struct{}

type ledger struct {
	mu sync.Mutex
	Ledger
	events []Event
}

func (l *ledger) write(event Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	event.At = time.Now()
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
