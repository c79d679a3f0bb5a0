package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// eventsSeen is a page of what a person sees of themselves.
type eventsSeen struct {
	Events []struct {
		Action, Outcome, Reason, Token, Actor, Audience, Client, Address string
		Times                                                            int64
	} `json:"events"`
	Next string `json:"next"`
}

// What was done is in the database within a second, without a caller having waited for it; its person sees it, and no
// one else's; the operator queries and verifies it.
func TestTheAuditInTheDatabase(t *testing.T) {
	database := pgtest.Database(t)
	file := commandsFor(t, database)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "wts-keyring"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, withClients, func(c *config.Config) {
		c.Keys = keys
		c.Database.URL, c.Server.RateLimits = secret.Text(database), map[string]float64{"read": 1000, "change": 1000}
	})
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	made := r.makeToken(t, alice, personalToken)
	minted := r.call(t, workerAt("127.0.0.2"), http.MethodGet, "/token?audience=storage&scope=read")
	refused := r.call(t, workerAt("127.0.0.2"), http.MethodGet, "/token?audience=storage&scope=nothing")
	for range 50 {
		r.call(t, workerAt("127.0.0.2"), http.MethodGet, "/token?idp=first")
	}
	r.redeem(t, "portal", r.code(t, alice, wishOf("portal", portalCallback)))
	if minted.status != http.StatusOK || refused.status != http.StatusForbidden {
		t.Fatalf("got %d, %d", minted.status, refused.status)
	}
	began := time.Now()
	seen := func(query string) eventsSeen {
		t.Helper()
		return decoded[eventsSeen](t, r.sendJSON(t, alice, http.MethodGet, "/api/v1/events?"+query, ""), http.StatusOK)
	}
	eventually(t, "what was done is in the database", func() bool {
		all := fmt.Sprint(seen("").Events)
		for _, one := range []string{"login", "create token", made.ID, "mint", "handout", "allow"} {
			if !strings.Contains(all, one) {
				return false
			}
		}
		return true
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v, want a second", took)
	}
	if only := seen("refused=true"); len(only.Events) != 1 || only.Events[0].Outcome != "refused" || only.Events[0].Reason == "" {
		t.Errorf("what was refused: %+v, want the one mint", only)
	}
	if handouts := seen("action=handout"); len(handouts.Events) != 1 || handouts.Events[0].Times != 1 || handouts.Events[0].Address != "127.0.0.2" {
		t.Errorf("of fifty handouts of one token: %+v, want one entry at once", handouts)
	}
	others := decoded[eventsSeen](t, r.sendJSON(t, bob, http.MethodGet, "/api/v1/events", ""), http.StatusOK)
	for _, one := range others.Events {
		if one.Action != "login" && one.Action != "list events" {
			t.Errorf("bob sees %+v, which is not his", one)
		}
	}
	if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/events?after=x", ""); got.status != http.StatusBadRequest {
		t.Errorf("a place that is none: %d %s, want 400", got.status, got.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/events"); got.status != http.StatusForbidden {
		t.Errorf("by no one: %d, want 403", got.status)
	}

	// Pages go on where the one before ended.
	for range 120 {
		r.sendJSON(t, alice, http.MethodPatch, "/api/v1/tokens/"+made.ID, `{"description": "again"}`)
		r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions/00", "")
	}
	eventually(t, "a second page", func() bool { return seen("").Next != "" })
	first := seen("")
	second := seen("after=" + url.QueryEscape(first.Next))
	if len(second.Events) == 0 || fmt.Sprint(first.Events) == fmt.Sprint(second.Events) {
		t.Errorf("the second page has %d events, want others", len(second.Events))
	}

	// Each token that is revoked with others is in the audit too.
	decoded[any](t, r.sendJSON(t, alice, http.MethodDelete, "/api/v1/tokens", ""), http.StatusOK)
	eventually(t, "the tokens that were revoked together", func() bool { return strings.Contains(fmt.Sprint(seen("action=revoke+token").Events), made.ID) })
	does := func(want string, args ...string) string {
		t.Helper()
		out, err := run(t, append(append([]string{"audit"}, args...), "-c", file)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("audit %s: %v\n%s\nwant %s", strings.Join(args, " "), err, out, want)
		}
		return out
	}
	does("are as they were written", "verify")
	if out := does(made.ID, "query", "--user", "alice", "--action", "create token"); strings.Contains(out, "bob") || strings.Contains(out, "mint") {
		t.Errorf("of alice's tokens: %s", out)
	}
	does(`"audit": "mint"`, "query", "--output", "json", "--refused", "--since", "1h")
	if out, err := run(t, "audit", "query", "--since", "yesterday", "-c", file); err == nil || !strings.Contains(err.Error(), "want a time") {
		t.Errorf("a time that is none: %s, %v", out, err)
	}
	if out, err := run(t, "users", "disable", "bob", "-c", file); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	does("user disable", "query", "--user", "bob")
	for _, canary := range []string{made.Token, minted.member("token")} {
		if out := does("", "query", "--output", "json", "--limit", "1000"); canary == "" || strings.Contains(out, canary) {
			t.Errorf("the audit holds a token: %q", canary)
		}
	}

	if _, err := r.store.Users.UserByName(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	query(t, database, "UPDATE audit_entries SET username = 'mallory' WHERE action = 'create token'")
	if out, err := run(t, "audit", "verify", "-c", file); err == nil || !strings.Contains(out, "was altered") {
		t.Errorf("an entry was altered, and verify says %s, %v", out, err)
	}
}
