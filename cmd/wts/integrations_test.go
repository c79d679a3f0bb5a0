package main

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"html"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

const portalOrigin = "https://portal.example.org"

// withIntegrations has one by a secret, one by a public key, and a strict one that not everyone may have. Bob is the admin.
func withIntegrations(change ...func(*issuer.Integration)) func(*config.Config) {
	return func(c *config.Config) {
		withTokens(c)
		clinical := &issuer.Integration{
			Dataset: "clinical", Cohorts: []issuer.Cohort{{ID: "trial-1", Label: "Trial 1"}, {ID: "trial-2", Label: "Trial <2>"}}, Embedders: []string{"portal.example.org"},
			Roles: []issuer.Role{{Users: []string{"alice"}, Result: map[string]any{"role": "admin"}}},
		}
		for _, one := range change {
			one(clinical)
		}
		c.Audiences["clinical"] = issuer.Audience{Profile: issuer.ProfileProteinPaint, Integration: clinical}
		c.Audiences["pinned"] = issuer.Audience{Profile: issuer.ProfileProteinPaint, Algorithm: issuer.ES256, Integration: clinical}
		c.Audiences["strict"] = issuer.Audience{
			Profile: issuer.ProfileProteinPaint, Algorithm: issuer.ES256, Access: []issuer.Access{{Users: []string{"alice"}}},
			Integration: &issuer.Integration{Dataset: "germline", Embedders: []string{"portal.example.org"}, IP: issuer.IPStrict},
		}
		c.Issuer.Audiences = c.Audiences
		if err := c.Issuer.Validate(); err != nil {
			panic(err)
		}
	}
}

// audienceKey is a key as the API shows it.
type audienceKey struct{ ID, Algorithm, State, PEM, Secret string }

// makeKey makes the next key of the integration by a secret, as its admin.
func (r *replica) makeKey(t *testing.T, admin *http.Client) audienceKey {
	t.Helper()
	return decoded[audienceKey](t, r.sendJSON(t, admin, http.MethodPost, "/api/v1/integrations/clinical/keys", ""), http.StatusCreated)
}

