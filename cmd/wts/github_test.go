package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// atGitHub is a replica whose default provider is a GitHub.
func atGitHub(t *testing.T, app bool, change ...func(*config.Config)) (*replica, *providertest.GitHub) {
	t.Helper()
	hub, err := providertest.StartGitHub(app,
		providertest.GitHubUser{ID: 7, Login: "Alice", Name: "Alice Zhao", Organisations: []string{"Databio", "pepkit", "lab-3"}}, providertest.GitHubUser{ID: 8, Login: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hub.Close() })
	r := startReplica(t, append([]func(*config.Config){func(c *config.Config) {
		c.Broker.ClaimsMaxAge = time.Second
		c.Providers["first"] = provider.Config{Type: provider.TypeGitHub, Name: "GitHub", BaseURL: hub.BaseURL, ClientID: "wts", ClientSecret: "canary-github-secret"}.WithDefaults("first")
		c.Audiences = map[string]issuer.Audience{"lab": {Scopes: []string{"read"}, Access: []issuer.Access{{Groups: []string{"databio"}}}}}
		c.Issuer.Audiences = c.Audiences
	}}, change...)...)
	hub.Register(providertest.Client{ID: "wts", Secret: "canary-github-secret", RedirectURI: r.url + "/oauth2/authorize"})
	return r, hub
}

// A person signs in at GitHub: who they are is their number there, and their groups are their organisations, of every page.
func TestGitHub(t *testing.T) {
	for name, app := range map[string]bool{"an OAuth app": false, "a GitHub App": true} {
		t.Run(name, func(t *testing.T) {
			r, hub := atGitHub(t, app)
			browser := providertest.Browser()
			page := r.logIn(t, browser, "/oauth2/authorization_url", "alice")
			if page.Status != http.StatusOK || !strings.Contains(page.Body, "GitHub is connected as Alice") {
				t.Fatalf("%d %s\n%s", page.Status, page.URL, page.Body)
			}
			id := r.idOf(t, "alice")
			claims, err := r.store.Users.Claims(t.Context(), id)
			if diff := cmp.Diff([]string{"databio", "pepkit", "lab-3"}, claims.Groups); diff != "" || err != nil || claims.Subject != "7" {
				t.Errorf("%v, subject %q, (-want +got)\n%s", err, claims.Subject, diff)
			}
			got := r.worker(t, "/token/?idp=first")
			if got.status != http.StatusOK || !strings.HasPrefix(got.member("token"), "gho_") {
				t.Fatalf("the worker: %d %s", got.status, got.body)
			}
			if got := r.worker(t, "/token/?audience=lab"); got.status != http.StatusOK {
				t.Errorf("of the organisation: %d %s", got.status, got.body)
			}
			r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "bob")
			if claims, err := r.store.Users.Claims(t.Context(), r.idOf(t, "bob")); err != nil || len(claims.Groups) != 0 {
				t.Errorf("bob, who is in none: %v, %v", claims.Groups, err)
			}
			// Out of the organisation, and out of the audience within the age of claims.
			hub.Change("alice", func(one *providertest.GitHubUser) { one.Organisations = []string{"pepkit"} })
			eventually(t, "she is out", func() bool { return r.worker(t, "/token/?audience=lab").status == http.StatusForbidden })
			// Another person who takes the login inherits nothing.
			hub.Change("alice", func(one *providertest.GitHubUser) { one.ID = 99 })
			r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
			if other := r.idOf(t, "alice"); other == id {
				t.Error("the next Alice is the former one")
			}
			if log := r.log.String(); strings.Contains(log, "gho_") || strings.Contains(log, "canary-github-secret") {
				t.Error("a token or the secret is in the log")
			}
		})
	}
}

