package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// submit posts a form of a page, as a browser does, and does not follow the answer.
func (r *replica) submit(t *testing.T, browser *http.Client, path string, pairs ...string) answer {
	t.Helper()
	form, headers := url.Values{}, map[string]string{"Accept": "text/html", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
	for i := 0; i < len(pairs); i += 2 {
		if name, ok := strings.CutPrefix(pairs[i], "header "); ok {
			headers[name] = pairs[i+1]
			continue
		}
		form.Add(pairs[i], pairs[i+1])
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	still := *browser
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := still.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{response.StatusCode, response.Header, string(body)}
	hold(t, http.MethodPost, path, "", got)
	return got
}

// see loads a page.
func (r *replica) see(t *testing.T, browser *http.Client, path string) answer {
	t.Helper()
	return r.call(t, browser, http.MethodGet, path, page...)
}

// acts submits a form that is to be answered by a page of ours, and returns that page.
func (r *replica) acts(t *testing.T, browser *http.Client, path string, pairs ...string) answer {
	t.Helper()
	got := r.submit(t, browser, path, pairs...)
	if got.status != http.StatusSeeOther {
		t.Fatalf("POST %s: %d\n%s\nwant a redirect to a page", path, got.status, got.body)
	}
	return r.see(t, browser, got.header.Get("Location"))
}

var (
	title  = regexp.MustCompile(`(?s)<h1[^>]*>(.*?)</h1>`)
	tags   = regexp.MustCompile(`<[^>]*>`)
	once   = regexp.MustCompile(`<code id="value">([^<]+)</code>`)
	told   = regexp.MustCompile(`(?s)role="status">(.*?)</p>`)
	button = regexp.MustCompile(`<(?:a|button) class="(?:button )?primary"[^>]*>`)
)

// titleOf is what a page says first.
func titleOf(got answer) string {
	found := title.FindStringSubmatch(got.body)
	if found == nil {
		return ""
	}
	return strings.TrimSpace(html.UnescapeString(tags.ReplaceAllString(found[1], "")))
}

// noticeOf is what a page says of the action before it.
func noticeOf(got answer) string {
	found := told.FindStringSubmatch(got.body)
	if found == nil {
		return ""
	}
	return strings.TrimSpace(html.UnescapeString(tags.ReplaceAllString(found[1], "")))
}

// postOf is where the form posts whose button says so.
func postOf(t *testing.T, got answer, label string) string {
	t.Helper()
	for _, form := range regexp.MustCompile(`(?s)<form method="post" action="([^"]+)".*?</form>`).FindAllStringSubmatch(got.body, -1) {
		if strings.Contains(html.UnescapeString(form[0]), ">"+label+"</button>") {
			return html.UnescapeString(form[1])
		}
	}
	t.Fatalf("no form with the button %q in:\n%s", label, got.body)
	return ""
}

// A personal token by the pages alone: seen once, used, rotated, revoked, and each action said once.
func TestTokensByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	if got := r.call(t, alice, http.MethodGet, "/tokens"); titleOf(got) != "API tokens" {
		t.Errorf("who does not ask for a page gets none: %d %s", got.status, got.body)
	}
	first := r.see(t, alice, "/tokens")
	for name, want := range map[string]string{"Content-Security-Policy": "script-src 'self'", "X-Frame-Options": "DENY", "Vary": "Accept, Cookie", "Cache-Control": "no-store"} {
		if got := first.header.Get(name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if titleOf(first) != "API tokens" || !strings.Contains(first.body, "Create token") {
		t.Fatalf("without a token the page has no form:\n%s", first.body)
	}
	made := r.acts(t, alice, "/tokens", "name", "laptop", "audience", "wts", "scope", "wts token", "scope", "storage read", "expires", "7", "networks", "127.0.0.0/8\n::1")
	found := once.FindStringSubmatch(made.body)
	if found == nil || !strings.Contains(made.body, "Copy it now: “laptop” is shown only once.") {
		t.Fatalf("the token is not shown:\n%s", made.body)
	}
	value := found[1]
	if !strings.Contains(made.body, `class="pill good">New<`) || !strings.Contains(made.body, `class="pill warn"><time`) {
		t.Errorf("it is new, and ends within a week:\n%s", made.body)
	}
	if again := r.see(t, alice, "/tokens"); strings.Contains(again.body, value) || !strings.Contains(again.body, "laptop") || !strings.Contains(again.body, "never") {
		t.Fatalf("loaded again:\n%s", again.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(value)...); got.status != 200 {
		t.Fatalf("the token: %d %s", got.status, got.body)
	}
	eventually(t, "the last use is shown", func() bool { return strings.Contains(r.see(t, alice, "/tokens").body, "127.0.0.1") })
	list := r.see(t, alice, "/tokens")
	rotated := r.acts(t, alice, postOf(t, list, "Rotate “laptop”"))
	fresh := once.FindStringSubmatch(rotated.body)
	if fresh == nil || fresh[1] == value || !strings.Contains(rotated.body, "the value before works until") {
		t.Fatalf("rotated:\n%s", rotated.body)
	}
	revoked := r.acts(t, alice, postOf(t, list, "Revoke “laptop”"))
	if noticeOf(revoked) != "✓ “laptop” is revoked, and refused from now on." || !strings.Contains(revoked.body, "Revoked and expired (1)") {
		t.Errorf("revoked: %q\n%s", noticeOf(revoked), revoked.body)
	}
	if again := r.see(t, alice, "/tokens"); noticeOf(again) != "" {
		t.Errorf("it is said twice: %q", noticeOf(again))
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(fresh[1])...); got.status != 401 {
		t.Errorf("the revoked token: %d", got.status)
	}
	if log := r.log.String(); strings.Contains(log, value) || strings.Contains(log, fresh[1]) {
		t.Error("a value is in the log")
	}
}

// What is wrong with a form is said in the form, which keeps what was typed; nothing is made.
func TestAFormThatIsRefused(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	for name, test := range map[string]struct {
		fields []string
		status int
		want   string
	}{
		"no name":             {[]string{"audience", "wts", "name", " "}, 422, "Name is missing."},
		"a name of blanks":    {[]string{"audience", "wts", "name", "a\u200bb"}, 422, "a character that cannot be seen"},
		"a bad network":       {[]string{"audience", "wts", "name", "kept", "networks", "home"}, 422, "is no network like 192.0.2.0/24"},
		"a closed audience":   {[]string{"audience", "closed", "name", "kept"}, 422, "No personal tokens may be made"},
		"an unknown audience": {[]string{"audience", "nowhere", "name", "kept"}, 422, "The audience is not registered."},
		"a format":            {[]string{"audience", "wts", "name", "kept", "format", "jwt"}, 422, "No tokens that are JWTs"},
		"a scope":             {[]string{"audience", "wts", "name", "kept", "scope", "wts admin"}, 422, "The scope is not one"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.submit(t, alice, "/tokens", test.fields...)
			if got.status != test.status || !strings.Contains(html.UnescapeString(got.body), test.want) || once.MatchString(got.body) {
				t.Errorf("got %d, want %d and %q in:\n%s", got.status, test.status, test.want, got.body)
			}
			if strings.Contains(test.fields[3], "kept") && !strings.Contains(got.body, `value="kept"`) {
				t.Errorf("what was typed is lost:\n%s", got.body)
			}
		})
	}
	if count := r.rows(t, "api_tokens"); count != 0 {
		t.Errorf("%d tokens were made", count)
	}
}

// forms are all that change something, but for the ids in them.
var forms = []string{
	"/tokens", "/tokens/x/rotate", "/tokens/x/revoke", "/tokens/revoke", "/resources/sites/plugin/tokens", "/resources/sites/plugin/tokens/x/rotate", "/resources/sites/plugin/tokens/x/revoke",
	"/sessions/x/end", "/sessions/end", "/admin/disable?name=alice", "/admin/enable?name=alice", "/oauth2/logout", "/oauth2/logout?idp=first", "/device",
	"/integrations/x/keys", "/integrations/x/keys/activate", "/integrations/x/keys/drop", "/integrations/x/selftest",
}

// Rule C3: no page of another site acts for a person.
func TestFormsOfOtherSites(t *testing.T) {
	r := startReplica(t, withTokens)
	bob := r.signedIn(t, "bob")
	r.makeToken(t, bob, personalToken)
	bare := &http.Client{Jar: bob.Jar} // which adds no headers of a browser by itself
	for _, path := range forms {
		for name, headers := range map[string][]string{"cross-site": {"header Sec-Fetch-Site", "cross-site"}, "by its Origin": {"header Sec-Fetch-Site", "", "header Origin", "https://evil.example"}} {
			t.Run(path+" "+name, func(t *testing.T) {
				if got := r.submit(t, bare, path, headers...); got.status != http.StatusForbidden || titleOf(got) != "Another site sent this" {
					t.Errorf("%s: %d %q", path, got.status, titleOf(got))
				}
			})
		}
	}
	if got := r.sendJSON(t, bob, http.MethodGet, "/api/v1/tokens?state=active", ""); !strings.Contains(got.body, "laptop") {
		t.Errorf("a token was revoked: %d %s", got.status, got.body)
	}
}

// personal are the views of a person.
var personal = []string{"/", "/tokens", "/tokens/new", "/resources", "/activity", "/activity/not-me", "/sessions", "/admin", "/integrations", "/integrations/x", "/resources/sites/plugin"}

// Who is not signed in is shown the way to sign in, and comes back; a form changes nothing.
func TestPagesOfWhoIsNotSignedIn(t *testing.T) {
	r := startReplica(t, withTokens)
	for _, path := range personal {
		t.Run(path, func(t *testing.T) {
			got := r.see(t, providertest.Browser(), path)
			if titleOf(got) != "Sign in" || !strings.Contains(got.body, "Continue with The first") || strings.Contains(got.body, "Log out") {
				t.Fatalf("%d\n%s", got.status, got.body)
			}
			want := `href="/oauth2/authorization_url?redirect=` + path + `"`
			if path == "/" {
				want = `href="/oauth2/authorization_url"`
			}
			if !strings.Contains(got.body, want) {
				t.Errorf("no %s in:\n%s", want, got.body)
			}
		})
	}
	if got := r.see(t, providertest.Browser(), "//tokens"); titleOf(got) != "Sign in" || strings.Contains(got.body, "redirect=/") {
		t.Errorf("a way back that leads nowhere is offered:\n%s", got.body)
	}
	for _, path := range forms[:11] {
		t.Run("POST "+path, func(t *testing.T) {
			if got := r.submit(t, providertest.Browser(), path); got.status != http.StatusSeeOther || strings.Contains(got.header.Get("Location"), "oauth2") {
				t.Errorf("%d to %s, want the page that asks to sign in", got.status, got.header.Get("Location"))
			}
		})
	}
}

// A view that another person has the address of shows them nothing, and their form changes nothing.
func TestPagesOfAnotherPerson(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, eve := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	r.putResource(t, "plugin", "alice")
	own := postOf(t, r.see(t, alice, "/sessions"), "End session")
	for name, path := range map[string]string{"a token": "/tokens/" + made.ID + "/revoke", "its value": "/tokens/" + made.ID + "/rotate", "a session": own} {
		t.Run(name, func(t *testing.T) {
			if got := r.submit(t, eve, path); got.status != http.StatusNotFound || titleOf(got) != "It is not there any more" {
				t.Errorf("%d %q", got.status, titleOf(got))
			}
		})
	}
	if got := r.see(t, eve, "/activity/not-me?token="+made.ID); got.status != http.StatusNotFound {
		t.Errorf("the token is shown to another: %d", got.status)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 200 {
		t.Errorf("the token: %d %s", got.status, got.body)
	}
	if got := r.see(t, alice, "/sessions"); !strings.Contains(got.body, "This browser") {
		t.Errorf("alice's session has ended:\n%s", got.body)
	}
}

// What the next page says is this person's alone, and no browser can make it up.
func TestANoticeIsForItsPerson(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	got := r.submit(t, alice, "/tokens", "name", "laptop", "audience", "wts", "scope", "wts token")
	var kept *http.Cookie
	for _, cookie := range (&http.Response{Header: got.header}).Cookies() {
		if cookie.Name == "wts-notice" {
			kept = cookie
		}
	}
	if kept == nil || !kept.HttpOnly || kept.SameSite != http.SameSiteLaxMode {
		t.Fatalf("the notice is %+v", kept)
	}
	base, _ := url.Parse(r.url)
	for name, value := range map[string]string{"another person's": kept.Value, "made up": "eyJUZXh0IjoiZm9yZ2VkIn0", "cut": kept.Value[:len(kept.Value)-4], "nothing": "%"} {
		t.Run(name, func(t *testing.T) {
			eve := r.signedIn(t, "bob")
			r.makeToken(t, eve, personalToken) // else there is a form, which shows no value
			r.see(t, eve, "/")                 // what it says of the login
			eve.Jar.SetCookies(base, []*http.Cookie{{Name: "wts-notice", Value: value, Path: "/"}})
			if page := r.see(t, eve, "/tokens"); page.status != 200 || once.MatchString(page.body) || noticeOf(page) != "" {
				t.Errorf("%d %q\n%s", page.status, noticeOf(page), page.body)
			}
		})
	}
}

// So is what says something, and no value.
func TestANoticeWithoutAValueIsForItsPersonToo(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	got := r.submit(t, alice, "/tokens/"+made.ID+"/revoke")
	r.see(t, bob, "/")
	base, _ := url.Parse(r.url)
	bob.Jar.SetCookies(base, (&http.Response{Header: got.header}).Cookies())
	if said := noticeOf(r.see(t, bob, "/tokens")); said != "" {
		t.Errorf("bob reads %q", said)
	}
}

// Views have a share of requests, as the API has, and say so in words.
func TestPagesAreLimited(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) { c.Server.RateLimits = map[string]float64{"read": 0.1} })
	alice := r.signedIn(t, "alice")
	for _, path := range []string{"/resources", "/activity"} {
		got := r.see(t, alice, path)
		if refused := path == "/activity"; refused != (got.status == http.StatusTooManyRequests) || refused && (titleOf(got) != "Too many requests" || got.header.Get("Retry-After") == "") {
			t.Errorf("%s: %d %q", path, got.status, titleOf(got))
		}
	}
}

// A value waits for the page that shows it, whatever is loaded before; it is shown there, in this session, and not for
// long.
func TestAValueWaitsForItsPage(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, desk := r.signedIn(t, "alice"), r.signedIn(t, "alice")
	base, _ := url.Parse(r.url)
	made := r.submit(t, alice, "/tokens", "name", "laptop", "audience", "wts", "scope", "wts token")
	var kept []*http.Cookie
	for _, cookie := range (&http.Response{Header: made.header}).Cookies() {
		if strings.HasPrefix(cookie.Name, "wts-notice") {
			kept = append(kept, cookie)
		}
	}
	for _, path := range []string{"/docs", "/activity", "/nowhere", "/"} {
		if got := r.see(t, alice, path); once.MatchString(got.body) {
			t.Errorf("%s shows the value", path)
		}
	}
	r.call(t, alice, http.MethodHead, "/tokens", page...)
	if got := r.see(t, alice, "/tokens"); !once.MatchString(got.body) {
		t.Errorf("the value is lost:\n%s", got.body)
	}
	desk.Jar.SetCookies(base, kept)
	if got := r.see(t, desk, "/tokens"); once.MatchString(got.body) {
		t.Error("another session of hers shows the value")
	}
	// A part that an earlier, longer value left behind does not spoil the next one.
	alice.Jar.SetCookies(base, []*http.Cookie{{Name: "wts-notice", Value: "x", Path: "/"}, {Name: "wts-notice.1", Value: "left", Path: "/"}})
	if got := r.acts(t, alice, "/tokens", "name", "desk", "audience", "wts"); !once.MatchString(got.body) {
		t.Errorf("a part left over spoils the value:\n%s", got.body)
	}
}

// Rule C6: what outlives the session asks for a sign-in of the last hour, and comes back to where it was.
func TestPagesThatAskToSignInAgain(t *testing.T) {
	r := startReplica(t, withTokens)
	bob := r.signedIn(t, "bob")
	made := r.makeToken(t, bob, personalToken)
	r.later(t, "sessions", "created_at", -2*time.Hour)
	if got := r.see(t, bob, "/tokens/new"); titleOf(got) != "Sign in" || !strings.Contains(got.body, "a sign-in of the last hour") || !strings.Contains(got.body, "redirect=/tokens/new") {
		t.Errorf("the form:\n%s", got.body)
	}
	if got := r.submit(t, bob, "/tokens", "name", "x", "audience", "wts"); got.status != http.StatusSeeOther || got.header.Get("Location") != "/tokens/new" {
		t.Errorf("making one: %d to %s", got.status, got.header.Get("Location"))
	}
	if got := r.submit(t, bob, "/tokens/"+made.ID+"/rotate"); titleOf(got) != "Sign in" || once.MatchString(got.body) {
		t.Errorf("rotating: %q", titleOf(got))
	}
	for _, path := range []string{"/admin/disable?name=alice", "/admin/enable?name=alice"} {
		if got := r.submit(t, bob, path); titleOf(got) != "Sign in" {
			t.Errorf("%s: %q", path, titleOf(got))
		}
	}
	alice := r.signedIn(t, "alice")
	r.later(t, "sessions", "created_at", -2*time.Hour)
	if got := r.see(t, alice, "/tokens"); strings.Contains(got.body, "Create token") || !strings.Contains(got.body, `href="/tokens/new"`) {
		t.Errorf("a form that would be refused is shown:\n%s", got.body)
	}
	if got := r.submit(t, bob, "/tokens/revoke"); titleOf(got) != "Sign in" || !strings.Contains(got.body, "redirect=/activity/not-me") {
		t.Errorf("revoking all: %q", titleOf(got))
	}
	if got := r.acts(t, bob, "/tokens/"+made.ID+"/revoke"); noticeOf(got) == "" { // what ends something asks for nothing
		t.Errorf("revoking: %d", got.status)
	}
}

// A maintainer sees and ends what a colleague made, who has left.
func TestResourcesByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	r.signedIn(t, "bob")
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	r.putResource(t, "plugin", "alice", "bob")
	if got := r.see(t, alice, "/resources"); !strings.Contains(got.body, `href="/resources/sites/plugin"`) || !strings.Contains(got.body, "alice, bob") {
		t.Fatalf("alice's resources:\n%s", got.body)
	}
	made := r.acts(t, alice, "/resources/sites/plugin/tokens", "name", "release", "audience", "sites", "scope", "sites upload", "expires", "30")
	value := once.FindStringSubmatch(made.body)
	if value == nil || !strings.Contains(made.body, "by alice") {
		t.Fatalf("made:\n%s", made.body)
	}
	if form := r.see(t, alice, "/resources/sites/plugin/new"); strings.Contains(form.body, `value="90"`) || !strings.Contains(form.body, `value="30"`) {
		t.Errorf("the form offers more than the 60 days that are allowed:\n%s", form.body)
	}
	execSQLite(t, r, "UPDATE api_tokens SET expires_at = 1000")
	if got := r.see(t, alice, "/resources/sites/plugin"); !strings.Contains(got.body, "Revoked and expired (1)") {
		t.Errorf("a token that has expired is shown as one that works:\n%s", got.body)
	}
	execSQLite(t, r, "UPDATE api_tokens SET expires_at = NULL")
	r.putResource(t, "plugin", "bob")
	for _, path := range []string{"/resources/sites/plugin/new", "/resources/sites/nowhere/new"} {
		if got := r.see(t, alice, path); got.status != http.StatusNotFound {
			t.Errorf("%s, of who does not maintain it: %d", path, got.status)
		}
	}
	if got := r.see(t, alice, "/resources/sites/plugin"); got.status != http.StatusNotFound || titleOf(got) != "It is not there any more" {
		t.Errorf("alice, who has left: %d %q", got.status, titleOf(got))
	}
	seen := r.see(t, bob, "/resources/sites/plugin")
	if strings.Contains(seen.body, value[1]) || !strings.Contains(seen.body, "Maker has left") || !strings.Contains(seen.body, "Who made one of these tokens does not maintain") {
		t.Fatalf("bob sees:\n%s", seen.body)
	}
	if got := r.acts(t, bob, postOf(t, seen, "Revoke “release”")); !strings.Contains(got.body, "revoked") || titleOf(got) != "The plugin" {
		t.Errorf("revoked:\n%s", got.body)
	}
}

func TestSessionsByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	laptop, desk := r.signedIn(t, "alice"), r.signedIn(t, "alice")
	seen := r.see(t, laptop, "/sessions")
	if strings.Count(seen.body, ">End session<") != 2 || strings.Count(seen.body, "This browser") != 1 {
		t.Fatalf("two sessions, one of them this:\n%s", seen.body)
	}
	var others []string
	for _, card := range strings.Split(seen.body, "<article")[1:] {
		if form := regexp.MustCompile(`action="(/sessions/[0-9a-f]{64}/end)"`).FindStringSubmatch(card); form != nil && !strings.Contains(card, "This browser") {
			others = append(others, form[1])
		}
	}
	if len(others) != 1 {
		t.Fatalf("the other sessions are %v", others)
	}
	if got := r.acts(t, laptop, others[0]); noticeOf(got) != "✓ The session has ended." || strings.Count(got.body, ">End session<") != 1 {
		t.Errorf("ended: %q\n%s", noticeOf(got), got.body)
	}
	if got := r.see(t, desk, "/sessions"); titleOf(got) != "Sign in" {
		t.Error("the other session goes on")
	}
	if got := r.acts(t, laptop, "/sessions/end"); titleOf(got) != "Sign in" || !strings.Contains(noticeOf(got), "has ended") {
		t.Errorf("ended all: %q %q", titleOf(got), noticeOf(got))
	}
	again := r.signedIn(t, "alice")
	if got := r.submit(t, again, "/sessions/end"); !strings.Contains(strings.Join(got.header.Values("Set-Cookie"), "\n"), "wts=; Path=/; Max-Age=0") {
		t.Errorf("the cookie is kept: %v", got.header.Values("Set-Cookie"))
	}
	last := r.signedIn(t, "alice")
	if got := r.acts(t, last, "/oauth2/logout"); titleOf(got) != "Sign in" || noticeOf(got) != "✓ You are signed out here. Your workspaces go on." {
		t.Errorf("logging out: %q %q", titleOf(got), noticeOf(got))
	}
	for _, action := range []string{"logout", "end session"} { // whose it was
		if !regexp.MustCompile(`"audit":"` + action + `","outcome":"done","user_id":"[A-Z0-9]+","user":"alice","proof":"session"`).MatchString(r.log.String()) {
			t.Errorf("the audit of %q does not say whose session it was", action)
		}
	}
	if got := r.see(t, laptop, "/tokens"); titleOf(got) != "Sign in" {
		t.Errorf("this session goes on: %q", titleOf(got))
	}
}

