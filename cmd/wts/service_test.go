package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/telemetry"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		return
	}
	pgtest.Main(m)
}

// replica is a whole service in this process, with two providers.
type replica struct {
	*service
	url           string
	first, second *providertest.Server
	log           *syncBuffer
	stop          func() // tells it to stop, as SIGTERM does
	ended         chan struct{}
}

type syncBuffer struct {
	hold sync.Mutex // held by a test that wants nothing to be written
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(line []byte) (int, error) {
	b.hold.Lock()
	defer b.hold.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func startReplica(t *testing.T, change ...func(*config.Config)) *replica {
	t.Helper()
	port := instance.FreePort(t)
	r := &replica{url: fmt.Sprintf("http://localhost:%d", port), log: &syncBuffer{}}
	r.first, r.second = startProvider(t, r.url+"/oauth2/authorize", "127.0.0.1:0"), startProvider(t, r.url+"/oauth2/authorize/second", "127.0.0.3:0")
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	settings := config.Config{Keys: keys, StopTimeout: 20 * time.Second, RideThroughMax: time.Minute, Log: telemetry.LogConfig{Level: "debug"}}
	settings.Server.URL = r.url
	settings.Server.Listen = []string{fmt.Sprintf("127.0.0.1:%d", port)}
	settings.Server.MetricsListen = "off"
	settings.Broker.DefaultProvider = "first"
	settings.Database.URL = secret.Text("sqlite:" + filepath.Join(t.TempDir(), "wts.db"))
	settings.Issuer = issuer.Config{URL: r.url, Audiences: map[string]issuer.Audience{"storage": {Scopes: []string{"read"}}}}
	settings.Authn.Workers = map[string]string{"127.0.0.2": "alice"}
	settings.Providers = map[string]provider.Config{}
	for id, server := range map[string]*providertest.Server{"first": r.first, "second": r.second} {
		settings.Providers[id] = provider.Config{
			Name: "The " + id, Issuer: server.Issuer, ClientID: "wts", ClientSecret: "canary-client-secret", UsernameClaim: "preferred_username",
		}
	}
	for _, one := range change {
		one(&settings)
	}
	r.start(t, settings)
	return r
}

// start runs the service until the test ends.
func (r *replica) start(t *testing.T, settings config.Config) {
	t.Helper()
	log, flush := telemetry.NewLog(settings.Log, r.log)
	var err error
	r.service, err = newService(t.Context(), settings, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ready, stopped := make(chan struct{}), make(chan error, 1)
	r.ended = make(chan struct{})
	go func() { stopped <- r.run(ctx, func([]net.Addr) { close(ready) }); close(r.ended) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-stopped:
			if err != nil {
				t.Errorf("stopping: %v", err)
			}
		case <-time.After(time.Minute):
			t.Errorf("it does not stop; its log:\n%s", r.log)
		}
		flush()
	})
	select {
	case <-ready:
	case <-r.ended:
		t.Fatalf("the service ended as it started; its log:\n%s", r.log)
	}
	select {
	case <-r.prepared: // every key is made: the published ones, and after them those of one audience alone
	case <-time.After(time.Minute):
		t.Fatalf("not ready within a minute; its log:\n%s", r.log)
	}
}

func startProvider(t *testing.T, callback, address string) *providertest.Server {
	t.Helper()
	server, err := providertest.Start(providertest.Options{Address: address, Users: []providertest.User{
		{Name: "alice", Password: "canary-password", Email: "alice@example.org"}, {Name: "bob", Password: "canary-password"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	server.Register(providertest.Client{ID: "wts", Secret: "canary-client-secret", RedirectURI: callback})
	return server
}

// logIn is a person in a browser.
func (r *replica) logIn(t *testing.T, browser *http.Client, path, name string) providertest.Page {
	t.Helper()
	page, err := providertest.LogIn(t.Context(), browser, r.url+path, name, "canary-password")
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// answer is what came back, not followed.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) member(name string) string {
	var object map[string]string
	_ = json.Unmarshal([]byte(a.body), &object)
	return object[name]
}

// call sends one request as it is given: nothing is followed, nothing added.
func (r *replica) call(t *testing.T, client *http.Client, method, path string, headers ...string) answer {
	t.Helper()
	got := r.through(t, r.url, client, method, path, headers...)
	hold(t, method, path, "", got)
	return got
}

// through is call, by way of a proxy.
func (*replica) through(t *testing.T, base string, client *http.Client, method, path string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	if client == nil {
		client = http.DefaultClient
	}
	still := *client
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := still.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// callback logs in at a provider and returns the callback that the provider sends the browser to,
// which has not been followed.
func (r *replica) callback(t *testing.T, browser *http.Client, path string) *url.URL {
	t.Helper()
	var back *url.URL
	browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(next.URL.Path, "/oauth2/authorize") && strings.HasPrefix(next.URL.String(), r.url) {
			back = next.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	defer func() { browser.CheckRedirect = nil }()
	r.logIn(t, browser, path, "alice")
	if back == nil {
		t.Fatal("the login led to no callback")
	}
	return back
}

// Security.md A1, A3, A6, A9.
func TestHostileCallbacks(t *testing.T) {
	r := startReplica(t)
	signedIn := providertest.Browser()
	r.logIn(t, signedIn, "/oauth2/authorization_url", "alice")
	posts := func() int { return r.first.Ledger().TokenPosts + r.second.Ledger().TokenPosts }

	for name, row := range map[string]struct {
		change func(query url.Values)
		other  bool // sent by another browser
	}{
		"a client's own grant injected": {func(q url.Values) { q.Del("code"); q.Set("grant_type", "client_credentials"); q.Set("scope", "admin") }, false},
		"a stolen refresh token injected": {func(q url.Values) {
			q.Del("code")
			q.Set("grant_type", "refresh_token")
			q.Set("refresh_token", "stolen")
		}, false},
		"no code, and method=GET": {func(q url.Values) {
			q.Del("code")
			q.Set("method", "GET")
			q.Set("body", "x")
			q.Set("auth", "x")
			q.Set("headers", "x")
		}, false},
		"a forged state":          {func(q url.Values) { q.Set("state", "forged") }, false},
		"no state":                {func(q url.Values) { q.Del("state") }, false},
		"another browser's state": {func(url.Values) {}, true},
		"another issuer":          {func(q url.Values) { q.Set("iss", "https://evil.example") }, false},
		"an error with markup":    {func(q url.Values) { q.Del("code"); q.Set("error", "<script>canary</script>") }, false},
		"an error of the provider's": {func(q url.Values) {
			q.Del("code")
			q.Set("error", "access_denied")
			q.Set("error_description", "canary")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			back := r.callback(t, signedIn, "/oauth2/authorization_url?idp=second")
			query := back.Query()
			row.change(query)
			before, browser := posts(), signedIn
			if row.other {
				browser = providertest.Browser()
			}
			got := r.call(t, browser, http.MethodGet, back.Path+"?"+query.Encode())
			if got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/failed?error=401&") || posts() != before {
				t.Errorf("answered %d, %d calls; want 303 and none\n%s", got.status, posts()-before, got.body)
			}
			if strings.Contains(got.body, "canary") || strings.Contains(got.body, "<script") {
				t.Errorf("the page repeats what came in:\n%s", got.body)
			}
			if got.header.Get("Cache-Control") != "no-store" || got.header.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("the page may be kept, or tells its address: %v", got.header)
			}
		})
	}

	// Injected parameters beside a good code change nothing: the four that are read are read.
	back := r.callback(t, signedIn, "/oauth2/authorization_url?idp=second")
	extra := "&grant_type=client_credentials&refresh_token=stolen&method=GET&code_verifier=x&redirect_uri=https://evil.example"
	if got := r.call(t, signedIn, http.MethodGet, back.RequestURI()+extra); got.status != http.StatusFound {
		t.Errorf("a good code beside injected parameters: %d\n%s", got.status, got.body)
	}
	before := posts()
	if got := r.call(t, signedIn, http.MethodGet, back.RequestURI()); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/failed?error=401") || posts() != before {
		t.Errorf("the same callback again: %d, %d calls", got.status, posts()-before)
	}
	if got := r.call(t, signedIn, http.MethodHead, back.RequestURI()); got.status != http.StatusMethodNotAllowed {
		t.Errorf("HEAD on a callback: %d", got.status)
	}
}

func TestHostileRedirects(t *testing.T) {
	r := startReplica(t)
	for _, to := range []string{"https://evil.com", "//evil.com", "/\\evil.com", "/%2f%2fevil.com", "\t//evil.com", "https://localhost@evil.com", "javascript:alert(1)"} {
		t.Run(to, func(t *testing.T) {
			got := r.call(t, nil, http.MethodGet, "/oauth2/authorization_url?redirect="+url.QueryEscape(to))
			if got.status != http.StatusBadRequest || got.member("message") != "only support relative redirect" {
				t.Errorf(`got %d %s; want 400, "only support relative redirect"`, got.status, got.body)
			}
		})
	}
	browser := providertest.Browser()
	back := r.callback(t, browser, "/oauth2/authorization_url?redirect=/workspace%3Fa%3Db")
	if got := r.call(t, browser, http.MethodGet, back.RequestURI()); got.header.Get("Location") != "/workspace?a=b" {
		t.Errorf("a good one leads to %q", got.header.Get("Location"))
	}
}

// Security.md A1, C3, C5: nothing begins or changes unseen.
func TestWhatAPageOfAnotherSiteCannotDo(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	for _, dest := range []string{"image", "iframe", "empty", "script", "frame"} {
		t.Run(dest, func(t *testing.T) {
			bare := &http.Client{Jar: browser.Jar}
			if got := r.call(t, bare, http.MethodGet, "/oauth2/authorization_url?idp=second", "Sec-Fetch-Dest", dest); got.status != http.StatusForbidden {
				t.Errorf("a login begun as %s: %d", dest, got.status)
			}
		})
	}
	for name, headers := range map[string][]string{
		"cross-site":                    {"Sec-Fetch-Site", "cross-site"},
		"same-site":                     {"Sec-Fetch-Site", "same-site"},
		"an old browser, by its Origin": {"Origin", "https://evil.example"},
	} {
		t.Run(name, func(t *testing.T) {
			bare := &http.Client{Jar: browser.Jar}
			if got := r.call(t, bare, http.MethodPost, "/oauth2/logout?idp=first", headers...); got.status != http.StatusForbidden {
				t.Errorf("a disconnect from %s: %d", name, got.status)
			}
		})
	}
	if got := r.call(t, browser, http.MethodGet, "/oauth2/logout?idp=first"); got.status != http.StatusNoContent {
		t.Errorf("GET logout: %d", got.status)
	}
	if got := r.worker(t, "/token/?idp=default"); got.status != http.StatusOK {
		t.Errorf("GET logout disconnected: %d %s", got.status, got.body)
	}
	if got := r.call(t, browser, http.MethodGet, "/"); strings.Contains(got.body, ">Log out<") {
		t.Error("GET logout did not end the session")
	}
}

// workerAddress is where alice's worker calls from.
const workerAddress = instance.WorkerAddress

// clientAt calls from an address of this machine, and keeps its connections.
func clientAt(address string) *http.Client {
	client := instance.WorkerAt(address)
	client.Transport.(*http.Transport).DisableKeepAlives = false
	return client
}

// worker calls from the worker's address, with a connection of its own.
func (r *replica) worker(t *testing.T, path string, headers ...string) answer {
	t.Helper()
	client := clientAt(workerAddress)
	client.Transport.(*http.Transport).DisableKeepAlives = true
	return r.call(t, client, http.MethodGet, path, headers...)
}

// Gen3-contract.md 1.2 and 1.4; kubernetes.md rule 1.
func TestAnswersOfToken(t *testing.T) {
	r := startReplica(t, func(c *config.Config) { c.Authn.Bearer.Audiences = []string{"wts"} })
	const denied = "You don't have access to this resource: "
	stranger := func(path string, headers ...string) answer { return r.call(t, nil, http.MethodGet, path, headers...) }
	check := func(name string, got answer, status int, member, text string) {
		t.Helper()
		if got.status != status || !strings.HasPrefix(got.member(member), text) {
			t.Errorf("%s: %d %s; want %d %s", name, got.status, got.body, status, text)
		}
		if got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", name, got.header)
		}
	}
	check("a stranger", stranger("/token/"), 403, "message", denied+"You need to be authenticated")
	check("a stranger, before anything else", stranger("/token/?idp=bogus&expires=abc"), 403, "message", denied+"You need to be authenticated")
	for _, header := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "X-UserId"} {
		check("a stranger who forges "+header, stranger("/token/", header, "127.0.0.2"), 403, "message", denied+"You need to be authenticated")
	}
	check("a worker before the login", r.worker(t, "/token/"), 403, "message", denied+"User doesn't have a refresh token")

	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	upstream := r.worker(t, "/token/")
	if upstream.status != 200 || len(upstream.member("token")) < 100 || !regexp.MustCompile(`^\{"token":"[^"]+","token_type":"Bearer","expires_in":[0-9]+\}\n$`).MatchString(upstream.body) {
		t.Errorf("a worker: %d %s", upstream.status, upstream.body)
	}
	for _, path := range []string{"/token", "//token//", "/token?expires=600", "/token/?expires=", "/token/?idp=default", "/token/?idp=first"} {
		t.Run(path, func(t *testing.T) {
			if got := r.worker(t, path); got.status != 200 || got.member("token") == "" {
				t.Errorf(`got %d %s; want 200, a token`, got.status, got.body)
			}
		})
	}
	check("bogus idp", r.worker(t, "/token/?idp=bogus"), 400, "message", `Requested IdP "bogus" is not configured`)
	check("empty idp", r.worker(t, "/token/?idp="), 400, "message", `Requested IdP "" is not configured`)
	check("bad expires", r.worker(t, "/token/?expires=abc"), 400, "error", "expires has to be an integer")
	check("bad expires before bad idp", r.worker(t, "/token/?expires=abc&idp=bogus"), 400, "error", "expires has to be an integer")
	for _, bad := range []string{"0", "-5", "1.5", "1e3", "99999999999999999999", "%zz", "+", "0x10"} {
		t.Run(bad, func(t *testing.T) {
			if got := r.worker(t, "/token/?expires="+bad); got.status != 400 || got.member("error") == "" {
				t.Errorf("expires=%s: %d %s", bad, got.status, got.body)
			}
		})
	}
	check("not connected there", r.worker(t, "/token/?idp=second"), 403, "message", denied+"User doesn't have a refresh token")
	check("an unknown audience", r.worker(t, "/token/?audience=evil"), 400, "message", `The audience "evil" is not registered`)
	check("audience and idp", r.worker(t, "/token/?audience=storage&idp=first"), 400, "message", "idp and audience exclude")
	check("a scope too many", r.worker(t, "/token/?audience=storage&scope=read+admin"), 403, "message", denied+"the scope")

	minted := r.worker(t, "/token/?audience=storage&expires=7&scope=read")
	if minted.status != 200 || !strings.Contains(minted.body, `"expires_in":7`) || !strings.Contains(minted.body, `"audience":"storage"`) {
		t.Errorf("minting: %d %s", minted.status, minted.body)
	}

	// Bearers: good for what is not the default provider's own token, and there passed over.
	bearer := []string{"Authorization", "bEARer " + upstream.member("token")}
	if got := stranger("/token/?audience=storage", bearer...); got.status != 200 {
		t.Errorf("minting for a bearer: %d %s", got.status, got.body)
	}
	check("a bearer for the default provider", stranger("/token/", bearer...), 403, "message", denied+"You need to be authenticated")
	check("a bearer for the default provider by its id", stranger("/token/?idp=first", bearer...), 403, "message", denied+"You need to be authenticated")
	if got := r.worker(t, "/token/", "Authorization", "Bearer of-somebody-else"); got.status != 200 {
		t.Errorf("a worker with a bearer that is passed over: %d %s", got.status, got.body)
	}
	check("a bearer that is not one", stranger("/token/?audience=storage", "Authorization", "Bearer x"), 401, "message", "Authentication Error: ")
	check("a worker with a bad bearer", r.worker(t, "/token/?audience=storage", "Authorization", "Bearer x"), 401, "message", "Authentication Error: ")
	check("our own token is no proof here", stranger("/token/?audience=storage", "Authorization", "Bearer "+minted.member("token")), 401, "message", "Authentication Error: ")

	// A proxy's stale bearer keeps no user from logging in. Connecting a provider with it is refused: the login
	// would not replace the bearer, and lead back here.
	for path, status := range map[string]int{"/oauth2/authorization_url": 302, "/oauth2/authorization_url?idp=second": 401} {
		t.Run(path, func(t *testing.T) {
			got := r.call(t, browser, http.MethodGet, path, "Authorization", "bearer stale", "Accept", "text/html")
			if got.status != status || strings.HasPrefix(got.header.Get("Location"), "/oauth2/authorization_url?") {
				t.Errorf("%s with a stale bearer: %d to %s", path, got.status, got.header.Get("Location"))
			}
		})
	}

	// Forged bearers (security.md A5, D2).
	for name, token := range forgeries(t, r, upstream.member("token")) {
		check(name, stranger("/token/?audience=storage", "Authorization", "Bearer "+token), 401, "message", "Authentication Error: ")
	}
}

// forgeries are tokens that name alice and are not signed by her provider.
func forgeries(t *testing.T, r *replica, good string) map[string]string {
	t.Helper()
	parts := strings.Split(good, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(raw), "alice") {
		t.Fatalf("the provider's token says %s", raw)
	}
	keys, err := http.Get(r.first.Issuer + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Body.Close()
	public, _ := io.ReadAll(keys.Body)
	head := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return map[string]string{
		"alg none":                    head(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".",
		"alg none, the old signature": head(`{"alg":"none","typ":"JWT","kid":"1"}`) + "." + parts[1] + "." + parts[2],
		"HS256 with the public key":   hs256(head(`{"alg":"HS256","typ":"JWT","kid":"1"}`)+"."+parts[1], public),
		"another subject":             parts[0] + "." + head(strings.Replace(string(raw), "alice", "admin", 1)) + "." + parts[2],
		"another audience":            parts[0] + "." + head(strings.Replace(string(raw), `"wts"`, `"all"`, 1)) + "." + parts[2],
	}
}

// Security.md A12: whatever happened, no secret is in a log.
func TestTheLogHoldsNoSecret(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	back := r.callback(t, browser, "/oauth2/authorization_url")
	r.call(t, browser, http.MethodGet, back.RequestURI())
	r.logIn(t, browser, "/oauth2/authorization_url?idp=second", "alice")
	secrets := map[string]string{
		"the client secret": "canary-client-secret", "the password": "canary-password",
		"the code": back.Query().Get("code"), "the state": back.Query().Get("state"),
		"an access token": r.worker(t, "/token/").member("token"), "a minted token": r.worker(t, "/token/?audience=storage").member("token"),
	}
	address, _ := url.Parse(r.url)
	for _, cookie := range browser.Jar.Cookies(address) {
		secrets["the cookie "+cookie.Name] = cookie.Value
	}
	for _, id := range []string{"first", "second"} {
		user, err := r.store.Users.UserByName(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		connection, err := r.store.Connections.Row(t.Context(), user.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		secrets["the refresh token of "+id] = string(connection.RefreshToken)
	}
	r.call(t, nil, http.MethodGet, "/token/")
	r.first.Fail(&providertest.Fault{Status: 500, Body: "canary-upstream-body"})
	if page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice"); page.Status != 503 || strings.Contains(page.Body, "canary") {
		t.Errorf("a provider in trouble: %d\n%s", page.Status, page.Body)
	}
	secrets["an upstream body"] = "canary-upstream-body"
	r.service.log.Warn("a warning, which writes out what came before it")
	text := r.log.String()
	for what, secret := range secrets {
		t.Run(what, func(t *testing.T) {
			if secret == "" {
				t.Errorf("%s is empty: nothing is tested", what)
			} else if strings.Contains(text, secret) {
				t.Errorf("the log holds %s", what)
			}
		})
	}
	for _, want := range []string{`"outcome":"refused","reason":"nothing says who is calling"`, `"audit":"login"`, `"audit":"connect"`, `"audit":"handout"`, `"audit":"mint"`, `"proof":"pod"`, `"provider":"second"`, `"audience":"storage"`, `"request":"`} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %s", want)
			}
		})
	}
	for line := range strings.Lines(text) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("a line is no JSON: %s", line)
		}
	}
}

