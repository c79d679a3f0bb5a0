package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"
)

// SessionDigest is what the database knows of a session's handle: its SHA-256. The handle itself
// is in the browser's cookie and nowhere else.
type SessionDigest [sha256.Size]byte

// BrowserSession is a person's logged-in browser.
type BrowserSession struct {
	Digest                    SessionDigest
	UserID                    string
	CreatedAt, SeenAt, EndsAt time.Time
	// Address and Agent are those of the login: where it came from, and what the browser calls itself.
	Address, Agent string
	// Client is the program whose login this is, which no cookie proves; empty for a browser.
	Client string
}

// SessionStore keeps sessions. Session's error is ErrUnknown where there is none.
type SessionStore interface {
	CreateSession(ctx context.Context, session BrowserSession) error
	Session(ctx context.Context, digest SessionDigest) (BrowserSession, error)
	TouchSession(ctx context.Context, digest SessionDigest, seen time.Time) error
	// EndSessions ends the sessions of a user, of any where it is empty, or the one of a digest, and says which it ended.
	EndSessions(ctx context.Context, userID string, digest *SessionDigest) ([]SessionDigest, error)
	// SessionsOf are a user's, those that were seen last first.
	SessionsOf(ctx context.Context, userID string) ([]BrowserSession, error)
}

// Sessions begins, finds and ends browsers' sessions.
type Sessions struct {
	// Cookie is the name of the cookie that holds the handle.
	Cookie string

	config SessionConfig
	store  SessionStore
	cache  *otter.Cache[SessionDigest, *BrowserSession]
	// unknown are digests of no session, for a few seconds: a cookie that was made up asks the
	// database once. Handles are random, so that none of them comes to be one.
	unknown *otter.Cache[SessionDigest, *BrowserSession] // without a value
	now     func() time.Time
}

const (
	maxSessions = 100_000
	unknownFor  = 5 * time.Second
)

// NewSessions keeps sessions in a store. Over plain http the cookie has to do without the __Host-
// prefix and Secure, which browsers grant to https alone.
func NewSessions(config Config, store SessionStore, secure bool, now func() time.Time) *Sessions {
	cookie := "wts"
	if secure {
		cookie = "__Host-wts"
	}
	return &Sessions{
		Cookie: cookie, config: config.WithDefaults().Session, store: store, now: now,
		cache: otter.Must(&otter.Options[SessionDigest, *BrowserSession]{MaximumSize: maxSessions}),
		unknown: otter.Must(&otter.Options[SessionDigest, *BrowserSession]{
			MaximumSize: maxSessions, ExpiryCalculator: otter.ExpiryWriting[SessionDigest, *BrowserSession](unknownFor),
		}),
	}
}

// Begin starts a session and returns its handle and how long the cookie may live.
func (s *Sessions) Begin(ctx context.Context, userID, address, agent string) (handle string, life time.Duration, err error) {
	handle = rand.Text() + rand.Text()
	now := s.now()
	err = s.store.CreateSession(ctx, BrowserSession{
		Digest: sha256.Sum256([]byte(handle)), UserID: userID, CreatedAt: now, SeenAt: now, EndsAt: now.Add(s.config.Absolute), Address: address, Agent: agent,
	})
	if err != nil {
		return "", 0, outage(err)
	}
	return handle, s.config.Absolute, nil
}

// End ends the session of a request, if there is one, on every replica.
func (s *Sessions) End(ctx context.Context, r *http.Request) error {
	digest, ok := s.digest(r)
	if !ok {
		return nil
	}
	if _, made := s.unknown.GetIfPresent(digest); made {
		return nil
	}
	s.cache.Invalidate(digest)
	if _, err := s.store.EndSessions(ctx, "", &digest); err != nil {
		return outage(err)
	}
	return nil
}

// EndOf ends a user's sessions on every replica, or the one of a digest, and says how many it ended.
func (s *Sessions) EndOf(ctx context.Context, userID string, digest *SessionDigest) (int, error) {
	ended, err := s.store.EndSessions(ctx, userID, digest)
	if err != nil {
		return 0, outage(err)
	}
	for _, one := range ended {
		s.cache.Invalidate(one)
	}
	return len(ended), nil
}

