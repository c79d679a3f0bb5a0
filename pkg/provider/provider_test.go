package provider_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// scripted is a provider that does what the test tells it to.
type scripted struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu       sync.Mutex
	document func(document map[string]any)
	token    http.HandlerFunc
	posts    []url.Values
	hang     chan struct{} // discovery waits for it
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := &scripted{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		document := map[string]any{
			"issuer": r.URL, "authorization_endpoint": r.URL + "/auth", "token_endpoint": r.URL + "/token",
			"jwks_uri": r.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		}
		r.mu.Lock()
		hang := r.hang
		r.mu.Unlock()
		if hang != nil {
			<-hang
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.document != nil {
			r.document(document)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(document)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, request *http.Request) {
		_ = request.ParseForm()
		r.mu.Lock()
		r.posts = append(r.posts, request.PostForm)
		answer := r.token
		r.mu.Unlock()
		answer(w, request)
	})
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	return r
}

func (r *scripted) provider(change ...func(*provider.Config)) *provider.Provider {
	config := provider.Config{Issuer: r.URL, ClientID: "wts", ClientSecret: "s3cret", UsernameClaim: "context.user.name", RefreshTimeout: 300 * time.Millisecond}
	for _, one := range change {
		one(&config)
	}
	return provider.New("scripted", config, "https://wts/oauth2/authorize")
}

type claims = map[string]any

func (r *scripted) claims(changes claims) claims {
	all := claims{
		"iss": r.URL, "aud": "wts", "sub": "s-1", "nonce": "the-nonce", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		"context": claims{"user": claims{"name": "alice"}},
	}
	for name, value := range changes {
		if value == nil {
			delete(all, name)
			continue
		}
		all[name] = value
	}
	return all
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, of claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(of)
	signed, err := signer.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := signed.CompactSerialize()
	return text
}

func (r *scripted) answer(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token = answer
}

func (r *scripted) postCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.posts)
}

func (r *scripted) give(body claims) {
	r.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	})
}

var login = provider.Login{State: "the-state", Nonce: "the-nonce", Verifier: strings.Repeat("v", 43)}

