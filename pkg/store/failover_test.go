package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// The real failover is played by TestPromotions of package torture; here the database only forgets that it
// is settled.
const unsettle = "WITH gone AS (DELETE FROM incarnations) INSERT INTO incarnations (id, settled_at) VALUES ('the former server ' || random(), 1)"

func claimOf(row broker.Row) broker.Claim {
	return broker.Claim{Version: row.Version, Flight: "f", Replica: "r"}
}

// A database that is not settled is neither read nor changed but to bring back what was lost.
func TestADatabaseThatIsNotSettled(t *testing.T) {
	address := pgtest.Database(t)
	s, db := open(t, address, newKeys(t)), raw(t, address)
	alice := connect(t, s, "alice")
	row, err := s.Connections.Row(t.Context(), alice, "main")
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, unsettle)
	elsewhere := row
	elsewhere.Reading.Incarnation = "of the former server"
	for what, try := range map[string]func(context.Context) error{
		"reading":                   func(ctx context.Context) error { _, err := s.Connections.Row(ctx, alice, "main"); return err },
		"reading what is not there": func(ctx context.Context) error { _, err := s.Connections.Row(ctx, alice, "other"); return err },
		"listing":                   func(ctx context.Context) error { _, err := s.Connections.Rows(ctx, alice); return err },
		"claiming a row read before": func(ctx context.Context) error {
			_, err := s.Connections.Apply(ctx, elsewhere, claimOf(row))
			return err
		},
		"disconnecting":     func(ctx context.Context) error { return s.Connections.Disconnect(ctx, alice, "main") },
		"logging in":        func(ctx context.Context) error { _, err := s.Logins.Connect(ctx, grant("bob")); return err },
		"finding a user":    func(ctx context.Context) error { _, err := s.Users.UserByName(ctx, "alice"); return err },
		"finding a session": func(ctx context.Context) error { _, err := s.Sessions.Session(ctx, authn.SessionDigest{1}); return err },
		"sweeping":          func(ctx context.Context) error { _, _, err := s.Connections.Orphans(ctx, broker.Look{}); return err },
		"revoking": func(ctx context.Context) error {
			_, err := s.Outbox.TakeRevocation(ctx, "main", time.Minute)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			err := try(t.Context())
			if err == nil || errors.Is(err, broker.ErrNotConnected) || errors.Is(err, broker.ErrSuperseded) || errors.Is(err, broker.ErrClaimed) || errors.Is(err, authn.ErrUnknown) {
				t.Errorf("got %v, want an outage", err)
			}
		})
	}
	pulse, err := s.Replicas.Beat(t.Context(), broker.Beat{Replica: "r"})
	if err != nil || pulse.Settled {
		t.Fatalf("a heartbeat says that the database is settled: %t, %v", pulse.Settled, err)
	}
	if err := s.Failovers.Settle(t.Context(), "another incarnation"); err != nil {
		t.Fatal(err)
	}
	if pulse, err = s.Replicas.Beat(t.Context(), broker.Beat{Replica: "r", Offered: pulse.Reading.Incarnation}); err != nil || pulse.Settled || !pulse.Offered["r"] {
		t.Errorf("after another incarnation was settled: settled %t, offered %v, %v; want false, true", pulse.Settled, pulse.Offered, err)
	}
	if err := s.Failovers.Settle(t.Context(), pulse.Reading.Incarnation); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connections.Row(t.Context(), alice, "main"); err != nil {
		t.Errorf("once it is settled: %v", err)
	}
	// A swap of a row that was read in another incarnation reads again.
	if change, err := s.Connections.Apply(t.Context(), elsewhere, claimOf(row)); err != nil || change.Row.Version != row.Version+1 {
		t.Errorf("a claim on a row of the former server that has not changed: %v, version %d", err, change.Row.Version)
	}
}

// A connection that leads to the former primary is an outage.
func TestTheFormerPrimary(t *testing.T) {
	s := open(t, pgtest.Database(t), newKeys(t))
	alice := connect(t, s, "alice")
	row, err := s.Connections.Row(t.Context(), alice, "main")
	if err != nil {
		t.Fatal(err)
	}
	system, _, _ := strings.Cut(row.Reading.Incarnation, "/")
	store.Saw(s, system+"/000000FF")
	if _, err := s.Connections.Row(t.Context(), alice, "main"); err == nil {
		t.Error("a server of an earlier timeline is read")
	}
	store.Saw(s, "another system/000000FF")
	if _, err := s.Connections.Row(t.Context(), alice, "main"); err != nil {
		t.Errorf("a server of another system: %v", err)
	}
}

