package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/store/storetest"
	"github.com/workspace-token-service/wts/test/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// databases are what the tests run against: each gives the URL of an empty one.
var databases = map[string]func(t testing.TB) string{
	"sqlite":   func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "wts test.db") },
	"postgres": func(t testing.TB) string { return pgtest.Database(t) },
}

func newKeys(t testing.TB) *keyring.Keyring {
	t.Helper()
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func open(t testing.TB, url string, keys *keyring.Keyring) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{URL: secret.Text(url)}, keys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

type tokens struct {
	*store.APITokens
	*store.Resources
}

// conformed is a store as the suite wants it.
func conformed(s *store.Store) storetest.Store {
	return storetest.Store{
		Store: s.Connections, LoginStore: s.Logins, Outbox: s.Outbox, Replicas: s.Replicas, Users: s.Users, SessionStore: s.Sessions,
		Keeper: s, Issuer: s.SigningKeys, TokenKeeper: tokens{s.APITokens, s.Resources}, ClaimStore: s.Users, PublisherStore: s.Publishers, GrantStore: s.Grants,
	}
}

func TestConformance(t *testing.T) {
	for name, fresh := range databases {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Store { return conformed(open(t, fresh(t), newKeys(t))) })
		})
	}
	t.Run("form 2", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Store {
			return conformed(open(t, databases["sqlite"](t), inForm2(t, newKeys(t))))
		})
	})
}

func onEach(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	for name, fresh := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

// raw opens the database beside the store, as an intruder or an operator would.
func raw(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, dsn = "sqlite", path
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func grant(name string) broker.Grant {
	at := time.Now()
	return broker.Grant{
		Provider: "main", Identity: provider.Identity{Issuer: "https://op", Subject: "s-" + name, Username: name},
		Tokens: provider.Tokens{
			RefreshToken: secret.Text("canary-refresh-" + name), AccessToken: secret.Text("canary-access-" + name),
			IssuedAt: at, AccessExpiresAt: at.Add(time.Minute),
		},
	}
}

func connect(t *testing.T, s *store.Store, name string) string {
	t.Helper()
	stored, err := s.Logins.Connect(t.Context(), grant(name))
	if err != nil {
		t.Fatal(err)
	}
	return stored.UserID
}

func TestADumpHoldsNothingInClear(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		connect(t, s, "alice")
		signing := issuer.New(issuer.Config{URL: "https://wts"}, s.SigningKeys, time.Now)
		if err := signing.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		dump := dumpOf(t, raw(t, url))
		if !bytes.Contains(dump, []byte("s-alice")) {
			t.Fatal("the dump lacks what is in clear: it is no dump")
		}
		for _, canary := range []string{"canary", "\x30\x81\x87\x02\x01\x00"} {
			t.Run(canary, func(t *testing.T) { // the head of a PKCS #8 P-256 key
				if bytes.Contains(dump, []byte(canary)) {
					t.Errorf("the dump holds %q in clear", canary)
				}
			})
		}
	})
}

// tablesOf are the tables of a database, by its own word: one that is added is looked at too.
func tablesOf(t *testing.T, db *sql.DB) (names []string) {
	t.Helper()
	query := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if _, err := db.ExecContext(t.Context(), "SELECT 1 FROM pg_class LIMIT 1"); err == nil {
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = ANY (current_schemas(false))"
	}
	return textsOf(t, db, query)
}

// textsOf is the first column of a query.
func textsOf(t *testing.T, db *sql.DB, query string) (texts []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return texts
}

// A column of bytes is a secret that is sealed, and sealed again with a new key, or one of those that need not be.
func TestEveryColumnOfBytesIsSealedOrPublic(t *testing.T) {
	public := []string{
		"connections.refresh_digest", "connections.parent_digest", // keyed digests
		"sessions.digest", "login_states.digest", // of random values
		"signing_keys.public", "audience_keys.public",
		"api_token_values.digest", // of 160 random bits
		"audit_entries.digest",    // of entries, which are no secret
	}
	onEach(t, func(t *testing.T, url string) {
		open(t, url, newKeys(t))
		db := raw(t, url)
		query := "SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND upper(c.type) = 'BLOB'"
		if strings.HasPrefix(url, "postgres") {
			query = "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE data_type = 'bytea' AND table_schema = ANY (current_schemas(false))"
		}
		columns := textsOf(t, db, query)
		if len(columns) < len(public) {
			t.Fatalf("got the columns %v, want at least %v", columns, public)
		}
		for _, column := range columns {
			if !slices.Contains(public, column) && !slices.Contains(store.Sealed(), column) {
				t.Errorf("%s is neither sealed again by Reencrypt nor known to be no secret", column)
			}
		}
	})
}