// readBySecrets reads a token as ProteinPaint does that has these secrets, and nil for one that it refuses.
func readBySecrets(token string, secrets ...string) (claims map[string]any) {
	at := strings.LastIndexByte(token, '.')
	for _, secret := range secrets {
		code := hmac.New(sha256.New, []byte(secret))
		code.Write([]byte(token[:max(at, 0)]))
		if base64.RawURLEncoding.EncodeToString(code.Sum(nil)) != token[at+1:] {
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err == nil && json.Unmarshal(raw, &claims) == nil && claims["exp"].(float64) > float64(time.Now().Unix()) {
			return claims
		}
	}
	return nil
}

// fromPortal are the headers that a browser adds to what a script of the portal sends.
var fromPortal = []string{"Origin", portalOrigin, "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}

type paintToken struct {
	Token     string
	ExpiresAt time.Time `json:"expires_at"`
	ExpiresIn int64     `json:"expires_in"`
	Header    string
}

// A portal's page gets a token of its person by their session, and no other page does.
func TestAPortalAsksForItsPerson(t *testing.T) {
	r := startReplica(t, withIntegrations())
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	const path = "/api/v1/integrations/clinical/token"
	ask := func(browser *http.Client, path string, headers ...string) answer {
		t.Helper()
		return r.call(t, browser, http.MethodPost, path, headers...)
	}
	if got := ask(alice, path, fromPortal...); got.status != http.StatusServiceUnavailable || problemOf(got)["code"] != "no_secret" {
		t.Errorf("before there is a secret: %d %s", got.status, got.body)
	}
	secret := r.makeKey(t, bob).Secret
	got := ask(alice, path, fromPortal...)
	token := decoded[paintToken](t, got, http.StatusOK)
	for name, want := range map[string]string{"Access-Control-Allow-Origin": portalOrigin, "Access-Control-Allow-Credentials": "true", "Cache-Control": "no-store", "Vary": "Origin"} {
		if !strings.Contains(strings.Join(got.header.Values(name), ","), want) {
			t.Errorf("%s is %q, want %q", name, got.header.Values(name), want)
		}
	}
	if left := time.Until(token.ExpiresAt); token.ExpiresIn != 300 || left > 5*time.Minute || left < 4*time.Minute || token.Header != "x-ds-access-token" {
		t.Errorf("got %+v, want a token of five minutes", token)
	}
	claims := readBySecrets(token.Token, secret)
	want := map[string]any{"datasets": []any{"trial-1", "trial-2", "clinical"}, "email": "alice@example.org", "clientAuthResult": map[string]any{"role": "admin"}, "iss": r.url}
	for _, claim := range []string{"exp", "iat", "jti"} {
		if claims[claim] == nil {
			t.Errorf("there is no %s", claim)
		}
		delete(claims, claim)
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("the claims (-want +got):\n%s", diff)
	}
	if claims := readBySecrets(decoded[paintToken](t, ask(bob, path, fromPortal...), http.StatusOK).Token, secret); claims["email"] != "bob" || claims["clientAuthResult"] != nil {
		t.Errorf("bob, who has no role: %v", claims)
	}
	for name, row := range map[string]struct {
		browser *http.Client
		path    string
		headers []string
		status  int
		code    string
	}{
		"nobody":                          {nil, path, fromPortal, 401, "sign_in"},
		"a page of another site":          {alice, path, []string{"Origin", "https://evil.example"}, 403, "crossing"},
		"a page of another port":          {alice, path, []string{"Origin", portalOrigin + ":8443"}, 403, "crossing"},
		"a page over plain http":          {alice, path, []string{"Origin", "http://portal.example.org"}, 403, "crossing"},
		"a page in a sandbox":             {alice, path, []string{"Origin", "null"}, 403, "crossing"},
		"a page of another name":          {alice, path, []string{"Origin", "https://portal.example.org.evil.example"}, 403, "crossing"},
		"a page without an origin":        {alice, path, nil, 403, "crossing"},
		"a page of wts":                   {alice, path, []string{"Origin", r.url}, 403, "crossing"},
		"a page that names an address":    {alice, path + "?ip=192.0.2.1", fromPortal, 400, "bad_request"},
		"a dataset too many":              {alice, path + "?datasets=trial-1,trial-3", fromPortal, 403, "dataset"},
		"an integration that is not hers": {bob, "/api/v1/integrations/strict/token", fromPortal, 403, "access"},
		"an audience without one":         {alice, "/api/v1/integrations/storage/token", fromPortal, 404, "unknown"},
		"a bad lifetime":                  {alice, path + "?expires=0", fromPortal, 400, "bad_request"},
		"a bearer that is none":           {nil, path, bearerOf("wtsp_0"), 401, "invalid_token"},
	} {
		t.Run(name, func(t *testing.T) {
			bare := &http.Client{}
			if row.browser != nil {
				bare.Jar = row.browser.Jar
			}
			got := ask(bare, row.path, row.headers...)
			members := problemOf(got)
			if got.status != row.status || members["code"] != row.code || strings.Contains(got.body, `"token"`) {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, row.status, row.code)
			}
			mayRead := slices.Equal(row.headers, fromPortal) && row.code != "unknown"
			if allowed := got.header.Get("Access-Control-Allow-Origin"); (allowed == portalOrigin) != mayRead || allowed != "" && !mayRead {
				t.Errorf("the page may read the answer: %q", allowed)
			}
			if url, _ := members["connect_url"].(string); row.code == "sign_in" && url != r.url+"/oauth2/authorization_url" {
				t.Errorf("no way to sign in: %s", got.body)
			}
		})
	}
	for origin, allowed := range map[string]bool{portalOrigin: true, "https://evil.example": false, "null": false} {
		got := r.call(t, nil, http.MethodOptions, path, "Origin", origin, "Access-Control-Request-Method", "POST")
		if (got.header.Get("Access-Control-Allow-Origin") == origin) != allowed || (got.header.Get("Access-Control-Allow-Credentials") == "true") != allowed || got.header.Get("Access-Control-Allow-Origin") == "*" {
			t.Errorf("a preflight from %s: %v", origin, got.header)
		}
	}
	if log := r.log.String(); strings.Contains(log, secret) || strings.Contains(log, token.Token) || !strings.Contains(log, `"audience":"clinical"`) {
		t.Error("the log has a secret, or not what happened")
	}
}

// The address in a token is what trusted proxies say of a browser, and what a program says of whom it serves.
func TestTheAddressOfAnIntegration(t *testing.T) {
	r := startReplica(t, withIntegrations(), func(c *config.Config) {
		c.Authn.TrustedProxies = []string{"127.0.0.1"}
	})
	alice := r.signedIn(t, "alice")
	address := func(got answer) any {
		t.Helper()
		token := decoded[struct{ Token string }](t, got, http.StatusOK).Token
		return jwtClaims(t, token)["ip"]
	}
	const path = "/api/v1/integrations/strict/token"
	if got := address(r.call(t, alice, http.MethodPost, path, append([]string{"X-Forwarded-For", "198.51.100.9, 192.0.2.7"}, fromPortal...)...)); got != "192.0.2.7" {
		t.Errorf("through the proxy: %v", got)
	}
	made := r.makeToken(t, alice, personalToken)
	for query, want := range map[string]any{"?ip=192.0.2.8": "192.0.2.8", "?ip=2001:db8::1": "2001:db8::1", "": "127.0.0.1"} {
		if got := address(r.call(t, nil, http.MethodPost, path+query, bearerOf(made.Token)...)); got != want {
			t.Errorf("a program with %q: %v, want %v", query, got, want)
		}
	}
	if got := r.call(t, nil, http.MethodPost, path+"?ip=home", bearerOf(made.Token)...); got.status != 400 {
		t.Errorf("no address: %d", got.status)
	}
	if got := address(r.call(t, nil, http.MethodGet, "/token?audience=strict&datasets=germline&ip=192.0.2.9", bearerOf(made.Token)...)); got != "192.0.2.9" {
		t.Errorf("at /token: %v", got)
	}
	for query, want := range map[string]int{"?audience=pinned&datasets=trial-2": 200, "?audience=pinned&datasets=trial-2%20other": 403, "?audience=storage&datasets=trial-2": 403, "?audience=storage&ip=192.0.2.9": 400} {
		if got := r.call(t, nil, http.MethodGet, "/token"+query, bearerOf(made.Token)...); got.status != want {
			t.Errorf("%s: %d %s, want %d", query, got.status, got.body, want)
		}
	}
	exchanged := r.exchange(t, made.Token, "audience", "pinned", "datasets", "trial-1")
	if claims := jwtClaims(t, exchanged.member("access_token")); !cmp.Equal(claims["datasets"], []any{"trial-1"}) {
		t.Errorf("exchanged: %d %s", exchanged.status, exchanged.body)
	}
}

// What ProteinPaint is configured with names every dataset, and closes what is not named.
func TestLesson24TheConfigurationNamesItsDatasetsAndForbidsTheRest(t *testing.T) {
	r := startReplica(t, withIntegrations(func(i *issuer.Integration) { i.Embedders = []string{"portal.example.org", "other.example.org"} }))
	bob := r.signedIn(t, "bob")
	type credential struct {
		Type, Secret, HeaderKey, IPCheck string
		LooseIPCheck                     bool `json:"looseIpCheck"`
		Dsnames                          []issuer.Cohort
	}
	type block struct {
		DsCredentials map[string]map[string]map[string]credential
		Features      map[string]int64
	}
	read := func(id string) block {
		t.Helper()
		return decoded[block](t, r.call(t, bob, http.MethodGet, "/api/v1/integrations/"+id+"/serverconfig.json"), http.StatusOK)
	}
	entry := credential{Type: "jwt", Secret: "<the secret shown when it was made>", LooseIPCheck: true, Dsnames: []issuer.Cohort{{ID: "trial-1", Label: "Trial 1"}, {ID: "trial-2", Label: "Trial <2>"}}}
	closed := credential{Type: "forbidden"}
	want := block{map[string]map[string]map[string]credential{"clinical": {"termdb": {"portal.example.org": entry, "other.example.org": entry, "*": closed}}}, map[string]int64{"maxSessionAge": 3600000}}
	if diff := cmp.Diff(want, read("clinical")); diff != "" {
		t.Errorf("by a secret (-want +got):\n%s", diff)
	}
	key := r.call(t, nil, http.MethodGet, "/api/v1/integrations/pinned/pubkey.pem")
	pinned := read("pinned").DsCredentials["clinical"]["termdb"]["other.example.org"]
	if pinned.Secret != key.body || !strings.HasPrefix(key.body, "-----BEGIN PUBLIC KEY-----\n") {
		t.Errorf("by a key: %+v, and the key is %s", pinned, key.body)
	}
	strict := read("strict").DsCredentials["germline"]["termdb"]
	if one := strict["portal.example.org"]; one.LooseIPCheck || one.IPCheck != "" || !cmp.Equal(one.Dsnames, []issuer.Cohort{{ID: "germline", Label: "germline"}}) || strict["*"].Type != "forbidden" {
		t.Errorf("strict: %+v", strict)
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/integrations/clinical/pubkey.pem"); got.status != 404 || problemOf(got)["code"] != "no_public_key" {
		t.Errorf("the public key of a secret: %d %s", got.status, got.body)
	}
	alice := r.signedIn(t, "alice")
	for _, path := range []string{"serverconfig.json", "preview", "keys"} {
		for name, browser := range map[string]*http.Client{"alice": alice, "a stranger": nil} {
			if got := r.call(t, browser, http.MethodGet, "/api/v1/integrations/clinical/"+path); got.status != 403 || strings.Contains(got.body, "jwt") {
				t.Errorf("%s reads %s: %d %s", name, path, got.status, got.body)
			}
		}
	}
	if got := r.call(t, bob, http.MethodGet, "/api/v1/integrations/clinical/preview?role=0"); !strings.Contains(got.body, `"clientAuthResult":{"role":"admin"}`) {
		t.Errorf("the preview: %s", got.body)
	}
	if got := r.call(t, bob, http.MethodGet, "/api/v1/integrations/clinical/preview?role=1"); got.status != 400 {
		t.Errorf("the preview of a role that is not there: %d", got.status)
	}
	for browser, ids := range map[*http.Client]string{alice: "clinical pinned strict", bob: "clinical pinned"} {
		var named []string
		for _, one := range decoded[struct{ Integrations []struct{ ID string } }](t, r.call(t, browser, http.MethodGet, "/api/v1/integrations"), 200).Integrations {
			named = append(named, one.ID)
		}
		if strings.Join(named, " ") != ids {
			t.Errorf("listed are %v, want %s", named, ids)
		}
	}
	snippet := r.call(t, nil, http.MethodGet, "/api/v1/integrations/clinical/snippet.js")
	if !strings.Contains(snippet.body, `fetch("`+r.url+`/api/v1/integrations/clinical/token", {`) || !strings.Contains(snippet.body, "credentials: 'include'") || strings.Contains(snippet.body, "__") {
		t.Errorf("the snippet:\n%s", snippet.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/integrations/pinned/processor.mjs"); strings.Contains(got.body, "__") || !strings.Contains(got.body, "BEGIN PUBLIC KEY") {
		t.Errorf("the processor:\n%s", got.body)
	}
}

// A secret is replaced while two replicas mint, and a reader that has the present and the next one refuses nothing.
func TestLesson26ASecretIsReplacedWithoutARefusal(t *testing.T) {
	database := pgtest.Database(t)
	one := startReplica(t, withIntegrations(), func(c *config.Config) {
		c.Database.URL, c.Server.RateLimits = secret.Text(database), map[string]float64{"mint": 100_000, "change": 100}
	})
	bob := one.signedIn(t, "bob")
	made := one.makeToken(t, bob, personalToken)
	two := secondReplica(t, one)
	var mu sync.Mutex
	secrets := []string{one.makeKey(t, bob).Secret} // what the reader has
	eventually(t, "both replicas mint", func() bool {
		return two.call(t, nil, http.MethodPost, "/api/v1/integrations/clinical/token", bearerOf(made.Token)...).status == 200
	})
	stop, loops := make(chan struct{}), sync.WaitGroup{}
	end := sync.OnceFunc(func() { close(stop); loops.Wait() })
	defer end()
	var accepted atomic.Int64
	by := map[string]int{} // tokens, by the secret that signed them
	for _, r := range []*replica{one, two} {
		for range 2 {
			loops.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					got := r.through(t, r.url, nil, http.MethodPost, "/api/v1/integrations/clinical/token", bearerOf(made.Token)...)
					var whole paintToken
					_ = json.Unmarshal([]byte(got.body), &whole) // else the token is empty
					token := whole.Token
					mu.Lock()
					known := slices.Clone(secrets)
					for _, one := range known {
						if readBySecrets(token, one) != nil {
							by[one]++
						}
					}
					mu.Unlock()
					if got.status != 200 || readBySecrets(token, known...) == nil {
						t.Errorf("a token is refused: %d %s", got.status, got.body)
						return
					}
					accepted.Add(1)
				}
			})
		}
	}
	change := func(method, path string, status int) {
		t.Helper()
		if got := one.sendJSON(t, bob, method, "/api/v1/integrations/clinical/keys"+path, ""); got.status != status {
			t.Fatalf("%s %s: %d %s", method, path, got.status, got.body)
		}
	}
	for range 3 {
		dropped := one.makeKey(t, bob)
		if got := one.sendJSON(t, bob, http.MethodPost, "/api/v1/integrations/clinical/keys", ""); got.status != http.StatusConflict {
			t.Fatalf("a next key beside the next one: %d", got.status)
		}
		change(http.MethodDelete, "/next", http.StatusNoContent) // the reader was never told of it
		next := one.makeKey(t, bob)
		if next.Secret == "" || next.Secret == dropped.Secret || next.State != "next" {
			t.Fatalf("the next: %+v", next)
		}
		mu.Lock()
		old := secrets[0]
		secrets = append(secrets, next.Secret)
		mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		change(http.MethodPost, "/activate", http.StatusOK)
		eventually(t, "both replicas sign with the next one", func() bool {
			mu.Lock()
			defer mu.Unlock()
			before := by[old]
			mu.Unlock()
			time.Sleep(200 * time.Millisecond)
			mu.Lock()
			return by[old] == before && by[next.Secret] > 0
		})
		mu.Lock()
		secrets = secrets[1:] // the old one is dropped
		mu.Unlock()
	}
	end()
	if accepted.Load() < 100 {
		t.Errorf("%d tokens were accepted, want many", accepted.Load())
	}
	kept := decoded[struct{ Keys []audienceKey }](t, one.call(t, bob, http.MethodGet, "/api/v1/integrations/clinical/keys"), 200).Keys
	if len(kept) != 4 || kept[0].State != "active" || kept[1].State != "retired" || kept[0].Secret != "" {
		t.Errorf("the keys: %+v", kept)
	}
	for _, want := range []string{`"audit":"make audience key"`, `"audit":"activate audience key"`, `"audit":"drop audience key"`} {
		if !strings.Contains(one.log.String(), want) {
			t.Errorf("the audit lacks %s", want)
		}
	}
}

