package store

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/keyring"
)

// Reencrypted counts the secrets at rest, by what was done about them.
type Reencrypted struct {
	Sealed  int // were sealed again
	Current int // were sealed already with the first key, in the form in use
	Kept    int // do not open with this keyring, and stay as they are
}

// sealed is a column of secrets. Its rows are named by two columns, which are the owner and the part of the place.
type sealed struct{ table, column, owner, part, counter string }

var sealedColumns = []sealed{
	{"connections", "refresh_token", "user_id", "provider", "stored_version"},
	{"connections", "access_token", "user_id", "provider", "stored_version"},
	{"revocations", "token", "id", "provider", "0"},
	{"signing_keys", "private", "id", "''", "0"},
	{"audience_keys", "private", "id", "''", "0"},
	{"audit_chains", "head", "id", "''", "seq"},
	{"audit_chains", "cut", "id", "''", "cut_seq"},
	{"audit_register", "sealed", "'register'", "''", "number"},
}

// sealedValue is one secret of such a column.
type sealedValue struct {
	Owner, Part string
	Counter     int64
	Envelope    []byte
}

// batch is how many secrets are sealed again in one transaction.
const batch = 100

// Reencrypt seals every secret at rest again that is not sealed with the keyring's first key in the form in use,
// beside replicas that serve: a secret that changes meanwhile is left to whom changed it, and no version moves.
// Ended by its context or by an error, it can be run again. It tells told, where that is not nil, how far it is.
func (s *Store) Reencrypt(ctx context.Context, told func(Reencrypted)) (Reencrypted, error) {
	var done Reencrypted
	for _, column := range sealedColumns {
		var last sealedValue
		for more := true; more; {
			var part Reencrypted
			var next sealedValue
			began := time.Now()
			err := s.write(besideRequests(ctx), func(tx *gorm.DB) (err error) {
				part, next, more, err = s.reencrypt(tx, column, last)
				return err
			})
			if err != nil {
				return done, err
			}
			last = next
			done.Sealed, done.Current, done.Kept = done.Sealed+part.Sealed, done.Current+part.Current, done.Kept+part.Kept
			if told != nil {
				told(done)
			}
			if s.dialect == "sqlite" { // its lock is not fair: without a pause those who serve would find none
				select {
				case <-time.After(time.Since(began)):
				case <-ctx.Done():
					return done, ctx.Err()
				}
			}
		}
	}
	return done, nil
}

// reencrypt does a batch of those that follow the last one.
func (s *Store) reencrypt(tx *gorm.DB, of sealed, last sealedValue) (done Reencrypted, next sealedValue, more bool, err error) {
	if (of.table == "signing_keys" || of.table == "audience_keys") && s.dialect == "postgres" { // a change of them writes whole rows
		if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", keysLock).Error; err != nil {
			return done, next, false, err
		}
	}
	var values []sealedValue
	err = tx.Raw("SELECT "+of.owner+" AS owner, "+of.part+" AS part, "+of.counter+" AS counter, "+of.column+" AS envelope FROM "+of.table+
		" WHERE length("+of.column+") > 0 AND ("+of.owner+", "+of.part+") > (?, ?) ORDER BY 1, 2 LIMIT ?",
		last.Owner, last.Part, batch).Scan(&values).Error
	for _, value := range values {
		next = value
		if s.keys.Current(value.Envelope) {
			done.Current++
			continue
		}
		place := keyring.Place{Table: of.table, Owner: value.Owner, Part: value.Part, Column: of.column, Counter: value.Counter}
		text, failed := s.keys.Open(value.Envelope, place)
		if failed != nil {
			done.Kept++
			continue
		}
		err = tx.Exec("UPDATE "+of.table+" SET "+of.column+" = ? WHERE "+of.owner+" = ? AND "+of.part+" = ? AND "+of.counter+" = ? AND "+of.column+" = ?",
			s.keys.Seal(text, place), value.Owner, value.Part, value.Counter, value.Envelope).Error
		if err != nil {
			return done, next, false, err
		}
		done.Sealed++
	}
	return done, next, len(values) == batch, err
}
