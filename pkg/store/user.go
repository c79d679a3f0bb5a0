package store

import (
	"context"
	"errors"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
)

type user struct {
	ID         string `gorm:"primaryKey"`
	Issuer     string
	Subject    string
	Username   string
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	DisabledAt *int64
	SetAsideAt *int64
}

func (u *user) object() string { return u.ID + "/" + u.Username }

// UserByID implements authn.Directory. Somebody who was set aside is nobody until they log in again.
func (s *Users) UserByID(ctx context.Context, id string) (authn.User, error) {
	return s.findUser(ctx, "id = ? AND set_aside_at IS NULL", id)
}

// UserByName implements authn.Directory.
func (s *Users) UserByName(ctx context.Context, username string) (authn.User, error) {
	found, err := s.findUser(ctx, "username = ? AND set_aside_at IS NULL", username)
	if errors.Is(err, authn.ErrUnknown) && s.gen3.Enabled() {
		return s.findImported(ctx, username, "")
	}
	return found, err
}

// UserBySubject implements authn.Directory.
func (s *Users) UserBySubject(ctx context.Context, issuer, subject, username string) (authn.User, error) {
	found, err := s.findUser(ctx, "issuer = ? AND subject = ? AND set_aside_at IS NULL", issuer, subject)
	if errors.Is(err, authn.ErrUnknown) && s.gen3.Enabled() {
		return s.findImported(ctx, username, subject)
	}
	return found, err
}

func (s *core) findUser(ctx context.Context, condition string, arguments ...any) (authn.User, error) {
	var row user
	err := s.run(ctx, func(tx *gorm.DB) error {
		return tx.Where(condition, arguments...).Take(&row).Error
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return authn.User{}, authn.ErrUnknown
	}
	if err != nil {
		return authn.User{}, err
	}
	return authn.User{ID: row.ID, Username: row.Username, Disabled: row.DisabledAt != nil}, nil
}

// SetDisabled shuts a user out, or lets them in again: denied on every replica within seconds, by
// every proof. What they connected is kept.
func (s *Users) SetDisabled(ctx context.Context, username string, disabled bool) error {
	if _, err := s.UserByName(ctx, username); err != nil { // which makes a user of whom only Gen3's table knows
		return err
	}
	err := s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		var row user
		if err := s.locked(tx).Take(&row, "username = ? AND set_aside_at IS NULL", username).Error; err != nil {
			return err
		}
		row.DisabledAt = nil
		if disabled {
			row.DisabledAt = &now
			if err := s.endSessionsOf(tx, row.ID, now); err != nil {
				return err
			}
		}
		if err := tx.Save(&row).Error; err != nil {
			return err
		}
		return s.tell(tx, now, userChanged, row.object())
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return authn.ErrUnknown
	}
	return err
}
