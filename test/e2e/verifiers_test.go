//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

// foreign is a program of docs/verifying, which verifies with a library that is not ours.
type foreign struct {
	command []string
	// lists: it reads status lists, and so may be given API tokens.
	lists bool
	// algorithms that it knows beside ES256.
	rs256 bool
}

// copied puts a program of docs/verifying where it finds the libraries of node.
func copied(t *testing.T, name, folder string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "verifying", name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "docs-"+name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	return path
}

// Tokens of wts are verified by the programs that docs/verifying.md shows, with libraries that are not ours: good ones
// are accepted, all others refused, and one that was revoked within a minute.
func TestProgramsThatAreNotOursVerify(t *testing.T) {
	docs := filepath.Join("..", "..", "docs", "verifying")
	programs := map[string]foreign{
		"PyJWT":   {command: []string{"/usr/bin/python3", filepath.Join(docs, "verify_pyjwt.py")}, lists: true, rs256: true},
		"Authlib": {command: []string{"/usr/bin/python3", filepath.Join(docs, "verify_authlib.py")}, rs256: true},
		"jose":    {command: []string{"node", copied(t, "verify.mjs", "provider")}, lists: true, rs256: true},
		"the JDK": {command: []string{"java", "-cp", "/usr/share/java/jackson-databind.jar:/usr/share/java/jackson-core.jar:/usr/share/java/jackson-annotations.jar", filepath.Join(docs, "Verify.java")}},
	}
	port := instance.FreePort(t)
	public := fmt.Sprintf("http://localhost:%d", port)
	provider := startProvider(t, "127.0.0.1", public+"/oauth2/authorize")
	wts := instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
providers:
  first: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences:
  service: {scopes: [read], api_tokens: {personal: true, jwt: true, max_lifetime: 8760h}}
  rsa: {algorithm: RS256}
  other: {}
`, public, port, instance.NewKeyring(t), workersFile(t), provider.issuer))
	wts.AwaitReady(t)
	browser, worker := providertest.Browser(), instance.Worker()
	logIn(t, browser, public+"/oauth2/authorization_url", "alice")

	mint := func(query string) string {
		t.Helper()
		got := wts.Token(t, worker, query)
		for deadline := time.Now().Add(time.Minute); got.Status == http.StatusServiceUnavailable && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			got = wts.Token(t, worker, query) // the first RSA key is being made
		}
		if got.Status != http.StatusOK {
			t.Fatalf("%s: got %d %s", query, got.Status, got.Message)
		}
		return got.Token
	}
	good := mint("?audience=service&scope=read&expires=300")
	short := mint("?audience=service&expires=1")
	lasting := makeAPIToken(t, browser, public)
	revoked := makeAPIToken(t, browser, public)
	change(t, browser, http.MethodDelete, public+"/api/v1/tokens/"+revoked.ID, "")
	time.Sleep(2 * time.Second) // the short one expires, and the list is made anew

	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			verify := func(audience, token string) (string, error) {
				t.Helper()
				command := exec.CommandContext(t.Context(), program.command[0], append(program.command[1:], public, audience)...)
				command.Stdin = strings.NewReader(token)
				output, err := command.CombinedOutput()
				return string(output), err
			}
			for what, row := range map[string]struct {
				audience, token string
				accepted        bool
			}{
				"a minted token":              {"service", good, true},
				"one by RS256":                {"rsa", mint("?audience=rsa"), program.rs256},
				"an API token":                {"service", lasting.Token, program.lists},
				"one that was revoked":        {"service", revoked.Token, false},
				"one for another audience":    {"other", good, false},
				"one that has expired":        {"service", short, false},
				"one with another payload":    {"service", tampered(good), false},
				"one without a signature":     {"service", good[:strings.LastIndex(good, ".")+1], false},
				"one of another issuer's key": {"service", "eyJhbGciOiJFUzI1NiIsImtpZCI6Im5vbmUiLCJ0eXAiOiJhdCtqd3QifQ" + good[strings.Index(good, "."):], false},
			} {
				said, err := verify(row.audience, row.token)
				if (err == nil) != row.accepted {
					t.Errorf("%s: got %v, %s; want it accepted: %t", what, err, said, row.accepted)
				}
				if err == nil && !strings.Contains(said, "alice") {
					t.Errorf("%s: got %s; want alice's claims", what, said)
				}
			}
		})
	}
}

// tampered is a token whose payload was changed.
func tampered(token string) string {
	parts := strings.Split(token, ".")
	parts[1] = "eyJpc3MiOiJ4In0"
	return strings.Join(parts, ".")
}

type apiToken struct{ ID, Token string }

func makeAPIToken(t *testing.T, browser *http.Client, public string) (made apiToken) {
	t.Helper()
	body := change(t, browser, http.MethodPost, public+"/api/v1/tokens", `{"audience": "service", "name": "ci", "format": "jwt", "scopes": ["read"], "expires_in": 2592000}`)
	if err := json.Unmarshal(body, &made); err != nil || made.Token == "" {
		t.Fatalf("got %s, %v; want an API token", body, err)
	}
	return made
}

// change sends JSON as a page of wts does.
func change(t *testing.T, browser *http.Client, method, address, body string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := browser.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		t.Fatalf("%s %s: got %d %s, %v", method, address, response.StatusCode, text, err)
	}
	return text
}
