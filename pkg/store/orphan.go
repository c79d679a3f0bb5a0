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
	orphanFlights = orphanColumns + `c.flight <> '' AND c.claimed_at <= @now - @rested
	AND (c.replica = @replica OR c.replica NOT IN @healthy OR c.claimed_at <= @now - @overdue)
	ORDER BY c.claimed_at LIMIT 500`
	orphanDoubts = orphanColumns + `c.phase = 'suspect' AND c.flight = '' AND c.next_attempt_at <= @now - @rested ORDER BY c.next_attempt_at LIMIT 500`
)

// Orphans implements broker.Store.
func (s *Connections) Orphans(ctx context.Context, look broker.Look) (orphans []broker.Orphan, pulse broker.Pulse, err error) {
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
			"now": s.clock(), "replica": look.Replica, "healthy": append(look.Healthy, ""), "overdue": look.Overdue.Milliseconds(), "rested": look.Rested.Milliseconds(),
		}
		err := errors.Join(tx.Raw(orphanFlights, arguments).Scan(&flights).Error, tx.Raw(orphanDoubts, arguments).Scan(&doubts).Error)
		reading.Received = time.Now()
		rows = append(flights, doubts...)
		if err != nil {
			return err
		}
		pulse, err = s.pulse(tx)
		if err == nil && !pulse.Settled {
			err = errUnsettled
		}
		return err
	})
	if err != nil {
		return nil, broker.Pulse{}, err
	}
	orphans = make([]broker.Orphan, 0, len(rows))
	for i := range rows {
		row := &rows[i]
		orphans = append(orphans, broker.Orphan{Row: s.open(&row.Row, s.readingAt(databaseState{Now: row.Now, Incarnation: pulse.Reading.Incarnation}, reading)), ProviderRotates: row.ProviderRotates})
	}
	return orphans, pulse, nil
}

// replica is a process whose heartbeat changes as long as it lives.
type replica struct {
	ID     string `gorm:"primaryKey"`
	BeatAt int64
	// Offered is the incarnation in which it has offered what it had stored.
	Offered string
	// Of the last step back of the database's clock that it saw; milliseconds.
	SteppedUntil, SteppedBy int64
	// Gone: its process is dead.
	Gone bool
}

// Beat implements broker.Replicas.
func (s *Replicas) Beat(ctx context.Context, beat broker.Beat) (pulse broker.Pulse, err error) {
	err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		until := int64(0)
		if beat.Stepped.By > 0 {
			until = beat.Stepped.Until.UnixMilli()
		}
		// It never goes back, so that those who begin later see that the clock did.
		err := tx.Exec(`INSERT INTO replicas (id, beat_at, offered, stepped_until, stepped_by) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
			SET beat_at = CASE WHEN excluded.beat_at > replicas.beat_at THEN excluded.beat_at ELSE replicas.beat_at + 1 END, gone = FALSE, offered = excluded.offered, stepped_until = excluded.stepped_until, stepped_by = excluded.stepped_by`,
			beat.Replica, s.clock(), beat.Offered, until, beat.Stepped.By.Milliseconds()).Error
		if err != nil {
			return err
		}
		pulse, err = s.pulse(tx)
		return err
	})
	return pulse, err
}

// Gone implements broker.Replicas.
func (s *Replicas) Gone(ctx context.Context, id string) error {
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		return tx.Exec("UPDATE replicas SET gone = TRUE WHERE id = ?", id).Error
	})
}

// pulse is the heartbeats of all replicas that are kept, and the state of the database.
func (s *core) pulse(tx *gorm.DB) (broker.Pulse, error) {
	var rows []struct {
		Replica replica       `gorm:"embedded"`
		State   databaseState `gorm:"embedded"`
	}
	reading := broker.Reading{Sent: time.Now()}
	if err := tx.Raw("SELECT r.*, d.* FROM ? d LEFT JOIN replicas r ON TRUE", s.state()).Scan(&rows).Error; err != nil {
		return broker.Pulse{}, err
	}
	reading.Received = time.Now()
	state := rows[0].State
	pulse := broker.Pulse{Reading: s.readingAt(state, reading), Beats: make(map[string]int64, len(rows)), Gone: map[string]bool{}, Offered: make(map[string]bool, len(rows)), Settled: state.Settled}
	for _, one := range rows {
		replica := one.Replica
		if replica.ID != "" {
			pulse.Beats[replica.ID], pulse.Offered[replica.ID] = replica.BeatAt, replica.Offered == state.Incarnation
		}
		if replica.Gone {
			pulse.Gone[replica.ID] = true
		}
		if replica.SteppedBy > 0 {
			pulse.Stepped = append(pulse.Stepped, broker.Step{Until: time.UnixMilli(replica.SteppedUntil), By: time.Duration(replica.SteppedBy) * time.Millisecond})
		}
	}
	return pulse, s.current(state.Incarnation)
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