// The token of an OAuth app is the grant: where GitHub refuses it, the person is asked to sign in again; where GitHub
// wants to be left alone, nothing ends.
func TestAGrantThatEndsAtGitHub(t *testing.T) {
	r, hub := atGitHub(t, false)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	connected := func() int { return r.call(t, browser, http.MethodGet, "/oauth2/connected").status }
	hub.Limit(true)
	asked := hub.Calls("/api/v3/user")
	eventually(t, "GitHub was asked", func() bool { r.worker(t, "/token/?audience=lab"); return hub.Calls("/api/v3/user") > asked })
	if got := connected(); got != http.StatusOK {
		t.Errorf("while the rate is used up: %d", got)
	}
	hub.Limit(false)
	hub.Revoke("alice")
	eventually(t, "the grant has ended", func() bool { r.worker(t, "/token/?audience=lab"); return connected() == http.StatusForbidden })
	if got := r.worker(t, "/token/?idp=first"); got.status != http.StatusForbidden {
		t.Errorf("the dead token is handed out: %d %s", got.status, got.body)
	}
	if page := r.see(t, browser, "/"); !strings.Contains(page.body, "Needs sign-in") {
		t.Errorf("the page:\n%s", page.body)
	}
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	if got := connected(); got != http.StatusOK {
		t.Errorf("signed in again: %d", got)
	}
}

// A wrong secret is the operator's, by GitHub's own word in an answer of status 200.
func TestAClientThatGitHubRefuses(t *testing.T) {
	r, _ := atGitHub(t, false, func(c *config.Config) {
		first := c.Providers["first"]
		first.ClientSecret = "another"
		c.Providers["first"] = first
	})
	if page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice"); !strings.Contains(page.Body, "GitHub does not know this service") {
		t.Errorf("%d %s\n%s", page.Status, page.URL, page.Body)
	}
}

// Beside another default provider GitHub is asked about no user's groups, and yet its tokens are handed out no longer than
// it accepts them.
func TestATokenThatEndsAtASecondGitHub(t *testing.T) {
	hub, err := providertest.StartGitHub(false, providertest.GitHubUser{ID: 7, Login: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hub.Close() })
	r := startReplica(t, func(c *config.Config) {
		c.Broker.ClaimsMaxAge = 300 * time.Millisecond
		c.Providers["hub"] = provider.Config{Type: provider.TypeGitHub, Name: "GitHub", BaseURL: hub.BaseURL, ClientID: "wts", ClientSecret: "canary-github-secret"}.WithDefaults("hub")
	})
	hub.Register(providertest.Client{ID: "wts", Secret: "canary-github-secret", RedirectURI: r.url + "/oauth2/authorize/hub"})
	browser := r.signedIn(t, "alice")
	r.logIn(t, browser, "/oauth2/authorization_url?idp=hub", "alice")
	use := func() int { return r.worker(t, "/token/?idp=hub").status }
	if got := use(); got != http.StatusOK {
		t.Fatalf("the worker: %d", got)
	}
	asked := hub.Calls("/api/v3/user")
	eventually(t, "GitHub is asked beside who uses the token", func() bool { return use() == http.StatusOK && hub.Calls("/api/v3/user") > asked })
	asked = hub.Calls("/api/v3/user")
	for began := time.Now(); time.Since(began) < 200*time.Millisecond; {
		use()
	}
	if got := hub.Calls("/api/v3/user") - asked; got > 1 {
		t.Errorf("within a fifth of a second it was asked %d times", got)
	}
	hub.Limit(true) // that it wants to be left alone ends nothing
	time.Sleep(400 * time.Millisecond)
	use()
	time.Sleep(100 * time.Millisecond)
	if got := use(); got != http.StatusOK {
		t.Errorf("while its rate is used up: %d", got)
	}
	hub.Limit(false)
	hub.Revoke("alice")
	eventually(t, "the token is handed out no more", func() bool { return use() == http.StatusForbidden })
	if page := r.see(t, browser, "/"); !strings.Contains(page.body, "Needs sign-in") {
		t.Errorf("the page:\n%s", page.body)
	}
}
