package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// withJWTs is withTokens, and an audience whose tokens may be JWTs.
func withJWTs(c *config.Config) {
	withTokens(c)
	c.Audiences["files"] = issuer.Audience{Scopes: []string{"read"}, APITokens: issuer.APITokens{Personal: true, JWT: true}}
}

const jwtToken = `{"audience": "files", "name": "ci", "format": "jwt", "scopes": ["read"]}`

// What a personal token is good for ends with what its user may do, in both formats and at every entrance.
func TestAPersonalTokenEndsWithItsUser(t *testing.T) {
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
		"set aside, since the name came back with another subject": func(t *testing.T, r *replica, _ string) {
			r.first.SetUser(providertest.User{Subject: "alice", Name: "alice-of-old", Password: "canary-password"})
			r.first.SetUser(providertest.User{Subject: "another", Name: "alice", Password: "canary-password"})
			r.signedIn(t, "alice")
		},
		"disconnected after the grant ran out": func(t *testing.T, r *replica, userID string) {
			execSQLite(t, r, fmt.Sprintf("UPDATE connections SET refresh_expires_at = %d", time.Now().Add(-40*24*time.Hour).UnixMilli()))
			if err := r.store.Tidy(t.Context()); err != nil { // which deletes the tokens of the grant
				t.Fatal(err)
			}
			r.broker.ForgetAll()
			if err := r.broker.Disconnect(t.Context(), userID, "first"); err != nil {
				t.Fatal(err)
			}
		},
		"revoked at the provider, and tidied": func(t *testing.T, r *replica, _ string) {
			execSQLite(t, r, fmt.Sprintf("UPDATE connections SET phase = 'broken', refresh_expires_at = %d, updated_at = updated_at - 31 * 86400000", time.Now().Add(-time.Hour).UnixMilli()))
			if err := r.store.Tidy(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.broker.ForgetAll()
		},
		"the grant ran out too long ago": func(t *testing.T, r *replica, _ string) {
			execSQLite(t, r, fmt.Sprintf("UPDATE connections SET refresh_expires_at = %d", time.Now().Add(-91*24*time.Hour).UnixMilli()))
			r.broker.ForgetAll()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplica(t, withJWTs)
			browser, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
			user, err := r.store.Users.UserByName(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			var ahead atomic.Int64
			v, err := verifier.New(t.Context(), r.url, "files", verifier.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }))
			if err != nil {
				t.Fatal(err)
			}
			signed, opaque := r.makeToken(t, browser, jwtToken), r.makeToken(t, browser, personalToken)
			bobs := r.makeToken(t, bob, jwtToken)
			for _, token := range []string{signed.Token, bobs.Token} {
				if _, err := v.Verify(t.Context(), token); err != nil {
					t.Fatal(err)
				}
			}
			end(t, r, user.ID)
			comesTrue(t, "a token that asks about itself", func() error {
				for _, token := range []string{signed.Token, opaque.Token} {
					for _, path := range []string{"GET /api/v1/tokens/self", "POST /api/v1/tokens/self/rotate"} {
						method, path, _ := strings.Cut(path, " ")
						if got := r.sendJSON(t, nil, method, path, "", bearerOf(token)...); got.status != 403 && got.status != 401 {
							return fmt.Errorf("%s: got %d %s; want it refused", path, got.status, got.body)
						}
					}
				}
				if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(opaque.Token)...); got.status != 403 && got.status != 401 {
					return fmt.Errorf("/token: got %d %s; want it refused", got.status, got.body)
				}
				return nil
			})
			ahead.Store(int64(50 * time.Second)) // beyond what a list says of its own life
			comesTrue(t, "an offline verifier", func() error {
				if _, err := v.Verify(t.Context(), signed.Token); !errors.Is(err, verifier.ErrRevoked) {
					time.Sleep(time.Second)
					ahead.Add(int64(50 * time.Second))
					return fmt.Errorf("got %w, want ErrRevoked", err)
				}
				return nil
			})
			if _, err := v.Verify(t.Context(), bobs.Token); err != nil && !strings.Contains(name, "ran out") && !strings.Contains(name, "tidied") {
				t.Errorf("bob's: got %v", err)
			}
			if got := r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens", jwtToken); got.status == 201 {
				t.Error("one more was made")
			}
		})
	}
}

