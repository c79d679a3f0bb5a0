package store

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/provider"
)

// gen3Issuer marks people of whom Gen3's table knows the name alone. Their own first login with us
// says which identity they are; until then the name is, as it was with the Python service.
const gen3Issuer = "gen3"

// gen3Another tells that a name in Gen3's table means another person than that subject of the default
// provider: its rows are of other subjects alone.
func (s *core) gen3Another(tx *gorm.DB, username, subject string) (bool, error) {
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return false, err
	}
	rows := tx.Model(&gen3Row{}).Where("username = ?", username)
	if form.idp {
		rows = rows.Where("idp = ?", gen3Default)
	}
	var subjects []string
	if err := rows.Distinct("userid").Pluck("userid", &subjects).Error; err != nil {
		return false, err
	}
	return len(subjects) > 0 && !slices.Contains(subjects, subject), nil
}

// findImported finds somebody by the name that Gen3's table has, and makes a user of them. A subject of
// the default provider has to be the one that the table means by the name; it is empty where only the
// name is known.
func (s *core) findImported(ctx context.Context, username, subject string) (authn.User, error) {
	var row user
	known := false
	err := s.run(ctx, func(tx *gorm.DB) error {
		row = user{}
		err := tx.Where("username = ? AND set_aside_at IS NULL", username).Take(&row).Error
		if !errors.Is(err, gorm.ErrRecordNotFound) {
			return err
		}
		form, err := s.gen3Form(tx)
		if err != nil || !form.there {
			return err
		}
		var count int64
		if err := tx.Model(&gen3Row{}).Where("username = ?", username).Limit(1).Count(&count).Error; err != nil {
			return err
		}
		known = count > 0
		return nil
	})
	if err == nil && subject != "" {
		err = s.run(ctx, func(tx *gorm.DB) error {
			another, err := s.gen3Another(tx, username, subject)
			if another {
				return authn.ErrUnknown
			}
			return err
		})
	}
	switch {
	case errors.Is(err, authn.ErrUnknown):
		return authn.User{}, authn.ErrUnknown
	case err != nil:
		return authn.User{}, err
	case row.ID != "" && row.Issuer == gen3Issuer:
		return authn.User{ID: row.ID, Username: row.Username, Disabled: row.DisabledAt != nil}, nil
	case row.ID != "" || !known || username == "":
		return authn.User{}, authn.ErrUnknown
	}
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		row = user{}
		if err := tx.Where("username = ? AND set_aside_at IS NULL", username).Take(&row).Error; !errors.Is(err, gorm.ErrRecordNotFound) {
			return err
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
	if row.Issuer != gen3Issuer {
		return authn.User{}, authn.ErrUnknown
	}
	return authn.User{ID: row.ID, Username: row.Username, Disabled: row.DisabledAt != nil}, nil
}

// adopt lets an identity be the person of that name whom only Gen3's table knew; nil where there is
// no such person. Rows of a name that means another person there are deleted: they are nobody's who
// could come for them.
func (s *core) adopt(tx *gorm.DB, identity provider.Identity, known bool, now int64) (*user, error) {
	if !s.gen3.Enabled() {
		return nil, nil
	}
	another, err := s.gen3Another(tx, identity.Username, identity.Subject)
	if err != nil {
		return nil, err
	}
	if another {
		return nil, s.gen3Rename(tx, identity.Username, "")
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

// gen3Rename lets rows follow their owner to another name; without one they are deleted, since the
// name is about to mean another person.
func (s *core) gen3Rename(tx *gorm.DB, from, to string) error {
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return err
	}
	rows := tx.Model(&gen3Row{}).Where("username = ?", from)
	if to == "" {
		return rows.Delete(&gen3Row{}).Error
	}
	return rows.Update("username", to).Error
}
