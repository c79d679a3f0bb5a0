//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

const stockSecret = "the-secret-of-a-stock-PEPhub-of-our-test"

// hub is wts that serves an audience at /auth, and examples/pephub before it, as one host.
type hub struct {
	*instance.Instance
	public, base string // of wts, and of the one host
	provider     *nodeProvider
}

// startHub starts both. The origin is of the site whose scripts may call /auth.
func startHub(t *testing.T, origin string) *hub {
	t.Helper()
	port := instance.FreePort(t)
	h := &hub{public: fmt.Sprintf("http://localhost:%d", port)}
	h.provider = startProvider(t, "127.0.0.1", h.public+"/oauth2/authorize")
	h.Instance = instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
providers:
  first: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences:
  hub: {profile: pephub, algorithm: ES256, api_tokens: {personal: true, jwt: true, max_lifetime: 720h}}
  stock: {profile: pephub, signing_secret: %s}
auth: {audience: hub, redirect_uris: ["%[7]s/callback", "http://127.0.0.1/callback"], origins: ["%[7]s"]}
`, h.public, port, instance.NewKeyring(t), workersFile(t), h.provider.issuer, stockSecret, origin))
	h.AwaitReady(t)
	example := instance.FreePort(t)
	h.base = fmt.Sprintf("http://127.0.0.1:%d/", example)
	runExample(t, "pephub", h.base, "--listen", fmt.Sprintf("127.0.0.1:%d", example), "--wts", h.public, "--audience", "hub", "--forward-auth", h.public)
	return h
}

// runExample builds and runs a program of examples until the test ends, and waits until it answers.
func runExample(t *testing.T, name, address string, arguments ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	if said, err := exec.Command("go", "build", "-o", program, "../../examples/"+name).CombinedOutput(); err != nil {
		t.Fatalf("building examples/%s: %v\n%s", name, err, said)
	}
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr = t.Output(), t.Output()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := http.Get(address)
		if err == nil {
			_ = response.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("examples/%s does not answer: %v", name, err)
		}
	}
}

// script is a program that says lines of JSON.
type script struct {
	t     *testing.T
	lines *bufio.Scanner
	input io.WriteCloser
	wait  func() error
}

func startScript(t *testing.T, name string, arguments ...string) *script {
	t.Helper()
	command := exec.Command("/usr/bin/python3", append([]string{name}, arguments...)...)
	command.Stderr = t.Output()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	return &script{t: t, lines: bufio.NewScanner(output), input: input, wait: command.Wait}
}

// says reads the next line.
func (s *script) says(into any) {
	s.t.Helper()
	if !s.lines.Scan() {
		s.t.Fatalf("the script has ended: %v", s.wait())
	}
	if err := json.Unmarshal(s.lines.Bytes(), into); err != nil {
		s.t.Fatalf("%s: %v", s.lines.Text(), err)
	}
}

// PEPHubClient's calls log in with a device code, and use a private project of examples/pephub, all at one host.
func TestPEPHubClient(t *testing.T) {
	t.Parallel()
	h := startHub(t, "http://127.0.0.1:9")
	client := startScript(t, "pephub_client.py", h.base)
	var said struct {
		AuthURL string `json:"auth_url"`
		Waiting string
		Token   string
	}
	client.says(&said)
	for range 3 {
		client.says(&said)
		if said.Waiting != "User didn't log in" {
			t.Fatalf("while it waits it is told %q", said.Waiting)
		}
	}
	alice := startBrowser(t).person(t, "alice", way{})
	alice.open(said.AuthURL)
	alice.signInAs("alice")
	alice.reads("hub", "127.0.0.1")
	alice.press("Allow")
	alice.at("Allowed")
	_, _ = io.WriteString(client.input, "\n")
	client.says(&said)
	var used struct {
		Statuses      map[string]int
		Raw           map[string]any
		Found, Public int
	}
	client.says(&used)
	if diff := cmp.Diff(map[string]int{
		"push": 202, "push again": 409, "push over it": 202, "push to another's": 403, "push without a login": 401,
		"pull": 200, "pull without a login": 404, "pull what is not there": 404, "search": 200, "session": 200,
	}, used.Statuses); diff != "" {
		t.Errorf("the statuses (-want +got):\n%s", diff)
	}
	if used.Found != 1 || used.Public != 0 || used.Raw["config"] == nil || used.Raw["samples"] == nil {
		t.Errorf("found %d, without a login %d; the project: %v", used.Found, used.Public, used.Raw)
	}
	alice.open(h.public + "/sessions")
	alice.reads("hub")
	alice.calm()
}

// A token of a stock PEPhub's audience is accepted by PEPhub's own decode call, and by no other secret.
func TestPEPhubDecodes(t *testing.T) {
	t.Parallel()
	h := startHub(t, "http://127.0.0.1:9")
	decode := func(token, secret string) (claims map[string]any, err error) {
		command := exec.Command("/usr/bin/python3", "pephub_decode.py", secret)
		command.Stdin = strings.NewReader(token)
		output, err := command.Output()
		if err == nil {
			err = json.Unmarshal(output, &claims)
		}
		return claims, err
	}
	logIn(t, providertest.Browser(), h.public+"/oauth2/authorization_url", "alice")
	token := h.Token(t, instance.Worker(), "?audience=stock&expires=2")
	claims, err := decode(token.Token, stockSecret)
	if err != nil {
		t.Fatalf("PyJWT refuses it: %v", err)
	}
	for _, member := range []string{"login", "id", "name", "orgs", "exp", "iat", "jti"} {
		if claims[member] == nil {
			t.Errorf("%s is missing in %v", member, claims)
		}
	}
	if _, is := claims["orgs"].([]any); claims["login"] != "alice" || !is || claims["aud"] != nil || claims["nbf"] != nil {
		t.Errorf("the claims are %v", claims)
	}
	if _, err := decode(token.Token, stockSecret+"x"); err == nil {
		t.Error("another secret verifies it")
	}
	time.Sleep(2100 * time.Millisecond)
	if _, err := decode(token.Token, stockSecret); err == nil {
		t.Error("it is accepted after its end")
	}
	other := h.Token(t, instance.Worker(), "?audience=hub")
	if _, err := decode(other.Token, stockSecret); err == nil {
		t.Error("a token of another audience is accepted")
	}
}

// reactPage is an application of another origin, with React itself and the hook of docs/clients.
const reactPage = `<!doctype html><html lang="en"><title>An application</title>
<script src="/react.js"></script><script src="/react-dom.js"></script>
<script type="importmap">{"imports": {"react": "/react.mjs"}}</script>
<div id="root"></div>
<script type="module">
import { createElement as make } from 'react';
import { usePEPhubLogin } from '/pephub_login.js';
const hub = '%s', here = location.origin + '/callback';
function App() {
  const { token, error, logIn, logOut } = usePEPhubLogin(hub, here);
  const claims = token && JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
  return make('main', null,
    make('h1', null, 'An application'),
    make('p', null, error ? 'refused: ' + error : token ? 'logged in as ' + claims.login : 'not logged in'),
    token ? make('button', { onClick: logOut }, 'Log out') : make('button', { onClick: logIn }, 'Log in'));
}
ReactDOM.createRoot(document.getElementById('root')).render(make(App));
</script></html>`

// The documentation's React flow works from another origin: a code in the address, traded for a token by a script, and
// a logout that ends it. A site that is not registered reads no answer.
func TestReactLogsInAtAuth(t *testing.T) {
	t.Parallel()
	var address string
	serve := func(listener net.Listener, hubURL string) {
		modules := http.FileServer(http.Dir("provider/node_modules"))
		mux := http.NewServeMux()
		for path, file := range map[string]string{"/react.js": "/react/umd/react.production.min.js", "/react-dom.js": "/react-dom/umd/react-dom.production.min.js"} {
			mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { r.URL.Path = file; modules.ServeHTTP(w, r) })
		}
		mux.HandleFunc("/react.mjs", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = io.WriteString(w, "export const { useState, useEffect, useCallback, createElement } = window.React;")
		})
		mux.HandleFunc("/pephub_login.js", func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, "../../docs/clients/pephub_login.js")
		})
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = fmt.Fprintf(w, reactPage, hubURL)
		})
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	for _, file := range []string{"react/umd/react.production.min.js", "react-dom/umd/react-dom.production.min.js"} {
		if _, err := os.Stat(filepath.Join("provider/node_modules", file)); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = "http://" + listener.Addr().String()
	h := startHub(t, address)
	serve(listener, h.public)
	alice := startBrowser(t).person(t, "alice", way{})
	alice.open(address + "/")
	alice.do("until", with{"text": "not logged in"}, nil)
	alice.press("Log in")
	alice.signInAs("alice")
	alice.do("until", with{"text": "logged in as alice"}, nil)
	if shown := alice.page(); strings.Contains(shown.URL, "code=") {
		t.Errorf("the code stays in the address: %s", shown.URL)
	}
	posts := alice.requested("/auth/token")
	if !slices.Contains(posts, h.public+"/auth/token") {
		t.Errorf("no token was asked for at %s: %v", h.public, posts)
	}
	alice.do("tap", with{"role": "button", "name": "Log out"}, nil)
	alice.do("until", with{"text": "not logged in"}, nil)

	// The same application at an address that is not registered as an origin: its code is for it, and its script reads
	// nothing.
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(other, h.public)
	alice.open("http://" + other.Addr().String() + "/callback?code=anything")
	alice.do("until", with{"text": "refused: Failed to fetch"}, nil)
}
