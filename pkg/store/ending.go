package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// Endings knows which grants are about to end, and what was told of it. It implements broker.EndedStore and
// apitoken.ConnectionNotices.
type Endings struct{ *core }

// sameEnd is by how much two statements of a grant's end may differ that mean the same one: providers state how many
// seconds are left.
const sameEnd = time.Minute

// The connections that are good, and when their providers say that their grants end. Two indexes of the eleventh
// migration are for these very expressions.
const (
	connectionGood = "c.phase IN ('ready', 'refreshing', 'suspect')"
	endStated      = "CASE WHEN c.refresh_token IS NULL THEN c.access_expires_at ELSE c.refresh_expires_at END"
)

// connectionsEnding are the grants that end after @now, and until @until. stated_at is since when
// it is known that this is their end, so that a grant whose end moves on with every use is not told about as if it had
// always been about to end.
const connectionsEnding = `WITH habits (provider, age) AS (%s)
	SELECT c.user_id, c.provider, c.connected_at, ` + endStated + ` AS ends_at, FALSE AS expected,
		CASE WHEN c.end_stated_at > c.connected_at THEN c.end_stated_at ELSE c.connected_at END AS stated_at
	FROM connections c WHERE ` + connectionGood + " AND " + endStated + " > @now AND " + endStated + ` <= @until
	UNION ALL
	SELECT c.user_id, c.provider, c.connected_at, c.connected_at + h.age, TRUE, c.connected_at
	FROM habits h JOIN connections c ON c.provider = h.provider
	WHERE ` + connectionGood + " AND " + endStated + ` IS NULL AND c.connected_at > @now - h.age AND c.connected_at <= @until - h.age`

// endingQuery is connectionsEnding, by the habits of providers. PostgreSQL infers the parameters' types from what they
// are compared with, so that none of them stands beside a number.
func endingQuery(habits broker.Habits, now int64, within time.Duration) (query string, arguments map[string]any) {
	arguments = map[string]any{"now": now, "until": now + within.Milliseconds(), "tomorrow": now + (24 * time.Hour).Milliseconds()}
	rows := []string{"SELECT CAST('' AS text), CAST(0 AS bigint) WHERE FALSE"}
	for i, id := range slices.Sorted(maps.Keys(habits)) {
		rows = append(rows, fmt.Sprintf("SELECT CAST(@provider%d AS text), CAST(@age%d AS bigint)", i, i))
		arguments[fmt.Sprint("provider", i)], arguments[fmt.Sprint("age", i)] = id, habits[id].Milliseconds()
	}
	return fmt.Sprintf(connectionsEnding, strings.Join(rows, " UNION ALL ")), arguments
}

// What a swap notes of a grant that its provider ended.
const endedInsert = "INSERT INTO grants_ended (provider, user_id, connected_at, ended_at)"

func endedValues(ended broker.Ended) []any {
	return []any{ended.Provider, ended.UserID, ended.ConnectedAt.UnixMilli(), ended.EndedAt.UnixMilli()}
}

// Ended implements broker.EndedStore.
func (s *Endings) Ended(ctx context.Context) (ended []broker.Ended, err error) {
	err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		ended, err = readEnded(tx)
		return err
	})
	return ended, err
}

// readEnded reads the grants that providers ended: a few of each provider, since the janitor deletes the others.
func readEnded(tx *gorm.DB) ([]broker.Ended, error) {
	var rows []struct {
		Provider, UserID     string
		ConnectedAt, EndedAt int64
	}
	if err := tx.Raw("SELECT * FROM grants_ended").Scan(&rows).Error; err != nil {
		return nil, err
	}
	ended := make([]broker.Ended, 0, len(rows))
	for _, row := range rows {
		ended = append(ended, broker.Ended{Provider: row.Provider, UserID: row.UserID, ConnectedAt: time.UnixMilli(row.ConnectedAt), EndedAt: time.UnixMilli(row.EndedAt)})
	}
	return ended, nil
}

// cutEnded keeps the latest grants that each provider ended.
func (s *core) cutEnded(tx *gorm.DB) error {
	return tx.Exec(`DELETE FROM grants_ended WHERE ended_at < (SELECT o.ended_at FROM grants_ended o
		WHERE o.provider = grants_ended.provider ORDER BY o.ended_at DESC LIMIT 1 OFFSET ?)`, broker.HabitsOfLatest-1).Error
}

