//go:build clients

// Package clients gives tokens to programs that are not ours and that most machines lack: rclone, R, a Jupyter kernel.
package clients

import (
	"bytes"
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

	"golang.org/x/net/webdav"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) { os.Exit(instance.Main(m)) }

// service is wts, with a provider at which alice has logged in; a worker at 127.0.0.1 is hers.
type service struct {
	url     string
	browser *http.Client
	storage *verifier.Verifier
}

func start(t *testing.T, loggedIn bool) *service {
	t.Helper()
	port := instance.FreePort(t)
	s := &service{url: fmt.Sprintf("http://localhost:%d", port), browser: providertest.Browser()}
	provider, err := providertest.Start(providertest.Options{Users: []providertest.User{{Name: "alice", Password: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: s.url + "/oauth2/authorize"})
	workers := filepath.Join(t.TempDir(), "workers.yaml")
	if err := os.WriteFile(workers, []byte("127.0.0.1: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
workers_file: %s
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username}
audiences: {storage: {}}
`, s.url, port, instance.NewKeyring(t), workers, provider.Issuer)).AwaitReady(t)
	if s.storage, err = verifier.New(t.Context(), s.url, "storage"); err != nil {
		t.Fatal(err)
	}
	if loggedIn {
		if page, err := providertest.LogIn(t.Context(), s.browser, s.url+"/oauth2/authorization_url", "alice", "a"); err != nil || page.Status != http.StatusOK {
			t.Fatalf("logging in: %d, %v", page.Status, err)
		}
	}
	return s
}

// rclone copies files from and to a WebDAV server that verifies tokens of wts, and gets another token when one has ended.
func TestRclone(t *testing.T) {
	s := start(t, true)
	alice := instance.NewPerson(t)
	alice.LogIn(t, s.url, s.browser)
	there, here := t.TempDir(), t.TempDir()
	server := instance.Guard(t, s.storage, &webdav.Handler{FileSystem: webdav.Dir(there), LockSystem: webdav.NewMemLS()})
	const size = 200 << 10
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(here, fmt.Sprint("file", i)), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rclone := func(args ...string) {
		t.Helper()
		command := exec.Command("rclone", append(args, "--ca-cert", server.Authority, "--config", "/dev/null", "--retries", "1", "--bwlimit", "100k",
			"--webdav-url", server.URL, "--webdav-bearer-token-command", alice.Binary+" token --url "+s.url+" --audience storage --expires 2s")...)
		command.Env = alice.Env
		if said, err := command.CombinedOutput(); err != nil {
			t.Errorf("rclone %v: %v\n%s", args, err, said)
		}
	}
	rclone("copy", "--transfers", "1", here, ":webdav:")
	for i := range 5 {
		if text, err := os.ReadFile(filepath.Join(there, fmt.Sprint("file", i))); err != nil || len(text) != size {
			t.Errorf("file%d: %d bytes, %v", i, len(text), err)
		}
	}
	tokens := map[string]bool{}
	for _, token := range server.Asked() {
		tokens[token] = true
	}
	if len(tokens) < 3 {
		t.Errorf("%d tokens of 2 s in a copy of 10 s", len(tokens))
	}
}

// R asks with a valid token, for the host that is named alone, and says where to log in.
func TestR(t *testing.T) {
	s := start(t, true)
	served := instance.Guard(t, s.storage, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the file") }))
	r := func(url, script string) string {
		t.Helper()
		command := exec.Command("Rscript", "-e", `source("../../docs/clients/wts_token.R"); `+script)
		command.Env = append(os.Environ(), "WTS_URL="+url, "BEARER_TOKEN_FILE=/nowhere", "SERVED="+served.URL, "HOST="+served.Host, "AUTHORITY="+served.Authority)
		said, _ := command.CombinedOutput()
		return string(said)
	}
	const ask = `url <- Sys.getenv("SERVED"); h <- curl::new_handle(cainfo = Sys.getenv("AUTHORITY")); ` +
		`curl::handle_setheaders(h, Authorization = wts_bearer(%s, url, audience = "storage")); cat(rawToChar(curl::curl_fetch_memory(url, h)$content))`
	if said := r(s.url, fmt.Sprintf(ask, `Sys.getenv("HOST")`)); said != "the file" {
		t.Errorf("the named host: %s", said)
	}
	before := len(served.Asked())
	if said := r(s.url, fmt.Sprintf(ask, `"files.example.org"`)); !strings.Contains(said, "the token is not for") || len(served.Asked()) != before {
		t.Errorf("another host: %s", said)
	}
	if said := r(s.url, `cat(wts_token(audience = "none"))`); !strings.Contains(said, "wts answered 4") {
		t.Errorf("an audience that is none: %s", said)
	}
	stranger := start(t, false)
	if said := r(stranger.url, `cat(wts_token(audience = "storage"))`); !strings.Contains(said, "wts answered 403") || !strings.Contains(said, "Log in at "+stranger.url) {
		t.Errorf("not logged in: %s", said)
	}
}

// notebook runs cells in a real kernel, and returns what each shows: its text, or the HTML that it displays.
func notebook(t *testing.T, env []string, cells ...string) (shown []string) {
	t.Helper()
	dir := t.TempDir()
	var all []map[string]any
	for _, cell := range cells {
		all = append(all, map[string]any{"cell_type": "code", "metadata": map[string]any{}, "source": cell, "outputs": []any{}, "execution_count": nil})
	}
	text, err := json.Marshal(map[string]any{
		"cells": all, "nbformat": 4, "nbformat_minor": 4,
		"metadata": map[string]any{"kernelspec": map[string]any{"name": "python3", "display_name": "Python 3", "language": "python"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("../../docs/clients/wts_token.py")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"cells.ipynb": text, "wts_token.py": module} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command("/usr/bin/python3", "-m", "nbconvert", "--to", "notebook", "--execute", "--allow-errors", "--output", "done.ipynb", "cells.ipynb")
	command.Dir = dir
	command.Env = append(append(os.Environ(), "HOME="+dir, "PATH=/usr/bin:/bin"), env...)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	var done struct {
		Cells []struct {
			Outputs []struct {
				Type  string `json:"output_type"`
				Text  []string
				Name  string `json:"ename"`
				Value string `json:"evalue"`
				Data  map[string]any
			}
		}
	}
	if text, err = os.ReadFile(filepath.Join(dir, "done.ipynb")); err == nil {
		err = json.Unmarshal(text, &done)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, cell := range done.Cells {
		said := ""
		for _, one := range cell.Outputs {
			said += strings.Join(one.Text, "")
			if one.Type == "error" {
				said += one.Name + ": " + one.Value
			}
			if lines, ok := one.Data["text/html"].([]any); ok {
				said += fmt.Sprint(lines...)
			}
		}
		shown = append(shown, strings.TrimSpace(said))
	}
	return shown
}

// A notebook asks by requests, httpx and fsspec, each with a valid token for the host that is named and for no other, also
// when the token before it has ended; and shows a button where its person has to log in.
func TestANotebook(t *testing.T) {
	s := start(t, true)
	files := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the file") })
	served, another := instance.Guard(t, s.storage, files), instance.Guard(t, s.storage, files)
	away := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Authorization")) }))
	defer away.Close()
	on := instance.Guard(t, s.storage, http.RedirectHandler(away.URL, http.StatusFound))
	env := []string{
		"WTS_URL=" + s.url, "BEARER_TOKEN_FILE=/nowhere", "SERVED=" + served.URL, "HOST=" + served.Host, "AUTHORITY=" + served.Authority, "ANOTHER=" + another.URL, "ON=" + on.URL, "ON_HOST=" + on.Host,
		"PYTHONWARNINGS=ignore", // of verify=False
	}
	began := time.Now()
	shown := notebook(t, env,
		"import os, ssl, time, requests, httpx, fsspec, wts_token\nserved, host, authority, another, on = (os.environ[n] for n in ('SERVED', 'HOST', 'AUTHORITY', 'ANOTHER', 'ON'))\nauth = wts_token.Auth(host, audience='storage', expires=4)",
		"session = requests.Session()\nsession.auth = auth\nprint(session.get(served, verify=authority).text, session.get(another, verify=False).status_code)",
		"client = httpx.Client(auth=auth, verify=False)\nprint(client.get(served).text, client.get(another).status_code)",
		"time.sleep(5)\nprint(session.get(served, verify=authority).text, client.get(served).text)",
		"files = fsspec.filesystem('https', get_client=wts_token.aiohttp_client(host, audience='storage', expires=4))\nprint(files.cat_file(served + '/x', ssl=False).decode())",
		"sent = wts_token.Auth(os.environ['ON_HOST'], audience='storage')\nprint(repr(requests.get(on, auth=sent, verify=False).text), repr(httpx.get(on, auth=sent, verify=False, follow_redirects=True).text))",
		"wts_token.Auth()",
		"print(len({wts_token.get('storage') for _ in range(20)}))",
	)
	want := []string{"", "the file 401", "the file 401", "the file the file", "the file", "'' ''", "ValueError: name the hosts that may have the token, as in Auth('files.example.org')", "1"}
	for i := range want {
		if shown[i] != want[i] {
			t.Errorf("cell %d shows %q, want %q", i+1, shown[i], want[i])
		}
	}
	if len(another.Asked()) > 0 {
		t.Errorf("a host that was not named got %d tokens", len(another.Asked()))
	}
	t.Logf("%d cells in %s", len(shown), time.Since(began).Round(time.Second))

	stranger := start(t, false)
	shown = notebook(t, []string{"WTS_URL=" + stranger.url, "BEARER_TOKEN_FILE=/nowhere"}, "import wts_token\nwts_token.get('storage')")
	if !strings.Contains(shown[0], `<a href="`+stranger.url) || !strings.Contains(shown[0], `rel="noopener"`) || !strings.Contains(shown[0], "TokenError") {
		t.Errorf("not logged in: %q", shown[0])
	}
}
