package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

var siege = flag.Duration("siege", 6*time.Second, "how long anonymous callers attack")

// attack is what one anonymous caller does again and again.
type attack func(ctx context.Context, client *http.Client, number int)

// Rule F1: anonymous logins, made-up service-account tokens, aggregate calls at a commons
// that hangs and calls from unknown addresses, all together: each good call succeeds, the database grows by a
// bounded number of rows, and 200 people behind one address log in meanwhile.
func TestGoodCallersBesideAttackers(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"open":true}`)) }))
	defer open.Close()
	r, cluster := inCluster(t, func(c *config.Config) {
		c.Kube.ServiceAccount.Verify = kube.VerifyReview
		c.Authn.Bearer.Audiences = []string{"wts"}
		c.Aggregate.Endpoints, c.Aggregate.Timeout = []string{"/open"}, 2*time.Second
		for id, base := range map[string]string{"first": open.URL, "second": hanging.URL} {
			one := c.Providers[id]
			one.BaseURL = base
			c.Providers[id] = one
		}
	})
	alice := kubetest.Pod("work", "alice", "127.0.0.2", "alice")
	cluster.Put(alice)
	proof, unsigned := cluster.Token(alice, "wts"), cluster.Token(alice, "wts")
	unsigned = unsigned[:strings.LastIndexByte(unsigned, '.')+1]
	eventually(t, "alice's pod is known", func() bool { return r.from(t, "127.0.0.2", "/token/").status == 200 })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var attacking sync.WaitGroup
	var attempts atomic.Int64
	for kind, attack := range map[string]attack{
		"logins": func(ctx context.Context, client *http.Client, _ int) {
			begun, err := get(ctx, client, r.url+"/oauth2/authorization_url", nil)
			if err != nil {
				return
			}
			to, _ := url.Parse(begun.Header.Get("Location"))
			_, _ = get(ctx, client, r.url+"/oauth2/authorize?code=junk&state="+to.Query().Get("state"), begun.Cookies())
		},
		"tokens that are made up": func(ctx context.Context, client *http.Client, number int) {
			made := unsigned + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%064d", number))
			request, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/token/", nil)
			request.Header.Set("Authorization", "Bearer "+made)
			if response, err := client.Do(request); err == nil {
				_ = response.Body.Close()
			}
		},
		"aggregate": func(ctx context.Context, client *http.Client, _ int) {
			_, _ = get(ctx, client, r.url+"/aggregate/open", nil)
		},
		"unknown addresses": func(ctx context.Context, client *http.Client, _ int) { _, _ = get(ctx, client, r.url+"/token/", nil) },
	} {
		for caller := range 5 {
			attacking.Go(func() {
				for number := 0; ctx.Err() == nil; number++ {
					address := fmt.Sprintf("127.3.%d.%d", len(kind)%7, caller+1)
					if kind == "unknown addresses" { // another one each time
						address = fmt.Sprintf("127.4.%d.%d", number/250%250, number%250+1)
					}
					client := clientAt(address)
					client.Transport.(*http.Transport).DisableKeepAlives = true
					client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
					attack(ctx, client, caller*1_000_000+number)
					attempts.Add(1)
				}
			})
		}
	}

	ended := time.Now().Add(*siege)
	var good sync.WaitGroup
	var mu sync.Mutex
	took := map[string][]time.Duration{}
	ask := func(kind string, call func(number int) answer, right func(answer) bool) {
		good.Go(func() {
			for number := 0; time.Now().Before(ended); number++ {
				began := time.Now()
				if got := call(number); !right(got) {
					t.Errorf("%s: %d %.200s", kind, got.status, got.body)
				}
				mu.Lock()
				took[kind] = append(took[kind], time.Since(began))
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	fine := func(got answer) bool { return got.status == http.StatusOK }
	ask("a pod by its address", func(int) answer { return r.from(t, "127.0.0.2", "/token/") }, fine)
	ask("a pod by its token", func(int) answer { return r.from(t, "127.0.0.99", "/token/", "Authorization", "Bearer "+proof) }, fine)
	ask("a new token each time", func(int) answer {
		return r.from(t, "127.0.0.98", "/token/", "Authorization", "Bearer "+cluster.Token(alice, "wts"))
	}, fine)
	ask("a new pod each time", func(number int) answer {
		address := fmt.Sprintf("127.5.%d.%d", number/250, number%250+1)
		cluster.Put(kubetest.Pod("work", fmt.Sprintf("pod-%d", number), address, "alice"))
		return r.from(t, address, "/token/")
	}, fine)
	ask("a user's aggregate", func(int) answer {
		bearer := r.from(t, "127.0.0.2", "/token/").member("token")
		return r.from(t, "127.0.0.97", "/aggregate/open", "Authorization", "Bearer "+bearer)
	}, func(got answer) bool { return fine(got) && strings.Contains(got.body, `{"open":true}`) })
	places := make(chan struct{}, 20)
	for range 200 {
		good.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			browser := providertest.BrowserOver(nil)
			browser.Transport = bothWays{ours: clientAt("127.0.7.7").Transport, host: strings.TrimPrefix(r.url, "http://")}
			began := time.Now()
			page, err := providertest.LogIn(ctx, browser, r.url+"/oauth2/authorization_url", "alice", "canary-password")
			if err != nil || page.Status != http.StatusOK || !strings.Contains(page.Body, ">Log out<") {
				t.Errorf("a person logs in: %d at %v, %v", page.Status, page.URL, err)
			}
			mu.Lock()
			took["a person logs in"] = append(took["a person logs in"], time.Since(began))
			mu.Unlock()
		})
	}
	good.Wait()
	cancel()
	attacking.Wait()
	for kind, all := range took {
		slices.Sort(all)
		t.Logf("%-22s %5d calls, half within %s, 99 of 100 within %s", kind, len(all), all[len(all)/2].Round(time.Microsecond), all[len(all)*99/100].Round(time.Microsecond))
	}
	rows := r.rows(t, "login_states")
	most := 200 + 5*(toleratedFailures+loginsUnderWay) + int(siege.Seconds()+10)*6
	t.Logf("%d attempts of anonymous callers; %d logins are rows, at most %d are allowed", attempts.Load(), rows, most)
	if rows > most {
		t.Errorf("%d rows of logins, want at most %d", rows, most)
	}
}

// rows counts a table's rows in the replica's SQLite file.
func (r *replica) rows(t *testing.T, table string) (count int) {
	t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(string(r.config.Database.URL), "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&count); err != nil {
		t.Fatal(err)
	}
	return count
}
