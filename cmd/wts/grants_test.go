package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/test/pgtest"
)

const portalCallback = "https://portal.example.org/callback"

// withClients is a replica whose people may let programs act for them.
func withClients(c *config.Config) {
	withOAuth(c)
	own := issuer.Own([]string{"first", "second"})
	own.APITokens.Personal = true
	c.Audiences["wts"] = own
	c.Grants.Clients = map[string]grant.Client{
		"portal": {
			Name: "The portal", RedirectURIs: []string{portalCallback, "http://127.0.0.1/back", "https://portal.example.org/two?x=1"},
			Origins: []string{"https://portal.example.org"}, Audiences: []string{"files", "storage"},
		},
		"inhouse": {Name: "In house", RedirectURIs: []string{"https://inhouse.example.org/"}, Audiences: []string{"files"}, SkipConsent: true},
		"lasting": {Name: "Lasting", RedirectURIs: []string{portalCallback}, Audiences: []string{"files"}, Refresh: true, Device: true},
	}
}

const codeVerifier = "a-code-verifier-of-at-least-43-characters-as-the-rfc-wants"

func challengeOf(verifier string) string {
	digest := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

// wishOf is a request of a client, with changes: names and values by turns, and an empty value takes one out.
func wishOf(client, redirectURI string, changes ...string) url.Values {
	wish := url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirectURI}, "state": {"its state"}, "scope": {"read"},
		"code_challenge": {challengeOf(codeVerifier)}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(changes); i += 2 {
		wish.Set(changes[i], changes[i+1])
		if changes[i+1] == "" {
			wish.Del(changes[i])
		}
	}
	return wish
}

var page = []string{"Accept", "text/html"}

// decide sends the form of a page that asks, as the browser does, with headers and with fields that are changed, and
// returns the answer.
func (r *replica) decide(t *testing.T, browser *http.Client, asked answer, decision string, headers ...string) answer {
	t.Helper()
	action := regexp.MustCompile(`<form method="post" action="([^"]+)" class="actions"`).FindStringSubmatch(asked.body)
	if asked.status != http.StatusOK || action == nil {
		t.Fatalf("got %d %s, want a page that asks", asked.status, asked.body)
	}
	form := url.Values{"decision": {decision}}
	for _, field := range regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`).FindAllStringSubmatch(asked.body, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	sent := []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html"}
	for i := 0; i < len(headers); i += 2 {
		if name, ok := strings.CutPrefix(headers[i], "field "); ok {
			form.Set(name, headers[i+1])
			continue
		}
		sent = append(sent, headers[i], headers[i+1])
	}
	still := *browser
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return r.sendJSON(t, &still, http.MethodPost, action[1], form.Encode(), sent...)
}

// backOf is what a browser is sent back to a client with.
func backOf(t *testing.T, got answer) url.Values {
	t.Helper()
	location, err := url.Parse(got.header.Get("Location"))
	if got.status != http.StatusSeeOther || err != nil || location.Host == "" {
		t.Fatalf("got %d to %q (%s), want a redirect to the client", got.status, got.header.Get("Location"), got.body)
	}
	return location.Query()
}

// code has a person allow a client, and returns the code.
func (r *replica) code(t *testing.T, browser *http.Client, wish url.Values) string {
	t.Helper()
	asked := r.call(t, browser, http.MethodGet, "/oauth2/auth?"+wish.Encode(), page...)
	back := backOf(t, r.decide(t, browser, asked, "allow"))
	if back.Get("code") == "" || back.Get("state") != "its state" || back.Get("iss") != r.url {
		t.Fatalf("got %v, want a code, the state and the issuer", back)
	}
	return back.Get("code")
}

func (r *replica) redeem(t *testing.T, client, code string, changes ...string) answer {
	t.Helper()
	pairs := []string{"grant_type", "authorization_code", "client_id", client, "code", code, "redirect_uri", portalCallback, "code_verifier", codeVerifier}
	for i := 0; i < len(changes); i += 2 {
		for at := 0; at < len(pairs); at += 2 {
			if pairs[at] == changes[i] {
				pairs[at+1] = changes[i+1]
			}
		}
	}
	return r.form(t, "/oauth2/token", pairs...)
}

// granted is the answer with a token for a program.
type granted struct {
	AccessToken  string `json:"access_token"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
}

