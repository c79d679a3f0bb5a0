package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// connection is a row of connections. Times are unix milliseconds of the database's clock.
type connection struct {
	UserID           string `gorm:"primaryKey"`
	Provider         string `gorm:"primaryKey"`
	Subject          string
	Account          string
	Phase            string
	Reason           string
	Version          int64
	RefreshToken     []byte
	RefreshDigest    []byte
	AccessToken      []byte
	AccessIssuedAt   *int64
	AccessExpiresAt  *int64
	RefreshExpiresAt *int64
	ConnectedAt      int64
	UpdatedAt        int64 `gorm:"autoUpdateTime:false"`
	// The refresh engine's; see the second migration.
	ParentDigest  []byte
	Rotates       string `gorm:"default:unknown"`
	Flight        string
	Replica       string
	ClaimedAt     *int64
	PresentedAt   *int64
	NextAttemptAt *int64
	StoredVersion int64
	// See the third.
	Failure      string
	FailingSince *int64
}

// readConnection is a row with the state of the database in which it was read.
type readConnection struct {
	Row   connection    `gorm:"embedded"`
	State databaseState `gorm:"embedded"`
}

func objectOf(userID, providerID string) string { return userID + "/" + providerID }

// placeOf is where a token is sealed for. Its counter is the version that stored the grant's tokens: an older
// ciphertext of the row does not open.
func placeOf(userID, providerID, column string, stored int64) keyring.Place {
	return keyring.Place{Table: "connections", Owner: userID, Part: providerID, Column: column, Counter: stored}
}

// connectionRows reads and writes the table of connections, and what goes with a change of it.
type connectionRows struct {
	*core
	outbox *Outbox
	hot    *hot
}

// open reads a row. One that the keyring does not open is unreadable, which is no error: the row
// stays as it is for the keyring that does.
func (s *connectionRows) open(row *connection, reading broker.Reading) broker.Row {
	found := broker.Row{
		Connection: broker.Connection{
			UserID: row.UserID, Provider: row.Provider, Subject: row.Subject, Account: row.Account, Phase: broker.Phase(row.Phase), Reason: row.Reason,
			Version: row.Version, ConnectedAt: time.UnixMilli(row.ConnectedAt), Rotates: broker.Rotation(row.Rotates),
			AccessIssuedAt: instant(row.AccessIssuedAt), AccessExpiresAt: instant(row.AccessExpiresAt), RefreshExpiresAt: instant(row.RefreshExpiresAt),
		},
		Digest: row.RefreshDigest, Parent: row.ParentDigest, FlightID: row.Flight, Replica: row.Replica, ClaimedAt: instant(row.ClaimedAt),
		PresentedAt: instant(row.PresentedAt), NextAttemptAt: instant(row.NextAttemptAt), StoredVersion: row.StoredVersion,
		Failure: row.Failure, FailingSince: instant(row.FailingSince), Reading: reading,
	}
	unseal := func(sealed []byte, column string) secret.Text {
		if len(sealed) == 0 {
			return ""
		}
		text, err := s.keys.Open(sealed, placeOf(row.UserID, row.Provider, column, row.StoredVersion))
		if err != nil {
			found.Unreadable = true
		}
		return secret.Text(text)
	}
	found.RefreshToken = unseal(row.RefreshToken, "refresh_token")
	found.AccessToken = unseal(row.AccessToken, "access_token")
	return found
}

// readRow reads a row of our own table, with the database's time; broker.ErrNotConnected where there is
// none.
func (s *connectionRows) readRow(tx *gorm.DB, userID, providerID string, lock bool) (broker.Row, error) {
	var rows []readConnection
	reading := broker.Reading{Sent: time.Now()}
	// The state comes even where there is no row.
	query := "SELECT c.*, d.* FROM ? d LEFT JOIN connections c ON c.user_id = ? AND c.provider = ?"
	if s.dialect == "postgres" && lock {
		query = "SELECT c.*, d.* FROM ? d LEFT JOIN LATERAL (SELECT * FROM connections WHERE user_id = ? AND provider = ? FOR UPDATE) c ON TRUE"
	}
	err := tx.Raw(query, s.state(), userID, providerID).Scan(&rows).Error
	reading.Received = time.Now()
	if err != nil {
		return broker.Row{}, err
	}
	state := rows[0].State
	if err := s.usable(state); err != nil && (!errors.Is(err, errUnsettled) || !isRestoring(tx)) {
		return broker.Row{}, err
	}
	reading = s.readingAt(state, reading)
	if rows[0].Row.Version == 0 {
		return broker.Row{Connection: broker.Connection{UserID: userID, Provider: providerID}, Reading: reading}, broker.ErrNotConnected
	}
	return s.open(&rows[0].Row, reading), nil
}

