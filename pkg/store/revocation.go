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

// revocation is a refresh token that is to be revoked at its provider.
type revocation struct {
	ID            string `gorm:"primaryKey"`
	UserID        string
	Provider      string
	Subject       string
	Token         []byte
	CreatedAt     int64 `gorm:"autoCreateTime:false"`
	Attempts      int64
	NextAttemptAt int64
}

func (r *revocation) place() keyring.Place {
	return keyring.Place{Table: "revocations", Owner: r.ID, Part: r.Provider, Column: "token"}
}

// unwanted puts a token of a connection's into the outbox, in the transaction that made it unwanted.
func (s *Store) unwanted(tx *gorm.DB, of *connection, token secret.Text, now int64) error {
	if token == "" {
		return nil
	}
	row := revocation{ID: rand.Text(), UserID: of.UserID, Provider: of.Provider, Subject: of.Subject, CreatedAt: now, NextAttemptAt: now}
	row.Token = s.keys.Seal([]byte(token), row.place())
	return tx.Create(&row).Error
}

// wantedAgain cancels what is to be revoked of the very grant that a login has just renewed: at many
// providers both share one, and a late revocation would end the new one. Another subject's goes.
func (s *Store) wantedAgain(tx *gorm.DB, before, next *connection, now int64) error {
	if before.Subject != "" && before.Subject != next.Subject && len(before.RefreshToken) > 0 {
		if err := s.unwanted(tx, before, s.open(before).RefreshToken, now); err != nil {
			return err
		}
	}
	return tx.Where("user_id = ? AND provider = ? AND subject = ?", next.UserID, next.Provider, next.Subject).Delete(&revocation{}).Error
}

const (
	// revocationLease is how long one replica has for a revocation before another tries it.
	revocationLease = 2 * time.Minute
	// maxRevocations is how often one is tried; by then weeks have passed.
	maxRevocations = 30
)

// TakeRevocation implements broker.Outbox.
func (s *Store) TakeRevocation(ctx context.Context) (taken broker.Revocation, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		var row revocation
		query := tx
		if s.dialect == "postgres" {
			query = tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsSkipLocked})
		}
		if err := query.Where("next_attempt_at <= ?", now).Order("next_attempt_at").Take(&row).Error; err != nil {
			return err
		}
		row.Attempts++
		wait := min(revocationLease<<min(row.Attempts-1, 9), 24*time.Hour)
		row.NextAttemptAt = now + wait.Milliseconds()
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

// Revoked implements broker.Outbox.
func (s *Store) Revoked(ctx context.Context, id string) error {
	return s.write(ctx, func(tx *gorm.DB) error { return tx.Where("id = ?", id).Delete(&revocation{}).Error })
}