// dumpOf is every value of every table of ours.
func dumpOf(t *testing.T, db *sql.DB) []byte {
	t.Helper()
	var dump bytes.Buffer
	for _, table := range tablesOf(t, db) {
		rows, err := db.QueryContext(t.Context(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		columns, _ := rows.Columns()
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(sql.RawBytes)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for _, value := range values {
				dump.Write(*value.(*sql.RawBytes))
				dump.WriteByte('\n')
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		_ = rows.Close()
	}
	return dump.Bytes()
}

func TestACiphertextCopiedToAnotherRowDoesNotOpen(t *testing.T) {
	for name, theft := range map[string]string{
		"another user":   "UPDATE connections SET refresh_token = (SELECT refresh_token FROM connections WHERE subject = 's-alice') WHERE subject = 's-mallory'",
		"another column": "UPDATE connections SET access_token = refresh_token WHERE subject = 's-mallory'",
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, url string) {
				s := open(t, url, newKeys(t))
				connect(t, s, "alice")
				mallory := connect(t, s, "mallory")
				exec(t, raw(t, url), theft)
				got, err := s.Connections.Row(t.Context(), mallory, "main")
				if err != nil {
					t.Fatal(err)
				}
				if !got.Unreadable || strings.Contains(string(got.RefreshToken)+string(got.AccessToken), "alice") {
					t.Errorf("unreadable: %v", got.Unreadable)
				}
			})
		})
	}
}

func TestAWrongKeyDestroysNothing(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		right := newKeys(t)
		s := open(t, url, right)
		alice := connect(t, s, "alice")
		signing := issuer.New(issuer.Config{URL: "https://wts"}, s.SigningKeys, time.Now)
		if err := signing.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		before := dumpOf(t, raw(t, url))

		wrong := open(t, url, newKeys(t))
		if got, err := wrong.Connections.Row(t.Context(), alice, "main"); err != nil || !got.Unreadable {
			t.Errorf("read with a wrong key: unreadable %v, %v", got.Unreadable, err)
		}
		if unreadable, total, err := wrong.Unreadable(t.Context()); err != nil || unreadable != 1 || total != 1 {
			t.Errorf("unreadable %d of %d, %v; want 1 of 1", unreadable, total, err)
		}
		mistaken := issuer.New(issuer.Config{URL: "https://wts"}, wrong.SigningKeys, time.Now)
		if err := mistaken.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := mistaken.Mint(issuer.Request{Audience: "none"}); err == nil {
			t.Error("minted")
		}
		if mistaken.Sealed() != 1 {
			t.Errorf("%d keys are said not to open, want 2", mistaken.Sealed())
		}
		if err := wrong.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := dumpOf(t, raw(t, url)); !bytes.Equal(before, after) {
			t.Error("the database changed under the wrong key")
		}
		again := open(t, url, right)
		if got, err := again.Connections.Row(t.Context(), alice, "main"); err != nil || got.RefreshToken != "canary-refresh-alice" {
			t.Errorf("with the right key again: %v", err)
		}
	})
}

// Tokens that do not change are not sealed again, and a disconnect deletes even those that the keyring at hand does
// not open.
func TestWhenSealedTokensChange(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		s := open(t, url, keys)
		alice := connect(t, s, "alice")
		db := raw(t, url)
		sealed := func() (refresh, access []byte) {
			t.Helper()
			if err := db.QueryRowContext(t.Context(), "SELECT refresh_token, access_token FROM connections").Scan(&refresh, &access); err != nil {
				t.Fatal(err)
			}
			return refresh, access
		}
		refresh, access := sealed()
		row, err := s.Connections.Row(t.Context(), alice, "main")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: "f", Replica: "r"}); err != nil {
			t.Fatal(err)
		}
		if again, other := sealed(); !bytes.Equal(refresh, again) || !bytes.Equal(access, other) {
			t.Error("a claim has sealed the tokens again")
		}
		other := open(t, url, newKeys(t))
		bare := grant("alice")
		bare.Tokens.RefreshToken = ""
		if _, err := other.Logins.Connect(t.Context(), bare); err != nil {
			t.Fatal(err)
		}
		if again, access := sealed(); len(again) > 0 || len(access) == 0 {
			t.Errorf("a login without a refresh token leaves %d bytes of one that cannot be read", len(again))
		}
		connect(t, s, "alice")
		if err := other.Connections.Disconnect(t.Context(), alice, "main"); err != nil {
			t.Fatal(err)
		}
		if refresh, access = sealed(); len(refresh)+len(access) > 0 {
			t.Errorf("a disconnect leaves %d bytes of tokens that it cannot read", len(refresh)+len(access))
		}
	})
}

