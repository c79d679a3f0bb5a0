package store_test

import (
	"bytes"
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
)

func inForm2(t testing.TB, keys *keyring.Keyring) *keyring.Keyring {
	t.Helper()
	changed, err := keys.WithForm(keyring.Form2)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// formsAtRest counts the sealed values of every column by their form.
func formsAtRest(t *testing.T, db *sql.DB) map[byte]int {
	t.Helper()
	found := map[byte]int{}
	for _, column := range []string{"connections.refresh_token", "connections.access_token", "revocations.token", "signing_keys.private"} {
		table, name, _ := strings.Cut(column, ".")
		rows, err := db.QueryContext(t.Context(), "SELECT "+name+" FROM "+table+" WHERE length("+name+") > 0")
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var envelope []byte
			if err := rows.Scan(&envelope); err != nil {
				t.Fatal(err)
			}
			found[envelope[0]]++
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		_ = rows.Close()
	}
	return found
}

func reencrypt(t *testing.T, s *store.Store, want store.Reencrypted) {
	t.Helper()
	got, err := s.Reencrypt(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Rule D8: everything at rest goes to the new form and back, in batches, and every secret is the same after.
func TestReencrypt(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		const people = 130 // more than a batch
		keys := newKeys(t)
		old, fresh := open(t, url, keys), open(t, url, inForm2(t, keys))
		users := map[string]string{}
		for i := range people {
			name := "user" + string(rune('a'+i/26)) + string(rune('a'+i%26))
			users[name] = connect(t, old, name)
		}
		gone := connect(t, old, "gone")
		if err := old.Connections.Disconnect(t.Context(), gone, "main"); err != nil { // its token is to be revoked
			t.Fatal(err)
		}
		signing := issuer.New(issuer.Config{URL: "https://wts"}, old.SigningKeys, time.Now)
		if err := signing.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		db := raw(t, url)
		all := formsAtRest(t, db)[keyring.Form1]
		if all < 2*people+2 {
			t.Fatalf("%d secrets in form 1", all)
		}
		versions := versionsOf(t, db)
		all2 := map[byte]int{keyring.Form2: all}
		reencrypt(t, fresh, store.Reencrypted{Sealed: all})
		reencrypt(t, fresh, store.Reencrypted{Current: all})
		if diff := cmp.Diff(all2, formsAtRest(t, db)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		same := func(s *store.Store) {
			t.Helper()
			for name, id := range users {
				row, err := s.Connections.Row(t.Context(), id, "main")
				if err != nil || string(row.RefreshToken) != "canary-refresh-"+name || string(row.AccessToken) != "canary-access-"+name {
					t.Fatalf("%s: %q, %q, %v", name, row.RefreshToken, row.AccessToken, err)
				}
			}
		}
		same(old)
		reencrypt(t, old, store.Reencrypted{Sealed: all})
		same(fresh)
		reencrypt(t, fresh, store.Reencrypted{Sealed: all})
		if diff := cmp.Diff(versions, versionsOf(t, db)); diff != "" {
			t.Errorf("versions moved (-want +got)\n%s", diff)
		}
		keysAgain := issuer.New(issuer.Config{URL: "https://wts"}, fresh.SigningKeys, time.Now)
		if err := keysAgain.Maintain(t.Context()); err != nil || keysAgain.Sealed() != 0 {
			t.Errorf("%d signing keys do not open, %v", keysAgain.Sealed(), err)
		}
		taken, err := fresh.Outbox.TakeRevocation(t.Context(), "main", time.Minute)
		if err != nil || taken.Token != "canary-refresh-gone" {
			t.Errorf("what is to be revoked is %q, %v", taken.Token, err)
		}
	})
}

func versionsOf(t *testing.T, db *sql.DB) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	rows, err := db.QueryContext(t.Context(), "SELECT user_id, version FROM connections")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var version int64
		if err := rows.Scan(&id, &version); err != nil {
			t.Fatal(err)
		}
		found[id] = version
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// A new first key is taken up, and what the keyring does not open is counted and kept.
func TestReencryptForANewKey(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		text := keyring.Generate(time.Now())
		parse := func(text string) *keyring.Keyring {
			keys, err := keyring.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return keys
		}
		s := open(t, url, parse(text))
		alice := connect(t, s, "alice")
		strangers := open(t, url, newKeys(t))
		mallory := connect(t, strangers, "mallory")
		db := raw(t, url)
		sealedFor := func(user string) (refresh []byte) {
			if err := db.QueryRowContext(t.Context(), "SELECT refresh_token FROM connections WHERE user_id = $1", user).Scan(&refresh); err != nil {
				t.Fatal(err)
			}
			return refresh
		}
		foreign := sealedFor(mallory)

		lines := strings.SplitAfter(text, "\n")
		newer := strings.SplitAfter(keyring.Generate(time.Now()), "\n")
		at := len(lines) - 3 // the sealing key, the digest key, and what follows the last line's end
		both := strings.Join(lines[:at], "") + newer[at] + lines[at] + lines[at+1]
		reencrypt(t, open(t, url, parse(both)), store.Reencrypted{Sealed: 2, Kept: 2})
		alone := open(t, url, parse(newer[at]+lines[at+1]))
		if row, err := alone.Connections.Row(t.Context(), alice, "main"); err != nil || row.RefreshToken != "canary-refresh-alice" {
			t.Errorf("with the new key alone: %q, %v", row.RefreshToken, err)
		}
		if kept := sealedFor(mallory); !bytes.Equal(kept, foreign) {
			t.Error("what the keyring does not open was changed")
		}
	})
}

