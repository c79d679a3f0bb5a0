package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

// expired says which rows of a table have expired.
type expired struct {
	table, condition string
	offset           time.Duration // of the time that the condition compares with
}

// spentKept is how long it is known after its end that a code was used, so that one who uses it again is noticed.
const spentKept = 10 * time.Minute

// tidyBatch is how many rows one statement deletes: a flood of them must not hold SQLite's only write lock
// until the statement's time is over, again and again, and delete nothing.
const tidyBatch = 2000

// Tidy deletes what has expired: sessions, login states, lines of the change feed. Any replica may
// call it at any time. What fails in one table keeps no other from being tidied.
func (s *Store) Tidy(ctx context.Context) error {
	var faults []error
	for _, one := range []expired{
		{"sessions", "ends_at < ?", 0},
		{"login_states", "expires_at < ?", 0},
		{"assertions", "expires_at < ?", -time.Minute},
		{"authorizations", "expires_at < ?", -spentKept},
		{"changes", "at < ?", -changesKept},
		{"replicas", "beat_at < ?", -changesKept},
		{"revocations", "ended_at < ?", -endedKept},
	} {
		if err := s.deleteExpired(ctx, one); err != nil {
			faults = append(faults, fmt.Errorf("tidying %s: %w", one.table, err))
		}
	}
	if err := s.write(ctx, s.shred); err != nil {
		faults = append(faults, fmt.Errorf("tidying connections: %w", err))
	}
	if err := s.write(ctx, s.cutEnded); err != nil {
		faults = append(faults, fmt.Errorf("tidying grants_ended: %w", err))
	}
	if err := s.write(ctx, s.legacy.tidy); err != nil {
		faults = append(faults, fmt.Errorf("tidying what another service left: %w", err))
	}
	return errors.Join(faults...)
}

// deleteExpired deletes in batches, with a pause after each as long as the batch took.
func (s *Store) deleteExpired(ctx context.Context, of expired) error {
	row := map[string]string{"sqlite": "rowid", "postgres": "ctid"}[s.dialect]
	for {
		deleted, began := int64(0), time.Now()
		err := s.write(ctx, func(tx *gorm.DB) error {
			now, err := s.now(tx)
			if err != nil {
				return err
			}
			result := tx.Exec(fmt.Sprintf("DELETE FROM %s WHERE %s IN (SELECT %s FROM %s WHERE %s LIMIT %d)", of.table, row, row, of.table, of.condition, tidyBatch),
				now+of.offset.Milliseconds())
			deleted = result.RowsAffected
			return result.Error
		})
		if err != nil || deleted < tidyBatch {
			return err
		}
		select { // others get as much time: on SQLite they look for the lock now and then, and in no order
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(20*time.Millisecond, time.Since(began))):
		}
	}
}

// deadKept is how long the tokens of a dead grant are kept, for whoever wants to know what happened.
const deadKept = 30 * 24 * time.Hour

// shred forgets the tokens of grants that ended long ago. The rows stay, as those of a disconnect do:
// their versions must never start again.
func (s *Store) shred(tx *gorm.DB) error {
	now, err := s.now(tx)
	if err != nil {
		return err
	}
	before := now - deadKept.Milliseconds()
	return tx.Model(&connection{}).
		Where("phase = ? AND updated_at < ? OR phase = ? AND refresh_expires_at < ?", string(broker.Broken), before, string(broker.Ready), before).
		Updates(map[string]any{
			"reason": gorm.Expr("CASE WHEN phase = ? THEN ? ELSE '' END", string(broker.Ready), broker.RanOut),
			"phase":  string(broker.Disconnected), "version": gorm.Expr("version + 1"), "updated_at": now,
			"refresh_token": nil, "refresh_digest": nil, "access_token": nil,
		}).Error
}

// Unreadable counts the connections whose tokens the keyring does not open, by the key ids in their
// envelopes: the database groups, and nothing is unsealed. They are kept.
func (s *Store) Unreadable(ctx context.Context) (unreadable, total int, err error) {
	var groups []struct {
		Head []byte
		Rows int
	}
	err = s.run(ctx, func(tx *gorm.DB) error {
		return tx.Model(&connection{}).Where("phase NOT IN ?", []string{string(broker.Broken), string(broker.Disconnected)}).
			Select("substr(coalesce(refresh_token, access_token), 1, ?) AS head, count(*) AS rows", keyring.HeadLength).
			Group("head").Scan(&groups).Error
	})
	for _, group := range groups {
		total += group.Rows
		if !s.keys.Holds(group.Head) {
			unreadable += group.Rows
		}
	}
	return unreadable, total, err
}
