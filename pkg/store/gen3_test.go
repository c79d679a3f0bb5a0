package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/store/gen3"
	"github.com/workspace-token-service/wts/pkg/store/storetest"
)

const (
	fernetKey  = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
	gen3Issuer = "https://op"
)

// legacy is a database that Gen3's Python service used, and our store on it.
type legacy struct {
	*store.Store
	*store.Users
	url    string
	fernet *keyring.Fernet
	raw    *sql.DB
}

// Connect stores a grant, and returns the user's id and name.
func (l *legacy) Connect(ctx context.Context, grant broker.Grant) (userID, username string, err error) {
	stored, err := l.Logins.Connect(ctx, grant)
	return stored.UserID, stored.Username, err
}

// Connection reads a row.
func (l *legacy) Connection(ctx context.Context, userID, providerID string) (broker.Row, error) {
	return l.Connections.Row(ctx, userID, providerID)
}

// Disconnect leaves a tombstone.
func (l *legacy) Disconnect(ctx context.Context, userID, providerID string) error {
	return l.Connections.Disconnect(ctx, userID, providerID)
}

// Commit ends a flight with tokens.
func (l *legacy) Commit(ctx context.Context, flight broker.Row, tokens provider.Tokens) error {
	commit := broker.Commit{Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: tokens}
	if tokens.RefreshToken != "" {
		commit.Successor = []byte("digest of " + string(tokens.RefreshToken))
	}
	_, err := l.Connections.Apply(ctx, flight, commit)
	return err
}

// Settle ends a flight with the provider's verdict that its grant is dead.
func (l *legacy) Settle(ctx context.Context, flight broker.Row) error {
	verdict := broker.Verdict{Flight: flight.FlightID, Presented: flight.Digest, Token: flight.RefreshToken, Phase: broker.Broken, Reason: "revoked"}
	_, err := l.Connections.Apply(ctx, flight, verdict)
	return err
}

func openLegacy(t *testing.T, url string, statements ...string) *legacy {
	t.Helper()
	fernet, err := keyring.NewFernet(fernetKey)
	if err != nil {
		t.Fatal(err)
	}
	driver, source := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, source = "sqlite", path
	}
	raw, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	l := &legacy{url: url, fernet: fernet, raw: raw}
	for _, statement := range statements {
		l.exec(t, statement)
	}
	l.Store, err = store.Open(store.Config{URL: secret.Text(url), Gen3: gen3.Config{
		EncryptionKey: fernetKey, DefaultProvider: "main", Providers: map[string]bool{"main": true, "other": true, "rotating": false},
	}}, newKeys(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.Users = l.Store.Users
	t.Cleanup(func() { _ = l.Close() })
	if _, err := l.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *legacy) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := l.raw.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// python inserts a row as the Python service does.
func (l *legacy) python(t *testing.T, username, idp, token string, life time.Duration) {
	t.Helper()
	now := time.Now()
	l.exec(t, fmt.Sprintf("INSERT INTO refresh_token (token, jti, username, userid, expires, idp) VALUES ('%s', '%d', '%s', 'sub-%s', %d, '%s')",
		l.fernet.Seal(token, now), now.UnixNano(), username, username, now.Add(life).Unix(), idp))
}

// mirrored are the tokens that the table holds of a user at a provider.
func (l *legacy) mirrored(t *testing.T, username, idp string) (tokens []string) {
	t.Helper()
	rows, err := l.raw.QueryContext(t.Context(), fmt.Sprintf("SELECT token, userid, expires FROM refresh_token WHERE username = '%s' AND idp = '%s'", username, idp))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var sealed, userid string
		var expires int64
		if err := rows.Scan(&sealed, &userid, &expires); err != nil {
			t.Fatal(err)
		}
		token, err := l.fernet.Open(sealed)
		if err != nil || userid == "" || expires > 253402300799 || expires < time.Now().Unix() {
			t.Errorf("a row that Python does not read: %v, %q, %d", err, userid, expires)
		}
		tokens = append(tokens, token)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return tokens
}

// find is the connection of somebody known by name.
func (l *legacy) find(t *testing.T, username, providerID string) (broker.Row, error) {
	t.Helper()
	who, err := l.UserByName(t.Context(), username)
	if err != nil {
		return broker.Row{}, err
	}
	return l.Connection(t.Context(), who.ID, providerID)
}

func (l *legacy) logIn(t *testing.T, username, userID, providerID, refreshToken string) string {
	t.Helper()
	at := time.Now().Truncate(time.Second)
	id, _, err := l.Connect(t.Context(), broker.Grant{
		UserID: userID, Provider: providerID, Identity: provider.Identity{Issuer: gen3Issuer, Subject: "sub-" + username, Username: username},
		Tokens: provider.Tokens{
			RefreshToken: secret.Text(refreshToken), AccessToken: "access", IssuedAt: at, AccessExpiresAt: at.Add(time.Minute), RefreshExpiresAt: at.Add(time.Hour),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// besidePython runs a test on each database with an empty table of Gen3's.
func besidePython(t *testing.T, test func(t *testing.T, l *legacy)) {
	t.Helper()
	for name, fresh := range databases {
		t.Run(name, func(t *testing.T) { test(t, openLegacy(t, fresh(t))) })
	}
}

func TestConformanceBesideGen3sTable(t *testing.T) {
	for name, fresh := range databases {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Store { return conformed(openLegacy(t, fresh(t)).Store) })
		})
	}
}

func TestAFreshDatabaseIsStampedForPython(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		if _, err := l.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		var revision string
		if err := l.raw.QueryRow("SELECT version_num FROM alembic_version").Scan(&revision); err != nil || revision != "3417aec47fe2" {
			t.Errorf(`got %q, %v; want revision "3417aec47fe2"`, revision, err)
		}
		l.python(t, "alice", "default", "r1", time.Hour)
	})
}

