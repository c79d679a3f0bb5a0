package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// row inserts a row that Python wrote of an account there under a name here.
func (l *legacy) row(t *testing.T, username, account, idp, token string) {
	t.Helper()
	l.python(t, username, idp, token, time.Hour)
	l.exec(t, fmt.Sprintf("UPDATE refresh_token SET userid = '%s' WHERE username = '%s' AND idp = '%s'", account, username, idp))
}

func (l *legacy) logInAs(t *testing.T, username, subject, refreshToken string) (string, error) {
	t.Helper()
	id, _, err := l.Connect(t.Context(), broker.Grant{
		Provider: "main", Identity: provider.Identity{Issuer: gen3Issuer, Subject: subject, Username: username},
		Tokens: provider.Tokens{RefreshToken: secret.Text(refreshToken), AccessToken: "access", RefreshExpiresAt: time.Now().Add(time.Hour)},
	})
	return id, err
}

func TestADisconnectHoldsForWhatWasNeverImported(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		alice := l.logIn(t, "alice", "", "main", "r1")
		for range 2 { // the second time over a tombstone, and what a Python pod wrote since
			l.python(t, "alice", "other", "pythons", time.Hour)
			if err := l.Disconnect(t.Context(), alice, "other"); err != nil {
				t.Fatal(err)
			}
			if found, err := l.Connection(t.Context(), alice, "other"); err != nil || found.Phase != broker.Disconnected {
				t.Errorf("got %+v, %v; want Phase broker.Disconnected", found, err)
			}
		}
		if err := l.Disconnect(t.Context(), alice, "other"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("once more: %v", err)
		}
	})
}

// Python stored whatever account logged in under whatever name had been logged in before.
func TestNobodyGetsAnothersRow(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		// dave is known, and on a Python pod he logged in at the provider as alice.
		dave := l.logIn(t, "dave", "", "main", "daves")
		if err := l.Disconnect(t.Context(), dave, "main"); err != nil {
			t.Fatal(err)
		}
		l.row(t, "dave", "sub-alice", "default", "alices")
		if found, err := l.Connection(t.Context(), dave, "main"); err != nil || found.Phase != broker.Disconnected {
			t.Errorf("dave has alice's: %+v, %v", found, err)
		}
		// The name bob is another person's by now.
		l.row(t, "bob", "sub-old-bob", "default", "old-bobs")
		l.row(t, "bob", "old-bob-there", "other", "old-bobs-other")
		if _, err := l.UserBySubject(t.Context(), gen3Issuer, "sub-new-bob", "bob"); !errors.Is(err, authn.ErrUnknown) {
			t.Errorf("the new bob's bearer: %v", err)
		}
		bob, err := l.logInAs(t, "bob", "sub-new-bob", "new-bobs")
		if err != nil {
			t.Fatal(err)
		}
		if found, err := l.Connection(t.Context(), bob, "other"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("the new bob has the old one's: %+v, %v", found, err)
		}
		// Somebody of whom only the name was known, and whom it turns out to be another's.
		l.row(t, "erin", "sub-old-erin", "default", "old-erins")
		l.row(t, "erin", "old-erin-there", "other", "old-erins-other")
		old, err := l.UserByName(t.Context(), "erin")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Connection(t.Context(), old.ID, "other"); err != nil {
			t.Fatal(err)
		}
		erin, err := l.logInAs(t, "erin", "sub-new-erin", "new-erins")
		if err != nil || erin == old.ID {
			t.Fatalf("got %s, %v; want erin != old.ID", erin, err)
		}
		if found, err := l.Connection(t.Context(), erin, "other"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("the new erin has the old one's: %+v, %v", found, err)
		}
		// xena takes the name carl, whose rows are another's.
		l.row(t, "carl", "sub-carl", "default", "carls")
		l.row(t, "carl", "carl-there", "other", "carls-other")
		xena := l.logIn(t, "xena", "", "main", "xenas")
		if _, err := l.logInAs(t, "carl", "sub-xena", "xenas2"); err != nil {
			t.Fatal(err)
		}
		if found, err := l.Connection(t.Context(), xena, "other"); !errors.Is(err, broker.ErrNotConnected) {
			t.Errorf("xena has carl's: %+v, %v", found, err)
		}
	})
}