// isRestoring tells that a statement brings back what a failover lost.
func isRestoring(tx *gorm.DB) bool { return tx.Statement.Context.Value(restoring{}) != nil }

// readingAt completes a reading by the state of the database. SQLite's time is this process's.
func (s *core) readingAt(state databaseState, reading broker.Reading) broker.Reading {
	reading.Database, reading.Incarnation = time.UnixMilli(state.Now), state.Incarnation
	if s.dialect == "sqlite" {
		reading.Database, reading.Sent = reading.Received.Round(0), reading.Received
	}
	return reading
}

// connectionColumns are those of a connection, in the order of its places.
var connectionColumns = "c." + strings.Join([]string{
	"user_id", "provider", "subject", "account", "phase", "reason", "version", "refresh_token", "refresh_digest",
	"access_token", "access_issued_at", "access_expires_at", "refresh_expires_at", "connected_at", "updated_at",
	"parent_digest", "rotates", "flight", "replica", "claimed_at", "presented_at", "next_attempt_at", "stored_version",
	"failure", "failing_since",
}, ", c.")

// places are where a connection's columns go.
func (c *connection) places() []any {
	return []any{
		&c.UserID, &c.Provider, &c.Subject, &c.Account, &c.Phase, &c.Reason, &c.Version, &c.RefreshToken, &c.RefreshDigest,
		&c.AccessToken, &c.AccessIssuedAt, &c.AccessExpiresAt, &c.RefreshExpiresAt, &c.ConnectedAt, &c.UpdatedAt,
		&c.ParentDigest, &c.Rotates, &c.Flight, &c.Replica, &c.ClaimedAt, &c.PresentedAt, &c.NextAttemptAt, &c.StoredVersion,
		&c.Failure, &c.FailingSince,
	}
}

// hotRows reads a user's rows on PostgreSQL, with the state of the database; of one provider, where one is named.
func (s *connectionRows) hotRows(ctx context.Context, userID, providerID string) (rows []broker.Row, reading broker.Reading, err error) {
	var found []connection
	var state databaseState
	condition, values := "c.user_id = ?", []any{userID}
	if providerID != "" {
		condition, values = condition+" AND c.provider = ?", append(values, providerID)
	}
	_, err = s.hot.send(ctx, func() (string, []any) {
		found, reading = nil, broker.Reading{Sent: time.Now()}
		// The state comes even where there is no row.
		return "SELECT d.now, d.incarnation, d.settled, " + connectionColumns + " FROM " + stateText(s.nameless.Load()) + " d LEFT JOIN connections c ON " + condition, values
	}, func(rows pgx.Rows) error {
		reading.Received = time.Now()
		var row connection
		places := append([]any{&state.Now, &state.Incarnation, &state.Settled}, row.places()...)
		if rows.RawValues()[3] == nil { // there is no row, and its columns go nowhere
			clear(places[3:])
		}
		err := rows.Scan(places...)
		found = append(found, row)
		return err
	})
	if err == nil {
		err = s.usable(state)
	}
	if err != nil && (!errors.Is(err, errUnsettled) || ctx.Value(restoring{}) == nil) {
		return nil, reading, databaseError(err)
	}
	reading = s.readingAt(state, reading)
	for i := range found {
		if found[i].Version > 0 {
			rows = append(rows, s.open(&found[i], reading))
		}
	}
	return rows, reading, nil
}

// ownRow reads a row of our own table.
func (s *connectionRows) ownRow(ctx context.Context, userID, providerID string) (row broker.Row, err error) {
	if s.dialect == "postgres" {
		rows, reading, err := s.hotRows(ctx, userID, providerID)
		if err == nil && len(rows) == 0 {
			return broker.Row{Connection: broker.Connection{UserID: userID, Provider: providerID}, Reading: reading}, broker.ErrNotConnected
		}
		if err != nil {
			return broker.Row{}, err
		}
		return rows[0], nil
	}
	missing := false
	err = s.run(ctx, func(tx *gorm.DB) (err error) {
		row, err = s.readRow(tx, userID, providerID, false)
		if missing = errors.Is(err, broker.ErrNotConnected); missing {
			return nil
		}
		return err
	})
	if err == nil && missing {
		err = broker.ErrNotConnected
	}
	return row, err
}

