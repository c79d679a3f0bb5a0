package grant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// A refresh token is a word that a scanner can find, the login's id, which stays, and a secret, which is another one
// after each use: a secret of the past shows that another one holds the token too (RFC 9700 4.14.2).
const (
	prefix   = "wtsl_"
	partSize = 26 // of rand.Text: 130 bits
)

const (
	// maxLogins bounds those of a person and a client: one more ends the one that was used longest ago.
	maxLogins = 20
	// slides is how long a login goes on from each use; longest how long at all, from when its person logged in.
	slides, longest = 30 * 24 * time.Hour, 90 * 24 * time.Hour
)

// logins are the programs that go on acting for their people.
type logins struct {
	store     Logins
	audiences Audiences
	people    People
	now       func() time.Time
}

// Issued is what a program gets, and for whom.
type Issued struct {
	Token issuer.Token
	// RefreshToken is empty for a program that gets none.
	RefreshToken     string
	UserID, Username string
	// Login names the login for the audit; empty where none goes on.
	Login string
}

// draft is a login before it is known whether it begins: its digest is noted with the code that is spent for it, so
// that a code which comes again can end it.
type draft struct {
	id, secret string
	// keeps: there is a login at all; refresh: it goes on beyond its first token.
	keeps, refresh bool
	// address and agent are those of a device that asked; empty for a program in a browser, whose own session has them.
	address, agent string
}

// draft draws a login for a client. One that may ask for tokens of wts itself has a login in any case: it is what a
// person ends to end them.
func (l *logins) draft(client Client) *draft {
	return &draft{
		id: rand.Text(), secret: rand.Text(), refresh: client.Refresh,
		keeps: client.Refresh || slices.Contains(client.Audiences, issuer.OwnAudience),
	}
}

// digest is by what the login is kept; nil where it is not.
func (d *draft) digest() *Digest {
	if !d.keeps {
		return nil
	}
	digest := loginDigest(d.id)
	return &digest
}

// loginDigest is by what a login is kept. The byte before its id keeps it apart from what a browser can send as the
// cookie of a session, which is kept in the same table.
func loginDigest(id string) Digest { return sha256.Sum256([]byte("\x00" + id)) }

// parse takes a refresh token apart; false for a text that is none.
func parse(token string) (login, secret Digest, ok bool) {
	rest, found := strings.CutPrefix(token, prefix)
	if !found || len(rest) != 2*partSize {
		return login, secret, false
	}
	return loginDigest(rest[:partSize]), digestOf(rest[partSize:]), true
}

// begin gives a program its first token, and begins its login. The token is made first: where that fails, nothing was
// begun that its person would see and not know. A login without a refresh token ends with its access token.
func (l *logins) begin(ctx context.Context, draft *draft, allowed Authorization) (Issued, error) {
	done := Issued{UserID: allowed.UserID}
	login := Login{
		UserID: allowed.UserID, Client: allowed.Client, Audience: allowed.Audience, Scopes: allowed.Scopes,
		CreatedAt: allowed.AuthenticatedAt, SeenAt: l.now(), Address: draft.address, Agent: draft.agent, Secret: digestOf(draft.secret),
	}
	digest := draft.digest()
	if digest != nil {
		login.Digest = *digest
	}
	var err error
	if allowed.Client == AuthClient {
		done.Token, done.Username, err = l.mintAs(ctx, login, draft.secret)
	} else {
		done.Token, done.Username, err = l.mint(ctx, login, digest != nil, allowed.Scopes)
	}
	if err != nil || digest == nil {
		return done, err
	}
	done.Login = digest.String()[:8]
	login.EndsAt = done.Token.ExpiresAt
	if draft.refresh {
		login.EndsAt = login.end(l.now())
		done.RefreshToken = prefix + draft.id + draft.secret
	}
	err = l.store.CreateLogin(ctx, login, maxLogins)
	if errors.Is(err, ErrUnknown) { // its person ended everything since, or the code came twice
		return Issued{UserID: allowed.UserID}, ErrGrant
	}
	return done, err
}

// end is until when a login goes on that is used now.
func (l Login) end(now time.Time) time.Time {
	end, last := now.Add(slides), l.CreatedAt.Add(longest)
	if last.Before(end) {
		return last
	}
	return end
}

// mint makes a token of what a login may do today: a person who may less has a program that may less.
func (l *logins) mint(ctx context.Context, login Login, kept bool, scopes []string) (issuer.Token, string, error) {
	asked, _ := l.audiences.Groups(login.Audience)
	who, err := l.people.Now(ctx, login.UserID, asked, 0)
	if err != nil {
		return issuer.Token{}, "", err
	}
	if scopes, err = l.audiences.Narrow(login.Audience, &who, scopes); err != nil {
		return issuer.Token{}, who.Username, err
	}
	request := issuer.Request{
		Audience: login.Audience, Person: who, ClientID: login.Client, Actor: issuer.Actor{Subject: "client " + login.Client},
		Scopes: scopes, AuthenticatedAt: login.CreatedAt,
	}
	if kept {
		request.Session = login.Digest.String()
	}
	token, err := l.audiences.Mint(request)
	return token, who.Username, err
}

// Refresh trades a refresh token for a new one and an access token, with the scopes that are asked for, or all of the
// login's (RFC 6749 6). The person is asked about before the token is spent, so that an outage costs no login. The
// errors are ErrGrant, ErrReplayed, issuer.ErrScope, those of People and issuer.Mint, and ErrUnavailable.
func (s *Service) Refresh(ctx context.Context, client, token string, scopes []string) (Issued, error) {
	id, secret, ok := parse(token)
	if !ok {
		return Issued{}, ErrGrant
	}
	login, err := s.logins.store.Login(ctx, id)
	done := Issued{UserID: login.UserID, Login: id.String()[:8]}
	switch {
	case errors.Is(err, ErrUnknown), err == nil && (login.Client != client || !s.clients[client].Refresh || !s.clients[client].may(login.Audience) || !s.now().Before(login.EndsAt)):
		return done, ErrGrant
	case err != nil:
		return done, err
	case subtle.ConstantTimeCompare(login.Secret[:], secret[:]) != 1:
		return done, errors.Join(ErrReplayed, s.logins.store.EndLogin(ctx, id))
	case slices.ContainsFunc(scopes, func(scope string) bool { return !slices.Contains(login.Scopes, scope) }):
		return done, issuer.ErrScope
	case len(scopes) == 0:
		scopes = login.Scopes
	}
	if done.Token, done.Username, err = s.mint(ctx, login, true, scopes); err != nil {
		return done, err
	}
	fresh, now := rand.Text(), s.now()
	err = s.logins.store.RotateLogin(ctx, id, login.Secret, digestOf(fresh), now, login.end(now))
	switch {
	case errors.Is(err, ErrReplayed): // two at once had the same token
		return done, errors.Join(err, s.logins.store.EndLogin(ctx, id))
	case errors.Is(err, ErrUnknown): // it was ended meanwhile
		return done, ErrGrant
	}
	done.RefreshToken = token[:len(prefix)+partSize] + fresh
	return done, err
}