// What replicas had stored comes back, in whatever order they offer it.
func TestRowsComeBack(t *testing.T) {
	address, keys := pgtest.Database(t), newKeys(t)
	s, db := open(t, address, keys), raw(t, address)
	stored, err := s.Logins.Connect(t.Context(), grant("alice"))
	if err != nil {
		t.Fatal(err)
	}
	login := broker.Restore{Row: stored.Change.Row, Person: &broker.Person{UserID: stored.UserID, Identity: grant("alice").Identity}}
	claimed, err := s.Connections.Apply(t.Context(), stored.Change.Row, claimOf(stored.Change.Row))
	if err != nil {
		t.Fatal(err)
	}
	commit := broker.Commit{Flight: "f", Version: claimed.Row.Version, Presented: claimed.Row.Digest, Token: claimed.Row.RefreshToken, Tokens: grant("b").Tokens, Successor: []byte("next")}
	committed, err := s.Connections.Apply(t.Context(), claimed.Row, commit)
	if err != nil {
		t.Fatal(err)
	}
	successor := broker.Restore{Row: committed.Row}
	for name, order := range map[string][]broker.Restore{"as it was": {login, successor}, "the later first": {successor, login, successor}} {
		t.Run(name, func(t *testing.T) {
			exec(t, db, "DELETE FROM connections")
			exec(t, db, "DELETE FROM users")
			exec(t, db, unsettle)
			behind, err := s.Failovers.Behind(t.Context(), []broker.Row{login.Row, successor.Row})
			if diff := cmp.Diff([]int{0, 1}, behind); diff != "" || err != nil {
				t.Errorf("what is behind (-want +got): %s, %v", diff, err)
			}
			for _, lost := range order {
				if err := s.Failovers.Restore(t.Context(), lost); err != nil && !errors.Is(err, broker.ErrNotConnected) && !errors.Is(err, broker.ErrSuperseded) {
					t.Fatal(err)
				}
			}
			if behind, err := s.Failovers.Behind(t.Context(), []broker.Row{login.Row, successor.Row}); len(behind) > 0 || err != nil {
				t.Errorf("behind when all was offered: %v, %v", behind, err)
			}
			settle(t, s)
			row, err := s.Connections.Row(t.Context(), stored.UserID, "main")
			if err != nil || row.RefreshToken != "canary-refresh-b" || row.Version != committed.Row.Version || row.StoredVersion != committed.Row.StoredVersion {
				t.Errorf("got version %d (%d), %v; want the successor's %d (%d)", row.Version, row.StoredVersion, err, committed.Row.Version, committed.Row.StoredVersion)
			}
			found, err := s.Users.UserByName(t.Context(), "alice")
			if err != nil || found.ID != stored.UserID {
				t.Errorf("the user is %q, %v; want the one that the login made", found.ID, err)
			}
		})
	}
}

