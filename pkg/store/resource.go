package store

import (
	"context"
	"slices"
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
	return info, tokenError(err)
}

// complete adds a resource's maintainers.
func (s *Resources) complete(tx *gorm.DB, row resource) (apitoken.ResourceInfo, error) {
	all, err := s.completeAll(tx, []resource{row})
	if err != nil {
		return apitoken.ResourceInfo{}, err
	}
	return all[0], nil
}

// info is a row as it is read, with its maintainers.
func (r resource) info(maintainers []resourceMaintainer) apitoken.ResourceInfo {
	info := apitoken.ResourceInfo{Audience: r.Audience, ID: r.ID, Name: r.Name, UpdatedAt: time.UnixMilli(r.UpdatedAt)}
	for _, one := range maintainers {
		maintainer := apitoken.Maintainer{Username: one.Username}
		if one.UserID != nil {
			maintainer.UserID = *one.UserID
		}
		info.Maintainers = append(info.Maintainers, maintainer)
	}
	return info
}

// PutResource implements apitoken.Resources.
func (s *Resources) PutResource(ctx context.Context, info apitoken.ResourceInfo) error {
	return tokenError(s.write(ctx, func(tx *gorm.DB) error { return s.put(tx, info) }))
}

// put stores a resource, and keeps to whom its maintainers' names were bound.
func (s *Resources) put(tx *gorm.DB, info apitoken.ResourceInfo) error {
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
}

// EditResource implements apitoken.Resources.
func (s *Resources) EditResource(ctx context.Context, audience, id string, edit func(apitoken.ResourceInfo) (apitoken.ResourceInfo, error)) (info apitoken.ResourceInfo, err error) {
	var refused error
	err = s.write(ctx, func(tx *gorm.DB) error {
		var row resource
		if err := s.locked(tx).Take(&row, "audience = ? AND id = ?", audience, id).Error; err != nil {
			return err
		}
		if info, err = s.complete(tx, row); err != nil {
			return err
		}
		if info, refused = edit(info); refused != nil {
			return refused
		}
		if err := s.put(tx, info); err != nil {
			return err
		}
		if err := tx.Take(&row, "audience = ? AND id = ?", audience, id).Error; err != nil {
			return err
		}
		info, err = s.complete(tx, row)
		return err
	})
	if refused != nil {
		return info, refused
	}
	return info, tokenError(err)
}

// ResourcesOf implements apitoken.Resources.
func (s *Resources) ResourcesOf(ctx context.Context, userID string) (all []apitoken.ResourceInfo, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		all = nil
		query := tx.Order("audience, id").Limit(MaxListed)
		bind, names := bindMaintainers, []any{}
		if userID != "" {
			bind, names = bind+" AND username = (SELECT username FROM users WHERE id = ?)", []any{userID}
			query = query.Where("EXISTS (SELECT 1 FROM resource_maintainers m WHERE m.audience = resources.audience AND m.resource = resources.id AND m.user_id = ?)", userID)
		} else {
			query = query.Where(`NOT EXISTS (SELECT 1 FROM resource_maintainers m JOIN users u ON u.id = m.user_id
				WHERE m.audience = resources.audience AND m.resource = resources.id AND u.disabled_at IS NULL AND u.set_aside_at IS NULL)`)
		}
		if err := tx.Exec(bind, names...).Error; err != nil {
			return err
		}
		var rows []resource
		if err := query.Find(&rows).Error; err != nil {
			return err
		}
		all, err = s.completeAll(tx, rows)
		return err
	})
	return all, tokenError(err)
}

// completeAll adds the maintainers of many resources.
func (s *Resources) completeAll(tx *gorm.DB, rows []resource) (all []apitoken.ResourceInfo, err error) {
	for batch := range slices.Chunk(rows, 500) {
		keys := make([][]any, 0, len(batch))
		for _, row := range batch {
			keys = append(keys, []any{row.Audience, row.ID})
		}
		var maintainers []resourceMaintainer
		if err := tx.Order("username").Find(&maintainers, "(audience, resource) IN ?", keys).Error; err != nil {
			return nil, err
		}
		of := map[[2]string][]resourceMaintainer{}
		for _, one := range maintainers {
			key := [2]string{one.Audience, one.Resource}
			of[key] = append(of[key], one)
		}
		for _, row := range batch {
			all = append(all, row.info(of[[2]string{row.Audience, row.ID}]))
		}
	}
	return all, nil
}
