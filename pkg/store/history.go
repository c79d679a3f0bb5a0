package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/audit"
)

// A connection that is used all day has thousands of entries, and one that is never used has none: for either the last one
// is found by one look along an index that has these alone, and not by reading the others.
const lastHandout = `SELECT provider, at, actor, peer FROM audit_entries WHERE user_id = ? AND provider = %s AND action = 'handout' AND reason = '' ORDER BY at DESC LIMIT 1`

// Handouts implements audit.History. PostgreSQL plans one look for all providers; SQLite, which has no LATERAL, one for
// each, which costs it little.
func (s *Audit) Handouts(ctx context.Context, userID string, providers []string) (map[string]audit.Entry, error) {
	if len(providers) == 0 {
		return nil, nil
	}
	query, arguments := "SELECT last.* FROM unnest(string_to_array(?, chr(10))) p(id) CROSS JOIN LATERAL ("+fmt.Sprintf(lastHandout, "p.id")+") last", []any{strings.Join(providers, "\n"), userID}
	if s.dialect == "sqlite" {
		one := "SELECT * FROM (" + fmt.Sprintf(lastHandout, "?") + ") last"
		query, arguments = strings.Repeat(one+" UNION ALL ", len(providers)-1)+one, nil
		for _, id := range providers {
			arguments = append(arguments, userID, id)
		}
	}
	found := make(map[string]audit.Entry, len(providers))
	err := s.run(ctx, func(tx *gorm.DB) error {
		rows, err := tx.Raw(query, arguments...).Rows()
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var entry audit.Entry
			var at int64
			if err := rows.Scan(&entry.Provider, &at, &entry.Actor, &entry.Peer); err != nil {
				return err
			}
			entry.At = time.UnixMilli(at)
			found[entry.Provider] = entry
		}
		return rows.Err()
	})
	return found, err
}

const aDay = 24 * time.Hour

// The days are those of UTC, since the database knows no other: a person's own day may be cut in two. Entries that stand
// for several events count as many.

// Days implements audit.History.
func (s *Audit) Days(ctx context.Context, userID string, days int, last time.Time) ([]int64, error) {
	first := last.UTC().Truncate(aDay).AddDate(0, 0, 1-days)
	var rows []struct{ Day, Count int64 }
	err := s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Raw(`SELECT (at - @first) / @day AS day, sum(times) AS count FROM audit_entries
			WHERE user_id = @user AND at >= @first AND action IN ('handout', 'mint') AND reason = '' GROUP BY 1`,
			map[string]any{"first": first.UnixMilli(), "day": aDay.Milliseconds(), "user": userID}).Scan(&rows).Error
	})
	counts := make([]int64, days)
	for _, row := range rows {
		if row.Day >= 0 && row.Day < int64(days) {
			counts[row.Day] = row.Count
		}
	}
	return counts, err
}