func TestWhatPythonWroteIsRead(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		l.python(t, "alice", "default", "older", time.Hour)
		l.python(t, "alice", "default", "newest", 2*time.Hour)
		l.python(t, "alice", "other", "elsewhere", time.Hour)
		l.python(t, "alice", "removed", "nobody's", time.Hour)
		l.python(t, "bob", "default", "gone", -time.Hour)
		l.python(t, "carol", "default", "sealed", time.Hour)
		l.exec(t, "UPDATE refresh_token SET token = 'gAAAAA-sealed-by-another-key' WHERE username = 'carol'")
		found, err := l.find(t, "alice", "main")
		if err != nil || found.RefreshToken != "newest" || found.Phase != broker.Ready || found.AccessToken != "" {
			t.Errorf("alice: %+v, %v", found, err)
		}
		if left := time.Until(found.RefreshExpiresAt); left < 110*time.Minute || left > 2*time.Hour {
			t.Errorf("it ends in %s", left)
		}
		if again, err := l.find(t, "alice", "main"); err != nil || again.Version != found.Version {
			t.Errorf("imported twice: %+v, %v", again, err)
		}
		if found, err := l.find(t, "alice", "removed"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("a provider that is gone: %+v, %v", found, err)
		}
		if found, err := l.find(t, "bob", "main"); err != nil || time.Now().Before(found.RefreshExpiresAt) {
			t.Errorf("bob's has expired: %+v, %v", found, err)
		}
		if found, err := l.find(t, "carol", "main"); err != nil || !found.Unreadable {
			t.Errorf("carol's cannot be read: %+v, %v", found, err)
		}
		if _, err := l.find(t, "nobody", "main"); err == nil {
			t.Error("nobody is known")
		}
		who, err := l.UserBySubject(t.Context(), gen3Issuer, "sub-alice", "alice")
		if err != nil {
			t.Fatal(err)
		}
		all, err := l.Connections.Rows(t.Context(), who.ID)
		if err != nil || len(all) != 2 {
			t.Errorf("all of alice's: %+v, %v", all, err)
		}
		if got := len(l.mirrored(t, "alice", "default")); got != 2 {
			t.Errorf("%d rows are left for the way back", got)
		}
	})
}

