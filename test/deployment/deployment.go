// Package deployment runs a whole deployment for tests that hurt or measure it: replicas of wts on a
// PostgreSQL of their own, providers with a ledger, and people whose workers are known by their
// address.
package deployment

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/network"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// Setup is what a deployment is made of.
type Setup struct {
	People, Replicas int
	// Grace is the provider's, Life that of its access tokens; Timeout is how long an answer of it is
	// waited for, default 4 s.
	Grace, Life, Timeout time.Duration
	// DrainDelay is how long a replica that was told to stop goes on; default 0.
	DrainDelay time.Duration
	// Rate is refresh_rate, a second.
	Rate int
	// Revokes: a refresh ends the access token before.
	Revokes bool
	// Log is the level that the replicas log at, default warn.
	Log string
	// More is further configuration, lines of YAML.
	More string
	// Standby gives PostgreSQL a standby that lags, and can be promoted.
	Standby bool
	// Kubeconfig is a file that leads to a cluster whose pods the workers are; without one a file lists them.
	Kubeconfig string
	// Bearers: the providers' access tokens are JWTs, which callers may present.
	Bearers bool
	// Older is a binary of an older version of wts to run, from instance.BinaryOf. Who is to have a grant logs in.
	Older string
	// Apart gives every replica a network namespace of its own, PostgreSQL a clock that can be stepped, and the
	// provider TLS; the test has to be in a network of its own (package network). Else all of them share the
	// loopback address.
	Apart bool
}

// Deployment is a deployment.
type Deployment struct {
	Database *pgtest.Cluster
	// Pair is the database with its standby, where there is one.
	Pair *pgtest.Pair
	// Provider is "main", the default one; Second is "second".
	Provider, Second *providertest.Server
	WTS              []*instance.Instance
	// Names are the people's.
	Names []string
	// Hosts are the replicas', where they are apart.
	Hosts []*network.Host
	// Digest is how the rows name a token.
	Digest func(token string) []byte

	login   string // where people begin to log in
	browser http.RoundTripper
	store   func() (*store.Store, error)
}

// New runs a deployment, in which nobody has logged in yet, until the test ends.
func New(t testing.TB, of Setup) *Deployment {
	t.Helper()
	r := &Deployment{browser: http.DefaultTransport}
	addresses, place := make([]string, of.Replicas), place{provider: providertest.Options{}}
	if of.Apart {
		r.Hosts = network.Hosts(t, of.Replicas)
		place = apart(t)
	}
	for i := range addresses {
		addresses[i] = r.addressOfReplica(t, i)
	}
	var err error
	if of.Standby {
		if r.Pair, err = pgtest.StartPair(); err != nil {
			t.Fatal(err)
		}
		r.Database = r.Pair.Cluster
		t.Cleanup(func() { _ = r.Pair.Remove() })
	} else {
		if r.Database, err = pgtest.StartWith(place.database); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Database.Remove() })
	}
	workers := ""
	for i := range of.People {
		name := fmt.Sprintf("user%d", i)
		r.Names = append(r.Names, name)
		place.provider.Users = append(place.provider.Users, providertest.User{Name: name, Password: "p"})
		workers += fmt.Sprintf("%s: %s\n", r.workerAddress(i), name)
	}
	// Browsers reach the first replica under this name, wherever it is.
	public := "localhost:" + addresses[0][strings.LastIndexByte(addresses[0], ':')+1:]
	place.provider.AccessLife, place.provider.Grace, place.provider.OpaqueAccessTokens = of.Life, of.Grace, !of.Bearers
	callbacks := []string{"/oauth2/authorize", "/oauth2/authorize/second"}
	for i, one := range []**providertest.Server{&r.Provider, &r.Second} {
		server, err := providertest.Start(place.provider)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		server.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: "http://" + public + callbacks[i]})
		*one = server
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/workers.yaml", []byte(workers), 0o600); err != nil {
		t.Fatal(err)
	}
	keyFile := instance.NewKeyring(t)
	timeout := cmp.Or(of.Timeout, 4*time.Second)
	if of.Bearers {
		of.More += "\nbearer: {audiences: [wts]}\n"
	}
	options := fmt.Sprintf("client_id: wts, client_secret: s, username_claim: preferred_username, timeout: 5s, refresh_timeout: %s, refresh_rate: %d, reuse_grace: %s, revokes_access: %t",
		timeout, of.Rate, of.Grace, of.Revokes)
	known := fmt.Sprintf("workers_file: %s/workers.yaml", dir)
	if of.Kubeconfig != "" {
		known = fmt.Sprintf("kubernetes: {enabled: true, kubeconfig: %q, namespaces: [work]}", of.Kubeconfig)
	}
	for i, address := range addresses {
		configuration := fmt.Sprintf(`
url: http://%s
listen: ["%s"]
metrics_listen: "off"
database: {url: "%s"}
keyring_file: %s
%s
spool_dir: %s/spool-%d
spool_wait: %s
log: {level: %s}
default_provider: main
providers:
  main: {issuer: "%s", %s}
  second: {issuer: "%s", %s}
%s
`, public, address, r.Database.URL, keyFile, known, dir, i, max(20*time.Second, timeout+6*time.Second),
			cmp.Or(of.Log, "warn"), r.Provider.Issuer, options, r.Second.Issuer, options, of.More)
		if of.Older != "" {
			r.WTS = append(r.WTS, instance.StartOlder(t, of.Older, address, configuration))
			continue
		}
		// Replicas seal in the two forms by turns, as they do while an operator changes from one to the other.
		r.WTS = append(r.WTS, instance.StartOn(t, r.host(i), address, configuration+fmt.Sprintf(`
seal_format: %d
drain_delay: %s
stop_timeout: %s
rate_limits: {token: 1000000, mint: 1000000, introspect: 1000000, read: 1000000}
`, 1+i%2, of.DrainDelay, max(20*time.Second, timeout+10*time.Second))))
	}
	for _, one := range r.WTS {
		one.AwaitReady(t)
	}
	r.login = "http://" + public + "/oauth2/authorization_url"
	if of.Apart {
		r.browser = browserTo(public, addresses[0])
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Digest = keys.Digest
	r.store = sync.OnceValues(func() (*store.Store, error) {
		opened, err := store.Open(store.Config{URL: secret.Text(r.Database.URL)}, keys, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Cleanup(func() { _ = opened.Close() })
		}
		return opened, err
	})
	return r
}

