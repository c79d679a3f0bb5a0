package main

import (
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// A login without a refresh token ends with its first access token. The person, a program and the log
// are told at once, with what to change.
func TestALoginWithoutARefreshTokenSaysSo(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		first := c.Providers["first"]
		first.Scopes = []string{"openid", "profile"} // without offline_access
		c.Providers["first"] = first
	})
	page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url?redirect=/lab", "alice")
	for _, part := range []string{"Signed in, but only until <time", "The first gave no refresh token", "Continue", `href="/lab"`} {
		t.Run(part, func(t *testing.T) {
			if page.Status != http.StatusOK || !strings.Contains(page.Body, part) {
				t.Errorf("%d, and the page lacks %q:\n%s", page.Status, part, page.Body)
			}
		})
	}
	if log := r.log.String(); !strings.Contains(log, "offline_access") || !strings.Contains(log, `"WARN"`) {
		t.Errorf("the log does not say what to change")
	}
	again := startReplica(t)
	page = again.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	if strings.Contains(page.Body, "no refresh token") || strings.Contains(again.log.String(), "offline_access") {
		t.Error("a login with a refresh token is said to have none")
	}
}

// Wrong client credentials are an operator's to fix, and nobody is told that a token cannot be had.
func TestALoginWithWrongClientCredentials(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		first := c.Providers["first"]
		first.ClientSecret = "canary-wrong"
		c.Providers["first"] = first
	})
	page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	if page.Status != http.StatusServiceUnavailable || !strings.Contains(page.Body, "The first does not know this service") {
		t.Errorf("got %d:\n%s", page.Status, page.Body)
	}
	if log := r.log.String(); !strings.Contains(log, "client_auth") || strings.Contains(log, "canary-wrong") {
		t.Error("the log does not name client_auth, or holds the secret")
	}
}

// Disconnecting at a provider that has no revocation endpoint says so.
func TestADisconnectThatTheProviderCannotBeTold(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	got := r.call(t, &http.Client{Jar: browser.Jar}, http.MethodPost, "/oauth2/logout?idp=first")
	if got.status != http.StatusNoContent || got.header.Get("Wts-Notice") != "" {
		t.Errorf("at one that has: %d, %q", got.status, got.header.Get("Wts-Notice"))
	}
	without := startReplica(t, func(c *config.Config) {
		first := c.Providers["first"]
		first.AuthURL, first.TokenURL, first.Issuer = first.Issuer+"/authorize", first.Issuer+"/oauth/token", ""
		c.Providers["first"] = first
	})
	browser = providertest.Browser()
	without.logIn(t, browser, "/oauth2/authorization_url", "alice")
	got = without.call(t, &http.Client{Jar: browser.Jar}, http.MethodPost, "/oauth2/logout?idp=first")
	if got.status != http.StatusNoContent || !strings.Contains(got.header.Get("Wts-Notice"), "no revocation endpoint") {
		t.Errorf("at one that has none: %d, %q", got.status, got.header.Get("Wts-Notice"))
	}
}

// Rule C5: a link from another site connects nothing by itself. The person is asked, and the link of
// that page is good in this browser alone.
func TestALinkFromAnotherSiteConnectsNothing(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	begin := func(browser *http.Client, query, site string) answer {
		return r.call(t, browser, http.MethodGet, "/oauth2/authorization_url?"+query, "Sec-Fetch-Site", site, "Accept", "text/html")
	}
	asked := begin(browser, "idp=second&redirect=/lab", "cross-site")
	if asked.status != http.StatusOK || !strings.Contains(asked.body, "Connect The second?") {
		t.Fatalf("from another site: %d\n%s", asked.status, asked.body)
	}
	_, link, _ := strings.Cut(asked.body, `href="/oauth2/authorization_url?`)
	link, _, _ = strings.Cut(link, `"`)
	link = html.UnescapeString(link)
	toProvider := func(got answer) bool {
		return got.status == http.StatusFound && strings.HasPrefix(got.header.Get("Location"), r.second.Issuer)
	}
	if got := begin(browser, link, "cross-site"); !toProvider(got) { // a browser that says nothing of sites
		t.Errorf("the link of the page: %d to %s", got.status, got.header.Get("Location"))
	}
	other := providertest.Browser()
	r.logIn(t, other, "/oauth2/authorization_url", "bob")
	other.CheckRedirect = browser.CheckRedirect
	if got := begin(other, link, "cross-site"); got.status != http.StatusOK {
		t.Errorf("the link in another browser: %d to %s", got.status, got.header.Get("Location"))
	}
	for site, want := range map[string]bool{"same-origin": true, "same-site": true, "none": true, "cross-site": false, "nonsense": false} {
		t.Run(site, func(t *testing.T) {
			if got := begin(browser, "idp=second", site); toProvider(got) != want {
				t.Errorf("%d to %s", got.status, got.header.Get("Location"))
			}
		})
	}
	// The default provider's login says who the person is, and connects no account of another's.
	if got := begin(browser, "", "cross-site"); got.status != http.StatusFound || !strings.HasPrefix(got.header.Get("Location"), r.first.Issuer) {
		t.Errorf("logging in: %d to %s", got.status, got.header.Get("Location"))
	}
}

// Gen3 contract 1.4: redirects up to 4 KiB, which do not fit one cookie, and blanks in them are escaped.
func TestLongRedirects(t *testing.T) {
	r := startReplica(t)
	for name, row := range map[string]struct {
		redirect, want string
		status         int
	}{
		"a blank":      {"/a b?x=1 2", "/a%20b?x=1%202", 404},
		"1,100 bytes":  {"/" + strings.Repeat("a", 1099), "/" + strings.Repeat("a", 1099), 404},
		"4,096 bytes":  {"/" + strings.Repeat("a", 4095), "/" + strings.Repeat("a", 4095), 404},
		"4,097 bytes":  {"/" + strings.Repeat("a", 4096), "", 400},
		"another host": {"//" + strings.Repeat("a", 4000), "", 400},
	} {
		t.Run(name, func(t *testing.T) {
			path := "/oauth2/authorization_url?redirect=" + url.QueryEscape(row.redirect)
			if row.status == 400 {
				if got := r.call(t, nil, http.MethodGet, path); got.status != 400 || len(got.body) > 200 {
					t.Errorf("%d %.200s", got.status, got.body)
				}
				return
			}
			page := r.logIn(t, providertest.Browser(), path, "alice")
			if page.Status != row.status || page.URL.RequestURI() != row.want {
				t.Errorf("%d at %.100s", page.Status, page.URL)
			}
		})
	}
}
