//go:build e2e

package e2e

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // so that some of what the pages show is older than the test

	"github.com/workspace-token-service/wts/test/instance"
)

// maxAssets is how much style, script and pictures of the pages may weigh together, in bytes.
const maxAssets = 40 << 10

// Every view, with much to show and with nothing, looks as it should: wide and narrow, light and dark, to axe-core and to
// the browser's policy. The pages of errors are looked at where they are provoked.
func TestEveryViewInABrowser(t *testing.T) {
	t.Parallel()
	v := &views{newHouse(t, plan{}), t, startBrowser(t), screenshots(t)}
	visitor := v.browser.person(t, "visitor", way{})
	v.see(visitor, "/", "sign-in", "Sign in")
	v.see(visitor, "/tokens", "sign-in-back", "Sign in")
	v.see(visitor, "/docs", "docs", "")

	bob := v.browser.person(t, "bob", way{})
	v.signIn(bob, "bob")
	for path, name := range map[string]string{"/": "connections", "/tokens": "tokens", "/resources": "resources", "/activity": "activity", "/device": "device"} {
		v.see(bob, path, name+"-empty", "")
	}
	alice := v.browser.person(t, "alice", way{})
	v.signIn(alice, "alice")
	alice.look(v.shots, "connections-notice")
	v.fill(alice, bob)
	v.ofPerson(alice)
	root := v.browser.person(t, "root", way{})
	v.signIn(root, "root")
	v.see(root, "/admin", "admin", "Administration")
	v.asks(root, "Disable", "admin-disable")
	v.weighs(alice)
	for _, p := range []*person{visitor, bob, alice, root} {
		p.alone(v.public)
	}
}

// ofPerson are the views of a person who has done much.
func (v *views) ofPerson(alice *person) {
	v.t.Helper()
	v.see(alice, "/", "connections", "Connections")
	v.asks(alice, "Disconnect", "connections-disconnect")
	v.see(alice, "/tokens", "tokens", "API tokens")
	v.asks(alice, "Revoke", "tokens-revoke")
	v.makes(alice)
	v.see(alice, "/resources", "resources", "Resources")
	v.see(alice, "/resources/service/plugin", "resource", "Plugin for genomes")
	v.see(alice, "/activity", "activity", "Activity")
	v.see(alice, "/activity?outcome=refused", "activity-refused", "Activity")
	v.see(alice, "/activity/not-me", "not-me", "")
	v.see(alice, "/sessions", "sessions", "Sessions")
	v.device(alice)
}

type views struct {
	*house
	t       *testing.T
	browser *browser
	shots   string
}

// see opens a view and looks at it.
func (v *views) see(p *person, path, name, heading string) {
	v.t.Helper()
	p.open(v.public + path)
	if heading != "" {
		p.at(heading)
	}
	p.look(v.shots, name)
}

// asks opens the first question behind a word, looks at it, and does not answer it.
func (v *views) asks(p *person, word, name string) {
	v.t.Helper()
	p.do("tap", with{"role": "summary", "name": word}, nil)
	p.look(v.shots, name)
	p.do("tap", with{"role": "button", "name": "Cancel"}, nil)
}

// makes makes a token: the form with everything open, a mistake in it, and the value.
func (v *views) makes(p *person) {
	v.t.Helper()
	p.open(v.public + "/tokens/new")
	p.do("tap", with{"role": "summary", "name": "More"}, nil)
	p.look(v.shots, "token-form")
	p.fill("Name", "a name beside a mistake")
	p.choose("radio", "service")
	p.choose("checkbox", "read")
	p.fill("Networks", "not a network")
	p.press("Create token")
	p.look(v.shots, "token-form-mistake")
	p.fill("Networks", "192.0.2.0/24")
	p.press("Create token")
	p.do("tap", with{"role": "summary", "name": "Lines to paste"}, nil)
	p.look(v.shots, "token-made")
	p.do("tap", with{"role": "button", "name": "Copy"}, nil)
	p.do("until", with{"text": "Copied"}, nil)
}

// device shows what a program asks for.
func (v *views) device(p *person) {
	v.t.Helper()
	v.see(p, "/device?user_code=WRONG-CODE", "device-unknown", "")
	_, answer := v.post(v.t, "/oauth2/device_authorization", url.Values{"client_id": {"wts-cli"}, "scope": {"token api"}})
	var waiting struct {
		Complete string `json:"verification_uri_complete"`
	}
	if err := json.Unmarshal([]byte(answer), &waiting); err != nil {
		v.t.Fatalf("%s: %v", answer, err)
	}
	v.see(p, strings.TrimPrefix(waiting.Complete, v.public), "device-allow", "")
	p.press("Allow")
	p.look(v.shots, "device-allowed")
}