func TestRoutes(t *testing.T) {
	r := startReplica(t)
	for path, status := range map[string]int{
		"/": 200, "/_status": 200, "/_version": 200, "/healthz": 200, "/readyz": 200, "/readyz?verbose": 200, "/static/wts.000000000000.css": 200, "/static/wts.css": 404,
		"/.well-known/jwks.json": 200, "/.well-known/openid-configuration": 200, "/.well-known/oauth-authorization-server": 200,
		"/static/..%2ftoken": 404, "/static/../token": 404, "/static/%2e%2e/token": 404, "/./token": 404, "/static%5c..%5ctoken": 404, "//token//": 403,
		"/oauth2/logout": 204, "/metrics": 404, "/nothing": 404, "/oauth2": 404, "/oauth2/authorization_url?idp=bogus": 400,
		"/oauth2/authorization_url": 302, "//oauth2//authorization_url": 302, "/oauth2/authorization_url?idp=second": 401,
	} {
		t.Run(path, func(t *testing.T) {
			get, head := r.call(t, nil, http.MethodGet, path), r.call(t, nil, http.MethodHead, path)
			if get.status != status || head.status != status {
				t.Errorf("GET %d, HEAD %d; want %d", get.status, head.status, status)
			}
			if head.body != "" || get.header.Get("X-Request-Id") == "" || get.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("HEAD has a body, or headers are missing: %v", get.header)
			}
			if status >= 400 && get.member("message") == "" {
				t.Errorf("no message: %s", get.body)
			}
		})
	}
	if got := r.call(t, nil, http.MethodOptions, "/token/"); got.status != 200 || got.header.Get("Allow") != "OPTIONS, GET, HEAD" {
		t.Errorf("OPTIONS: %d %v", got.status, got.header)
	}
	if got := r.call(t, nil, http.MethodDelete, "/token/"); got.status != 405 || got.member("message") == "" {
		t.Errorf("DELETE: %d %s", got.status, got.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/_status"); got.body != "Healthy" {
		t.Errorf("/_status says %q", got.body)
	}
	keys := r.call(t, nil, http.MethodGet, "/.well-known/jwks.json")
	if again := r.call(t, nil, http.MethodGet, "/.well-known/jwks.json", "If-None-Match", keys.header.Get("ETag")); again.status != 304 {
		t.Errorf("with its ETag: %d", again.status)
	}
	if !strings.HasPrefix(keys.header.Get("Cache-Control"), "public, max-age=") {
		t.Errorf("the keys: %v", keys.header)
	}
	page := r.call(t, nil, http.MethodGet, "/nothing", "Accept", "text/html")
	if page.status != 404 || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(page.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("a person: %d %v", page.status, page.header)
	}
}

