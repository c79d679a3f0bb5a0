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
func (s *Logins) UseState(ctx context.Context, digest []byte, life time.Duration) error {
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
func (s *Logins) Connect(ctx context.Context, grant broker.Grant) (stored broker.Stored, err error) {
	var object string
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		var who *user
		if grant.UserID == "" {
			who, err = s.users.identify(tx, grant.Identity, now)
		} else {
			who, err = s.users.existing(tx, grant.UserID)
		}
		if err != nil {
			return err
		}
		if who.DisabledAt != nil {
			stored = broker.Stored{UserID: who.ID, Username: who.Username} // for the audit
			return broker.ErrUserDisabled
		}
		if grant.UserID == "" && grant.Identity.Groups != nil {
			if err := s.users.setClaims(tx, who.ID, broker.Claims{Groups: grant.Identity.Groups, Name: grant.Identity.Name, Email: grant.Identity.Email, At: time.Now()}); err != nil {
				return err
			}
		}
		change, err := s.putConnection(tx, who, grant)
		stored = broker.Stored{UserID: who.ID, Username: who.Username, Change: change, Lasting: change.Row.RefreshToken != "" || change.Row.AccessExpiresAt.IsZero()}
		object = objectOf(who.ID, grant.Provider)
		return err
	})
	if errors.Is(err, broker.ErrUserDisabled) {
		return stored, broker.ErrUserDisabled
	}
	var other *broker.OtherAccount
	if errors.As(err, &other) {
		return broker.Stored{}, other
	}
	for _, known := range []error{broker.ErrSignInFirst, broker.ErrRevoking} {
		if errors.Is(err, known) {
			return broker.Stored{}, known
		}
	}
	if err != nil {
		return broker.Stored{}, err
	}
	s.notify(landedWord + object)
	return stored, nil
}

// What a login says of a person counts at once for what is minted next: it is as fresh as a word of the provider can be,
// and spares the question that the first token would ask.

// identify finds the user of an identity, or makes one, and lets the username mean them. Issuer and
// subject are the person; a name that comes back with another subject is another person, who
// inherits nothing (docs/architecture.md, "Users").
func (s *Users) identify(tx *gorm.DB, identity provider.Identity, now int64) (*user, error) {
	var who user
	err := s.locked(tx).Take(&who, "issuer = ? AND subject = ?", identity.Issuer, identity.Subject).Error
	known := err == nil
	if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, err
	}
	if known && who.Username == identity.Username && who.SetAsideAt == nil {
		return &who, nil
	}
	if adopted, err := s.legacy.adopt(tx, identity, known, now); adopted != nil || err != nil {
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
		if err := s.legacy.rename(tx, &who, identity.Username); err != nil {
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
func (s *Users) setAside(tx *gorm.DB, username string, now int64) error {
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
	if err := s.sessions.endSessionsOf(tx, holder.ID, now); err != nil {
		return err
	}
	if err := s.legacy.rename(tx, &holder, ""); err != nil {
		return err
	}
	return s.tell(tx, now, userChanged, holder.object())
}

func (s *Users) existing(tx *gorm.DB, userID string) (*user, error) {
	var who user
	err := s.locked(tx).Take(&who, "id = ?", userID).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, broker.ErrSignInFirst
	}
	return &who, err
}

// putConnection stores a grant over whatever was there for that user and provider, unless another
// account is connected: then the person is asked first.
func (s *Logins) putConnection(tx *gorm.DB, who *user, grant broker.Grant) (broker.Change, error) {
	row, err := s.lockRow(tx, who.ID, grant.Provider)
	if err != nil && !errors.Is(err, broker.ErrNotConnected) {
		return broker.Change{}, err
	}
	tokens := grant.Tokens
	for _, at := range []*time.Time{&tokens.IssuedAt, &tokens.AccessExpiresAt, &tokens.RefreshExpiresAt} {
		*at = row.Reading.ToDatabase(*at)
	}
	login := broker.Login{Subject: grant.Identity.Subject, Account: grant.Identity.Account, Tokens: tokens, Linked: grant.UserID != "", Separate: grant.Separate}
	if tokens.RefreshToken != "" {
		login.Digest = s.keys.Digest(string(tokens.RefreshToken))
	}
	change, err := s.applyLocked(tx, row, login)
	if err != nil {
		return change, err
	}
	if !grant.Separate && !grant.Began.IsZero() {
		revoking, err := s.outbox.revoking(tx, grant.Provider, grant.Identity.Subject, row.Reading.ToDatabase(grant.Began))
		if err != nil {
			return change, err
		}
		if revoking {
			return change, broker.ErrRevoking
		}
	}
	return change, s.legacy.mirror(tx, who, change.Row, grant.Tokens.RefreshToken)
}

// locked locks the rows that are read, until the transaction ends. In SQLite the transaction holds
// the one write lock from its beginning.
func (s *core) locked(tx *gorm.DB) *gorm.DB {
	if s.dialect == "sqlite" {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate})
}
