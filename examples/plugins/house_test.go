package main

import (
	"archive/zip"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) { os.Exit(instance.Main(m)) }

const (
	siteSecret   = "canary %41+secret of the site" // with what a form would read otherwise
	staffAddress = "127.0.0.3"                     // of a worker of the staff's
)

// house is a wts, a provider at which people log in, an issuer of CI jobs, and the site.
type house struct {
	wts      *instance.Instance
	public   string // the URL of wts
	database string
	ci       *verifiertest.Issuer
	site     string // the URL of the site
	dir      string // its folder
	log      *syncBuffer
}

type syncBuffer struct {
	lock chan struct{}
	text bytes.Buffer
}

func newBuffer() *syncBuffer { return &syncBuffer{lock: make(chan struct{}, 1)} }

func (b *syncBuffer) Write(text []byte) (int, error) {
	b.lock <- struct{}{}
	defer func() { <-b.lock }()
	return b.text.Write(text)
}

func (b *syncBuffer) String() string {
	b.lock <- struct{}{}
	defer func() { <-b.lock }()
	return b.text.String()
}

// startHouse runs all of it until the test ends. The plugins one and other are alice's and bob's, and alice's.
func startHouse(t *testing.T) *house {
	t.Helper()
	folder := t.TempDir()
	port := instance.FreePort(t)
	h := &house{public: fmt.Sprintf("http://localhost:%d", port), database: filepath.Join(folder, "wts.db"), ci: verifiertest.Start(t), dir: filepath.Join(folder, "plugins")}
	provider, err := providertest.Start(providertest.Options{Users: []providertest.User{{Name: "alice", Password: "a"}, {Name: "bob", Password: "b"}, {Name: "staff", Password: "s"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: h.public + "/oauth2/authorize"})
	h.write(t, filepath.Join(folder, "workers.yaml"), staffAddress+": staff\n127.0.0.2: alice\n")
	h.wts = instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:%s"}
keyring_file: %s
workers_file: %s
trusted_issuers: ["%s"]
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username}
audiences:
  plugins:
    profile: resource
    algorithm: ES256
    scopes: [upload, read, approve]
    secret: "%s"
    access: [{everyone: true, scopes: [upload, read]}, {users: [staff]}]
    api_tokens: {personal: true, resource: true, jwt: true, endless: true}
  elsewhere: {scopes: [upload], api_tokens: {personal: true}}
`, h.public, port, h.database, instance.NewKeyring(t), filepath.Join(folder, "workers.yaml"), h.ci.URL, provider.Issuer, siteSecret))
	h.wts.AwaitReady(t)
	h.startSite(t)
	return h
}

func (h *house) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startSite starts the site, on the folder that it had before, and has it register its plugins.
func (h *house) startSite(t *testing.T) {
	t.Helper()
	h.log = newBuffer()
	client := &authority{url: h.public, audience: "plugins", secret: siteSecret, log: slog.New(slog.NewTextHandler(h.log, nil))}
	shelf, err := openShelf(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	plugins := owned{"one": {"alice", "bob"}, "other": {"alice"}}
	for name := range plugins {
		shelf.add(name)
	}
	site, err := newSite(t.Context(), client, shelf)
	if err != nil {
		t.Fatal(err)
	}
	client.registerAll(t.Context(), plugins)
	server := httptest.NewServer(site.routes())
	t.Cleanup(server.Close)
	h.site = server.URL
}

func (h *house) signedIn(t *testing.T, name string) *http.Client {
	t.Helper()
	browser := providertest.Browser()
	page, err := providertest.LogIn(t.Context(), browser, h.public+"/oauth2/authorization_url", name, name[:1])
	if err != nil || page.Status != http.StatusOK {
		t.Fatalf("logging in: %d, %v", page.Status, err)
	}
	return browser
}

// said is an answer.
type said struct {
	status int
	text   string
}

func (s said) member(name string) any {
	var all map[string]any
	_ = json.Unmarshal([]byte(s.text), &all)
	return all[name]
}

func send(t *testing.T, client *http.Client, request *http.Request) said {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return said{response.StatusCode, string(text)}
}

// at sends JSON to wts, as a page of it does.
func (h *house) at(t *testing.T, browser *http.Client, method, path, body string) said {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, h.public+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return send(t, browser, request)
}

type token struct{ ID, Token string }

// make makes an API token by a path of wts.
func (h *house) make(t *testing.T, browser *http.Client, path, body string) (made token) {
	t.Helper()
	got := h.at(t, browser, http.MethodPost, path, body)
	if err := json.Unmarshal([]byte(got.text), &made); err != nil || got.status != http.StatusCreated {
		t.Fatalf("got %d %s, want a token", got.status, got.text)
	}
	return made
}

const (
	tokensOfOne   = "/api/v1/resources/plugins/one/tokens"
	tokensOfOther = "/api/v1/resources/plugins/other/tokens"
)

// exchange asks the token endpoint of wts for a short token.
func (h *house) exchange(t *testing.T, pairs ...string) string {
	t.Helper()
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.public+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	got := send(t, http.DefaultClient, request)
	value, _ := got.member("access_token").(string)
	if got.status != http.StatusOK || value == "" {
		t.Fatalf("got %d %s, want a short token", got.status, got.text)
	}
	return value
}

func (h *house) trade(t *testing.T, value string, pairs ...string) string {
	t.Helper()
	return h.exchange(t, append([]string{"subject_token", value, "subject_token_type", "urn:ietf:params:oauth:token-type:access_token"}, pairs...)...)
}

// sql changes the database of wts behind its back.
func (h *house) sql(t *testing.T, statement string, values ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", h.database+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), statement, values...); err != nil {
		t.Fatal(err)
	}
}

// zipped is an archive of these entries; names and contents by turns.
func zipped(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	for i := 0; i < len(pairs); i += 2 {
		file, err := writer.Create(pairs[i])
		if err == nil {
			_, err = file.Write([]byte(pairs[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// plugin is a good archive of a version.
func plugin(t *testing.T, name, number string) []byte {
	t.Helper()
	return zipped(t, name+"/__init__.py", "# a plugin\n", name+"/metadata.txt",
		"[general]\nname=The plugin\nqgisMinimumVersion=3.0\ndescription=Does something\nabout=In more\n  than one line\nversion="+number+"\n")
}

// post uploads an archive to a path of the site, as qgis-plugin-ci does.
func (h *house) post(t *testing.T, path, value string, archive []byte) said {
	t.Helper()
	return h.postField(t, path, value, "package", archive)
}

func (h *house) postField(t *testing.T, path, value, field string, archive []byte) said {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile(field, "plugin.zip")
	if err == nil {
		_, err = part.Write(archive)
	}
	if err != nil || form.Close() != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.site+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	if value != "" {
		request.Header.Set("Authorization", "Bearer "+value)
	}
	return send(t, http.DefaultClient, request)
}

const (
	addToOne   = "/plugins/api/one/version/add/"
	addToOther = "/plugins/api/other/version/add/"
)

// get reads from the site, with a token or without.
func (h *house) get(t *testing.T, path, value string) said {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.site+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if value != "" {
		request.Header.Set("Authorization", "Bearer "+value)
	}
	return send(t, http.DefaultClient, request)
}

// numbers are the versions that the public sees of a plugin.
func (h *house) numbers(t *testing.T, name string) (all []string) {
	t.Helper()
	var shown struct{ Versions []version }
	got := h.get(t, "/plugins/"+name+"/json", "")
	if err := json.Unmarshal([]byte(got.text), &shown); err != nil {
		t.Fatalf("got %d %s", got.status, got.text)
	}
	for _, one := range shown.Versions {
		all = append(all, one.Version)
	}
	return all
}

// staffToken is a token of one of the site's staff, as their notebook gets it.
func (h *house) staffToken(t *testing.T, scope string) string {
	t.Helper()
	h.signedIn(t, "staff")
	got := h.wts.Token(t, instance.WorkerAt(staffAddress), "?expires=300&audience=plugins&scope="+scope)
	if got.Status != http.StatusOK {
		t.Fatalf("got %d %s, want a token of the staff", got.Status, got.Message)
	}
	return got.Token
}

// isRefused wants an upload to the plugin one refused as one without a right to it, and nothing of it on the site.
func (h *house) isRefused(t *testing.T, got said, number, says string) {
	t.Helper()
	text, _ := got.member("error").(string)
	if got.status != http.StatusForbidden || !strings.HasPrefix(text, "Invalid token") || !strings.Contains(text, says) {
		t.Errorf("got %d %s; want 403 Invalid token, %s", got.status, got.text, says)
	}
	if shown := h.get(t, "/plugins/one/version/"+number+"/json", ""); shown.status != http.StatusNotFound {
		t.Errorf("the version %s: got %d; want that it is not there", number, shown.status)
	}
}

// soon is how long wts and the site may take to hear of a change.
const soon = 5 * time.Second