// Security.md A1, A2, A11: the scripted's metadata does not speak of PKCE.
func TestTheLoginURL(t *testing.T) {
	r := newScripted(t)
	address, err := r.provider(func(c *provider.Config) {
		c.Prompt, c.LoginParams = "consent", map[string]string{"hd": "example.org"}
	}).LoginURL(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	parsed, _ := url.Parse(address)
	got := parsed.Query()
	if len(got.Get("code_challenge")) != 43 {
		t.Errorf("code_challenge is %q", got.Get("code_challenge"))
	}
	got.Del("code_challenge")
	want := url.Values{
		"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {"https://wts/oauth2/authorize"}, "state": {"the-state"},
		"nonce": {"the-nonce"}, "scope": {"openid profile email offline_access"}, "code_challenge_method": {"S256"},
		"prompt": {"consent"}, "hd": {"example.org"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestACodeBecomesAGrant(t *testing.T) {
	r := newScripted(t)
	for name, row := range map[string]struct {
		body    claims
		refresh secret.Text
		ends    time.Duration // of the refresh token; 0 unknown
	}{
		"an opaque refresh token":     {claims{"refresh_token": "opaque"}, "opaque", 0},
		"of eight kilobytes":          {claims{"refresh_token": strings.Repeat("x", 8<<10)}, secret.Text(strings.Repeat("x", 8<<10)), 0},
		"none":                        {claims{}, "", 0},
		"one that states its end":     {claims{"refresh_token": "r", "refresh_expires_in": 1800}, "r", 30 * time.Minute},
		"Keycloak's that never ends":  {claims{"refresh_token": "r", "refresh_expires_in": 0}, "r", 0},
		"an end beyond time, unknown": {claims{"refresh_token": "r", "refresh_expires_in": 1e300}, "r", 0},
	} {
		t.Run(name, func(t *testing.T) {
			body := claims{"access_token": "at", "token_type": "Bearer", "expires_in": "60", "id_token": sign(t, jose.RS256, r.key, r.claims(nil))}
			for member, value := range row.body {
				body[member] = value
			}
			r.give(body)
			tokens, identity, err := r.provider().Exchange(t.Context(), "the-code", login)
			if err != nil {
				t.Errorf("got %v; want no error", err)
				return
			}
			if diff := cmp.Diff(provider.Identity{Issuer: r.URL, Subject: "s-1", Username: "alice", Account: "alice", Groups: []string{}}, identity); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if tokens.RefreshToken != row.refresh || tokens.AccessToken != "at" {
				t.Error("other tokens than were given")
			}
			if life := tokens.AccessExpiresAt.Sub(tokens.IssuedAt).Round(time.Second); life != time.Minute {
				t.Errorf("the access token lives %s", life)
			}
			ends := time.Duration(0)
			if !tokens.RefreshExpiresAt.IsZero() {
				ends = tokens.RefreshExpiresAt.Sub(tokens.IssuedAt)
			}
			if ends != row.ends {
				t.Errorf("it ends in %s, want %s", ends, row.ends)
			}
		})
	}
	want := url.Values{"grant_type": {"authorization_code"}, "code": {"the-code"}, "redirect_uri": {"https://wts/oauth2/authorize"}, "code_verifier": {login.Verifier}}
	if diff := cmp.Diff(want, r.posts[0]); diff != "" {
		t.Errorf("what was posted (-want +got)\n%s", diff)
	}
}

// Security.md A5.
func TestIDTokensThatAreRefused(t *testing.T) {
	r := newScripted(t)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jose.RS256, r.key, r.claims(nil))
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"none":                         "",
		"not signed":                   "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"its signature cut off":        parts[0] + "." + parts[1] + ".",
		"signed by another key":        sign(t, jose.RS256, stranger, r.claims(nil)),
		"HS256 with the client secret": sign(t, jose.HS256, []byte(strings.Repeat("s3cret", 8)), r.claims(nil)),
		"of another issuer":            sign(t, jose.RS256, r.key, r.claims(claims{"iss": "https://evil"})),
		"for another client":           sign(t, jose.RS256, r.key, r.claims(claims{"aud": "other"})),
		"expired":                      sign(t, jose.RS256, r.key, r.claims(claims{"exp": time.Now().Add(-time.Minute).Unix()})),
		"without an expiry":            sign(t, jose.RS256, r.key, r.claims(claims{"exp": nil})),
		"of another login":             sign(t, jose.RS256, r.key, r.claims(claims{"nonce": "another"})),
		"without a nonce":              sign(t, jose.RS256, r.key, r.claims(claims{"nonce": nil})),
		"for many, without azp":        sign(t, jose.RS256, r.key, r.claims(claims{"aud": []string{"wts", "gen3"}})),
		"with another azp":             sign(t, jose.RS256, r.key, r.claims(claims{"azp": "other"})),
		"with a NUL in the subject":    sign(t, jose.RS256, r.key, r.claims(claims{"sub": "a\x00b"})),
		"with a subject of 257 bytes":  sign(t, jose.RS256, r.key, r.claims(claims{"sub": strings.Repeat("s", 257)})),
		"without a subject":            sign(t, jose.RS256, r.key, r.claims(claims{"sub": nil})),
	} {
		t.Run(name, func(t *testing.T) {
			r.give(claims{"access_token": "canary-at", "refresh_token": "canary-rt", "expires_in": 60, "id_token": token})
			tokens, _, err := r.provider().Exchange(t.Context(), "code", login)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Outcome != provider.Untrusted || tokens.RefreshToken != "" {
				t.Errorf("got %v, want it untrusted and no grant", err)
			}
			if err != nil && (strings.Contains(err.Error(), "canary") || token != "" && strings.Contains(err.Error(), token)) {
				t.Error("the error repeats a token")
			}
		})
	}
}

// What may name a person: whoever can choose the name can be anybody.
func TestNamesThatMustNotNameAnybody(t *testing.T) {
	r := newScripted(t)
	for name, row := range map[string]struct {
		claim  string
		claims claims
		trust  bool
		good   bool
	}{
		"a nested name":                          {claim: "context.user.name", good: true},
		"no such claim":                          {claim: "preferred_username"},
		"no nested claim":                        {claim: "context.user.name", claims: claims{"context": claims{}}},
		"an empty name":                          {claim: "context.user.name", claims: claims{"context": claims{"user": claims{"name": ""}}}},
		"a name that is a number":                {claim: "context.user.name", claims: claims{"context": claims{"user": claims{"name": 7}}}},
		"a claim whose name has dots":            {claim: "https://a.b/name", claims: claims{"https://a.b/name": "alice"}, good: true},
		"a verified address":                     {claim: "email", claims: claims{"email": "a@b", "email_verified": true}, good: true},
		"verified in words":                      {claim: "email", claims: claims{"email": "a@b", "email_verified": "true"}, good: true},
		"an address that is not verified":        {claim: "email", claims: claims{"email": "a@b", "email_verified": false}},
		"not verified in words":                  {claim: "email", claims: claims{"email": "a@b", "email_verified": "false"}},
		"nothing said about it":                  {claim: "email", claims: claims{"email": "a@b"}},
		"nothing said, and trusted all the same": {claim: "email", claims: claims{"email": "a@b"}, trust: true, good: true},
		"256 bytes":                              {claim: "name", claims: claims{"name": strings.Repeat("a", 256)}, good: true},
		"257 bytes":                              {claim: "name", claims: claims{"name": strings.Repeat("a", 257)}},
		"letters of other alphabets":             {claim: "name", claims: claims{"name": "Алиса 愛麗絲"}, good: true},
		"a blank at the end":                     {claim: "name", claims: claims{"name": "alice "}},
		"a blank that is none":                   {claim: "name", claims: claims{"name": "alice\u200b"}},
		"written from right to left":             {claim: "name", claims: claims{"name": "\u202eecila"}},
		"a line break":                           {claim: "name", claims: claims{"name": "alice\n level=ERROR"}},
		"a NUL":                                  {claim: "name", claims: claims{"name": "a\x00b"}},
	} {
		t.Run(name, func(t *testing.T) {
			r.give(claims{"access_token": "a", "expires_in": 60, "id_token": sign(t, jose.RS256, r.key, r.claims(row.claims))})
			_, identity, err := r.provider(func(c *provider.Config) { c.UsernameClaim, c.TrustUnverifiedEmail = row.claim, row.trust }).Exchange(t.Context(), "code", login)
			if err != nil || (identity.NameFlaw == "") != row.good {
				t.Errorf("got the flaw %q, %v; want the name to be good: %t", identity.NameFlaw, err, row.good)
			}
		})
	}
}

// Security.md F4: keys that cannot be had are an outage, and what is at hand goes on.
func TestKeysThatCannotBeHad(t *testing.T) {
	r := newScripted(t)
	r.give(claims{"access_token": "a", "expires_in": 60, "id_token": sign(t, jose.RS256, r.key, r.claims(nil))})
	r.document = func(d map[string]any) { d["jwks_uri"] = "http://127.0.0.1:1/keys" }
	var failure *provider.Error
	if _, _, err := r.provider().Exchange(t.Context(), "code", login); !errors.As(err, &failure) || failure.Outcome != provider.Unknown {
		t.Errorf("got %v, want an outage", err)
	}
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() }))
	defer hanging.Close()
	r.document = func(d map[string]any) { d["jwks_uri"] = hanging.URL }
	began := time.Now()
	_, _, err := r.provider(func(c *provider.Config) { c.Timeout = 200 * time.Millisecond }).Exchange(t.Context(), "code", login)
	if !errors.As(err, &failure) || failure.Outcome != provider.Unknown || time.Since(began) > 3*time.Second {
		t.Errorf("keys that hang: got %v after %s", err, time.Since(began))
	}
}

