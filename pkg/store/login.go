package store

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
)

type loginState struct {
	Digest    []byte `gorm:"primaryKey"`
	ExpiresAt int64
}

// UseState implements broker.LoginStore: the primary key is what makes a state good for one callback.
func (s *Store) UseState(ctx context.Context, digest []byte, life time.Duration) error {
	fresh := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		inserted := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(&loginState{Digest: digest, ExpiresAt: now + life.Milliseconds()})
		fresh = inserted.RowsAffected == 1
		return inserted.Error
	})
	if err == nil && !fresh {
		return broker.ErrReplayed
	}
	return err
}

// Connect implements broker.LoginStore.
func (s *Store) Connect(ctx context.Context, grant broker.Grant) (userID, username string, err error) {
	var who *user
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		if grant.UserID == "" {
			who, err = s.identify(tx, grant.Identity, now)
		} else {
			who, err = s.existing(tx, grant.UserID)
		}
		if err != nil {
			return err
		}
		if who.DisabledAt != nil {
			return broker.ErrUserDisabled
		}
		return s.putConnection(tx, who, grant, now)
	})
	for _, known := range []error{broker.ErrOtherAccount, broker.ErrUserDisabled, broker.ErrSignInFirst} {
		if errors.Is(err, known) {
			return "", "", known
		}
	}
	if err != nil {
		return "", "", err
	}
	return who.ID, who.Username, nil
}

// identify finds the user of an identity, or makes one, and lets the username mean them. Issuer and
// subject are the person; a name that comes back with another subject is another person, who
// inherits nothing (architecture.md 5).
func (s *Store) identify(tx *gorm.DB, identity provider.Identity, now int64) (*user, error) {
	var who user
	err := s.locked(tx).Take(&who, "issuer = ? AND subject = ?", identity.Issuer, identity.Subject).Error
	known := err == nil
	if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, err
	}
	if known && who.Username == identity.Username && who.SetAsideAt == nil {
		return &who, nil
	}
	if adopted, err := s.adopt(tx, identity, known, now); adopted != nil || err != nil {
		return adopted, err
	}
	if err := s.setAside(tx, identity.Username, now); err != nil {
		return nil, err
	}
	if !known {
		who = user{ID: rand.Text(), Issuer: identity.Issuer, Subject: identity.Subject, Username: identity.Username, CreatedAt: now}
		if err := tx.Create(&who).Error; err != nil {
			return nil, err
		}
		return &who, s.tell(tx, now, userChanged, who.object())
	}
	if err := s.tell(tx, now, userChanged, who.object()); err != nil { // the name until now
		return nil, err
	}
	if who.SetAsideAt == nil {
		if err := s.gen3Rename(tx, who.Username, identity.Username); err != nil {
			return nil, err
		}
	}
	who.Username, who.SetAsideAt = identity.Username, nil
	if err := tx.Save(&who).Error; err != nil {
		return nil, err
	}
	return &who, s.tell(tx, now, userChanged, who.object())
}

// setAside takes a username from the user who has it, and ends their sessions. They get a name
// again, and find everything as it was, when they next log in.
func (s *Store) setAside(tx *gorm.DB, username string, now int64) error {
	var holder user
	err := s.locked(tx).Take(&holder, "username = ? AND set_aside_at IS NULL", username).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	holder.SetAsideAt = &now
	if err := tx.Save(&holder).Error; err != nil {
		return err
	}
	if err := s.endSessionsOf(tx, holder.ID, now); err != nil {
		return err
	}
	if holder.Issuer != gen3Issuer { // of whom only the name is known, the name's rows are
		if err := s.gen3Rename(tx, username, ""); err != nil {
			return err
		}
	}
	return s.tell(tx, now, userChanged, holder.object())
}

func (s *Store) existing(tx *gorm.DB, userID string) (*user, error) {
	var who user
	err := s.locked(tx).Take(&who, "id = ?", userID).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, broker.ErrSignInFirst
	}
	return &who, err
}

// putConnection stores a grant over whatever was there for that user and provider, unless another
// account is connected: then the person is asked first.
func (s *Store) putConnection(tx *gorm.DB, who *user, grant broker.Grant, now int64) error {
	userID := who.ID
	row, _, err := s.lockConnection(tx, userID, grant.Provider)
	if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return err
	}
	if grant.UserID != "" && row.alive() && s.stillGood(row, now) && row.Subject != "" && row.Subject != grant.Identity.Subject {
		return broker.ErrOtherAccount
	}
	next := connection{
		UserID: userID, Provider: grant.Provider, Subject: grant.Identity.Subject, Phase: string(broker.Ready),
		Version: row.Version + 1, ConnectedAt: now, UpdatedAt: now, StoredVersion: row.Version + 1, Rotates: row.rotation(),
	}
	// Some providers give a refresh token only with the first consent: the one that is there is then
	// still the grant.
	if grant.Tokens.RefreshToken == "" && row.alive() && s.stillGood(row, now) {
		next.RefreshToken, next.RefreshDigest, next.RefreshExpiresAt = row.RefreshToken, row.RefreshDigest, row.RefreshExpiresAt
	}
	s.seal(&next, grant.Tokens)
	if err := tx.Save(&next).Error; err != nil {
		return err
	}
	if err := s.wantedAgain(tx, row, &next, now); err != nil {
		return err
	}
	if err := s.tellLanded(tx, next.object()); err != nil {
		return err
	}
	if s.gen3.Enabled() && !s.gen3.config.Providers[grant.Provider] {
		// What may have rotated is of no use on the way back, and would come up again behind the new grant.
		if _, err := s.gen3Forget(tx, userID, grant.Provider); err != nil {
			return err
		}
	}
	if err := s.gen3Mirror(tx, who, &next, grant.Tokens.RefreshToken); err != nil {
		return err
	}
	return s.tell(tx, now, connectionChanged, next.object())
}

// stillGood tells whether a row's refresh token can be read, and has not come to its stated end.
func (s *Store) stillGood(row *connection, now int64) bool {
	return !s.open(row).Unreadable && (row.RefreshExpiresAt == nil || now < *row.RefreshExpiresAt)
}

// locked locks the rows that are read, until the transaction ends. In SQLite the transaction holds
// the one write lock from its beginning.
func (s *Store) locked(tx *gorm.DB) *gorm.DB {
	if s.dialect == "sqlite" {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate})
}