// Who is no admin, has no fresh login, or comes from another page changes no key.
func TestWhoMayChangeTheKeysOfAnIntegration(t *testing.T) {
	r := startReplica(t, withIntegrations())
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, bob, personalToken)
	for _, change := range [][2]string{{"POST", "keys"}, {"POST", "keys/activate"}, {"DELETE", "keys/next"}, {"POST", "selftest"}} {
		t.Run(change[0]+" "+change[1], func(t *testing.T) {
			path := "/api/v1/integrations/clinical/" + change[1]
			for name, got := range map[string]answer{
				"alice": r.call(t, alice, change[0], path), "a stranger": r.call(t, nil, change[0], path), "a page of the portal": r.call(t, bob, change[0], path, fromPortal...),
				"a program of bob's": r.call(t, nil, change[0], path, bearerOf(made.Token)...),
			} {
				if got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %d %s", name, got.status, got.body)
				}
			}
			if got := r.call(t, bob, change[0], strings.Replace(path, "clinical", "none", 1)); got.status != http.StatusNotFound {
				t.Errorf("of none: %d %s", got.status, got.body)
			}
		})
	}
	handle, _, err := r.session.Begin(t.Context(), r.idOf(t, "bob"), "127.0.0.1", "")
	if err != nil {
		t.Fatal(err)
	}
	r.later(t, "sessions", "created_at", -2*time.Hour)
	stale := []string{"Cookie", r.session.Cookie + "=" + handle}
	for _, change := range [][2]string{{"POST", "keys"}, {"POST", "keys/activate"}, {"DELETE", "keys/next"}} {
		if got := r.call(t, nil, change[0], "/api/v1/integrations/clinical/"+change[1], stale...); got.status != 403 || problemOf(got)["code"] != "step_up" {
			t.Errorf("%s %s with an old login: %d %s", change[0], change[1], got.status, got.body)
		}
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/integrations/clinical/keys", stale...); got.status != 200 {
		t.Errorf("reading with an old login: %d %s", got.status, got.body)
	}
}