// Security.md A4.
func TestDiscoveryThatIsRefused(t *testing.T) {
	r := newScripted(t)
	for name, change := range map[string]func(map[string]any){
		"another issuer":         func(d map[string]any) { d["issuer"] = "https://evil" },
		"the issuer and a slash": func(d map[string]any) { d["issuer"] = r.URL + "/" },
		"keys over http":         func(d map[string]any) { d["jwks_uri"] = "http://evil.example.org/keys" },
		"tokens over http":       func(d map[string]any) { d["token_endpoint"] = "http://evil.example.org/token" },
		"no token endpoint":      func(d map[string]any) { delete(d, "token_endpoint") },
		"only HS256":             func(d map[string]any) { d["id_token_signing_alg_values_supported"] = []string{"HS256"} },
		"a document without end": func(d map[string]any) { d["x"] = strings.Repeat("x", 200<<10) },
	} {
		t.Run(name, func(t *testing.T) {
			r.mu.Lock()
			r.document = change
			r.mu.Unlock()
			if _, err := r.provider().LoginURL(t.Context(), login); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	r := newScripted(t)
	evil := newScripted(t)
	evil.give(claims{"access_token": "a"})
	r.answer(func(w http.ResponseWriter, request *http.Request) {
		http.Redirect(w, request, evil.URL+"/token", http.StatusTemporaryRedirect)
	})
	if _, err := r.provider().Refresh(t.Context(), "rt", "", nil); err == nil {
		t.Error("a redirected refresh succeeded")
	}
	if evil.postCount() != 0 {
		t.Error("the refresh token went to another host")
	}
	moved := httptest.NewServer(http.RedirectHandler(evil.URL+"/.well-known/openid-configuration", http.StatusFound))
	defer moved.Close()
	if _, err := provider.New("m", provider.Config{Issuer: moved.URL, ClientID: "wts", ClientSecret: "s"}, "u").LoginURL(t.Context(), login); err == nil {
		t.Error("discovery followed a redirect to another host")
	}
}

// Refresh-engine.md step 8: what an answer means, and that exactly one request was sent.
func TestWhatAFailedRefreshMeans(t *testing.T) {
	r := newScripted(t)
	oauthError := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":%q,"error_description":"canary"}`, code)
		}
	}
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		want   provider.Outcome
	}{
		"invalid_grant":                {oauthError(400, "invalid_grant"), provider.Refused},
		"GitHub's, with a 200":         {oauthError(200, "bad_refresh_token"), provider.Refused},
		"invalid_client":               {oauthError(401, "invalid_client"), provider.Misconfigured},
		"unauthorized_client":          {oauthError(400, "unauthorized_client"), provider.Misconfigured},
		"invalid_scope":                {oauthError(400, "invalid_scope"), provider.Misconfigured},
		"unsupported_grant_type":       {oauthError(400, "unsupported_grant_type"), provider.Misconfigured},
		"invalid_request":              {oauthError(400, "invalid_request"), provider.Unexpected},
		"a code of its own":            {oauthError(400, "canary_code"), provider.Unexpected},
		"a callback's code":            {oauthError(400, "access_denied"), provider.Unexpected},
		"invalid_grant within a 503":   {oauthError(503, "invalid_grant"), provider.Unknown},
		"a 500":                        {oauthError(500, ""), provider.Unknown},
		"a 429":                        {oauthError(429, "slow_down"), provider.Throttled},
		"a firewall's page, forbidden": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403); fmt.Fprint(w, "<html>canary") }, provider.Unexpected},
		"a firewall's page, all right": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>canary") }, provider.Unexpected},
		"an empty answer":              {func(http.ResponseWriter, *http.Request) {}, provider.Unknown},
		"a refresh token alone, empty": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"refresh_token":""}`) }, provider.Unknown},
		"the connection breaks":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, provider.Unknown},
		"no answer in time":            {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, provider.Unanswered},
		"more than can be read":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"x":"`+strings.Repeat("x", 2<<20)) }, provider.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.postCount()
			r.answer(row.answer)
			p := r.provider(func(config *provider.Config) {
				if row.want != provider.Unanswered { // a busy machine takes a while to send what is too much
					config.RefreshTimeout = 10 * time.Second
				}
			})
			_, err := p.Refresh(t.Context(), "canary-rt", "", nil)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Outcome != row.want {
				t.Errorf("got %v, want %s", err, row.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the error repeats what the provider said: %v", err)
			}
			if posts := r.postCount() - before; posts != 1 {
				t.Errorf("the refresh token was sent %d times", posts)
			}
		})
	}
	r.document = func(d map[string]any) { d["token_endpoint"] = "http://127.0.0.1:1/token" }
	var failure *provider.Error
	if _, err := r.provider().Refresh(t.Context(), "rt", "", nil); !errors.As(err, &failure) || failure.Outcome != provider.Unsent {
		t.Errorf("nobody listens: got %v, want unsent", err)
	}
}

