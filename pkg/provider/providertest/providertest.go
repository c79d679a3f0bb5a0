// Package providertest is a real OpenID provider, small, in this process: what the tests and the
// demo log in at.
//
// The protocol is zitadel/oidc's; what is ours is the memory behind it, made to be as strict as
// the strictest providers: refresh tokens rotate, and a spent one presented again ends its whole
// family. It can be told to be slow, to fail and to lose an answer after it acted, and it keeps a
// ledger of what was really asked of it.
package providertest

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// User is a person who can log in.
type User struct {
	Subject  string // what identifies the person for ever; the name where it is empty
	Name     string // preferred_username, and what is typed in at the login page
	Email    string
	Password string
	Groups   []string // the claim groups, in the id_token and in UserInfo
}

// Options say what kind of provider it is. The zero value rotates strictly, with no grace.
type Options struct {
	// Address to listen on. Default 127.0.0.1 and a free port.
	Address string
	// Certificate is what it speaks TLS with; nil for plain http, which clients take on a loopback address alone.
	Certificate *tls.Certificate
	Users       []User
	// AccessLife is how long access tokens live. Default 60 s.
	AccessLife time.Duration
	// KeepRefreshTokens turns rotation off.
	KeepRefreshTokens bool
	// Grace is how long a spent refresh token may be presented again.
	Grace time.Duration
	// OpaqueAccessTokens are what it gives instead of JWTs.
	OpaqueAccessTokens bool
	// Title is what the login page says.
	Title string
}

// Client is a registration at the provider.
type Client struct {
	ID, Secret  string
	RedirectURI string
}

// Server is a running provider.
type Server struct {
	// Issuer is its issuer identifier.
	Issuer string

	options Options
	store   *storage
	faults  *faults
	crypto  op.Crypto
	http    *http.Server
}

// Start runs a provider until Close.
func Start(options Options) (*Server, error) {
	if options.Address == "" {
		options.Address = "127.0.0.1:0"
	}
	if options.AccessLife == 0 {
		options.AccessLife = time.Minute
	}
	if options.Title == "" {
		options.Title = "Example login"
	}
	listener, err := net.Listen("tcp", options.Address)
	if err != nil {
		return nil, fmt.Errorf("starting a provider: %w", err)
	}
	store, err := newStorage(options)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	scheme := "http://"
	if options.Certificate != nil {
		scheme = "https://"
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*options.Certificate}, MinVersion: tls.VersionTLS12})
	}
	server := &Server{Issuer: scheme + listener.Addr().String(), options: options, store: store, faults: &faults{}}
	var key [32]byte
	rand.Read(key[:])
	server.crypto = op.NewAESCrypto(key)
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: key, CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		SupportedScopes: []string{"openid", "profile", "email", "offline_access"},
	}, store, op.StaticIssuer(server.Issuer), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting a provider: %w", err), listener.Close())
	}
	mux := http.NewServeMux()
	login := &loginPage{store: store, title: options.Title, done: op.AuthCallbackURL(provider), issuer: server.Issuer}
	mux.HandleFunc("GET /login", login.show)
	mux.HandleFunc("POST /login", login.submit)
	mux.Handle("/", server.faults.around(store.ledger, store.whose, provider))
	server.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ConnContext: withPeer,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // connections break on purpose
	}
	go func() { _ = server.http.Serve(listener) }()
	return server, nil
}

// Close ends the provider at once, with its connections.
func (s *Server) Close() error { return s.http.Close() }

// Register makes a client known.
func (s *Server) Register(client Client) { s.store.register(client) }

// Grant gives a client a grant of a subject's, as a login without openid would, and returns its refresh
// token.
func (s *Server) Grant(client, subject string) string {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	return s.store.issue(&family{client: client, subject: subject, scopes: []string{"offline_access"}, at: time.Now()})
}

// Revoke ends every grant of a subject, as an administrator would.
func (s *Server) Revoke(subject string) { s.store.revokeSubject(subject) }

// SetUser adds a person, or changes the one of the same subject.
func (s *Server) SetUser(user User) { s.store.setUser(user) }

// Ledger is what was asked of the provider so far.
func (s *Server) Ledger() Ledger { return s.store.ledger.copy() }

// client adapts a registration to op.Client.
type client struct {
	Client
	tokens op.AccessTokenType
}

func (c *client) GetID() string                       { return c.ID }
func (c *client) RedirectURIs() []string              { return []string{c.RedirectURI} }
func (c *client) PostLogoutRedirectURIs() []string    { return nil }
func (c *client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c *client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c *client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (c *client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}
func (c *client) LoginURL(id string) string           { return "/login?request=" + id }
func (c *client) AccessTokenType() op.AccessTokenType { return c.tokens }
func (c *client) IDTokenLifetime() time.Duration      { return 5 * time.Minute }
func (c *client) DevMode() bool                       { return true } // redirect URIs over http

func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return allScopes }
func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return allScopes }
func (c *client) IsScopeAllowed(string) bool                                   { return true }
func (c *client) IDTokenUserinfoClaimsAssertion() bool                         { return true }
func (c *client) ClockSkew() time.Duration                                     { return 0 }

func allScopes(scopes []string) []string { return scopes }
