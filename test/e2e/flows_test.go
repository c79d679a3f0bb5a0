//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

// flowSteps are what the flows come to, by whatever client: what is given, or the error that the RFC has for it.
var flowSteps = []string{
	"code: bearer read true true",
	"introspection: true alice lasting read",
	"introspection of what is no token: false",
	"introspection by an impostor: invalid_client",
	"a code again: invalid_grant",
	"what the code began: invalid_grant",
	"another verifier: invalid_grant",
	"a scope that is none: invalid_scope",
	"another audience: unauthorized_client",
	"refresh: read true",
	"refresh with more scopes: invalid_scope",
	"a refresh token again: invalid_grant",
	"after that: invalid_grant",
	"device: bearer read",
	"a device that is denied: access_denied",
	"a device that is unknown: invalid_client",
	"revocation: done",
	"after the revocation: invalid_grant",
	"exchange: bearer read",
	"exchange for another audience: invalid_target",
	"exchange of what is no token: invalid_request",
}

// Programs log in by code and by device, refresh, exchange, introspect and revoke, with client libraries that are not
// ours and what these check: the issuer of an answer, its state, the form of each answer and error.
func TestProgramsThatAreNotOursLogIn(t *testing.T) {
	const secret = "a-secret-of-the-service-of-20-bytes"
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
  service: {scopes: [read, write], secret: %s}
  other: {}
clients:
  lasting: {name: A program, redirect_uris: ["http://127.0.0.1/callback"], audiences: [service], device: true, refresh: true}
`, public, port, instance.NewKeyring(t), workersFile(t), provider.issuer, secret))
	wts.AwaitReady(t)
	for name, command := range map[string][]string{
		"openid-client": {"node", filepath.Join("provider", "flows.mjs")},
		"Authlib":       {"/usr/bin/python3", "flows.py"},
	} {
		t.Run(name, func(t *testing.T) {
			browser := providertest.Browser()
			logIn(t, browser, public+"/oauth2/authorization_url", "alice")
			program := exec.CommandContext(t.Context(), command[0], append(command[1:], public, "http://127.0.0.1:49200/callback", "service", secret)...)
			program.Stderr = t.Output()
			answers, err := program.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			output, err := program.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			var steps []string
			for lines := bufio.NewScanner(output); lines.Scan(); {
				if address, ok := strings.CutPrefix(lines.Text(), "open "); ok {
					fmt.Fprintln(answers, allow(t, browser, address))
					continue
				}
				steps = append(steps, lines.Text())
			}
			if err := program.Wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff(flowSteps, steps); diff != "" {
				t.Errorf("what the steps came to (-want +got):\n%s", diff)
			}
		})
	}
}

// allow is a person who opens an address and allows what it asks, or with &deny at its end does not. It returns where the
// browser was sent to, which is an address that nothing answers.
func allow(t *testing.T, browser *http.Client, address string) (back string) {
	t.Helper()
	address, deny := strings.CutSuffix(address, "&deny")
	still := *browser
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := still.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if back := response.Header.Get("Location"); back != "" {
		return back // refused
	}
	action, fields := formOf(t, string(page))
	target, err := response.Request.URL.Parse(action)
	if err != nil || len(fields) == 0 {
		t.Fatalf("got %d %s, want a page that asks", response.StatusCode, page)
	}
	fields.Set("decision", map[bool]string{true: "deny", false: "allow"}[deny])
	decided, err := still.PostForm(target.String(), fields)
	if err != nil {
		t.Fatal(err)
	}
	defer decided.Body.Close()
	if decided.StatusCode >= 400 {
		t.Fatalf("deciding: %d", decided.StatusCode)
	}
	return decided.Header.Get("Location")
}