// comesTrue repeats what has a few seconds to come true: what another part of the process hears by the change feed.
func comesTrue(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(12 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// The rules of the audience wts hold at each use: one who is out of a group has no use of the token made before.
func TestAScopeThatIsTakenAway(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Audiences["wts"] = issuer.Audience{
			Scopes: []string{"token", "provider:second"}, Access: []issuer.Access{{Groups: []string{"curators"}}}, APITokens: issuer.APITokens{Personal: true, JWT: true},
		}
		c.Broker.ClaimsMaxAge = 300 * time.Millisecond
		first := c.Providers["first"]
		first.GroupsClaim = "groups"
		c.Providers["first"] = first
	})
	r.first.SetUser(providertest.User{Name: "alice", Password: "canary-password", Groups: []string{"curators"}})
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, `{"audience": "wts", "name": "laptop", "scopes": ["token", "provider:second"]}`)
	if got := r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens", `{"audience": "wts", "name": "n", "format": "jwt"}`); got.status != 400 || !strings.Contains(got.body, "depends on groups") {
		t.Errorf("a JWT: got %d %s; want 400, since it does not change with groups", got.status, got.body)
	}
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 200 {
		t.Fatalf("got %d %s; want a token", got.status, got.body)
	}
	r.first.SetUser(providertest.User{Name: "alice", Password: "canary-password", Groups: []string{}})
	comesTrue(t, "out of the group", func() error {
		for _, path := range []string{"/token?audience=storage", "/token?idp=second", "/api/v1/tokens/self"} {
			if got := r.call(t, nil, http.MethodGet, path, bearerOf(made.Token)...); got.status != 403 || got.member("code") != "access" {
				return fmt.Errorf("%s: got %d %s; want 403 access", path, got.status, got.body)
			}
		}
		return nil
	})
}

// Members of a group manage the tokens of every resource, as long as they are members; their groups stand in no token
// whose audience does not ask for them.
func TestAdminsByGroup(t *testing.T) {
	r := startReplica(t, withJWTs, func(c *config.Config) {
		c.AdminGroups, c.Broker.ClaimsMaxAge = []string{"keepers"}, 300*time.Millisecond
		first := c.Providers["first"]
		first.GroupsClaim = "groups"
		c.Providers["first"] = first
	})
	carol := providertest.User{Name: "carol", Password: "canary-password", Groups: []string{"keepers"}}
	r.first.SetUser(carol)
	r.first.SetUser(providertest.User{Name: "alice", Password: "canary-password", Groups: []string{"others"}})
	browser, alice := r.signedIn(t, "carol"), r.signedIn(t, "alice")
	r.putResource(t, "plugin", "dave")
	const path = "/api/v1/resources/sites/plugin"
	made := decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, path+"/tokens", `{"name": "ci", "scopes": ["upload"]}`), http.StatusCreated)
	decoded[any](t, r.sendJSON(t, browser, http.MethodGet, "/api/v1/resources?unmaintained=true", ""), http.StatusOK)
	if got := r.sendJSON(t, alice, http.MethodGet, path+"/tokens", ""); got.status != http.StatusForbidden {
		t.Errorf("of another group: got %d %s; want 403", got.status, got.body)
	}
	jwt := decoded[shown](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens", jwtToken), http.StatusCreated)
	var claims map[string]any
	if err := unverified.Claims(jwt.Token, &claims); err != nil || claims["groups"] != nil {
		t.Errorf("the token says %v, %v; want nothing of groups", claims, err)
	}
	carol.Groups = nil
	r.first.SetUser(carol)
	comesTrue(t, "out of the group", func() error {
		if got := r.sendJSON(t, browser, http.MethodGet, path+"/tokens", ""); got.status != http.StatusForbidden {
			return fmt.Errorf("got %d %s; want 403", got.status, got.body)
		}
		return nil
	})
	if got := r.sendJSON(t, browser, http.MethodDelete, path+"/tokens/"+made.ID, ""); got.status != http.StatusNotFound {
		t.Errorf("revoking: got %d %s; want 404", got.status, got.body)
	}
}

// Who rotates a resource's token has to be allowed what it may do, as who makes one.
func TestAMaintainerRotatesNoMoreThanTheyMay(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		sites := c.Audiences["sites"]
		sites.Scopes = []string{"upload", "admin"}
		sites.Access = []issuer.Access{{Everyone: true, Scopes: []string{"upload"}}, {Users: []string{"alice"}}}
		c.Audiences["sites"] = sites
		c.Admins = nil
	})
	alice, bob := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	r.putResource(t, "plugin", "alice", "bob")
	const path = "/api/v1/resources/sites/plugin/tokens"
	made := decoded[shown](t, r.sendJSON(t, alice, http.MethodPost, path, `{"name": "ci", "scopes": ["admin"]}`), 201)
	if got := r.sendJSON(t, bob, http.MethodPost, path+"/"+made.ID+"/rotate", ""); got.status != 403 {
		t.Errorf("bob: got %d %s; want 403", got.status, got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodPost, path+"/"+made.ID+"/rotate", ""); got.status != 200 {
		t.Errorf("alice: got %d %s", got.status, got.body)
	}
}

