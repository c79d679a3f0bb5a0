package store_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// parses counts the statements that clients have a server parse, and those of them about connections that ask for the
// system's identifier. It forwards all that they send.
type parses struct{ count, identify atomic.Int64 }

// listen listens before a server, and returns the database's URL by way of it.
func (p *parses) listen(t *testing.T, address string) string {
	t.Helper()
	parsed := mustParse(t, address)
	to := parsed.Host
	parsed.Host = listening(t, func(client net.Conn) { p.forward(client, to) }).Addr().String()
	return parsed.String()
}

func (p *parses) forward(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
	reading, copied := io.Pipe()
	go func() { _, _ = io.Copy(io.MultiWriter(server, copied), client); _ = copied.Close(); _ = server.Close() }()
	frontend := pgproto3.NewBackend(reading, io.Discard)
	if _, err := frontend.ReceiveStartupMessage(); err == nil {
		for {
			message, err := frontend.Receive()
			if err != nil {
				break
			}
			parse, ok := message.(*pgproto3.Parse)
			if !ok {
				continue
			}
			p.count.Add(1)
			if strings.Contains(parse.Query, "connections") && strings.Contains(parse.Query, "pg_control_system") {
				p.identify.Add(1)
			}
		}
	}
	_, _ = io.Copy(io.Discard, reading)
}

// oneSession opens a database with one connection, and logs Alice in.
func oneSession(t *testing.T, url string, log io.Writer) (*store.Store, string) {
	t.Helper()
	s, err := store.Open(store.Config{URL: secret.Text(url), MaxConnections: 1}, newKeys(t), slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, connect(t, s, "alice")
}

// refreshRow is a refresh: three statements.
func refreshRow(t *testing.T, s *store.Store, user, name string) {
	t.Helper()
	row, err := s.Connections.Row(t.Context(), user, "main")
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: name, Replica: "r"})
	if err != nil {
		t.Fatal(err)
	}
	flight := claimed.Row
	commit := broker.Commit{Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: grant(name).Tokens, Successor: []byte(name)}
	if _, err := s.Connections.Apply(t.Context(), flight, commit); err != nil {
		t.Fatal(err)
	}
	if row, err = s.Connections.Row(t.Context(), user, "main"); err != nil || row.RefreshToken != grant(name).Tokens.RefreshToken {
		t.Fatalf("%s is stored: %t, %v", name, row.RefreshToken == grant(name).Tokens.RefreshToken, err)
	}
}

// A refresh has PostgreSQL parse nothing that its connection had it parse before, and asks once for each connection
// which system that leads to; by way of a pooler, which gives the next statement to another session, nothing is
// prepared, and each asks.
func TestARefreshIsPrepared(t *testing.T) {
	for name, row := range map[string]struct {
		way  func(t *testing.T, url string) string
		want int64
	}{
		"by itself":          {func(_ *testing.T, url string) string { return url }, 0},
		"behind pgbouncer":   {func(t *testing.T, url string) string { return pgtest.Bouncer(t, url) }, 8},
		"as the URL says so": {func(_ *testing.T, url string) string { return url + "&default_query_exec_mode=exec" }, 8},
	} {
		t.Run(name, func(t *testing.T) {
			counted := &parses{}
			s, alice := oneSession(t, counted.listen(t, row.way(t, pgtest.Database(t))), io.Discard)
			login := counted.identify.Load()
			refreshRow(t, s, alice, "one")
			refreshRow(t, s, alice, "two") // a rotation shows itself at the second, which has other columns
			before, identify := counted.count.Load(), counted.identify.Load()
			refreshRow(t, s, alice, "three")
			refreshRow(t, s, alice, "four")
			if got := counted.count.Load() - before; got != row.want {
				t.Errorf("two more had it parse %d statements, want %d", got, row.want)
			}
			if got := counted.identify.Load(); got-identify != row.want || row.want == 0 && got > login {
				t.Errorf("%d statements ask which system it is, %d of the last two refreshes", got-login, got-identify)
			}
		})
	}
}

// A session that has lost what was prepared, as by a pooler that names the server's process, and a table that was changed
// under a prepared statement cost nothing but another attempt.
func TestWhatWasPreparedIsGone(t *testing.T) {
	for name, row := range map[string]struct {
		statement string
		says      string
	}{
		"from the session":           {"DEALLOCATE ALL", "prepared no more"},
		"as its columns are changed": {"ALTER TABLE connections ALTER COLUMN subject TYPE varchar(200)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s, alice := oneSession(t, pgtest.Database(t), &log)
			refreshRow(t, s, alice, "one")
			store.Exec(t, s, row.statement)
			refreshRow(t, s, alice, "two")
			refreshRow(t, s, alice, "three")
			if got := log.String(); !strings.Contains(got, row.says) || row.says == "" && got != "" {
				t.Errorf("the log says %q, want %q", got, row.says)
			}
		})
	}
}
