package store

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/store/gen3"
)

// isAnother tells that a name in Gen3's table means another person than that subject of the default
// provider: its rows are of other subjects alone.
func (s *Gen3) isAnother(tx *gorm.DB, username, subject string) (bool, error) {
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return false, err
	}
	rows := tx.Model(&gen3.Row{}).Where("username = ?", username)
	if form.IDP {
		rows = rows.Where("idp = ?", gen3.Default)
	}
	var subjects []string
	if err := rows.Distinct("userid").Pluck("userid", &subjects).Error; err != nil {
		return false, err
	}
	return len(subjects) > 0 && !slices.Contains(subjects, subject), nil
}

// person implements legacy: it finds somebody by the name that Gen3's table has, and makes a user of them. A subject
// of the default provider has to be the one that the table means by the name.
func (s *Gen3) person(ctx context.Context, username, subject string) (authn.User, error) {
	var row user
	named := false
	err := s.run(ctx, func(tx *gorm.DB) (err error) {
		row, named, err = s.named(tx, username)
		if err != nil || subject == "" {
			return err
		}
		another, err := s.isAnother(tx, username, subject)
		named = named && !another
		if another {
			row = user{}
		}
		return err
	})
	switch {
	case err != nil:
		return authn.User{}, err
	case row.ID != "":
		return s.onlyNamed(row)
	case !named || username == "":
		return authn.User{}, authn.ErrUnknown
	}
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		row = user{}
		if err := tx.Where("username = ? AND set_aside_at IS NULL", username).Take(&row).Error; !errors.Is(err, gorm.ErrRecordNotFound) {
			return err // nil where another was quicker
		}
		row = user{ID: rand.Text(), Issuer: gen3Issuer, Subject: rand.Text(), Username: username, CreatedAt: now}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return s.tell(tx, now, userChanged, row.object())
	})
	if err != nil {
		return authn.User{}, err
	}
	return s.onlyNamed(row)
}

// named is the user of ours who has a name, and whether Gen3's table has it where there is none.
func (s *Gen3) named(tx *gorm.DB, username string) (row user, named bool, err error) {
	err = tx.Where("username = ? AND set_aside_at IS NULL", username).Take(&row).Error
	if !errors.Is(err, gorm.ErrRecordNotFound) {
		return row, false, err
	}
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return user{}, false, err
	}
	var count int64
	err = tx.Model(&gen3.Row{}).Where("username = ?", username).Limit(1).Count(&count).Error
	return user{}, count > 0, err
}

// onlyNamed is a user of whom only the name is known. Everybody else has logged in with us.
func (s *Gen3) onlyNamed(row user) (authn.User, error) {
	if row.Issuer != gen3Issuer {
		return authn.User{}, authn.ErrUnknown
	}
	return authn.User{ID: row.ID, Username: row.Username, Disabled: row.DisabledAt != nil}, nil
}

// adopt implements legacy: an identity becomes the person of that name whom only Gen3's table knew. Rows of a name
// that means another person there are deleted: nobody is left who could come for them.
func (s *Gen3) adopt(tx *gorm.DB, identity provider.Identity, known bool, now int64) (*user, error) {
	another, err := s.isAnother(tx, identity.Username, identity.Subject)
	if err != nil {
		return nil, err
	}
	if another {
		return nil, s.move(tx, identity.Username, "")
	}
	if known {
		return nil, nil
	}
	var who user
	err = s.locked(tx).Take(&who, "username = ? AND issuer = ? AND set_aside_at IS NULL", identity.Username, gen3Issuer).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	who.Issuer, who.Subject = identity.Issuer, identity.Subject
	if err := tx.Save(&who).Error; err != nil {
		return nil, err
	}
	return &who, s.tell(tx, now, userChanged, who.object())
}

// rename implements legacy: rows follow their owner to another name. Without one they are deleted, since the name is
// about to mean another person; those of somebody of whom only the name is known belong to the name.
func (s *Gen3) rename(tx *gorm.DB, who *user, name string) error {
	if name == "" && who.Issuer == gen3Issuer {
		return nil
	}
	return s.move(tx, who.Username, name)
}

// move gives the rows of one name another, or deletes them where there is none.
func (s *Gen3) move(tx *gorm.DB, from, to string) error {
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return err
	}
	rows := tx.Model(&gen3.Row{}).Where("username = ?", from)
	if to == "" {
		return rows.Delete(&gen3.Row{}).Error
	}
	return rows.Update("username", to).Error
}