// An old session of a maintainer's names no one else a maintainer, who would make tokens with a login of their own.
func TestMaintainersAreNamedWithARecentLogin(t *testing.T) {
	r := startReplica(t, withTokens)
	alice := r.signedIn(t, "alice")
	r.putResource(t, "plugin", "alice")
	execSQLite(t, r, "UPDATE sessions SET created_at = created_at - 7200000")
	r.authn.Forget()
	if got := r.sendJSON(t, alice, http.MethodPatch, "/api/v1/resources/sites/plugin", `{"maintainers": ["alice", "mallory"]}`); got.status != 403 || got.member("code") != "step_up" {
		t.Errorf("got %d %s; want 403 step_up", got.status, got.body)
	}
	if got := r.sendJSON(t, alice, http.MethodPatch, "/api/v1/resources/sites/plugin", `{"name": "Another"}`); got.status != 200 {
		t.Errorf("a name: got %d %s", got.status, got.body)
	}
}

// Many rotations at once leave one value that counts, and the one who got it can rotate on.
func TestManyRotationsAtOnce(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Database.URL = secret.Text(pgtest.Database(t))
		c.Server.RateLimits = map[string]float64{"change": 1000}
	})
	browser := r.signedIn(t, "alice")
	for range 5 {
		made := r.makeToken(t, browser, personalToken)
		var all sync.WaitGroup
		var mu sync.Mutex
		var values []string
		for range 6 {
			all.Go(func() {
				got := r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+made.ID+"/rotate", "")
				var shown shown
				_ = json.Unmarshal([]byte(got.body), &shown)
				mu.Lock()
				defer mu.Unlock()
				values = append(values, shown.Token)
			})
		}
		all.Wait()
		token, err := r.store.APITokens.Token(t.Context(), made.ID)
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for _, value := range token.Values {
			if value.Until.IsZero() {
				open++
			}
		}
		if open != 1 || len(token.Values) != 7 {
			t.Fatalf("of %d values %d have no end; want one of 7", len(token.Values), open)
		}
		newest := ""
		for _, value := range values {
			if apitoken.DigestOf(value) == token.Values[0].Digest {
				newest = value
			}
		}
		if got := r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", "", bearerOf(newest)...); got.status != 200 {
			t.Errorf("the newest value rotates itself: got %d %s; want it not taken for a copy", got.status, got.body)
		}
	}
}

// A rotation without an overlap ends every former value, and not the one before alone.
func TestARotationWithoutAnOverlapEndsAllFormerValues(t *testing.T) {
	r := startReplica(t, withTokens)
	browser := r.signedIn(t, "alice")
	first := r.makeToken(t, browser, personalToken)
	rotate := func(body string) map[string]any {
		t.Helper()
		return decoded[map[string]any](t, r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+first.ID+"/rotate", body), 200)
	}
	second := rotate("")
	if second["old_value_until"] == nil {
		t.Errorf("got %v; want until when the first value is accepted", second)
	}
	third := rotate(`{"overlap": 0}`)
	if third["old_value_until"] != nil {
		t.Errorf("got %v; want no former value accepted", third)
	}
	for name, token := range map[string]any{"first": first.Token, "second": second["token"]} {
		if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(fmt.Sprint(token))...); got.status != 401 {
			t.Errorf("the %s value: got %d; want 401", name, got.status)
		}
	}
	if got := r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(fmt.Sprint(third["token"]))...); got.status != 200 {
		t.Errorf("the third: got %d %s", got.status, got.body)
	}
}

