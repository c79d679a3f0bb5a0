package providertest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// FenceOptions say what the Fence is like. The zero value is as Fence is: it does not rotate, and its
// refresh tokens are JWTs that end after 30 days.
type FenceOptions struct {
	// Address to listen on. Default 127.0.0.1 and a free port.
	Address string
	Users   []User
	// AccessLife and RefreshLife are how long tokens live. Default 20 minutes and 30 days.
	AccessLife, RefreshLife time.Duration
	// Rotates, Opaque and Endless are what other providers do: new refresh tokens at each refresh,
	// refresh tokens that are no JWTs, JWTs without exp.
	Rotates, Opaque, Endless bool
	// Commons answers beside the Fence, as the other services of its commons.
	Commons http.Handler
}

// Fence behaves as Gen3's Fence does towards a client (Gen3 contract 1.3): at BaseURL a commons, and
// at BaseURL/user, its issuer, the provider.
type Fence struct {
	BaseURL, Issuer string

	options FenceOptions
	key     *rsa.PrivateKey
	faults  *faults
	ledger  *ledger
	http    *http.Server

	mu       sync.Mutex
	clients  map[string]Client
	pending  map[string]url.Values // authorization requests, by the id that the login page carries
	codes    map[string]fenceCode
	refresh  map[string]string // living refresh tokens, and whose they are
	lastSent url.Values        // what the last authorization request asked
}

type fenceCode struct {
	name, nonce, redirect string
}

// StartFence runs a Fence until Close.
func StartFence(options FenceOptions) (*Fence, error) {
	if options.Address == "" {
		options.Address = "127.0.0.1:0"
	}
	if options.AccessLife == 0 {
		options.AccessLife = 20 * time.Minute
	}
	if options.RefreshLife == 0 {
		options.RefreshLife = 30 * 24 * time.Hour
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("starting a Fence: %w", err)
	}
	listener, err := net.Listen("tcp", options.Address)
	if err != nil {
		return nil, fmt.Errorf("starting a Fence: %w", err)
	}
	f := &Fence{
		BaseURL: "http://" + listener.Addr().String(), options: options, key: key, faults: &faults{}, ledger: &ledger{},
		clients: map[string]Client{}, pending: map[string]url.Values{}, codes: map[string]fenceCode{}, refresh: map[string]string{},
	}
	f.Issuer = f.BaseURL + "/user"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /user/oauth2/authorize", f.authorize)
	mux.HandleFunc("GET /login", f.page)
	mux.HandleFunc("POST /login", f.logIn)
	mux.HandleFunc("POST /user/oauth2/token", f.token)
	mux.HandleFunc("GET /user/.well-known/jwks", f.keys)
	if options.Commons != nil {
		mux.Handle("/", options.Commons)
	}
	f.http = &http.Server{Handler: f.faults.around(f.ledger, nil, mux), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = f.http.Serve(listener) }()
	return f, nil
}

// Close ends it at once.
func (f *Fence) Close() error { return f.http.Close() }

// Register makes a client known.
func (f *Fence) Register(client Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients[client.ID] = client
}

// Fail sets what goes wrong; nil mends it.
func (f *Fence) Fail(fault *Fault) { f.faults.set(fault) }

// Ledger is what was asked so far.
func (f *Fence) Ledger() Ledger { return f.ledger.copy() }

// LastAuthorization is what the last authorization request asked.
func (f *Fence) LastAuthorization() url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastSent
}

// Revoke ends every refresh token of a person's.
func (f *Fence) Revoke(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.refresh, func(_, of string) bool { return of == name })
}

// Grant makes a refresh token for a client, as a login would.
func (f *Fence) Grant(name, client string) (refreshToken string) {
	return f.newRefreshToken(f.user(name), client)
}

// AccessToken signs an access token of a person's, as the portal's cookie holds one. The change may
// alter its claims.
func (f *Fence) AccessToken(name string, change func(claims map[string]any)) string {
	claims := f.claims(f.user(name), "access", "", f.options.AccessLife)
	if change != nil {
		change(claims)
	}
	return f.sign(claims)
}

func (f *Fence) user(name string) User {
	for _, one := range f.options.Users {
		if one.Name == name {
			return one
		}
	}
	return User{Name: name}
}

