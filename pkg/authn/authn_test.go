package authn_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// directory is a Directory and a SessionStore of maps; the real ones are tested in pkg/store.
type directory struct {
	mu       sync.Mutex
	people   map[string]authn.User // by name; the subject is "sub-" and the name
	sessions map[authn.SessionDigest]authn.BrowserSession
	down     bool
	asked    int
}

var errDown = errors.New("the database is away")

func (t *directory) find(match func(authn.User) bool) (authn.User, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked++
	if t.down {
		return authn.User{}, errDown
	}
	for _, user := range t.people {
		if match(user) {
			return user, nil
		}
	}
	return authn.User{}, authn.ErrUnknown
}

func (t *directory) UserByID(_ context.Context, id string) (authn.User, error) {
	return t.find(func(u authn.User) bool { return u.ID == id })
}

func (t *directory) UserByName(_ context.Context, name string) (authn.User, error) {
	return t.find(func(u authn.User) bool { return u.Username == name })
}

func (t *directory) UserBySubject(_ context.Context, _, subject, _ string) (authn.User, error) {
	return t.find(func(u authn.User) bool { return "sub-"+u.Username == subject })
}

func (t *directory) CreateSession(_ context.Context, session authn.BrowserSession) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions[session.Digest] = session
	return nil
}

func (t *directory) Session(_ context.Context, digest authn.SessionDigest) (authn.BrowserSession, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down {
		return authn.BrowserSession{}, errDown
	}
	if session, ok := t.sessions[digest]; ok {
		return session, nil
	}
	return authn.BrowserSession{}, authn.ErrUnknown
}

func (t *directory) TouchSession(_ context.Context, digest authn.SessionDigest, seen time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	session := t.sessions[digest]
	session.SeenAt = seen
	t.sessions[digest] = session
	return nil
}

func (t *directory) EndSessions(_ context.Context, userID string, digest *authn.SessionDigest) (ended []authn.SessionDigest, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for one, session := range t.sessions {
		if (userID == "" || session.UserID == userID) && (digest == nil || one == *digest) {
			delete(t.sessions, one)
			ended = append(ended, one)
		}
	}
	return ended, nil
}

func (t *directory) SessionsOf(_ context.Context, userID string) (all []authn.BrowserSession, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, session := range t.sessions {
		if session.UserID == userID {
			all = append(all, session)
		}
	}
	return all, nil
}

const (
	worker = "10.0.0.7:4711"
	proxy  = "10.9.9.9:4711"
)

