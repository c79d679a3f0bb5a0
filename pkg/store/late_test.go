package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// holdsCommits is a way to PostgreSQL on which a COMMIT is held up once, as a partition holds it: its
// sender goes away, and it arrives anyway.
type holdsCommits struct {
	net.Listener
	server string
	held   atomic.Int64 // nanoseconds that the next one is held for
	passed chan time.Time
}

// listening accepts connections until the test ends, and has each carried.
func listening(t *testing.T, carry func(client net.Conn)) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go carry(client)
		}
	}()
	return listener
}

func newHoldsCommits(t *testing.T, address string) *holdsCommits {
	t.Helper()
	way := &holdsCommits{server: mustParse(t, address).Host, passed: make(chan time.Time, 1)}
	way.Listener = listening(t, way.carry)
	return way
}

func (w *holdsCommits) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			if held := w.held.Load(); held > 0 && bytes.Contains(buffer[:n], []byte("commit")) {
				w.held.Store(0)
				time.Sleep(time.Duration(held))
				_, _ = server.Write(buffer[:n])
				time.Sleep(time.Second) // the server acts, though nobody listens
				w.passed <- time.Now()
				return
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A COMMIT that arrives 40 s late. With the server's limit it has no effect; without, every replica
// hears of it when it takes effect, though the line of the feed is 40 s old by then.
func TestACommitThatArrivesLate(t *testing.T) {
	for name, unlimited := range map[string]bool{"with the server's limit": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, keys := pgtest.Database(t), newKeys(t)
			direct := open(t, address, keys)
			alice := connect(t, direct, "alice")
			way := newHoldsCommits(t, address)
			late := open(t, withHost(t, address, way.Addr().String()), keys)
			if unlimited {
				store.Unlimit(late)
			}
			ears := &ear{heard: map[string]time.Time{}}
			ctx, stop := context.WithCancel(t.Context())
			followed := make(chan struct{})
			go func() { direct.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
			defer func() { stop(); <-followed }()
			await(t, ears, "missed", time.Time{})

			way.held.Store(int64(40 * time.Second))
			began := time.Now()
			if err := late.Connections.Disconnect(t.Context(), alice, "main"); err == nil || errors.Is(err, broker.ErrNotConnected) {
				t.Fatalf("got %v while the COMMIT is held up, want an outage", err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the caller was told after %s, want about 5 s", took)
			}
			passed := <-way.passed
			row, err := direct.Connections.Row(t.Context(), alice, "main")
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case !unlimited && row.Phase != broker.Ready:
				t.Errorf("the row is %s: a COMMIT took effect long after its caller was told that it failed", row.Phase)
			case unlimited && row.Phase != broker.Disconnected:
				t.Fatalf("the row is %s: nothing was late", row.Phase)
			case unlimited:
				await(t, ears, "connection "+alice+" main", passed.Add(-2*time.Second))
			}
		})
	}
}

func withHost(t *testing.T, address, host string) string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	parsed.Host = host
	return parsed.String()
}