// What workspaces, programs and the person did is in their activity, in words; and what is not theirs is not.
func TestActivityByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	r.worker(t, "/token/?idp=first")
	made := r.makeToken(t, alice, personalToken)
	r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...)
	r.call(t, nil, http.MethodGet, "/token?idp=second", bearerOf(made.Token)...)
	if err := r.trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := r.see(t, alice, "/activity")
	for _, want := range []string{"workspace at 127.0.0.2", "Token for <strong>The first</strong>", "API token “laptop”", "API token made <strong>“laptop”</strong>", "Signed in at <strong>The first</strong>", `<rect x="583"`, "This wasn’t me"} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %q in:\n%s", want, got.body)
		}
	}
	if refused := r.see(t, alice, "/activity?outcome=refused"); !strings.Contains(refused.body, ">refused</span>") || strings.Contains(refused.body, ">given</span>") {
		t.Errorf("those that were refused:\n%s", refused.body)
	}
	if one := r.see(t, alice, "/activity?action=create+token"); strings.Contains(one.body, "Signed in at <strong>") || !strings.Contains(one.body, "API token made") {
		t.Errorf("one kind:\n%s", one.body)
	}
	if other := r.see(t, bob, "/activity"); strings.Contains(other.body, "laptop") || strings.Contains(other.body, "127.0.0.2") {
		t.Errorf("bob sees alice's:\n%s", other.body)
	}
	if home := r.see(t, alice, "/"); !strings.Contains(home.body, "by workspace at 127.0.0.2") || !strings.Contains(home.body, "last used") {
		t.Errorf("the connection does not say who used it:\n%s", home.body)
	}
	not := r.see(t, alice, "/activity/not-me?token="+made.ID)
	if got := r.acts(t, alice, postOf(t, not, "Revoke “laptop”")); !strings.Contains(noticeOf(got), "is revoked") {
		t.Errorf("not me: %q", noticeOf(got))
	}
	r.makeToken(t, alice, personalToken)
	if got := r.acts(t, alice, postOf(t, r.see(t, alice, "/activity/not-me"), "Revoke all API tokens")); noticeOf(got) != "✓ 1 API token is revoked, and refused from now on." {
		t.Errorf("all of them: %q", noticeOf(got))
	}
}

