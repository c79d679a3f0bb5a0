package main

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

// Each thing that the engine reports is counted under its own name, and said where an operator should hear of it.
func TestWhatTheEngineReportsIsCounted(t *testing.T) {
	for name, row := range map[string]struct {
		tell   func(broker.Observer)
		metric string
		said   string
	}{
		"refreshed":     {tell: func(o broker.Observer) { o.Refreshed("p", "refreshed", time.Second) }, metric: `wts_refresh_seconds_count{outcome="refreshed",provider="p"} 1`},
		"misconfigured": {tell: func(o broker.Observer) { o.Refreshed("p", string(provider.Misconfigured), time.Second) }, metric: `provider="p"} 1`, said: "does not take us for its client"},
		"lost":          {tell: func(o broker.Observer) { o.GrantLost("p", "revoked") }, metric: `wts_grants_lost_total{cause="revoked",provider="p"} 1`, said: "has to log in again"},
		"doubted":       {tell: func(o broker.Observer) { o.Doubted("p") }, metric: `wts_refresh_doubts_total{provider="p"} 1`},
		"resolved":      {tell: func(o broker.Observer) { o.Resolved("p", "kept") }, metric: `wts_refresh_takeovers_total{how="kept",provider="p"} 1`},
		"revoked":       {tell: func(o broker.Observer) { o.Revoked("p", "failed") }, metric: `wts_revocations_total{how="failed",provider="p"} 1`},
		"served":        {tell: func(o broker.Observer) { o.Serving("p")(time.Minute) }, metric: `wts_token_life_seconds_count{provider="p"} 1`},
		"no spool":      {tell: func(o broker.Observer) { o.SpoolFailed(errors.New("no room")) }, metric: "wts_spool_failures_total 1", said: "there is no spool"},
		"restored":      {tell: func(o broker.Observer) { o.Restored("p", "restored") }, metric: `wts_failover_restored_total{how="restored",provider="p"} 1`},
		"failed over":   {tell: func(o broker.Observer) { o.FailedOver() }, metric: "wts_failovers_total 1", said: "the database failed over"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			metrics := telemetry.NewMetrics()
			row.tell(refreshes(metrics, slog.New(slog.NewTextHandler(&log, nil))))
			answer := httptest.NewRecorder()
			metrics.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
			if !strings.Contains(answer.Body.String(), row.metric) {
				t.Errorf("no %s in the metrics:\n%s", row.metric, answer.Body.String())
			}
			if (row.said == "") != (log.Len() == 0) || !strings.Contains(log.String(), row.said) {
				t.Errorf("the log says %q, want %q", log.String(), row.said)
			}
		})
	}
}

// check-config --online counts the connections that the keyring at hand does not open.
func TestSealsThatDoNotOpenAreReported(t *testing.T) {
	address := secret.Text("sqlite:" + filepath.Join(t.TempDir(), "wts.db"))
	with := func() *store.Store {
		keys, err := keyring.Parse(keyring.Generate(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(store.Config{URL: address}, keys, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	sealing, other := with(), with()
	if _, err := sealing.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := sealing.Logins.Connect(t.Context(), broker.Grant{
		Provider: "main", Identity: provider.Identity{Issuer: "https://op", Subject: "s", Username: "alice"},
		Tokens: provider.Tokens{RefreshToken: "r", AccessToken: "a", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(time.Minute)},
	}); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		db   *store.Store
		want string
	}{
		"with the key":    {sealing, ""},
		"with other keys": {other, "1 of 1 connections do not open with this keyring"},
	} {
		t.Run(name, func(t *testing.T) {
			said := ""
			for _, one := range tryDatabase(t.Context(), row.db) {
				if one.Error != "" {
					said += one.What + ": " + one.Error
				}
			}
			if (row.want == "") != (said == "") || !strings.Contains(said, row.want) {
				t.Errorf("it says %q, want %q", said, row.want)
			}
		})
	}
}
