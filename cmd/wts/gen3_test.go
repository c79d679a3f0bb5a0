package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

const gen3Key = "c2l4dGVlbi1ieXRlcy1zaWdudGVlbi1ieXRlcy1lbmM="

// commons is a data commons whose workspace token service is ours: configured as the Python service
// is deployed, behind a proxy that does what Gen3's does.
type commons struct {
	*replica
	portal string // the proxy: what browsers see
	fence  *providertest.Fence
	other  *providertest.Fence // of another commons
	plain  *providertest.Fence // any OpenID provider, without a discovery document, which rotates
	db     string
	creds  map[string]any
	env    []string
}

// startCommons starts all of it. The change may alter appcreds.json before it is read.
func startCommons(t *testing.T, change func(c *commons)) *commons {
	t.Helper()
	c := &commons{replica: &replica{log: &syncBuffer{}}, db: pgtest.Database(t)}
	port := instance.FreePort(t)
	inside := fmt.Sprintf("127.0.0.1:%d", port)
	c.url = "http://" + inside
	c.startProxy(t, inside)
	people := []providertest.User{
		{Subject: "7", Name: "alice", Password: "canary-password", Email: "alice@example.org"},
		{Subject: "8", Name: "bob", Password: "canary-password"},
		{Subject: "9", Name: "carol", Password: "canary-password"},
		{Subject: "10", Name: "dave", Password: "canary-password"},
	}
	mapping := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerOfCommons(w, r) })
	start := func(address string, options providertest.FenceOptions) *providertest.Fence {
		options.Address, options.Users, options.Commons = address, people, mapping
		started, err := providertest.StartFence(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = started.Close() })
		started.Register(providertest.Client{ID: "wts", Secret: "canary-client-secret", RedirectURI: c.portal + "/wts/oauth2/authorize"})
		return started
	}
	c.fence = start("127.0.0.1:0", providertest.FenceOptions{})
	c.other = start("127.0.0.3:0", providertest.FenceOptions{})
	c.plain = start("127.0.0.4:0", providertest.FenceOptions{Rotates: true, Opaque: true})
	option := func(name string, params map[string]string) map[string]any {
		return map[string]any{"name": name, "params": params}
	}
	c.creds = map[string]any{
		"wts_base_url": c.portal + "/wts/", "encryption_key": gen3Key, "secret_key": "unused", "fence_base_url": c.fence.Issuer + "/",
		"oidc_client_id": "wts", "oidc_client_secret": "canary-client-secret",
		"aggregate_endpoint_allowlist": []string{"/authz/mapping/", "/user/user", "/index/index", "/slow", "/list", "/text", "/redirect", "/huge"},
		"external_oidc": []any{
			map[string]any{
				"base_url": c.other.BaseURL, "oidc_client_id": "wts", "oidc_client_secret": "canary-client-secret",
				"login_options": map[string]any{
					"other-google": option("Other Google", map[string]string{"idp": "google"}),
					"other-ras":    option("Other RAS", map[string]string{"idp": "fence", "fence_idp": "shibboleth"}),
				},
			},
			map[string]any{
				"base_url":      c.plain.BaseURL,
				"login_options": map[string]any{"keycloak": option("Keycloak", map[string]string{"auth_url": "user/oauth2/authorize", "token_url": "/user/oauth2/token", "scope": "openid profile", "id_token_username_field": "context.user.name"})},
			},
		},
	}
	dir := t.TempDir()
	workers := filepath.Join(dir, "workers.yaml")
	if err := os.WriteFile(workers, []byte("127.0.0.2: alice\n127.0.0.5: carol\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = []string{
		"SECRET_CONFIG=" + filepath.Join(dir, "appcreds.json"), "OIDC_CLIENT_ID=wts", "OIDC_CLIENT_SECRET=canary-client-secret", "AUTH_PLUGINS=k8s",
		"SQLALCHEMY_DATABASE_URI=" + strings.Replace(c.db, "postgres://", "postgresql://", 1),
		"WTS_LISTEN=" + inside, "WTS_METRICS_LISTEN=off", "WTS_WORKERS_FILE=" + workers, "WTS_LOG__LEVEL=debug",
	}
	if change != nil {
		change(c)
	}
	text, err := json.Marshal(c.creds)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "appcreds.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := config.Load(config.DefaultFile, c.env)
	if err != nil {
		t.Fatal(err)
	}
	c.start(t, settings)
	return c
}

