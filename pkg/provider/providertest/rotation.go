package providertest

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// family is all refresh tokens that descend from one login. Strict providers end the whole of it
// when a spent one comes back (RFC 9700 4.14.2).
type family struct {
	client, subject string
	scopes          []string
	at              time.Time
	revoked         bool
}

// refreshToken implements op.RefreshTokenRequest.
type refreshToken struct {
	*family
	spentAt time.Time // zero while it is good
}

func (t *refreshToken) GetAMR() []string          { return []string{"pwd"} }
func (t *refreshToken) GetAudience() []string     { return []string{t.client} }
func (t *refreshToken) GetAuthTime() time.Time    { return t.at }
func (t *refreshToken) GetClientID() string       { return t.client }
func (t *refreshToken) GetScopes() []string       { return t.scopes }
func (t *refreshToken) GetSubject() string        { return t.subject }
func (t *refreshToken) SetCurrentScopes([]string) {}

func (s *storage) expiry() time.Time { return time.Now().Add(s.options.AccessLife) }

func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ends := s.access()
	return id, ends, nil
}

// access makes an access token's id, and notes when it ends.
func (s *storage) access() (id string, ends time.Time) {
	id, ends = rand.Text(), s.expiry()
	s.ends[id] = ends
	return id, ends
}

// Inspect tells whose an opaque access token is and when it ends, as an introspection would; ok is false for
// one that the provider never gave.
func (s *Server) Inspect(accessToken string) (subject string, ends time.Time, ok bool) {
	text, err := s.crypto.Decrypt(accessToken)
	if err != nil {
		return "", time.Time{}, false
	}
	id, subject, _ := strings.Cut(text, ":")
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	ends, ok = s.store.ends[id]
	return subject, ends, ok
}

// CreateAccessAndRefreshTokens is both the first grant and every rotation; a rotation is decided
// and done under one lock, so that two that come together cannot both win.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, of op.TokenRequest, current string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if current == "" {
		begun := &family{client: of.GetAudience()[0], subject: of.GetSubject(), scopes: of.GetScopes(), at: time.Now()}
		s.ledger.count(func(l *Ledger) { l.Grants++ })
		id, ends := s.access()
		line := event(ctx, Granted)
		line.Subject, line.Given = begun.subject, s.issue(begun)
		s.ledger.write(line)
		return id, line.Given, ends, nil
	}
	presented, ok := s.tokens[current]
	line := event(ctx, Rotated)
	line.Subject, line.Presented = of.GetSubject(), current
	if ok {
		line.SpentAt = presented.spentAt
	}
	switch {
	case !ok || presented.revoked:
		s.ledger.count(func(l *Ledger) { l.Refused++ })
		line.What = Refused
		s.ledger.write(line)
		return "", "", time.Time{}, oidc.ErrInvalidGrant()
	case s.options.KeepRefreshTokens:
		s.ledger.count(func(l *Ledger) { l.Refreshes++ })
		id, ends := s.access()
		return id, current, ends, nil
	case presented.spentAt.IsZero():
		presented.spentAt = time.Now()
	case time.Since(presented.spentAt) > s.options.Grace:
		presented.revoked = true
		s.ledger.count(func(l *Ledger) { l.Reused++ })
		line.What = Reused
		s.ledger.write(line)
		return "", "", time.Time{}, oidc.ErrInvalidGrant()
	}
	s.ledger.count(func(l *Ledger) { l.Refreshes++; l.Rotations++ })
	id, ends := s.access()
	line.Given = s.issue(presented.family)
	s.ledger.write(line)
	return id, line.Given, ends, nil
}

// issue makes a refresh token of a family.
func (s *storage) issue(of *family) string {
	text := rand.Text() + rand.Text()
	s.tokens[text] = &refreshToken{family: of}
	return text
}

// whose is the subject of a refresh token, spent or not; empty for one that the provider never gave.
func (s *storage) whose(token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.tokens[token]; ok {
		return known.subject
	}
	return ""
}

func (s *storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if presented, ok := s.tokens[token]; ok {
		return presented, nil
	}
	s.ledger.count(func(l *Ledger) { l.Refused++ })
	s.ledger.write(event(ctx, Refused))
	return nil, oidc.ErrInvalidGrant()
}

func (s *storage) revokeSubject(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range s.tokens {
		if token.subject == subject {
			token.revoked = true
		}
	}
}

// RevokeToken ends the family of a refresh token (RFC 7009 2.1).
func (s *storage) RevokeToken(_ context.Context, token, _, clientID string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if presented, ok := s.tokens[token]; ok && presented.client == clientID {
		presented.revoked = true
		s.ledger.count(func(l *Ledger) { l.Revocations++ })
		s.ledger.write(Event{What: Revoked, Subject: presented.subject, Presented: token})
	}
	return nil
}

func (s *storage) GetRefreshTokenInfo(_ context.Context, _, token string) (string, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if presented, ok := s.tokens[token]; ok {
		return presented.subject, token, nil
	}
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }
