package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// maxSwaps is how often an action is applied again because another was quicker.
const maxSwaps = 20

// errSwaps says that a row changed faster than an action could be applied to it.
var errSwaps = errors.New("database: the row changed again and again")

// Apply implements broker.Store: the rule is applied to the row at hand and the row swapped by its
// version, in one statement where nothing else belongs to the change. Where it is not known whether a swap
// was done, the row is read again and the rule recognises its own work.
func (s *Connections) Apply(ctx context.Context, row broker.Row, action broker.Action) (broker.Change, error) {
	atHand := row.Version > 0 && !row.Reading.Database.IsZero()
	var uncertain error
	for range maxSwaps {
		if !atHand {
			var err error
			row, err = s.ownRow(ctx, row.UserID, row.Provider)
			if err != nil && !errors.Is(err, broker.ErrNotConnected) {
				return broker.Change{}, errors.Join(uncertain, err)
			}
		}
		atHand = false
		at := row.Reading.Now().Truncate(time.Millisecond)
		change, err := broker.Apply(row, broker.Event{At: at, Timeline: timelineFor(ctx, row), Action: action})
		if errors.Is(err, broker.ErrClaimed) {
			s.notify(waitsWord + objectOf(row.UserID, row.Provider))
		}
		if err != nil {
			return broker.Change{}, err
		}
		swapped, err := s.swap(ctx, row, change, at)
		switch {
		case err != nil && uncertain != nil:
			return broker.Change{}, err
		case err != nil:
			uncertain = err
		case swapped:
			return change, change.Refusal
		}
	}
	return broker.Change{}, errSwaps
}

// applyLocked applies an action to a row that is locked in a transaction.
func (s *connectionRows) applyLocked(tx *gorm.DB, row broker.Row, action broker.Action) (broker.Change, error) {
	at := row.Reading.Now().Truncate(time.Millisecond)
	change, err := broker.Apply(row, broker.Event{At: at, Timeline: timelineFor(tx.Statement.Context, row), Action: action})
	if err != nil {
		return change, err
	}
	switch {
	case change.Keep:
	case row.Version == 0:
		err = s.insert(tx, change.Row)
	default:
		var swapped bool
		if swapped, err = s.update(tx, row, change.Row, at); err == nil && !swapped {
			err = errSwaps
		}
	}
	if err != nil {
		return change, err
	}
	return change, s.effects(tx, change, at)
}

// swap stores a change where the row still has the version that the rule saw, and the database is still
// the one that the row was read in.
func (s *Connections) swap(ctx context.Context, row broker.Row, change broker.Change, at time.Time) (swapped bool, err error) {
	object := objectOf(row.UserID, row.Provider)
	switch {
	case change.Keep && !change.Tell:
		return true, nil
	case s.dialect == "postgres" && !change.Keep && len(change.Revoke) == 0 && !change.Cancel && (change.Spent == "" || !s.legacy.copies):
		swapped, err = s.swapAlone(ctx, row, change, at)
	default:
		err = s.write(ctx, func(tx *gorm.DB) (err error) {
			swapped = true
			if !change.Keep {
				if swapped, err = s.update(tx, row, change.Row, at); err != nil || !swapped {
					return err
				}
				if ended, ok := broker.ObserveEnd(row, change.Row, at); ok {
					if err := tx.Exec(endedInsert+" VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", endedValues(ended)...).Error; err != nil {
						return err
					}
				}
			}
			return s.effects(tx, change, at)
		})
	}
	if err == nil && swapped {
		s.ring(change, object)
	}
	return swapped, err
}

// swapAlone is a swap in one statement, the line of the change feed in it, and what it shows of the provider's habits.
func (s *Connections) swapAlone(ctx context.Context, row broker.Row, change broker.Change, at time.Time) (swapped bool, err error) {
	set, assigned := s.assignments(row, change.Row, at)
	count, err := s.hot.send(ctx, func() (string, []any) {
		same, incarnation := s.sameDatabase(row)
		statement := "UPDATE connections SET " + set + " WHERE user_id = ? AND provider = ? AND version = ?" + same
		values := slices.Concat(assigned, []any{row.UserID, row.Provider, row.Version}, incarnation)
		beside := ""
		if change.Tell {
			beside += ", told AS (INSERT INTO changes (at, kind, object) SELECT ?, ?, ? FROM swapped)"
			values = append(values, at.UnixMilli(), connectionChanged, objectOf(row.UserID, row.Provider))
		}
		if ended, ok := broker.ObserveEnd(row, change.Row, at); ok {
			beside += ", ended AS (" + endedInsert + " SELECT ?, ?, ?, ? FROM swapped ON CONFLICT DO NOTHING)"
			values = append(values, endedValues(ended)...)
		}
		if beside != "" { // of which most changes need nothing
			statement = "WITH swapped AS (" + statement + " RETURNING 1)" + beside + " SELECT 1 FROM swapped"
		}
		return statement, values
	}, nil)
	return count == 1, databaseError(err)
}

// update swaps a row in a transaction.
func (s *connectionRows) update(tx *gorm.DB, was, next broker.Row, at time.Time) (swapped bool, err error) {
	set, values := s.assignments(was, next, at)
	same, incarnation := s.sameDatabase(was)
	values = append(append(values, was.UserID, was.Provider, was.Version), incarnation...)
	done := tx.Exec("UPDATE connections SET "+set+" WHERE user_id = ? AND provider = ? AND version = ?"+same, values...)
	return done.RowsAffected == 1, done.Error
}

