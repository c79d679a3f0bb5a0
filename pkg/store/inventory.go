package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
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

// ListedUser is a user as an operator may see them.
type ListedUser struct {
	ID, Username, Issuer, Subject string
	Groups                        []string
	// Zero times: they are not disabled, were not set aside, have no session.
	CreatedAt, DisabledAt, SetAsideAt, SeenAt time.Time
	// Connections that are good or in doubt, and API tokens and sessions that have not ended.
	Connections, Tokens, Sessions int
}

// ErrTaken says that a username is another user's.
var ErrTaken = errors.New("the name is another user's")

// List lists users by name; a username narrows it to those who have or had it.
func (s *Users) List(ctx context.Context, username string) (all []ListedUser, err error) {
	var rows []struct {
		Row                           user `gorm:"embedded"`
		Groups                        *string
		SeenAt                        *int64
		Connections, Tokens, Sessions int
	}
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		query := tx.Table("users").Select(`users.*,
			(SELECT count(*) FROM connections c WHERE c.user_id = users.id AND c.phase NOT IN ('broken', 'disconnected')) AS connections,
			(SELECT count(*) FROM api_tokens t WHERE t.user_id = users.id AND t.kind = 'personal' AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?)) AS tokens,
			(SELECT count(*) FROM sessions e WHERE e.user_id = users.id AND e.ends_at > ?) AS sessions,
			(SELECT max(seen_at) FROM sessions e WHERE e.user_id = users.id) AS seen_at`, now, now).Order("users.username, users.created_at").Limit(maxListed)
		if username != "" {
			query = query.Where("users.username = ?", username)
		}
		return query.Scan(&rows).Error
	})
	for _, row := range rows {
		one := ListedUser{
			ID: row.Row.ID, Username: row.Row.Username, Issuer: row.Row.Issuer, Subject: row.Row.Subject, CreatedAt: time.UnixMilli(row.Row.CreatedAt),
			DisabledAt: instant(row.Row.DisabledAt), SetAsideAt: instant(row.Row.SetAsideAt), SeenAt: instant(row.SeenAt),
			Connections: row.Connections, Tokens: row.Tokens, Sessions: row.Sessions,
		}
		if row.Groups != nil && *row.Groups != "" {
			one.Groups = strings.Split(*row.Groups, "\n")
		}
		all = append(all, one)
	}
	return all, err
}

// Rename lets a user be called otherwise, until their next login, when the provider has the word. ErrTaken where another
// user has the name.
func (s *Users) Rename(ctx context.Context, username, to string) error {
	taken := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		var row user
		if err := s.locked(tx).Take(&row, "username = ? AND set_aside_at IS NULL", username).Error; err != nil {
			return err
		}
		var others int64
		if err := tx.Model(&user{}).Where("username = ? AND set_aside_at IS NULL AND id <> ?", to, row.ID).Count(&others).Error; err != nil {
			return err
		}
		if taken = others > 0; taken {
			return nil
		}
		if err := s.tell(tx, now, userChanged, row.object()); err != nil { // the name until now
			return err
		}
		if err := s.legacy.rename(tx, &row, to); err != nil {
			return err
		}
		row.Username = to
		if err := tx.Save(&row).Error; err != nil {
			return err
		}
		return s.tell(tx, now, userChanged, row.object())
	})
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return authn.ErrUnknown
	case err == nil && taken:
		return ErrTaken
	}
	return err
}