// Replicas go on to rotate while everything is sealed again: none of their tokens is put back.
func TestReencryptBesideRotations(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		both := []*store.Store{open(t, url, keys), open(t, url, inForm2(t, keys))}
		alice := connect(t, both[0], "alice")
		var all sync.WaitGroup
		stop := make(chan struct{})
		for _, s := range both {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.Reencrypt(t.Context(), nil); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		last := "canary-refresh-alice"
		for i := range 40 {
			s := both[i%2]
			next := last
			if i%3 > 0 { // else the provider does not rotate, and only the access token is new
				next = "refresh-" + time.Now().Format(time.RFC3339Nano)
			}
			rotate(t, s, keys, alice, next)
			last = next
			for form, reader := range both {
				row, err := reader.Connections.Row(t.Context(), alice, "main")
				if err != nil || row.Unreadable || string(row.RefreshToken) != last || row.AccessToken != "access" {
					t.Fatalf("rotation %d, read by replica %d: %q, %q, %v; want %q", i, form, row.RefreshToken, row.AccessToken, err, last)
				}
			}
		}
		close(stop)
		all.Wait()
	})
}

// A rotation of the signing keys that began before does not put old seals back: it writes whole rows.
func TestReencryptBesideARotationOfSigningKeys(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		old, fresh := open(t, url, keys), open(t, url, inForm2(t, keys))
		if err := issuer.New(issuer.Config{URL: "https://wts"}, old.SigningKeys, time.Now).Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		err := old.SigningKeys.UpdateSigningKeys(t.Context(), func(present []issuer.Key, _ time.Time) ([]issuer.Key, error) {
			all.Go(func() {
				if _, err := fresh.Reencrypt(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(500 * time.Millisecond) // for it to come as far as it can
			for i := range present {
				present[i].TokenLife += time.Minute
			}
			return present, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if forms := formsAtRest(t, raw(t, url)); forms[keyring.Form1] > 0 || forms[keyring.Form2] == 0 {
			t.Errorf("so many secrets of each form: %v, want form 2 alone", forms)
		}
	})
}

// rotate refreshes a connection, as the engine does.
func rotate(t *testing.T, s *store.Store, keys *keyring.Keyring, user, to string) {
	t.Helper()
	row, err := s.Connections.Row(t.Context(), user, "main")
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := s.Connections.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: "f" + to, Replica: "r"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Connections.Apply(t.Context(), claimed.Row, broker.Commit{
		Flight: "f" + to, Version: claimed.Row.Version, Presented: row.Digest, Successor: keys.Digest(to),
		Tokens: provider.Tokens{RefreshToken: secret.Text(to), AccessToken: "access", AccessExpiresAt: time.Now().Add(time.Minute)},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Rule D8: an older ciphertext of the same row does not open, and neither does one of the same grant from before a
// refresh that did not rotate.
func TestAnOlderCiphertextOfTheRowDoesNotOpen(t *testing.T) {
	for name, next := range map[string]string{"rotated": "the next", "not rotated": "canary-refresh-alice"} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, url string) {
				keys := inForm2(t, newKeys(t))
				s := open(t, url, keys)
				alice := connect(t, s, "alice")
				db := raw(t, url)
				var refresh, access []byte
				if err := db.QueryRowContext(t.Context(), "SELECT refresh_token, access_token FROM connections").Scan(&refresh, &access); err != nil {
					t.Fatal(err)
				}
				rotate(t, s, keys, alice, next)
				if row, err := s.Connections.Row(t.Context(), alice, "main"); err != nil || row.Unreadable || string(row.RefreshToken) != next {
					t.Fatalf("%q, unreadable %t, %v", row.RefreshToken, row.Unreadable, err)
				}
				for column, envelope := range map[string][]byte{"refresh_token": refresh, "access_token": access} {
					t.Run(column, func(t *testing.T) {
						if _, err := db.ExecContext(t.Context(), "UPDATE connections SET "+column+" = $1", envelope); err != nil {
							t.Fatal(err)
						}
						row, err := s.Connections.Row(t.Context(), alice, "main")
						if err != nil || !row.Unreadable {
							t.Errorf("an older %s opens, %v", column, err)
						}
					})
				}
			})
		})
	}
}
