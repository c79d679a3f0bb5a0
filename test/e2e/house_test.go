//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/workspace-token-service/wts/test/instance"
)

// The names of the two providers, and the secret of the audience "service".
const (
	university    = "Example University"
	commons       = "Example Data Commons"
	longName      = "InstituteForVeryLongNamesThatHaveNoBlankInThemAnywhereAtAll1" // 60 characters
	serviceSecret = "a-secret-of-the-service-of-20-bytes"
)

// house is wts with everything that its pages show: two providers behind fronts, and some that fail.
type house struct {
	*instance.Instance
	public        string // as browsers reach it
	database      string // its SQLite file
	first, second *front
}

// plan is what a house has beside the usual.
type plan struct {
	behind func(t *testing.T, port int) (public string) // a proxy before it; none where it is nil
	more   string                                       // configuration
}

// newHouse starts it, and the providers.
func newHouse(t *testing.T, plan plan) *house {
	t.Helper()
	port := instance.FreePort(t)
	public := fmt.Sprintf("http://localhost:%d", port)
	if plan.behind != nil {
		public = plan.behind(t, port)
	}
	dark := newFront(t, "127.0.0.6", "")
	dark.answer("503")
	h := &house{public: public, database: filepath.Join(t.TempDir(), "wts.db"), first: newFront(t, "127.0.0.1", public), second: newFront(t, "127.0.0.3", public)}
	h.Instance = instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:%s"}
keyring_file: %s
workers_file: %s
default_provider: first
admins: [root]
page: {title: Example Commons, support_url: "https://help.example.org/wts"}
providers:
  first: {name: %s, issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
  second: {name: %s, issuer: "%[9]s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
  wrong: {name: Example Archive, issuer: "%[9]s", client_id: wts, client_secret: another, username_claim: preferred_username}
  fleeting: {name: Example Library, issuer: "%[9]s", client_id: fleeting, client_secret: end-to-end, username_claim: preferred_username}
  long: {name: %[10]s, issuer: "%[9]s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
  museum: {name: Example Museum, issuer: "%[9]s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username}
  dark: {name: Example Observatory, issuer: "%[11]s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username}
audiences:
  service: {scopes: [read, write], secret: %[12]s, api_tokens: {personal: true, resource: true, max_lifetime: 8760h}}
  another-service-with-a-long-name: {api_tokens: {personal: true, jwt: true, max_lifetime: 8760h}}
%[13]s`, public, port, h.database, instance.NewKeyring(t), workersFile(t), university, h.first.issuer, commons, h.second.issuer, longName, dark.issuer, serviceSecret, plan.more))
	h.AwaitReady(t)
	return h
}

// callbacks are the redirect URIs that the providers know: all but that of the museum.
func callbacks(public string) string {
	all := []string{public + "/oauth2/authorize"}
	for _, id := range []string{"second", "wrong", "fleeting", "long"} {
		all = append(all, public+"/oauth2/authorize/"+id)
	}
	return strings.Join(all, ",")
}

// front stands before a provider: it counts what comes, and can be out of order.
type front struct {
	issuer string
	mu     sync.Mutex
	mode   string // "", or how it fails: "gone" closes connections, "503" answers that
	only   string // what of it fails; everything where it is empty
	seen   []string
}

// newFront starts one, and node oidc-provider behind it where wts has an address.
func newFront(t *testing.T, host, public string) *front {
	t.Helper()
	listener, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{issuer: "http://" + listener.Addr().String()}
	target := &url.URL{Scheme: "http", Host: listener.Addr().String()}
	if public != "" {
		port := strconv.Itoa(instance.FreePort(t))
		target.Host = "127.0.0.1:" + port
		startNode(t, f.issuer, "127.0.0.1", port, callbacks(public), "900", f.issuer)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch f.meets(r) {
		case "gone":
			connection, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = connection.Close()
			}
		case "503":
			http.Error(w, "out of order", http.StatusServiceUnavailable)
		default:
			proxy.ServeHTTP(w, r)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return f
}

// meets counts a request, and says how it fails.
func (f *front) meets(r *http.Request) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, r.Method+" "+r.URL.Path)
	if !strings.HasPrefix(r.URL.Path, f.only) {
		return ""
	}
	return f.mode
}

// answer has the front fail from now on, or not any more: what begins with the paths.
func (f *front) answer(mode string, only ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode, f.only = mode, strings.Join(only, "")
}

// requests is how many came so far.
func (f *front) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

// use asks about an API token, with the token itself, and returns the status.
func (h *house) use(t *testing.T, token string) int {
	t.Helper()
	status, _ := h.call(t, http.MethodGet, "/api/v1/tokens/self", "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
	return status
}

// call is a program's request.
func (h *house) call(t *testing.T, method, path, body string, with func(*http.Request)) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.Address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	with(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// resource is put in by the service that has it.
func (h *house) resource(t *testing.T, id, name string, maintainers ...string) {
	t.Helper()
	body := fmt.Sprintf(`{"name": %q, "maintainers": ["%s"]}`, name, strings.Join(maintainers, `", "`))
	status, answer := h.call(t, http.MethodPut, "/api/v1/resources/service/"+id, body, func(r *http.Request) {
		r.SetBasicAuth("service", serviceSecret)
		r.Header.Set("Content-Type", "application/json")
	})
	if status >= 300 {
		t.Fatalf("putting in the resource %s: %d %s", id, status, answer)
	}
}

// post is a form that a program sends.
func (h *house) post(t *testing.T, path string, form url.Values) (status int, answer string) {
	t.Helper()
	return h.call(t, http.MethodPost, path, form.Encode(), func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") })
}

// signIn has a person sign in, from the first page.
func (h *house) signIn(p *person, as string) {
	p.t.Helper()
	p.open(h.public + "/")
	p.at("Sign in")
	p.follow("Continue with " + university)
	p.signInAs(as)
	p.at("Connections")
}

// screenshots is the folder that pictures of the pages go to, from the top of the repository; where none is named, none
// are taken.
func screenshots(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("WTS_SCREENSHOTS")
	if folder == "" {
		return ""
	}
	if !filepath.IsAbs(folder) {
		folder = filepath.Join("..", "..", folder)
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	return folder
}
