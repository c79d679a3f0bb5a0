package store

import (
	"context"
	"database/sql"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
)

// The change feed tells every replica what its caches have to forget. A change of a row writes a line
// into the table of changes in the same transaction, so that nothing is told that did not happen, and
// nothing that happened goes untold.
//
// The feed is never read by time: a COMMIT can be held up on the way for as long as a partition lasts. A
// line is known by its transaction. The oldest transaction that a snapshot sees as running is the
// horizon: what is older is decided and visible, and is never read again; all else is read at each look,
// and each line acted on once (decision 0005).

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
	tokenChanged      = "token" // digest of an API token's value, in hex

	// Beside the lines above: what must not come back to life with a failover that loses commits.
	connectionEnded = "ended"    // user id / provider / version of the tombstone / milliseconds of the login
	userDisabled    = "disabled" // user id
	userEnabled     = "enabled"  // user id
	tokenRevoked    = "revoked"  // id of an API token
)

// Listener is what is done about changes: quickly. A function that is nil does nothing.
type Listener struct {
	Connection func(userID, providerID string)
	User       func(userID, username string)
	Session    func(digestHex string)
	Keys       func(ctx context.Context)
	Token      func(digestHex string) // an API token's value
	// Landed: a refresh of that connection ended, well or badly.
	Landed func(userID, providerID string)
	// Missed: an unknown number of changes went unheard; nothing remembered is to be trusted.
	Missed func(ctx context.Context)
}

const (
	pollEvery = 2 * time.Second
	// changesKept is how long lines stay. A replica that was deaf for half of it forgets everything.
	changesKept = time.Hour
)

// tell writes a line of the feed for each object that has changed.
func (s *core) tell(tx *gorm.DB, now int64, kind string, objects ...string) error {
	lines := make([]change, 0, len(objects))
	for _, object := range objects {
		lines = append(lines, change{At: now, Kind: kind, Object: object})
	}
	if told, ok := tx.Statement.Context.Value(toldKey{}).(*[]change); ok {
		*told = append(*told, lines...)
	}
	if len(lines) == 0 {
		return nil
	}
	return tx.Select("At", "Kind", "Object").Create(&lines).Error
}

// toldKey is where a transaction's context has a place to note what it told.
type toldKey struct{}

// announced wakes the feeds, this process's and the others', after a change was committed.
func (s *core) announced() {
	s.wake()
	s.notify(changedWord)
}

// wake hurries the feed of this process.
func (s *core) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// mark is how far the feed was read, in one incarnation of the database.
type mark struct {
	incarnation string         // system identifier and timeline; a promoted standby has another
	horizon     int64          // the transaction below which nothing is read again
	heard       map[line]int64 // lines acted on, and their transactions
}

// line is the name of a line of the feed. Numbers and transactions may come again in another incarnation
// of the database, and never in the same.
type line struct{ xid, seq int64 }

// Follow reads the feed until the context ends: at once when PostgreSQL notifies, and every two seconds
// beside it, since notifications are lost with their connection. Where nothing could be read for as long
// as patience, the listener is told at every attempt that it may have missed something; until then it goes
// on with what it remembers.
func (s *Feed) Follow(ctx context.Context, listener Listener, patience time.Duration) {
	if s.dialect == "postgres" {
		go s.hearNotifications(ctx, listener)
		go s.ringBell(ctx)
	}
	var read *mark
	// Without the monotonic reading: that stands still while a machine is suspended.
	wall := func() time.Time { return time.Now().Round(0) }
	contact := wall()
	for {
		next, lines, err := s.changesSince(ctx, read)
		silent := wall().Sub(contact)
		if err == nil && next != nil {
			s.ends.reached(time.Now())
		}
		switch {
		case err != nil && silent > patience:
			listener.missed(ctx)
		case err != nil, next == nil:
		case read == nil || read.incarnation != next.incarnation || silent > changesKept/2:
			// What this look does not show belongs to transactions from its horizon on.
			listener.missed(ctx)
			if read == nil || silent > changesKept/2 {
				s.ends.lost()
			}
			contact, read = wall(), next
		default:
			contact = wall()
			for _, one := range lines {
				name := line{one.xid, one.Seq}
				if _, old := read.heard[name]; !old {
					s.ends.keep(one.change, time.Now())
					one.announce(ctx, listener)
				}
				if one.xid >= next.horizon {
					next.heard[name] = one.xid
				}
			}
			read = next
		}
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-time.After(pollEvery):
		}
	}
}

// toldChange is a line with its transaction.
type toldChange struct {
	change
	xid int64
}

