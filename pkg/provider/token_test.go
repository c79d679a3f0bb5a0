package provider_test

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// The provider has rotated once it answers 2xx: whatever else is odd about the answer, the tokens in it are
// read. With x/oauth2 in between each of the first eight was a failure, after which the spent token
// was presented again.
func TestTokensAreReadFromOddAnswers(t *testing.T) {
	const unknown = 5 * time.Minute
	for name, row := range map[string]struct {
		members string
		access  secret.Text
		life    time.Duration
	}{
		"expires_in with a fraction":     {`"expires_in":3600.5`, "a", 3600*time.Second + 500*time.Millisecond},
		"expires_in with an exponent":    {`"expires_in":1e300`, "a", unknown},
		"expires_in as other text":       {`"expires_in":"abc"`, "a", unknown},
		"expires_in true":                {`"expires_in":true`, "a", unknown},
		"expires_in null":                {`"expires_in":null`, "a", unknown},
		"expires_in an object":           {`"expires_in":{"seconds":60}`, "a", unknown},
		"token_type a number":            {`"expires_in":60,"token_type":7`, "a", time.Minute},
		"scope a list":                   {`"expires_in":60,"scope":["a","b"]`, "a", time.Minute},
		"expires_in negative":            {`"expires_in":-5`, "a", unknown},
		"expires_in zero":                {`"expires_in":0`, "a", unknown},
		"expires_in as text":             {`"expires_in":" 60 "`, "a", time.Minute},
		"a foreign token_type":           {`"expires_in":60,"token_type":"mac"`, "", time.Minute},
		"an error beside the tokens":     {`"expires_in":60,"error":"invalid_grant"`, "a", time.Minute},
		"a line break in the token":      {`"expires_in":60,"access_token":"a\nhost=evil"`, "", time.Minute},
		"other letters in the token":     {`"expires_in":60,"access_token":"é"`, "", time.Minute},
		"no access token":                {`"expires_in":60,"access_token":""`, "", time.Minute},
		"an access token that is a list": {`"expires_in":60,"access_token":["a"]`, "", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			p := tokenEndpoint(t, nil, says(200, `{"access_token":"a","refresh_token":"r2",`+row.members+`}`))
			tokens, err := p.Refresh(t.Context(), "r1", "", nil)
			if err != nil {
				t.Fatalf("got %v, want the tokens", err)
			}
			if tokens.RefreshToken != "r2" || tokens.AccessToken != row.access {
				t.Errorf("got refresh token %q and access token %q, want r2 and %q", string(tokens.RefreshToken), string(tokens.AccessToken), string(row.access))
			}
			if life := tokens.AccessExpiresAt.Sub(tokens.IssuedAt); life != row.life {
				t.Errorf("it lives for %s, want %s", life, row.life)
			}
		})
	}
}

// The token's life began before the answer came, at the latest when the request was sent.
func TestATokensEndCountsFromBeforeTheRequest(t *testing.T) {
	p := tokenEndpoint(t, nil, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(500 * time.Millisecond)
		says(200, `{"access_token":"a","expires_in":60}`)(w, r)
	})
	before := time.Now()
	tokens, err := p.Refresh(t.Context(), "r1", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if late := tokens.AccessExpiresAt.Sub(before) - time.Minute; late > 100*time.Millisecond {
		t.Errorf("the end lies %s after that which the provider counted, want it not later", late)
	}
}

// Providers' own words for a dead grant, as they answer (Dex, Fence).
func TestADeadGrantInTheProvidersOwnWords(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		body   string
		want   provider.Outcome
	}{
		"Dex, revoked or claimed": {400, `{"error":"invalid_request","error_description":"Refresh token is invalid or has already been claimed by another client."}`, provider.Refused},
		"Dex, expired":            {400, `{"error":"invalid_request","error_description":"Refresh token expired."}`, provider.Refused},
		"Fence, user deleted":     {400, `{"error":"invalid_request","error_description":"There is no \"user\" for this token."}`, provider.Refused},
		"the words in a 500":      {500, `{"error":"invalid_request","error_description":"Refresh token expired."}`, provider.Unknown},
		"another invalid_request": {400, `{"error":"invalid_request","error_description":"canary"}`, provider.Unexpected},
		"without a description":   {400, `{"error":"invalid_request"}`, provider.Unexpected},
		"another code":            {400, `{"error":"server_error","error_description":"Refresh token expired."}`, provider.Unexpected},
	} {
		t.Run(name, func(t *testing.T) {
			p := tokenEndpoint(t, nil, says(row.status, row.body))
			_, err := p.Refresh(t.Context(), "r1", "", nil)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Outcome != row.want {
				t.Errorf("got %v, want %s", err, row.want)
			}
			if strings.Contains(fmt.Sprint(err), "canary") {
				t.Errorf("the error repeats what the provider said: %v", err)
			}
		})
	}
}

func idToken(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + "."
}

