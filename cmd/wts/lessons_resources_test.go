package main

import (
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// withSites is withTokens without an admin, where a resource's tokens may be JWTs, as a site of plugins has them.
func withSites(c *config.Config) {
	withTokens(c)
	c.Admins = nil
	c.Audiences["sites"] = issuer.Audience{
		Profile: issuer.ProfileResource, Algorithm: issuer.ES256, Scopes: []string{"upload"}, Secret: secret.Text(siteSecret),
		APITokens: issuer.APITokens{Personal: true, Resource: true, JWT: true, Endless: true, MaxLifetime: 60 * 24 * time.Hour},
	}
}

const (
	tokensOfPlugin = "/api/v1/resources/sites/plugin/tokens"
	opaqueUpload   = `{"name": "ci", "scopes": ["upload"], "expires_in": null}`
	signedUpload   = `{"name": "ci", "format": "jwt", "scopes": ["upload"]}`
)

// makeFor makes a token of the plugin.
func (r *replica) makeFor(t *testing.T, browser *http.Client, body string) shown {
	t.Helper()
	return decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, tokensOfPlugin, body), http.StatusCreated)
}

// uploads says why a token is not one that a site takes: it is active there now, it is traded for a short one of the
// plugin with the scope, and the one that is a JWT verifies.
func (r *replica) uploads(t *testing.T, v *verifier.Verifier, value string) error {
	t.Helper()
	asked := r.form(t, "/oauth2/introspect", "client_id", "sites", "client_secret", siteSecret, "token", value)
	if said := decoded[map[string]any](t, asked, 200); said["active"] != true || said["resource"] != "plugin" || said["scope"] != "upload" {
		return fmt.Errorf("introspection: got %v; want upload for the plugin", said)
	}
	traded := r.exchange(t, value, "scope", "upload")
	if traded.status != 200 {
		return fmt.Errorf("traded: got %d %s", traded.status, traded.body)
	}
	values := []string{traded.member("access_token")}
	if strings.Contains(value, ".") {
		values = append(values, value)
	}
	for _, one := range values {
		claims, err := v.Verify(t.Context(), one)
		if err != nil || claims.Resource != "plugin" || claims.Subject != "resource:plugin" || !claims.HasScopes("upload") {
			return fmt.Errorf("verified: got %+v, %w; want upload for the plugin", claims, err)
		}
	}
	return nil
}

// waysToWrite are how a value may be written down.
func waysToWrite(value string) []string {
	return []string{value, hex.EncodeToString([]byte(value)), base64.StdEncoding.EncodeToString([]byte(value)), base64.RawURLEncoding.EncodeToString([]byte(value))}
}

// A value is in the answer to its making, or its rotation, and never again: not in a list, on a page, in a column of the
// database, in the log or in the audit.
func TestLesson27ValuesAreShownOnce(t *testing.T) {
	r := startReplica(t, withSites)
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice", "bob")
	bob := r.signedIn(t, "bob")
	values, ids := map[string]string{}, []string{}
	for name, body := range map[string]string{"opaque": opaqueUpload, "signed": signedUpload} {
		made := r.makeFor(t, alice, body)
		rotated := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, tokensOfPlugin+"/"+made.ID+"/rotate", `{"overlap": 60}`), 200)
		values[name], values[name+", rotated"] = made.Token, rotated.Token
		ids = append(ids, made.ID)
	}
	values["personal"] = r.makeToken(t, alice, personalToken).Token
	seen := map[string]string{}
	for _, id := range ids {
		one := tokensOfPlugin + "/" + id
		for name, browser := range map[string]*http.Client{"alice": alice, "bob": bob} {
			seen[name+" shows "+id] = decodedBody(t, r.sendJSON(t, browser, http.MethodGet, one, ""))
			seen[name+" edits "+id] = decodedBody(t, r.sendJSON(t, browser, http.MethodPatch, one, `{"description": "by `+name+`"}`))
		}
	}
	for name, path := range map[string]string{"tokens": tokensOfPlugin, "own": "/api/v1/tokens", "resources": "/api/v1/resources", "resource": "/api/v1/resources/sites/plugin"} {
		seen["the list of "+name] = decodedBody(t, r.sendJSON(t, alice, http.MethodGet, path, ""))
	}
	for _, path := range []string{"/resources", "/resources/sites/plugin", "/tokens", "/activity"} {
		seen["the page "+path] = decodedBody(t, r.see(t, alice, path))
	}
	for name, value := range values {
		for _, path := range []string{"/oauth2/introspect", "/oauth2/revoke"} {
			got := r.form(t, path, "client_id", "sites", "client_secret", siteSecret, "token", value)
			seen[path+" of "+name] = got.body
		}
		seen["itself of "+name] = r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(value)...).body
	}
	for _, id := range ids {
		seen["revoked "+id] = decodedBody(t, r.sendJSON(t, alice, http.MethodDelete, tokensOfPlugin+"/"+id, ""))
	}
	time.Sleep(1500 * time.Millisecond) // the audit's rows are written within a second
	columns, rows := everyColumn(t, r)
	if !strings.Contains(columns, ids[0]) || !strings.Contains(columns, "create token") || rows < 20 {
		t.Fatalf("%d rows of the database were read, without the tokens or the audit", rows)
	}
	seen["a column of the database"], seen["a file of the database"], seen["the log"] = columns, string(everyFile(t, r)), r.log.String()
	for where, text := range seen {
		for name, value := range values {
			for _, form := range waysToWrite(value) {
				if strings.Contains(text, form) {
					t.Errorf("%s: the value of the %s token stands there", where, name)
				}
			}
		}
	}
}

