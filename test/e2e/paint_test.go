//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

// credentials are dsCredentials: dataset, route, embedder.
type credentials map[string]map[string]map[string]map[string]any

// startPaint starts paint.mjs with what wts says that its configuration has to be.
func startPaint(t *testing.T, port int, known credentials, processor ...string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"dsCredentials": known, "features": map[string]int{"maxSessionAge": 60_000}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "serverconfig.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("node", append([]string{"provider/paint.mjs", strconv.Itoa(port), file}, processor...)...)
	command.Stderr = t.Output()
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("paint.mjs says %q, %v", line, err)
	}
}

// asked is what paint.mjs answers.
type asked struct {
	code    int
	Session string `json:"jwt"`
	Email   string
	Role    map[string]any `json:"clientAuthResult"`
	text    string
}

// askPaint posts to paint.mjs as a portal's page does.
func askPaint(t *testing.T, port int, path, dataset, embedder string, headers ...string) (got asked) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"dslabel": dataset, "embedder": embedder, "route": "termdb"})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || json.Unmarshal(text, &got) != nil && response.StatusCode == 200 {
		t.Fatalf("%s: %v", text, err)
	}
	got.code, got.text = response.StatusCode, string(text)
	return got
}

// paintHouse is wts with an integration for each algorithm, and alice as its admin.
type paintHouse struct {
	*instance.Instance
	public string
	admin  *http.Client
	paint  int // the port of the ProteinPaint server
}