const (
	// The horizon, the state and the lines are of one snapshot, since they are of one statement.
	postgresChanges = `SELECT s.horizon, d.incarnation, d.settled, c.xid, c.seq, c.kind, c.object
		FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) s CROSS JOIN ` + postgresState + ` d
		LEFT JOIN changes c ON c.xid >= $1 ORDER BY c.seq`
	plainChanges = `SELECT s.horizon, '', TRUE, c.xid, c.seq, c.kind, c.object FROM (
		SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) s
		LEFT JOIN changes c ON c.xid >= $1 ORDER BY c.seq`
	// SQLite has one writer at a time: lines commit in the order of their numbers.
	sqliteChanges = `SELECT s.horizon, '', TRUE, c.seq, c.seq, c.kind, c.object FROM (SELECT coalesce(max(seq), 0) + 1 AS horizon FROM changes) s
		LEFT JOIN changes c ON c.seq >= $1 ORDER BY c.seq`
)

// changesSince asks on a connection of the feed's own; its statements are not counted among those
// that requests cause. Before the schema is there it returns nothing.
func (s *Feed) changesSince(ctx context.Context, read *mark) (next *mark, lines []toldChange, err error) {
	if !s.reached.Load() {
		return nil, nil, nil // no schema, so that nobody has changed anything
	}
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	statement, since := postgresChanges, int64(math.MaxInt64)
	switch {
	case s.dialect == "sqlite":
		statement = sqliteChanges
	case s.nameless.Load():
		statement = plainChanges
	}
	if read != nil {
		since = read.horizon
	}
	rows, err := s.ear.QueryContext(ctx, statement, since)
	if err != nil {
		s.unnamed(err)
		return nil, nil, databaseError(err)
	}
	defer rows.Close()
	next = &mark{heard: map[line]int64{}}
	var state databaseState
	for rows.Next() {
		var xid, seq sql.NullInt64
		var kind, object sql.NullString
		if err := rows.Scan(&next.horizon, &state.Incarnation, &state.Settled, &xid, &seq, &kind, &object); err != nil {
			return nil, nil, databaseError(err)
		}
		next.incarnation = state.Incarnation
		if seq.Valid {
			lines = append(lines, toldChange{change{Seq: seq.Int64, Kind: kind.String, Object: object.String}, xid.Int64})
		}
	}
	s.unnamed(rows.Err())
	if err := rows.Err(); err != nil {
		return nil, nil, databaseError(err)
	}
	return next, lines, s.usable(state)
}

func (l Listener) missed(ctx context.Context) {
	if l.Missed != nil {
		l.Missed(ctx)
	}
}

// announce tells the listener of one line.
func (c change) announce(ctx context.Context, listener Listener) {
	first, second, _ := strings.Cut(c.Object, "/")
	switch {
	case c.Kind == connectionChanged && listener.Connection != nil:
		listener.Connection(first, second)
	case c.Kind == userChanged && listener.User != nil:
		listener.User(first, second)
	case c.Kind == sessionChanged && listener.Session != nil:
		listener.Session(c.Object)
	case c.Kind == tokenChanged && listener.Token != nil:
		listener.Token(c.Object)
	case c.Kind == keysChanged && listener.Keys != nil:
		listener.Keys(ctx)
	}
}

// landedWord begins the notification that a flight landed. It is no change: those who wait for the
// flight read the row again, and one that misses the word does so after half a second. waitsWord begins what they say.
const (
	landedWord  = "landed "
	waitsWord   = "waits "
	changedWord = "changed"
)

// notify has the other replicas notified, beside the caller. A notification in the transaction itself
// would have all commits of the database wait for each other: PostgreSQL takes a lock for it. One that is
// lost costs a poll.
func (s *core) notify(word string) {
	if s.dialect != "postgres" {
		return // one process, whose callers share the flight
	}
	select {
	case s.bell <- word:
	default:
	}
}

// maxRing is how many notifications go out in one statement.
const maxRing = 512

// ringBell sends notifications, as many at once as there are.
func (s *Feed) ringBell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case word := <-s.bell:
			s.ringOnce(ctx, word)
		}
	}
}

// ringOnce sends what is to be notified now, beginning with a first word.
func (s *core) ringOnce(ctx context.Context, first string) {
	words := map[string]struct{}{first: {}}
	for len(words) < maxRing && len(s.bell) > 0 {
		words[<-s.bell] = struct{}{}
	}
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	_, _ = s.ear.ExecContext(ctx, "SELECT pg_notify('wts', word) FROM unnest(string_to_array($1, E'\n')) word", strings.Join(slices.Collect(maps.Keys(words)), "\n"))
}

// hearNotifications keeps a connection of its own that listens, for as long as it lasts, again and
// again. Of changes it only wakes the poll: there is one way in which they are read.
func (s *Feed) hearNotifications(ctx context.Context, listener Listener) {
	for ctx.Err() == nil {
		s.listen(ctx, listener)
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
}

// listen waits for notifications on one connection, past any pooler: one in transaction mode would take it away.
func (s *Feed) listen(ctx context.Context, listener Listener) {
	config, err := parsePostgres(s.direct)
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
			if listener.Landed != nil {
				listener.Landed(userID, providerID)
			}
			continue
		}
		if object, waits := strings.CutPrefix(heard.Payload, waitsWord); waits {
			if s.flights.await(object, time.Now()) {
				s.notify(landedWord + object)
			}
			continue
		}
		s.wake()
	}
}
