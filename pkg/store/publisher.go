package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/publisher"
)

// Publishers keeps whose CI jobs act for resources; it implements publisher.Store.
type Publishers struct{ *core }

// publisherRow is a row of publishers. Times are unix milliseconds.
type publisherRow struct {
	ID         string `gorm:"primaryKey"`
	Audience   string
	Resource   string
	Issuer     string
	Subject    string
	Claims     string
	Scopes     string
	Name       string
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	CreatedBy  string
	LastUsedAt *int64
}

// TableName implements gorm's Tabler.
func (publisherRow) TableName() string { return "publishers" }

// assertion is a row of assertions: a job's token that was exchanged.
type assertion struct {
	Digest    string `gorm:"primaryKey"`
	ExpiresAt int64
}

// publisherError says in the owner's words that there is no such row, or that the database does not answer.
func publisherError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gorm.ErrRecordNotFound):
		return publisher.ErrUnknown
	}
	return fmt.Errorf("%w: %w", publisher.ErrUnavailable, err)
}

// CreatePublisher implements publisher.Store. The resource's row is locked, so that of two at once one is counted by
// the other.
func (s *Publishers) CreatePublisher(ctx context.Context, one publisher.Publisher, limit int) error {
	claims, err := json.Marshal(one.Claims)
	if err != nil {
		return fmt.Errorf("rendering the claims: %w", err)
	}
	row := publisherRow{
		ID: one.ID, Audience: one.Audience, Resource: one.Resource, Issuer: one.Issuer, Subject: one.Subject, Claims: string(claims),
		Scopes: strings.Join(one.Scopes, " "), Name: one.Name, CreatedAt: one.CreatedAt.UnixMilli(), CreatedBy: one.CreatedBy,
	}
	full := false
	err = s.write(ctx, func(tx *gorm.DB) error {
		if err := s.locked(tx).Take(&resource{}, "audience = ? AND id = ?", one.Audience, one.Resource).Error; err != nil {
			return err
		}
		var count int64
		if err := tx.Model(&publisherRow{}).Where("audience = ? AND resource = ?", one.Audience, one.Resource).Count(&count).Error; err != nil {
			return err
		}
		if full = count >= int64(limit); full {
			return nil
		}
		return tx.Create(&row).Error
	})
	if err == nil && full {
		return publisher.ErrFull
	}
	return publisherError(err)
}

// Publishers implements publisher.Store. A database that a failover has set back may have lost that one was deleted.
func (s *Publishers) Publishers(ctx context.Context, audience, id string) (all []publisher.Publisher, err error) {
	var rows []publisherRow
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		if _, err := s.fenced(tx); err != nil {
			return err
		}
		return tx.Order("created_at, id").Find(&rows, "audience = ? AND resource = ?", audience, id).Error
	})
	for _, row := range rows {
		one := publisher.Publisher{
			ID: row.ID, Audience: row.Audience, Resource: row.Resource, Issuer: row.Issuer, Subject: row.Subject, Name: row.Name, CreatedBy: row.CreatedBy,
			CreatedAt: time.UnixMilli(row.CreatedAt), LastUsedAt: instant(row.LastUsedAt), Scopes: strings.Fields(row.Scopes),
		}
		if err := json.Unmarshal([]byte(row.Claims), &one.Claims); err != nil { // a publisher that is half read would fit too much
			return nil, fmt.Errorf("%w: the claims of %s cannot be read", publisher.ErrUnavailable, row.ID)
		}
		all = append(all, one)
	}
	return all, publisherError(err)
}

// DeletePublisher implements publisher.Store.
func (s *Publishers) DeletePublisher(ctx context.Context, audience, id, publisherID string) error {
	return publisherError(s.run(ctx, func(tx *gorm.DB) error {
		result := tx.Delete(&publisherRow{}, "audience = ? AND resource = ? AND id = ?", audience, id, publisherID)
		if result.Error == nil && result.RowsAffected == 0 {
			return gorm.ErrRecordNotFound
		}
		return result.Error
	}))
}

// Spend implements publisher.Store.
func (s *Publishers) Spend(ctx context.Context, digest string, expires time.Time, publisherID string) error {
	replayed := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		spent := assertion{Digest: digest, ExpiresAt: expires.UnixMilli()}
		result := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(&spent)
		if replayed = result.Error == nil && result.RowsAffected == 0; replayed || result.Error != nil {
			return result.Error
		}
		return tx.Model(&publisherRow{}).Where("id = ?", publisherID).Update("last_used_at", now).Error
	})
	if err == nil && replayed {
		return publisher.ErrReplayed
	}
	return publisherError(err)
}
