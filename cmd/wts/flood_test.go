package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// Rule F1: logins that fail, from many addresses, take up neither the provider nor the database, and 200
// people behind one address log in meanwhile.
func TestAnonymousLogins(t *testing.T) {
	const attackers, people = 4, 200
	r := startReplica(t)
	ctx, cancel := context.WithCancel(t.Context())
	var attacking sync.WaitGroup
	var tried, refused atomic.Int32
	for i := range attackers {
		attacking.Go(func() {
			client := clientAt(fmt.Sprintf("127.0.9.%d", i+1))
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			for ctx.Err() == nil {
				begun, err := get(ctx, client, r.url+"/oauth2/authorization_url", nil)
				if err != nil {
					continue
				}
				to, _ := url.Parse(begun.Header.Get("Location"))
				back, err := get(ctx, client, r.url+"/oauth2/authorize?code=junk&state="+to.Query().Get("state"), begun.Cookies())
				if err != nil {
					continue
				}
				tried.Add(1)
				if back.StatusCode == http.StatusTooManyRequests {
					refused.Add(1)
				}
			}
		})
	}
	before := time.Now()
	var logging sync.WaitGroup
	places := make(chan struct{}, 40)
	for range people {
		logging.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			browser := providertest.BrowserOver(clientAt("127.0.7.7").Transport)
			browser.Transport = bothWays{ours: browser.Transport, host: strings.TrimPrefix(r.url, "http://")}
			page, err := providertest.LogIn(ctx, browser, r.url+"/oauth2/authorization_url", "alice", "canary-password")
			if err != nil || page.Status != http.StatusOK || !strings.Contains(page.Body, ">Log out<") {
				t.Errorf("a person logs in: %d at %v, %v", page.Status, page.URL, err)
			}
		})
	}
	logging.Wait()
	time.Sleep(2 * time.Second)
	took := time.Since(before)
	cancel()
	attacking.Wait()
	posts := r.first.Ledger().TokenPosts
	most := people + attackers*(toleratedFailures+loginsUnderWay) + int(took.Seconds()+10)*6
	t.Logf("%d logins succeeded in %s; of %d that fail by themselves %d were refused unasked; the provider got %d requests, at most %d are allowed", people, took.Round(time.Millisecond), tried.Load(), refused.Load(), posts, most)
	if posts > most {
		t.Errorf("the provider got %d requests, want at most %d", posts, most)
	}
}

// What pkg/server allows to a network, which this test knows as an operator does: by the documents.
const toleratedFailures, loginsUnderWay = 10, 20

// bothWays goes to the service from one address, and anywhere else from any.
type bothWays struct {
	ours http.RoundTripper
	host string
}

func (b bothWays) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Sec-Fetch-Dest", "document")
	request.Header.Set("Accept", "text/html")
	if request.URL.Host == b.host {
		return b.ours.RoundTrip(request)
	}
	return http.DefaultTransport.RoundTrip(request)
}

// get asks once, and follows nothing.
func get(ctx context.Context, client *http.Client, address string, cookies []*http.Cookie) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	for _, cookie := range cookies {
		request.AddCookie(cookie)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return response, response.Body.Close()
}

// A login that is refused says in the audit whose it was.
func TestARefusedLoginNamesTheUser(t *testing.T) {
	r := startReplica(t)
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	user, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	if page.Status != http.StatusForbidden || !strings.Contains(page.Body, "Your account is disabled") {
		t.Errorf("%d\n%s", page.Status, page.Body)
	}
	r.service.log.Warn("a warning, which writes out what came before it")
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, `"audit":"login"`) && strings.Contains(line, `"outcome":"refused"`) {
			if !strings.Contains(line, user.ID) || !strings.Contains(line, `"alice"`) {
				t.Errorf("the audit names nobody: %s", line)
			}
			return
		}
	}
	t.Error("no refused login is in the audit")
}
