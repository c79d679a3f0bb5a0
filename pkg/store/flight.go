package store

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
)

// replica is a process that is alive as long as it beats.
type replica struct {
	ID     string `gorm:"primaryKey"`
	BeatAt int64
}

// clock is the database's time as an expression, or a value where the database has this process'.
func (s *Store) clock() any {
	if s.dialect == "sqlite" {
		return time.Now().UnixMilli()
	}
	return gorm.Expr("(extract(epoch FROM statement_timestamp()) * 1000)::bigint")
}

// Beat implements broker.Flights.
func (s *Store) Beat(ctx context.Context, id string) (living int, err error) {
	err = s.read(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec("INSERT INTO replicas (id, beat_at) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at", id, s.clock()).Error; err != nil {
			return err
		}
		return tx.Raw("SELECT count(*) FROM replicas WHERE beat_at > ? - 3000", s.clock()).Scan(&living).Error
	})
	return living, err
}

const claimStatement = `UPDATE connections SET flight = @flight, replica = @replica, version = version + 1, claimed_at = @now, updated_at = @now,
	presented_at = coalesce(presented_at, @now), phase = 'refreshing',
	reason = CASE WHEN phase = 'suspect' OR flight <> '' OR reason = 'suspect' THEN 'suspect' ELSE '' END
	WHERE user_id = @user AND provider = @provider AND version = @version AND flight = @over AND phase IN ('ready', 'refreshing', 'suspect')
	AND (next_attempt_at IS NULL OR next_attempt_at <= @now OR @over <> '')`

// Claim implements broker.Flights: one statement, which nothing can come between. Where it is not known
// whether it was done, the row says so: it names the flight.
func (s *Store) Claim(ctx context.Context, claim broker.Claim) (broker.Flight, error) {
	var row connection
	var now int64
	err := s.read(ctx, func(tx *gorm.DB) (err error) {
		failed := tx.Exec(claimStatement, map[string]any{
			"flight": claim.ID, "replica": claim.Replica, "now": s.clock(), "user": claim.UserID, "provider": claim.Provider,
			"version": claim.Version, "over": claim.Over,
		}).Error
		row = connection{}
		if err := tx.Take(&row, "user_id = ? AND provider = ?", claim.UserID, claim.Provider).Error; err != nil {
			return errors.Join(err, failed)
		}
		if row.Flight != claim.ID && failed != nil {
			return failed
		}
		now, err = s.now(tx)
		return err
	})
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return broker.Flight{}, broker.ErrSuperseded
	case err != nil:
		return broker.Flight{}, err
	case row.Flight == claim.ID:
		presented := time.Duration(0)
		if row.PresentedAt != nil {
			presented = time.Duration(now-*row.PresentedAt) * time.Millisecond
		}
		return broker.Flight{
			Presented: presented,
			ID:        claim.ID, Connection: s.open(&row), Digest: row.RefreshDigest, Doubtful: row.Reason == string(broker.Suspect),
			First: firstOf(&row),
		}, nil
	case row.Flight != "":
		return broker.Flight{}, broker.ErrClaimed
	case row.NextAttemptAt != nil && *row.NextAttemptAt > now:
		return broker.Flight{}, &broker.NotYet{In: time.Duration(*row.NextAttemptAt-now) * time.Millisecond}
	}
	return broker.Flight{}, broker.ErrSuperseded
}

// Commit implements broker.Flights. The condition is on the digest of the token that was presented, not
// on the claim: whoever comes back with a successor of the token that is stored wins, even a process
// that was paused while another took over, and even over a row just found broken for that same token.
func (s *Store) Commit(ctx context.Context, flight broker.Flight, tokens provider.Tokens) error {
	return s.settle(ctx, flight, func(tx *gorm.DB, row *connection, now int64) error {
		rotated := tokens.RefreshToken != "" && tokens.RefreshToken != flight.RefreshToken
		successor := s.keys.Digest(string(tokens.RefreshToken))
		switch same := string(row.RefreshDigest); {
		case !rotated && (row.Phase == string(broker.Broken) || flight.Version <= row.StoredVersion):
			return broker.ErrSuperseded // it says nothing that a later flight has not
		case row.Phase == string(broker.Disconnected):
			if err := s.unwanted(tx, row, tokens.RefreshToken, now); err != nil {
				return err
			}
			return errDone
		case same == string(flight.Digest):
		case rotated && same == string(successor):
			return errStored // it was committed, and only the word of it was lost
		case rotated && string(row.ParentDigest) == string(flight.Digest) && flight.Version > row.StoredVersion && row.Flight == "" && row.PresentedAt == nil:
			// Two successors of one parent: the later claim's, while nobody has claimed the other.
		default:
			return broker.ErrSuperseded
		}
		revived := row.Phase == string(broker.Broken)
		if rotated {
			row.ParentDigest, row.Rotates = flight.Digest, string(broker.RotationYes)
		} else {
			tokens.RefreshToken = ""
			if row.Rotates != string(broker.RotationYes) {
				row.Rotates = string(broker.RotationNo)
			}
		}
		s.seal(row, tokens)
		if rotated || row.Flight == flight.ID || row.Flight == "" {
			row.Flight, row.Replica, row.ClaimedAt, row.PresentedAt = "", "", nil, nil
			row.Phase, row.Reason = string(broker.Ready), ""
		}
		row.NextAttemptAt, row.StoredVersion = nil, flight.Version
		if rotated {
			if err := s.gen3Spent(tx, row.UserID, row.Provider, flight.RefreshToken); err != nil {
				return err
			}
		}
		if revived {
			return s.tell(tx, now, connectionChanged, row.object())
		}
		return nil
	})
}