// Admins are those whom the operator names, and see no secret; what they do stands in the audit of whom they did it to.
func TestAdminByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	alice, root := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	if got := r.see(t, alice, "/admin"); got.status != http.StatusForbidden || titleOf(got) != "This page is for admins" || strings.Contains(got.body, ">Admin<") {
		t.Errorf("alice: %d %q", got.status, titleOf(got))
	}
	if got := r.submit(t, alice, "/admin/disable?name=bob"); got.status != http.StatusForbidden {
		t.Errorf("alice disables bob: %d", got.status)
	}
	r.worker(t, "/token/?idp=second") // refused
	if err := r.trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := r.see(t, root, "/admin?name=al")
	for _, want := range []string{">Admin<", "alice", "The first", "next rotation", "Recent refusals", "for alice", "not connected"} {
		if !strings.Contains(seen.body, want) {
			t.Errorf("no %q in:\n%s", want, seen.body)
		}
	}
	if strings.Contains(seen.body, "Disable bob") {
		t.Error("bob's name does not begin like that")
	}
	if got := r.see(t, root, "/admin?name=%25"); strings.Contains(got.body, "Disable alice") {
		t.Error("a percent sign is no name")
	}
	got := r.acts(t, root, postOf(t, seen, "Disable alice"))
	if !strings.Contains(noticeOf(got), "alice is disabled") || !strings.Contains(got.body, "Enable alice") {
		t.Fatalf("disabled: %q\n%s", noticeOf(got), got.body)
	}
	if page := r.see(t, alice, "/tokens"); titleOf(page) != "Your account is disabled" || page.status != http.StatusForbidden || strings.Contains(page.body, "authorization_url") || strings.Contains(page.body, "<nav") {
		t.Errorf("alice, who is signed in: %d %q\n%s", page.status, titleOf(page), page.body)
	}
	if page := r.logIn(t, providertest.Browser(), "/oauth2/authorization_url?redirect=/tokens", "alice"); page.URL.Path != "/failed" || !strings.Contains(page.Body, "Your account is disabled") || strings.Contains(page.Body, "authorization_url") {
		t.Errorf("alice signs in: %s\n%s", page.URL, page.Body)
	}
	if got := r.see(t, alice, "/oauth2/authorize/second?code=canary-code&state=x"); got.status != http.StatusSeeOther || strings.Contains(got.header.Get("Location"), "auth") || strings.Contains(got.header.Get("Location"), "canary") {
		t.Errorf("a callback that is refused at the door stays at its address: %d %s", got.status, got.header.Get("Location"))
	}
	if got := r.submit(t, alice, "/oauth2/logout?idp=first"); got.status != http.StatusUnauthorized {
		t.Errorf("alice disconnects: %d", got.status)
	}
	if err := r.trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, err := r.store.Audit.Find(t.Context(), audit.Filter{UserID: r.idOf(t, "alice"), Action: audit.DisableUser, Limit: 5}); err != nil || len(all) != 2 || all[0].Actor != "admin bob" || all[1].Reason == "" { // and what she tried herself
		t.Errorf("in alice's audit: %+v, %v", all, err)
	}
	desk := &http.Client{Jar: alice.Jar} // which is passed on
	if page := r.see(t, desk, "/oauth2/authorization_url"); page.status != http.StatusForbidden {
		t.Errorf("alice begins a sign-in: %d", page.status)
	}
	if got := r.acts(t, root, postOf(t, got, "Enable alice")); !strings.Contains(noticeOf(got), "enabled again") {
		t.Errorf("enabled: %q", noticeOf(got))
	}
	if page := r.see(t, alice, "/tokens"); titleOf(page) != "Sign in" {
		t.Errorf("the session from before goes on for who is enabled: %q", titleOf(page))
	}
	if got := r.acts(t, root, "/admin/disable?name=bob"); !strings.Contains(noticeOf(got), "cannot disable yourself") {
		t.Errorf("bob disables himself: %q", noticeOf(got))
	}
	busy := r.signedIn(t, "alice")
	r.acts(t, root, "/admin/enable?name=alice") // who is not disabled
	if got := r.see(t, busy, "/sessions"); !strings.Contains(got.body, "This browser") {
		t.Error("enabling who is not disabled ended their session")
	}
	if got := r.see(t, root, "/admin?name=%00"); got.status != 200 {
		t.Errorf("a name that no database takes: %d", got.status)
	}
	execSQLite(t, r, "INSERT INTO users (id, issuer, subject, username, created_at, set_aside_at, disabled_at) VALUES ('former', 'i', 'f', 'alice', 1, 2, 3)")
	if got := r.see(t, root, "/admin?name=alice"); !strings.Contains(got.body, "Name passed on") || strings.Contains(got.body, "Enable alice") || strings.Count(got.body, "Disable alice</button>") != 1 {
		t.Errorf("a former alice can be enabled in the place of the present one:\n%s", got.body)
	}
	if got := r.submit(t, root, "/admin/disable?name=nobody"); got.status != http.StatusNotFound {
		t.Errorf("nobody: %d", got.status)
	}
	if log := r.log.String(); !strings.Contains(log, `"actor":"admin bob"`) {
		t.Error("the audit does not say who disabled alice")
	}
}