// Row implements broker.Store.
func (s *Connections) Row(ctx context.Context, userID, providerID string) (broker.Row, error) {
	var own []broker.Row
	row, err := s.ownRow(ctx, userID, providerID)
	switch {
	case err == nil:
		own = []broker.Row{row}
	case !errors.Is(err, broker.ErrNotConnected):
		return row, err
	}
	found, err := s.legacy.find(ctx, userID, providerID, own)
	switch {
	case err != nil:
		return broker.Row{}, err
	case len(found) == 0:
		return row, broker.ErrNotConnected
	}
	return found[0], nil
}

// Rows implements broker.Store.
func (s *Connections) Rows(ctx context.Context, userID string) ([]broker.Row, error) {
	if s.dialect == "postgres" {
		own, _, err := s.hotRows(ctx, userID, "")
		if err != nil {
			return nil, err
		}
		return s.legacy.find(ctx, userID, "", own)
	}
	var rows []readConnection
	var reading broker.Reading
	err := s.run(ctx, func(tx *gorm.DB) (err error) {
		rows, reading = nil, broker.Reading{Sent: time.Now()}
		err = tx.Raw("SELECT c.*, d.* FROM ? d LEFT JOIN connections c ON c.user_id = ?", s.state(), userID).Scan(&rows).Error
		reading.Received = time.Now()
		if err == nil {
			err = s.usable(rows[0].State)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	own := make([]broker.Row, 0, len(rows))
	for i := range rows {
		if rows[i].Row.Version > 0 {
			own = append(own, s.open(&rows[i].Row, s.readingAt(rows[i].State, reading)))
		}
	}
	return s.legacy.find(ctx, userID, "", own)
}

// Disconnect implements broker.Store. What the legacy holds goes with it, even where our own table holds nothing yet.
func (s *Connections) Disconnect(ctx context.Context, userID, providerID string) error {
	refused := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		refused = false
		if err := s.lockUser(tx, userID); err != nil {
			return err
		}
		row, err := s.lockRow(tx, userID, providerID)
		if err != nil && !errors.Is(err, broker.ErrNotConnected) {
			return err
		}
		forgotten, err := s.legacy.forget(tx, userID, providerID, "")
		if err != nil {
			return err
		}
		if row.Version == 0 && forgotten {
			row.Version, row.Phase, row.Rotates = 0, broker.Ready, broker.RotationUnknown
			return s.tombstone(tx, row)
		}
		change, err := s.applyLocked(tx, row, broker.Disconnect{})
		refused = errors.Is(err, broker.ErrNotConnected) || change.Refusal != nil && !forgotten
		if errors.Is(err, broker.ErrNotConnected) {
			return nil
		}
		return err
	})
	if errors.Is(err, gorm.ErrRecordNotFound) || err == nil && refused {
		return broker.ErrNotConnected
	}
	return err
}

// tombstone marks what only the legacy held, so that no replica takes it over again.
func (s *connectionRows) tombstone(tx *gorm.DB, row broker.Row) error {
	next := row
	next.Version, next.Phase, next.ConnectedAt = 1, broker.Disconnected, row.Reading.Database
	if err := s.insert(tx, next); err != nil {
		return err
	}
	return s.effects(tx, broker.Change{Row: next, Tell: true, Landed: true}, row.Reading.Database)
}

// lockUser comes before a lock on a connection that may not be there yet: what has no row cannot be
// locked itself.
func (s *connectionRows) lockUser(tx *gorm.DB, userID string) error {
	return s.locked(tx).Select("id").Take(&user{}, "id = ?", userID).Error
}

// lockRow reads a row for a change. Where there is none it returns broker.ErrNotConnected and an empty
// row with the database's time.
func (s *connectionRows) lockRow(tx *gorm.DB, userID, providerID string) (broker.Row, error) {
	return s.readRow(tx, userID, providerID, true)
}