// startProxy is Gen3's revproxy: /wts/ is stripped, the cookie access_token becomes the bearer, and
// what a client says of its own address is passed on.
func (c *commons) startProxy(t *testing.T, inside string) {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: inside}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.URL.Path = "/" + strings.TrimPrefix(strings.TrimPrefix(r.In.URL.Path, "/wts"), "/")
		r.Out.Host = r.In.Host
		if cookie, err := r.In.Cookie("access_token"); err == nil && r.In.Header.Get("Authorization") == "" {
			r.Out.Header.Set("Authorization", "bearer "+cookie.Value)
		}
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	}}
	mux := http.NewServeMux()
	mux.Handle("/wts/", proxy)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "the portal at", r.URL.Path) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c.portal = fmt.Sprintf("http://localhost:%d", listener.Addr().(*net.TCPAddr).Port)
}

// answerOfCommons are the services of a commons that /aggregate asks.
func answerOfCommons(w http.ResponseWriter, r *http.Request) {
	body := fmt.Sprintf(`{"authz": {"/a": []}, "bearer": %t, "tags": %q, "evil": %q}`,
		strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey"), strings.Join(r.URL.Query()["tag"], "+"), r.Header.Get("X-Evil"))
	switch r.URL.Path {
	case "/list":
		body = `[1, 2]`
	case "/text":
		body = `<html>no JSON`
	case "/huge":
		body = `"` + strings.Repeat("x", 9<<20) + `"`
	case "/redirect":
		http.Redirect(w, r, "/user/user", http.StatusFound)
		return
	case "/slow":
		if strings.HasPrefix(r.Host, "127.0.0.3") {
			time.Sleep(time.Second)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(body))
}

// portalUser is the browser of somebody who is logged in at the portal: Fence's cookie is there.
func (c *commons) portalUser(t *testing.T, name string) *http.Client {
	t.Helper()
	browser := providertest.Browser()
	at, err := url.Parse(c.portal)
	if err != nil {
		t.Fatal(err)
	}
	browser.Jar.SetCookies(at, []*http.Cookie{{Name: "access_token", Value: c.fence.AccessToken(name, nil), Path: "/"}})
	return browser
}

// link is a person who connects a provider through the portal.
func (c *commons) link(t *testing.T, name, idp string) *http.Client {
	t.Helper()
	browser := c.portalUser(t, name)
	c.linkIn(t, browser, name, idp)
	return browser
}

func (c *commons) linkIn(t *testing.T, browser *http.Client, name, idp string) {
	t.Helper()
	page, err := providertest.LogIn(t.Context(), browser, c.portal+"/wts/oauth2//authorization_url?redirect=/workspace&idp="+idp, name, "canary-password")
	if err != nil {
		t.Fatal(err)
	}
	if page.Status != http.StatusOK || page.URL.Path != "/workspace" {
		t.Fatalf("linking %q ended at %s with %d: %s\n%s", idp, page.URL, page.Status, page.Body, c.log)
	}
}

// bearer is the header of somebody with an access token of the default Fence's.
func (c *commons) bearer(name string) []string {
	return []string{"Authorization", "bearer " + c.fence.AccessToken(name, nil)}
}

// worker calls from a pod's address, without any header.
func workerAt(address string) *http.Client { return clientAt(address) }

// sql runs one statement on the commons' database.
func (c *commons) sql(t *testing.T, statement string, arguments ...any) [][]any {
	t.Helper()
	return query(t, c.db, statement, arguments...)
}

func query(t *testing.T, database, statement string, arguments ...any) (rows [][]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	found, err := connection.Query(ctx, statement, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		values, err := found.Values()
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, values)
	}
	if err := found.Err(); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return rows
}

// asPython writes a row as the Python service does.
func (c *commons) asPython(t *testing.T, username, idp, token string, expires time.Time) {
	t.Helper()
	key, err := keyring.NewFernet(gen3Key)
	if err != nil {
		t.Fatal(err)
	}
	c.sql(t, "INSERT INTO refresh_token (token, jti, username, userid, expires, idp) VALUES ($1, md5(random()::text), $2, $3, $4, $5)",
		key.Seal(token, time.Now()), username, "sub-of-"+username, expires.Unix(), idp)
}