// A disconnect that finds a tombstone has every replica told again: one of them may not have heard.
func TestADisconnectIsToldAgain(t *testing.T) {
	onEach(t, func(t *testing.T, address string) {
		keys := newKeys(t)
		writer, reader := open(t, address, keys), open(t, address, keys)
		alice := connect(t, writer, "alice")
		if err := writer.Connections.Disconnect(t.Context(), alice, "main"); err != nil {
			t.Fatal(err)
		}
		ears := &ear{heard: map[string]time.Time{}}
		ctx, stop := context.WithCancel(t.Context())
		followed := make(chan struct{})
		go func() { reader.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
		defer func() { stop(); <-followed }()
		await(t, ears, "missed", time.Time{})
		since := time.Now()
		want := broker.ErrNotConnected
		if err := writer.Connections.Disconnect(t.Context(), alice, "main"); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		await(t, ears, "connection "+alice+" main", since)
	})
}

// Lines are known by incarnation, transaction and number, however late they commit beside others
// that are later and committed before.
func TestLinesThatCommitOutOfOrder(t *testing.T) {
	address, keys := pgtest.Database(t), newKeys(t)
	reader := open(t, address, keys)
	ears := &ear{heard: map[string]time.Time{}}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { reader.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
	defer func() { stop(); <-followed }()
	await(t, ears, "missed", time.Time{})
	begun := time.Now()

	db := raw(t, address)
	long, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = long.Rollback() }()
	old := time.Now().Add(-time.Minute).UnixMilli() // by the time when it was written nobody would read it
	if _, err := long.ExecContext(t.Context(), "INSERT INTO changes (at, kind, object) VALUES ($1, 'connection', 'early/main')", old); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO changes (at, kind, object) SELECT (extract(epoch FROM now()) * 1000)::bigint, 'connection', 'u' || n || '/main' FROM generate_series(1, 500) n")
	await(t, ears, "connection u500 main", begun)
	time.Sleep(3 * time.Second) // a poll in which the first line is not visible yet
	since := time.Now()
	if err := long.Commit(); err != nil {
		t.Fatal(err)
	}
	await(t, ears, "connection early main", since)
	if ears.heardAfter("connection u500 main", since.Add(time.Second)) {
		t.Error("a line was acted on twice")
	}
	if ears.heardAfter("missed", begun) {
		t.Error("it thinks that it missed something")
	}
}

// A cold token costs three statements: read, claim, commit, the line of the feed in it.
func TestExactStatementsOfARefresh(t *testing.T) {
	for name, tell := range map[string]bool{"as usual": false, "where a refresh revokes the access token": true} {
		t.Run(name, func(t *testing.T) {
			s := open(t, pgtest.Database(t), newKeys(t))
			alice := connect(t, s, "alice")
			before := s.Statements()
			row, err := s.Connections.Row(t.Context(), alice, "main")
			if err != nil {
				t.Fatal(err)
			}
			claimed, err := s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: "f", Replica: "r"})
			if err != nil {
				t.Fatal(err)
			}
			kept := s.Statements()
			if _, err := s.Connections.Apply(t.Context(), claimed.Row, broker.Claim{Version: row.Version, Flight: "f", Replica: "r"}); err != nil || s.Statements() != kept {
				t.Errorf("the same claim on the row as it gave it: %v and %d statements, want none", err, s.Statements()-kept)
			}
			tokens := grant("alice").Tokens
			commit := broker.Commit{
				Flight: "f", Version: claimed.Row.Version, Presented: row.Digest, Token: row.RefreshToken, Tokens: tokens, Successor: []byte("next"), Tell: tell,
			}
			if _, err := s.Connections.Apply(t.Context(), claimed.Row, commit); err != nil {
				t.Fatal(err)
			}
			if got := s.Statements() - before; got != 3 {
				t.Errorf("%d statements, want 3", got)
			}
		})
	}
}

// The feed is heard by an ordinary user of the database, and by one that may not even ask which incarnation
// it is: the tests' own user may everything.
func TestAnOrdinaryUserHearsChanges(t *testing.T) {
	for name, forbidden := range map[string]bool{"an ordinary user": false, "where the incarnation is not said": true} {
		t.Run(name, func(t *testing.T) {
			address := pgtest.Database(t)
			db := raw(t, address)
			role := "ordinary_" + strings.TrimPrefix(mustParse(t, address).Path, "/")
			exec(t, db, "CREATE ROLE "+role+" LOGIN")
			exec(t, db, "GRANT ALL ON SCHEMA public TO "+role)
			t.Cleanup(func() {
				for _, statement := range []string{"REASSIGN OWNED BY " + role + " TO CURRENT_USER", "DROP OWNED BY " + role, "DROP ROLE " + role} {
					_, _ = db.ExecContext(context.Background(), statement)
				}
			})
			if forbidden {
				exec(t, db, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
			}
			parsed := mustParse(t, address)
			parsed.User = url.User(role)
			s := open(t, parsed.String(), newKeys(t))
			ears := &ear{heard: map[string]time.Time{}}
			ctx, stop := context.WithCancel(t.Context())
			followed := make(chan struct{})
			go func() { s.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
			defer func() { stop(); <-followed }()
			await(t, ears, "missed", time.Time{})
			since := time.Now()
			alice := connect(t, s, "alice")
			await(t, ears, "connection "+alice+" main", since)
		})
	}
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// A replica that cannot read the feed goes on with what it remembers for as long as it has patience, and not
// for longer; while it has, it only asks again (C6).
func TestAFeedThatCannotBeRead(t *testing.T) {
	for name, row := range map[string]struct {
		patience time.Duration
		missed   bool
	}{
		"within its patience": {time.Hour, false},
		"beyond it":           {time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, address string) {
				s := open(t, address, newKeys(t))
				ears := &ear{heard: map[string]time.Time{}}
				ctx, stop := context.WithCancel(t.Context())
				followed := make(chan struct{})
				go func() { s.Feed.Follow(ctx, ears.listener(), row.patience); close(followed) }()
				defer func() { stop(); <-followed }()
				await(t, ears, "missed", time.Time{})
				exec(t, raw(t, address), "ALTER TABLE changes RENAME TO elsewhere")
				since := time.Now()
				if row.missed {
					await(t, ears, "missed", since)
					return
				}
				time.Sleep(4500 * time.Millisecond) // two looks
				if ears.heardAfter("missed", since) {
					t.Error("it thinks that it missed something within its patience")
				}
			})
		})
	}
}