func TestAnImportedAccountIsAnAccount(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		alice := l.logIn(t, "alice", "", "main", "r1")
		l.row(t, "alice", "account-a", "other", "a-refresh")
		if found, err := l.Connection(t.Context(), alice, "other"); err != nil || found.Subject != "account-a" {
			t.Fatalf(`got %+v, %v; want Subject "account-a"`, found, err)
		}
		other := broker.Grant{UserID: alice, Provider: "other", Identity: provider.Identity{Issuer: "i", Subject: "account-b"}, Tokens: provider.Tokens{AccessToken: "b-access"}}
		if _, _, err := l.Connect(t.Context(), other); !errors.Is(err, broker.ErrOtherAccount) {
			t.Errorf("another account's tokens beside the first one's: %v", err)
		}
		l.exec(t, "UPDATE connections SET refresh_expires_at = 1 WHERE provider = 'other'")
		l.exec(t, "DELETE FROM refresh_token")
		other.Tokens.RefreshToken = "b-refresh"
		if _, _, err := l.Connect(t.Context(), other); err != nil {
			t.Errorf("once the first has expired: %v", err)
		}
	})
}

// A take-over that meets a login must not put the older grant over the newer.
func TestATakeOverBesideALogin(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		for turn := range 15 {
			name := fmt.Sprint("user", turn)
			id := l.logIn(t, name, "", "main", "r1")
			l.python(t, name, "other", "old", time.Hour)
			var all sync.WaitGroup
			all.Go(func() {
				_, _, err := l.Connect(context.Background(), broker.Grant{
					UserID: id, Provider: "other", Identity: provider.Identity{Issuer: "i", Subject: "sub-" + name},
					Tokens: provider.Tokens{RefreshToken: "new", AccessToken: "a", RefreshExpiresAt: time.Now().Add(time.Hour)},
				})
				if err != nil {
					t.Error(err)
				}
			})
			for range 3 {
				all.Go(func() { _, _ = l.Connection(context.Background(), id, "other") })
			}
			all.Wait()
			if found, err := l.Connection(t.Context(), id, "other"); err != nil || found.RefreshToken != "new" {
				t.Fatalf("turn %d: %+v, %v", turn, found, err)
			}
		}
	})
}

func TestWhatARotatingProviderGaveBeforeIsForgotten(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		alice := l.logIn(t, "alice", "", "main", "r1")
		l.python(t, "alice", "rotating", "old", time.Hour)
		l.logIn(t, "alice", alice, "rotating", "new")
		if got := l.mirrored(t, "alice", "rotating"); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	})
}

// A role that may not delete from Python's table loses no rotation for it.
func TestHousekeepingThatFailsUndoesNothing(t *testing.T) {
	l := openLegacy(t, databases["postgres"](t))
	alice := l.logIn(t, "alice", "", "main", "r1")
	l.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not allowed''; END'`)
	l.exec(t, "CREATE TRIGGER refuse BEFORE DELETE ON refresh_token FOR EACH ROW EXECUTE FUNCTION refuse()")
	l.rotate(t, alice, "r2")
	if found, err := l.Connection(t.Context(), alice, "main"); err != nil || found.RefreshToken != "r2" {
		t.Errorf(`got %+v, %v; want RefreshToken "r2"`, found, err)
	}
}

func TestSomebodyWhomOnlyGen3sTableKnowsIsDisabled(t *testing.T) {
	besidePython(t, func(t *testing.T, l *legacy) {
		l.python(t, "bob", "default", "bobs", time.Hour)
		if err := l.SetDisabled(t.Context(), "bob", true); err != nil {
			t.Fatal(err)
		}
		if who, err := l.UserByName(t.Context(), "bob"); err != nil || !who.Disabled {
			t.Errorf("got %+v, %v; want who.Disabled", who, err)
		}
		if err := l.SetDisabled(t.Context(), "nobody", true); !errors.Is(err, authn.ErrUnknown) {
			t.Errorf("nobody: %v", err)
		}
	})
}

// What another key sealed is never taken for a token in clear, whatever the table's age seems to be.
func TestASealedTokenIsNeverPresented(t *testing.T) {
	another, err := keyring.NewFernet("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		t.Fatal(err)
	}
	besidePython(t, func(t *testing.T, l *legacy) {
		l.exec(t, "UPDATE alembic_version SET version_num = '27833deaf81f'")
		l.exec(t, fmt.Sprintf("INSERT INTO refresh_token (token, jti, username, userid, expires, idp) VALUES ('%s', '1', 'alice', 'sub-alice', %d, 'default')",
			another.Seal("alices", time.Now()), time.Now().Add(time.Hour).Unix()))
		if found, err := l.find(t, "alice", "main"); err != nil || !found.Unreadable || found.RefreshToken != "" {
			t.Errorf("got %+v, %v; want Unreadable, no RefreshToken", found, err)
		}
	})
}
