package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// hook is a webhook that is sent notices, and holds each to its signature.
type hook struct {
	URL    string
	told   []map[string]any
	refuse atomic.Bool
}

func startHook(t *testing.T, key string) *hook {
	t.Helper()
	h := &hook{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		at, signature, _ := strings.Cut(r.Header.Get("Wts-Signature"), ",")
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write(append([]byte(strings.TrimPrefix(at, "t=")+"."), body...))
		if signature != "v1="+hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("the signature of %s is %s", body, r.Header.Get("Wts-Signature"))
		}
		if h.refuse.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var notice map[string]any
		if err := json.Unmarshal(body, &notice); err != nil {
			t.Error(err)
		}
		h.told = append(h.told, notice)
	}))
	t.Cleanup(server.Close)
	h.URL = server.URL
	return h
}

// endingReplica is a replica on PostgreSQL whose alice has connected both providers long ago.
type endingReplica struct {
	*replica
	database, id, metrics, apiToken string
	hook                            *hook
}

func startEnding(t *testing.T) endingReplica {
	t.Helper()
	const key = "canary-webhook-secret"
	r := endingReplica{database: pgtest.Database(t), metrics: fmt.Sprintf("127.0.0.1:%d", instance.FreePort(t)), hook: startHook(t, key)}
	r.replica = startReplica(t, withTokens, func(c *config.Config) {
		c.Database.URL, c.Server.MetricsListen = secret.Text(r.database), r.metrics
		c.Notices = apitoken.WebhookConfig{URL: r.hook.URL, Secret: key}
	})
	browser := r.signedIn(t, "alice")
	r.logIn(t, browser, "/oauth2/authorization_url?idp=second", "alice")
	r.apiToken = r.makeToken(t, browser, `{"audience": "wts", "name": "laptop", "scopes": ["token", "provider:second"], "expires_in": 5184000}`).Token
	alice, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	r.id = alice.ID
	return r
}

// ends lets a grant that began so long ago end in some time; 0 where that is not stated.
func (r endingReplica) ends(t *testing.T, providerID string, ago, in time.Duration) (at time.Time) {
	t.Helper()
	var stated any
	if at = time.Now().Add(in); in != 0 {
		stated = at.UnixMilli()
	}
	query(t, r.database, "UPDATE connections SET connected_at = $1, refresh_expires_at = $2, end_stated_at = NULL WHERE provider = $3", time.Now().Add(-ago).UnixMilli(), stated, providerID)
	r.broker.Forget(r.id, providerID)
	return at
}