// An id_token that comes with a refresh has to name the person whose grant it is (OIDC Core 12.2).
// What came is returned anyway: it has to be stored.
func TestTheIDTokenOfARefresh(t *testing.T) {
	for name, row := range map[string]struct {
		issuer, named string // what the id_token says; ISSUER is the provider's own
		idToken       string // in the place of one that says so
		subject       string // whose grant it is
		flawed        bool
	}{
		"the same person":                 {issuer: "ISSUER", named: "alice", subject: "alice"},
		"another person":                  {issuer: "ISSUER", named: "mallory", subject: "alice", flawed: true},
		"another issuer":                  {issuer: "https://other.example", named: "alice", subject: "alice", flawed: true},
		"one that cannot be read":         {idToken: "x.y.z", subject: "alice"},
		"where the subject was not known": {issuer: "ISSUER", named: "alice"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newScripted(t)
			text := cmp.Or(row.idToken, idToken(fmt.Sprintf(`{"iss":%q,"sub":%q}`, strings.Replace(row.issuer, "ISSUER", r.URL, 1), row.named)))
			r.give(claims{"access_token": "a", "refresh_token": "r2", "expires_in": 60, "id_token": text})
			tokens, err := r.provider().Refresh(t.Context(), "r1", row.subject, nil)
			if err != nil || tokens.RefreshToken != "r2" {
				t.Fatalf("the tokens are not returned: %v", err)
			}
			if flawed := tokens.IdentityFlaw != ""; flawed != row.flawed {
				t.Errorf("the flaw is %q, want one: %t", tokens.IdentityFlaw, row.flawed)
			}
		})
	}
}

// Many providers leave names out of the id_token when they give an access token (OIDC Core 5.4).
func TestTheNameFromUserInfo(t *testing.T) {
	for name, row := range map[string]struct {
		idToken claims // beside what every one has
		status  int
		info    string // what UserInfo says; empty: there is no such endpoint
		want    string
		flaw    string // a part of it
		outage  bool
	}{
		"the id_token has it":           {idToken: claims{"email": "a@x", "email_verified": true}, status: 500, info: `{}`, want: "a@x"},
		"UserInfo has it":               {status: 200, info: `{"sub":"s-1","email":"a@x","email_verified":true}`, want: "a@x"},
		"not verified there":            {status: 200, info: `{"sub":"s-1","email":"a@x"}`, flaw: "verified"},
		"of another person":             {status: 200, info: `{"sub":"s-2","email":"a@x","email_verified":true}`, flaw: "another person"},
		"of no person":                  {status: 200, info: `{"email":"a@x","email_verified":true}`, flaw: "another person"},
		"not there either":              {status: 200, info: `{"sub":"s-1"}`, flaw: "has the claim email"},
		"the id_token's value wins":     {idToken: claims{"email": "signed@x"}, status: 200, info: `{"sub":"s-1","email":"other@x","email_verified":true}`, want: "signed@x"},
		"UserInfo refuses":              {status: 403, info: `{}`, flaw: "UserInfo"},
		"UserInfo is out of order":      {status: 503, info: `{}`, flaw: "UserInfo", outage: true},
		"UserInfo answers with a JWT":   {status: 200, info: `ey.ey.x`, flaw: "JSON"},
		"there is no UserInfo":          {flaw: "has the claim email"},
		"verified only in the id_token": {idToken: map[string]any{"email_verified": true}, status: 200, info: `{"sub":"s-1","email":"a@x"}`, want: "a@x"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newScripted(t)
			info := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				if request.Header.Get("Authorization") != "Bearer at" {
					w.WriteHeader(401)
					return
				}
				says(row.status, row.info)(w, request)
			}))
			defer info.Close()
			if row.info != "" {
				r.document = func(d map[string]any) { d["userinfo_endpoint"] = info.URL }
			}
			r.give(claims{"access_token": "at", "expires_in": 60, "id_token": sign(t, jose.RS256, r.key, r.claims(row.idToken))})
			_, identity, err := r.provider(func(c *provider.Config) { c.UsernameClaim = "email" }).Exchange(t.Context(), "the-code", login)
			if err != nil {
				t.Fatal(err)
			}
			if row.flaw == "" && (identity.NameFlaw != "" || identity.Username != row.want) {
				t.Errorf("got %q, flaw %q; want %q", identity.Username, identity.NameFlaw, row.want)
			}
			if row.flaw != "" && !strings.Contains(identity.NameFlaw, row.flaw) {
				t.Errorf("the flaw is %q, want one with %q", identity.NameFlaw, row.flaw)
			}
			if (identity.NameOutage != nil) != row.outage {
				t.Errorf("the outage is %v, want one: %t", identity.NameOutage, row.outage)
			}
		})
	}
}

// deaf is a provider whose connections are accepted, and whose requests nobody reads until told to.
func deaf(t *testing.T, encrypted bool) (address string, accepted chan net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	accepted = make(chan net.Conn, 4)
	scheme := "http"
	var config *tls.Config
	if encrypted {
		scheme = "https"
		server := httptest.NewUnstartedServer(nil)
		server.StartTLS()
		config = server.TLS.Clone()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		server.Close()
		trust(t, roots)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			if encrypted {
				if tls.Server(connection, config).Handshake() != nil {
					continue
				}
			}
			accepted <- connection
		}
	}()
	return scheme + "://" + listener.Addr().String(), accepted
}

