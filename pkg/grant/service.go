package grant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

const (
	// codeLife is how long an authorization code is good (RFC 6749 4.1.2 asks for ten minutes at most).
	codeLife = time.Minute
	// DeviceLife is how long a person has to decide; PollEvery how long a device waits between two questions.
	DeviceLife, PollEvery = 10 * time.Minute, 5 * time.Second
)

// Service serves the grants. It is safe for concurrent use. It holds nothing in memory but the clients, so that any
// replica goes on where another began: the code may be made at one, spent at a second, and refreshed at a third.
type Service struct {
	*logins
	store   Store
	clients map[string]Client
}

// Parts are what a Service is made of; all of them are needed.
type Parts struct {
	Config    Config
	Store     Store
	Logins    Logins
	Audiences Audiences
	People    People
	Now       func() time.Time
}

// New makes a service of a valid configuration.
func New(parts Parts) *Service {
	clients := map[string]Client{CommandLine: commandLine}
	maps.Copy(clients, parts.Config.Clients)
	if parts.Config.Auth.Audience != "" {
		clients[AuthClient] = parts.Config.Auth.client()
	}
	return &Service{
		store: parts.Store, clients: clients,
		logins: &logins{store: parts.Logins, audiences: parts.Audiences, people: parts.People, now: parts.Now},
	}
}

// Request is what a program asks a person for, by way of their browser (RFC 6749 4.1.1).
type Request struct {
	Client, RedirectURI, Audience string
	Scopes                        []string
	Challenge                     string // S256 (RFC 7636 4.3)
}

// Client is who asks; false where no such one is registered.
func (s *Service) Client(id string) (Client, bool) {
	client, known := s.clients[id]
	return client, known
}

// Registered tells a client of the OAuth endpoints.
func (s *Service) Registered(id string) bool {
	client, known := s.clients[id]
	return known && !client.internal
}

// Allowed tells whether the scripts of a site may call the token endpoint.
func (s *Service) Allowed(origin string) bool {
	for _, client := range s.clients {
		if !client.internal && slices.Contains(client.Origins, origin) {
			return true
		}
	}
	return false
}

// Check judges a request and completes it. With ErrClient and ErrRedirect the browser goes nowhere; the others, which
// are ErrRequest, ErrUnauthorized and issuer.ErrScope, are the client's to hear.
func (s *Service) Check(request Request) (Request, error) {
	client := s.clients[request.Client]
	switch {
	case !s.Registered(request.Client):
		return request, ErrClient
	case !client.redirects(request.RedirectURI):
		return request, ErrRedirect
	case len(request.Challenge) != base64.RawURLEncoding.EncodedLen(sha256.Size):
		return request, fmt.Errorf("%w: code_challenge is missing or no SHA-256 (code_challenge_method=S256)", ErrRequest)
	}
	return s.complete(client, request)
}

// complete judges the audience and the scopes of a request, without a look at the person, and names each scope once:
// what may be asked for is bounded by what the audience has.
func (s *Service) complete(client Client, request Request) (Request, error) {
	var err error
	if request.Audience, err = client.audience(request.Audience); err != nil {
		return request, err
	}
	slices.Sort(request.Scopes)
	request.Scopes = slices.Compact(request.Scopes)
	some, err := s.audiences.Narrow(request.Audience, nil, request.Scopes)
	if err == nil && len(some) < len(request.Scopes) {
		err = issuer.ErrScope
	}
	return request, err
}

// audience is the one that is asked for, or the client's own.
func (c Client) audience(wanted string) (string, error) {
	switch {
	case wanted == "" && len(c.Audiences) > 0:
		return c.Audiences[0], nil
	case !slices.Contains(c.Audiences, wanted):
		return "", fmt.Errorf("%w: audience is none of the client's", ErrUnauthorized)
	}
	return wanted, nil
}

// may tells whether the client is registered for an audience.
func (c Client) may(audience string) bool { return slices.Contains(c.Audiences, audience) }