// A person lets a program act for them in a browser: a token of the audience, and no more than that.
func TestAPersonLetsAProgramIn(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	wish := wishOf("portal", portalCallback)
	asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wish.Encode(), page...)
	for _, text := range []string{"The portal", "alice", "files", "read", "https://portal.example.org"} {
		if !strings.Contains(asked.body, text) {
			t.Errorf("the page does not say %q:\n%s", text, asked.body)
		}
	}
	if policy := asked.header.Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self' https://portal.example.org;") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("the policy of the page is %s, want its form to lead to the client, and no frame", policy)
	}
	got := decoded[granted](t, r.redeem(t, "portal", r.code(t, alice, wish)), http.StatusOK)
	var claims map[string]any
	if err := unverified.Claims(got.AccessToken, &claims); err != nil {
		t.Fatal(err)
	}
	said := []any{claims["aud"], claims["client_id"], claims["preferred_username"], claims["scope"], claims["sid"], got.RefreshToken, got.Scope, got.ExpiresIn > 0}
	if diff := cmp.Diff([]any{"files", "portal", "alice", "read", nil, "", "read", true}, said); diff != "" {
		t.Errorf("the token (-want +got):\n%s", diff)
	}
	for _, line := range []string{`"audit":"allow"`, `"audit":"mint"`} {
		if !strings.Contains(r.log.String(), line) {
			t.Errorf("the log has no %s", line)
		}
	}

	// A person who is not logged in logs in first, and comes back to the question.
	stranger := providertest.Browser()
	if asked := r.logIn(t, stranger, "/oauth2/auth?"+wish.Encode(), "bob"); !strings.Contains(asked.Body, "The portal") || !strings.Contains(asked.Body, "bob") {
		t.Errorf("after the login: %s", asked.Body)
	}

	// A portal of the same organisation asks nothing.
	silent := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/", "prompt", "none").Encode(), page...)
	if backOf(t, silent).Get("code") == "" {
		t.Errorf("got %v, want a code without a question", silent.header)
	}
}

// What is not as it was registered, or not as it has to be, is refused: on a page where the browser may go nowhere, else
// to the client (RFC 6749 4.1.2.1, RFC 9700 2.1).
func TestProgramsThatAreRefused(t *testing.T) {
	r := startReplica(t, withClients)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	for name, row := range map[string]struct {
		wish  url.Values
		error string // to the client; empty: a page
	}{
		"another client":            {wishOf("strange", portalCallback), ""},
		"no redirect URI":           {wishOf("portal", ""), ""},
		"another host":              {wishOf("portal", "https://evil.example.org/callback"), ""},
		"another path":              {wishOf("portal", portalCallback+"/more"), ""},
		"a query that is added":     {wishOf("portal", portalCallback+"?x=1"), ""},
		"another query":             {wishOf("portal", "https://portal.example.org/two?x=2"), ""},
		"another scheme":            {wishOf("portal", "http://portal.example.org/callback"), ""},
		"another client's":          {wishOf("portal", "https://inhouse.example.org/"), ""},
		"a name before the host":    {wishOf("portal", "https://portal.example.org@evil.example.org/callback"), ""},
		"a name of loopback":        {wishOf("portal", "http://localhost:8000/back"), ""},
		"loopback, another path":    {wishOf("portal", "http://127.0.0.1:8000/backs"), ""},
		"loopback, with a fragment": {wishOf("portal", "http://127.0.0.1:8000/back#x"), ""},
		"loopback, with a name":     {wishOf("portal", "http://x@127.0.0.1:8000/back"), ""},
		"loopback, a query":         {wishOf("portal", "http://127.0.0.1:8000/back?x=1"), ""},
		"no PKCE":                   {wishOf("portal", portalCallback, "code_challenge", ""), "invalid_request"},
		"plain PKCE":                {wishOf("portal", portalCallback, "code_challenge_method", "plain"), "invalid_request"},
		"a challenge that is none":  {wishOf("portal", portalCallback, "code_challenge", "short"), "invalid_request"},
		"the implicit grant":        {wishOf("portal", portalCallback, "response_type", "token"), "unsupported_response_type"},
		"another audience":          {wishOf("portal", portalCallback, "audience", "closed"), "unauthorized_client"},
		"tokens of wts itself":      {wishOf("portal", portalCallback, "audience", "wts"), "unauthorized_client"},
		"a scope that is none":      {wishOf("portal", portalCallback, "scope", "read everything"), "invalid_scope"},
		"no question, no consent":   {wishOf("portal", portalCallback, "prompt", "none"), "consent_required"},
		"a prompt that is none":     {wishOf("portal", portalCallback, "prompt", "create"), "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+row.wish.Encode(), page...)
			if row.error == "" {
				if got.status != http.StatusBadRequest || got.header.Get("Location") != "" {
					t.Errorf("got %d to %q, want a page and 400", got.status, got.header.Get("Location"))
				}
				return
			}
			back := backOf(t, got)
			if back.Get("error") != row.error || back.Get("state") != "its state" || back.Get("iss") != r.url || back.Get("code") != "" {
				t.Errorf("got %v, want %s", back, row.error)
			}
		})
	}
	for name, address := range map[string]string{"a port": "http://127.0.0.1:8000/back", "another port": "http://127.0.0.1:65001/back", "none": "http://127.0.0.1/back"} {
		t.Run("loopback with "+name, func(t *testing.T) {
			if got := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", address).Encode(), page...); got.status != http.StatusOK {
				t.Errorf("got %d %s, want the question (RFC 8252 7.3)", got.status, got.body)
			}
		})
	}
	t.Run("a person who may not", func(t *testing.T) {
		got := r.call(t, bob, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback, "scope", "write").Encode(), page...)
		if back := backOf(t, got); back.Get("error") != "access_denied" {
			t.Errorf("got %v, want access_denied", back)
		}
	})
	t.Run("no one is logged in, and no question", func(t *testing.T) {
		got := r.call(t, nil, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback, "prompt", "none").Encode(), page...)
		if back := backOf(t, got); back.Get("error") != "login_required" {
			t.Errorf("got %v, want login_required", back)
		}
	})
	t.Run("a person who says no", func(t *testing.T) {
		asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback).Encode(), page...)
		if back := backOf(t, r.decide(t, alice, asked, "deny")); back.Get("error") != "access_denied" || back.Get("code") != "" {
			t.Errorf("got %v, want access_denied", back)
		}
	})
	bare := &http.Client{Jar: alice.Jar} // it says nothing of where a request is from but what it is told
	t.Run("a page of another site says yes", func(t *testing.T) {
		asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback).Encode(), page...)
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example.org"}} {
			if got := r.decide(t, bare, asked, "allow", header...); got.status != http.StatusForbidden {
				t.Errorf("%v: got %d %s, want 403", header, got.status, got.body)
			}
		}
	})
	t.Run("in a frame", func(t *testing.T) {
		if got := r.call(t, bare, http.MethodGet, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/").Encode(), "Sec-Fetch-Dest", "iframe"); got.status != http.StatusForbidden {
			t.Errorf("got %d %s, want 403", got.status, got.body)
		}
	})
}