// A replica that could not read the feed for half as long as lines are kept may have missed some, however
// much patience it has (C5). SQLite's feed goes by the clock of the test.
func TestAFeedThatWasSilentForLong(t *testing.T) {
	for name, row := range map[string]struct {
		silent time.Duration
		missed bool
	}{
		"for less than half an hour": {29 * time.Minute, false},
		"for more":                   {31 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				address := databases["sqlite"](t)
				s := open(t, address, newKeys(t))
				db := raw(t, address)
				ears := &ear{heard: map[string]time.Time{}}
				ctx, stop := context.WithCancel(t.Context())
				followed := make(chan struct{})
				go func() { s.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
				defer func() { stop(); <-followed }()
				await(t, ears, "missed", time.Time{})
				exec(t, db, "ALTER TABLE changes RENAME TO elsewhere")
				time.Sleep(row.silent)
				since := time.Now()
				exec(t, db, "ALTER TABLE elsewhere RENAME TO changes")
				time.Sleep(10 * time.Second)
				if missed := ears.heardAfter("missed", since); missed != row.missed {
					t.Errorf("it thinks that it missed something: %t, want %t", missed, row.missed)
				}
			})
		})
	}
}

// losesAnswers is a way to PostgreSQL on which the answer to one swap of a row is lost: its connection
// breaks, or goes silent.
type losesAnswers struct {
	net.Listener
	server string
	breaks bool
	next   atomic.Bool // lose the next one
}

func newLosesAnswers(t *testing.T, address string, breaks bool) *losesAnswers {
	t.Helper()
	way := &losesAnswers{server: mustParse(t, address).Host, breaks: breaks}
	way.Listener = listening(t, way.carry)
	return way
}

func (w *losesAnswers) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	var lost atomic.Bool
	go func() {
		defer client.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil || lost.Load() && w.breaks {
				return
			}
			if !lost.Load() {
				_, _ = client.Write(buffer[:n])
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			if bytes.Contains(buffer[:n], []byte("UPDATE connections")) && w.next.CompareAndSwap(true, false) {
				lost.Store(true)
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A swap whose answer is lost was done: the row is read again, and the rule recognises its own work (F10,
// F20, C2).
func TestAnAnswerThatIsLost(t *testing.T) {
	for name, breaks := range map[string]bool{"its connection breaks": true, "its connection goes silent": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, keys := pgtest.Database(t), newKeys(t)
			way := newLosesAnswers(t, address, breaks)
			s := open(t, withHost(t, address, way.Addr().String()), keys)
			alice := connect(t, s, "alice")
			row, err := s.Connections.Row(t.Context(), alice, "main")
			if err != nil {
				t.Fatal(err)
			}
			way.next.Store(true)
			claimed, err := s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: "f", Replica: "r"})
			if err != nil || claimed.Row.FlightID != "f" || claimed.Row.Version != row.Version+1 || claimed.Row.RefreshToken == "" {
				t.Fatalf("claiming: flight %q, version %d after %d, %v; want the claim that was given", claimed.Row.FlightID, claimed.Row.Version, row.Version, err)
			}
			way.next.Store(true)
			commit := broker.Commit{
				Flight: "f", Version: claimed.Row.Version, Presented: row.Digest, Token: row.RefreshToken, Tokens: grant("next").Tokens, Successor: []byte("next"),
			}
			if _, err := s.Connections.Apply(t.Context(), claimed.Row, commit); err != nil {
				t.Errorf("committing: got %v, want nil", err)
			}
			if way.next.Load() {
				t.Error("no answer was lost")
			}
			after, err := s.Connections.Row(t.Context(), alice, "main")
			if err != nil || after.RefreshToken != "canary-refresh-next" || after.Version != row.Version+2 {
				t.Errorf("the successor is stored: %t, version %d after %d, %v", after.RefreshToken == "canary-refresh-next", after.Version, row.Version, err)
			}
		})
	}
}

