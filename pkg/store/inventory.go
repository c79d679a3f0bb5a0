package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
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
	// Ends is when the grant ends. Expected: the provider did not state that, and is expected to end it by its habit.
	Ends     time.Time
	Expected bool
}

// ailingAfter is how long a connection fails before it is shown as ailing.
const ailingAfter = 24 * time.Hour

// Page is the part of a list that is wanted.
type Page struct {
	Limit int // 0 is MaxListed, which it may not exceed
	Skip  int
}

// MaxListed bounds a list: it is for a person to read.
const MaxListed = 10_000

// of narrows a query to the page.
func (p Page) of(query *gorm.DB) *gorm.DB {
	return query.Limit(min(cmp.Or(p.Limit, MaxListed), MaxListed)).Offset(p.Skip)
}

// ConnectionFilter narrows a list of connections. Tombstones are in none.
type ConnectionFilter struct {
	Username, Provider string // empty for all
	// Phase is one of broker's, or Ailing.
	Phase string
	// Within is for those that are good and whose grants end within a time, those that end first at the top; else the order
	// is by user and provider.
	Within time.Duration
	Page
}

// Ailing is, in a filter, what Listed.Ailing says.
const Ailing = "ailing"

// listedRow is a row of a list of connections.
type listedRow struct {
	Row      connection `gorm:"embedded"`
	Username string
	Ailing   bool
}

const ailing = `(connections.failing_since <= ? AND EXISTS (SELECT 1 FROM connections o WHERE o.provider = connections.provider
	AND o.user_id <> connections.user_id AND o.access_issued_at > connections.failing_since))`

// List lists connections.
func (s *Connections) List(ctx context.Context, filter ConnectionFilter) ([]Listed, error) {
	var rows []listedRow
	var habits broker.Habits
	var now int64
	err := s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		ended, err := readEnded(tx)
		if err != nil {
			return err
		}
		if now, err = s.now(tx); err != nil {
			return err
		}
		habits = broker.HabitsOf(ended)
		since := time.Now().Add(-ailingAfter).UnixMilli()
		query := filter.of(tx.Table("connections").Select("connections.*, users.username, "+ailing+" AS ailing", since).
			Joins("JOIN users ON users.id = connections.user_id").Where("phase <> ?", string(broker.Disconnected)))
		if filter.Within != 0 {
			ending, arguments := endingQuery(habits, now, filter.Within)
			query = query.Joins("JOIN (?) e ON e.user_id = connections.user_id AND e.provider = connections.provider", tx.Raw(ending, arguments)).Order("e.ends_at")
		}
		if filter.Username != "" {
			query = query.Where("users.username = ? AND users.set_aside_at IS NULL", filter.Username)
		}
		if filter.Provider != "" {
			query = query.Where("connections.provider = ?", filter.Provider)
		}
		if filter.Phase == Ailing {
			query = query.Where(ailing, since)
		} else if filter.Phase != "" {
			query = query.Where("phase = ?", filter.Phase)
		}
		return query.Order("users.username, connections.provider").Scan(&rows).Error
	})
	listed := make([]Listed, 0, len(rows))
	for i := range rows {
		listed = append(listed, rows[i].listed(habits, time.UnixMilli(now)))
	}
	return listed, err
}

// listed is the row as an operator may see it. Nothing of it is unsealed.
func (r *listedRow) listed(habits broker.Habits, now time.Time) Listed {
	row := &r.Row
	one := Listed{
		Username: r.Username, UserID: row.UserID, Provider: row.Provider, Subject: row.Subject, Phase: broker.Phase(row.Phase),
		Reason: row.Reason, Rotates: row.Rotates, Replica: row.Replica, Version: row.Version,
		ConnectedAt: time.UnixMilli(row.ConnectedAt), UpdatedAt: time.UnixMilli(row.UpdatedAt), AccessExpiresAt: instant(row.AccessExpiresAt),
		RefreshExpiresAt: instant(row.RefreshExpiresAt), NextAttemptAt: instant(row.NextAttemptAt), PresentedAt: instant(row.PresentedAt),
		Failure: row.Failure, FailingSince: instant(row.FailingSince), Ailing: r.Ailing,
	}
	stated := one.RefreshExpiresAt
	if row.RefreshToken == nil {
		stated = one.AccessExpiresAt
	}
	one.Ends, one.Expected = habits.Ends(one.Provider, one.Phase, stated, one.ConnectedAt, now)
	return one
}

