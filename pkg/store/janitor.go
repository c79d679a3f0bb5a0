package store

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

// Tidy deletes what has run out: sessions, login states, lines of the change feed. Any replica may
// call it at any time; each table is its own short transaction.
func (s *Store) Tidy(ctx context.Context) error {
	for _, table := range []struct {
		condition string
		offset    int64 // milliseconds
		row       any
	}{
		{"ends_at < ?", 0, &session{}},
		{"expires_at < ?", 0, &loginState{}},
		{"at < ?", -changesKept.Milliseconds(), &change{}},
		{"beat_at < ?", -changesKept.Milliseconds(), &replica{}},
		{"ended_at < ?", -endedKept.Milliseconds(), &revocation{}},
	} {
		err := s.write(ctx, func(tx *gorm.DB) error {
			now, err := s.now(tx)
			if err != nil {
				return err
			}
			return tx.Where(table.condition, now+table.offset).Delete(table.row).Error
		})
		if err != nil {
			return fmt.Errorf("tidying: %w", err)
		}
	}
	if err := s.write(ctx, s.shred); err != nil {
		return fmt.Errorf("tidying: %w", err)
	}
	return nil
}

// deadKept is how long the tokens of a dead grant are kept, for whoever wants to know what happened.
const deadKept = 30 * 24 * time.Hour

// shred forgets the tokens of grants that ended long ago. The rows stay, as those of a disconnect do:
// their versions must never start again.
func (s *core) shred(tx *gorm.DB) error {
	now, err := s.now(tx)
	if err != nil {
		return err
	}
	before := now - deadKept.Milliseconds()
	err = tx.Model(&connection{}).
		Where("phase = ? AND updated_at < ? OR phase = ? AND refresh_expires_at < ?", string(broker.Broken), before, string(broker.Ready), before).
		Updates(map[string]any{
			"phase": string(broker.Disconnected), "version": gorm.Expr("version + 1"), "updated_at": now,
			"refresh_token": nil, "refresh_digest": nil, "access_token": nil,
		}).Error
	if err != nil {
		return err
	}
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return err
	}
	return tx.Where("expires < ?", before/1000).Delete(&gen3Row{}).Error
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