func decodedBody(t *testing.T, got answer) string {
	t.Helper()
	if got.status != http.StatusOK || got.body == "" {
		t.Fatalf("got %d %s; want 200", got.status, got.body)
	}
	return got.body
}

// everyColumn is every value of every table of the replica's database, and how many rows that are.
func everyColumn(t *testing.T, r *replica) (all string, rows int) {
	t.Helper()
	var text strings.Builder
	for _, name := range column(t, r, "SELECT name FROM sqlite_master WHERE type = 'table'") {
		for _, row := range rowsOf(t, r, `SELECT * FROM "`+name+`"`) {
			rows++
			fmt.Fprintf(&text, "%s\n", row)
		}
	}
	return text.String(), rows
}

// column are the first columns of what a statement finds in the replica's database.
func column(t *testing.T, r *replica, statement string) (all []string) {
	t.Helper()
	for _, row := range rowsOf(t, r, statement) {
		all = append(all, string(row[0]))
	}
	return all
}

func rowsOf(t *testing.T, r *replica, statement string) (all [][]sql.RawBytes) {
	t.Helper()
	db, err := sql.Open("sqlite", databaseFile(r)+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := db.QueryContext(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	names, err := found.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for found.Next() {
		row, into := make([]sql.RawBytes, len(names)), make([]any, len(names))
		for i := range row {
			into[i] = &row[i]
		}
		if err := found.Scan(into...); err != nil {
			t.Fatal(err)
		}
		for i := range row {
			row[i] = append(sql.RawBytes(nil), row[i]...) // the next row takes its place
		}
		all = append(all, row)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// A token's id under the path of another resource is not found, whatever is asked of it, by one who maintains both.
func TestLesson28ATokenOfAnotherResourceIsNotFound(t *testing.T) {
	r := startReplica(t, withSites)
	v, err := verifier.New(t.Context(), r.url, "sites")
	if err != nil {
		t.Fatal(err)
	}
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice")
	r.putResource(t, "other", "alice")
	for name, body := range map[string]string{"opaque": opaqueUpload, "signed": signedUpload} {
		t.Run(name, func(t *testing.T) {
			made := r.makeFor(t, alice, body)
			before := decodedBody(t, r.sendJSON(t, alice, http.MethodGet, tokensOfPlugin+"/"+made.ID, ""))
			for _, path := range []string{"/api/v1/resources/sites/other/tokens/", "/api/v1/resources/sites/none/tokens/", "/api/v1/resources/wts/plugin/tokens/", "/api/v1/tokens/"} {
				for what, row := range map[string][3]string{
					"show": {http.MethodGet, "", ""}, "edit": {http.MethodPatch, "", `{"name": "taken"}`},
					"revoke": {http.MethodDelete, "", ""}, "rotate": {http.MethodPost, "/rotate", `{"overlap": 0}`},
				} {
					if got := r.sendJSON(t, alice, row[0], path+made.ID+row[1], row[2]); got.status != http.StatusNotFound {
						t.Errorf("%s under %s: got %d %s; want 404", what, path, got.status, got.body)
					}
				}
			}
			if got := r.sendJSON(t, alice, http.MethodGet, "/api/v1/resources/sites/other/tokens", ""); got.status != 200 || strings.Contains(got.body, made.ID) {
				t.Errorf("the other's list: got %d %s; want it without the token", got.status, got.body)
			}
			if after := decodedBody(t, r.sendJSON(t, alice, http.MethodGet, tokensOfPlugin+"/"+made.ID, "")); after != before {
				t.Errorf("the token was changed, from %s to %s", before, after)
			}
			if err := r.uploads(t, v, made.Token); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every maintainer sees every token of the resource, also one that another made, and edits, rotates and revokes it; one who is none
// is told of nothing.
func TestLesson29EveryMaintainerSeesAndRevokes(t *testing.T) {
	r := startReplica(t, withSites)
	v, err := verifier.New(t.Context(), r.url, "sites")
	if err != nil {
		t.Fatal(err)
	}
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice", "bob")
	r.first.SetUser(providertest.User{Name: "carol", Password: "canary-password"})
	bob, carol := r.signedIn(t, "bob"), r.signedIn(t, "carol")
	makers := map[string]*http.Client{"alice": alice, "bob": bob}
	for name, maker := range makers {
		other := makers[map[string]string{"alice": "bob", "bob": "alice"}[name]]
		t.Run("made by "+name, func(t *testing.T) {
			made := r.makeFor(t, maker, opaqueUpload)
			at := tokensOfPlugin + "/" + made.ID
			for method, path := range map[string]string{http.MethodGet: at, http.MethodDelete: at, http.MethodPost: at + "/rotate"} {
				if got := r.sendJSON(t, carol, method, path, ""); got.status != http.StatusNotFound {
					t.Errorf("one who maintains nothing, %s: got %d %s; want 404", method, got.status, got.body)
				}
			}
			if got := r.sendJSON(t, carol, http.MethodGet, tokensOfPlugin, ""); got.status < 400 || strings.Contains(got.body, made.ID) {
				t.Errorf("the list, to one who maintains nothing: got %d %s", got.status, got.body)
			}
			for who, browser := range makers {
				if got := r.sendJSON(t, browser, http.MethodGet, tokensOfPlugin, ""); got.status != 200 || !strings.Contains(got.body, made.ID) {
					t.Errorf("%s's list: got %d %s; want the token", who, got.status, got.body)
				}
			}
			decoded[shown](t, r.sendJSON(t, other, http.MethodPatch, at, `{"description": "of the releases"}`), 200)
			rotated := decoded[shown](t, r.sendJSON(t, other, http.MethodPost, at+"/rotate", `{"overlap": 0}`), 200)
			if err := r.uploads(t, v, rotated.Token); err != nil {
				t.Errorf("rotated by the other: %v", err)
			}
			if got := decoded[shown](t, r.sendJSON(t, other, http.MethodDelete, at, ""), 200); got.State != "revoked" || got.RevokedBy == "" || got.RevokedBy == name {
				t.Errorf("got %+v, want it revoked by the other", got)
			}
			if err := r.uploads(t, v, rotated.Token); err == nil {
				t.Error("it uploads after it was revoked")
			}
		})
	}
}

// A token of a resource goes on as it was, whatever becomes of who made it.
func TestLesson30ATokenOutlivesItsMaker(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, r *replica, userID string){
		"disabled": func(t *testing.T, r *replica, _ string) {
			if err := r.store.Users.SetDisabled(t.Context(), "alice", true); err != nil {
				t.Fatal(err)
			}
		},
		"disconnected": func(t *testing.T, r *replica, userID string) {
			if err := r.broker.Disconnect(t.Context(), userID, "first"); err != nil {
				t.Fatal(err)
			}
		},
		"another person has the name": func(t *testing.T, r *replica, _ string) {
			r.first.SetUser(providertest.User{Subject: "alice", Name: "alice-of-old", Password: "canary-password"})
			r.first.SetUser(providertest.User{Subject: "another", Name: "alice", Password: "canary-password"})
			r.signedIn(t, "alice")
		},
		"deleted": func(t *testing.T, r *replica, userID string) {
			for _, table := range []string{"sessions WHERE user_id", "connections WHERE user_id", "users WHERE id"} {
				execSQLite(t, r, fmt.Sprintf("DELETE FROM %s = '%s'", table, userID))
			}
			if _, err := r.store.Users.UserByName(t.Context(), "alice"); err == nil {
				t.Fatal("the user is there")
			}
		},
		"no maintainer any more":        func(t *testing.T, r *replica, _ string) { r.putResource(t, "plugin", "bob") },
		"the last maintainer, and gone": func(t *testing.T, r *replica, _ string) { r.putResource(t, "plugin") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplica(t, withSites)
			v, err := verifier.New(t.Context(), r.url, "sites")
			if err != nil {
				t.Fatal(err)
			}
			alice, user := r.signedIn(t, "alice"), r.idOf(t, "alice")
			r.putResource(t, "plugin", "alice")
			values := []string{r.makeFor(t, alice, opaqueUpload).Token, r.makeFor(t, alice, signedUpload).Token}
			personal := r.makeToken(t, alice, `{"audience": "sites", "name": "n", "scopes": ["upload"]}`)
			active := func() bool {
				return strings.Contains(r.form(t, "/oauth2/introspect", "client_id", "sites", "client_secret", siteSecret, "token", personal.Token).body, `"active":true`)
			}
			if !active() {
				t.Fatal("the maker's own token is not active before")
			}
			end(t, r, user)
			if err := r.store.Tidy(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(name, "maintainer") { // the end is heard of: what the maker has of their own ends
				comesTrue(t, "the maker's own token", func() error {
					r.authn.Forget()
					if active() {
						return errors.New("it is active")
					}
					return nil
				})
			}
			r.authn.Forget()
			r.broker.ForgetAll()
			r.apiTokens.ForgetAll()
			for _, value := range values {
				if err := r.uploads(t, v, value); err != nil {
					t.Errorf("%.5s…: %v", value, err)
				}
			}
		})
	}
}

// The uses of a token are noted once a minute, however many there are, with the address; a use writes nothing else.
func TestLesson34UsesAreNotedOnceAMinute(t *testing.T) {
	r := startReplica(t, withSites)
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice")
	made := r.makeFor(t, alice, opaqueUpload)
	execSQLite(t, r, "CREATE TABLE noted (at integer)")
	execSQLite(t, r, "CREATE TRIGGER noting AFTER UPDATE ON api_tokens BEGIN INSERT INTO noted VALUES (new.last_used_at); END")
	notes := func() int { return len(column(t, r, "SELECT at FROM noted")) }
	uses := func() {
		t.Helper()
		for i := range 30 {
			if i%10 == 0 {
				r.apiTokens.ForgetAll() // as another replica, which has not seen it yet
			}
			if got := r.form(t, "/oauth2/introspect", "client_id", "sites", "client_secret", siteSecret, "token", made.Token); !strings.Contains(got.body, `"active":true`) {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(made.Token)...); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.body)
			}
		}
	}
	ago := func(seconds int) {
		t.Helper()
		execSQLite(t, r, "DROP TRIGGER noting")
		execSQLite(t, r, fmt.Sprintf("UPDATE api_tokens SET last_used_at = last_used_at - %d", 1000*seconds))
		execSQLite(t, r, "CREATE TRIGGER noting AFTER UPDATE ON api_tokens BEGIN INSERT INTO noted VALUES (new.last_used_at); END")
	}
	for _, step := range []struct {
		what string
		ago  int // seconds since the use that was noted last
		want int
	}{{"the first uses", 0, 1}, {"more at once", 0, 1}, {"half a minute later", 30, 1}, {"a minute later", 31, 2}, {"and at once", 0, 2}} {
		if step.ago > 0 {
			ago(step.ago)
		}
		uses()
		comesTrue(t, step.what, func() error {
			if got := notes(); got < step.want {
				return fmt.Errorf("got %d notes, want %d", got, step.want)
			}
			return nil
		})
		time.Sleep(300 * time.Millisecond) // for those that are too many
		if got := notes(); got != step.want {
			t.Errorf("%s: got %d notes, want %d", step.what, got, step.want)
		}
	}
	got := decoded[shown](t, r.sendJSON(t, alice, http.MethodGet, tokensOfPlugin+"/"+made.ID, ""), 200)
	if got.LastUsedAt == nil || time.Since(*got.LastUsedAt) > time.Minute || got.LastUsedFrom == "" {
		t.Errorf("got %+v; want when and from where it was used", got)
	}
}