func newPaintHouse(t *testing.T, origins string) *paintHouse {
	t.Helper()
	port := instance.FreePort(t)
	h := &paintHouse{public: fmt.Sprintf("http://localhost:%d", port), admin: providertest.Browser(), paint: instance.FreePort(t)}
	provider := startProvider(t, "127.0.0.1", h.public+"/oauth2/authorize")
	integration := func(dataset string) string {
		return fmt.Sprintf(`{dataset: %s, cohorts: [{id: %s-1, label: One}, {id: %s-2}], embedders: [localhost], origins: [%s], instance_url: "http://127.0.0.1:%d",
    roles: [{users: [alice], result: {role: admin, %s-1: {role: reader}}}]}`, dataset, dataset, dataset, origins, h.paint, dataset)
	}
	h.Instance = instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
admins: [alice]
rate_limits: {change: 100}
providers:
  first: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences:
  hs256: {profile: proteinpaint, integration: %s}
  rs256: {profile: proteinpaint, algorithm: RS256, integration: %s}
  es256: {profile: proteinpaint, algorithm: ES256, integration: %s}
  strict: {profile: proteinpaint, algorithm: ES256, integration: {dataset: strict, embedders: [localhost], ip: strict}}
`, h.public, port, instance.NewKeyring(t), workersFile(t), provider.issuer, integration("hs256"), integration("rs256"), integration("es256")))
	h.AwaitReady(t)
	for _, id := range []string{"rs256", "es256"} { // the first RSA key takes a moment
		for deadline := time.Now().Add(time.Minute); !strings.HasPrefix(h.published(t, id), "-----BEGIN PUBLIC KEY-----"); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("there is no key of %s after a minute", id)
			}
		}
	}
	logIn(t, h.admin, h.public+"/oauth2/authorization_url", "alice")
	return h
}

// api is a request of the admin's to an integration.
func (h *paintHouse) api(t *testing.T, method, path string) []byte {
	t.Helper()
	return change(t, h.admin, method, h.public+"/api/v1/integrations/"+path, "")
}

// makeSecret makes the next secret, which is shown this once.
func (h *paintHouse) makeSecret(t *testing.T) string {
	t.Helper()
	var made struct{ Secret string }
	if text := h.api(t, http.MethodPost, "hs256/keys"); json.Unmarshal(text, &made) != nil || made.Secret == "" {
		t.Fatalf("got %s, want a secret", text)
	}
	return made.Secret
}

// configured are the credentials that wts generates, with the secret put in where there is one.
func (h *paintHouse) configured(t *testing.T, secret string, ids ...string) credentials {
	t.Helper()
	all := credentials{}
	for _, id := range ids {
		var one struct{ DSCredentials credentials }
		if text := h.api(t, http.MethodGet, id+"/serverconfig.json"); json.Unmarshal(text, &one) != nil || one.DSCredentials[id] == nil {
			t.Fatalf("got %s, want the configuration of %s", text, id)
		}
		if all[id] = one.DSCredentials[id]; secret != "" {
			all[id]["termdb"]["localhost"]["secret"] = secret
		}
	}
	return all
}

// published is the public key of an integration, or what is said in its place.
func (h *paintHouse) published(t *testing.T, id string) string {
	t.Helper()
	response, err := http.Get(h.public + "/api/v1/integrations/" + id + "/pubkey.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// byPublicKey is a token with the public key as the secret of HS256 (RFC 8725 2.1).
func byPublicKey(token, key string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + strings.Split(token, ".")[1]
	code := hmac.New(sha256.New, []byte(key))
	code.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(code.Sum(nil))
}

// Tokens of every algorithm are taken by jsonwebtoken in ProteinPaint's way, and no others: the generated configuration
// names what it has to.
func TestProteinPaintTakesOurTokens(t *testing.T) {
	h := newPaintHouse(t, "http://localhost:1")
	known := h.configured(t, "", "rs256", "es256", "strict")
	known["hs256"] = h.configured(t, h.makeSecret(t), "hs256")["hs256"]
	startPaint(t, h.paint, known)
	worker := instance.Worker()
	mint := func(query string) string {
		t.Helper()
		got := h.Token(t, worker, query)
		if got.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", query, got.Status, got.Message)
		}
		return got.Token
	}
	status := func(dataset, embedder, token string) asked {
		t.Helper()
		return askPaint(t, h.paint, "/jwt-status", dataset, embedder, "x-ds-access-token", token)
	}
	for _, id := range []string{"hs256", "rs256", "es256"} {
		t.Run(id, func(t *testing.T) {
			good, short := mint("?audience="+id), mint("?expires=1&audience="+id)
			got := status(id, "localhost", good)
			if got.code != 200 || got.Session == "" || got.Role["role"] != "admin" || got.Role[id+"-1"] == nil {
				t.Fatalf("a good token: %d %s", got.code, got.text)
			}
			bearer := func(text string) asked {
				return askPaint(t, h.paint, "/data", id, "localhost", "Authorization", "Bearer "+text)
			}
			if got := bearer(base64.StdEncoding.EncodeToString([]byte(good))); got.code != 200 || got.Email == "" {
				t.Errorf("without a browser: %d %s", got.code, got.text)
			}
			if got := bearer(good); got.code != 401 {
				t.Errorf("a bearer that is no base64: %d %s", got.code, got.text)
			}
			if got := bearer(base64.StdEncoding.EncodeToString([]byte(mint("?datasets=" + id + "-1&audience=" + id)))); got.code != 401 {
				t.Errorf("a bearer without the dataset: %d %s", got.code, got.text)
			}
			time.Sleep(2 * time.Second)
			key := h.published(t, id)
			other := map[string]string{"hs256": "rs256", "rs256": "es256", "es256": "hs256"}[id]
			for what, row := range map[string][2]string{
				"one that has expired":       {short, "jwt expired"},
				"one of another integration": {mint("?audience=" + other), "invalid"},
				"one with another payload":   {tampered(good), "invalid signature"},
				"one without a signature":    {good[:strings.LastIndex(good, ".")+1], "signature"},
				"one that was narrowed":      {mint("?datasets=" + id + "-1&audience=" + id), "Missing access"},
				"one by the key as a secret": {byPublicKey(good, key), "invalid"},
			} {
				if got := status(id, "localhost", row[0]); got.code != 401 || !strings.Contains(got.text, row[1]) {
					t.Errorf("%s: %d %s, want %q", what, got.code, got.text, row[1])
				}
			}
			h.byProcessor(t, id, good, short, tampered(good))
			if got := status(id, "elsewhere.example", good); got.code != 401 {
				t.Errorf("for another embedder: %d %s", got.code, got.text)
			}
			var tested struct{ Passed bool }
			if text := h.api(t, http.MethodPost, id+"/selftest"); json.Unmarshal(text, &tested) != nil || !tested.Passed {
				t.Errorf("the self-test: %s", text)
			}
		})
	}
	for query, want := range map[string]int{"?audience=strict&ip=127.0.0.1": 200, "?audience=strict&ip=192.0.2.1": 401, "?audience=strict": 401} { // the worker's own address is 127.0.0.2
		if got := status("strict", "localhost", mint(query)); got.code != want {
			t.Errorf("%s: %d %s, want %d", query, got.code, got.text, want)
		}
	}
	if got := h.Token(t, worker, "?audience=hs256&datasets=hs256-3"); got.Status != http.StatusForbidden {
		t.Errorf("a dataset that the integration does not have: %d", got.Status)
	}
}

// byProcessor checks a ProteinPaint server that has the processor of an integration: it takes the tokens of the present
// and of the next key, and no others, and its sessions are its own.
func (h *paintHouse) byProcessor(t *testing.T, id, good string, bad ...string) {
	t.Helper()
	if id == "hs256" {
		return // TestAPortalInABrowserShowsProteinPaint has it
	}
	folder, port := t.TempDir(), instance.FreePort(t)
	for name, text := range map[string]string{"processor.mjs": string(h.api(t, http.MethodGet, id+"/processor.mjs")), "wts-local-secret": "a-secret-of-this-machine-alone"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startPaint(t, port, h.configured(t, "a-secret-of-this-machine-alone", id), filepath.Join(folder, "processor.mjs"))
	status := func(token string) asked {
		return askPaint(t, port, "/jwt-status", id, "localhost", "x-ds-access-token", token)
	}
	got := status(good)
	if got.code != 200 || got.Session == "" {
		t.Fatalf("the processor: %d %s", got.code, got.text)
	}
	if again := askPaint(t, port, "/data", id, "localhost", "Authorization", "Bearer "+base64.StdEncoding.EncodeToString([]byte(got.Session))); again.code != 200 {
		t.Errorf("the session: %d %s", again.code, again.text)
	}
	claims := good[strings.Index(good, "."):strings.LastIndex(good, ".")]
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + claims + "."
	for _, one := range append(bad, unsigned, byPublicKey(good, h.published(t, id)), "x", "", "a.b.c") {
		if got := status(one); got.code != 401 || got.Session != "" {
			t.Errorf("the processor takes %q: %d %s", one, got.code, got.text)
		}
	}
}

// paintPage does what a portal's page does: it asks for a token each time anew, and trades it at ProteinPaint.
const paintPage = `<!doctype html><html lang="en"><title>The portal</title><h1>The portal</h1>
<p id="result">nothing yet</p><p id="count">0 accepted, 0 refused</p>
<script src="%s/api/v1/integrations/hs256/snippet.js"></script>
<script>
const counted = { accepted: 0, refused: 0 };
const once = async () => {
  const token = await getDatasetAccessToken();
  const answer = await fetch('http://localhost:%d/jwt-status', {
    method: 'POST', headers: { 'Content-Type': 'application/json', 'x-ds-access-token': token },
    body: JSON.stringify({ dslabel: 'hs256', embedder: location.hostname, route: 'termdb' }),
  });
  const said = await answer.json();
  return said.jwt ? 'session of ' + JSON.parse(atob(said.jwt.split('.')[1])).email : 'refused ' + JSON.stringify(said);
};
(async () => {
  const result = document.getElementById('result');
  try { result.textContent = await once(); } catch (error) { result.textContent = 'no token: ' + (error.code ?? error.message) + ' ' + (error.connectUrl ?? ''); return; }
  for (;;) {
    try { counted[(await once()).startsWith('session') ? 'accepted' : 'refused']++; } catch { counted.refused++; }
    document.getElementById('count').textContent = counted.accepted + ' accepted, ' + counted.refused + ' refused';
    await new Promise((done) => setTimeout(done, 30));
  }
})();
</script></html>`

// A portal on another port of the same site gets its person's token in a browser; a page of another origin does not. The
// secret is replaced under it, and nothing is refused.
func TestAPortalInABrowserShowsProteinPaint(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	portalPort := listener.Addr().(*net.TCPAddr).Port
	portal := fmt.Sprintf("http://localhost:%d", portalPort)
	h := newPaintHouse(t, portal)
	serve := func(listener net.Listener) {
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = fmt.Fprintf(w, paintPage, h.public, h.paint)
		})}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	serve(listener)
	unlisted, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(unlisted)

	folder := t.TempDir()
	secrets, module := filepath.Join(folder, "wts-secrets"), filepath.Join(folder, "processor.mjs")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := h.makeSecret(t)
	write(secrets, first+"\n")
	write(filepath.Join(folder, "wts-local-secret"), "a-secret-of-this-machine-alone\n")
	write(module, string(h.api(t, http.MethodGet, "hs256/processor.mjs")))
	startPaint(t, h.paint, h.configured(t, "a-secret-of-this-machine-alone", "hs256"), module)

	alice := startBrowser(t).person(t, "alice", way{})
	alice.open(portal)
	alice.do("until", with{"text": "no token: sign_in " + h.public + "/oauth2/authorization_url", "at": "#result"}, nil)
	alice.open(h.public + "/oauth2/authorization_url")
	alice.signInAs("alice")
	for _, other := range []string{fmt.Sprintf("http://127.0.0.1:%d", portalPort), "http://localhost:" + strconv.Itoa(unlisted.Addr().(*net.TCPAddr).Port)} {
		alice.open(other)
		alice.do("until", with{"text": "no token: Failed to fetch", "at": "#result"}, nil)
	}
	alice.open(portal)
	alice.do("until", with{"text": "session of ", "at": "#result"}, nil)

	// A loop beside the page asks as a program does.
	var accepted, refused atomic.Int64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		worker := instance.Worker()
		for {
			select {
			case <-stop:
				return
			default:
			}
			token := h.Token(t, worker, "?audience=hs256")
			if got := askPaint(t, h.paint, "/jwt-status", "hs256", "localhost", "x-ds-access-token", token.Token); got.Session == "" {
				t.Errorf("a token is refused: %s", got.text)
				refused.Add(1)
			}
			accepted.Add(1)
			time.Sleep(10 * time.Millisecond) // within the limits of a user
		}
	}()
	for range 2 {
		next := h.makeSecret(t)
		write(secrets, first+"\n"+next+"\n")
		time.Sleep(2500 * time.Millisecond) // it is read again every two seconds
		h.api(t, http.MethodPost, "hs256/keys/activate")
		time.Sleep(time.Second)
		write(secrets, next+"\n")
		first = next
		time.Sleep(2500 * time.Millisecond)
	}
	close(stop)
	<-ended
	count := alice.rows("#count")
	t.Logf("the page: %s; the loop: %d", count, accepted.Load())
	if len(count) != 1 || !strings.HasSuffix(count[0], " accepted, 0 refused") || strings.HasPrefix(count[0], "0 ") || accepted.Load() < 50 || refused.Load() > 0 {
		t.Errorf("the page counts %q, the loop %d and %d", count, accepted.Load(), refused.Load())
	}
	// The page of the admin is as the others are.
	alice.open(h.public + "/integrations/hs256")
	alice.at("hs256")
	alice.reads("type\": \"forbidden", "getDatasetAccessToken")
	var faults []string
	alice.do("axe", with{}, &faults)
	for _, width := range []int{1280, 320} {
		alice.do("shown", with{"width": width}, nil)
		if shown := alice.page(); shown.Width > width || len(shown.Torn) > 0 {
			t.Errorf("at %d the page is %d wide, and %q are torn", width, shown.Width, shown.Torn)
		}
		if folder := os.Getenv("WTS_SHOTS"); folder != "" {
			alice.do("shot", with{"path": filepath.Join(folder, fmt.Sprintf("integration-%d.png", width))}, nil)
		}
	}
	if len(faults) > 0 {
		t.Errorf("axe finds %q", faults)
	}
	alice.press("Test it")
	alice.told("A fresh token is accepted for localhost: passed")
}