type fixture struct {
	*authn.Authenticator
	directory *directory
	sessions  *authn.Sessions
	now       time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{now: time.Now(), directory: &directory{
		people:   map[string]authn.User{"alice": {ID: "u1", Username: "alice"}, "eve": {ID: "u2", Username: "eve", Disabled: true}},
		sessions: map[authn.SessionDigest]authn.BrowserSession{},
	}}
	config := authn.Config{
		TrustedProxies: []string{"10.9.0.0/16", "fd00::9"},
		Workers:        map[string]string{"10.0.0.7": "alice", "10.0.0.8": "nobody-yet", "10.0.0.9": "eve", "fd00::7": "alice"},
		Session:        authn.SessionConfig{Idle: time.Hour, Absolute: 10 * time.Hour},
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	f.sessions = authn.NewSessions(config, f.directory, true, func() time.Time { return f.now })
	f.Authenticator = authn.New(authn.Parts{
		Config: config, Directory: f.directory, Sessions: f.sessions, Pods: authn.NewStaticWorkers(config.Workers), OwnIssuer: "https://wts",
	})
	return f
}

func request(peer string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/token", nil)
	r.RemoteAddr = peer
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

var all = authn.Accepts{Bearer: true, Session: true, Pod: true}

func (f *fixture) who(r *http.Request, accepts authn.Accepts) (authn.Caller, error) {
	return f.Authenticate(r, f.Peer(r), accepts)
}

// Kubernetes.md rule 1 and the order of proofs; security.md E1, E2.
func TestWhoIsAtTheAddress(t *testing.T) {
	f := newFixture(t)
	for name, row := range map[string]struct {
		request *http.Request
		accepts authn.Accepts
		user    string
		want    error
	}{
		"the worker":                                                   {request: request(worker), accepts: all, user: "u1"},
		"the worker, by a mapped address":                              {request: request("[::ffff:10.0.0.7]:1"), accepts: all, user: "u1"},
		"the worker, over IPv6":                                        {request: request("[fd00::7]:1"), accepts: all, user: "u1"},
		"a stranger":                                                   {request: request("10.0.0.66:1"), accepts: all, want: authn.ErrNoProof},
		"no address":                                                   {request: request("pipe"), accepts: all, want: authn.ErrNoProof},
		"a stranger who forges X-Forwarded-For":                        {request: request("10.0.0.66:1", "X-Forwarded-For", "10.0.0.7"), accepts: all, want: authn.ErrNoProof},
		"a stranger who forges X-Real-IP":                              {request: request("10.0.0.66:1", "X-Real-IP", "10.0.0.7"), accepts: all, want: authn.ErrNoProof},
		"a stranger who forges Forwarded":                              {request: request("10.0.0.66:1", "Forwarded", "for=10.0.0.7"), accepts: all, want: authn.ErrNoProof},
		"a stranger who forges X-UserId":                               {request: request("10.0.0.66:1", "X-UserId", "alice", "REMOTE_USER", "alice"), accepts: all, want: authn.ErrNoProof},
		"the worker, whatever it forges":                               {request: request(worker, "X-Forwarded-For", "10.0.0.9"), accepts: all, user: "u1"},
		"through a trusted proxy, truly":                               {request: request(proxy, "X-Forwarded-For", "10.0.0.7"), accepts: all, want: authn.ErrNoProof},
		"a browser at the worker's address":                            {request: request(worker, "Cookie", "x=y"), accepts: all, want: authn.ErrNoProof},
		"a page's script at the worker's address":                      {request: request(worker, "Sec-Fetch-Mode", "cors"), accepts: all, want: authn.ErrNoProof},
		"another page at the worker's address":                         {request: request(worker, "Origin", "https://evil"), accepts: all, want: authn.ErrNoProof},
		"a page that came by another name":                             {request: request(worker, "Accept-Language", "en"), accepts: all, want: authn.ErrNoProof},
		"where workers do not count":                                   {request: request(worker), accepts: authn.Accepts{Session: true}, want: authn.ErrNoProof},
		"somebody who has never logged in":                             {request: request("10.0.0.8:1"), accepts: all},
		"somebody who is disabled":                                     {request: request("10.0.0.9:1"), accepts: all, user: "u2", want: authn.ErrDisabled},
		"a bearer that is not accepted is not replaced by the address": {request: request(worker, "Authorization", "Bearer x.y.z"), accepts: all, want: authn.ErrBearer},
		"a header that is no bearer":                                   {request: request(worker, "Authorization", "nonsense"), accepts: all, want: authn.ErrBearer},
		"a bearer that is passed over": {
			request: request(worker, "Authorization", "Bearer x.y.z"),
			accepts: authn.Accepts{Bearer: true, Pod: true, PassOverBearer: true},
			user:    "u1",
		},
		"a bearer that is passed over proves nothing": {
			request: request("10.0.0.66:1", "Authorization", "Bearer x.y.z"),
			accepts: authn.Accepts{Bearer: true, Pod: true, PassOverBearer: true},
			want:    authn.ErrNoProof,
		},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := f.who(row.request, row.accepts)
			if !errors.Is(err, row.want) || caller.User.ID != row.user {
				t.Errorf("got %q, %v; want %q, %v", caller.User.ID, err, row.user, row.want)
			}
		})
	}
}

func TestThePeerBehindTrustedProxies(t *testing.T) {
	f := newFixture(t)
	for name, row := range map[string]struct {
		request *http.Request
		want    string
		proxied bool
	}{
		"no proxy":                     {request: request("192.0.2.1:1", "X-Forwarded-For", "203.0.113.5"), want: "192.0.2.1"},
		"one proxy":                    {request: request(proxy, "X-Forwarded-For", "203.0.113.5"), want: "203.0.113.5", proxied: true},
		"what stands left is invented": {request: request(proxy, "X-Forwarded-For", "10.0.0.7, 203.0.113.5"), want: "203.0.113.5", proxied: true},
		"two proxies":                  {request: request(proxy, "X-Forwarded-For", "10.0.0.7, 203.0.113.5, 10.9.1.1"), want: "203.0.113.5", proxied: true},
		"two headers":                  {request: request(proxy, "X-Forwarded-For", "10.0.0.7", "X-Forwarded-For", "203.0.113.5"), want: "203.0.113.5", proxied: true},
		"the proxy itself":             {request: request(proxy), want: "10.9.9.9", proxied: true},
		"rubbish":                      {request: request(proxy, "X-Forwarded-For", "203.0.113.5, rubbish"), want: "10.9.9.9", proxied: true},
		"a proxy that is one address":  {request: request("[fd00::9]:1", "X-Forwarded-For", "2001:db8::1"), want: "2001:db8::1", proxied: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.Peer(row.request)
			if got.Addr != netip.MustParseAddr(row.want) || got.Proxied != row.proxied {
				t.Errorf("got %v, want %s, %v", got, row.want, row.proxied)
			}
		})
	}
}