// habit lets a provider have ended grants at an age.
func (r endingReplica) habit(t *testing.T, providerID string, age time.Duration) {
	t.Helper()
	for i := range 3 {
		ended := time.Now().Add(-time.Duration(i) * 24 * time.Hour)
		query(t, r.database, "INSERT INTO grants_ended (provider, user_id, connected_at, ended_at) VALUES ($1, $2, $3, $4)", providerID, fmt.Sprint("user ", i), ended.Add(-age).UnixMilli(), ended.UnixMilli())
	}
	if err := r.lookAtEndings(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const day = 24 * time.Hour

// Answers with a provider's token say when its grant ends, where that is within seven days.
func TestAnswersSayWhenAGrantEnds(t *testing.T) {
	r := startEnding(t)
	headers := func(got answer) (ends, expected string) {
		t.Helper()
		if got.status != http.StatusOK {
			t.Fatalf("got %d %s", got.status, got.body)
		}
		return got.header.Get("Wts-Grant-Ends"), got.header.Get("Wts-Grant-Ends-Expected")
	}
	answers := func() map[string]answer {
		t.Helper()
		return map[string]answer{
			"token":    r.worker(t, "/token/?idp=second"),
			"again":    r.worker(t, "/token/?idp=second"), // from memory
			"exchange": r.exchange(t, r.apiToken, "audience", "second"),
		}
	}
	says := func(what string, at time.Time, expected string) {
		t.Helper()
		for route, got := range answers() {
			ends, habit := headers(got)
			read, err := time.Parse(time.RFC3339, ends)
			if at.IsZero() && ends == "" && habit == "" {
				continue
			}
			if err != nil || read.Sub(at).Abs() > 2*time.Second || habit != expected {
				t.Errorf("%s, %s: got %q, %q; want %v, %q", what, route, ends, habit, at, expected)
			}
		}
	}
	says("nothing is known", time.Time{}, "")
	r.ends(t, "second", 30*day, 8*day)
	says("in eight days", time.Time{}, "")
	says("in three days", r.ends(t, "second", 30*day, 3*day), "")
	r.ends(t, "second", 26*day, 0)
	r.habit(t, "second", 30*day)
	says("expected in four days", time.Now().Add(4*day), "true")
	r.ends(t, "second", 31*day, 0)
	says("it has outlived that", time.Time{}, "")
	r.ends(t, "first", 30*day, 3*day)
	r.ends(t, "second", 30*day, 3*day)
	if ends, _ := headers(r.worker(t, "/token/?audience=storage")); ends != "" {
		t.Errorf("a token that wts mints: got %s", ends)
	}
}

// Notices of connections that end: signed, once for each of 7 and 1 days, and again where they were not taken.
func TestAPersonIsToldThatAConnectionEnds(t *testing.T) {
	r := startEnding(t)
	told := func(what string, want ...map[string]any) {
		t.Helper()
		r.hook.told = nil
		if err := r.apiTokens.Notify(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, r.hook.told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	notice := func(providerID string, days float64, at time.Time, expected bool) map[string]any {
		return map[string]any{
			"type": "connection.ending", "days": days, "provider": providerID, "user_id": r.id, "username": "alice",
			"ends_at": at.UTC().Truncate(time.Second).Format(time.RFC3339), "expected": expected,
		}
	}
	told("nothing ends")
	at := r.ends(t, "second", 30*day, 6*day)
	r.hook.refuse.Store(true)
	if err := r.apiTokens.Notify(t.Context()); err == nil || strings.Contains(err.Error(), r.hook.URL) {
		t.Errorf("got %v; want an error without the address", err)
	}
	r.hook.refuse.Store(false)
	told("it is not asked again for a while")
	query(t, r.database, "UPDATE grant_notices SET notice_at = 0")
	told("ten minutes later", notice("second", 7, at, false))
	told("once is enough")
	at = r.ends(t, "first", 26*day, 0).Add(4 * day)
	r.habit(t, "first", 30*day)
	told("expected", notice("first", 7, time.UnixMilli(query(t, r.database, "SELECT connected_at FROM connections WHERE provider = 'first'")[0][0].(int64)).Add(30*day), true))
	if at.Before(time.Now()) {
		t.Fatal("the test took days")
	}
}

// The gauge has every provider, and those that have none ending are at zero again.
func TestGrantsThatEndAreMeasured(t *testing.T) {
	r := startEnding(t)
	measured := func(want ...string) {
		t.Helper()
		if err := r.lookAtEndings(t.Context()); err != nil {
			t.Fatal(err)
		}
		scraped, err := http.Get("http://" + r.metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer scraped.Body.Close()
		body, err := io.ReadAll(scraped.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range want {
			if !strings.Contains(string(body), "\nwts_grants_ending{"+one+"\n") {
				t.Errorf("the metrics lack %s", one)
			}
		}
	}
	r.ends(t, "second", 30*day, 12*time.Hour)
	measured(`provider="second",within="1d"} 1`, `provider="second",within="7d"} 1`, `provider="first",within="1d"} 0`, `provider="first",within="7d"} 0`)
	r.ends(t, "second", 30*day, 5*day)
	measured(`provider="second",within="1d"} 0`, `provider="second",within="7d"} 1`)
	r.ends(t, "second", 0, 90*day)
	measured(`provider="second",within="1d"} 0`, `provider="second",within="7d"} 0`)
}

// Operators list what is about to end.
func TestConnectionsThatEndAreListed(t *testing.T) {
	r := startEnding(t)
	file := commandsFor(t, r.database)
	at := r.ends(t, "second", 30*day, 3*day)
	r.ends(t, "first", 24*day, 0)
	r.habit(t, "first", 30*day)
	list := func(args ...string) string {
		t.Helper()
		out, err := run(t, append(append([]string{"connections", "list"}, args...), "-c", file)...)
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	for name, row := range map[string]struct {
		args          []string
		first, second bool
	}{
		"all":                   {nil, true, true},
		"in a week":             {[]string{"--ending", "7d"}, true, true},
		"in four days":          {[]string{"--ending", "4d"}, false, true},
		"in days and hours":     {[]string{"--ending", "3d12h"}, false, true},
		"in hours":              {[]string{"--ending", "80h"}, false, true},
		"in a day":              {[]string{"--ending", "1d"}, false, false},
		"a user's":              {[]string{"alice", "--ending", "7d"}, true, true},
		"of a user without any": {[]string{"bob", "--ending", "7d"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			out := list(row.args...)
			if strings.Contains(out, "(expected)") != row.first || strings.Contains(out, at.UTC().Format(time.RFC3339)) != row.second {
				t.Errorf("%s\nwant the first, whose end is expected: %t; the second: %t", out, row.first, row.second)
			}
		})
	}
	var rows []map[string]any
	if text := list("--ending", "7d", "--output", "json"); json.Unmarshal([]byte(text), &rows) != nil {
		t.Fatalf("no JSON: %s", text)
	}
	if len(rows) != 2 || rows[0]["provider"] != "second" || rows[0]["ends_at"] != at.UTC().Format(time.RFC3339) || rows[0]["expected"] != false || rows[1]["expected"] != true || rows[1]["username"] != "alice" {
		t.Errorf("got %v; want the second, which is stated, and then the first, which is expected", rows)
	}
	for _, wrong := range [][]string{{"--ending", "a week"}, {"--ending", "0d"}, {"--ending", "-3d"}, {"--ending", "1d-30h"}, {"--ending", "7days"}, {"--output", "csv"}, {"--phase", "good"}, {"--limit", "0"}, {"--limit", "20000"}, {"--skip", "-1"}} {
		if out, err := run(t, append(append([]string{"connections", "list"}, wrong...), "-c", file)...); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%v: got %v\n%s", wrong, err, out)
		}
	}
}
