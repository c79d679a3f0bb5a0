package broker

import (
	"bytes"
	"sync"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// kept is what this replica stored of late, for as long as a failover may lose it. Tokens are sealed.
type kept struct {
	keys *keyring.Keyring

	mu    sync.Mutex
	rows  map[cacheKey]*keptRow
	queue []queued // in the order of time
}

type keptRow struct {
	restore Restore // without its tokens
	sealed  []byte  // the token of the row
	revoke  [][]byte
	at      time.Time
}

type queued struct {
	key cacheKey
	at  time.Time
}

func keptPlace(row Row) keyring.Place {
	return keyring.Place{Table: "failover", Owner: row.UserID, Part: row.Provider, Column: "token"}
}

// keep notes a change that was stored. The access token is left out where there is a refresh token, which
// brings another.
func (k *kept) keep(change Change, person *Person, separate bool) {
	row := change.Row
	if row.Version == 0 || k.keys == nil {
		return
	}
	one := &keptRow{restore: Restore{Row: row, Person: person, Separate: separate}, at: time.Now()}
	token := row.RefreshToken
	if token == "" {
		token = row.AccessToken
	} else {
		one.restore.Row.AccessIssuedAt, one.restore.Row.AccessExpiresAt = time.Time{}, time.Time{}
	}
	one.restore.Row.RefreshToken, one.restore.Row.AccessToken = "", ""
	if before, ok := k.of(cacheKey{row.UserID, row.Provider}); ok && len(before.sealed) > 0 && len(row.Digest) > 0 && bytes.Equal(row.Digest, before.restore.Row.Digest) {
		one.sealed = before.sealed // the same token: a claim changes none
	} else if token != "" {
		one.sealed = k.keys.Seal([]byte(token), keptPlace(row))
	}
	for _, unwanted := range change.Revoke {
		one.restore.Revoke = append(one.restore.Revoke, Unwanted{Subject: unwanted.Subject})
		one.revoke = append(one.revoke, k.keys.Seal([]byte(unwanted.Token), keptPlace(row)))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := cacheKey{row.UserID, row.Provider}
	if before, ok := k.rows[key]; ok {
		if before.restore.Row.Version > row.Version {
			return
		}
		if one.restore.Person == nil {
			one.restore.Person = before.restore.Person
		}
	}
	k.rows[key] = one
	k.queue = append(k.queue, queued{key, one.at})
}

// open is what was kept of a row, with its tokens.
func (k *kept) open(one *keptRow) (Restore, bool) {
	lost := one.restore
	unseal := func(sealed []byte) (secret.Text, bool) {
		text, err := k.keys.Open(sealed, keptPlace(lost.Row))
		return secret.Text(text), err == nil
	}
	if len(one.sealed) > 0 {
		token, ok := unseal(one.sealed)
		if !ok {
			return lost, false
		}
		if len(lost.Row.Digest) > 0 {
			lost.Row.RefreshToken = token
		} else {
			lost.Row.AccessToken = token
		}
	}
	lost.Revoke = nil
	for i, sealed := range one.revoke {
		if token, ok := unseal(sealed); ok {
			lost.Revoke = append(lost.Revoke, Unwanted{one.restore.Revoke[i].Subject, token})
		}
	}
	return lost, true
}

// of is what was kept of a row.
func (k *kept) of(key cacheKey) (*keptRow, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one, ok := k.rows[key]
	return one, ok
}

// all are the rows that are kept.
func (k *kept) all() (rows []*keptRow) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.rows {
		rows = append(rows, one)
	}
	return rows
}

// prune forgets what was stored longer ago than that. It is called while the database answers: what was
// stored before it fell silent stays.
func (k *kept) prune(window time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	done := 0
	for _, one := range k.queue {
		if time.Since(one.at) <= window {
			break
		}
		if row, ok := k.rows[one.key]; ok && row.at.Equal(one.at) {
			delete(k.rows, one.key)
		}
		done++
	}
	if done > 0 {
		k.queue = append([]queued(nil), k.queue[done:]...)
	}
}
