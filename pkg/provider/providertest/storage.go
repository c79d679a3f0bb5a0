package providertest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// storage is the provider's memory. It implements op.Storage; the methods that are empty belong to
// features that are not offered.
type storage struct {
	options Options
	key     *rsa.PrivateKey
	ledger  *ledger

	mu       sync.Mutex
	clients  map[string]Client
	users    map[string]User
	requests map[string]*request
	codes    map[string]string // code to request
	tokens   map[string]*refreshToken
	ends     map[string]time.Time // of access tokens, by id
}

func newStorage(options Options) (*storage, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("a provider's signing key: %w", err)
	}
	s := &storage{
		options: options, key: key, ledger: &ledger{},
		clients: map[string]Client{}, users: map[string]User{}, requests: map[string]*request{},
		codes: map[string]string{}, tokens: map[string]*refreshToken{}, ends: map[string]time.Time{},
	}
	for _, user := range options.Users {
		s.setUser(user)
	}
	return s, nil
}

func (s *storage) register(client Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[client.ID] = client
}

func (s *storage) setUser(user User) {
	if user.Subject == "" {
		user.Subject = user.Name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[user.Subject] = user
}

// logIn checks a name and password and binds the person to the request.
func (s *storage) logIn(requestID, name, password string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, ok := s.requests[requestID]
	if !ok {
		return errors.New("this login was not begun, or is over")
	}
	for _, user := range s.users {
		if user.Name == name && user.Password == password {
			pending.subject, pending.at = user.Subject, time.Now()
			return nil
		}
	}
	return errors.New("no such name and password")
}

// request is an authorization request; it implements op.AuthRequest.
type request struct {
	id      string
	asked   oidc.AuthRequest
	subject string
	at      time.Time
}

func (r *request) GetID() string                      { return r.id }
func (r *request) GetACR() string                     { return "" }
func (r *request) GetAMR() []string                   { return []string{"pwd"} }
func (r *request) GetAudience() []string              { return []string{r.asked.ClientID} }
func (r *request) GetAuthTime() time.Time             { return r.at }
func (r *request) GetClientID() string                { return r.asked.ClientID }
func (r *request) GetNonce() string                   { return r.asked.Nonce }
func (r *request) GetRedirectURI() string             { return r.asked.RedirectURI }
func (r *request) GetResponseType() oidc.ResponseType { return r.asked.ResponseType }
func (r *request) GetResponseMode() oidc.ResponseMode { return r.asked.ResponseMode }
func (r *request) GetScopes() []string                { return r.asked.Scopes }
func (r *request) GetState() string                   { return r.asked.State }
func (r *request) GetSubject() string                 { return r.subject }
func (r *request) Done() bool                         { return r.subject != "" }
func (r *request) GetCodeChallenge() *oidc.CodeChallenge {
	if r.asked.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.asked.CodeChallenge, Method: r.asked.CodeChallengeMethod}
}

func (s *storage) CreateAuthRequest(_ context.Context, asked *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := &request{id: rand.Text(), asked: *asked}
	s.requests[pending.id] = pending
	return pending, nil
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pending, ok := s.requests[id]; ok {
		return pending, nil
	}
	return nil, oidc.ErrInvalidRequest()
}

func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	id, ok := s.codes[code]
	delete(s.codes, code) // a code is good for one attempt
	s.mu.Unlock()
	if !ok {
		return nil, oidc.ErrInvalidGrant()
	}
	return s.AuthRequestByID(ctx, id)
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	registered, ok := s.clients[id]
	if !ok {
		return nil, oidc.ErrInvalidClient()
	}
	tokens := op.AccessTokenTypeJWT
	if s.options.OpaqueAccessTokens {
		tokens = op.AccessTokenTypeBearer
	}
	return &client{Client: registered, tokens: tokens}, nil
}

func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if registered, ok := s.clients[id]; !ok || registered.Secret != secret {
		return oidc.ErrInvalidClient()
	}
	return nil
}

// SetUserinfoFromRequest puts the person's names into the id_token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, of op.IDTokenRequest, _ []string) error {
	s.describe(info, of.GetSubject())
	return nil
}

// describe says who a person is now.
func (s *storage) describe(info *oidc.UserInfo, subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user := s.users[subject]
	info.Subject = user.Subject
	info.PreferredUsername = user.Name
	info.Email, info.EmailVerified = user.Email, user.Email != ""
	if user.Groups != nil {
		info.AppendClaims("groups", user.Groups)
	}
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromToken answers UserInfo.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, _, subject, _ string) error {
	s.describe(info, subject)
	return nil
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errNotOffered
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNotOffered
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNotOffered
}

func (s *storage) Health(context.Context) error { return nil }

var errNotOffered = errors.New("this provider does not offer it")

// signingKey implements op.SigningKey and, for the public half, op.Key.
type signingKey struct{ key any }

func (k signingKey) ID() string                                  { return "1" }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k signingKey) Use() string                                 { return "sig" }
func (k signingKey) Key() any                                    { return k.key }

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return signingKey{s.key}, nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{signingKey{&s.key.PublicKey}}, nil
}