// An admin by a group is one from the second page on at the latest.
func TestAdminByAGroup(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Admins, c.AdminGroups = nil, []string{"wts-admins"}
		first := c.Providers["first"]
		first.GroupsClaim = "groups"
		c.Providers["first"] = first
	})
	alice := r.signedIn(t, "alice")
	eventually(t, "the provider was asked, whose answer would come later than what follows", func() bool {
		known, err := r.store.Users.Claims(t.Context(), r.idOf(t, "alice"))
		return err == nil && !known.At.IsZero()
	})
	said := broker.Claims{Groups: []string{"wts-admins"}, At: time.Now().Add(time.Hour)} // no answer of the provider is newer
	if err := r.store.Users.SetClaims(t.Context(), r.idOf(t, "alice"), said); err != nil {
		t.Fatal(err)
	}
	r.broker.ForgetAll()
	eventually(t, "the view of admins is listed", func() bool { return strings.Contains(r.see(t, alice, "/").body, ">Admin<") })
	if got := r.see(t, alice, "/admin"); titleOf(got) != "Administration" {
		t.Errorf("%d %q", got.status, titleOf(got))
	}
}

// Pages of a person who is known to the process send this many statements at most.
func TestStatementsOfPages(t *testing.T) {
	for dialect, database := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "wts.db") },
		"postgres": func(t *testing.T) string { return pgtest.Database(t) },
	} {
		t.Run(dialect, func(t *testing.T) {
			r := startReplica(t, withTokens, func(c *config.Config) { c.Database.URL = secret.Text(database(t)) })
			root := r.signedIn(t, "bob")
			r.makeToken(t, root, personalToken)
			for path, most := range map[string]int64{"/": 2, "/tokens": 2, "/activity": 5, "/admin": 5, "/sessions": 1, "/tokens/new": 0} {
				r.see(t, root, path)
				fewest := int64(1000)
				for range 5 { // what runs beside may send one
					before := r.store.Statements()
					if got := r.see(t, root, path); got.status != 200 {
						t.Fatalf("%s: %d", path, got.status)
					}
					fewest = min(fewest, r.store.Statements()-before)
				}
				if t.Logf("%s: %d statements", path, fewest); fewest > most {
					t.Errorf("%s sends %d statements, want at most %d", path, fewest, most)
				}
			}
		})
	}
}

