package grant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// PEPhub's clients have a way of logging in of their own, which is older than PKCE and sends no client_id. It is served
// for one audience, with what its clients do not see: redirect URIs are registered, a device's code is not the one that
// its person sees, and each login is kept, so that it can be ended, renewed and told from a token that was forged by one
// who knows the audience's secret.

// AuthConfig is the audience that is served at /auth, as the operator writes it; none where Audience is empty.
type AuthConfig struct {
	Audience string `config:"audience"`
	// Name is what people are told who asks. Default: the audience.
	Name string `config:"name"`
	// RedirectURIs are where a browser is sent back to, each matched as it stands.
	RedirectURIs []string `config:"redirect_uris"`
	// Origins are the sites whose scripts may call /auth, such as https://hub.example.org.
	Origins []string `config:"origins"`
}

// AuthClient is by what name the logins of that audience are kept.
const AuthClient = "auth"

const (
	// AuthLife is how long a code of /auth is good, and how long a person has to decide about a device.
	AuthLife = 5 * time.Minute
	// authLongest is how long a login can be renewed from when its person logged in.
	authLongest = 30 * 24 * time.Hour
	// always is more than any audience allows, so that a token lives for as long as it may.
	always = 10 * 365 * 24 * time.Hour
)

// ErrRenewed: the token of a login was replaced by another one.
var ErrRenewed = errors.New("the login was renewed already, and this is not its newest token")

// client is the registration of it.
func (c AuthConfig) client() Client {
	named := Client{Name: c.Name, RedirectURIs: c.RedirectURIs, Origins: c.Origins, Audiences: []string{c.Audience}, Device: true, internal: true}
	if named.Name == "" {
		named.Name = c.Audience
	}
	return named
}

// validate tells every fault of it.
func (c AuthConfig) validate(audience func(id string) bool) (faults []error) {
	if c.Audience == "" {
		if len(c.RedirectURIs)+len(c.Origins) > 0 || c.Name != "" {
			faults = append(faults, errors.New("auth.audience: is missing; it names the audience that is served at /auth"))
		}
		return faults
	}
	c.client().validate(audience, func(format string, args ...any) { faults = append(faults, fmt.Errorf("auth"+format, args...)) })
	for i, text := range c.RedirectURIs {
		if !strings.HasPrefix(text, "https://") && !strings.HasPrefix(text, "http://") {
			faults = append(faults, fmt.Errorf("auth.redirect_uris[%d]: want https, since a person is not asked whether the program at the address may have a token: %q", i, text))
		}
	}
	return faults
}

// Auth serves /auth, on what the grants are made of.
type Auth struct {
	*Service
	client Client
	// Audience is the one that is served; empty where none is.
	Audience string
}

// Auth is what serves /auth.
func (s *Service) Auth() *Auth {
	client, served := s.clients[AuthClient]
	if !served {
		return &Auth{Service: s}
	}
	return &Auth{Service: s, client: client, Audience: client.Audiences[0]}
}

// Nobody is asked whether a client may have a token: a site of the operator's own is served here as soon as its people log
// in. So an address is one that a program of their machine cannot take: https; or for development http on this machine,
// at the very port that is registered.

// Redirects tells whether a browser may be sent back to an address; no address is a page of ours.
func (s *Auth) Redirects(redirectURI string) bool {
	return redirectURI == "" || slices.Contains(s.client.RedirectURIs, redirectURI)
}

// Sends tells whether a client may be told where its person goes in the end: to a page of its own sites, which are those
// of the redirect URIs and the origins.
func (s *Auth) Sends(address string) bool {
	to, err := url.Parse(address)
	if err != nil || to.Host == "" || to.User != nil || strings.Contains(address, "\\") {
		return false
	}
	origin := to.Scheme + "://" + to.Host
	own := func(registered string) bool { return registered == origin || strings.HasPrefix(registered, origin+"/") }
	return slices.ContainsFunc(s.client.RedirectURIs, own) || slices.Contains(s.client.Origins, origin)
}

// AllowedOrigin tells whether the scripts of a site may call /auth.
func (s *Auth) AllowedOrigin(origin string) bool { return slices.Contains(s.client.Origins, origin) }

// AllowLogin makes a code for a person who has logged in. A challenge (RFC 7636 4.3, S256) is optional, since the clients
// are older. The errors are ErrRedirect, those of People and issuer.Allow, and ErrUnavailable.
func (s *Auth) AllowLogin(ctx context.Context, redirectURI, challenge, userID string, authenticatedAt time.Time) (code string, err error) {
	if !s.Redirects(redirectURI) {
		return "", ErrRedirect
	}
	if err := s.May(ctx, userID, s.Audience, nil); err != nil {
		return "", err
	}
	code, now := rand.Text(), s.now()
	return code, s.store.CreateAuthorization(ctx, Authorization{
		Digest: digestOf(code), Client: AuthClient, Audience: s.Audience, State: Allowed, RedirectURI: redirectURI, Challenge: challenge,
		UserID: userID, AuthenticatedAt: authenticatedAt, CreatedAt: now, ExpiresAt: now.Add(AuthLife),
	})
}

