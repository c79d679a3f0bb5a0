package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// Refresh-engine.md promise 4: while a provider takes its time, nothing of the database is held, and
// who uses another provider does not notice.
func TestASlowProviderHoldsNothing(t *testing.T) {
	database := pgtest.Database(t)
	r := startReplica(t, func(c *config.Config) {
		c.Database.URL, c.Database.MaxConnections = secret.Text(database), 10
		second := c.Providers["second"]
		second.RefreshRate = 1000
		c.Providers["second"] = second
	})
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	alice, err := r.store.Users.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	const people, slow = 40, 3 * time.Second
	ids := make([]string, people)
	for i := range ids {
		name := fmt.Sprint("user", i)
		past := time.Now().Add(-time.Hour)
		stored, err := r.store.Logins.Connect(t.Context(), broker.Grant{
			Provider: "second", Identity: provider.Identity{Issuer: "i", Subject: name, Username: name},
			Tokens: provider.Tokens{RefreshToken: secret.Text("rt-" + name), AccessToken: "spent", IssuedAt: past, AccessExpiresAt: past.Add(time.Minute)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = stored.UserID
	}
	r.second.Fail(&providertest.Fault{Delay: slow, Status: http.StatusServiceUnavailable})
	var waiting sync.WaitGroup
	for _, id := range ids {
		waiting.Go(func() { _, _ = r.broker.Token(t.Context(), id, "second", time.Minute) })
	}
	eventually(t, "all of them wait for the provider", func() bool { return r.second.Ledger().TokenPosts >= people })
	busy, worst := 0, time.Duration(0)
	for range 20 { // between two statements of a transaction there is a moment; who waits for a provider is longer there
		rows := query(t, database, "SELECT CASE WHEN clock_timestamp() - state_change < interval '500 ms' THEN 'active' ELSE state END FROM pg_stat_activity WHERE application_name = 'wts' AND datname = current_database() AND state <> 'idle'")
		for _, row := range rows {
			if strings.HasPrefix(fmt.Sprint(row[0]), "idle in transaction") {
				t.Errorf("a transaction waits: %v", row)
			}
		}
		busy = max(busy, len(rows))
		r.broker.Forget(alice.ID, "first")
		began := time.Now()
		if _, err := r.broker.Token(t.Context(), alice.ID, "first", time.Second); err != nil {
			t.Error(err)
		}
		worst = max(worst, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	if busy > 4 { // heartbeat, sweeper, feed, audit
		t.Errorf("%d connections are at work while the provider takes its time", busy)
	}
	if worst > slow/3 {
		t.Errorf("a user of another provider waited %s", worst)
	}
	waiting.Wait()
}

func TestTheConnectionsCommand(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	listed, err := r.store.Connections.List(t.Context(), store.ConnectionFilter{})
	if err != nil || len(listed) != 1 || listed[0].Username != "alice" || listed[0].Phase != broker.Ready {
		t.Fatalf(`got %+v, %v; want len(listed) 1, listed[0].Username "alice", listed[0].Phase broker.Ready`, listed, err)
	}
	command := &cobra.Command{}
	command.SetContext(t.Context())
	out := &bytes.Buffer{}
	showConnection(out, &listed[0])
	for _, want := range []string{"alice (" + listed[0].UserID + ")", "phase", "ready", "grant until"} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		})
	}
	if _, err := findConnection(command, r.store, "alice", "second"); err == nil || !strings.Contains(err.Error(), "has not connected") {
		t.Errorf("what is not there: %v", err)
	}
	one, err := findConnection(command, r.store, "alice", "first")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Connections.Disconnect(t.Context(), one.UserID, one.Provider); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the provider is told", func() bool { return r.first.Ledger().Revocations == 1 })
	if listed, err = r.store.Connections.List(t.Context(), store.ConnectionFilter{Username: "alice"}); err != nil || len(listed) != 0 {
		t.Errorf("got %+v, %v; want len(listed) 0", listed, err)
	}
	connections := connectionsCommand(new(string))
	if names := len(connections.Commands()); names != 3 {
		t.Errorf("%d commands", names)
	}
}
