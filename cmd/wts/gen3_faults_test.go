package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// flow begins a login in a browser and returns its state.
func (c *commons) flow(t *testing.T, browser *http.Client, query string) (state string) {
	t.Helper()
	still := *browser
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	page, err := providertest.Open(t.Context(), &still, c.portal+"/wts/oauth2/authorization_url"+query)
	if err != nil || page.Status != http.StatusFound {
		t.Fatalf("%d, %v: %s", page.Status, err, page.Body)
	}
	at, err := url.Parse(page.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return at.Query().Get("state")
}

// What section 5.1 of the Gen3 contract says of the Python service, and must not be said of ours. (S9
// is TestAttacksOnPodIdentity; S10 stays as it is; S13 is no test.)
func TestGen3SecurityFaults(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	c.link(t, "bob", "")
	t.Run("S1 callback parameters go no further", func(t *testing.T) {
		before := c.fence.Ledger().TokenPosts
		for _, injected := range []string{
			"grant_type=client_credentials&scope=admin", "grant_type=refresh_token&refresh_token=" + c.fence.Grant("bob", "wts"), "method=GET", "body=x&auth=y&headers=z",
		} {
			t.Run(injected, func(t *testing.T) {
				browser := c.portalUser(t, "alice")
				got := c.through(t, c.portal, &http.Client{Jar: browser.Jar}, http.MethodGet, "/wts/oauth2/authorize?"+injected+"&state="+c.flow(t, browser, ""))
				if got.status != 403 {
					t.Errorf("got %d %s; want 403", got.status, got.body)
				}
			})
		}
		if posts := c.fence.Ledger().TokenPosts - before; posts != 0 {
			t.Errorf("the provider was asked %d times", posts)
		}
	})
	t.Run("S2 no token in an error", func(t *testing.T) {
		forged, _ := json.Marshal(map[string]string{"access_token": "access-canary", "id_token": c.other.AccessToken("alice", nil), "refresh_token": "refresh-canary"})
		c.fence.Fail(&providertest.Fault{Times: 1, Status: 200, Body: string(forged), Header: http.Header{"Content-Type": {"application/json"}}})
		browser := c.portalUser(t, "alice")
		got := c.through(t, c.portal, &http.Client{Jar: browser.Jar}, http.MethodGet, "/wts/oauth2/authorize?code=code-canary&state="+c.flow(t, browser, ""))
		c.service.log.Warn("a warning, which writes out what came before it")
		if got.status != 403 || strings.Contains(got.body+c.log.String(), "-canary\"") || strings.Contains(got.body+c.log.String(), "code-canary") {
			t.Errorf("got %d %s; want 403, and no canary in it or in the log", got.status, got.body) // and S6: the id_token of another signer was not taken
		}
	})
	t.Run("S3 X-Forwarded-For", func(t *testing.T) {
		for _, base := range []string{c.url, c.portal + "/wts"} {
			t.Run(base, func(t *testing.T) {
				if got := c.through(t, base, nil, http.MethodGet, "/token/", "X-Forwarded-For", "127.0.0.2", "X-Real-Ip", "127.0.0.2", "Forwarded", "for=127.0.0.2"); got.status != 403 {
					t.Errorf("got %d %s; want 403", got.status, got.body)
				}
			})
		}
	})
	t.Run("S5 no stranger's issuer is fetched", func(t *testing.T) {
		var asked atomic.Int32
		stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
		defer stranger.Close()
		token := c.fence.AccessToken("alice", func(claims map[string]any) { claims["iss"] = stranger.URL })
		for _, path := range []string{"/oauth2/connected", "/token/?idp=other-google", "/external_oidc", "/aggregate/user/user", "/oauth2/authorization_url"} {
			c.call(t, nil, http.MethodGet, path, "Authorization", "bearer "+token)
		}
		if asked.Load() != 0 {
			t.Errorf("it was fetched %d times", asked.Load())
		}
	})
	t.Run("S7 the login says whose grant it is", func(t *testing.T) {
		browser := c.portalUser(t, "dave")
		page, err := providertest.LogIn(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url", "alice", "canary-password")
		if err != nil || page.Status != 403 || !strings.Contains(page.Body, "as another user") { // else the portal starts again and again
			t.Errorf("dave logs in as alice: %d %s, %v", page.Status, page.URL, err)
		}
		if got := c.call(t, nil, http.MethodGet, "/oauth2/connected", c.bearer("dave")...); got.status != 403 {
			t.Errorf("dave has alice's: %d %s", got.status, got.body)
		}
		if rows := c.sql(t, "SELECT 1 FROM refresh_token WHERE username = 'dave'"); len(rows) != 0 {
			t.Error("the mirror has it too")
		}
	})
	t.Run("S8 one account, two users", func(t *testing.T) {
		for _, name := range []string{"alice", "bob"} {
			c.linkIn(t, c.portalUser(t, name), "carol", "other-google")
		}
		for _, name := range []string{"alice", "bob"} {
			t.Run(name, func(t *testing.T) {
				if got := c.call(t, nil, http.MethodGet, "/oauth2/connected?idp=other-google", c.bearer(name)...); got.status != 200 {
					t.Errorf("got %d %s; want 200", got.status, got.body)
				}
				if rows := c.sql(t, "SELECT 1 FROM refresh_token WHERE username = $1 AND idp = 'other-google'", name); len(rows) != 1 {
					t.Errorf("%s has %d mirrored rows", name, len(rows))
				}
			})
		}
	})
	t.Run("S12 cookies, schemes, rates and logout", func(t *testing.T) {
		got := c.call(t, nil, http.MethodGet, "/oauth2/authorization_url")
		if cookie := got.header.Get("Set-Cookie"); !strings.Contains(cookie, "SameSite=Lax") || !strings.Contains(cookie, "HttpOnly") {
			t.Errorf("the cookie: %s", cookie)
		}
		token := c.fence.AccessToken("alice", nil)
		for scheme, status := range map[string]int{"bearer": 200, "Bearer": 200, "BEARER": 200, "Basic": 401, "X": 401} {
			t.Run(scheme, func(t *testing.T) {
				if got := c.call(t, nil, http.MethodGet, "/oauth2/connected", "Authorization", scheme+" "+token); got.status != status {
					t.Errorf("got %d; want %d", got.status, status)
				}
			})
		}
		c.call(t, nil, http.MethodGet, "/oauth2/logout?idp=default", "Authorization", "Bearer "+token)
		if got := c.call(t, nil, http.MethodGet, "/oauth2/connected", "Authorization", "Bearer "+token); got.status != 200 {
			t.Error("a GET disconnected")
		}
	})
}

func TestGen3AggregateIsLimited(t *testing.T) {
	c := startCommons(t, func(c *commons) { c.env = append(c.env, "WTS_AGGREGATE__BURST=3", "WTS_AGGREGATE__PER_SECOND=0.001") })
	statuses := map[int]int{}
	for range 5 {
		got := c.call(t, nil, http.MethodGet, "/aggregate/user/user", c.bearer("alice")...)
		statuses[got.status]++
		if got.status == 429 && (got.header.Get("Retry-After") == "" || got.member("message") == "") {
			t.Errorf("got 429 with %v %s; want Retry-After and a message", got.header, got.body)
		}
	}
	if statuses[200] != 3 || statuses[429] != 2 {
		t.Errorf("got %v", statuses)
	}
	if got := c.call(t, nil, http.MethodGet, "/aggregate/user/user", c.bearer("bob")...); got.status != 200 {
		t.Errorf("another caller: %d", got.status)
	}
}

// Section 5.2, line by line. (Stuck users are TestGen3PortalLinksAnewByItself; connected?idp= is in
// TestGen3Answers; aggregate has tests of its own; database passwords are the configuration's.)
func TestGen3FunctionalFaults(t *testing.T) {
	c := startCommons(t, nil)
	c.link(t, "alice", "")
	pod := workerAt("127.0.0.2")
	t.Run("opaque refresh tokens that rotate", func(t *testing.T) {
		c.link(t, "alice", "keycloak")
		for turn := range 4 {
			c.sql(t, "UPDATE connections SET access_expires_at = access_issued_at + 1 WHERE provider = 'keycloak'")
			c.broker.ForgetAll()
			if got := c.call(t, pod, http.MethodGet, "/token/?idp=keycloak"); got.status != 200 || got.member("token") == "" {
				t.Fatalf("turn %d: %d %s", turn, got.status, got.body)
			}
		}
		if ledger := c.plain.Ledger(); ledger.Refreshes < 4 || ledger.Refused != 0 {
			t.Errorf("the provider saw %+v", ledger)
		}
		if rows := c.sql(t, "SELECT 1 FROM refresh_token WHERE idp = 'keycloak'"); len(rows) != 0 {
			t.Error("a provider that may rotate is mirrored")
		}
	})
	t.Run("expires counts, and an answer is kept", func(t *testing.T) {
		first := c.call(t, pod, http.MethodGet, "/token/?expires=600").member("token")
		posts := c.fence.Ledger().TokenPosts
		for range 10 {
			if got := c.call(t, pod, http.MethodGet, "/token/?expires=600").member("token"); got != first || got == "" {
				t.Fatal("another token")
			}
		}
		if now := c.fence.Ledger().TokenPosts; now != posts {
			t.Errorf("%d posts", now-posts)
		}
		// Four minutes left are enough for 200 s, and not for 600.
		soon := time.Now().Add(4 * time.Minute).UnixMilli()
		c.sql(t, "UPDATE connections SET access_expires_at = $1, access_issued_at = $2 WHERE provider = 'default'", soon, soon-20*60_000)
		c.broker.ForgetAll()
		if got := c.call(t, pod, http.MethodGet, "/token/?expires=200").member("token"); got != first {
			t.Error("refreshed too early")
		}
		if got := c.call(t, pod, http.MethodGet, "/token/?expires=600").member("token"); got == first || got == "" {
			t.Error("not refreshed")
		}
	})
	t.Run("nobody sees another's links", func(t *testing.T) {
		c.link(t, "alice", "other-google")
		alice, bob := c.bearer("alice"), c.bearer("bob")
		var asking sync.WaitGroup
		for range 20 {
			for _, one := range [][]string{alice, bob, nil} {
				asking.Go(func() {
					got := c.call(t, nil, http.MethodGet, "/external_oidc", one...)
					if linked := strings.Contains(got.body, `"refresh_token_expiration":"29 days"`); linked != (len(one) > 0 && one[1] == alice[1]) {
						t.Errorf("%d: linked %t", got.status, linked)
					}
				})
			}
		}
		asking.Wait()
	})
	t.Run("two logins at once, and one that was abandoned", func(t *testing.T) {
		browser := c.portalUser(t, "carol")
		c.linkIn(t, browser, "carol", "")
		_ = c.flow(t, browser, "?redirect=/abandoned")
		pages := make([]string, 2)
		for i, idp := range []string{"other-google", "other-ras"} {
			page, err := providertest.Open(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url?idp="+idp+fmt.Sprintf("&redirect=/%d", i))
			if err != nil {
				t.Fatal(err)
			}
			pages[i] = page.URL.Query().Get("request")
		}
		for i, request := range pages {
			response, err := browser.PostForm(c.other.BaseURL+"/login", url.Values{"request": {request}, "name": {"carol"}, "password": {"canary-password"}})
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if want := fmt.Sprintf("/%d", i); response.StatusCode != 200 || response.Request.URL.Path != want {
				t.Errorf("ended at %d %s, want %s", response.StatusCode, response.Request.URL, want)
			}
		}
	})
	t.Run("what has expired goes", func(t *testing.T) {
		long := time.Now().Add(-40 * 24 * time.Hour)
		c.asPython(t, "zoe", "default", "an-old-token", long)
		c.asPython(t, "zoe", "other-ras", "a-newer-token", time.Now().Add(-time.Hour))
		c.sql(t, "UPDATE connections SET refresh_expires_at = $1 WHERE provider = 'other-google'", long.UnixMilli())
		if err := c.store.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rows := c.sql(t, "SELECT idp FROM refresh_token WHERE username = 'zoe'"); len(rows) != 1 || rows[0][0] != "other-ras" {
			t.Errorf("left: %v", rows)
		}
		if rows := c.sql(t, "SELECT 1 FROM connections WHERE provider = 'other-google' AND (refresh_token IS NOT NULL OR phase <> 'disconnected')"); len(rows) != 0 {
			t.Errorf("%d expired connections keep their tokens", len(rows))
		}
	})
}

// Gen3 contract 1.4: the session of wts counts for logins and pages alone, so that the portal's logout ends
// access, and another user's bearer ends it.
func TestGen3SessionsAfterThePortalsLogout(t *testing.T) {
	c := startCommons(t, nil)
	browser := c.link(t, "alice", "")
	c.linkIn(t, browser, "alice", "other-google")
	at, _ := url.Parse(c.portal)
	left := &http.Client{Jar: browser.Jar}
	switchTo := func(bearer string) {
		cookie := &http.Cookie{Name: "access_token", Value: bearer, Path: "/"}
		if bearer == "" {
			cookie.MaxAge = -1
		}
		browser.Jar.SetCookies(at, []*http.Cookie{cookie})
	}
	ask := func(method, path string) answer {
		return c.through(t, c.portal, left, method, "/wts"+path, "Sec-Fetch-Site", "same-origin")
	}
	page := func() string {
		return c.through(t, c.portal, left, http.MethodGet, "/wts/", "Accept", "text/html").body
	}
	if got := ask(http.MethodGet, "/api/v1/tokens"); got.status != 200 {
		t.Errorf("alice's API tokens, while she is logged in at the portal: %d %s", got.status, got.body)
	}
	// A program is let in by who is logged in at the portal too: a session that was left behind is not enough.
	letIn := func() answer {
		return c.through(t, c.portal, left, http.MethodGet, "/wts/device", "Accept", "text/html", "Sec-Fetch-Site", "same-origin")
	}
	if got := letIn(); got.status != http.StatusOK || !strings.Contains(got.body, "user_code") {
		t.Errorf("letting a program in, while she is logged in at the portal: %d %s", got.status, got.body)
	}
	expired := c.fence.AccessToken("bob", func(claims map[string]any) { claims["exp"] = time.Now().Add(-time.Hour).Unix() })
	for name, bearer := range map[string]string{"logged out": "", "bob's bearer, expired": expired} {
		t.Run(name, func(t *testing.T) {
			switchTo(bearer)
			for path, want := range map[string]int{"/token/": 403, "/token/?idp=default": 403, "/token/?idp=other-google": 403, "/oauth2/connected": 401, "/api/v1/tokens": 403, "/api/v1/resources": 403} {
				t.Run(path, func(t *testing.T) {
					if bearer != "" && (path == "/token/?idp=other-google" || strings.HasPrefix(path, "/api/")) {
						want = 401
					}
					if got := ask(http.MethodGet, path); got.status != want {
						t.Errorf("%d, want %d", got.status, want)
					}
				})
			}
			if got := letIn(); got.status != http.StatusForbidden || strings.Contains(got.body, "user_code") {
				t.Errorf("letting a program in: %d %s, want 403", got.status, got.body)
			}
			if got := ask(http.MethodGet, "/external_oidc/?unexpired=true"); got.status != 200 || strings.Contains(got.body, "other-google") {
				t.Errorf("/external_oidc lists alice's: %s", got.body)
			}
			if got := ask(http.MethodGet, "/aggregate/user/user"); bearer == "" && (got.status != 200 || strings.Contains(got.body, `"bearer":true`)) {
				t.Errorf("/aggregate with alice's tokens: %s", got.body)
			}
		})
	}
	switchTo("")
	if !strings.Contains(page(), `<span class="name">alice</span>`) {
		t.Error("the page does not know alice's session")
	}
	if got := ask(http.MethodPost, "/oauth2/logout?idp=default"); got.status != 204 {
		t.Errorf("alice disconnects on the page: %d", got.status)
	}
	switchTo(c.fence.AccessToken("bob", nil))
	if got := ask(http.MethodDelete, "/api/v1/tokens"); got.status != 403 {
		t.Errorf("all API tokens are revoked with bob's bearer and alice's session: %d %s", got.status, got.body)
	}
	if got := ask(http.MethodGet, "/oauth2/connected"); got.status != 403 {
		t.Errorf("bob: %d", got.status)
	}
	switchTo("")
	if strings.Contains(page(), "alice") {
		t.Error("alice's session outlives bob's bearer")
	}
}

// A refused bearer at authorization_url is 401 for a provider that a user connects, and no loop; a login
// at the default provider, which brings a new bearer, goes on.
func TestGen3RefusedBearerAtAuthorizationURL(t *testing.T) {
	c := startCommons(t, nil)
	browser := c.link(t, "alice", "")
	at, _ := url.Parse(c.portal)
	browser.Jar.SetCookies(at, []*http.Cookie{{Name: "access_token", Value: "garbage", Path: "/"}})
	hops := 0
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { hops++; return nil }
	page, err := providertest.Open(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url?idp=other-google&redirect=/identity")
	if err != nil || page.Status != 401 || hops > 0 {
		t.Errorf("%d after %d redirects, %v", page.Status, hops, err)
	}
	page, err = providertest.LogIn(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url?redirect=/workspace", "alice", "canary-password")
	if err != nil || page.URL.Path != "/workspace" {
		t.Errorf("logging in again: %d at %s, %v", page.Status, page.URL, err)
	}
}

// Gen3 contract 1.4: a second external account is 409 for JSON, and a page whose address lets the portal's
// window close.
func TestGen3AnotherExternalAccount(t *testing.T) {
	c := startCommons(t, nil)
	browser := c.link(t, "alice", "")
	c.linkIn(t, browser, "alice", "other-google")
	page, err := providertest.LogIn(t.Context(), browser, c.portal+"/wts/oauth2/authorization_url?idp=other-google", "bob", "canary-password")
	if err != nil || page.Status != http.StatusConflict || !strings.Contains(page.Body, "Keep") || !strings.Contains(page.Body, "Disconnect alice and connect bob") {
		t.Errorf("%d, %v\n%s", page.Status, err, page.Body)
	}
	if address := page.URL.String(); strings.Contains(address, "auth") || !strings.Contains(address, "error=401") {
		t.Errorf("the window stays open at %s", address)
	}
}
