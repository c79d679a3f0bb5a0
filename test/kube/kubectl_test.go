//go:build kube

package kube

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

// issuer is where the API server looks for the keys of wts, which begins behind it later: an API server wants an issuer
// that is encrypted.
type issuer struct {
	*httptest.Server
	authority string // the file with its certificate
	behind    atomic.Pointer[httputil.ReverseProxy]
}

func (s *server) startIssuer() error {
	i := &issuer{authority: filepath.Join(s.dir, "issuer.pem")}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if proxy := i.behind.Load(); proxy != nil {
			proxy.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	s.issuer = i
	return os.WriteFile(i.authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600)
}

// kubectl asks wts by its exec plugin for a token, which the API server verifies by the published keys.
func TestKubectl(t *testing.T) {
	port, public := instance.FreePort(t), running.issuer.URL
	provider, err := providertest.Start(providertest.Options{Users: []providertest.User{{Name: "alice", Password: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: public + "/oauth2/authorize"})
	wts := instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username}
audiences: {cluster: {}, another: {}}
`, public, port, instance.NewKeyring(t), provider.Issuer))
	wts.AwaitReady(t)
	running.issuer.behind.Store(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: wts.Address}))

	browser := providertest.BrowserOver(running.issuer.Client().Transport)
	if page, err := providertest.LogIn(t.Context(), browser, public+"/oauth2/authorization_url", "alice", "a"); err != nil || page.Status != http.StatusOK {
		t.Fatalf("logging in: %d, %v", page.Status, err)
	}
	alice := instance.NewPerson(t)
	alice.Env = append(alice.Env, "SSL_CERT_FILE="+running.issuer.authority)
	alice.LogIn(t, public, browser)

	kubectl := func(t *testing.T, audience string, args ...string) (string, error) {
		t.Helper()
		config := filepath.Join(t.TempDir(), "config")
		text := fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: %q, insecure-skip-tls-verify: true}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users:
  - name: me
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: %q
        args: [token, --url, %q, --audience, %s, --format, exec-credential]
        interactiveMode: Never
`, running.address, alice.Binary, public, audience)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.Command(filepath.Join(running.programs, "kubectl"), append([]string{"--kubeconfig", config}, args...)...)
		command.Env = alice.Env
		said, err := command.CombinedOutput()
		return string(said), err
	}
	whoami := []string{"auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"}
	// The API server looks for its issuers every ten seconds.
	within(t, time.Minute, "the API server knows the issuer", func() bool { said, err := kubectl(t, "cluster", whoami...); return err == nil && said == "wts:alice" })
	if said, err := kubectl(t, "cluster", "get", "secrets", "--all-namespaces"); err == nil || !strings.Contains(said, `User "wts:alice" cannot list`) {
		t.Errorf("beyond her rights: %v\n%s", err, said)
	}
	if said, err := kubectl(t, "another", whoami...); err == nil || strings.Contains(said, "wts:alice") {
		t.Errorf("with a token for another audience: %v\n%s", err, said)
	}
	if said, err := alice.Command("logout").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if said, err := kubectl(t, "cluster", whoami...); err == nil {
		t.Errorf("after logout: %s", said)
	}
}
