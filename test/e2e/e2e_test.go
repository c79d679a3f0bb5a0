//go:build e2e

// Package e2e logs in at a certified OpenID provider that is not ours, through its own pages, and
// lets a client that is not ours verify our tokens.
package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) {
	if err := os.Setenv("GOFIPS140", "v1.0.0"); err != nil { // the binary of `make build FIPS=1`
		panic(err)
	}
	os.Exit(instance.Main(m))
}

// accessLife is that of the provider's access tokens, in seconds: short, so that they run out here.
const accessLife = 3

func TestTheMainJobWithAProviderAndAClientThatAreNotOurs(t *testing.T) {
	port := instance.FreePort(t)
	public := fmt.Sprintf("http://localhost:%d", port)
	first := startProvider(t, "127.0.0.1", public+"/oauth2/authorize")
	second := startProvider(t, "127.0.0.3", public+"/oauth2/authorize/second")
	wts := instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
default_provider: first
providers:
  first: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
  second: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences: {npm: {}}
`, public, port, instance.NewKeyring(t), workersFile(t), first.issuer, second.issuer))
	wts.AwaitReady(t)

	browser := providertest.Browser()
	if page := logIn(t, browser, public+"/oauth2/authorization_url", "alice"); !strings.Contains(page, `<span class="name">alice</span>`) {
		t.Fatalf("after the login the page says:\n%s", page)
	}
	if page := logIn(t, browser, public+"/oauth2/authorization_url?idp=second", "alice-at-second"); strings.Count(page, ">Disconnect<") != 2 {
		t.Fatalf("after the link the page says:\n%s", page)
	}

	worker := instance.Worker()
	for _, idp := range []string{"default", "second"} {
		survivesRotations(t, wts, worker, idp)
	}
	for name, provider := range map[string]*nodeProvider{"first": first, "second": second} {
		t.Run(name, func(t *testing.T) {
			if refreshes := provider.count("grant.success refresh_token"); refreshes < 3 {
				t.Errorf("%d refreshes succeeded, want at least 3", refreshes)
			}
			if provider.count("grant.error")+provider.count("grant.revoked") > 0 {
				t.Errorf("a grant was refused or revoked:\n%s", provider.text())
			}
		})
	}

	minted := wts.Token(t, worker, "?audience=npm&expires=4")
	if minted.Status != http.StatusOK || minted.ExpiresIn != 4 {
		t.Fatalf("minting: %d %s, for %d s", minted.Status, minted.Message, minted.ExpiresIn)
	}
	claims, err := verifyInNode(public, minted.Token)
	if err != nil || !strings.Contains(claims, `"preferred_username":"alice"`) {
		t.Fatalf("jose and jsonwebtoken: %v\n%s", err, claims)
	}
	t.Logf("jose and jsonwebtoken verified it: %s", claims)
	time.Sleep(4 * time.Second)
	if said, err := verifyInNode(public, minted.Token); err == nil || !strings.Contains(said, "ERR_JWT_EXPIRED") {
		t.Errorf("after exp: got %v, %s; want a refusal", err, said)
	}
}

// survivesRotations lets the access token run out three times.
func survivesRotations(t *testing.T, wts *instance.Instance, worker *http.Client, idp string) {
	t.Helper()
	seen := map[string]bool{}
	for range 4 {
		answer := wts.Token(t, worker, "?expires=600&idp="+idp)
		if answer.Status != http.StatusOK || answer.Token == "" {
			t.Fatalf("%s after %d tokens: %d %s", idp, len(seen), answer.Status, answer.Message)
		}
		if seen[answer.Token] {
			t.Fatalf("%s: a token that had run out was handed out again", idp)
		}
		seen[answer.Token] = true
		time.Sleep(accessLife * time.Second)
	}
	t.Logf("%s: %d access tokens, one after the other", idp, len(seen))
}

func workersFile(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/workers.yaml"
	if err := os.WriteFile(path, []byte(instance.WorkerAddress+": alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nodeProvider is a running node oidc-provider.
type nodeProvider struct {
	issuer string
	mu     sync.Mutex
	lines  []string
}

func startProvider(t *testing.T, host, callback string) *nodeProvider {
	t.Helper()
	port := instance.FreePort(t)
	return startNode(t, fmt.Sprintf("http://%s:%d", host, port), host, strconv.Itoa(port), callback, strconv.Itoa(accessLife))
}

// startNode starts it with the arguments of op.mjs.
func startNode(t *testing.T, issuer string, arguments ...string) *nodeProvider {
	t.Helper()
	p := &nodeProvider{issuer: issuer}
	command := exec.Command("node", append([]string{"provider/op.mjs"}, arguments...)...)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	listening := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
			if strings.HasPrefix(lines.Text(), "listening") {
				close(listening)
			}
		}
	}()
	select {
	case <-listening:
	case <-time.After(20 * time.Second):
		t.Fatal("node oidc-provider did not start within 20 s")
	}
	return p
}

func (p *nodeProvider) count(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (p *nodeProvider) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// logIn opens an address and fills in the provider's forms, one after the other, until it is back.
func logIn(t *testing.T, browser *http.Client, address, name string) string {
	t.Helper()
	response, err := browser.Get(address)
	for range 5 {
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		action, fields := formOf(t, string(page))
		if response.StatusCode != http.StatusOK || !strings.Contains(action, "/interaction/") {
			return string(page)
		}
		if fields.Get("prompt") == "login" {
			fields.Set("login", name)
			fields.Set("password", "any")
		}
		target, err := response.Request.URL.Parse(action)
		if err != nil {
			t.Fatal(err)
		}
		response, err = browser.PostForm(target.String(), fields)
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("five forms, and no way back")
	return ""
}

// formOf finds a page's form: where it goes, and its hidden fields.
func formOf(t *testing.T, page string) (action string, fields url.Values) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	fields = url.Values{}
	for node := range root.Descendants() {
		attributes := map[string]string{}
		for _, attribute := range node.Attr {
			attributes[attribute.Key] = attribute.Val
		}
		switch node.Data {
		case "form":
			action = attributes["action"]
		case "input":
			if attributes["type"] == "hidden" {
				fields.Set(attributes["name"], attributes["value"])
			}
		}
	}
	return action, fields
}

func verifyInNode(issuer, token string) (said string, err error) {
	command := exec.Command("node", "provider/verify.mjs", issuer, "npm")
	command.Stdin = strings.NewReader(token)
	output, err := command.CombinedOutput()
	return strings.TrimSpace(string(output)), err
}