func TestOlderFormsAreReadAndNotTouched(t *testing.T) {
	const (
		created = "CREATE TABLE refresh_token (token varchar PRIMARY KEY, jti varchar NOT NULL UNIQUE, username varchar NOT NULL, userid varchar NOT NULL, expires bigint NOT NULL)"
		stamped = "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)"
	)
	row := fmt.Sprintf("INSERT INTO refresh_token (token, jti, username, userid, expires) VALUES ('in-clear', '1', 'alice', 'sub-alice', %d)", time.Now().Add(time.Hour).Unix())
	for name, statements := range map[string][]string{
		"before alembic": {created, row},
		"a38a346e6ded":   {created, stamped, "INSERT INTO alembic_version VALUES ('a38a346e6ded')", row},
		"27833deaf81f": {
			created, stamped, "INSERT INTO alembic_version VALUES ('27833deaf81f')", row,
			"ALTER TABLE refresh_token ADD COLUMN idp varchar NOT NULL DEFAULT 'default'",
		},
	} {
		for database, fresh := range databases {
			t.Run(name+" on "+database, func(t *testing.T) {
				l := openLegacy(t, fresh(t), statements...)
				imported, err := l.Gen3.Import(t.Context())
				if err != nil || imported.Imported != 1 {
					t.Fatalf("got %+v, %v; want imported.Imported 1", imported, err)
				}
				found, err := l.find(t, "alice", "main")
				if err != nil || found.RefreshToken != "in-clear" {
					t.Errorf(`got %+v, %v; want RefreshToken "in-clear"`, found, err)
				}
				who, err := l.UserByName(t.Context(), "alice")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := l.Connection(t.Context(), who.ID, "other"); !errors.Is(err, broker.ErrNotConnected) {
					t.Errorf("another provider: %v", err)
				}
				bob := l.logIn(t, "bob", "", "main", "bobs")
				l.logIn(t, "bob", bob, "other", "bobs-other")
				var count int
				if err := l.raw.QueryRow("SELECT count(*) FROM refresh_token WHERE token = 'in-clear'").Scan(&count); err != nil || count != 1 {
					t.Errorf("the old row: %d, %v", count, err)
				}
				if err := l.raw.QueryRow("SELECT count(*) FROM refresh_token WHERE username = 'bob'").Scan(&count); err != nil || count != 0 {
					t.Errorf("a token was written in clear: %d, %v", count, err)
				}
				if err := l.Disconnect(t.Context(), who.ID, "main"); err != nil {
					t.Error(err)
				}
				if _, err := l.find(t, "alice", "main"); err == nil {
					if found, _ := l.find(t, "alice", "main"); found.Phase != broker.Disconnected {
						t.Errorf("disconnected: %+v", found)
					}
				}
				if err := l.Tidy(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestWhatWeKeepIsMirrored(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		alice := l.logIn(t, "alice", "", "main", "r1")
		l.logIn(t, "alice", "", "main", "r2")
		if got := l.mirrored(t, "alice", "default"); len(got) != 1 || got[0] != "r2" {
			t.Errorf("after two logins: %v", got)
		}
		l.logIn(t, "alice", alice, "rotating", "r3")
		if got := l.mirrored(t, "alice", "rotating"); len(got) != 0 {
			t.Errorf("one that may rotate: %v", got)
		}
		large := strings.Repeat("x", 3000)
		l.logIn(t, "alice", alice, "other", large)
		if got := l.mirrored(t, "alice", "other"); len(got) != 0 {
			t.Error("one that does not fit Python's key")
		}
		if found, err := l.Connection(t.Context(), alice, "other"); err != nil || string(found.RefreshToken) != large {
			t.Errorf("the large one: %v", err)
		}
		l.logIn(t, "alice", alice, "other", "r4")
		found, err := l.Connection(t.Context(), alice, "main")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context(), l.fly(t, found), provider.Tokens{AccessToken: "a2"}); err != nil || len(l.mirrored(t, "alice", "default")) != 1 {
			t.Errorf("a refresh without rotation: %v", err)
		}
		if err := l.Commit(t.Context(), l.fly(t, found), provider.Tokens{AccessToken: "a3", RefreshToken: "r5"}); err != nil || len(l.mirrored(t, "alice", "default")) != 0 {
			t.Errorf("the first rotation: %v", err)
		}
		if err := l.Disconnect(t.Context(), alice, "other"); err != nil || len(l.mirrored(t, "alice", "other")) != 0 {
			t.Errorf("a disconnect: %v", err)
		}
		bob := l.logIn(t, "bob", "", "main", "r6")
		found, err = l.Connection(t.Context(), bob, "main")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Settle(t.Context(), l.fly(t, found)); err != nil || len(l.mirrored(t, "bob", "default")) != 0 {
			t.Errorf("a broken one: %v", err)
		}
	})
}

// During a rollout a Python pod may have been given something newer.
func TestARowThatDoesNotServeLooksAgain(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		spoil := map[string]func(id string){
			"expired": func(id string) {
				l.exec(t, fmt.Sprintf("UPDATE connections SET refresh_expires_at = 1 WHERE user_id = '%s'", id))
				l.exec(t, "DELETE FROM refresh_token")
			},
			"disconnected": func(id string) {
				if err := l.Disconnect(t.Context(), id, "main"); err != nil {
					t.Fatal(err)
				}
			},
			"broken": func(id string) {
				found, err := l.Connection(t.Context(), id, "main")
				if err != nil {
					t.Fatal(err)
				}
				if err := l.Settle(t.Context(), l.fly(t, found)); err != nil {
					t.Fatal(err)
				}
			},
		}
		for name, how := range spoil {
			t.Run(name, func(t *testing.T) {
				id := l.logIn(t, name, "", "main", "ours")
				before, err := l.Connection(t.Context(), id, "main")
				if err != nil {
					t.Fatal(err)
				}
				how(id)
				if found, err := l.Connection(t.Context(), id, "main"); err == nil && found.Phase == broker.Ready && time.Now().Before(found.RefreshExpiresAt) {
					t.Errorf("%s, and nothing newer: %+v", name, found)
				}
				l.python(t, name, "default", "newer", time.Hour)
				found, err := l.Connection(t.Context(), id, "main")
				if err != nil || found.RefreshToken != "newer" || found.Phase != broker.Ready || found.Version <= before.Version {
					t.Errorf(`got %+v, %v; want RefreshToken "newer", Phase broker.Ready, Version > before.Version`, found, err)
				}
			})
		}
		// The very token that was found broken is not taken up again.
		id := l.logIn(t, "dave", "", "main", "dead")
		spoil["broken"](id)
		l.python(t, "dave", "default", "dead", time.Hour)
		if found, err := l.Connection(t.Context(), id, "main"); err != nil || found.Phase != broker.Broken {
			t.Errorf("the dead token: %+v, %v", found, err)
		}
	})
}

func TestWhoSomebodyFromGen3sTableIs(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		l.python(t, "alice", "other", "alices", time.Hour)
		known, err := l.UserByName(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		if id := l.logIn(t, "alice", "", "main", "r1"); id != known.ID {
			t.Error("her first login made another person of her")
		}
		if found, err := l.find(t, "alice", "other"); err != nil || found.RefreshToken != "alices" {
			t.Errorf(`got %+v, %v; want RefreshToken "alices"`, found, err)
		}
		// The name comes back with another subject: another person, who inherits nothing of either table.
		l.python(t, "alice", "rotating", "still alices", time.Hour)
		second, _, err := l.Connect(t.Context(), broker.Grant{
			Provider: "main", Identity: provider.Identity{Issuer: gen3Issuer, Subject: "another", Username: "alice"}, Tokens: provider.Tokens{RefreshToken: "seconds", AccessToken: "a"},
		})
		if err != nil || second == known.ID {
			t.Fatalf("got %s, %v; want second != known.ID", second, err)
		}
		for _, id := range []string{"other", "rotating"} {
			t.Run(id, func(t *testing.T) {
				if found, err := l.Connection(t.Context(), second, id); !errors.Is(err, broker.ErrNotConnected) {
					t.Errorf("got %+v, %v; want broker.ErrNotConnected", found, err)
				}
			})
		}
		if got := l.mirrored(t, "alice", "default"); len(got) != 1 || got[0] != "seconds" {
			t.Errorf("mirrored: %v", got)
		}
		if found, err := l.Connection(t.Context(), known.ID, "rotating"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("whoever was set aside reads by the name: %+v, %v", found, err)
		}
		// A person whose name changes takes their rows along.
		bob := l.logIn(t, "bob", "", "main", "bobs")
		if _, _, err := l.Connect(t.Context(), broker.Grant{
			Provider: "main", Identity: provider.Identity{Issuer: gen3Issuer, Subject: "sub-bob", Username: "robert"}, Tokens: provider.Tokens{RefreshToken: "bobs2", AccessToken: "a"},
		}); err != nil {
			t.Fatal(err)
		}
		if got := l.mirrored(t, "robert", "default"); len(got) != 1 || len(l.mirrored(t, "bob", "default")) != 0 {
			t.Errorf("%s, renamed: %v", bob, got)
		}
	})
}