func settle(t *testing.T, s *store.Store) {
	t.Helper()
	pulse, err := s.Replicas.Beat(t.Context(), broker.Beat{Replica: "r"})
	if err == nil {
		err = s.Failovers.Settle(t.Context(), pulse.Reading.Incarnation)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A record of a spool is offered too, and waits for the row that it belongs to.
func TestASpooledSuccessorComesBack(t *testing.T) {
	address := pgtest.Database(t)
	s, db := open(t, address, newKeys(t)), raw(t, address)
	alice := connect(t, s, "alice")
	row, err := s.Connections.Row(t.Context(), alice, "main")
	if err != nil {
		t.Fatal(err)
	}
	commit := broker.Commit{Flight: "f", Version: row.Version + 1, Presented: row.Digest, Token: row.RefreshToken, Tokens: grant("b").Tokens, Successor: []byte("next")}
	other := commit
	other.Presented = []byte("a token that is not stored yet")
	exec(t, db, unsettle)
	if _, err := s.Failovers.Recommit(t.Context(), alice, "main", other); !errors.Is(err, broker.ErrSuperseded) {
		t.Errorf("a successor of a token that is not there: got %v, want ErrSuperseded", err)
	}
	change, err := s.Failovers.Recommit(t.Context(), alice, "main", commit)
	if err != nil || change.Row.RefreshToken != "canary-refresh-b" {
		t.Errorf("got %v, want it stored", err)
	}
}

// Ends do not come back to life: every replica that heard of one says so again.
func TestEndsComeBack(t *testing.T) {
	address, keys := pgtest.Database(t), newKeys(t)
	writer, reader, db := open(t, address, keys), open(t, address, keys), raw(t, address)
	ears := &ear{heard: map[string]time.Time{}}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { reader.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
	defer func() { stop(); <-followed }()
	await(t, ears, "missed", time.Time{})
	alice, bob, carol := connect(t, writer, "alice"), connect(t, writer, "bob"), connect(t, writer, "carol")
	session := authn.BrowserSession{Digest: authn.SessionDigest{1, 2, 3}, UserID: carol, CreatedAt: time.Now(), SeenAt: time.Now(), EndsAt: time.Now().Add(time.Hour)}
	if err := writer.Sessions.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"revoked", "active"} {
		token := apitoken.Token{ID: id, Kind: apitoken.Personal, UserID: alice, Name: id, CreatedAt: time.Now(), Values: []apitoken.Value{{Digest: apitoken.DigestOf(id), CreatedAt: time.Now()}}}
		if err := writer.APITokens.CreateToken(t.Context(), token, apitoken.Most{All: 9}); err != nil {
			t.Fatal(err)
		}
	}
	revoke := func(token apitoken.Token, now time.Time) (apitoken.Token, error) {
		token.RevokedAt = now
		return token, nil
	}
	_, revoked := writer.APITokens.UpdateToken(t.Context(), "revoked", revoke)
	exec(t, db, "CREATE TABLE before AS SELECT * FROM connections")
	since := time.Now()
	_, sessionEnded := writer.Sessions.EndSessions(t.Context(), "", &session.Digest)
	for _, err := range []error{
		revoked, writer.Connections.Disconnect(t.Context(), alice, "main"), writer.Users.SetDisabled(t.Context(), "bob", true), sessionEnded,
		writer.Users.SetDisabled(t.Context(), "carol", true), writer.Users.SetDisabled(t.Context(), "carol", false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	await(t, ears, "connection "+alice+" main", since)
	await(t, ears, "user bob", since)
	await(t, ears, "user carol", since)
	for name, s := range map[string]*store.Store{"by the one that heard of them": reader, "by the one that did it": writer} {
		t.Run(name, func(t *testing.T) {
			exec(t, db, "DELETE FROM connections")
			exec(t, db, "INSERT INTO connections SELECT * FROM before")
			exec(t, db, "UPDATE users SET disabled_at = NULL")
			exec(t, db, "UPDATE api_tokens SET revoked_at = NULL")
			exec(t, db, "DELETE FROM revocations")
			if err := writer.Sessions.CreateSession(t.Context(), session); err != nil {
				t.Fatal(err)
			}
			exec(t, db, unsettle)
			if err := s.Failovers.RestoreEnds(t.Context(), time.Minute); err != nil {
				t.Fatal(err)
			}
			settle(t, s)
			for id, ended := range map[string]bool{"revoked": true, "active": false} {
				if token, err := s.APITokens.Token(t.Context(), id); err != nil || token.RevokedAt.IsZero() == ended {
					t.Errorf("the API token %q was revoked at %s, %v; want it revoked: %t", id, token.RevokedAt, err, ended)
				}
			}
			row, err := s.Connections.Row(t.Context(), alice, "main")
			if err != nil || row.Phase != broker.Disconnected {
				t.Errorf("the connection that was ended is %s, %v", row.Phase, err)
			}
			revocation, err := s.Outbox.TakeRevocation(t.Context(), "main", time.Minute)
			if err != nil || revocation.Token != secret.Text("canary-refresh-alice") {
				t.Errorf("its token is not to be revoked: %v", err)
			}
			for who, disabled := range map[string]bool{"bob": true, "carol": false} {
				t.Run(who, func(t *testing.T) {
					if found, err := s.Users.UserByName(t.Context(), who); err != nil || found.Disabled != disabled {
						t.Errorf("%s is disabled: %t, %v; want %t", who, found.Disabled, err, disabled)
					}
				})
			}
			if _, err := s.Sessions.Session(t.Context(), session.Digest); !errors.Is(err, authn.ErrUnknown) {
				t.Errorf("the session that was ended: got %v, want ErrUnknown", err)
			}
			if row, err := s.Connections.Row(t.Context(), bob, "main"); err != nil || row.Phase != broker.Ready {
				t.Errorf("a connection that was not ended is %s, %v", row.Phase, err)
			}
		})
	}
}