// Settle implements broker.Flights.
func (s *Store) Settle(ctx context.Context, flight broker.Flight, verdict broker.Verdict) error {
	return s.settle(ctx, flight, func(tx *gorm.DB, row *connection, now int64) error {
		if row.Phase == string(broker.Disconnected) || string(row.RefreshDigest) != string(flight.Digest) ||
			verdict.Phase != broker.Broken && row.Flight != flight.ID {
			return broker.ErrSuperseded
		}
		row.Flight, row.Replica, row.ClaimedAt = "", "", nil
		row.Phase, row.Reason = string(verdict.Phase), verdict.Reason
		row.NextAttemptAt = nil
		if verdict.After > 0 || verdict.Phase == broker.Suspect { // doubts are found by it
			at := now + verdict.After.Milliseconds()
			row.NextAttemptAt = &at
		}
		if verdict.Unsent && flight.First {
			row.PresentedAt = nil
		}
		if verdict.Phase != broker.Broken {
			return nil
		}
		if err := s.gen3Spent(tx, row.UserID, row.Provider, flight.RefreshToken); err != nil {
			return err
		}
		return s.tell(tx, now, connectionChanged, row.object())
	})
}

var (
	errDone   = errors.New("nothing of the row changes, and what was done stays")
	errStored = errors.New("stored already")
)

// settle changes a row at the end of a flight, and wakes whoever waits for it.
func (s *Store) settle(ctx context.Context, flight broker.Flight, change func(tx *gorm.DB, row *connection, now int64) error) error {
	superseded := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		superseded = false
		row, now, err := s.lockConnection(tx, flight.UserID, flight.Provider)
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return broker.ErrSuperseded
		}
		if err != nil {
			return err
		}
		switch err := change(tx, row, now); {
		case errors.Is(err, errDone):
			superseded = true
			return nil
		case errors.Is(err, errStored):
			return nil
		case err != nil:
			return err
		}
		row.Version, row.UpdatedAt = row.Version+1, now
		if err := tx.Save(row).Error; err != nil {
			return err
		}
		return s.tellLanded(tx, row.object())
	})
	if superseded || errors.Is(err, broker.ErrSuperseded) {
		return broker.ErrSuperseded
	}
	return err
}

// orphanQuery finds flights that are somebody's to judge, and rows of which an earlier presentation's
// outcome is not known. Each half has an index of its own.
const (
	orphanColumns = `SELECT c.*, @now AS now, r.beat_at,
	EXISTS (SELECT 1 FROM connections o WHERE o.provider = c.provider AND o.rotates = 'yes') AS provider_rotates
	FROM connections c LEFT JOIN replicas r ON r.id = c.replica WHERE `
	orphanFlights = orphanColumns + `c.flight <> '' AND c.claimed_at <= @now - 1000
	AND (r.beat_at IS NULL OR r.beat_at <= @now - 3000 OR c.claimed_at <= @now - 6000 OR c.replica = @replica OR c.replica IN @gone)
	ORDER BY c.claimed_at LIMIT 500`
	orphanDoubts = orphanColumns + `c.phase = 'suspect' AND c.flight = '' AND c.next_attempt_at <= @now - 1000 ORDER BY c.next_attempt_at LIMIT 500`
)

// Orphans implements broker.Flights.
func (s *Store) Orphans(ctx context.Context, replica string, gone []string) ([]broker.Orphan, error) {
	type found struct {
		Row             connection `gorm:"embedded"`
		Now             int64
		BeatAt          *int64
		ProviderRotates bool
	}
	var rows []found
	err := s.read(ctx, func(tx *gorm.DB) error {
		var flights, doubts []found
		arguments := map[string]any{"now": s.clock(), "replica": replica, "gone": append(gone, "")}
		err := errors.Join(tx.Raw(orphanFlights, arguments).Scan(&flights).Error, tx.Raw(orphanDoubts, arguments).Scan(&doubts).Error)
		rows = append(flights, doubts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	orphans := make([]broker.Orphan, 0, len(rows))
	for at := range rows {
		row := &rows[at]
		since := func(then *int64) time.Duration {
			if then == nil {
				return never
			}
			return time.Duration(row.Now-*then) * time.Millisecond
		}
		orphans = append(orphans, broker.Orphan{
			Connection: s.open(&row.Row), Flight: row.Row.Flight, Replica: row.Row.Replica,
			Silent: since(row.BeatAt), Claimed: since(row.Row.ClaimedAt), Presented: since(row.Row.PresentedAt), ProviderRotates: row.ProviderRotates,
			Digest: row.Row.RefreshDigest, First: firstOf(&row.Row),
		})
	}
	return orphans, nil
}

// firstOf tells that a row's flight is the first that its token is claimed for.
func firstOf(row *connection) bool {
	return row.Reason != string(broker.Suspect) && row.PresentedAt != nil && row.ClaimedAt != nil && *row.PresentedAt == *row.ClaimedAt
}

// never is how long ago something was that is not known to have been.
const never = 10 * 365 * 24 * time.Hour

// Exclusive implements broker.Flights: SQLite is one process'.
func (s *Store) Exclusive() bool { return s.dialect == "sqlite" }