// A token has a hundred values at most; it can always be revoked.
func TestATokenThatIsRotatedAgainAndAgain(t *testing.T) {
	r := startReplica(t, withJWTs, func(c *config.Config) { c.Server.RateLimits = map[string]float64{"change": 10_000} })
	browser := r.signedIn(t, "alice")
	for name, row := range map[string]struct {
		body, overlap string
		refused       bool // in the end
	}{
		"opaque, without an overlap": {personalToken, `{"overlap": 0}`, false},
		"opaque, with an overlap":    {personalToken, ``, true},
		"a JWT":                      {jwtToken, `{"overlap": 0}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			made := r.makeToken(t, browser, row.body)
			var got answer
			for range 105 {
				if got = r.sendJSON(t, browser, http.MethodPost, "/api/v1/tokens/"+made.ID+"/rotate", row.overlap); got.status != 200 {
					break
				}
			}
			if row.refused != (got.status == 409) {
				t.Errorf("got %d %s; want 409 %t", got.status, got.body, row.refused)
			}
			if token, err := r.store.APITokens.Token(t.Context(), made.ID); err != nil || len(token.Values) != 100 {
				t.Errorf("it has %d values, %v; want 100", len(token.Values), err)
			}
			if got := r.sendJSON(t, browser, http.MethodDelete, "/api/v1/tokens/"+made.ID, ""); got.status != 200 {
				t.Errorf("it is revoked: got %d %s", got.status, got.body)
			}
		})
	}
}

// A personal token for another audience than wts is no proof here, whatever its scopes are called.
func TestATokenForAnotherAudience(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) {
		c.Audiences["files"] = issuer.Audience{Scopes: []string{"token"}, APITokens: issuer.APITokens{Personal: true}}
	})
	made := r.makeToken(t, r.signedIn(t, "alice"), `{"audience": "files", "name": "n", "scopes": ["token"]}`)
	if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(made.Token)...); got.status != 401 || !strings.Contains(got.body, "for another audience") {
		t.Errorf("got %d %s; want 401: the token is for another audience", got.status, got.body)
	}
}

// A JWT that rotates itself goes on saying whose it is, and its id says which token it is.
func TestAJWTThatRotatesItself(t *testing.T) {
	r := startReplica(t, withJWTs)
	made := r.makeToken(t, r.signedIn(t, "alice"), jwtToken)
	rotated := decoded[shown](t, r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", "", bearerOf(made.Token)...), 200)
	for _, token := range []string{made.Token, rotated.Token} {
		claims := jwtClaims(t, token)
		if claims["preferred_username"] != "alice" || !strings.HasPrefix(fmt.Sprint(claims["jti"]), made.ID+"-") {
			t.Errorf("got %v; want alice's, with the token's id", claims)
		}
	}
}

// Values that are none are looked up for a while, and then not; they take nothing away from tokens of the same network.
func TestValuesThatAreNone(t *testing.T) {
	r := startReplica(t, withTokens, func(c *config.Config) { c.Server.RateLimits = map[string]float64{"change": 1, "read": 5} })
	made := r.makeToken(t, r.signedIn(t, "alice"), personalToken)
	self := func(token string) answer {
		return r.call(t, nil, http.MethodGet, "/api/v1/tokens/self", bearerOf(token)...)
	}
	if got := self(made.Token); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	before, tooMany := r.store.Statements(), 0
	for i := range 200 {
		none := strings.Join([]string{"e30", "e30", fmt.Sprintf("c2ln%04d", i)}, ".")
		if !unverified.IsForm(none) {
			t.Fatalf("%s has no form of a JWT", none)
		}
		switch got := self(none); got.status {
		case 401:
		case 429:
			tooMany++
		default:
			t.Fatalf("got %d %s; want 401, or 429 in the end", got.status, got.body)
		}
	}
	if sent := r.store.Statements() - before; sent > 150 || tooMany == 0 {
		t.Errorf("%d statements were sent for 200 values, %d of which were not looked up; want a bound", sent, tooMany)
	}
	if got := self(made.Token); got.status != 200 {
		t.Errorf("a token of the same network: got %d %s; want it served", got.status, got.body)
	}
	for range 50 {
		if got := self("garbage"); got.status != 401 {
			t.Fatalf("garbage: got %d %s; want 401 and never 429", got.status, got.body)
		}
	}
	if got := r.sendJSON(t, nil, http.MethodPost, "/api/v1/tokens/self/rotate", "", bearerOf(made.Token)...); got.status != 200 {
		t.Errorf("its rotation: got %d %s; want a share of its own", got.status, got.body)
	}
	before = r.store.Statements()
	for range 100 {
		r.call(t, nil, http.MethodGet, "/status/7")
	}
	if sent := r.store.Statements() - before; sent > 10 {
		t.Errorf("%d statements were sent for a list that is not there", sent)
	}
}

// While the database is away the API says so, and nothing else.
func TestTheAPIWithoutItsDatabase(t *testing.T) {
	database, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Remove() })
	r := startReplica(t, withJWTs, func(c *config.Config) { c.Database.URL = secret.Text(database.URL) })
	browser := r.signedIn(t, "alice")
	made := r.makeToken(t, browser, jwtToken)
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/v1/tokens", "/api/v1/tokens/" + made.ID, "/api/v1/resources", "/status/0", "/api/v1/tokens/self"} {
		t.Run(path, func(t *testing.T) {
			token := strings.Replace(made.Token, ".", "x.", 1) // which is not in memory
			got := r.sendJSON(t, browser, http.MethodGet, path, "", bearerOf(token)...)
			if got.status != 503 || got.header.Get("Retry-After") == "" {
				t.Errorf("got %d %s; want 503, and when to come again", got.status, got.body)
			}
		})
	}
}

// The audit says who put a resource, and which.
func TestTheAuditOfAResource(t *testing.T) {
	r := startReplica(t, withTokens)
	r.putResource(t, "plugin", "alice")
	if log := r.log.String(); !strings.Contains(log, `"proof":"client","actor":"sites","audience":"sites","resource":"plugin"`) {
		t.Errorf("the log does not say who put which resource:\n%s", log)
	}
}