// A code is good once, for the client, the address and the verifier that it was made for.
func TestACode(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	for name, changes := range map[string][]string{
		"another verifier":    {"code_verifier", codeVerifier + "x"},
		"no verifier":         {"code_verifier", ""},
		"another redirect":    {"redirect_uri", "http://127.0.0.1/back"},
		"another client's":    {"client_id", "lasting"},
		"a code that is none": {"code", "AAAA"},
	} {
		t.Run(name, func(t *testing.T) {
			code := r.code(t, alice, wishOf("portal", portalCallback))
			if got := r.redeem(t, "portal", code, changes...); got.oauthError().Error != "invalid_grant" || got.status != http.StatusBadRequest {
				t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
			}
			if got := r.redeem(t, "portal", code); name != "a code that is none" && got.status != http.StatusBadRequest {
				t.Errorf("after an attempt that failed: %d %s, want that the code is spent", got.status, got.body)
			}
		})
	}
	t.Run("an unknown client", func(t *testing.T) {
		if got := r.redeem(t, "strange", "AAAA"); got.oauthError().Error != "invalid_client" {
			t.Errorf("got %s, want invalid_client", got.body)
		}
	})
	t.Run("used twice", func(t *testing.T) {
		code := r.code(t, alice, wishOf("lasting", portalCallback))
		first := decoded[granted](t, r.redeem(t, "lasting", code), http.StatusOK)
		if got := r.redeem(t, "lasting", code); got.oauthError().Error != "invalid_grant" {
			t.Errorf("again: %d %s, want invalid_grant", got.status, got.body)
		}
		if got := r.refreshWith(t, "lasting", first.RefreshToken); got.oauthError().Error != "invalid_grant" {
			t.Errorf("what the first use began: %d %s, want that it was ended (RFC 6749 4.1.2)", got.status, got.body)
		}
	})
	t.Run("at many replicas at once", func(t *testing.T) {
		code := r.code(t, alice, wishOf("portal", portalCallback))
		var good atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if r.redeem(t, "portal", code).status == http.StatusOK {
					good.Add(1)
				}
			})
		}
		all.Wait()
		if good.Load() != 1 {
			t.Errorf("%d got a token for one code, want 1", good.Load())
		}
	})
	t.Run("too late", func(t *testing.T) {
		code := r.code(t, alice, wishOf("portal", portalCallback))
		r.later(t, "authorizations", "expires_at", -2*time.Minute)
		if got := r.redeem(t, "portal", code); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
}

// later moves a time of every row, as if it had passed.
func (r *replica) later(t *testing.T, table, column string, by time.Duration) {
	t.Helper()
	execSQLite(t, r, fmt.Sprintf("UPDATE %s SET %s = %s + (%d)", table, column, column, by.Milliseconds()))
	r.authn.Forget()
}

func (r *replica) refreshWith(t *testing.T, client, token string, more ...string) answer {
	t.Helper()
	return r.form(t, "/oauth2/token", append([]string{"grant_type", "refresh_token", "client_id", client, "refresh_token", token}, more...)...)
}

// A program's login: its refresh token is another one after each use, and one that was used before ends it (RFC 9700
// 4.14). Its person sees it among their sessions and ends it there.
func TestAProgramsLogin(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	begin := func() granted {
		t.Helper()
		return decoded[granted](t, r.redeem(t, "lasting", r.code(t, alice, wishOf("lasting", portalCallback))), http.StatusOK)
	}
	first := begin()
	second := decoded[granted](t, r.refreshWith(t, "lasting", first.RefreshToken), http.StatusOK)
	if second.RefreshToken == first.RefreshToken || second.Scope != "read" || second.AccessToken == first.AccessToken {
		t.Errorf("got %+v after %+v, want other tokens", second, first)
	}
	if got := r.refreshWith(t, "lasting", second.RefreshToken, "scope", "read write"); got.oauthError().Error != "invalid_scope" {
		t.Errorf("more scopes than it has: %d %s, want invalid_scope", got.status, got.body)
	}
	if got := r.refreshWith(t, "portal", second.RefreshToken); got.oauthError().Error != "invalid_grant" {
		t.Errorf("by another client: %d %s, want invalid_grant", got.status, got.body)
	}
	if got := r.refreshWith(t, "lasting", first.RefreshToken); got.oauthError().Error != "invalid_grant" || got.member("code") != "grant_replayed" {
		t.Errorf("a token that was used: %d %s, want invalid_grant", got.status, got.body)
	}
	if got := r.refreshWith(t, "lasting", second.RefreshToken); got.oauthError().Error != "invalid_grant" {
		t.Errorf("after a replay: %d %s, want that the login was ended", got.status, got.body)
	}

	t.Run("two at once", func(t *testing.T) {
		made := begin()
		given := make(chan string, 6)
		var all sync.WaitGroup
		for range cap(given) {
			all.Go(func() {
				if got := r.refreshWith(t, "lasting", made.RefreshToken); got.status == http.StatusOK {
					given <- decoded[granted](t, got, http.StatusOK).RefreshToken
				}
			})
		}
		all.Wait()
		if len(given) != 1 {
			t.Fatalf("%d got tokens with one refresh token, want 1", len(given))
		}
		if got := r.refreshWith(t, "lasting", <-given); got.oauthError().Error != "invalid_grant" {
			t.Errorf("after the others came: %d %s, want that the login was ended", got.status, got.body)
		}
	})
	t.Run("ended by its person", func(t *testing.T) {
		made := begin()
		listed := decoded[struct {
			Sessions []struct{ ID, Client string } `json:"sessions"`
		}](t, r.sendJSON(t, alice, http.MethodGet, "/api/v1/sessions", ""), http.StatusOK)
		id := ""
		for _, one := range listed.Sessions {
			if one.Client == "lasting" {
				id = one.ID
			}
		}
		if got := r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions/"+id, ""); id == "" || got.status != http.StatusNoContent {
			t.Fatalf("ending %q of %+v: %d %s", id, listed, got.status, got.body)
		}
		if got := r.refreshWith(t, "lasting", made.RefreshToken); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
	t.Run("revoked by the program", func(t *testing.T) {
		made := begin()
		if got := r.form(t, "/oauth2/revoke", "token", made.RefreshToken); got.status != http.StatusOK {
			t.Errorf("got %d %s", got.status, got.body)
		}
		if got := r.refreshWith(t, "lasting", made.RefreshToken); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
	t.Run("is no browser's session", func(t *testing.T) {
		made := begin()
		id := strings.TrimPrefix(made.RefreshToken, "wtsl_")
		for _, cookie := range []string{id[:26], id[26:], id} {
			if got := r.call(t, nil, http.MethodGet, "/api/v1/sessions", "Cookie", "wts="+cookie); got.status != http.StatusForbidden {
				t.Errorf("as a cookie: %d %s, want 403", got.status, got.body)
			}
		}
	})
	t.Run("after thirty days without a use", func(t *testing.T) {
		made := begin()
		r.later(t, "sessions", "ends_at", -30*24*time.Hour-time.Minute)
		if got := r.refreshWith(t, "lasting", made.RefreshToken); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
	t.Run("ninety days at most", func(t *testing.T) {
		alice = r.signedIn(t, "alice")
		made := begin()
		r.later(t, "sessions", "created_at", -89*24*time.Hour)
		made = decoded[granted](t, r.refreshWith(t, "lasting", made.RefreshToken), http.StatusOK)
		r.later(t, "sessions", "ends_at", -25*time.Hour)
		if got := r.refreshWith(t, "lasting", made.RefreshToken); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
	t.Run("of a user who is disabled", func(t *testing.T) {
		alice = r.signedIn(t, "alice")
		made := begin()
		if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a user who is disabled refreshes", func() bool {
			return r.refreshWith(t, "lasting", made.RefreshToken).oauthError().Error == "invalid_grant"
		})
	})
}

// deviceBegun is what a device shows and keeps.
type deviceBegun struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	Complete   string `json:"verification_uri_complete"`
	Interval   int    `json:"interval"`
}

func (r *replica) poll(t *testing.T, client, code string) answer {
	t.Helper()
	return r.form(t, "/oauth2/token", "grant_type", "urn:ietf:params:oauth:grant-type:device_code", "client_id", client, "device_code", code)
}

// A program without a browser shows a code, and its person lets it in elsewhere (RFC 8628).
func TestADevice(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	begin := func(pairs ...string) deviceBegun {
		t.Helper()
		return decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", append([]string{"client_id", "lasting", "scope", "read", "header User-Agent", "<b>cluster</b> login"}, pairs...)...), http.StatusOK)
	}
	shown := begin()
	if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "authorization_pending" {
		t.Errorf("before the person decides: %d %s, want authorization_pending", got.status, got.body)
	}
	if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "slow_down" {
		t.Errorf("at once again: %d %s, want slow_down", got.status, got.body)
	}
	asked := r.call(t, alice, http.MethodGet, strings.TrimPrefix(shown.Complete, r.url), page...)
	for _, text := range []string{"Lasting", "127.0.0.1", "&lt;b&gt;cluster&lt;/b&gt; login", "read"} {
		if !strings.Contains(asked.body, text) {
			t.Errorf("the page does not say %q:\n%s", text, asked.body)
		}
	}
	if got := r.decide(t, alice, asked, "allow"); got.status != http.StatusOK || !strings.Contains(got.body, "Allowed") {
		t.Errorf("allowing it: %d %s", got.status, got.body)
	}
	var got granted
	eventually(t, "the program gets its token", func() bool {
		answer := r.poll(t, "lasting", shown.DeviceCode)
		if answer.status == http.StatusOK {
			got = decoded[granted](t, answer, http.StatusOK)
		}
		return answer.status == http.StatusOK
	})
	if got.RefreshToken == "" || got.Scope != "read" {
		t.Errorf("got %+v", got)
	}
	if again := r.poll(t, "lasting", shown.DeviceCode); again.oauthError().Error != "invalid_grant" {
		t.Errorf("a device code that was used: %d %s, want invalid_grant", again.status, again.body)
	}
	decoded[granted](t, r.refreshWith(t, "lasting", got.RefreshToken), http.StatusOK)

	t.Run("typed by hand", func(t *testing.T) {
		typed := strings.ToLower(strings.ReplaceAll(begin().UserCode, "-", " "))
		if got := r.call(t, alice, http.MethodGet, "/device?user_code="+url.QueryEscape(typed), page...); !strings.Contains(got.body, "Lasting") {
			t.Errorf("got %d %s, want the question", got.status, got.body)
		}
	})
	t.Run("denied", func(t *testing.T) {
		shown := begin()
		r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...), "deny")
		if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "access_denied" {
			t.Errorf("got %d %s, want access_denied", got.status, got.body)
		}
		if got := r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...); got.status != http.StatusNotFound {
			t.Errorf("a code that was decided on: %d, want 404", got.status)
		}
	})
	t.Run("too late", func(t *testing.T) {
		shown := begin()
		r.later(t, "authorizations", "expires_at", -11*time.Minute)
		if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "expired_token" {
			t.Errorf("got %d %s, want expired_token", got.status, got.body)
		}
		if got := r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...); got.status != http.StatusNotFound {
			t.Errorf("its code: %d, want 404", got.status)
		}
	})
	t.Run("a login of long ago", func(t *testing.T) {
		shown := begin()
		bob := r.signedIn(t, "bob")
		r.later(t, "sessions", "created_at", -2*time.Hour)
		got := r.call(t, bob, http.MethodGet, "/device?user_code="+shown.UserCode, page...)
		if got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/oauth2/authorization_url?redirect=%2Fdevice") {
			t.Errorf("got %d to %q, want a login: it outlives the hour (rule C6)", got.status, got.header.Get("Location"))
		}
	})
	for name, row := range map[string]struct {
		pairs []string
		error string
	}{
		"an unknown client":        {[]string{"client_id", "strange"}, "invalid_client"},
		"a client that may not":    {[]string{"client_id", "portal"}, "unauthorized_client"},
		"another audience":         {[]string{"client_id", "lasting", "audience", "storage"}, "unauthorized_client"},
		"a scope that is none":     {[]string{"client_id", "lasting", "scope", "all"}, "invalid_scope"},
		"no client":                {nil, "invalid_client"},
		"the audience that is wts": {[]string{"client_id", "lasting", "audience", "wts"}, "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.form(t, "/oauth2/device_authorization", row.pairs...); got.oauthError().Error != row.error {
				t.Errorf("got %d %s, want %s", got.status, got.body, row.error)
			}
		})
	}
	t.Run("another client's device code", func(t *testing.T) {
		if got := r.poll(t, "portal", begin().DeviceCode); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant", got.status, got.body)
		}
	})
	t.Run("a code of a browser as a device's", func(t *testing.T) {
		code := r.code(t, r.signedIn(t, "alice"), wishOf("lasting", portalCallback))
		if got := r.poll(t, "lasting", code); got.oauthError().Error != "invalid_grant" {
			t.Errorf("got %d %s, want invalid_grant: it has no verifier", got.status, got.body)
		}
	})
	t.Run("too many", func(t *testing.T) {
		for range 40 {
			if r.form(t, "/oauth2/device_authorization", "client_id", "lasting").status == http.StatusTooManyRequests {
				return
			}
		}
		t.Error("forty programs at once from one address: want 429")
	})
}

