package store

import (
	"context"
	"errors"
	"strings"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
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
	if errors.Is(err, authn.ErrUnknown) {
		return s.legacy.person(ctx, username, "")
	}
	return found, err
}

// UserBySubject implements authn.Directory.
func (s *Users) UserBySubject(ctx context.Context, issuer, subject, username string) (authn.User, error) {
	found, err := s.findUser(ctx, "issuer = ? AND subject = ? AND set_aside_at IS NULL", issuer, subject)
	if errors.Is(err, authn.ErrUnknown) {
		return s.legacy.person(ctx, username, subject)
	}
	return found, err
}

// findUser reads a user, and refuses to say that there is none where the database may have lost them.
func (s *Users) findUser(ctx context.Context, condition string, arguments ...any) (authn.User, error) {
	var rows []struct {
		Row   user          `gorm:"embedded"`
		State databaseState `gorm:"embedded"`
	}
	err := s.run(ctx, func(tx *gorm.DB) error {
		err := tx.Raw("SELECT u.*, d.* FROM ? d LEFT JOIN users u ON "+condition, append([]any{s.state()}, arguments...)...).Scan(&rows).Error
		if err == nil {
			err = s.usable(rows[0].State) // who was disabled may not be, as a standby has it
		}
		return err
	})
	if err != nil {
		return authn.User{}, err
	}
	row := rows[0].Row
	if row.ID == "" {
		return authn.User{}, authn.ErrUnknown
	}
	return authn.User{ID: row.ID, Username: row.Username, Disabled: row.DisabledAt != nil}, nil
}

// SetDisabled shuts a user out, or lets them in again: denied on every replica within seconds, by
// every proof. What they connected is kept.
func (s *Users) SetDisabled(ctx context.Context, username string, disabled bool) error {
	if _, err := s.UserByName(ctx, username); err != nil { // which makes a user of whom only the legacy knows
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
		return s.disable(tx, &row, now, disabled)
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return authn.ErrUnknown
	}
	return err
}

// disable disables or enables a user whose row is locked. The sessions of browsers go on for as long as the user is
// disabled, since nothing is done for them and the person is told why; once enabled, they sign in anew.
func (s *Users) disable(tx *gorm.DB, row *user, now int64, disabled bool) error {
	if disabled == (row.DisabledAt != nil) {
		return nil
	}
	kind, ends := userEnabled, s.sessions.endSessionsOf
	row.DisabledAt = nil
	if disabled {
		kind, row.DisabledAt, ends = userDisabled, &now, s.sessions.endLoginsOf
	}
	if err := ends(tx, row.ID, now); err != nil {
		return err
	}
	if err := tx.Save(row).Error; err != nil {
		return err
	}
	if err := s.tell(tx, now, kind, row.ID); err != nil {
		return err
	}
	return s.tell(tx, now, userChanged, row.object())
}

// Claims implements broker.ClaimStore.
func (s *Users) Claims(ctx context.Context, userID string) (claims broker.Claims, err error) {
	var row struct {
		Subject  string
		Groups   *string
		FullName string
		Email    string
		ClaimsAt *int64
	}
	err = s.run(ctx, func(tx *gorm.DB) error {
		return tx.Raw("SELECT subject, groups, full_name, email, claims_at FROM users WHERE id = ?", userID).Scan(&row).Error
	})
	claims = broker.Claims{Subject: row.Subject, Name: row.FullName, Email: row.Email, At: instant(row.ClaimsAt)}
	if row.Groups != nil && *row.Groups != "" {
		claims.Groups = strings.Split(*row.Groups, "\n")
	}
	return claims, err
}

// SetClaims implements broker.ClaimStore. An older word never takes the place of a newer one.
func (s *Users) SetClaims(ctx context.Context, userID string, claims broker.Claims) error {
	return s.run(ctx, func(tx *gorm.DB) error { return s.setClaims(tx, userID, claims) })
}

// setClaims stores what a provider said of a user, unless something newer stands there.
func (s *Users) setClaims(tx *gorm.DB, userID string, claims broker.Claims) error {
	return tx.Exec("UPDATE users SET groups = ?, full_name = ?, email = ?, claims_at = ? WHERE id = ? AND (claims_at IS NULL OR claims_at <= ?)",
		strings.Join(claims.Groups, "\n"), claims.Name, claims.Email, claims.At.UnixMilli(), userID, claims.At.UnixMilli()).Error
}