// paintServer answers /jwt-status of a configured dataset, by the rules of ProteinPaint that a self-test depends on.
type paintServer struct {
	mu      sync.Mutex
	secrets []string
	open    bool   // the entry "*" is missing
	says    string // in the place of an answer
	status  int
	asked   int
}

func (p *paintServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.says != "" {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(p.status)
		_, _ = w.Write([]byte(p.says))
		return
	}
	var sent struct{ Dslabel, Embedder, Route string }
	if json.NewDecoder(r.Body).Decode(&sent) != nil || sent.Dslabel != "clinical" || sent.Route != "termdb" || r.URL.Path != "/pp/jwt-status" {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	switch {
	case sent.Embedder != "portal.example.org" && p.open:
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	case sent.Embedder != "portal.example.org":
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"status":"error","error":"no credentials set up for this embedder","code":403}`))
	case readBySecrets(r.Header.Get("x-ds-access-token"), p.secrets...) == nil:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":{"name":"JsonWebTokenError","message":"invalid signature"}}`))
	default:
		_, _ = w.Write([]byte(`{"status":"ok","jwt":"a-session","route":"termdb"}`))
	}
}

func (p *paintServer) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// The self-test says what is wrong in words of its own, and the next key is not activated that the server would refuse.
func TestTheSelfTestOfAnIntegration(t *testing.T) {
	paint := &paintServer{}
	server := httptest.NewServer(paint)
	t.Cleanup(server.Close)
	r := startReplica(t, withIntegrations(func(i *issuer.Integration) { i.InstanceURL = server.URL + "/pp/" }))
	bob := r.signedIn(t, "bob")
	first := r.makeKey(t, bob)
	type result struct {
		Passed bool
		Checks []struct {
			Name, Detail string
			Passed       bool
		}
	}
	test := func() (all result, text string) {
		t.Helper()
		got := r.sendJSON(t, bob, http.MethodPost, "/api/v1/integrations/clinical/selftest", "")
		return decoded[result](t, got, http.StatusOK), got.body
	}
	for name, row := range map[string]struct {
		change func()
		passes bool
		says   string
	}{
		"all is well":         {func() { paint.secrets = []string{first.Secret} }, true, "it gave a session"},
		"another secret":      {func() { paint.secrets = []string{"another"} }, false, "it has another secret or public key"},
		"no entry for others": {func() { paint.secrets, paint.open = []string{first.Secret}, true }, false, "is missing under the route"},
		"out of order":        {func() { paint.status, paint.says = 502, "canary" }, false, "it is out of order"},
		"a redirect":          {func() { paint.status, paint.says = 302, "canary" }, false, "it redirects"},
		"another program":     {func() { paint.status, paint.says = 200, "<html>canary" }, false, "its answer is not ProteinPaint's"},
		"no signature is verified": {
			func() { paint.status, paint.says = 200, `{"status":"ok","jwt":"canary"}` }, false, "the server verifies no signature",
		},
		"no credentials at all": {func() { paint.status, paint.says = 200, `{"status":"ok"}` }, false, "data is given without a token"},
		"strict there": {func() {
			paint.status, paint.says = 401, `{"error":"Server error: missing ip address in saved session"}`
		}, false, "it compares addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			paint.set(func() { paint.open, paint.says, paint.asked = false, "", 0; row.change() })
			got, text := test()
			if got.Passed != row.passes || !strings.Contains(text, row.says) || strings.Contains(text, "canary") || len(got.Checks) != 3 {
				t.Errorf("got %s; want it passed: %t, and %q", text, row.passes, row.says)
			}
			if paint.set(func() {}); paint.asked != 3 {
				t.Errorf("it was asked %d times, want 3 and no redirect followed", paint.asked)
			}
		})
	}
	paint.set(func() { paint.says, paint.open, paint.secrets = "", false, []string{first.Secret} })
	next := r.makeKey(t, bob)
	const activate = "/api/v1/integrations/clinical/keys/activate"
	if got := r.sendJSON(t, bob, http.MethodPost, activate, ""); got.status != 409 || problemOf(got)["code"] != "next_refused" || !strings.Contains(got.body, "force=true") {
		t.Errorf("a key that the server does not have: %d %s", got.status, got.body)
	}
	paint.set(func() { paint.secrets = append(paint.secrets, next.Secret) })
	if got := r.sendJSON(t, bob, http.MethodPost, activate, ""); got.status != 200 {
		t.Errorf("one that it has: %d %s", got.status, got.body)
	}
	r.makeKey(t, bob)
	if got := r.sendJSON(t, bob, http.MethodPost, activate+"?force=true", ""); got.status != 200 {
		t.Errorf("by force: %d %s", got.status, got.body)
	}
	server.Close()
	if got, text := test(); got.Passed || !strings.Contains(text, "it cannot be reached") || strings.Contains(text, "connection refused") {
		t.Errorf("with the server away: %s", text)
	}
}

