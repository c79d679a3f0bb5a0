package store

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
)

// orphanQuery finds flights for a sweeper to judge, and rows of which an earlier presentation's outcome is
// not known. Each half has an index of its own.
const (
	orphanColumns = `SELECT c.*, @now AS now,
	EXISTS (SELECT 1 FROM connections o WHERE o.provider = c.provider AND o.rotates = 'yes') AS provider_rotates
	FROM connections c WHERE `
	orphanFlights = orphanColumns + `c.flight <> '' AND c.claimed_at <= @now - 1000
	AND (c.replica = @replica OR c.replica NOT IN @healthy OR c.claimed_at <= @now - @overdue)
	ORDER BY c.claimed_at LIMIT 500`
	orphanDoubts = orphanColumns + `c.phase = 'suspect' AND c.flight = '' AND c.next_attempt_at <= @now - 1000 ORDER BY c.next_attempt_at LIMIT 500`
)

// Orphans implements broker.Store.
func (s *Connections) Orphans(ctx context.Context, look broker.Look) (orphans []broker.Orphan, beats map[string]int64, err error) {
	type found struct {
		Row             connection `gorm:"embedded"`
		Now             int64
		ProviderRotates bool
	}
	var rows []found
	var reading broker.Reading
	err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		var flights, doubts []found
		reading = broker.Reading{Sent: time.Now()}
		arguments := map[string]any{
			"now": s.clock(), "replica": look.Replica, "healthy": append(look.Healthy, ""), "overdue": look.Overdue.Milliseconds(),
		}
		err := errors.Join(tx.Raw(orphanFlights, arguments).Scan(&flights).Error, tx.Raw(orphanDoubts, arguments).Scan(&doubts).Error)
		reading.Received = time.Now()
		rows = append(flights, doubts...)
		if err != nil {
			return err
		}
		beats, err = s.beats(tx)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	orphans = make([]broker.Orphan, 0, len(rows))
	for i := range rows {
		row := &rows[i]
		orphans = append(orphans, broker.Orphan{Row: s.open(&row.Row, s.readingAt(row.Now, reading)), ProviderRotates: row.ProviderRotates})
	}
	return orphans, beats, nil
}

// replica is a process whose heartbeat changes as long as it lives.
type replica struct {
	ID     string `gorm:"primaryKey"`
	BeatAt int64
}

// Beat implements broker.Replicas.
func (s *Replicas) Beat(ctx context.Context, id string) (beats map[string]int64, err error) {
	err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		beat := "INSERT INTO replicas (id, beat_at) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at"
		if err := tx.Exec(beat, id, s.clock()).Error; err != nil {
			return err
		}
		beats, err = s.beats(tx)
		return err
	})
	return beats, err
}

// beats are the heartbeats of all replicas that are kept.
func (s *core) beats(tx *gorm.DB) (map[string]int64, error) {
	var rows []replica
	if err := tx.Find(&rows).Error; err != nil {
		return nil, err
	}
	beats := make(map[string]int64, len(rows))
	for _, one := range rows {
		beats[one.ID] = one.BeatAt
	}
	return beats, nil
}

// clock is the database's time as an expression, or a value where the database has this process's.
func (s *core) clock() any {
	if s.dialect == "sqlite" {
		return time.Now().UnixMilli()
	}
	return gorm.Expr("(extract(epoch FROM statement_timestamp()) * 1000)::bigint")
}

// Alone tells whether this is the only process on the database: SQLite serves one.
func (s *Store) Alone() bool { return s.dialect == "sqlite" }
