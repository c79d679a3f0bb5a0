package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) { os.Exit(instance.Main(m)) }

// machine is a wts, a provider and a resource service on one machine, with a worker of alice's at 127.0.0.2.
type machine struct {
	wts      *instance.Instance
	public   string
	resource string
}

func startMachine(t *testing.T) *machine {
	t.Helper()
	folder, port := t.TempDir(), instance.FreePort(t)
	m := &machine{public: fmt.Sprintf("http://localhost:%d", port)}
	provider, err := providertest.Start(providertest.Options{Users: []providertest.User{{Name: "alice", Password: "a"}, {Name: "bob", Password: "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: m.public + "/oauth2/authorize"})
	workers := filepath.Join(folder, "workers.yaml")
	if err := os.WriteFile(workers, []byte(instance.WorkerAddress+": alice\n127.0.0.1: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.wts = instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:%s"}
keyring_file: %s
workers_file: %s
default_audience: data
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username}
audiences:
  data: {scopes: [read]}
  other: {}
  wts: {scopes: [token], api_tokens: {personal: true}}
`, m.public, port, filepath.Join(folder, "wts.db"), instance.NewKeyring(t), workers, provider.Issuer))
	m.wts.AwaitReady(t)
	tokens, err := verifier.New(t.Context(), m.public, "data")
	if err != nil {
		t.Fatal(err)
	}
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verifier.FromContext(r.Context())
		fmt.Fprintf(w, "hello %s, %s, by %s", claims.Username, strings.Join(claims.Scopes, " "), claims.ID)
	})
	resource := httptest.NewServer(tokens.Middleware(greet))
	t.Cleanup(resource.Close)
	m.resource = resource.URL
	return m
}

func (m *machine) logIn(t *testing.T, name string) *http.Client {
	t.Helper()
	browser := providertest.Browser()
	page, err := providertest.LogIn(t.Context(), browser, m.public+"/oauth2/authorization_url", name, name[:1])
	if err != nil || page.Status != http.StatusOK {
		t.Fatalf("logging in: %d, %v", page.Status, err)
	}
	return browser
}

// notebook is one with these flags, that calls from the worker's address.
func (m *machine) notebook(t *testing.T, args ...string) *notebook {
	t.Helper()
	book, _, err := newNotebook(append(args, m.resource))
	if err != nil {
		t.Fatal(err)
	}
	book.wts.HTTP = instance.Worker()
	return book
}

// A notebook beside the sidecar reads a file, and goes on while one token after the other ends; before its person has
// logged in it says what to do.
func TestANotebookBesideTheSidecar(t *testing.T) {
	m := startMachine(t)
	file := filepath.Join(t.TempDir(), "token")
	sidecar := exec.Command(instance.Binary(t), "token", "--watch", "--url", "http://"+m.wts.Address, "--audience", "data", "--scope", "read", "--expires", "2s", "--out", file)
	sidecar.Stderr = t.Output()
	if err := sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sidecar.Process.Kill(); _ = sidecar.Wait() })
	t.Setenv("BEARER_TOKEN_FILE", file)
	book := m.notebook(t)
	if _, err := book.read(t.Context()); err == nil || !strings.Contains(err.Error(), "has its person logged in") {
		t.Errorf("before the login: got %v; want what to do", err)
	}
	m.logIn(t, "alice")
	seen := map[string]bool{}
	for began := time.Now(); len(seen) < 4; time.Sleep(50 * time.Millisecond) {
		said, err := book.read(t.Context())
		switch {
		case err != nil && len(seen) > 0:
			t.Fatalf("after %d tokens: %v", len(seen), err)
		case err == nil && !strings.HasPrefix(said, "hello alice, read, by "):
			t.Fatalf("got %s, want alice greeted", said)
		case err == nil:
			seen[said] = true
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%d tokens were seen in 20 s, want one after the other; at the end %s, %v", len(seen), said, err)
		}
	}
}

// Without a sidecar the notebook asks wts itself, and its address proves whose it is.
func TestANotebookAlone(t *testing.T) {
	m := startMachine(t)
	book := m.notebook(t, "--wts", "http://"+m.wts.Address, "--scope", "read", "--audience", "data")
	if _, err := book.read(t.Context()); err == nil || !strings.Contains(err.Error(), "log in at wts in a browser") {
		t.Errorf("before the login: got %v; want what to do", err)
	}
	m.logIn(t, "alice")
	if said, err := book.read(t.Context()); err != nil || !strings.HasPrefix(said, "hello alice, read, by ") {
		t.Errorf("got %s, %v; want alice greeted", said, err)
	}
	other := m.notebook(t, "--wts", "http://"+m.wts.Address, "--audience", "other")
	if _, err := other.read(t.Context()); err == nil || !strings.Contains(err.Error(), "the resource service answered 401") {
		t.Errorf("with another service's token: got %v; want 401", err)
	}
}

// The program ends with an error where there is no way to a token; with one it prints the answer, once.
func TestTheProgram(t *testing.T) {
	m := startMachine(t)
	t.Setenv("BEARER_TOKEN_FILE", "")
	t.Setenv("WTS_URL", "")
	for name, args := range map[string][]string{"no URL": {"--wts", m.public}, "no way to a token": {m.resource}, "a proof that is not there": {"--wts", m.public, "--proof-file", "none", m.resource}} {
		if err := run(t.Context(), t.Output(), args); err == nil {
			t.Errorf("%s: it runs", name)
		}
	}
	m.logIn(t, "alice")
	file := filepath.Join(t.TempDir(), "token")
	get := exec.Command(instance.Binary(t), "token", "--url", "http://"+m.wts.Address, "--out", file)
	if output, err := get.CombinedOutput(); err != nil {
		t.Fatalf("wts token: %v\n%s", err, output)
	}
	proof := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(proof, []byte(m.apiToken(t, m.logIn(t, "bob"))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The address is a worker of alice's: an API token says that it is bob who asks.
	for name, args := range map[string][]string{"alice": {"--token-file", file, m.resource}, "bob": {"--wts", m.public, "--proof-file", proof, m.resource}} {
		var out strings.Builder
		if err := run(t.Context(), &out, args); err != nil || !strings.HasPrefix(out.String(), "hello "+name) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("got %v, %s; want %s greeted once", err, out.String(), name)
		}
	}
	t.Run("again and again", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var out strings.Builder
		if err := run(ctx, &out, []string{"--token-file", file, "--every", "100ms", m.resource}); err != nil || strings.Count(out.String(), "hello alice") < 3 {
			t.Errorf("got %v, %s; want alice greeted again and again", err, out.String())
		}
	})
}

// apiToken makes a token of the browser's person with which a program that is no worker asks wts.
func (m *machine) apiToken(t *testing.T, browser *http.Client) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.public+"/api/v1/tokens", strings.NewReader(`{"audience": "wts", "name": "laptop", "scopes": ["token"]}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := browser.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var made struct{ Token string }
	if err := json.NewDecoder(response.Body).Decode(&made); err != nil || made.Token == "" {
		t.Fatalf("got %d, %v; want a token", response.StatusCode, err)
	}
	return made.Token
}