// SQLite serves one process, so that there is no other that could come back with a successor.
func TestWhoIsAlone(t *testing.T) {
	for name, want := range map[string]bool{"sqlite": true, "postgres": false} {
		t.Run(name, func(t *testing.T) {
			if got := open(t, databases[name](t), newKeys(t)).Alone(); got != want {
				t.Errorf("alone %t, want %t", got, want)
			}
		})
	}
}

func TestManyStartersMigrateOnce(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		var applied sync.Map
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				s, err := store.Open(store.Config{URL: secret.Text(url)}, newKeys(t), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				n, err := s.Migrate(context.Background())
				if err != nil {
					t.Error(err)
				}
				applied.Store(i, n)
			})
		}
		all.Wait()
		sum := 0
		applied.Range(func(_, n any) bool { sum += n.(int); return true })
		if sum != 12 {
			t.Errorf("%d migrations were applied in all, want 12", sum)
		}
	})
}

func TestASchemaOfALaterVersion(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		s := open(t, url, keys)
		exec(t, raw(t, url), "UPDATE wts_schema SET oldest = 1000")
		if _, err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "later version") {
			t.Errorf("got %v, want a refusal that says why", err)
		}
	})
}

// ear notes what a listener hears.
type ear struct {
	mu    sync.Mutex
	heard map[string]time.Time
}

func (e *ear) hear(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard[what] = time.Now()
}

func (e *ear) listener() store.Listener {
	return store.Listener{
		Connection: func(user, provider string) { e.hear("connection " + user + " " + provider) },
		Landed:     func(user, provider string) { e.hear("landed " + user + " " + provider) },
		User:       func(_, name string) { e.hear("user " + name) },
		Session:    func(digest string) { e.hear("session " + digest) },
		Keys:       func(context.Context) { e.hear("keys") },
		Missed:     func(context.Context) { e.hear("missed") },
	}
}

func (e *ear) heardAfter(what string, since time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[what].After(since)
}

func TestOneReplicaHearsOfAnothersChanges(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		writer, reader := open(t, url, keys), open(t, url, keys)
		ears := &ear{heard: map[string]time.Time{}}
		ctx, stop := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { reader.Feed.Follow(ctx, ears.listener(), time.Minute) })
		defer following.Wait()
		defer stop()
		await(t, ears, "missed", time.Time{}) // what was before it began
		begun := time.Now()

		alice := connect(t, writer, "alice")
		await(t, ears, "connection "+alice+" main", time.Time{})
		await(t, ears, "user alice", time.Time{})
		since := time.Now()
		if err := writer.Connections.Disconnect(t.Context(), alice, "main"); err != nil {
			t.Fatal(err)
		}
		await(t, ears, "connection "+alice+" main", since)
		if err := issuer.New(issuer.Config{URL: "https://wts"}, writer.SigningKeys, time.Now).Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, ears, "keys", time.Time{})
		if ears.heardAfter("missed", begun) {
			t.Error("it thinks that it missed something")
		}
	})
}

// await waits for at most the five seconds within which every replica has to know (security.md B7).
func await(t *testing.T, ears *ear, what string, since time.Time) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ears.heardAfter(what, since) {
			return
		}
	}
	t.Errorf("%s: not heard within 5 s", what)
}