// Of are a user's sessions that have not ended, those that were seen last first, and which of them asks.
func (s *Sessions) Of(r *http.Request, userID string) (all []BrowserSession, own SessionDigest, err error) {
	kept, err := s.store.SessionsOf(r.Context(), userID)
	if err != nil {
		return nil, own, outage(err)
	}
	own, _ = s.digest(r)
	now := s.now()
	for _, one := range kept {
		if now.Before(one.EndsAt) && (one.Client != "" || now.Sub(one.SeenAt) < s.config.Idle) {
			all = append(all, one)
		}
	}
	return all, own, nil
}

// EndUnlessOf ends the session of a request unless it is this user's, and says whether it did.
func (s *Sessions) EndUnlessOf(r *http.Request, userID string) (ended bool, err error) {
	session, err := s.find(r)
	switch {
	case errors.Is(err, ErrNoProof), err == nil && session.UserID == userID:
		return false, nil
	case err != nil:
		return false, err
	}
	return true, s.End(r.Context(), r)
}

// Forget drops a session from memory. The change feed calls it, with the digest in hex.
func (s *Sessions) Forget(digestHex string) {
	if raw, err := hex.DecodeString(digestHex); err == nil && len(raw) == sha256.Size {
		s.cache.Invalidate(SessionDigest(raw))
	}
}

// digest names the session of a request's cookie. The cookie itself is kept nowhere: whoever reads the database can
// take over nobody's session.
func (s *Sessions) digest(r *http.Request) (SessionDigest, bool) {
	cookie, err := r.Cookie(s.Cookie)
	if err != nil || cookie.Value == "" {
		return SessionDigest{}, false
	}
	return sha256.Sum256([]byte(cookie.Value)), true
}

// find returns the living session of a request; ErrNoProof where there is none.
func (s *Sessions) find(r *http.Request) (BrowserSession, error) {
	digest, ok := s.digest(r)
	if !ok {
		return BrowserSession{}, ErrNoProof
	}
	if _, made := s.unknown.GetIfPresent(digest); made {
		return BrowserSession{}, ErrNoProof
	}
	ctx, now := context.WithoutCancel(r.Context()), s.now()
	session, err := s.load(ctx, digest)
	if err == nil && now.Sub(session.SeenAt) >= s.config.Idle { // it may have been in use on another replica
		s.cache.Invalidate(digest)
		session, err = s.load(ctx, digest)
	}
	if err != nil {
		return BrowserSession{}, err
	}
	if session.Client != "" || !now.Before(session.EndsAt) || now.Sub(session.SeenAt) >= s.config.Idle {
		return BrowserSession{}, ErrNoProof
	}
	s.touch(ctx, session, now)
	return session, nil
}

// load reads a session through memory. A digest of no session is remembered for a moment, so that a browser with an
// old cookie does not ask the database at each request.
func (s *Sessions) load(ctx context.Context, digest SessionDigest) (BrowserSession, error) {
	session, err := s.cache.Get(ctx, digest, loader(s.store.Session))
	switch {
	case errors.Is(err, ErrUnknown):
		s.unknown.Set(digest, nil)
		return BrowserSession{}, ErrNoProof
	case err != nil:
		return BrowserSession{}, outage(err)
	}
	return *session, nil
}

// touch notes that the session is in use, coarsely: at most once in a hundredth of its idle time.
// A session whose touch fails is as good as before: the database being away ends nobody's login.
func (s *Sessions) touch(ctx context.Context, session BrowserSession, now time.Time) {
	if now.Sub(session.SeenAt) < s.config.Idle/100 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.store.TouchSession(ctx, session.Digest, now); err == nil {
		s.cache.Invalidate(session.Digest)
	}
}

// session takes the caller for the user who is signed in.
func (a *Authenticator) session(r *http.Request) (Caller, error) {
	session, err := a.sessions.find(r)
	if err != nil {
		return Caller{}, err
	}
	user, err := a.people.withID(r.Context(), session.UserID)
	switch {
	case errors.Is(err, ErrUnknown):
		return Caller{}, ErrNoProof
	case err != nil:
		return Caller{}, fmt.Errorf("the user of a session: %w", err)
	}
	return allowed(Caller{User: user, Proof: Session, Actor: "session " + hex.EncodeToString(session.Digest[:4]), Since: session.CreatedAt})
}