// A login that failed has a page that can be loaded again: the same words, and a way on with the same provider and the
// same way back, which no address can make up.
func TestFailedLogins(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	begun := r.see(t, alice, "/oauth2/authorization_url?idp=second&redirect=/author")
	address, err := url.Parse(begun.header.Get("Location"))
	if err != nil || address.Query().Get("state") == "" {
		t.Fatalf("no login was begun: %d %s", begun.status, begun.header.Get("Location"))
	}
	state := address.Query().Get("state")
	tests := map[string]struct{ query, title string }{
		"declined":  {"error=access_denied&state=" + state, "You declined at The second"},
		"used up":   {"error=access_denied&state=" + state, "This sign-in took too long, or was opened twice"},
		"never was": {"code=x&state=made-up", "This sign-in took too long, or was opened twice"},
	}
	for _, name := range []string{"declined", "used up", "never was"} {
		t.Run(name, func(t *testing.T) {
			got := r.see(t, alice, "/oauth2/authorize/second?"+tests[name].query)
			where := got.header.Get("Location")
			if got.status != http.StatusSeeOther || !strings.HasPrefix(where, "/failed?error=401") || strings.Contains(where, "auth") {
				t.Fatalf("%d to %s; want a page whose address lets the portal's window close", got.status, where)
			}
			first, again := r.see(t, alice, where), r.see(t, alice, where)
			if titleOf(first) != tests[name].title || titleOf(again) != titleOf(first) || len(button.FindAllString(first.body, -1)) != 1 {
				t.Errorf("%q, then %q, want %q and one button:\n%s", titleOf(first), titleOf(again), tests[name].title, first.body)
			}
			if name == "never was" && strings.Contains(first.body, "idp=second") {
				t.Errorf("the way back of another login is offered:\n%s", first.body)
			}
			if name != "never was" && !regexp.MustCompile(`authorization_url\?confirm=[A-Z0-9]+&amp;idp=second&amp;redirect=%2Fauthor"`).MatchString(first.body) {
				t.Errorf("the provider or the way back is lost:\n%s", first.body)
			}
		})
	}
	// No address makes something up: neither a made-up one, nor another browser's.
	own := r.see(t, alice, "/oauth2/authorize/second?code=x&state=made-up").header.Get("Location")
	made := hex.EncodeToString([]byte(`{"w":"account","p":"second","r":"//evil.example","a":"x","o":"y"}`))
	for name, address := range map[string]string{
		"made up": "/failed?reason=account&id=1&of=" + made, "without anything": "/failed?reason=disabled&id=CALL+555", "of another request": strings.Replace(own, "id=", "id=0", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.see(t, alice, address); titleOf(got) != "That did not work" || strings.Contains(got.body, "evil") || strings.Contains(got.body, "CALL") || strings.Contains(got.body, "authorization_url") || strings.Contains(got.body, "logout?idp") {
				t.Errorf("%q\n%s", titleOf(got), got.body)
			}
		})
	}
	bob := r.signedIn(t, "bob")
	r.see(t, bob, "/oauth2/authorize/second?code=x&state=his-own") // a failure of his, so that he has what his pages are sealed for
	if got := r.see(t, bob, own); titleOf(got) != "That did not work" || strings.Contains(got.body, "confirm=") {
		t.Errorf("alice's page in bob's browser: %q\n%s", titleOf(got), got.body)
	}
}