// fill has two people do much, some of it long ago.
func (v *views) fill(alice, bob *person) {
	v.t.Helper()
	for _, provider := range []string{"second", "long", "fleeting"} {
		alice.open(v.public + "/oauth2/authorization_url?redirect=/&idp=" + provider)
		alice.signInAs("alice-with-a-long-account-name@" + provider + ".example.org")
	}
	v.resource(v.t, "plugin", "Plugin for genomes", "alice", "bob")
	v.resource(v.t, "another", "A dataset with a name that goes on for quite a while, as names of datasets do", "alice")
	v.tokens(alice)
	v.api(bob, http.MethodPost, "/api/v1/resources/service/plugin/tokens", with{"name": "made by one who leaves", "scopes": []string{"write"}, "expires_in": 86400})
	v.api(alice, http.MethodPost, "/api/v1/resources/service/plugin/tokens", with{"name": "publish", "scopes": []string{"read", "write"}, "expires_in": 864000})
	v.resource(v.t, "plugin", "Plugin for genomes", "alice")
	worker := instance.Worker()
	for _, query := range []string{"", "?idp=second", "?idp=long", "?audience=service", "?audience=service&scope=read", "?idp=wrong", "?idp=fleeting", "?audience=nothing"} {
		v.Token(v.t, worker, query)
	}
	v.age()
}

// tokens makes API tokens of all kinds.
func (v *views) tokens(alice *person) {
	v.t.Helper()
	for i, name := range []string{"ci", "notebook on the laptop", strings.Repeat("long", 25), "expires soon", "expired", "revoked", "nightly"} {
		made := v.api(alice, http.MethodPost, "/api/v1/tokens", with{
			"audience": "service", "name": name, "scopes": []string{"read", "write"}[:1+i%2], "expires_in": 30 * 86400,
			"description": strings.Repeat("For the export at night. ", i%3), "networks": []string{"192.0.2.0/24", "2001:db8::/32"}[:i%3],
		})
		v.use(v.t, made.Token)
		if name == "revoked" {
			v.api(alice, http.MethodDelete, "/api/v1/tokens/"+made.ID, nil)
		}
	}
}

// api is what a page's script would send.
func (v *views) api(p *person, method, path string, body with) (made apiToken) {
	v.t.Helper()
	p.do("api", with{"method": method, "url": v.public + path, "body": body}, &made)
	return made
}

// age makes some of it older, and one connection broken, once it is in the database.
func (v *views) age() {
	v.t.Helper()
	database, err := sql.Open("sqlite", v.database+"?_pragma=busy_timeout(10000)")
	if err != nil {
		v.t.Fatal(err)
	}
	defer database.Close()
	entries := 0
	for deadline := time.Now().Add(20 * time.Second); entries < 5; time.Sleep(50 * time.Millisecond) {
		if err := database.QueryRow(`SELECT count(*) FROM audit_entries WHERE username = 'alice' AND action = 'handout'`).Scan(&entries); err != nil || time.Now().After(deadline) {
			v.t.Fatalf("%d events are in the database: %v", entries, err)
		}
	}
	const day = 86_400_000
	for _, change := range []string{
		fmt.Sprintf(`INSERT INTO audit_entries SELECT 'older' || days.n, a.seq, a.at - days.n * %d, 1 + (a.seq * 7 + days.n * 5) %% 23, a.action, a.reason, a.user_id, a.username, a.proof,
			a.actor, a.provider, a.audience, a.resource, a.client, a.token, a.request, a.peer, a.digest
			FROM audit_entries a, (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3 UNION SELECT 5 UNION SELECT 8 UNION SELECT 13 UNION SELECT 20 UNION SELECT 27) days WHERE a.username = 'alice'`, day),
		fmt.Sprintf(`UPDATE api_tokens SET created_at = created_at - 40 * %[1]d, expires_at = created_at - %[1]d WHERE name = 'expired'`, day),
		fmt.Sprintf(`UPDATE api_tokens SET expires_at = created_at + 2 * %d WHERE name = 'expires soon'`, day),
		`UPDATE connections SET phase = 'broken', reason = 'invalid_grant' WHERE provider = 'second'`,
		fmt.Sprintf(`UPDATE connections SET refresh_expires_at = connected_at + 5 * %d WHERE provider = 'long'`, day),
	} {
		if _, err := database.Exec(change); err != nil {
			v.t.Fatalf("%s: %v", change, err)
		}
	}
}

// weighs checks what the assets of the pages weigh together, and that a browser may keep them.
func (v *views) weighs(p *person) {
	v.t.Helper()
	p.open(v.public + "/")
	all := 0
	for _, link := range p.links() {
		if strings.HasPrefix(link.URL, v.public+"/static/") {
			all += link.Bytes
			v.t.Logf("%s: %d bytes of %s", link.Written, link.Bytes, link.Kind)
		}
	}
	if all == 0 || all > maxAssets {
		v.t.Errorf("the assets have %d bytes, want at most %d", all, maxAssets)
	}
}