// AddressOf is where a person's worker calls from, on the loopback device.
func AddressOf(at int) string { return fmt.Sprintf("127.1.%d.%d", at/250, at%250+1) }

// Worker is a person's, by their number.
func (r *Deployment) Worker(at int) *http.Client { return instance.WorkerAt(r.workerAddress(at)) }

func (r *Deployment) workerAddress(at int) string {
	if r.Hosts != nil {
		return network.Worker(at)
	}
	return AddressOf(at)
}

// addressOfReplica is what a replica listens on.
func (r *Deployment) addressOfReplica(t testing.TB, at int) string {
	if host := r.host(at); host != nil {
		return net.JoinHostPort(host.Address, "8080")
	}
	return fmt.Sprintf("127.0.0.1:%d", instance.FreePort(t))
}

// host is a replica's, nil on the loopback address.
func (r *Deployment) host(at int) *network.Host {
	if r.Hosts == nil {
		return nil
	}
	return r.Hosts[at]
}

// LogIn logs a person in with a browser.
func (r *Deployment) LogIn(ctx context.Context, name string) error {
	page, err := providertest.LogIn(ctx, providertest.BrowserOver(r.browser), r.login, name, "p")
	if err != nil || page.Status != http.StatusOK {
		return fmt.Errorf("logging in %s: %d, %w", name, page.Status, err)
	}
	return nil
}

// LogInAll logs everybody in.
func (r *Deployment) LogInAll(t testing.TB) {
	t.Helper()
	for _, name := range r.Names {
		if err := r.LogIn(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// Connect stores a grant of a person's as a login does, without one: at the provider, or at the second
// one too. The access token is 900 bytes, and lives that long; a dead one is refreshed at its first use.
func (r *Deployment) Connect(t testing.TB, name string, life time.Duration, second bool) (userID string) {
	t.Helper()
	opened, err := r.store()
	if err != nil {
		t.Fatal(err)
	}
	grant := func(server *providertest.Server, id string) broker.Grant {
		token, now := make([]byte, 900), time.Now()
		for i := range token {
			token[i] = 'a' + byte(i%26)
		}
		return broker.Grant{
			UserID: userID, Provider: id, Identity: provider.Identity{Issuer: server.Issuer, Subject: name, Username: name},
			Tokens: provider.Tokens{
				RefreshToken: secret.Text(server.Grant("wts", name)), AccessToken: secret.Text(token),
				IssuedAt: now.Add(-time.Second), AccessExpiresAt: now.Add(life),
			},
		}
	}
	stored, err := opened.Logins.Connect(t.Context(), grant(r.Provider, "main"))
	if userID = stored.UserID; err == nil && second {
		_, err = opened.Logins.Connect(t.Context(), grant(r.Second, "second"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return userID
}

// Expire ends the life of everybody's access token at a provider, of which the replicas hear.
func (r *Deployment) Expire(t testing.TB, providerID string) {
	t.Helper()
	r.Exec(t, "UPDATE connections SET access_expires_at = access_issued_at + 1 WHERE provider = $1", providerID)
	time.Sleep(time.Second)
}

// Exec runs a statement on the connections, of which the replicas hear.
func (r *Deployment) Exec(t testing.TB, statement string, arguments ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	connection, err := pgx.Connect(ctx, r.Database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	for _, each := range []struct {
		statement string
		arguments []any
	}{
		{statement, arguments},
		{"INSERT INTO changes (at, kind, object) SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, 'connection', user_id || '/' || provider FROM connections LIMIT 10000", nil},
	} {
		if _, err := connection.Exec(ctx, each.statement, each.arguments...); err != nil {
			t.Fatal(err)
		}
	}
}