// Security.md C1: what a person does on the page.
func TestAPersonConnectsAndDisconnects(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	// Not signed in: the second provider leads through the first one, and on to itself.
	page := r.logIn(t, browser, "/oauth2/authorization_url?idp=second&redirect=/", "alice")
	if !strings.Contains(page.URL.String(), r.second.Issuer) {
		t.Fatalf("after signing in, the browser is at %s, not at the second provider", page.URL)
	}
	page = r.logIn(t, browser, "/oauth2/authorization_url?idp=second", "alice")
	if strings.Count(page.Body, ">Disconnect<") != 2 {
		t.Fatalf("the page:\n%s", page.Body)
	}
	if got := r.worker(t, "/token/?idp=second"); got.status != 200 {
		t.Fatalf("connected: %d %s", got.status, got.body)
	}
	// Another account of the second provider: the person is asked to disconnect first.
	if page := r.logIn(t, browser, "/oauth2/authorization_url?idp=second", "bob"); page.Status != http.StatusConflict || !strings.Contains(page.Body, "Disconnect alice and connect bob") || page.URL.Path != "/failed" {
		t.Errorf("another account: %d\n%s", page.Status, page.Body)
	}
	if got := r.call(t, browser, http.MethodPost, "/oauth2/logout?idp=second", "Sec-Fetch-Site", "same-origin"); got.status != http.StatusSeeOther {
		t.Errorf("disconnecting: %d %s", got.status, got.body)
	}
	if got := r.worker(t, "/token/?idp=second"); got.status != 403 {
		t.Errorf("disconnected: %d %s", got.status, got.body)
	}
	// Without the default connection nothing is minted any more.
	if got := r.worker(t, "/token/?audience=storage"); got.status != 200 {
		t.Errorf("minting: %d", got.status)
	}
	r.call(t, browser, http.MethodPost, "/oauth2/logout?idp=first", "Sec-Fetch-Site", "same-origin")
	if got := r.worker(t, "/token/?audience=storage"); got.status != 403 {
		t.Errorf("minting without the default connection: %d %s", got.status, got.body)
	}
}

