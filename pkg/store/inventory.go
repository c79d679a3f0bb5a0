package store

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
)

// Listed is a connection as an operator may see it: without a secret.
type Listed struct {
	Username, UserID, Provider, Subject string
	Phase                               broker.Phase
	Reason, Rotates, Replica            string
	Version                             int64
	// Failure is what the provider answers about this connection again and again, since FailingSince. Ailing: it
	// has for a day, while others of the provider are served, so that a login is what may help.
	Failure string
	Ailing  bool
	// Zero times are unknown.
	ConnectedAt, UpdatedAt, AccessExpiresAt, RefreshExpiresAt, NextAttemptAt, PresentedAt, FailingSince time.Time
}

// ailingAfter is how long a connection fails before it is shown as ailing.
const ailingAfter = 24 * time.Hour

// maxListed bounds a list: it is for a person to read.
const maxListed = 10_000

// List lists connections by user and provider; an empty username is everybody's. Tombstones are left out.
func (s *Connections) List(ctx context.Context, username string) ([]Listed, error) {
	var rows []struct {
		Row      connection `gorm:"embedded"`
		Username string
		Ailing   bool
	}
	ailing := "(connections.failing_since <= ? AND EXISTS (SELECT 1 FROM connections o WHERE o.provider = connections.provider AND o.user_id <> connections.user_id AND o.access_issued_at > connections.failing_since)) AS ailing"
	err := s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		query := tx.Table("connections").Select("connections.*, users.username, "+ailing, time.Now().Add(-ailingAfter).UnixMilli()).Joins("JOIN users ON users.id = connections.user_id").
			Where("phase <> ?", string(broker.Disconnected)).Order("users.username, provider").Limit(maxListed)
		if username != "" {
			query = query.Where("users.username = ? AND users.set_aside_at IS NULL", username)
		}
		return query.Scan(&rows).Error
	})
	listed := make([]Listed, 0, len(rows))
	for _, one := range rows {
		row := one.Row
		listed = append(listed, Listed{
			Username: one.Username, UserID: row.UserID, Provider: row.Provider, Subject: row.Subject, Phase: broker.Phase(row.Phase),
			Reason: row.Reason, Rotates: row.Rotates, Replica: row.Replica, Version: row.Version,
			ConnectedAt: time.UnixMilli(row.ConnectedAt), UpdatedAt: time.UnixMilli(row.UpdatedAt), AccessExpiresAt: instant(row.AccessExpiresAt),
			RefreshExpiresAt: instant(row.RefreshExpiresAt), NextAttemptAt: instant(row.NextAttemptAt), PresentedAt: instant(row.PresentedAt),
			Failure: row.Failure, FailingSince: instant(row.FailingSince), Ailing: one.Ailing,
		})
	}
	return listed, err
}