// An address that is kept for a failure, or for the way back, fits where it is kept.
func TestLongWaysBack(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	for name, redirect := range map[string]string{"letters": "/" + strings.Repeat("a", 4000), "that are escaped": "/" + strings.Repeat("%26", 1300)} {
		t.Run(name, func(t *testing.T) {
			begun := r.see(t, alice, "/oauth2/authorization_url?idp=second&redirect="+redirect)
			address, err := url.Parse(begun.header.Get("Location"))
			if err != nil || begun.status != http.StatusFound {
				t.Fatalf("%d, %v", begun.status, err)
			}
			for _, cookie := range (&http.Response{Header: begun.header}).Cookies() {
				if size := len(cookie.Name) + len(cookie.Value); size > 4096 {
					t.Errorf("the cookie %s has %d bytes", cookie.Name, size)
				}
			}
			got := r.see(t, alice, "/oauth2/authorize/second?error=access_denied&state="+address.Query().Get("state"))
			if where := got.header.Get("Location"); got.status != http.StatusSeeOther || len(where) > 6000 {
				t.Errorf("%d, an address of %d bytes", got.status, len(where))
			}
		})
	}
}

// Who signed in with another account can keep the one, or connect the other.
func TestAnotherAccountByThePage(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	r.logIn(t, browser, "/oauth2/authorization_url?idp=second", "alice")
	refused := r.logIn(t, browser, "/oauth2/authorization_url?idp=second&redirect=/sessions", "bob")
	asked := answer{status: refused.Status, body: refused.Body}
	if titleOf(asked) != "You are connected as alice, and signed in there as bob" || !strings.Contains(refused.Body, `href="/sessions">Keep alice</a>`) {
		t.Fatalf("%q\n%s", titleOf(asked), refused.Body)
	}
	if !strings.Contains(refused.Body, `name="redirect" value="/sessions"`) {
		t.Errorf("the way back is lost:\n%s", refused.Body)
	}
	away := r.submit(t, browser, "/oauth2/logout?idp=second", "then", "connect", "redirect", "//evil.example/")
	if strings.Contains(away.body, "evil") {
		t.Errorf("it leads away:\n%s", away.body)
	}
	between := r.submit(t, browser, postOf(t, asked, "Disconnect alice and connect bob"), "then", "connect", "redirect", "/sessions")
	next := regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]+)"`).FindStringSubmatch(between.body)
	if between.status != 200 || next == nil {
		t.Fatalf("%d\n%s", between.status, between.body)
	}
	// The provider still has bob's session, or asks once more.
	done := r.logIn(t, browser, html.UnescapeString(next[1]), "bob")
	if done.URL.Path != "/sessions" || !strings.Contains(done.Body, "The second is connected as bob") {
		t.Errorf("at %s:\n%s", done.URL, done.Body)
	}
}

