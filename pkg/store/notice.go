package store

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// noticeDue is the notice that is due of a token: the smallest number of days within which it ends, where its owner was
// not told so yet, and where it has lived so long that this is news. PostgreSQL infers a parameter's type from what
// stands beside it: beside a number, milliseconds would not fit.
const noticeDue = `SELECT id, CASE WHEN expires_at <= @tomorrow THEN 1 WHEN expires_at <= @week THEN 7 ELSE 30 END AS days
	FROM api_tokens WHERE revoked_at IS NULL AND expires_at > @now AND expires_at <= @month AND notice_at <= @now`

// daysFrom are the times within which something is about to end.
func daysFrom(now int64) map[string]any {
	day := (24 * time.Hour).Milliseconds()
	return map[string]any{"now": now, "tomorrow": now + day, "week": now + 7*day, "month": now + 30*day}
}

// TakeNotice implements apitoken.Notices.
func (s *APITokens) TakeNotice(ctx context.Context, lease time.Duration) (notice apitoken.Notice, due bool, err error) {
	err = s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		due = false
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		var row struct {
			ID   string
			Days int
		}
		query := "SELECT d.id, d.days FROM (" + noticeDue + `) d JOIN api_tokens t ON t.id = d.id
			WHERE (t.noticed = 0 OR t.noticed > d.days) AND t.created_at <= t.expires_at - d.days * CAST(86400000 AS bigint) ORDER BY t.expires_at LIMIT 1`
		if s.dialect == "postgres" {
			query += " FOR UPDATE OF t SKIP LOCKED"
		}
		if err := tx.Raw(query, daysFrom(now)).Scan(&row).Error; err != nil || row.ID == "" {
			return err
		}
		if err := tx.Exec("UPDATE api_tokens SET notice_at = ? WHERE id = ?", now+lease.Milliseconds(), row.ID).Error; err != nil {
			return err
		}
		due, notice.Days = true, row.Days
		notice.Token, err = s.take(tx, tx, "id = ?", row.ID)
		return err
	})
	return notice, due && err == nil, err
}

// Noticed implements apitoken.Notices.
func (s *APITokens) Noticed(ctx context.Context, notice apitoken.Notice) error {
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		return tx.Exec("UPDATE api_tokens SET noticed = ?, notice_at = 0 WHERE id = ?", notice.Days, notice.Token.ID).Error
	})
}
