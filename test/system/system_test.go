// Package system tests what takes several real processes: replicas over one database, and a
// database that comes and goes.
package system

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

func TestMain(m *testing.M) {
	if howLong := os.Getenv(envReader); howLong != "" {
		os.Exit(readTokens(howLong))
	}
	code := instance.Main(m)
	pgtest.Cleanup()
	os.Exit(code)
}

// cluster is two replicas behind one public URL, which is that of the first.
type cluster struct {
	one, two *instance.Instance
	url      string
	provider *providertest.Server
}

func startCluster(t *testing.T, database string) *cluster {
	t.Helper()
	ports := [2]int{instance.FreePort(t), instance.FreePort(t)}
	c := &cluster{url: fmt.Sprintf("http://localhost:%d", ports[0])}
	var err error
	c.provider, err = providertest.Start(providertest.Options{
		Users: []providertest.User{{Name: "alice", Password: "a"}}, AccessLife: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.provider.Close() })
	c.provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: c.url + "/oauth2/authorize"})
	workers := t.TempDir() + "/workers.yaml"
	if err := os.WriteFile(workers, []byte(instance.WorkerAddress+": alice\n127.0.0.1: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keyring := instance.NewKeyring(t)
	start := func(port int) *instance.Instance {
		return instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "%s"}
keyring_file: %s
workers_file: %s
issuer: {jwks_max_age: 1s}
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username}
audiences: {storage: {}}
`, c.url, port, database, keyring, workers, c.provider.Issuer))
	}
	c.one, c.two = start(ports[0]), start(ports[1])
	return c
}

func (c *cluster) ready(t *testing.T) {
	t.Helper()
	c.one.AwaitReady(t)
	c.two.AwaitReady(t)
}

func (c *cluster) logIn(t *testing.T, browser *http.Client) {
	t.Helper()
	page, err := providertest.LogIn(t.Context(), browser, c.url+"/oauth2/authorization_url", "alice", "a")
	if err != nil || page.Status != http.StatusOK || !strings.Contains(page.Body, ">Log out<") {
		t.Fatalf("logging in: %d, %v\n%s", page.Status, err, page.Body)
	}
}

func kid(t *testing.T, token string) string {
	t.Helper()
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		KeyID string `json:"kid"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	return head.KeyID
}

func mint(t *testing.T, from *instance.Instance) string {
	t.Helper()
	answer := from.Token(t, instance.Worker(), "?audience=storage&expires=60")
	if answer.Status != http.StatusOK {
		t.Fatalf("minting at %s: %d %s", from.Address, answer.Status, answer.Message)
	}
	return answer.Token
}