func TestRetryAfterIsReadAndBounded(t *testing.T) {
	r := newScripted(t)
	for text, want := range map[string]time.Duration{"7": 7 * time.Second, "999999": time.Hour, "-1": 0, "soon": 0, "": 0} {
		t.Run(text, func(t *testing.T) {
			r.answer(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", text); w.WriteHeader(429) })
			_, err := r.provider().Refresh(t.Context(), "rt", "", nil)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.RetryAfter != want {
				t.Errorf("got %v, want %s", failure, want)
			}
		})
	}
}

func TestARefreshWithAndWithoutASuccessor(t *testing.T) {
	r := newScripted(t)
	for answered, want := range map[string]secret.Text{"rt-2": "rt-2", "": "", "rt-1": ""} {
		t.Run(answered, func(t *testing.T) {
			body := claims{"access_token": "at", "expires_in": 60}
			if answered != "" {
				body["refresh_token"] = answered
			}
			r.give(body)
			tokens, err := r.provider().Refresh(t.Context(), "rt-1", "", nil)
			if err != nil || tokens.RefreshToken != want {
				t.Errorf("answered %q: got another successor, %v", answered, err)
			}
		})
	}
	r.give(claims{"access_token": "at"})
	tokens, err := r.provider().Refresh(t.Context(), "rt-1", "", nil)
	if err != nil || tokens.AccessExpiresAt.IsZero() {
		t.Errorf("without expires_in a token that can be refreshed has to end: %v", err)
	}
}

// RFC 9207; security.md A3.
func TestTheCallbacksIssuer(t *testing.T) {
	r := newScripted(t)
	if err := r.provider().CheckIssuer(t.Context(), "", nil); err != nil {
		t.Errorf("a provider that never promised iss: %v", err)
	}
	if err := r.provider().CheckIssuer(t.Context(), r.URL, nil); err != nil {
		t.Error(err)
	}
	if r.provider().CheckIssuer(t.Context(), "https://other", nil) == nil {
		t.Error("another issuer was accepted")
	}
	r.document = func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = true }
	if r.provider().CheckIssuer(t.Context(), "", nil) == nil {
		t.Error("a missing iss was accepted of a provider that always sends it")
	}
}