// Allow makes a code for a request that was checked, which a person allows who logged in at a time. The errors are those
// of People and issuer.Allow, and ErrUnavailable.
func (s *Service) Allow(ctx context.Context, request Request, userID string, authenticatedAt time.Time) (code string, err error) {
	if err := s.May(ctx, userID, request.Audience, request.Scopes); err != nil {
		return "", err
	}
	code, now := rand.Text(), s.now()
	return code, s.store.CreateAuthorization(ctx, Authorization{
		Digest: digestOf(code), Client: request.Client, Audience: request.Audience, Scopes: request.Scopes, State: Allowed,
		RedirectURI: request.RedirectURI, Challenge: request.Challenge, UserID: userID, AuthenticatedAt: authenticatedAt,
		CreatedAt: now, ExpiresAt: now.Add(codeLife),
	})
}

// May judges whether a person may have what a program asks for. The errors are those of People and issuer.Allow.
func (s *Service) May(ctx context.Context, userID, audience string, scopes []string) error {
	asked, _ := s.audiences.Groups(audience)
	who, err := s.people.Now(ctx, userID, asked, 0)
	if err != nil {
		return err
	}
	return s.audiences.Allow(audience, who, scopes)
}

// Exchange trades a code for tokens (RFC 6749 4.1.3). A code is spent by the first attempt, good or bad; one that comes
// again ends the login that it began. The errors are ErrGrant, those of People and issuer.Mint, and ErrUnavailable.
func (s *Service) Exchange(ctx context.Context, client, code, redirectURI, verifier string) (Issued, error) {
	login := s.draft(s.clients[client])
	spent, err := s.store.Spend(ctx, digestOf(code), login.digest())
	switch {
	case errors.Is(err, ErrUnknown):
		return Issued{}, ErrGrant
	case err != nil:
		return Issued{}, err
	}
	challenge := sha256.Sum256([]byte(verifier))
	proven := subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(challenge[:])), []byte(spent.Challenge)) == 1
	fits := proven && spent.Client == client && spent.RedirectURI == redirectURI && spent.UserCode == nil
	switch {
	case spent.State == Spent && fits && spent.Login != nil: // who else has it has all of it
		return Issued{UserID: spent.UserID}, errors.Join(ErrGrant, s.logins.store.EndLogin(ctx, *spent.Login))
	case spent.State != Allowed, !fits, !s.now().Before(spent.ExpiresAt), !s.clients[client].may(spent.Audience):
		return Issued{UserID: spent.UserID}, ErrGrant
	}
	return s.begin(ctx, login, spent)
}

// Device is what a device shows and keeps (RFC 8628 3.2): UserCode for its person, of eight letters, and DeviceCode, of
// 260 bits, by which it asks what they said.
type Device struct {
	DeviceCode, UserCode string
}

// BeginDevice lets a program wait for a person, whom it shows a code. Where it asks from stands on the page on which they
// decide. The errors are ErrClient, ErrUnauthorized, ErrRequest and ErrUnavailable.
func (s *Service) BeginDevice(ctx context.Context, request Request, address, agent string) (Device, error) {
	client := s.clients[request.Client]
	switch {
	case !s.Registered(request.Client):
		return Device{}, ErrClient
	case !client.Device:
		return Device{}, fmt.Errorf("%w: the device flow is off for it", ErrUnauthorized)
	}
	request, err := s.complete(client, request)
	if err != nil {
		return Device{}, err
	}
	return s.beginDevice(ctx, request, DeviceLife, address, agent)
}

// beginDevice draws the codes of a request that was judged.
func (s *Service) beginDevice(ctx context.Context, request Request, life time.Duration, address, agent string) (Device, error) {
	made, now := Device{DeviceCode: rand.Text() + rand.Text(), UserCode: newUserCode()}, s.now()
	shown := digestOf(plainUserCode(made.UserCode))
	return made, s.store.CreateAuthorization(ctx, Authorization{
		Digest: digestOf(made.DeviceCode), UserCode: &shown, Client: request.Client, Audience: request.Audience, Scopes: request.Scopes, State: Pending,
		Address: address, Agent: agent, CreatedAt: now, ExpiresAt: now.Add(life),
	})
}

// letters are those of user codes: no vowels, so that no code is a word (RFC 8628 6.1).
const letters = "BCDFGHJKLMNPQRSTVWXZ"

