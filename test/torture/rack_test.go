//go:build torture

package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// refreshTimeout is how long an answer of the provider is waited for.
const refreshTimeout = 4 * time.Second

// rack is everything that is hurt.
type rack struct {
	database *pgtest.Cluster
	provider *providertest.Server
	wts      []*instance.Instance
	names    []string
	login    string // where people begin to log in
}

// setup is what a rack is made of.
type setup struct {
	people, replicas int
	grace, life      time.Duration // the provider's grace, and its access tokens' life
	rate             int           // refresh_rate, a second
	revokes          bool          // a refresh ends the access token before
}

func newRack(t *testing.T, of setup) *rack {
	t.Helper()
	r := &rack{}
	var err error
	if r.database, err = pgtest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.database.Remove() })
	var users []providertest.User
	workers := ""
	for at := range of.people {
		name := fmt.Sprintf("user%d", at)
		r.names = append(r.names, name)
		users = append(users, providertest.User{Name: name, Password: "p"})
		workers += fmt.Sprintf("%s: %s\n", addressOf(at), name)
	}
	if r.provider, err = providertest.Start(providertest.Options{Users: users, AccessLife: of.life, Grace: of.grace}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.provider.Close() })
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/workers.yaml", []byte(workers), 0o600); err != nil {
		t.Fatal(err)
	}
	keyring, first := instance.NewKeyring(t), instance.FreePort(t)
	r.provider.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: fmt.Sprintf("http://localhost:%d/oauth2/authorize", first)})
	for at := range of.replicas {
		port := first
		if at > 0 {
			port = instance.FreePort(t)
		}
		r.wts = append(r.wts, instance.Start(t, port, fmt.Sprintf(`
url: http://localhost:%d
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "%s"}
keyring_file: %s
workers_file: %s/workers.yaml
spool_dir: %s/spool
spool_wait: 20s
log: {level: warn}
providers:
  main: {issuer: "%s", client_id: wts, client_secret: s, username_claim: preferred_username, timeout: 5s, refresh_timeout: %s, refresh_rate: %d, reuse_grace: %s, revokes_access: %t}
`, first, port, r.database.URL, keyring, dir, dir, r.provider.Issuer, refreshTimeout, of.rate, of.grace, of.revokes)))
	}
	for _, one := range r.wts {
		one.AwaitReady(t)
	}
	r.login = fmt.Sprintf("http://localhost:%d/oauth2/authorization_url", first)
	for _, name := range r.names {
		if err := r.logIn(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rack) logIn(ctx context.Context, name string) error {
	page, err := providertest.LogIn(ctx, providertest.Browser(), r.login, name, "p")
	if err != nil || page.Status != http.StatusOK {
		return fmt.Errorf("logging in %s: %d, %w", name, page.Status, err)
	}
	return nil
}

// addressOf is where a person's worker calls from.
func addressOf(at int) string { return fmt.Sprintf("127.1.%d.%d", at/250, at%250+1) }

// tally is what the workers saw.
type tally struct {
	calls, served, unavailable, refused, unreachable atomic.Int64

	mu    sync.Mutex
	waits []time.Duration
}

// work lets the workers of these people, by number, ask all the time, each at a replica of its choice,
// until stop closes. Who is refused logs in again, as a person would.
func (r *rack) work(t *testing.T, seen *tally, people []int, stop <-chan struct{}) *sync.WaitGroup {
	working := &sync.WaitGroup{}
	for _, at := range people {
		working.Go(func() {
			client, chance := instance.WorkerAt(addressOf(at)), rand.New(rand.NewPCG(*seed, uint64(at)))
			client.Timeout = 10 * time.Second
			for {
				select {
				case <-stop:
					return
				case <-time.After(20*time.Millisecond + time.Duration(chance.IntN(200))*time.Millisecond):
				}
				began := time.Now()
				status := ask(client, r.wts[chance.IntN(len(r.wts))].Address)
				seen.note(status, time.Since(began))
				if status == http.StatusForbidden || status == http.StatusUnauthorized {
					for r.logIn(t.Context(), r.names[at]) != nil && t.Context().Err() == nil {
						time.Sleep(300 * time.Millisecond)
					}
				}
			}
		})
	}
	return working
}

// everybody are the numbers of all.
func (r *rack) everybody() (people []int) {
	for at := range r.names {
		people = append(people, at)
	}
	return people
}

func ask(client *http.Client, address string) (status int) {
	response, err := client.Get("http://" + address + "/token/?expires=600")
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func (s *tally) note(status int, took time.Duration) {
	s.calls.Add(1)
	switch status {
	case http.StatusOK:
		s.served.Add(1)
		s.mu.Lock()
		s.waits = append(s.waits, took)
		s.mu.Unlock()
	case 0:
		s.unreachable.Add(1)
	case http.StatusForbidden, http.StatusUnauthorized:
		s.refused.Add(1)
	default:
		s.unavailable.Add(1)
	}
}

func (s *tally) percentile(share float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waits) == 0 {
		return 0
	}
	slices.Sort(s.waits)
	return s.waits[min(int(share*float64(len(s.waits))), len(s.waits)-1)]
}

// lost asks for everybody once more, when all is well, and returns who has to log in again.
func (r *rack) lost(t *testing.T) (names []string) {
	t.Helper()
	for at, name := range r.names {
		client := instance.WorkerAt(addressOf(at))
		status := 0
		for deadline := time.Now().Add(90 * time.Second); status != http.StatusOK && status != http.StatusForbidden && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			status = ask(client, r.wts[at%len(r.wts)].Address)
		}
		if status != http.StatusOK {
			names = append(names, fmt.Sprintf("%s (%d)", name, status))
		}
	}
	return names
}
