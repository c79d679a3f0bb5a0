package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// A database that goes away shows in the gauge and in one line of the log, though no request fails, and
// so does its return.
func TestADeadDatabaseIsVisible(t *testing.T) {
	database, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Remove() })
	r := startReplica(t, func(c *config.Config) { c.Database.URL = secret.Text(database.URL) })
	metric := func(name string) string {
		t.Helper()
		scrape := httptest.NewRecorder()
		r.metrics.Handler().ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		body, _ := io.ReadAll(scrape.Body)
		for line := range strings.Lines(string(body)) {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				return strings.TrimSpace(value)
			}
		}
		return "missing"
	}
	within := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 10 s: %s\n%s", what, r.log)
			}
		}
	}
	within("it is up", func() bool { return metric("wts_database_up") == "1" })
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	within("it is down", func() bool { return metric("wts_database_up") == "0" })
	if metric("wts_database_reached") != "1" {
		t.Error("that it was reached once is forgotten")
	}
	time.Sleep(2 * pingEvery)
	if lines := strings.Count(r.log.String(), "the database does not answer"); lines != 1 {
		t.Errorf("the log says so %d times", lines)
	}
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	within("it is up again", func() bool {
		return metric("wts_database_up") == "1" && strings.Contains(r.log.String(), "the database answers again")
	})
	if metric("wts_signing_key_active_age_seconds") == "0" {
		t.Error("no key signs")
	}
}

// The certificate's end is a gauge.
func TestTheCertificatesEndIsAGauge(t *testing.T) {
	served := &certificates{config: writeCertificate(t, t.TempDir(), "first")}
	if left := time.Until(served.expires()); left < 50*time.Minute || left > 70*time.Minute {
		t.Errorf("it expires in %s, want an hour", left)
	}
	if !(&certificates{}).expires().IsZero() {
		t.Error("without a certificate it expires")
	}
}

// While it drains, a replica tells clients to go elsewhere; a connection that says nothing does not delay
// its end.
func TestASilentConnectionDoesNotDelayTheEnd(t *testing.T) {
	r := startReplica(t, func(c *config.Config) { c.DrainDelay = 500 * time.Millisecond })
	address := strings.TrimPrefix(r.config.Server.Listen[0], "http://")
	for range 3 {
		silent, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	if got := r.call(t, nil, http.MethodGet, "/healthz"); got.header.Get("Connection") == "close" {
		t.Error("a replica that serves tells clients to go elsewhere")
	}
	began := time.Now()
	r.stop()
	eventually(t, "it drains", func() bool { return r.call(t, nil, http.MethodGet, "/readyz").status == http.StatusServiceUnavailable })
	response, err := (&http.Client{Transport: &http.Transport{}}).Get(r.url + "/healthz")
	if err != nil || !response.Close {
		t.Errorf("while it drains clients are not told to go: %v", err)
	}
	if err == nil {
		_ = response.Body.Close()
	}
	<-r.ended
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s to end", took)
	}
}