// The command line on a person's own machine: its token is good at the API and at /token, by its scopes, until its
// person ends the login.
func TestTheCommandLine(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	logIn := func(scope string) granted {
		t.Helper()
		wish := wishOf("wts-cli", "http://127.0.0.1:49152/callback", "scope", scope)
		code := r.code(t, alice, wish)
		return decoded[granted](t, r.redeem(t, "wts-cli", code, "redirect_uri", "http://127.0.0.1:49152/callback"), http.StatusOK)
	}
	login := logIn("token api api:create provider:second")
	as := func(token, method, path, body string) answer {
		return r.sendJSON(t, nil, method, path, body, bearerOf(token)...)
	}

	minted := decoded[struct{ Token string }](t, as(login.AccessToken, http.MethodGet, "/token?audience=storage&scope=read", ""), http.StatusOK)
	made := decoded[shown](t, as(login.AccessToken, http.MethodPost, "/api/v1/tokens", personalToken), http.StatusCreated)
	decoded[any](t, as(login.AccessToken, http.MethodGet, "/api/v1/tokens", ""), http.StatusOK)
	decoded[any](t, r.exchange(t, login.AccessToken, "audience", "storage"), http.StatusOK)
	if got := as(login.AccessToken, http.MethodGet, "/token?idp=second", ""); got.status != http.StatusForbidden || got.member("code") != "not_connected" {
		t.Errorf("a provider of its scopes: %d %s, want that it is not connected", got.status, got.body)
	}
	if got := as(login.AccessToken, http.MethodGet, "/token?idp=first", ""); got.member("code") != "token_scope" {
		t.Errorf("a provider without its scope: %d %s, want 403", got.status, got.body)
	}
	if got := as(minted.Token, http.MethodGet, "/api/v1/tokens", ""); got.status != http.StatusForbidden && got.status != http.StatusUnauthorized {
		t.Errorf("a token of another audience: %d %s", got.status, got.body)
	}
	for name, token := range map[string]string{"an API token": made.Token, "a refresh token": login.RefreshToken, "one that was changed": login.AccessToken[:len(login.AccessToken)-4] + "AAAA"} {
		if got := as(token, http.MethodPost, "/api/v1/tokens", personalToken); got.status != http.StatusForbidden && got.status != http.StatusUnauthorized {
			t.Errorf("%s makes a token: %d %s", name, got.status, got.body)
		}
	}

	reading := logIn("api:read")
	decoded[any](t, as(reading.AccessToken, http.MethodGet, "/api/v1/tokens", ""), http.StatusOK)
	for _, row := range [][2]string{{http.MethodPost, "/api/v1/tokens"}, {http.MethodDelete, "/api/v1/sessions"}} {
		if got := as(reading.AccessToken, row[0], row[1], personalToken); got.status != http.StatusForbidden || got.member("code") != "token_scope" {
			t.Errorf("%s %s with a scope that reads: %d %s, want 403", row[0], row[1], got.status, got.body)
		}
	}
	if got := as(reading.AccessToken, http.MethodGet, "/token?audience=storage", ""); got.member("code") != "token_scope" {
		t.Errorf("/token without its scope: %d %s, want 403", got.status, got.body)
	}

	// What a program makes may do no more than the program, and it makes nothing without a scope of its own for that.
	changing := logIn("api token")
	for name, row := range map[string]struct{ token, method, path, body string }{
		"a token, without its scope":         {changing.AccessToken, http.MethodPost, "/api/v1/tokens", personalToken},
		"a rotation, without its scope":      {changing.AccessToken, http.MethodPost, "/api/v1/tokens/" + made.ID + "/rotate", ""},
		"a token that may do more":           {login.AccessToken, http.MethodPost, "/api/v1/tokens", `{"audience": "wts", "name": "n", "scopes": ["token", "provider:first"]}`},
		"a rotation of one that may do more": {logIn("api:create").AccessToken, http.MethodPost, "/api/v1/tokens/" + made.ID + "/rotate", ""},
	} {
		if got := as(row.token, row.method, row.path, row.body); got.status != http.StatusForbidden || got.member("code") != "token_scope" {
			t.Errorf("%s: %d %s, want 403", name, got.status, got.body)
		}
	}
	decoded[any](t, as(changing.AccessToken, http.MethodPatch, "/api/v1/tokens/"+made.ID, `{"description": "x"}`), http.StatusOK)

	// No worker makes itself a token for wts, which would be good at the API.
	for name, got := range map[string]answer{
		"a session at /token":       r.call(t, alice, http.MethodGet, "/token?audience=wts&scope=api"),
		"a worker at /token":        r.call(t, workerAt("127.0.0.2"), http.MethodGet, "/token?audience=wts&scope=api"),
		"an API token, by exchange": r.exchange(t, made.Token, "audience", "wts", "scope", "token"),
		"a login, by exchange":      r.exchange(t, login.AccessToken, "audience", "wts", "scope", "api"),
	} {
		if got.status == http.StatusOK {
			t.Errorf("%s: %s, want a refusal", name, got.body)
		}
	}

	// What lives long is made within an hour of a login, which a refresh is not.
	r.later(t, "sessions", "created_at", -61*time.Minute)
	login = decoded[granted](t, r.refreshWith(t, "wts-cli", login.RefreshToken), http.StatusOK)
	if got := as(login.AccessToken, http.MethodPost, "/api/v1/tokens", personalToken); got.member("code") != "step_up" {
		t.Errorf("an hour after the login: %d %s, want step_up", got.status, got.body)
	}

	// Its person ends it, and its token with it.
	alice = r.signedIn(t, "alice")
	decoded[any](t, r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions", ""), http.StatusOK)
	if got := as(login.AccessToken, http.MethodGet, "/api/v1/tokens", ""); got.status != http.StatusUnauthorized {
		t.Errorf("after its person ended it: %d %s, want 401", got.status, got.body)
	}
	if got := r.refreshWith(t, "wts-cli", login.RefreshToken); got.oauthError().Error != "invalid_grant" {
		t.Errorf("its refresh token: %d %s, want invalid_grant", got.status, got.body)
	}
}

// Scripts of registered sites read what the token endpoint answers, and no others (rule C4).
func TestCrossOrigin(t *testing.T) {
	r := startReplica(t, withClients)
	for origin, allowed := range map[string]string{
		"https://portal.example.org": "https://portal.example.org", "https://evil.example.org": "", "https://portal.example.org.evil.org": "", "null": "", "http://portal.example.org": "",
	} {
		t.Run(origin, func(t *testing.T) {
			for _, got := range []answer{
				r.call(t, nil, http.MethodOptions, "/oauth2/token", "Origin", origin, "Access-Control-Request-Method", "POST"),
				r.form(t, "/oauth2/token", "grant_type", "authorization_code", "header Origin", origin),
			} {
				if of := got.header.Get("Access-Control-Allow-Origin"); of != allowed || got.header.Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(strings.Join(got.header.Values("Vary"), ","), "Origin") {
					t.Errorf("got %v, want it allowed for %q, never with credentials", got.header, allowed)
				}
			}
			for _, path := range []string{"/token", "/api/v1/tokens", "/oauth2/introspect", "/oauth2/auth"} {
				if of := r.call(t, nil, http.MethodGet, path, "Origin", origin).header.Get("Access-Control-Allow-Origin"); of != "" {
					t.Errorf("%s: allowed for %q, want none", path, of)
				}
			}
		})
	}
}

// A person who takes everything back takes back what a program has not fetched yet too.
func TestEndingAllTakesBackWhatWasAllowed(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, r *replica, browser *http.Client){
		"all sessions": func(t *testing.T, r *replica, browser *http.Client) {
			decoded[any](t, r.sendJSON(t, browser, http.MethodDelete, "/api/v1/sessions", ""), http.StatusOK)
		},
		"disabled, and enabled": func(t *testing.T, r *replica, _ *http.Client) {
			for _, disabled := range []bool{true, false} {
				if err := r.store.Users.SetDisabled(t.Context(), "alice", disabled); err != nil {
					t.Fatal(err)
				}
			}
			r.authn.Forget()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, withClients)
			alice := r.signedIn(t, "alice")
			code := r.code(t, alice, wishOf("lasting", portalCallback))
			shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
			r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...), "allow")
			end(t, r, alice)
			if got := r.redeem(t, "lasting", code); got.oauthError().Error != "invalid_grant" {
				t.Errorf("the code: %d %s, want invalid_grant", got.status, got.body)
			}
			if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "access_denied" {
				t.Errorf("the device: %d %s, want access_denied", got.status, got.body)
			}
		})
	}
}

