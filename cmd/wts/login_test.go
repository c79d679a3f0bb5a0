package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// PR7: a login without a refresh token ends with its first access token. The person, a program and the log
// are told at once, with what to change.
func TestALoginWithoutARefreshTokenSaysSo(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		first := c.Providers["first"]
		first.Scopes = []string{"openid", "profile"} // without offline_access
		c.Providers["first"] = first
	})
	page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url?redirect=/lab", "alice")
	for _, part := range []string{"The first gave no refresh token", "Continue", `href="/lab"`} {
		if page.Status != http.StatusOK || !strings.Contains(page.Body, part) {
			t.Errorf("%d, and the page lacks %q:\n%s", page.Status, part, page.Body)
		}
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

// PR8: wrong client credentials are an operator's to fix, and nobody is told that a token cannot be had.
func TestALoginWithWrongClientCredentials(t *testing.T) {
	r := startReplica(t, func(c *config.Config) {
		first := c.Providers["first"]
		first.ClientSecret = "canary-wrong"
		c.Providers["first"] = first
	})
	page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	if page.Status != http.StatusServiceUnavailable || !strings.Contains(page.Body, "rejects this service&#39;s client credentials") {
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
