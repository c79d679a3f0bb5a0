package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
)

// The change feed tells every replica what its caches have to forget. Whoever changes a row writes
// a line into the table of changes in the same transaction, so that nothing is told that did not
// happen, and nothing that happened goes untold.

// change is a line of the feed.
type change struct {
	Seq    int64 `gorm:"primaryKey"`
	At     int64
	Kind   string
	Object string
}

const (
	connectionChanged = "connection" // user id / provider
	userChanged       = "user"       // user id / username
	sessionChanged    = "session"    // digest, in hex
	keysChanged       = "keys"
)

// Listener is told of changes. Its methods must be quick.
type Listener interface {
	ConnectionChanged(userID, providerID string)
	UserChanged(userID, username string)
	SessionChanged(digestHex string)
	KeysChanged(ctx context.Context)
	// FlightLanded: a refresh of that connection ended, well or badly.
	FlightLanded(userID, providerID string)
	// MissedChanges: an unknown number of changes went unheard; nothing remembered is to be trusted.
	MissedChanges(ctx context.Context)
}

const (
	pollEvery = 2 * time.Second
	// window is how far back each poll reads. Sequence numbers are taken before a transaction
	// commits, so that a later number can be seen before an earlier one; whatever is committed was
	// written less than the window ago, because no transaction lasts that long.
	window = 30 * time.Second
	// changesKept is how long lines stay. It has to be longer than the window.
	changesKept = time.Hour
)

// tell writes a line of the feed.
func (s *Store) tell(tx *gorm.DB, now int64, kind, object string) error {
	if err := tx.Select("At", "Kind", "Object").Create(&change{At: now, Kind: kind, Object: object}).Error; err != nil {
		return err
	}
	if s.dialect == "postgres" {
		return tx.Exec("SELECT pg_notify('wts', '')").Error
	}
	return nil
}

// wake hurries the feed of this process.
func (s *Store) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Follow reads the feed until the context ends: at once when PostgreSQL notifies, and every two
// seconds beside it, since notifications are lost with their connection. Where nothing could be
// read for as long as patience, the listener is told at every attempt that it may have missed
// something; until then it goes on with what it remembers.
func (s *Store) Follow(ctx context.Context, listener Listener, patience time.Duration) {
	if s.dialect == "postgres" {
		go s.hearNotifications(ctx, listener)
	}
	heard := map[int64]int64{} // lines told, and when they were written
	// Without the monotonic reading: that stands still while a machine is suspended.
	wall := func() time.Time { return time.Now().Round(0) }
	contact := wall()
	for {
		now, lines, err := s.changesSince(ctx)
		silent := wall().Sub(contact)
		switch {
		case err == nil && silent > window/2:
			listener.MissedChanges(ctx)
			contact = wall()
		case err == nil:
			contact = wall()
		case silent > patience:
			listener.MissedChanges(ctx)
		}
		for _, line := range lines {
			if _, old := heard[line.Seq]; !old {
				heard[line.Seq] = line.At
				line.announce(ctx, listener)
			}
		}
		for seq, at := range heard {
			if now > 0 && at < now-2*window.Milliseconds() {
				delete(heard, seq)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-time.After(pollEvery):
		}
	}
}

// changesSince asks on a connection of the feed's own; its statements are not counted among those
// that requests cause.
func (s *Store) changesSince(ctx context.Context) (now int64, lines []change, err error) {
	if !s.Reached() {
		return 0, nil, nil // no schema, so nobody has changed anything
	}
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	now = time.Now().UnixMilli()
	if s.dialect == "postgres" {
		if err := s.ear.QueryRowContext(ctx, databaseTime).Scan(&now); err != nil {
			return 0, nil, clean(err)
		}
	}
	rows, err := s.ear.QueryContext(ctx, fmt.Sprintf("SELECT seq, at, kind, object FROM changes WHERE at >= %d ORDER BY seq", now-window.Milliseconds()))
	if err != nil {
		return 0, nil, clean(err)
	}
	defer rows.Close()
	for rows.Next() {
		var line change
		if err := rows.Scan(&line.Seq, &line.At, &line.Kind, &line.Object); err != nil {
			return 0, nil, clean(err)
		}
		lines = append(lines, line)
	}
	return now, lines, clean(rows.Err())
}

func (c change) announce(ctx context.Context, listener Listener) {
	first, second, _ := strings.Cut(c.Object, "/")
	switch c.Kind {
	case connectionChanged:
		listener.ConnectionChanged(first, second)
	case userChanged:
		listener.UserChanged(first, second)
	case sessionChanged:
		listener.SessionChanged(c.Object)
	case keysChanged:
		listener.KeysChanged(ctx)
	}
}

// landedWord begins the notification that a flight landed. It is no change: whoever waits for the
// flight reads the row again, and whoever misses the word does so after half a second.
const landedWord = "landed "

func (s *Store) tellLanded(tx *gorm.DB, object string) error {
	if s.dialect != "postgres" {
		return nil // one process, whose callers share the flight
	}
	return tx.Exec("SELECT pg_notify('wts', ?)", landedWord+object).Error
}

// hearNotifications keeps a connection of its own that listens, for as long as it lasts, again and
// again. Of changes it only wakes the poll: there is one way in which they are read.
func (s *Store) hearNotifications(ctx context.Context, listener Listener) {
	for ctx.Err() == nil {
		s.listen(ctx, listener)
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
}

func (s *Store) listen(ctx context.Context, listener Listener) {
	config, err := parsePostgres(s.dsn)
	if err != nil {
		return
	}
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return
	}
	defer connection.Close(context.WithoutCancel(ctx))
	if _, err := connection.Exec(ctx, "LISTEN wts"); err != nil {
		return
	}
	for {
		heard, err := connection.WaitForNotification(ctx)
		if err != nil {
			return
		}
		if object, landed := strings.CutPrefix(heard.Payload, landedWord); landed {
			userID, providerID, _ := strings.Cut(object, "/")
			listener.FlightLanded(userID, providerID)
			continue
		}
		s.wake()
	}
}