// An integration by its pages alone, without a script.
func TestIntegrationsByThePage(t *testing.T) {
	paint := &paintServer{}
	server := httptest.NewServer(paint)
	t.Cleanup(server.Close)
	r := startReplica(t, withIntegrations(func(i *issuer.Integration) { i.InstanceURL = server.URL + "/pp" }))
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	for _, path := range []string{"/integrations", "/integrations/clinical"} {
		if got := r.see(t, alice, path); got.status != 403 || titleOf(got) != "This page is for admins" || strings.Contains(got.body, "/admin") {
			t.Errorf("alice sees %s: %d %q", path, got.status, titleOf(got))
		}
	}
	list := r.see(t, bob, "/integrations")
	if titleOf(list) != "Integrations" || !strings.Contains(list.body, `href="/integrations/clinical"`) || !strings.Contains(r.see(t, bob, "/admin").body, `href="/integrations"`) {
		t.Fatalf("the list:\n%s", list.body)
	}
	page := r.see(t, bob, "/integrations/clinical")
	if titleOf(page) != "clinical" || !strings.Contains(page.body, "There is no key yet") || !strings.Contains(page.header.Get("Content-Security-Policy"), "script-src 'self'") {
		t.Fatalf("the page:\n%s", page.body)
	}
	made := r.acts(t, bob, postOf(t, page, "Make it"))
	found := once.FindStringSubmatch(made.body)
	if found == nil || !strings.Contains(made.body, "the secret is shown only once") || !strings.Contains(noticeOf(made), "signs from now on") {
		t.Fatalf("the secret is not shown: %q\n%s", noticeOf(made), made.body)
	}
	text := html.UnescapeString(r.see(t, bob, "/integrations/clinical").body)
	for _, want := range []string{`"type": "forbidden"`, `"label": "Trial <2>"`, "getDatasetAccessToken", `"role": "admin"`, "everyone else", "/api/v1/integrations/clinical/processor.mjs"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(text, found[1]) {
		t.Error("the secret is shown again")
	}
	tested := r.acts(t, bob, postOf(t, made, "Test it"))
	if got := noticeOf(tested); !strings.Contains(got, "portal.example.org: FAILED, it has another secret") {
		t.Errorf("the self-test says %q", got)
	}
	paint.set(func() { paint.secrets = []string{found[1]} })
	if got := noticeOf(r.acts(t, bob, postOf(t, made, "Test it"))); strings.Contains(got, "FAILED") || strings.Count(got, "passed") != 3 {
		t.Errorf("the self-test says %q", got)
	}
	next := r.acts(t, bob, postOf(t, tested, "Make it"))
	if refused := noticeOf(r.acts(t, bob, postOf(t, next, "Activate the next key"))); !strings.Contains(refused, "Nothing has changed") {
		t.Errorf("activated untried: %q", refused)
	}
	if got := noticeOf(r.acts(t, bob, postOf(t, next, "Drop the next key"))); !strings.Contains(got, "dropped") {
		t.Errorf("dropping: %q", got)
	}
	next = r.acts(t, bob, postOf(t, tested, "Make it"))
	if got := noticeOf(r.acts(t, bob, postOf(t, next, "Activate it without a trial"))); !strings.Contains(got, "signs from now on") {
		t.Errorf("by force: %q", got)
	}
	if got := r.see(t, bob, "/integrations/pinned"); !strings.Contains(got.body, "BEGIN PUBLIC KEY") || !strings.Contains(got.body, ">active<") {
		t.Errorf("a pinned key exists from the start:\n%s", got.body)
	}
	if got := r.see(t, bob, "/integrations/none"); got.status != 404 || titleOf(got) != "It is not there any more" {
		t.Errorf("of none: %d %q", got.status, titleOf(got))
	}
}

// A program without a browser has the token as ProteinPaint wants it in Authorization: base64 of the JWT.
func TestTokenForProteinPaintWithoutABrowser(t *testing.T) {
	r := startReplica(t, withIntegrations())
	made := r.makeToken(t, r.signedIn(t, "alice"), personalToken)
	proof := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(proof, []byte(made.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, err := run(t, "token", "--url", r.url, "--proof-file", proof, "--audience", "pinned", "--dataset", "clinical,trial-1", "--format", "proteinpaint-bearer")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(printed))
	if err != nil {
		t.Fatalf("%q: %v", printed, err)
	}
	if claims := jwtClaims(t, string(raw)); !cmp.Equal(claims["datasets"], []any{"clinical", "trial-1"}) {
		t.Errorf("the claims: %v", claims)
	}
	key := r.call(t, nil, http.MethodGet, "/api/v1/integrations/pinned/pubkey.pem")
	if !signedByPEM(t, string(raw), key.body) {
		t.Error("the published key does not verify it")
	}
}

// signedByPEM verifies ES256 with a public key (RFC 7518 3.4).
func signedByPEM(t *testing.T, token, text string) bool {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("%q is no PEM", text)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndexByte(token, '.')
	signature, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil || len(signature) != 64 {
		t.Fatalf("the signature: %v", err)
	}
	digest := sha256.Sum256([]byte(token[:at]))
	return ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}