func TestUsersAreRememberedUntilTheyChange(t *testing.T) {
	f := newFixture(t)
	for range 100 {
		if _, err := f.who(request(worker), all); err != nil {
			t.Fatal(err)
		}
	}
	if f.directory.asked != 1 {
		t.Errorf("100 requests asked %d times who it is", f.directory.asked)
	}
	f.directory.mu.Lock()
	f.directory.people["alice"] = authn.User{ID: "u1", Username: "alice", Disabled: true}
	f.directory.mu.Unlock()
	f.ForgetUser("u1", "alice")
	if _, err := f.who(request(worker), all); !errors.Is(err, authn.ErrDisabled) {
		t.Errorf("got %v, want ErrDisabled", err)
	}
	// Somebody who logs in for the first time is known at once.
	if caller, _ := f.who(request("10.0.0.8:1"), all); caller.User.ID != "" {
		t.Fatal("known before")
	}
	f.directory.mu.Lock()
	f.directory.people["nobody-yet"] = authn.User{ID: "u3", Username: "nobody-yet"}
	f.directory.mu.Unlock()
	if caller, _ := f.who(request("10.0.0.8:1"), all); caller.User.ID != "u3" {
		t.Errorf("after the login: %q", caller.User.ID)
	}
}

// Security.md F4: an outage is never a refusal.
func TestAnOutageIsNoRefusal(t *testing.T) {
	f := newFixture(t)
	handle, _, err := f.sessions.Begin(t.Context(), "u1", "192.0.2.1", "a browser")
	if err != nil {
		t.Fatal(err)
	}
	f.directory.down = true
	for name, r := range map[string]*http.Request{
		"a worker":  request(worker),
		"a session": request("10.0.0.66:1", "Cookie", f.sessions.Cookie+"="+handle),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := f.who(r, all); !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
}

// Security.md C1, C2.
func TestSessions(t *testing.T) {
	f := newFixture(t)
	if !strings.HasPrefix(f.sessions.Cookie, "__Host-") {
		t.Errorf("over https the cookie is called %s", f.sessions.Cookie)
	}
	begin := func() string {
		handle, life, err := f.sessions.Begin(t.Context(), "u1", "192.0.2.1", "a browser")
		if err != nil || life != 10*time.Hour {
			t.Fatalf("begun for %s, %v", life, err)
		}
		return handle
	}
	uses := func(handle string) error {
		caller, err := f.who(request("192.0.2.1:1", "Cookie", f.sessions.Cookie+"="+handle), all)
		if err == nil && (caller.Proof != authn.Session || caller.User.Username != "alice") {
			t.Errorf("the caller is %+v", caller)
		}
		return err
	}
	one, two := begin(), begin()
	if one == two || len(one) < 26 {
		t.Error("handles are guessable")
	}
	for digest := range f.directory.sessions {
		if strings.Contains(string(digest[:]), one) {
			t.Error("the store knows a handle")
		}
	}
	if err := uses(one); err != nil {
		t.Errorf("a session: %v", err)
	}
	if err := uses("guess"); !errors.Is(err, authn.ErrNoProof) {
		t.Errorf("a guess: %v", err)
	}
	for range 9 { // in use every 50 minutes, it outlives the hour of idleness, and not the ten hours
		f.now = f.now.Add(50 * time.Minute)
		if err := uses(one); err != nil {
			t.Fatalf("in use: %v", err)
		}
	}
	if err := uses(two); !errors.Is(err, authn.ErrNoProof) {
		t.Errorf("idle for hours: %v", err)
	}
	f.now = f.now.Add(50 * time.Minute)
	f.now = f.now.Add(100 * time.Minute)
	if err := uses(one); !errors.Is(err, authn.ErrNoProof) {
		t.Errorf("beyond its absolute end: %v", err)
	}
	three := begin()
	if err := f.sessions.End(t.Context(), request("192.0.2.1:1", "Cookie", f.sessions.Cookie+"="+three)); err != nil {
		t.Fatal(err)
	}
	if err := uses(three); !errors.Is(err, authn.ErrNoProof) {
		t.Errorf("ended: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	err := authn.Config{
		TrustedProxies: []string{"everyone"}, Workers: map[string]string{"here": "alice", "10.0.0.1": ""},
		Session: authn.SessionConfig{Idle: -1},
	}.Validate()
	for _, want := range []string{"trusted_proxies[0]", `"here" is not an address`, "10.0.0.1 has an empty user name", "session"} {
		t.Run(want, func(t *testing.T) {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no fault about %s in:\n%v", want, err)
			}
		})
	}
}
