package audit

import (
	"context"
	"time"
)

// History is what a page shows of the audit: each of its methods is one statement.
type History interface {
	// Find are the newest that fit, the newest first.
	Find(ctx context.Context, filter Filter) ([]Entry, error)
	// Handouts are the last token of each of these providers that was handed out in a user's name, by provider.
	Handouts(ctx context.Context, userID string, providers []string) (map[string]Entry, error)
	// Days counts what was handed out in a user's name by day (UTC): so many days, the last of them a time's.
	Days(ctx context.Context, userID string, days int, last time.Time) ([]int64, error)
}
