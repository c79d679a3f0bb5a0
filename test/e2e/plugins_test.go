//go:build e2e

package e2e

import (
	"archive/zip"
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
	"github.com/workspace-token-service/wts/test/instance"
)

const pluginsSecret = "a-secret-of-the-site-of-20-bytes"

// plugins is a wts with the audiences of two sites of plugins, one for each algorithm that simplejwt knows, and a person
// who maintains the plugins one and other of both.
type plugins struct {
	public  string
	browser *http.Client
	ci      *verifiertest.Issuer
}

func startPlugins(t *testing.T) *plugins {
	t.Helper()
	port := instance.FreePort(t)
	p := &plugins{public: fmt.Sprintf("http://localhost:%d", port), browser: providertest.Browser(), ci: verifiertest.Start(t)}
	provider := startProvider(t, "127.0.0.1", p.public+"/oauth2/authorize")
	site := `{profile: resource, algorithm: %s, scopes: [upload, read], secret: ` + pluginsSecret + `, api_tokens: {resource: true, jwt: true, endless: true}}`
	wts := instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
trusted_issuers: ["%s"]
providers:
  first: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences:
  plugins-RS256: %s
  plugins-ES256: %s
`, p.public, port, instance.NewKeyring(t), workersFile(t), p.ci.URL, provider.issuer, fmt.Sprintf(site, "RS256"), fmt.Sprintf(site, "ES256")))
	wts.AwaitReady(t)
	logIn(t, p.browser, p.public+"/oauth2/authorization_url", "alice")
	for _, audience := range []string{"plugins-RS256", "plugins-ES256"} {
		for _, resource := range []string{"one", "other"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.public+"/api/v1/resources/"+audience+"/"+resource, strings.NewReader(`{"name": "The plugin", "maintainers": ["alice"]}`))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			request.SetBasicAuth(audience, pluginsSecret)
			if status, said := answered(t, request); status != http.StatusOK {
				t.Fatalf("got %d %s, want the resource", status, said)
			}
		}
	}
	return p
}

func answered(t *testing.T, request *http.Request) (status int, said string) {
	t.Helper()
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

// make makes a token of a plugin, in a format.
func (p *plugins) make(t *testing.T, audience, plugin, format string) (made apiToken) {
	t.Helper()
	body := fmt.Sprintf(`{"name": "ci", "description": "of the releases", "format": %q, "scopes": ["upload"], "expires_in": 86400}`, format)
	// The first RSA key is being made while the service is ready already.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.tokens(audience, plugin), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := p.browser.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err = errors.Join(err, json.Unmarshal(text, &made)); err == nil && made.Token != "" {
			return made
		}
		if response.StatusCode != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("got %d %s, %v; want a token", response.StatusCode, text, err)
		}
	}
}

func (p *plugins) tokens(audience, plugin string) string {
	return p.public + "/api/v1/resources/" + audience + "/" + plugin + "/tokens"
}

// exchange gets a short token (RFC 8693); names and values by turns.
func (p *plugins) exchange(t *testing.T, pairs ...string) string {
	t.Helper()
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.public+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, said := answered(t, request)
	var got struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(said), &got); err != nil || got.AccessToken == "" {
		t.Fatalf("got %d %s, want a short token", status, said)
	}
	return got.AccessToken
}

func (p *plugins) trade(t *testing.T, token apiToken, pairs ...string) string {
	t.Helper()
	return p.exchange(t, append([]string{"subject_token", token.Token, "subject_token_type", "urn:ietf:params:oauth:token-type:access_token", "scope", "upload"}, pairs...)...)
}

// startDjango starts the Django site, which believes in an issuer and is an audience.
func (p *plugins) startDjango(t *testing.T, issuer, audience, algorithm string) (site string) {
	t.Helper()
	port := instance.FreePort(t)
	program := exec.Command("/usr/bin/python3", "plugin_site.py", fmt.Sprint(port), issuer, p.public, audience, pluginsSecret, algorithm)
	program.Stderr = t.Output()
	startProgram(t, program)
	return awaitSite(t, port)
}

func startProgram(t *testing.T, program *exec.Cmd) {
	t.Helper()
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Process.Kill(); _ = program.Wait() })
}

func awaitSite(t *testing.T, port int) (site string) {
	t.Helper()
	site = fmt.Sprintf("http://127.0.0.1:%d", port)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if response, err := http.Get(site); err == nil {
			_ = response.Body.Close()
			return site
		}
	}
	t.Fatal("the site does not answer for 20 s")
	return site
}

// A Django site with simplejwt as Debian ships it accepts what wts signs for a plugin, by its JWK_URL, ISSUER, AUDIENCE
// and ALGORITHM alone, and refuses everything else; what simplejwt does not look at its views compare and ask.
func TestASiteWithSimpleJWT(t *testing.T) {
	p := startPlugins(t)
	for algorithm, another := range map[string]string{"RS256": "ES256", "ES256": "RS256"} {
		t.Run(algorithm, func(t *testing.T) {
			audience := "plugins-" + algorithm
			site := p.startDjango(t, p.public, audience, algorithm)
			stranger, other := p.startDjango(t, "https://another.example.org", audience, algorithm), p.startDjango(t, p.public, "another", algorithm)
			opaque, signed := p.make(t, audience, "one", "opaque"), p.make(t, audience, "one", "jwt")
			short := p.trade(t, opaque, "expires", "300")
			brief := p.trade(t, opaque, "expires", "1")
			elsewhere := p.make(t, "plugins-"+another, "one", "jwt")
			time.Sleep(2 * time.Second) // the brief one expires
			for name, row := range map[string]struct {
				site, token string
				status      int
				says        string
			}{
				"a token that was minted for a plugin": {site, short, http.StatusOK, `"plugin_id":"one"`},
				"a plugin's token that is a JWT":       {site, signed.Token, http.StatusOK, `"user_id":"resource:one"`},
				"of another audience":                  {other, short, http.StatusUnauthorized, "token_not_valid"},
				"of another audience and algorithm":    {site, elsewhere.Token, http.StatusUnauthorized, "token_not_valid"},
				"expired":                              {site, brief, http.StatusUnauthorized, "token_not_valid"},
				"with another payload":                 {site, tampered(short), http.StatusUnauthorized, "token_not_valid"},
				"without a signature":                  {site, short[:strings.LastIndex(short, ".")+1], http.StatusUnauthorized, "token_not_valid"},
				"of another issuer":                    {stranger, short, http.StatusUnauthorized, "token_not_valid"},
				"of another issuer's key":              {site, p.ci.Mint(audience, "resource:one", map[string]any{"iss": p.public, "token_type": "access", "user_id": "x"}), http.StatusUnauthorized, "token_not_valid"},
				"opaque":                               {site, opaque.Token, http.StatusUnauthorized, "token_not_valid"},
				"none":                                 {site, "", http.StatusUnauthorized, "not_authenticated"},
			} {
				if status, said := bearing(t, http.MethodGet, row.site+"/claims/", row.token); status != row.status || row.says != "not_authenticated" && !strings.Contains(said, row.says) {
					t.Errorf("%s: got %d %s; want %d, %s", name, status, said, row.status, row.says)
				}
			}
			t.Run("its views", func(t *testing.T) {
				upload := site + "/plugins/api/one/version/add/"
				another := p.make(t, audience, "other", "jwt")
				for what, token := range map[string]string{"minted": short, "a JWT": signed.Token} {
					if status, said := bearing(t, http.MethodPost, upload, token); status != http.StatusCreated || what == "a JWT" && !strings.Contains(said, "token of the releases") {
						t.Errorf("%s: got %d %s; want 201, by the token of the releases", what, status, said)
					}
				}
				if status, said := bearing(t, http.MethodPost, upload, another.Token); status != http.StatusForbidden || !strings.Contains(said, "another plugin") {
					t.Errorf("another plugin's token: got %d %s; want 403", status, said)
				}
				change(t, p.browser, http.MethodDelete, p.tokens(audience, "one")+"/"+signed.ID, "")
				if status, said := bearing(t, http.MethodPost, upload, signed.Token); status != http.StatusForbidden || !strings.Contains(said, "it has ended") {
					t.Errorf("a token that was revoked: got %d %s; want 403", status, said)
				}
			})
		})
	}
}

// bearing sends a request with a bearer token, or without one.
func bearing(t *testing.T, method, address, token string) (status int, said string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return answered(t, request)
}

// The call of qgis-plugin-ci uploads to the example by each token that a CI job may have: a plugin's, opaque or a JWT,
// and one that the job gets for its own, where a maintainer has named it; and fails with exit code 2 by any other.
func TestACIJobUploadsToTheExample(t *testing.T) {
	p := startPlugins(t)
	folder := t.TempDir()
	binary, secret := filepath.Join(folder, "plugins"), filepath.Join(folder, "secret")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../examples/plugins").CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, output)
	}
	if err := os.WriteFile(secret, []byte(pluginsSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const audience = "plugins-ES256"
	port := instance.FreePort(t)
	program := exec.Command(binary, "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--wts", p.public, "--audience", audience, "--secret-file", secret, "--plugin", "one=alice", "--plugin", "other=alice")
	log, err := program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	startProgram(t, program)
	site := awaitSite(t, port)
	lines := bufio.NewScanner(log)
	for registered := 0; registered < 2 && lines.Scan(); {
		if strings.Contains(lines.Text(), "a plugin is registered at wts") {
			registered++
		}
	}
	go func() { _, _ = io.Copy(io.Discard, log) }()

	const subject = "repo:octo/one:ref:refs/tags/v1"
	change(t, p.browser, http.MethodPost, p.public+"/api/v1/resources/"+audience+"/one/publishers",
		fmt.Sprintf(`{"name": "releases", "issuer": %q, "subject": %q, "scopes": ["upload"]}`, p.ci.URL, subject))
	job := p.ci.Sign(map[string]any{"alg": "ES256", "typ": "JWT", "kid": "verifiertest"}, map[string]any{
		"iss": p.ci.URL, "aud": p.public, "sub": subject, "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	opaque, revoked := p.make(t, audience, "one", "opaque"), p.make(t, audience, "one", "opaque")
	change(t, p.browser, http.MethodDelete, p.tokens(audience, "one")+"/"+revoked.ID, "")
	for i, row := range []struct {
		what, token string
		size        int // of the plugin; of a large one the answer comes while it is being sent
		good        bool
		says        string
	}{
		{"an opaque token", opaque.Token, 12 << 20, true, "token of the releases"},
		{"a JWT", p.make(t, audience, "one", "jwt").Token, 0, true, "token of the releases"},
		{"a trusted publisher's", p.exchange(t, "subject_token", job, "subject_token_type", "urn:ietf:params:oauth:token-type:id_token", "audience", audience, "resource", "one"), 0, true, "trusted publisher"},
		{"another plugin's", p.make(t, audience, "other", "opaque").Token, 0, false, "403"},
		{"one that was revoked", revoked.Token, 12 << 20, false, "403"},
		{"nonsense", "invalid_token", 12 << 20, false, "403"},
	} {
		t.Run(row.what, func(t *testing.T) {
			archive := pluginArchive(t, fmt.Sprintf("1.%d", i), row.size)
			upload := exec.CommandContext(t.Context(), "/usr/bin/python3", "plugin_upload.py", site, "one", archive)
			upload.Stdin = strings.NewReader(row.token)
			output, err := upload.CombinedOutput()
			said := string(output)
			var failed *exec.ExitError
			if row.good && (err != nil || !strings.HasPrefix(said, "201 ")) || !row.good && (!errors.As(err, &failed) || failed.ExitCode() != 2) || !strings.Contains(said, row.says) {
				t.Errorf("got %v, %s; want it to succeed: %t, %s", err, said, row.good, row.says)
			}
		})
	}
}

// pluginArchive is the zip of a version of the plugin one, at least so large.
func pluginArchive(t *testing.T, version string, size int) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "one."+version+".zip")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	entry, err := archive.Create("one/metadata.txt")
	if err == nil {
		_, err = entry.Write([]byte("[general]\nname=One\nversion=" + version + "\nqgisMinimumVersion=3.0\n"))
	}
	if err == nil && size > 0 {
		if entry, err = archive.Create("one/data.bin"); err == nil {
			_, err = io.CopyN(entry, rand.Reader, int64(size))
		}
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}
