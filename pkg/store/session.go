package store

import (
	"context"
	"encoding/hex"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
)

type session struct {
	Digest    []byte `gorm:"primaryKey"`
	UserID    string
	CreatedAt int64 `gorm:"autoCreateTime:false"`
	SeenAt    int64
	EndsAt    int64
}

// CreateSession implements authn.SessionStore.
func (s *Sessions) CreateSession(ctx context.Context, begun authn.BrowserSession) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		return tx.Create(&session{
			Digest: begun.Digest[:], UserID: begun.UserID, CreatedAt: begun.CreatedAt.UnixMilli(),
			SeenAt: begun.SeenAt.UnixMilli(), EndsAt: begun.EndsAt.UnixMilli(),
		}).Error
	})
}

// Session implements authn.SessionStore.
func (s *Sessions) Session(ctx context.Context, digest authn.SessionDigest) (authn.BrowserSession, error) {
	var rows []struct {
		Row   session       `gorm:"embedded"`
		State databaseState `gorm:"embedded"`
	}
	err := s.run(ctx, func(tx *gorm.DB) error {
		err := tx.Raw("SELECT s.*, d.* FROM ? d LEFT JOIN sessions s ON s.digest = ?", s.state(), digest[:]).Scan(&rows).Error
		if err == nil {
			err = s.usable(rows[0].State) // one that was ended may not be, as a standby has it
		}
		return err
	})
	if err != nil {
		return authn.BrowserSession{}, err
	}
	row := rows[0].Row
	if row.UserID == "" {
		return authn.BrowserSession{}, authn.ErrUnknown
	}
	return authn.BrowserSession{
		Digest: digest, UserID: row.UserID, CreatedAt: time.UnixMilli(row.CreatedAt),
		SeenAt: time.UnixMilli(row.SeenAt), EndsAt: time.UnixMilli(row.EndsAt),
	}, nil
}

// TouchSession implements authn.SessionStore.
func (s *Sessions) TouchSession(ctx context.Context, digest authn.SessionDigest, seen time.Time) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		return tx.Model(&session{}).Where("digest = ?", digest[:]).Update("seen_at", seen.UnixMilli()).Error
	})
}

// EndSession implements authn.SessionStore.
func (s *Sessions) EndSession(ctx context.Context, digest authn.SessionDigest) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		return s.endSessions(tx, now, "digest = ?", digest[:])
	})
}

// endSessionsOf ends every session of a user, in the transaction that is the reason.
func (s *Sessions) endSessionsOf(tx *gorm.DB, userID string, now int64) error {
	return s.endSessions(tx, now, "user_id = ?", userID)
}

// endSessions deletes sessions and tells every replica of each, in the same transaction.
func (s *Sessions) endSessions(tx *gorm.DB, now int64, condition string, argument any) error {
	var ended []session
	if err := tx.Find(&ended, condition, argument).Error; err != nil {
		return err
	}
	for _, one := range ended {
		if err := tx.Delete(&one).Error; err != nil {
			return err
		}
		if err := s.tell(tx, now, sessionChanged, hex.EncodeToString(one.Digest)); err != nil {
			return err
		}
	}
	return nil
}