// insert stores a row that was not there.
func (s *connectionRows) insert(tx *gorm.DB, next broker.Row) error {
	columns, values := []string{"user_id", "provider"}, []any{next.UserID, next.Provider}
	for _, column := range s.columns(broker.Row{}, next) {
		columns, values = append(columns, column.name), append(values, column.value)
	}
	columns, values = append(columns, "updated_at"), append(values, next.ConnectedAt.UnixMilli())
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
	return tx.Exec("INSERT INTO connections ("+strings.Join(columns, ", ")+") VALUES ("+marks+")", values...).Error
}

// assignments are the changed columns for a SET clause, with their values.
func (s *connectionRows) assignments(was, next broker.Row, at time.Time) (set string, values []any) {
	text := strings.Builder{}
	for _, column := range s.columns(was, next) {
		text.WriteString(column.name + " = ?, ")
		values = append(values, column.value)
	}
	if moved := next.RefreshExpiresAt.Sub(was.RefreshExpiresAt); !next.RefreshExpiresAt.IsZero() && moved.Abs() > sameEnd {
		text.WriteString("end_stated_at = ?, ")
		values = append(values, at.UnixMilli())
	}
	text.WriteString("updated_at = ?")
	return text.String(), append(values, at.UnixMilli())
}

type column struct {
	name  string
	value any
}

// columns are those in which two rows differ. Tokens are sealed for their stored version, so both are sealed again
// where it moves; those that the keyring does not open stay as they are unless another takes their place.
func (s *connectionRows) columns(was, next broker.Row) (changed []column) {
	fresh := was.Version == 0
	text := func(name, before, after string) {
		if before != after || fresh {
			changed = append(changed, column{name, after})
		}
	}
	number := func(name string, before, after int64) {
		if before != after || fresh {
			changed = append(changed, column{name, after})
		}
	}
	at := func(name string, before, after time.Time) {
		if !before.Equal(after) {
			changed = append(changed, column{name, millis(after)})
		}
	}
	digest := func(name string, before, after []byte) {
		if !bytes.Equal(before, after) {
			changed = append(changed, column{name, null(after)})
		}
	}
	token := func(name string, before, after secret.Text, replaced bool) {
		if before == after && !replaced && (after == "" || next.StoredVersion == was.StoredVersion) {
			return
		}
		var sealed []byte
		if after != "" {
			sealed = s.keys.Seal([]byte(after), placeOf(next.UserID, next.Provider, name, next.StoredVersion))
		}
		changed = append(changed, column{name, null(sealed)})
	}
	buried := next.Phase == broker.Disconnected
	number("version", was.Version, next.Version)
	text("subject", was.Subject, next.Subject)
	text("account", was.Account, next.Account)
	text("phase", string(was.Phase), string(next.Phase))
	text("reason", was.Reason, next.Reason)
	token("refresh_token", was.RefreshToken, next.RefreshToken, buried || !bytes.Equal(was.Digest, next.Digest))
	digest("refresh_digest", was.Digest, next.Digest)
	digest("parent_digest", was.Parent, next.Parent)
	token("access_token", was.AccessToken, next.AccessToken, buried || was.Unreadable && next.StoredVersion != was.StoredVersion)
	at("access_issued_at", was.AccessIssuedAt, next.AccessIssuedAt)
	at("access_expires_at", was.AccessExpiresAt, next.AccessExpiresAt)
	at("refresh_expires_at", was.RefreshExpiresAt, next.RefreshExpiresAt)
	number("connected_at", was.ConnectedAt.UnixMilli(), next.ConnectedAt.UnixMilli())
	text("rotates", string(was.Rotates), string(next.Rotates))
	text("flight", was.FlightID, next.FlightID)
	text("replica", was.Replica, next.Replica)
	at("claimed_at", was.ClaimedAt, next.ClaimedAt)
	at("presented_at", was.PresentedAt, next.PresentedAt)
	at("next_attempt_at", was.NextAttemptAt, next.NextAttemptAt)
	number("stored_version", was.StoredVersion, next.StoredVersion)
	text("failure", was.Failure, next.Failure)
	at("failing_since", was.FailingSince, next.FailingSince)
	return changed
}

// null keeps an empty value out of a bytes column.
func null(value []byte) any {
	if len(value) == 0 {
		return nil
	}
	return value
}

// effects stores what belongs to a change in the same transaction.
func (s *connectionRows) effects(tx *gorm.DB, change broker.Change, at time.Time) error {
	row := change.Row
	for _, unwanted := range change.Revoke {
		if err := s.outbox.unwanted(tx, row, unwanted, at); err != nil {
			return err
		}
	}
	if change.Cancel {
		if err := s.outbox.cancelRevocations(tx, row, at); err != nil {
			return err
		}
	}
	if change.Spent != "" {
		if _, err := s.legacy.forget(tx, row.UserID, row.Provider, change.Spent); err != nil {
			return err
		}
	}
	if !change.Tell {
		return nil
	}
	if row.Phase == broker.Disconnected {
		if err := s.tell(tx, at.UnixMilli(), connectionEnded, endedObject(row)); err != nil {
			return err
		}
	}
	return s.tell(tx, at.UnixMilli(), connectionChanged, objectOf(row.UserID, row.Provider))
}

// ring notifies the other replicas of a change that was stored.
func (s *connectionRows) ring(change broker.Change, object string) {
	if change.Landed && s.flights.land(object, time.Now()) {
		s.notify(landedWord + object)
	}
	if change.Tell {
		s.announced()
	}
}
