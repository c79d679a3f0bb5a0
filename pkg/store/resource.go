package store

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// Resources keeps the things inside audiences that have tokens of their own, and who maintains them; it implements
// apitoken.Resources.
type Resources struct{ *core }

// resource is a row of resources.
type resource struct {
	Audience  string `gorm:"primaryKey"`
	ID        string `gorm:"primaryKey"`
	Name      string
	UpdatedAt int64 `gorm:"autoUpdateTime:false"`
}

// resourceMaintainer is a row of resource_maintainers. The user is empty until one has logged in by the name.
type resourceMaintainer struct {
	Audience string `gorm:"primaryKey"`
	Resource string `gorm:"primaryKey"`
	Username string `gorm:"primaryKey"`
	UserID   *string
}

// bindMaintainers lets names mean the users who have them now, once: a name that comes back with another person is
// not theirs.
const bindMaintainers = `UPDATE resource_maintainers SET user_id = (SELECT id FROM users WHERE users.username = resource_maintainers.username AND set_aside_at IS NULL)
	WHERE user_id IS NULL AND EXISTS (SELECT 1 FROM users WHERE users.username = resource_maintainers.username AND set_aside_at IS NULL)`

// Resource implements apitoken.Resources. It writes where a name has become a user since it was stored, so that the
// answer and what is checked by it are the same.
func (s *Resources) Resource(ctx context.Context, audience, id string) (info apitoken.ResourceInfo, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		if _, err := s.fenced(tx); err != nil {
			return err
		}
		var row resource
		if err := tx.Take(&row, "audience = ? AND id = ?", audience, id).Error; err != nil {
			return err
		}
		if err := tx.Exec(bindMaintainers+" AND audience = ? AND resource = ?", audience, id).Error; err != nil {
			return err
		}
		info, err = s.complete(tx, row)
		return err
	})
	return info, unknownToken(err)
}

// complete adds a resource's maintainers.
func (s *Resources) complete(tx *gorm.DB, row resource) (apitoken.ResourceInfo, error) {
	info := apitoken.ResourceInfo{Audience: row.Audience, ID: row.ID, Name: row.Name, UpdatedAt: time.UnixMilli(row.UpdatedAt)}
	var rows []resourceMaintainer
	err := tx.Order("username").Find(&rows, "audience = ? AND resource = ?", row.Audience, row.ID).Error
	for _, one := range rows {
		maintainer := apitoken.Maintainer{Username: one.Username}
		if one.UserID != nil {
			maintainer.UserID = *one.UserID
		}
		info.Maintainers = append(info.Maintainers, maintainer)
	}
	return info, err
}

// PutResource implements apitoken.Resources. A maintainer who stays keeps the user that the name was bound to.
func (s *Resources) PutResource(ctx context.Context, info apitoken.ResourceInfo) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		row := resource{Audience: info.Audience, ID: info.ID, Name: info.Name, UpdatedAt: now}
		if err := tx.Save(&row).Error; err != nil {
			return err
		}
		names := []string{""}
		for _, maintainer := range info.Maintainers {
			names = append(names, maintainer.Username)
			added := resourceMaintainer{Audience: info.Audience, Resource: info.ID, Username: maintainer.Username}
			if err := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(&added).Error; err != nil {
				return err
			}
		}
		if err := tx.Delete(&resourceMaintainer{}, "audience = ? AND resource = ? AND username NOT IN ?", info.Audience, info.ID, names).Error; err != nil {
			return err
		}
		return tx.Exec(bindMaintainers+" AND audience = ? AND resource = ?", info.Audience, info.ID).Error
	})
}

// ResourcesOf implements apitoken.Resources.
func (s *Resources) ResourcesOf(ctx context.Context, userID string) (all []apitoken.ResourceInfo, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		all = nil
		if err := tx.Exec(bindMaintainers).Error; err != nil {
			return err
		}
		query := tx.Order("audience, id").Limit(maxListed)
		if userID != "" {
			query = query.Where("EXISTS (SELECT 1 FROM resource_maintainers m WHERE m.audience = resources.audience AND m.resource = resources.id AND m.user_id = ?)", userID)
		} else {
			query = query.Where(`NOT EXISTS (SELECT 1 FROM resource_maintainers m JOIN users u ON u.id = m.user_id
				WHERE m.audience = resources.audience AND m.resource = resources.id AND u.disabled_at IS NULL AND u.set_aside_at IS NULL)`)
		}
		var rows []resource
		if err := query.Find(&rows).Error; err != nil {
			return err
		}
		for _, row := range rows {
			info, err := s.complete(tx, row)
			if err != nil {
				return err
			}
			all = append(all, info)
		}
		return nil
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		err = nil
	}
	return all, err
}