// Everything works below a prefix, which a proxy takes away.
func TestPagesBelowAPrefix(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Server.URL += "/wts"
		c.Issuer.URL = c.Server.URL
		c.Server.Page.SupportURL = "https://help.example.org"
	})
	alice := &http.Client{}
	alice.Jar, _ = cookiejar.New(nil)
	handle, _, err := r.session.Begin(context.Background(), r.aPerson(t, "alice"), "127.0.0.1", "")
	if err != nil {
		t.Fatal(err)
	}
	base, _ := url.Parse(r.url)
	alice.Jar.SetCookies(base, []*http.Cookie{{Name: r.session.Cookie, Value: handle, Path: "/"}})
	paths := regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)
	for _, path := range append(personal, "/device", "/docs", "/nowhere", "/failed?reason=declined") {
		t.Run(path, func(t *testing.T) {
			got := r.see(t, alice, path)
			for _, found := range paths.FindAllStringSubmatch(got.body, -1) {
				if address := found[1]; !strings.HasPrefix(address, "/wts/") && !strings.HasPrefix(address, "#") && !strings.HasPrefix(address, "https://help.") {
					t.Errorf("%s leads to %s", path, address)
				}
			}
		})
	}
	if got := r.submit(t, alice, "/sessions/end"); got.header.Get("Location") != "/wts/" {
		t.Errorf("a form leads to %s", got.header.Get("Location"))
	}
}