// claims are those of Fence's tokens.
func (f *Fence) claims(of User, purpose, client string, life time.Duration) map[string]any {
	subject := of.Subject
	if subject == "" {
		subject = of.Name
	}
	now := time.Now()
	claims := map[string]any{
		"pur": purpose, "iss": f.Issuer, "sub": subject, "aud": []string{"gen3", client}, "azp": client, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(life).Unix(), "scope": []string{"openid", "user", "data"},
	}
	if purpose != "refresh" {
		claims["context"] = map[string]any{"user": map[string]any{"name": of.Name, "is_admin": false, "email": of.Email}}
	}
	return claims
}

func (f *Fence) newRefreshToken(of User, client string) (token string) {
	switch {
	case f.options.Opaque:
		token = rand.Text() + rand.Text()
	default:
		claims := f.claims(of, "refresh", client, f.options.RefreshLife)
		if f.options.Endless {
			delete(claims, "exp")
		}
		token = f.sign(claims)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh[token] = of.Name
	return token
}

// sign makes a JWT with RS256.
func (f *Fence) sign(claims map[string]any) string {
	encode := func(value any) string {
		text, _ := json.Marshal(value) // maps of strings and numbers, which always marshal
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := encode(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "fence_key"}) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, f.key, crypto.SHA256, sum[:]) // a key of 2048 bits signs any hash
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (f *Fence) keys(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"keys": []map[string]any{{
		"kty": "RSA", "alg": "RS256", "use": "sig", "key_ops": []string{"verify"}, "kid": "fence_key",
		"n": base64.RawURLEncoding.EncodeToString(f.key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(f.key.E)).Bytes()),
	}}})
}

func (f *Fence) authorize(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	f.mu.Lock()
	client, known := f.clients[query.Get("client_id")]
	id := rand.Text()
	f.pending[id], f.lastSent = query, query
	f.mu.Unlock()
	if !known || client.RedirectURI != query.Get("redirect_uri") || query.Get("response_type") != "code" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	http.Redirect(w, r, "/login?request="+id, http.StatusFound)
}

func (f *Fence) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = loginTemplate.Execute(w, map[string]string{"Title": "Fence", "Request": r.URL.Query().Get("request")})
}

func (f *Fence) logIn(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked, known := f.pending[r.PostFormValue("request")]
	who := f.user(r.PostFormValue("name"))
	if !known || who.Password == "" || who.Password != r.PostFormValue("password") {
		http.Error(w, "no such login", http.StatusForbidden)
		return
	}
	delete(f.pending, r.PostFormValue("request"))
	code := rand.Text()
	f.codes[code] = fenceCode{name: who.Name, nonce: asked.Get("nonce"), redirect: asked.Get("redirect_uri")}
	http.Redirect(w, r, asked.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode(), http.StatusSeeOther)
}

var errFenceGrant = errors.New("invalid_grant")

func (f *Fence) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	f.mu.Lock()
	client, known := f.clients[id]
	f.mu.Unlock()
	if !known || client.Secret != secret {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	answer, err := f.grant(r, id)
	if err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error(), "error_description": "it is not good, upstream-description-canary"})
		return
	}
	reply(w, http.StatusOK, answer)
}

// grant answers one POST at the token endpoint.
func (f *Fence) grant(r *http.Request, client string) (map[string]any, error) {
	nonce, presented, name := "", r.PostFormValue("refresh_token"), ""
	f.mu.Lock()
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		code, known := f.codes[r.PostFormValue("code")]
		delete(f.codes, r.PostFormValue("code"))
		if known && code.redirect == r.PostFormValue("redirect_uri") {
			name, nonce = code.name, code.nonce
		}
		presented = ""
	case "refresh_token":
		name = f.refresh[presented]
		if f.options.Rotates {
			delete(f.refresh, presented)
		}
	}
	f.mu.Unlock()
	if name == "" {
		f.ledger.count(func(l *Ledger) { l.Refused++ })
		return nil, errFenceGrant
	}
	who := f.user(name)
	f.ledger.count(func(l *Ledger) {
		if presented == "" {
			l.Grants++
		} else {
			l.Refreshes++
		}
	})
	refreshToken := presented
	if presented == "" || f.options.Rotates {
		refreshToken = f.newRefreshToken(who, client)
	}
	identity := f.claims(who, "id", client, f.options.AccessLife)
	identity["aud"] = []string{client, "gen3"}
	if nonce != "" {
		identity["nonce"] = nonce
	}
	return map[string]any{
		"token_type": "Bearer", "expires_in": int(f.options.AccessLife / time.Second), "refresh_token": refreshToken,
		"access_token": f.sign(f.claims(who, "access", client, f.options.AccessLife)), "id_token": f.sign(identity),
	}, nil
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