// trust has the clients that are made during the test trust a certificate.
func trust(t *testing.T, roots *x509.CertPool) {
	t.Helper()
	shared := http.DefaultTransport.(*http.Transport)
	before := shared.TLSClientConfig
	shared.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	t.Cleanup(func() { shared.TLSClientConfig = before })
}

// A request that was given up must not reach the provider later: its connection is aborted, so that neither
// kernel goes on sending it. A connection that is merely closed delivers all of it.
func TestAnAbandonedRequestIsAborted(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted %t", encrypted), func(t *testing.T) {
			address, accepted := deaf(t, encrypted)
			p := provider.New("deaf", provider.Config{
				AuthURL: address + "/auth", TokenURL: address + "/token", ClientID: "wts", ClientSecret: "s", RefreshTimeout: 4 * time.Second,
			}, "https://wts.example.org/oauth2/authorize")
			// More than fits the kernels' buffers, so that a part of it is still to be sent when it is given up.
			large := secret.Text(strings.Repeat("x", 32<<20))
			began := time.Now()
			_, err := p.Refresh(t.Context(), large, "", nil)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Outcome != provider.Unanswered {
				t.Fatalf("got %v, want it given up", err)
			}
			// Nothing is acknowledged any more: the path may still come back, and bring the answer.
			if took := time.Since(began); took < 4*time.Second-50*time.Millisecond {
				t.Errorf("given up after %s, want after the refresh timeout of 4 s", took)
			}
			connection := <-accepted
			defer connection.Close()
			time.Sleep(50 * time.Millisecond)
			_ = connection.SetReadDeadline(time.Now().Add(2 * time.Second))
			text, err := io.ReadAll(bufio.NewReader(connection))
			if !errors.Is(err, syscall.ECONNRESET) || len(text) >= len(large) {
				t.Errorf("the provider reads %d bytes of %d, then %v; want a part and a reset", len(text), len(large), err)
			}
		})
	}
}

// Tokens go over connections of their own by HTTP/1.1, also to a provider that offers HTTP/2.
func TestTokensGoByHTTP1(t *testing.T) {
	protocols := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.Proto
		says(200, `{"access_token":"a","expires_in":60}`)(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	trust(t, roots)
	p := provider.New("h2", provider.Config{AuthURL: server.URL + "/auth", TokenURL: server.URL + "/token", ClientID: "wts", ClientSecret: "s"}, "https://wts.example.org/oauth2/authorize")
	if _, err := p.Refresh(t.Context(), "r1", "", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-protocols; got != "HTTP/1.1" {
		t.Errorf("the request came by %s, want HTTP/1.1", got)
	}
}

// What is wrong with a discovery document is said with its address and status, and what to change.
func TestDiscoveryErrorsNameTheDocument(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/other/"):
			says(200, `{"issuer":"https://elsewhere.example","authorization_endpoint":"https://x/a","token_endpoint":"https://x/t","jwks_uri":"https://x/k"}`)(w, r)
		case strings.HasPrefix(r.URL.Path, "/page/"):
			says(200, `<html>canary`)(w, r)
		default:
			says(404, `canary`)(w, r)
		}
	}))
	defer server.Close()
	for path, want := range map[string][]string{
		"/realm": {server.URL + "/realm/.well-known/openid-configuration answered 404", "is the issuer right?"},
		"/realm/.well-known/openid-configuration": {"answered 404", "give the issuer, not the discovery URL"},
		"/other": {`states the issuer "https://elsewhere.example"`, server.URL + "/other", "byte for byte"},
		"/page":  {server.URL + "/page/.well-known/openid-configuration is not a discovery document"},
	} {
		t.Run(path, func(t *testing.T) {
			_, err := provider.New("p", provider.Config{Issuer: server.URL + path, ClientID: "wts", ClientSecret: "s"}, "u").LoginURL(t.Context(), login)
			for _, part := range want {
				if !strings.Contains(fmt.Sprint(err), part) {
					t.Errorf("got %v, want it to say %q", err, part)
				}
			}
			if strings.Contains(fmt.Sprint(err), "canary") {
				t.Errorf("the error repeats the answer: %v", err)
			}
		})
	}
}

// A grace of any length is accepted, Dex's default of 3 s too, and shortens no timeout.
func TestAGraceShortensNothing(t *testing.T) {
	for _, grace := range []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second} {
		t.Run(grace.String(), func(t *testing.T) {
			config := provider.Config{Issuer: "https://dex.example.org", ClientID: "wts", ClientSecret: "s", ReuseGrace: grace}
			if err := config.Validate(); err != nil {
				t.Errorf("refused: %v", err)
			}
			if got := config.WithDefaults("dex").RefreshTimeout; got != time.Minute {
				t.Errorf("an answer is waited for during %s, want 1 m", got)
			}
			config.RefreshTimeout = 45 * time.Second
			if err := config.Validate(); err != nil {
				t.Errorf("a longer refresh_timeout is refused: %v", err)
			}
		})
	}
}