// Redeem trades a code for the token of a login. The code is spent by the first attempt, good or bad. The errors are
// ErrGrant, ErrRedirect, those of People and issuer.Mint, and ErrUnavailable.
func (s *Auth) Redeem(ctx context.Context, code, redirectURI, verifier string) (Issued, error) {
	login := authDraft()
	spent, err := s.store.Spend(ctx, digestOf(code), login.digest())
	switch {
	case errors.Is(err, ErrUnknown):
		return Issued{}, ErrGrant
	case err != nil:
		return Issued{}, err
	case spent.Client != AuthClient || spent.UserCode != nil || spent.State != Allowed || !s.now().Before(spent.ExpiresAt):
		return Issued{UserID: spent.UserID}, ErrGrant
	case spent.RedirectURI != redirectURI:
		return Issued{UserID: spent.UserID}, ErrRedirect
	}
	if spent.Challenge == "" && verifier != "" { // asked for by another than who has it now (RFC 9700 4.8.2)
		return Issued{UserID: spent.UserID}, ErrGrant
	}
	challenge := sha256.Sum256([]byte(verifier))
	if spent.Challenge != "" && subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(challenge[:])), []byte(spent.Challenge)) != 1 {
		return Issued{UserID: spent.UserID}, ErrGrant
	}
	return s.begin(ctx, login, spent)
}

// BeginLogin is BeginDevice for the audience that is served at /auth.
func (s *Auth) BeginLogin(ctx context.Context, address, agent string) (Device, error) {
	return s.beginDevice(ctx, Request{Client: AuthClient, Audience: s.Audience}, AuthLife, address, agent)
}

// PollLogin is Poll for it.
func (s *Auth) PollLogin(ctx context.Context, deviceCode string) (Issued, error) {
	return s.poll(ctx, AuthClient, deviceCode, authDraft())
}

// The newest token of a login is known by its jti, whose digest is the login's secret in the database: it makes keys and is
// renewed, as a refresh token is used once. A token before it stays good for reading until it expires, since a page may
// be open in two windows; so a replay ends nothing, and gets nothing.

// authDraft draws a login of /auth: it ends with its token, whose jti is its secret.
func authDraft() *draft { return &draft{id: rand.Text(), secret: rand.Text(), keeps: true} }

// LoginOf is the login that a token of /auth is of, by its sid and jti; newest tells that it is the login's newest
// token. Who it is of is what the row says, since a token may be forged. One whose person may not have the audience's
// tokens any more counts no more, as a key of theirs. The errors are ErrGrant for a login that has ended, those of People
// and issuer.Allow, and ErrUnavailable.
func (s *Auth) LoginOf(ctx context.Context, session, tokenID string) (login Login, newest bool, err error) {
	raw, err := hex.DecodeString(session)
	if err != nil || len(raw) != len(Digest{}) {
		return Login{}, false, ErrGrant
	}
	login, err = s.logins.store.Login(ctx, Digest(raw))
	switch {
	case errors.Is(err, ErrUnknown), err == nil && (login.Client != AuthClient || !s.clients[AuthClient].may(login.Audience) || !s.now().Before(login.EndsAt)):
		return login, false, ErrGrant
	case err != nil:
		return login, false, err
	}
	_, decide := s.audiences.Groups(login.Audience)
	who, err := s.people.Now(ctx, login.UserID, decide, 0)
	if err != nil {
		return login, false, err
	}
	if err := s.audiences.Allow(login.Audience, who, nil); err != nil {
		return login, false, err
	}
	presented := digestOf(tokenID)
	return login, subtle.ConstantTimeCompare(login.Secret[:], presented[:]) == 1, nil
}

// Renew gives a login another token in the place of its newest, for at most thirty days from when its person logged
// in. The errors are ErrGrant, ErrRenewed, those of People and issuer.Mint, and ErrUnavailable.
func (s *Auth) Renew(ctx context.Context, session, tokenID string) (Issued, error) {
	login, newest, err := s.LoginOf(ctx, session, tokenID)
	done := Issued{UserID: login.UserID, Login: login.Digest.String()[:8]}
	switch {
	case err != nil:
		return done, err
	case !newest:
		return done, ErrRenewed
	case !s.now().Before(login.CreatedAt.Add(authLongest)):
		return done, ErrGrant
	}
	fresh := rand.Text()
	if done.Token, done.Username, err = s.mintAs(ctx, login, fresh); err != nil {
		return done, err
	}
	err = s.logins.store.RotateLogin(ctx, login.Digest, login.Secret, digestOf(fresh), s.now(), done.Token.ExpiresAt)
	switch {
	case errors.Is(err, ErrReplayed):
		return done, ErrRenewed
	case errors.Is(err, ErrUnknown):
		return done, ErrGrant
	}
	return done, err
}

// mintAs mints a token of a login of /auth, which lives for as long as its audience allows.
func (l *logins) mintAs(ctx context.Context, login Login, tokenID string) (issuer.Token, string, error) {
	asked, _ := l.audiences.Groups(login.Audience)
	who, err := l.people.Now(ctx, login.UserID, asked, 0)
	if err != nil {
		return issuer.Token{}, "", err
	}
	token, err := l.audiences.Mint(issuer.Request{
		Audience: login.Audience, Person: who, ClientID: AuthClient, Actor: issuer.Actor{Subject: "client " + AuthClient}, AuthenticatedAt: login.CreatedAt,
		Session: login.Digest.String(), ID: tokenID, Lifetime: always,
	})
	return token, who.Username, err
}

// End ends a login. The errors are those of LoginOf; a token of the past ends it too.
func (s *Auth) End(ctx context.Context, session string) (Login, error) {
	login, _, err := s.LoginOf(ctx, session, "")
	if err != nil {
		return login, err
	}
	return login, s.logins.store.EndLogin(ctx, login.Digest)
}
