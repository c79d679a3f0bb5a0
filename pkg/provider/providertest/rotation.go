package providertest

import (
	"context"
	"crypto/rand"
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
	return rand.Text(), s.expiry(), nil
}

// CreateAccessAndRefreshTokens is both the first grant and every rotation; a rotation is decided
// and done under one lock, so that two that come together cannot both win.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, of op.TokenRequest, current string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if current == "" {
		begun := &family{client: of.GetAudience()[0], subject: of.GetSubject(), scopes: of.GetScopes(), at: time.Now()}
		s.ledger.count(func(l *Ledger) { l.Grants++ })
		return rand.Text(), s.issue(begun), s.expiry(), nil
	}
	presented, ok := s.tokens[current]
	event := Event{What: Rotated, Subject: of.GetSubject(), AnswerLost: ctx.Value(answerLost{}) != nil}
	if ok {
		event.SpentAt = presented.spentAt
	}
	switch {
	case !ok || presented.revoked:
		s.ledger.count(func(l *Ledger) { l.Refused++ })
		return "", "", time.Time{}, oidc.ErrInvalidGrant()
	case s.options.KeepRefreshTokens:
		s.ledger.count(func(l *Ledger) { l.Refreshes++ })
		return rand.Text(), current, s.expiry(), nil
	case presented.spentAt.IsZero():
		presented.spentAt = time.Now()
	case time.Since(presented.spentAt) > s.options.Grace:
		presented.revoked = true
		s.ledger.count(func(l *Ledger) { l.Reused++ })
		event.What = Reused
		s.ledger.write(event)
		return "", "", time.Time{}, oidc.ErrInvalidGrant()
	}
	s.ledger.count(func(l *Ledger) { l.Refreshes++; l.Rotations++ })
	s.ledger.write(event)
	return rand.Text(), s.issue(presented.family), s.expiry(), nil
}

// issue makes a refresh token of a family.
func (s *storage) issue(of *family) string {
	text := rand.Text() + rand.Text()
	s.tokens[text] = &refreshToken{family: of}
	return text
}

func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if presented, ok := s.tokens[token]; ok {
		return presented, nil
	}
	s.ledger.count(func(l *Ledger) { l.Refused++ })
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