// newUserCode draws eight letters, which are 34 bits, with a hyphen between.
func newUserCode() string {
	code := make([]byte, 0, 9)
	for len(code) < 9 {
		if len(code) == 4 {
			code = append(code, '-')
		}
		var drawn [1]byte
		rand.Read(drawn[:])
		if at := int(drawn[0]); at < 256-256%len(letters) { // each letter as likely
			code = append(code, letters[at%len(letters)])
		}
	}
	return string(code)
}

// plainUserCode is a code as it is looked up, however it was typed.
func plainUserCode(text string) string {
	return strings.Map(func(char rune) rune {
		if !strings.ContainsRune(letters, char) {
			return -1
		}
		return char
	}, strings.ToUpper(text))
}

// ShownUserCode is a code as a program shows it, however it was typed.
func ShownUserCode(text string) string {
	plain := plainUserCode(text)
	return plain[:min(4, len(plain))] + "-" + plain[min(4, len(plain)):]
}

// Waiting is what the program asks for that shows a code; ErrUnknown where none does.
func (s *Service) Waiting(ctx context.Context, userCode string) (Authorization, error) {
	found, err := s.store.Waiting(ctx, digestOf(plainUserCode(userCode)))
	if err == nil && !s.now().Before(found.ExpiresAt) {
		return Authorization{}, ErrUnknown
	}
	return found, err
}

// Decide is a person's answer to the program that shows a code. The errors are ErrUnknown, those of People and of
// issuer.Allow, and ErrUnavailable.
func (s *Service) Decide(ctx context.Context, userCode string, allow bool, userID string, authenticatedAt time.Time) (Authorization, error) {
	waiting, err := s.Waiting(ctx, userCode)
	if err != nil {
		return waiting, err
	}
	state := Denied
	if allow {
		state = Allowed
		if err := s.May(ctx, userID, waiting.Audience, waiting.Scopes); err != nil {
			return waiting, err
		}
	}
	return waiting, s.store.Decide(ctx, *waiting.UserCode, state, userID, authenticatedAt)
}

// Poll is the question of a device for its tokens (RFC 8628 3.4). The errors are ErrPending, ErrDenied, ErrExpired,
// ErrGrant, those of People and issuer.Mint, and ErrUnavailable.
func (s *Service) Poll(ctx context.Context, client, deviceCode string) (Issued, error) {
	return s.poll(ctx, client, deviceCode, s.draft(s.clients[client]))
}

// poll gives a device the first token of a login that was drawn.
func (s *Service) poll(ctx context.Context, client, deviceCode string, login *draft) (Issued, error) {
	digest := digestOf(deviceCode)
	found, err := s.store.Authorization(ctx, digest)
	switch {
	case errors.Is(err, ErrUnknown), err == nil && (found.UserCode == nil || found.Client != client || found.State == Spent):
		return Issued{}, ErrGrant
	case err != nil:
		return Issued{}, err
	case found.State == Denied:
		return Issued{UserID: found.UserID}, ErrDenied
	case !s.now().Before(found.ExpiresAt):
		return Issued{}, ErrExpired
	case found.State == Pending:
		return Issued{}, ErrPending
	}
	if of := s.clients[client]; !of.Device || !of.may(found.Audience) { // the operator took it away meanwhile
		return Issued{UserID: found.UserID}, ErrGrant
	}
	spent, err := s.store.Spend(ctx, digest, login.digest())
	switch {
	case err != nil:
		return Issued{}, err
	case spent.State != Allowed: // another question came first, or its person ended everything
		return Issued{}, ErrGrant
	}
	login.address, login.agent = spent.Address, spent.Agent
	return s.begin(ctx, login, spent)
}

// Revoke ends the login that a refresh token is of, whichever of the login's it is (RFC 7009), and returns it. The errors
// are ErrUnknown where there is no such login, also for a text that is no refresh token, and ErrUnavailable.
func (s *Service) Revoke(ctx context.Context, token string) (Login, error) {
	id, _, ok := parse(token)
	if !ok {
		return Login{}, ErrUnknown
	}
	login, err := s.logins.store.Login(ctx, id)
	if err != nil {
		return Login{}, err
	}
	return login, s.logins.store.EndLogin(ctx, id)
}