// aPerson makes a user who has signed in, without a browser.
func (r *replica) aPerson(t *testing.T, name string) string {
	t.Helper()
	id := "id-of-" + name
	execSQLite(t, r, fmt.Sprintf("INSERT INTO users (id, issuer, subject, username, created_at) VALUES ('%s', 'i', '%s', '%s', 1)", id, name, name))
	return id
}

// A card says by colour and word how a connection is, and a warning comes only where it is news.
func TestCardsOfConnections(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	r.logIn(t, alice, "/oauth2/authorization_url?idp=second", "alice")
	const hour, day = int64(3600_000), int64(24 * 3600_000)
	now := time.Now().UnixMilli()
	tests := map[string]struct {
		since, ends, failing int64 // after now, in milliseconds; 0: unknown
		phase                string
		pill, text, button   string
	}{
		"good":                       {since: -30 * day, phase: "ready", pill: `good">Connected<`, text: "since"},
		"that ends in a month":       {since: -30 * day, ends: 30 * day, phase: "ready", pill: `good">Connected<`, text: " · ends <time"},
		"that ends in six days":      {since: -30 * day, ends: 6 * day, phase: "ready", pill: `warn">Renew by <time`, text: "Ends <time", button: "Reconnect"},
		"of a week, on its first":    {since: -hour, ends: 6 * day, phase: "ready", pill: `good">Connected<`, text: " · ends <time"},
		"of a week, on its last":     {since: -6 * day, ends: 20 * hour, phase: "ready", pill: `warn">Renew by <time`, text: "Ends <time", button: "Reconnect"},
		"of a shift, near its end":   {since: -7 * hour, ends: hour, phase: "ready", pill: `good">Connected<`, text: " · ends <time"},
		"that has ended":             {since: -30 * day, ends: -hour, phase: "ready", pill: `bad">Needs sign-in<`, text: "It ended <time", button: "Reconnect"},
		"that was refused":           {since: -30 * day, phase: "broken", pill: `bad">Needs sign-in<`, text: "does not accept this connection any more", button: "Reconnect"},
		"that fails since a moment":  {since: -30 * day, failing: -60_000, phase: "ready", pill: `good">Connected<`, text: "since"},
		"that fails since an hour":   {since: -30 * day, failing: -hour, phase: "ready", pill: `bad">Ailing: the provider refuses<`, text: "No new token since <time", button: "Reconnect"},
		"that was disconnected":      {since: -30 * day, phase: "disconnected", pill: `">Not connected<`, button: "Connect"},
		"that nobody knows the end ": {since: -30 * day, phase: "suspect", pill: `good">Connected<`, text: "since"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			at := func(after int64) string {
				if after == 0 {
					return "NULL"
				}
				return fmt.Sprint(now + after)
			}
			execSQLite(t, r, fmt.Sprintf("UPDATE connections SET phase = '%s', connected_at = %s, refresh_expires_at = %s, failing_since = %s WHERE provider = 'second'", test.phase, at(test.since), at(test.ends), at(test.failing)))
			cards := strings.Split(r.see(t, alice, "/").body, "<article")
			card := cards[len(cards)-1]
			if !strings.Contains(card, "The second") || !strings.Contains(card, `class="pill `+test.pill) || !strings.Contains(card, test.text) {
				t.Errorf("want %q and %q in:\n%s", test.pill, test.text, card)
			}
			if connects := strings.Contains(card, `class="button primary"`); connects != (test.button != "") || !strings.Contains(card, ">"+test.button) {
				t.Errorf("want the button %q in:\n%s", test.button, card)
			}
			if gone := test.phase == "disconnected"; strings.Contains(card, "Disconnect The second") == gone || strings.Contains(card, ">alice") == gone {
				t.Errorf("an account and a way to disconnect: want %v in:\n%s", !gone, card)
			}
		})
	}
}
