package store

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// revocation is a refresh token that is to be revoked at its provider. It stays for a while after it was,
// for logins that overlapped it.
type revocation struct {
	ID            string `gorm:"primaryKey"`
	UserID        string
	Provider      string
	Subject       string
	Token         []byte
	CreatedAt     int64 `gorm:"autoCreateTime:false"`
	Attempts      int64
	NextAttemptAt int64
	TakenUntil    int64  // the end of the last lease; nothing is sent after it
	EndedAt       *int64 // when the provider was told
}

func (r *revocation) place() keyring.Place {
	return keyring.Place{Table: "revocations", Owner: r.ID, Part: r.Provider, Column: "token"}
}

// unwanted puts a token into the outbox, in the transaction that made it unwanted.
func (s *Outbox) unwanted(tx *gorm.DB, row broker.Row, unwanted broker.Unwanted, at time.Time) error {
	now := at.UnixMilli()
	entry := revocation{ID: rand.Text(), UserID: row.UserID, Provider: row.Provider, Subject: unwanted.Subject, CreatedAt: now, NextAttemptAt: now}
	entry.Token = s.keys.Seal([]byte(unwanted.Token), entry.place())
	return tx.Create(&entry).Error
}

// cancelRevocations drops what is to be revoked of the very grant that a login has just renewed: at many
// providers both share one, and a late revocation would end the new one. One that a replica has taken may
// be on its way, and is not dropped.
func (s *Outbox) cancelRevocations(tx *gorm.DB, row broker.Row, at time.Time) error {
	return tx.Where("user_id = ? AND provider = ? AND subject = ? AND ended_at IS NULL AND taken_until <= ?", row.UserID, row.Provider, row.Subject, at.UnixMilli()).
		Delete(&revocation{}).Error
}

// revoking tells whether a revocation for the person may have reached the provider since then: it may have
// ended a grant that was given since.
func (s *Outbox) revoking(tx *gorm.DB, providerID, subject string, since time.Time) (bool, error) {
	var count int64
	err := tx.Model(&revocation{}).
		Where("provider = ? AND subject = ? AND coalesce(ended_at, taken_until) >= ?", providerID, subject, since.UnixMilli()).Limit(1).Count(&count).Error
	return count > 0, err
}

const (
	// revocationPause is how long a revocation rests that failed; it doubles.
	revocationPause = 2 * time.Minute
	// maxRevocations is how often one is tried; by then weeks have passed.
	maxRevocations = 30
	// endedKept is how long one that is over is kept.
	endedKept = time.Hour
)

// TakeRevocation implements broker.Outbox.
func (s *Outbox) TakeRevocation(ctx context.Context, providerID string, lease time.Duration) (taken broker.Revocation, err error) {
	err = s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		now, err := s.fenced(tx) // a login that a failover lost may cancel what is due
		if err != nil {
			return err
		}
		var row revocation
		query := tx
		if s.dialect == "postgres" {
			query = tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsSkipLocked})
		}
		if err := query.Where("provider = ? AND next_attempt_at <= ? AND ended_at IS NULL", providerID, now).Order("next_attempt_at").Take(&row).Error; err != nil {
			return err
		}
		row.Attempts++
		row.TakenUntil = now + lease.Milliseconds()
		row.NextAttemptAt = now + min(max(revocationPause, lease)<<min(row.Attempts-1, 9), 24*time.Hour).Milliseconds()
		text, err := s.keys.Open(row.Token, row.place())
		taken = broker.Revocation{}
		switch {
		case err != nil && !errors.Is(err, keyring.ErrUnknownKey), row.Attempts > maxRevocations:
			return tx.Delete(&row).Error
		case err == nil: // else it is for a replica whose keyring opens it
			taken = broker.Revocation{ID: row.ID, Provider: row.Provider, Token: secret.Text(text)}
		}
		return tx.Save(&row).Error
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return broker.Revocation{}, nil
	}
	return taken, err
}

// Revoked implements broker.Outbox. The token goes at once, the line later.
func (s *Outbox) Revoked(ctx context.Context, id string) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		return tx.Model(&revocation{}).Where("id = ?", id).Updates(map[string]any{"ended_at": now, "token": []byte{}}).Error
	})
}