// The page of a device shows the code, and says where a program asks from that is not where the person is.
func TestTheDevicePageShowsTheCode(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "wts-cli", "scope", strings.Repeat("token ", 500)+"api:create"), http.StatusOK)
	asked := r.call(t, alice, http.MethodGet, "/device?user_code="+strings.ToLower(shown.UserCode), page...)
	for _, text := range []string{`<p class="code">` + shown.UserCode + "</p>", "get tokens that wts makes for you", "make API tokens in your name", "up to 90 days"} {
		if !strings.Contains(asked.body, text) {
			t.Errorf("the page does not say %q:\n%s", text, asked.body)
		}
	}
	if strings.Count(asked.body, "<li>") != 2 || strings.Contains(asked.body, "not where you are now") {
		t.Errorf("want each scope once, and no warning of the same address:\n%s", asked.body)
	}
	elsewhere := &http.Client{Jar: alice.Jar, Transport: workerAt("127.0.0.9").Transport}
	if asked := r.call(t, elsewhere, http.MethodGet, "/device?user_code="+shown.UserCode, page...); !strings.Contains(asked.body, "not where you are now") {
		t.Errorf("from another address:\n%s\nwant that it says so", asked.body)
	}
}

// The question is answered by the person to whom it was put.
func TestAQuestionIsAnsweredByWhoWasAsked(t *testing.T) {
	r := startReplica(t, withClients)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	asked := r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("portal", portalCallback).Encode(), page...)
	if got := r.decide(t, bob, asked, "allow"); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/oauth2/auth?") {
		t.Errorf("got %d to %q, want that bob is asked himself", got.status, got.header.Get("Location"))
	}
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
	asked = r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...)
	if got := r.decide(t, bob, asked, "allow"); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/device?") {
		t.Errorf("got %d to %q, want that bob is asked himself", got.status, got.header.Get("Location"))
	}
	if got := r.poll(t, "lasting", shown.DeviceCode); got.oauthError().Error != "authorization_pending" {
		t.Errorf("the device: %s, want that it waits", got.body)
	}
	// Where a login comes between, who wants to be asked is.
	stranger := providertest.Browser()
	if back := r.logIn(t, stranger, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/", "prompt", "consent").Encode(), "bob"); !strings.Contains(back.Body, "In house") {
		t.Errorf("prompt=consent, after a login: %s, want the question", back.Body)
	}
}