func TestAProviderThatIsDownAndComesBack(t *testing.T) {
	r := newScripted(t)
	down := true
	r.document = func(d map[string]any) {
		if down {
			d["issuer"] = "down"
		}
	}
	p := r.provider()
	if _, err := p.LoginURL(t.Context(), login); err == nil {
		t.Fatal("it was down")
	}
	r.mu.Lock()
	down = false
	r.mu.Unlock()
	if _, err := p.LoginURL(t.Context(), login); err == nil {
		t.Error("it was asked again at once")
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := p.LoginURL(t.Context(), login); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("it came back, and was not found")
}

// A document that has grown old is read again beside the callers, even where reading it hangs.
func TestADocumentThatHangsSlowsNobody(t *testing.T) {
	r := newScripted(t)
	r.give(claims{"access_token": "at", "expires_in": 60})
	p := r.provider()
	if _, err := p.Refresh(t.Context(), "rt", "", nil); err != nil {
		t.Fatal(err)
	}
	provider.Age(p, 2*time.Hour)
	hang := make(chan struct{})
	defer close(hang)
	r.mu.Lock()
	r.hang = hang
	r.mu.Unlock()
	began := time.Now()
	for range 5 {
		if _, err := p.Refresh(t.Context(), "rt", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("five refreshes took %s", took)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	secret := secret.Text("canary")
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "config", provider.Config{ClientSecret: secret})
	encoded, _ := json.Marshal(map[string]any{"s": secret, "c": provider.Config{ClientSecret: secret}, "t": provider.Tokens{RefreshToken: secret}})
	printed := fmt.Sprintf("%v %s %+v %#v %q", secret, secret, provider.Tokens{AccessToken: secret}, provider.Config{ClientSecret: secret}, secret)
	if all := log.String() + string(encoded) + printed; strings.Contains(all, "canary") {
		t.Errorf("it prints: %s", all)
	}
}

func TestConfigFaults(t *testing.T) {
	err := provider.Config{
		Issuer: "http://login.example.org", ClientAuth: "magic", Scopes: []string{"email"},
		LoginParams: map[string]string{"state": "x"}, Timeout: -1,
	}.Validate()
	for _, want := range []string{"issuer: must be https", "client_id", "client_secret", "client_auth", "scopes", "login_params.state", "timeout"} {
		t.Run(want, func(t *testing.T) {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no fault about %q in:\n%v", want, err)
			}
		})
	}
	for address, good := range map[string]bool{
		"https://a.example": true, "http://localhost:8080": true, "http://127.0.0.3": true, "http://[::1]:1": true, "": false,
		"http://localhost.evil.example": false, "ftp://a": false, "https://u:p@a": false, "https://a/#x": false, "https://a?x": false, "nonsense": false,
	} {
		t.Run(address, func(t *testing.T) {
			err := provider.Config{Issuer: address, ClientID: "c", ClientSecret: "s"}.Validate()
			if (err == nil) != good {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What a person is called goes into tokens: a name that can be seen, and an address that the provider has verified.
func TestWhatAPersonIsCalled(t *testing.T) {
	r := newScripted(t)
	for name, row := range map[string]struct {
		said        claims
		trusted     bool // trust_unverified_email
		full, email string
	}{
		"both":                       {claims{"name": "Alice Zhao", "email": "a@x", "email_verified": true}, false, "Alice Zhao", "a@x"},
		"verified, as text":          {claims{"email": "a@x", "email_verified": "true"}, false, "", "a@x"},
		"an address not verified":    {claims{"name": "Alice Zhao", "email": "a@x", "email_verified": false}, false, "Alice Zhao", ""},
		"nothing said of verifying":  {claims{"email": "a@x"}, false, "", ""},
		"not verified, but trusted":  {claims{"email": "a@x"}, true, "", "a@x"},
		"a name that cannot be seen": {claims{"name": "Alice\u202e", "email": "a@x\n", "email_verified": true}, false, "", ""},
		"members of another type":    {claims{"name": 7, "email": []string{"a@x"}, "email_verified": true}, false, "", ""},
		"nothing":                    {claims{}, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r.give(claims{"access_token": "at", "token_type": "Bearer", "expires_in": 60, "id_token": sign(t, jose.RS256, r.key, r.claims(row.said))})
			_, identity, err := r.provider(func(c *provider.Config) { c.TrustUnverifiedEmail = row.trusted }).Exchange(t.Context(), "the-code", login)
			if err != nil || identity.Name != row.full || identity.Email != row.email {
				t.Errorf("got %q %q, %v; want %q %q", identity.Name, identity.Email, err, row.full, row.email)
			}
		})
	}
}