// EndingSoon is how many grants of a provider end within a day, and within a week, where they were not made to.
type EndingSoon struct {
	Provider  string
	Day, Week int64
}

// Soon counts the grants that are about to end, by provider; none of a provider that has none.
func (s *Endings) Soon(ctx context.Context) (soon []EndingSoon, err error) {
	err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		soon = nil
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		ended, err := readEnded(tx)
		if err != nil {
			return err
		}
		query, arguments := endingQuery(broker.HabitsOf(ended), now, 7*24*time.Hour)
		return tx.Raw(`SELECT e.provider, sum(CASE WHEN e.ends_at <= @tomorrow AND e.stated_at <= e.ends_at - 86400000 THEN 1 ELSE 0 END) AS day,
			sum(CASE WHEN e.stated_at <= e.ends_at - 7 * 86400000 THEN 1 ELSE 0 END) AS week
			FROM (`+query+`) e JOIN users u ON u.id = e.user_id AND u.disabled_at IS NULL AND u.set_aside_at IS NULL GROUP BY e.provider`, arguments).Scan(&soon).Error
	})
	return soon, err
}

// connectionDue is the notice that is due of a connection: the smallest number of days within which it ends, where its
// user was not told so yet, and where its end was known for so long that this is news.
const connectionDue = `SELECT d.*, u.username FROM (SELECT e.*, CASE WHEN e.ends_at <= @tomorrow THEN 1 ELSE 7 END AS days FROM (%s) e) d
	JOIN users u ON u.id = d.user_id AND u.disabled_at IS NULL AND u.set_aside_at IS NULL
	LEFT JOIN grant_notices n ON n.user_id = d.user_id AND n.provider = d.provider AND n.connected_at = d.connected_at
	WHERE d.stated_at <= d.ends_at - d.days * 86400000 AND (n.user_id IS NULL OR n.notice_at <= @now AND (n.noticed = 0 OR n.noticed > d.days))
	ORDER BY d.ends_at LIMIT 1`

// takeConnection is the lease of a notice, unless another replica has it, or has sent it meanwhile.
const takeConnection = `INSERT INTO grant_notices (user_id, provider, connected_at, noticed, notice_at) VALUES (@user, @provider, @connected, 0, @until)
	ON CONFLICT (user_id, provider) DO UPDATE SET connected_at = excluded.connected_at, notice_at = excluded.notice_at,
		noticed = CASE WHEN grant_notices.connected_at = excluded.connected_at THEN grant_notices.noticed ELSE 0 END
	WHERE grant_notices.connected_at <> excluded.connected_at
		OR grant_notices.notice_at <= @now AND (grant_notices.noticed = 0 OR grant_notices.noticed > @days)`

// TakeNotice implements apitoken.ConnectionNotices.
func (s *Endings) TakeNotice(ctx context.Context, lease time.Duration) (notice apitoken.ConnectionNotice, due bool, err error) {
	err = s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		due = false
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		ended, err := readEnded(tx)
		if err != nil {
			return err
		}
		var row struct {
			UserID, Username, Provider string
			ConnectedAt, EndsAt        int64
			Expected                   bool
			Days                       int
		}
		query, arguments := endingQuery(broker.HabitsOf(ended), now, 7*24*time.Hour)
		if err := tx.Raw(fmt.Sprintf(connectionDue, query), arguments).Scan(&row).Error; err != nil || row.UserID == "" {
			return err
		}
		taken := tx.Exec(takeConnection, map[string]any{
			"user": row.UserID, "provider": row.Provider, "connected": row.ConnectedAt, "until": now + lease.Milliseconds(), "now": now, "days": row.Days,
		})
		due = taken.RowsAffected == 1
		notice = apitoken.ConnectionNotice{
			UserID: row.UserID, Username: row.Username, Provider: row.Provider, ConnectedAt: time.UnixMilli(row.ConnectedAt),
			EndsAt: time.UnixMilli(row.EndsAt), Expected: row.Expected, Days: row.Days,
		}
		return taken.Error
	})
	return notice, due && err == nil, err
}

// Noticed implements apitoken.ConnectionNotices.
func (s *Endings) Noticed(ctx context.Context, notice apitoken.ConnectionNotice) error {
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		return tx.Exec("UPDATE grant_notices SET noticed = ?, notice_at = 0 WHERE user_id = ? AND provider = ? AND connected_at = ?",
			notice.Days, notice.UserID, notice.Provider, notice.ConnectedAt.UnixMilli()).Error
	})
}