// What an operator takes from a client, its logins have no more; and introspection knows of a login that was ended.
func TestAClientThatMayLess(t *testing.T) {
	database := pgtest.Database(t)
	r := startReplica(t, withClients, func(c *config.Config) { c.Database.URL = secret.Text(database) })
	alice := r.signedIn(t, "alice")
	login := decoded[granted](t, r.redeem(t, "lasting", r.code(t, alice, wishOf("lasting", portalCallback))), http.StatusOK)
	shown := decoded[deviceBegun](t, r.form(t, "/oauth2/device_authorization", "client_id", "lasting", "scope", "read"), http.StatusOK)
	r.decide(t, alice, r.call(t, alice, http.MethodGet, "/device?user_code="+shown.UserCode, page...), "allow")
	code := r.code(t, alice, wishOf("lasting", portalCallback))
	less := startReplica(t, withClients, func(c *config.Config) {
		c.Database.URL, c.Keys = secret.Text(database), r.config.Keys
		client := c.Grants.Clients["lasting"]
		client.Audiences = []string{"storage"}
		c.Grants.Clients["lasting"] = client
	})
	for name, got := range map[string]answer{
		"a refresh": less.refreshWith(t, "lasting", login.RefreshToken), "a code": less.redeem(t, "lasting", code), "a device": less.poll(t, "lasting", shown.DeviceCode),
	} {
		if got.oauthError().Error != "invalid_grant" {
			t.Errorf("%s: %d %s, want invalid_grant", name, got.status, got.body)
		}
	}
	active := func() bool {
		return decoded[struct{ Active bool }](t, r.form(t, "/oauth2/introspect", "token", login.AccessToken, "client_id", "files", "client_secret", siteSecret), http.StatusOK).Active
	}
	if !active() {
		t.Error("a token of a login that goes on is not active")
	}
	decoded[granted](t, r.refreshWith(t, "lasting", login.RefreshToken), http.StatusOK)
	decoded[any](t, r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions", ""), http.StatusOK)
	if active() {
		t.Error("a token of a login that was ended is active")
	}
	if got := r.form(t, "/oauth2/revoke", "token", "wtsl_"+strings.Repeat("A", 52)); got.status != http.StatusOK {
		t.Errorf("revoking what is no login: %d %s, want 200 (RFC 7009 2.2)", got.status, got.body)
	}
}

// A person asks for so many codes a second, and no more.
func TestCodesAreLimited(t *testing.T) {
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	for range 40 {
		if r.call(t, alice, http.MethodGet, "/oauth2/auth?"+wishOf("inhouse", "https://inhouse.example.org/").Encode(), page...).status == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("forty codes at once: want 429")
}