// Replicas whose callers wait for a flight, which they say when they are refused it, are notified when it lands,
// whatever it brought: also where their word comes late. They are not notified of a claim, nor of what no replica waits for.
func TestAFlightThatLandsIsNotified(t *testing.T) {
	address, keys := pgtest.Database(t), newKeys(t)
	writer, reader := open(t, address, keys), open(t, address, keys)
	alice := connect(t, writer, "alice")
	ctx, stop := context.WithCancel(t.Context())
	ears, own := &ear{heard: map[string]time.Time{}}, &ear{heard: map[string]time.Time{}}
	followed := make(chan struct{}, 2)
	go func() { reader.Feed.Follow(ctx, ears.listener(), time.Hour); followed <- struct{}{} }()
	go func() { writer.Feed.Follow(ctx, own.listener(), time.Hour); followed <- struct{}{} }()
	defer func() { stop(); <-followed; <-followed }()
	await(t, ears, "missed", time.Time{})
	await(t, own, "missed", time.Time{})
	time.Sleep(time.Second) // until both listen
	landed := "landed " + alice + " main"
	claim := func() broker.Row {
		row, err := writer.Connections.Row(t.Context(), alice, "main")
		if err != nil {
			t.Fatal(err)
		}
		change, err := writer.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: rand.Text(), Replica: "r"})
		if err != nil {
			t.Fatal(err)
		}
		return change.Row
	}
	wait := func(flight broker.Row) {
		_, err := reader.Connections.Apply(t.Context(), flight, broker.Claim{Version: flight.Version, Flight: rand.Text(), Replica: "other"})
		if !errors.Is(err, broker.ErrClaimed) {
			t.Fatalf("claiming what another has: %v", err)
		}
	}
	for name, action := range map[string]func(flight broker.Row) broker.Action{
		"a successor": func(flight broker.Row) broker.Action {
			return broker.Commit{Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: grant("next").Tokens, Successor: []byte(rand.Text())}
		},
		"a failure": func(flight broker.Row) broker.Action {
			return broker.Verdict{Flight: flight.FlightID, Presented: flight.Digest, Phase: broker.Ready}
		},
	} {
		t.Run(name, func(t *testing.T) {
			since := time.Now()
			flight := claim()
			time.Sleep(600 * time.Millisecond)
			if ears.heardAfter(landed, since) {
				t.Error("a claim is notified as if it had landed")
			}
			wait(flight)
			time.Sleep(300 * time.Millisecond)
			since = time.Now()
			if _, err := writer.Connections.Apply(t.Context(), flight, action(flight)); err != nil {
				t.Fatal(err)
			}
			await(t, ears, landed, since)
			if took := time.Since(since); took > time.Second {
				t.Errorf("it took %s", took)
			}

			time.Sleep(5 * time.Second) // for the word to be forgotten
			flight, since = claim(), time.Now()
			if _, err := writer.Connections.Apply(t.Context(), flight, action(flight)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(600 * time.Millisecond)
			if ears.heardAfter(landed, since) {
				t.Error("a flight that no replica waits for is notified")
			}
			wait(flight) // it has read the row before that landed
			await(t, ears, landed, since)
		})
	}
}

// A swap that the database refuses is tried once more, since it may have been done, and then its error is told.
func TestASwapThatTheDatabaseRefuses(t *testing.T) {
	for name, forbid := range map[string]string{
		"sqlite":   "CREATE TRIGGER forbidden BEFORE UPDATE ON connections BEGIN SELECT RAISE(ABORT, 'forbidden'); END",
		"postgres": "ALTER TABLE connections ADD CONSTRAINT forbidden CHECK (phase <> 'refreshing')",
	} {
		t.Run(name, func(t *testing.T) {
			address := databases[name](t)
			s := open(t, address, newKeys(t))
			alice := connect(t, s, "alice")
			exec(t, raw(t, address), forbid)
			row, err := s.Connections.Row(t.Context(), alice, "main")
			if err != nil {
				t.Fatal(err)
			}
			before := s.Statements()
			_, err = s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: "f", Replica: "r"})
			if err == nil || !strings.Contains(err.Error(), "forbidden") {
				t.Errorf("got %v, want what the database said", err)
			}
			if sent := s.Statements() - before; sent > 3 {
				t.Errorf("%d statements, want a swap, a look at the row, and another swap", sent)
			}
		})
	}
}