func TestADatabaseThatIsDown(t *testing.T) {
	s, err := store.Open(store.Config{URL: "postgres://wts:hunter2@127.0.0.1:1/wts"}, newKeys(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for what, err := range map[string]error{
		"migrating": func() error { _, err := s.Migrate(t.Context()); return err }(),
		"reading":   func() error { _, err := s.Connections.Row(t.Context(), "u", "p"); return err }(),
		"ping":      s.Ping(t.Context()),
	} {
		t.Run(what, func(t *testing.T) {
			if err == nil || strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("got %v; want an error without the password", err)
			}
		})
	}
	if s.Reached() {
		t.Error("it says that it reached the database")
	}
}

func TestConfigFaults(t *testing.T) {
	for url, want := range map[string]string{
		"":                        "database.url: is missing",
		"mysql://x":               "must begin with",
		"sqlite:":                 "names no file",
		"postgres://u:p@h:5432/d": "",
		"sqlite:wts.db":           "",
	} {
		t.Run(url, func(t *testing.T) {
			err := store.Config{URL: secret.Text(url)}.Validate()
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	if _, err := store.Open(store.Config{URL: "postgres://u:p%zz@h/d"}, newKeys(t), slog.Default()); err == nil || strings.Contains(err.Error(), "p%zz") {
		t.Errorf("a URL that cannot be read: got %v, want an error without the password", err)
	}
}

// A connection that its provider refuses for a day, while others are served, is ailing.
func TestWhoIsAiling(t *testing.T) {
	onEach(t, func(t *testing.T, address string) {
		s, db := open(t, address, newKeys(t)), raw(t, address)
		alice := connect(t, s, "alice")
		for _, each := range []struct {
			what   string
			since  time.Duration
			served bool // another, since then
			ailing bool
		}{
			{what: "for more than a day, and nobody is served", since: 25 * time.Hour},
			{what: "it does not fail", served: true},
			{what: "for an hour", since: time.Hour, served: true},
			{what: "for more than a day", since: 25 * time.Hour, served: true, ailing: true},
		} {
			t.Run(each.what, func(t *testing.T) {
				since := "NULL"
				if each.since > 0 {
					since = fmt.Sprint(time.Now().Add(-each.since).UnixMilli())
				}
				exec(t, db, "UPDATE connections SET failure = '400 invalid_request', failing_since = "+since+" WHERE user_id = '"+alice+"'")
				if each.served {
					connect(t, s, "bob")
				}
				listed, err := s.Connections.List(t.Context(), store.ConnectionFilter{Username: "alice"})
				if err != nil || len(listed) != 1 || listed[0].Ailing != each.ailing || listed[0].Failure != "400 invalid_request" {
					t.Errorf("got %+v, %v; want ailing %t", listed, err, each.ailing)
				}
			})
		}
	})
}

// The file of the embedded database is for its owner alone, and so are those beside it.
func TestSQLiteFilesAreTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wts.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil { // as a former version made it
		t.Fatal(err)
	}
	open(t, "sqlite:"+path, newKeys(t))
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o, %v", file.Name(), info.Mode().Perm(), err)
		}
	}
}

// After a flood of anonymous logins the janitor gets done, writers get their turn meanwhile, and a table
// that fails keeps no other from being tidied.
func TestTidyingAfterAFlood(t *testing.T) {
	for name, database := range databases {
		t.Run(name, func(t *testing.T) {
			url := database(t)
			db := open(t, url, newKeys(t))
			beside := raw(t, url)
			blob := map[string]string{"sqlite": "CAST(n AS BLOB)", "postgres": "decode(md5(n::text), 'hex')"}[name]
			exec(t, beside, "INSERT INTO login_states (digest, expires_at) WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000) SELECT "+blob+", 1 FROM numbers")
			exec(t, beside, "DROP TABLE sessions")
			done := make(chan error, 1)
			go func() { done <- db.Tidy(t.Context()) }()
			left := func() (rows int) {
				if err := beside.QueryRowContext(t.Context(), "SELECT count(*) FROM login_states WHERE expires_at = 1").Scan(&rows); err != nil {
					t.Fatal(err)
				}
				return rows
			}
			between := 0 // how often some were deleted and some not
			for written := 0; ; written++ {
				if rows := left(); rows > 0 && rows < 50_000 {
					between++
				}
				began := time.Now()
				if err := db.Logins.UseState(t.Context(), []byte(fmt.Sprint("a good login ", written)), time.Minute); err != nil {
					t.Fatalf("a login meanwhile, after %s: %v", time.Since(began), err)
				}
				select {
				case err := <-done:
					if err == nil || !strings.Contains(err.Error(), "sessions") || strings.Contains(err.Error(), "login_states") {
						t.Errorf("tidying says %v", err)
					}
					if rows := left(); rows > 0 || between < 2 {
						t.Errorf("%d expired rows are left, and the batches were seen %d times", rows, between)
					}
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}