// joined is how the ids of a user's providers become one text, one a line.
func (s *Users) joined() string {
	if s.dialect == "sqlite" {
		return "group_concat(c.provider, char(10))"
	}
	return "string_agg(c.provider, chr(10))"
}

// ErrTaken says that a username is another user's.
var ErrTaken = errors.New("the name is another user's")

// UserFilter narrows a list of users.
type UserFilter struct {
	Username string // those who have or had it; empty for all
	State    string // active, disabled or set aside; empty for all
	Page
}

// userStates are the conditions of UserFilter.State.
var userStates = map[string]string{
	"active": "users.disabled_at IS NULL AND users.set_aside_at IS NULL", "disabled": "users.disabled_at IS NOT NULL AND users.set_aside_at IS NULL",
	"set aside": "users.set_aside_at IS NOT NULL",
}

// List lists users by name.
func (s *Users) List(ctx context.Context, filter UserFilter) ([]authn.Account, error) {
	return s.list(ctx, func(tx *gorm.DB) *gorm.DB {
		if filter.Username != "" {
			tx = tx.Where("users.username = ?", filter.Username)
		}
		if condition := userStates[filter.State]; condition != "" {
			tx = tx.Where(condition)
		}
		return filter.of(tx)
	})
}

// What is typed is the beginning of a name and no pattern: the characters that LIKE reads otherwise are escaped. An empty
// beginning lists all, up to the limit.

// Search lists the users whose names begin so, by name.
func (s *Users) Search(ctx context.Context, beginning string, limit int) ([]authn.Account, error) {
	escaped := strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(beginning)
	return s.list(ctx, func(tx *gorm.DB) *gorm.DB {
		return tx.Where(`users.username LIKE ? ESCAPE '\'`, escaped+"%").Limit(limit)
	})
}

// list reads users, with how much they have.
func (s *Users) list(ctx context.Context, narrow func(*gorm.DB) *gorm.DB) (all []authn.Account, err error) {
	var rows []struct {
		Row                           user `gorm:"embedded"`
		Groups, Providers             *string
		SeenAt                        *int64
		Connections, Tokens, Sessions int
	}
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		query := tx.Table("users").Select(`users.*, (SELECT `+s.joined()+` FROM connections c WHERE c.user_id = users.id AND c.phase NOT IN ('broken', 'disconnected')) AS providers,
			(SELECT count(*) FROM connections c WHERE c.user_id = users.id AND c.phase NOT IN ('broken', 'disconnected')) AS connections,
			(SELECT count(*) FROM api_tokens t WHERE t.user_id = users.id AND t.kind = 'personal' AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?)) AS tokens,
			(SELECT count(*) FROM sessions e WHERE e.user_id = users.id AND e.ends_at > ?) AS sessions,
			(SELECT max(seen_at) FROM sessions e WHERE e.user_id = users.id) AS seen_at`, now, now).Order("users.username, users.created_at")
		return narrow(query).Scan(&rows).Error
	})
	for _, row := range rows {
		one := authn.Account{
			ID: row.Row.ID, Username: row.Row.Username, Issuer: row.Row.Issuer, Subject: row.Row.Subject, CreatedAt: time.UnixMilli(row.Row.CreatedAt),
			DisabledAt: instant(row.Row.DisabledAt), SetAsideAt: instant(row.Row.SetAsideAt), SeenAt: instant(row.SeenAt),
			Connections: row.Connections, Tokens: row.Tokens, Sessions: row.Sessions,
		}
		if row.Groups != nil && *row.Groups != "" {
			one.Groups = strings.Split(*row.Groups, "\n")
		}
		if row.Providers != nil {
			one.Providers = strings.Split(*row.Providers, "\n")
			slices.Sort(one.Providers)
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