func TestImportingGen3sTable(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		for i := range 30 {
			l.python(t, fmt.Sprintf("user%d", i), "default", fmt.Sprintf("token%d", i), time.Hour)
		}
		l.python(t, "user1", "other", "elsewhere", time.Hour)
		l.python(t, "user1", "removed", "nowhere", time.Hour)
		l.python(t, "user2", "other", "late", -time.Hour)
		got, err := l.Gen3.Import(t.Context())
		if err != nil || got != (store.Gen3Import{Imported: 31, Ignored: 1}) {
			t.Errorf("got %+v, %v; want (store.Gen3Import{Imported: 31, Ignored: 1})", got, err)
		}
		if got, err = l.Gen3.Import(t.Context()); err != nil || got != (store.Gen3Import{Ignored: 1}) {
			t.Errorf("again: %+v, %v", got, err)
		}
	})
}

func TestManyReadersTakeOverOnce(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		l.python(t, "alice", "default", "r1", time.Hour)
		ids := make([]string, 20)
		var reading sync.WaitGroup
		for i := range ids {
			reading.Go(func() {
				who, err := l.UserByName(context.Background(), "alice")
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = who.ID
				if found, err := l.Connection(context.Background(), who.ID, "main"); err != nil || found.RefreshToken != "r1" || found.Version != 1 {
					t.Errorf(`got %+v, %v; want RefreshToken "r1", Version 1`, found, err)
				}
			})
		}
		reading.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("several people: %v", ids)
			}
		}
	})
}

// rotate is a refresh that brought a successor.
func (l *legacy) rotate(t *testing.T, userID, successor string) {
	t.Helper()
	found, err := l.Connection(t.Context(), userID, "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context(), l.fly(t, found), provider.Tokens{AccessToken: "next", RefreshToken: secret.Text(successor)}); err != nil {
		t.Fatal(err)
	}
}

func (l *legacy) fly(t *testing.T, found broker.Row) broker.Row {
	t.Helper()
	current, err := l.Connection(t.Context(), found.UserID, found.Provider)
	if err != nil {
		t.Fatal(err)
	}
	change, err := l.Connections.Apply(t.Context(), current, broker.Claim{Version: current.Version, Flight: fmt.Sprint(time.Now().UnixNano()), Replica: "r"})
	if err != nil {
		t.Fatal(err)
	}
	return change.Row
}