// verifies makes a resource service that asks one replica for the keys.
func (c *cluster) verifies(t *testing.T, keysOf *instance.Instance) *verifier.Verifier {
	t.Helper()
	v, err := verifier.New(t.Context(), c.url, "storage",
		verifier.WithKeySetURL("http://"+keysOf.Address+"/.well-known/jwks.json"), verifier.WithRefresh(time.Second), verifier.WithLookup(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTwoReplicasOnOnePostgreSQL(t *testing.T) {
	c := startCluster(t, pgtest.Database(t))
	c.ready(t)

	t.Run("a login begun on one finishes on the other", func(t *testing.T) {
		browser := providertest.Browser()
		finished := ""
		browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
			if next.URL.Path == "/oauth2/authorize" { // the load balancer picks the other replica
				next.URL.Host = "localhost" + c.two.Address[strings.LastIndex(c.two.Address, ":"):]
				finished = next.URL.Host
			}
			return nil
		}
		c.logIn(t, browser)
		if finished == "" {
			t.Fatal("it finished where it began")
		}
	})

	t.Run("a token minted by one verifies with the other's keys", func(t *testing.T) {
		for _, pair := range [][2]*instance.Instance{{c.one, c.two}, {c.two, c.one}} {
			claims, err := c.verifies(t, pair[1]).Verify(t.Context(), mint(t, pair[0]))
			if err != nil || claims.Username != "alice" {
				t.Errorf("minted by %s: %v", pair[0].Address, err)
			}
		}
	})

	t.Run("a rotated key is signed with by both and no token is refused meanwhile", func(t *testing.T) {
		before := kid(t, mint(t, c.one))
		said := c.one.Run(t, "keys", "rotate")
		if !strings.Contains(said, "sign from") {
			t.Fatalf("wts keys rotate says %q", said)
		}
		services := []*verifier.Verifier{c.verifies(t, c.one), c.verifies(t, c.two)}
		changed := [2]bool{}
		minted := 0
		for deadline := time.Now().Add(12 * time.Second); time.Now().Before(deadline) && (!changed[0] || !changed[1]); time.Sleep(50 * time.Millisecond) {
			for i, replica := range []*instance.Instance{c.one, c.two} {
				token := mint(t, replica)
				minted++
				changed[i] = kid(t, token) != before
				for _, service := range services {
					if _, err := service.Verify(t.Context(), token); err != nil {
						t.Fatalf("a token of %s, signed by the new key: %v, was refused: %v", replica.Address, changed[i], err)
					}
				}
			}
		}
		if !changed[0] || !changed[1] {
			t.Fatalf("after 12 s the replicas sign with the new key: %v", changed)
		}
		if one, two := kid(t, mint(t, c.one)), kid(t, mint(t, c.two)); one != two {
			t.Errorf("they sign with %s and %s", one, two)
		}
		list := c.two.Run(t, "keys", "list")
		if !strings.Contains(list, "active") || !strings.Contains(list, "retired") {
			t.Errorf("wts keys list says\n%s", list)
		}
		t.Logf("%d tokens verified while the key changed", minted)
	})

	t.Run("a disconnect on one is seen by the other within five seconds", func(t *testing.T) {
		browser := providertest.Browser()
		c.logIn(t, browser)
		if got := c.two.Token(t, instance.Worker(), ""); got.Status != http.StatusOK {
			t.Fatalf("before: %d", got.Status)
		}
		response, err := browser.Post(c.url+"/oauth2/logout?idp=main", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		began := time.Now()
		for c.two.Token(t, instance.Worker(), "").Status != http.StatusForbidden {
			if time.Since(began) > 5*time.Second {
				t.Fatal("after 5 s the other replica still hands out tokens")
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("seen after %s", time.Since(began).Round(time.Millisecond))
	})

	t.Run("a replica that is told to stop drains", func(t *testing.T) {
		if took, code := c.two.Terminate(); code != 0 || took > 10*time.Second {
			t.Errorf("it took %s and ended with %d", took, code)
		}
	})
}

func TestADatabaseThatComesAndGoes(t *testing.T) {
	database, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Remove() })
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, database.URL)

	// Down at the start: the service is there and says so.
	c.one.AwaitStatus(t, "/healthz", http.StatusOK)
	for path, status := range map[string]int{"/_status": 500, "/readyz": 503, "/.well-known/jwks.json": 503} {
		t.Run(path, func(t *testing.T) {
			c.one.AwaitStatus(t, path, status)
		})
	}
	if got := c.one.Token(t, instance.Worker(), ""); got.Status != http.StatusServiceUnavailable || retryAfter(got) <= 0 {
		t.Errorf("down at the start: %d, Retry-After %q", got.Status, got.Header.Get("Retry-After"))
	}
	if log := c.one.Log(); !strings.Contains(log, "the database cannot be used yet") {
		t.Errorf("the log does not say so:\n%s", log)
	}

	// It comes: no restart is needed.
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	c.ready(t)
	c.one.AwaitStatus(t, "/_status", http.StatusOK)
	c.logIn(t, providertest.Browser())
	time.Sleep(2500 * time.Millisecond) // a replica hears of the login, its own too, and reads the user anew
	held := c.one.Token(t, instance.Worker(), "")
	minted := mint(t, c.one)
	if held.Status != http.StatusOK {
		t.Fatalf("with the database there: %d %s", held.Status, held.Message)
	}
	resource := c.verifies(t, c.one)
	if _, err := resource.Verify(t.Context(), minted); err != nil {
		t.Fatal(err)
	}

	// It goes: what is in memory is served, what is not is an outage, and nobody is refused.
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got := c.one.Token(t, instance.Worker(), ""); got.Status != http.StatusOK || got.Token != held.Token {
			t.Fatalf("a token in memory: %d %s", got.Status, got.Message)
		}
		if _, err := resource.Verify(t.Context(), mint(t, c.one)); err != nil {
			t.Fatalf("minting goes on: %v", err)
		}
	}
	if got := c.two.Token(t, instance.Worker(), ""); got.Status != http.StatusServiceUnavailable || retryAfter(got) <= 0 {
		t.Errorf("a replica that holds nothing: %d %s, Retry-After %q", got.Status, got.Message, got.Header.Get("Retry-After"))
	}
	for _, path := range []string{"/_status", "/readyz", "/.well-known/jwks.json"} {
		c.one.AwaitStatus(t, path, http.StatusOK)
	}
	page, err := providertest.LogIn(t.Context(), providertest.Browser(), c.url+"/oauth2/authorization_url", "alice", "a")
	if err != nil || page.Status != http.StatusServiceUnavailable || page.Header.Get("Retry-After") == "" {
		t.Errorf("a login meanwhile: %d, %v", page.Status, err)
	}

	// It comes again: everything goes on, by itself.
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	for _, replica := range []*instance.Instance{c.one, c.two} {
		for began := time.Now(); replica.Token(t, instance.Worker(), "").Status != http.StatusOK; time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 15*time.Second {
				t.Fatalf("%s did not recover within 15 s:\n%s", replica.Address, replica.Log())
			}
		}
	}
	c.logIn(t, providertest.Browser())
	if ledger := c.provider.Ledger(); ledger.Reused != 0 {
		t.Errorf("a spent refresh token was presented again: %+v", ledger)
	}
}

func retryAfter(answer instance.TokenAnswer) int {
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return seconds
}
