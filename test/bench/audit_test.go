package bench

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/paired"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// A cached token with the audit in the database, beside one with the audit on the log alone, at eight connections.
func BenchmarkCachedTokenWithTheAuditInTheDatabase(b *testing.B) {
	start := func(more string) *target {
		r := deployment.New(b, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 100, Log: "info", More: more})
		r.Connect(b, r.Names[0], time.Hour, false)
		one := &target{address: r.WTS[0].Address, pid: r.WTS[0].PID()}
		one.load = newLoad(b, one.address, "/token/?expires=600", 0, 8)
		return one
	}
	targets := []*target{start("audit: {log_only: true}"), start("")}
	for b.Loop() {
		found := rounds(b, targets, func(round []window) []float64 {
			return []float64{round[1].rate / round[0].rate, round[1].cpu / round[0].cpu}
		})
		paired.Report(b, found[0], "x-rate-with-the-log-alone", "≥0.97")
		paired.Report(b, found[1], "x-CPU-with-the-log-alone", "≤1.03")
	}
}

// Three replicas write their audit to one PostgreSQL at once, beside one that does as much alone; and how often one of
// them waited for a lock of another.
func BenchmarkThreeAudits(b *testing.B) {
	const batches, each = 30, 200
	database := pgtest.Database(b)
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		b.Fatal(err)
	}
	var trails []*audit.Trail
	for i := range 3 {
		s, err := store.Open(store.Config{URL: secret.Text(database)}, keys, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		if _, err := s.Migrate(b.Context()); err != nil {
			b.Fatal(err)
		}
		trails = append(trails, audit.NewTrail(s.Audit, fmt.Sprint(i), time.Now))
	}
	write := func(trail *audit.Trail, batches int) {
		for range batches {
			for n := range each {
				trail.Add(audit.Event{Action: audit.Mint, UserID: "TSKRCEIL7OXLLJSGFAEB6SRVZR", Username: "alice", Proof: "pod", Actor: "pod 10.0.0.7", Audience: "storage", Token: fmt.Sprint(n)}, "653279cf0ed13ba1", "10.0.0.7")
			}
			if err := trail.Flush(b.Context()); err != nil {
				b.Error(err)
			}
		}
	}
	for _, trail := range trails {
		write(trail, 1)
	}
	for b.Loop() {
		waits, stop := watchLocks(b, database)
		var ratios []float64
		for range 5 {
			began := time.Now()
			write(trails[0], 3*batches)
			alone := time.Since(began)
			began = time.Now()
			var all sync.WaitGroup
			for _, trail := range trails {
				all.Go(func() { write(trail, batches) })
			}
			all.Wait()
			ratios = append(ratios, alone.Seconds()/time.Since(began).Seconds())
		}
		stop()
		paired.Report(b, paired.Median(ratios), "x-rate-of-one-alone", "≥1")
		paired.Report(b, float64(*waits), "waits-for-a-lock-of-another", "0")
	}
}

// watchLocks counts, a hundred times a second, who waits for a lock of another transaction.
func watchLocks(b *testing.B, database string) (waits *int, stop func()) {
	b.Helper()
	connection, err := pgx.Connect(b.Context(), database)
	if err != nil {
		b.Fatal(err)
	}
	waits = new(int)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
			var waiting int
			if err := connection.QueryRow(b.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple', 'relation')").Scan(&waiting); err != nil {
				b.Error(err)
				return
			}
			*waits += waiting
		}
	}()
	return waits, func() { close(done); <-ended; _ = connection.Close(b.Context()) }
}

// A resource service asks what tokens are worth that were seen once, an API token and a minted one, beside a bare gin
// handler, at eight connections.
func BenchmarkIntrospectionOfATokenOnceSeen(b *testing.B) {
	const sites = "a-secret-of-the-service-of-20-bytes"
	gin := newBareGin(b)
	gin.load = newLoad(b, gin.address, "/token/", 0, 8)
	r := deployment.New(b, deployment.Setup{
		People: 1, Replicas: 1, Life: time.Hour, Rate: 100, Log: "warn",
		More: "audiences:\n  service: {scopes: [read], secret: " + sites + ", api_tokens: {personal: true}}",
	})
	minted, made := tokensFor(b, r)
	targets := []*target{gin}
	for _, token := range []string{made, minted} {
		form := url.Values{"token": {token}, "client_id": {"service"}, "client_secret": {sites}}.Encode()
		one := &target{address: r.WTS[0].Address, pid: r.WTS[0].PID()}
		one.load = newLoad(b, one.address, "", 0, 8)
		one.load.request = fmt.Appendf(nil, "POST /oauth2/introspect HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", one.address, len(form), form)
		targets = append(targets, one)
	}
	for b.Loop() {
		found := rounds(b, targets, func(round []window) []float64 {
			return []float64{round[1].rate / round[0].rate, round[2].rate / round[0].rate}
		})
		paired.Report(b, found[0], "x-rate-of-bare-gin", "≥0.5")
		paired.Report(b, found[1], "x-rate-of-bare-gin-minted", "≥0.5")
	}
}

// tokensFor has a person's worker ask for a minted token, and the person make an API token.
func tokensFor(b *testing.B, r *deployment.Deployment) (minted, made string) {
	b.Helper()
	_, port, _ := strings.Cut(r.WTS[0].Address, ":")
	base := "http://localhost:" + port // as browsers reach it
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	if _, err := providertest.LogIn(b.Context(), browser, base+"/oauth2/authorization_url", r.Names[0], "p"); err != nil {
		b.Fatal(err)
	}
	answer := func(response *http.Response, err error) (token string) {
		if err != nil {
			b.Fatal(err)
		}
		defer response.Body.Close()
		var said struct{ Token string }
		if err := json.NewDecoder(response.Body).Decode(&said); err != nil || said.Token == "" {
			b.Fatalf("got %d, %v; want a token", response.StatusCode, err)
		}
		return said.Token
	}
	made = answer(browser.Post(base+"/api/v1/tokens", "application/json", strings.NewReader(`{"audience": "service", "name": "one", "scopes": ["read"]}`)))
	minted = answer(r.Worker(0).Get("http://" + r.WTS[0].Address + "/token?audience=service&scope=read&expires=3600"))
	return minted, made
}