func TestAUserWhoIsDisabled(t *testing.T) {
	r := startReplica(t)
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	if got := r.worker(t, "/token/"); got.status != 200 {
		t.Fatalf("before: %d", got.status)
	}
	if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := r.worker(t, "/token/")
		if got.status == 403 && strings.Contains(got.body, "disabled") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 5 s: %d %s", got.status, got.body)
		}
	}
	if page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice"); page.Status != 403 {
		t.Errorf("a login: %d", page.Status)
	}
}

func hs256(input string, secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func TestARequestUnderWayIsFinishedAndMetricsAreApart(t *testing.T) {
	metrics := fmt.Sprintf("127.0.0.1:%d", instance.FreePort(t))
	r := startReplica(t, func(c *config.Config) { c.Server.MetricsListen = metrics })
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	r.worker(t, "/token/")
	scraped, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer scraped.Body.Close()
	if body, _ := io.ReadAll(scraped.Body); !strings.Contains(string(body), `wts_requests_total{route="/token/",status="200"} 1`) {
		t.Errorf("the metrics:\n%s", body)
	}

	user, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	connection, err := r.store.Connections.Row(t.Context(), user.ID, "first")
	if err != nil {
		t.Fatal(err)
	}
	spent := provider.Tokens{AccessToken: "run-out", IssuedAt: time.Now().Add(-time.Hour), AccessExpiresAt: time.Now().Add(-time.Minute)}
	claimed, err := r.store.Connections.Apply(t.Context(), connection, broker.Claim{Version: connection.Version, Flight: "a-flight", Replica: "another"})
	if err != nil {
		t.Fatal(err)
	}
	commit := broker.Commit{Flight: "a-flight", Version: claimed.Row.Version, Presented: claimed.Row.Digest, Tokens: spent}
	if _, err := r.store.Connections.Apply(t.Context(), claimed.Row, commit); err != nil {
		t.Fatal(err)
	}
	r.broker.Forget(user.ID, "first")
	r.first.Fail(&providertest.Fault{Times: 1, Delay: time.Second})
	answered := make(chan answer, 1)
	go func() { answered <- r.worker(t, "/token/") }()
	time.Sleep(300 * time.Millisecond)
	r.stop()
	if got := <-answered; got.status != http.StatusOK {
		t.Errorf("a request that was under way: %d %s", got.status, got.body)
	}
	if _, err := http.Get(r.url + "/healthz"); err == nil {
		t.Error("a request after that was taken")
	}
}

// Rule F2: what an answer or a log repeats of a request is cut.
func TestInputThatIsRepeatedIsCut(t *testing.T) {
	r := startReplica(t)
	long := strings.Repeat("%80", 20_000)
	for _, path := range []string{"/token/?idp=" + long, "/token/?audience=" + long, "/oauth2/connected?idp=" + long, "/oauth2/authorization_url?idp=" + long, "/failed?id=" + long, "/" + long} {
		t.Run(path, func(t *testing.T) {
			got := r.worker(t, path)
			if len(got.body) > 4096 {
				t.Errorf("%.40s...: %d bytes of answer", path, len(got.body))
			}
		})
	}
	r.service.log.Warn("a warning, which writes out what came before it")
	for line := range strings.Lines(r.log.String()) {
		if len(line) > 4096 {
			t.Errorf("%d bytes of log: %.200s", len(line), line)
		}
	}
}
