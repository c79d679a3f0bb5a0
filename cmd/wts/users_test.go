package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// commandsFor is a configuration by which commands reach the database of a replica.
func commandsFor(t *testing.T, database string) (file string) {
	t.Helper()
	t.Setenv("WTS_DATABASE__URL", database)
	return initialised(t)
}

// What an operator sees of users and does about them holds on a replica that runs.
func TestUsersCommands(t *testing.T) {
	database := pgtest.Database(t)
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Database.URL = secret.Text(database)
		c.Authn.Workers = map[string]string{"127.0.0.2": "alice", "127.0.0.3": "alicia", "127.0.0.4": "bob"}
	})
	alice := r.signedIn(t, "alice")
	r.signedIn(t, "alice")
	r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	file := commandsFor(t, database)
	does := func(want string, args ...string) string {
		t.Helper()
		out, err := run(t, append(append([]string{"users"}, args...), "-c", file)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("users %s: %v\n%s\nwant %s", strings.Join(args, " "), err, out, want)
		}
		return out
	}
	fails := func(want string, args ...string) {
		t.Helper()
		if out, err := run(t, append(append([]string{"users"}, args...), "-c", file)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("users %s: %v\n%s\nwant an error: %s", strings.Join(args, " "), err, out, want)
		}
	}
	from := func(address string) int {
		t.Helper()
		return r.call(t, workerAt(address), http.MethodGet, "/token?audience=storage").status
	}
	listed := strings.Join(strings.Fields(does("alice", "list")), " ")
	if !strings.Contains(listed, "alice active 1 1 2 ") || !strings.Contains(listed, "bob active 1 0 1 ") {
		t.Errorf("got %s; want alice with one connection, one token and two sessions, and bob", listed)
	}
	shown := does("Go-http-client", "show", "alice")
	for _, want := range []string{"127.0.0.1", r.first.Issuer, "SESSION BEGAN"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%s\nlacks %s", shown, want)
		}
	}
	if strings.Contains(shown, made.Token) || strings.Contains(shown, "canary") {
		t.Errorf("a secret is shown:\n%s", shown)
	}

	t.Run("renamed", func(t *testing.T) {
		fails("another user is called", "rename", "alice", "bob")
		fails(`no user is called "carol"`, "rename", "carol", "carla")
		if got := from("127.0.0.2"); got != 200 {
			t.Fatalf("before: got %d", got)
		}
		does("called alicia now", "rename", "alice", "alicia")
		eventually(t, "pods with the new name are hers, and those with the former one nobody's", func() bool {
			return from("127.0.0.3") == 200 && from("127.0.0.2") == 403
		})
		if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 200 || jwtClaims(t, got.member("token"))["preferred_username"] != "alicia" {
			t.Errorf("her token: got %d %s; want it to go on, with the new name", got.status, got.body)
		}
		r.signedIn(t, "alice")
		eventually(t, "the provider has the word at the next login", func() bool { return from("127.0.0.2") == 200 && from("127.0.0.3") == 403 })
	})
	t.Run("sessions ended", func(t *testing.T) {
		does("3 sessions of alice were ended", "end-sessions", "alice")
		eventually(t, "her browser is logged out", func() bool { return r.sendJSON(t, alice, http.MethodGet, "/api/v1/tokens", "").status == 403 })
		fails(`no user is called "carol"`, "end-sessions", "carol")
	})
	t.Run("disabled", func(t *testing.T) {
		does("alice is refused within 5 s", "disable", "alice")
		eventually(t, "she is refused by every proof", func() bool {
			return from("127.0.0.2") == 403 && r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...).status == 403
		})
		does("disabled", "show", "alice")
		does("may use the service again", "enable", "alice")
		eventually(t, "she is let in again", func() bool { return from("127.0.0.2") == 200 })
	})
	fails(`no user is or was called "carol"`, "show", "carol")
}

// Rule C2: a person sees where they are logged in, and ends one session or all.
func TestSessionsOfAPerson(t *testing.T) {
	r := startReplica(t, withTokens)
	laptop, phone, bob := r.signedIn(t, "alice"), r.signedIn(t, "alice"), r.signedIn(t, "bob")
	type session struct {
		ID, Address, Agent string
		Current            bool
	}
	list := func(browser *http.Client) []session {
		t.Helper()
		return decoded[struct{ Sessions []session }](t, r.sendJSON(t, browser, http.MethodGet, "/api/v1/sessions", ""), 200).Sessions
	}
	all := list(laptop)
	if len(all) != 2 || all[0].Current == all[1].Current || all[0].Address != "127.0.0.1" || all[0].Agent == "" {
		t.Fatalf("got %+v; want two, one of which asks, with where they came from", all)
	}
	other := all[0]
	if other.Current {
		other = all[1]
	}
	loggedIn := func(browser *http.Client) bool {
		return r.sendJSON(t, browser, http.MethodGet, "/api/v1/tokens", "").status == 200
	}
	for name, row := range map[string]struct {
		browser *http.Client
		path    string
		status  int
	}{
		"another user's":          {bob, "/" + other.ID, 404},
		"one that is none":        {laptop, "/" + strings.Repeat("00", 32), 404},
		"what is no id":           {laptop, "/xyz", 404},
		"without being logged in": {nil, "/" + other.ID, 403},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.sendJSON(t, row.browser, http.MethodDelete, "/api/v1/sessions"+row.path, ""); got.status != row.status {
				t.Errorf("got %d %s; want %d", got.status, got.body, row.status)
			}
		})
	}
	if got := r.sendJSON(t, laptop, http.MethodDelete, "/api/v1/sessions", "", "Sec-Fetch-Site", "cross-site"); got.status != 403 {
		t.Errorf("sent by a page of another site: got %d %s; want 403", got.status, got.body)
	}
	if !loggedIn(phone) {
		t.Fatal("the phone was logged out by one of those")
	}
	if got := r.sendJSON(t, laptop, http.MethodDelete, "/api/v1/sessions/"+other.ID, ""); got.status != 204 || loggedIn(phone) || !loggedIn(laptop) {
		t.Errorf("got %d %s; want the phone logged out at once, and the laptop not", got.status, got.body)
	}
	r.signedIn(t, "alice")
	if got := r.sendJSON(t, laptop, http.MethodDelete, "/api/v1/sessions", ""); got.status != 200 || !strings.Contains(got.body, `"ended":2`) || loggedIn(laptop) || !loggedIn(bob) {
		t.Errorf("got %d %s; want both of hers ended, and bob's not", got.status, got.body)
	}
}
