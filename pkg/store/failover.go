package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
)

// A standby that is promoted may lack the last commits of the server before it, where replication is
// asynchronous: its rows then hold tokens that are spent. The database is another one by then, which its
// timeline tells. Until it is settled, which is when every replica has offered what it had stored, its
// connections are neither read nor changed but to bring back what was lost (refresh-engine.md,
// "A failover that loses commits").

// incarnationOf is the name of the database since its last failover: system identifier and timeline.
const (
	systemIdentifier = "(SELECT system_identifier::text FROM pg_control_system())"
	incarnationOf    = systemIdentifier + " || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
)

// state is a row with the database's time, its incarnation, and whether that is settled.
const (
	postgresState = `(SELECT x.now, x.incarnation, (SELECT count(*) = 0 OR bool_or(i.id = x.incarnation) FROM incarnations i) AS settled
	FROM (SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint AS now, ` + incarnationOf + ` AS incarnation) x)`
	// For engines and users that have no such functions: a failover is then not noticed by itself.
	namelessState = `(SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint AS now, '' AS incarnation, TRUE AS settled)`
)

// state is that row as an expression to select from. SQLite's clock is this process's.
func (s *core) state() any {
	if s.dialect == "sqlite" {
		return gorm.Expr("(SELECT ? AS now, '' AS incarnation, TRUE AS settled)", time.Now().UnixMilli())
	}
	return gorm.Expr(stateText(s.nameless.Load()))
}

// stateText is state on PostgreSQL.
func stateText(nameless bool) string {
	if nameless {
		return namelessState
	}
	return postgresState
}

// databaseState is that row as a statement returns it, beside what it asked for.
type databaseState struct {
	Now         int64
	Incarnation string
	Settled     bool
}

// fenced is the database's time, where it is settled.
func (s *core) fenced(tx *gorm.DB) (now int64, err error) {
	var state databaseState
	if err := tx.Raw("SELECT * FROM ? d", s.state()).Scan(&state).Error; err != nil {
		return 0, err
	}
	return state.Now, s.usable(state)
}

var (
	errUnsettled  = errors.New("the database was failed over, and what it lost is being brought back")
	errOldPrimary = errors.New("the database answers as it was before its failover: the connection leads to the former primary")
)

// usable refuses a database that is not settled, and one that is the former primary.
func (s *core) usable(state databaseState) error {
	if err := s.current(state.Incarnation); err != nil {
		return err
	}
	if !state.Settled {
		return errUnsettled
	}
	return nil
}

// current refuses an incarnation that is older than one that was seen: two servers answer.
func (s *core) current(incarnation string) error {
	if incarnation == "" {
		return nil
	}
	newest := s.newest.Load()
	if newest == nil || *newest != incarnation {
		if newest != nil && sameSystem(*newest, incarnation) && timeline(incarnation) < timeline(*newest) {
			return errOldPrimary
		}
		s.newest.CompareAndSwap(newest, &incarnation)
	}
	return nil
}

// sameSystem tells two incarnations of one cluster from those of two.
func sameSystem(one, other string) bool {
	system, _, _ := strings.Cut(one, "/")
	return strings.HasPrefix(other, system+"/")
}

func timeline(incarnation string) int64 { return broker.Reading{Incarnation: incarnation}.Timeline() }

// unnamed gives up asking for the incarnation where the database does not say it, and tells that it has.
func (s *core) unnamed(err error) bool {
	var said *pgconn.PgError
	if !errors.As(err, &said) || s.nameless.Load() {
		return false
	}
	switch said.Code {
	case "42883", "42501", "0A000": // no such function, not allowed, not supported
		s.nameless.Store(true)
		s.log.Warn("the database does not say which incarnation it is (pg_control_system, pg_walfile_name): what a failover loses is not brought back; after one that loses commits, restart the replicas")
		s.wake()
		return true
	}
	return false
}

// sameDatabase adds to a swap's condition that the database is still the one that the row was read in.
func (s *connectionRows) sameDatabase(row broker.Row) (condition string, arguments []any) {
	if row.Reading.Incarnation == "" || s.nameless.Load() {
		return "", nil
	}
	return " AND " + incarnationOf + " = ?", []any{row.Reading.Incarnation}
}

// mark notes a new database's incarnation as settled: it has lost nothing.
func (s *Store) mark(ctx context.Context) error {
	if s.dialect == "sqlite" {
		return nil
	}
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		if s.nameless.Load() {
			return nil
		}
		return tx.Exec("INSERT INTO incarnations (id, settled_at) SELECT d.incarnation, d.now FROM ? d WHERE NOT EXISTS (SELECT 1 FROM incarnations) ON CONFLICT DO NOTHING", s.state()).Error
	})
}

// Settle implements broker.Failovers.
func (s *Failovers) Settle(ctx context.Context, incarnation string) error {
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		return tx.Exec("INSERT INTO incarnations (id, settled_at) SELECT d.incarnation, d.now FROM ? d WHERE d.incarnation = ? ON CONFLICT DO NOTHING", s.state(), incarnation).Error
	})
}

// maxAsked is how many rows are looked at in one statement.
const maxAsked = 500

// Behind implements broker.Failovers.
func (s *Failovers) Behind(ctx context.Context, rows []broker.Row) (behind []int, err error) {
	type asked struct {
		N        int    `json:"n"`
		UserID   string `json:"user_id"`
		Provider string `json:"provider"`
		Version  int64  `json:"version"`
		Stored   int64  `json:"stored_version"`
	}
	for from := 0; from < len(rows); from += maxAsked {
		list := make([]asked, 0, maxAsked)
		for n := from; n < min(from+maxAsked, len(rows)); n++ {
			list = append(list, asked{n, rows[n].UserID, rows[n].Provider, rows[n].Version, rows[n].StoredVersion})
		}
		text, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("asking for rows: %w", err)
		}
		var part []int
		err = s.run(besideRequests(ctx), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT k.n FROM json_to_recordset(?::json) AS k (n int, user_id text, provider text, version bigint, stored_version bigint)
				LEFT JOIN connections c ON c.user_id = k.user_id AND c.provider = k.provider
				WHERE c.version IS NULL OR c.version < k.version OR c.stored_version < k.stored_version ORDER BY k.n`, string(text)).Scan(&part).Error
		})
		if err != nil {
			return nil, err
		}
		behind = append(behind, part...)
	}
	return behind, nil
}

// Restore implements broker.Failovers.
func (s *Failovers) Restore(ctx context.Context, lost broker.Restore) error {
	ctx = context.WithValue(ctx, restoring{}, true)
	var change broker.Change
	err := s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		if err := s.lockUser(tx, lost.Row.UserID); errors.Is(err, gorm.ErrRecordNotFound) && lost.Person != nil {
			if err := s.users.restorePerson(tx, *lost.Person); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		row, err := s.lockRow(tx, lost.Row.UserID, lost.Row.Provider)
		if err != nil && !errors.Is(err, broker.ErrNotConnected) {
			return err
		}
		change, err = s.applyLocked(tx, row, lost)
		return err
	})
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return broker.ErrNotConnected
	case errors.Is(err, broker.ErrSuperseded):
		return broker.ErrSuperseded
	case err == nil:
		s.ring(broker.Change{Landed: change.Landed}, objectOf(lost.Row.UserID, lost.Row.Provider))
	}
	return err
}

// Recommit implements broker.Failovers.
func (s *Failovers) Recommit(ctx context.Context, userID, providerID string, commit broker.Commit) (broker.Change, error) {
	ctx = context.WithValue(ctx, restoring{}, true)
	row := broker.Row{Connection: broker.Connection{UserID: userID, Provider: providerID}}
	return s.Apply(besideRequests(ctx), row, commit)
}

// restoring marks the context of what may be done while the database is not settled.
type restoring struct{}

// timelineFor is the timeline for a change's version. What is brought back belongs to the former one.
func timelineFor(ctx context.Context, row broker.Row) int64 {
	if ctx.Value(restoring{}) != nil {
		return 0
	}
	return row.Reading.Timeline()
}

// restorePerson makes the user again whom a login had made, with the id that other rows name.
func (s *Users) restorePerson(tx *gorm.DB, person broker.Person) error {
	now, err := s.now(tx)
	if err != nil {
		return err
	}
	if err := s.setAside(tx, person.Identity.Username, now); err != nil {
		return err
	}
	who := user{ID: person.UserID, Issuer: person.Identity.Issuer, Subject: person.Identity.Subject, Username: person.Identity.Username, CreatedAt: now}
	if err := tx.Create(&who).Error; err != nil {
		return err
	}
	return s.tell(tx, now, userChanged, who.object())
}

// ends are what the feed told of that must not come back to life: disconnects, disabled users, sessions.
// Every replica keeps those of others too, commands included, which are gone when they have ended.
type ends struct {
	mu      sync.Mutex
	heard   map[string]end // by what has ended
	contact time.Time      // with the feed
}

type end struct {
	change
	at time.Time
}

// maxEnds bounds what is kept of them.
const maxEnds = 100_000

// keep notes a line of the feed.
func (e *ends) keep(line change, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.contact = now
	name := line.Kind + " " + line.Object
	switch line.Kind {
	case connectionEnded, sessionChanged, tokenRevoked:
	case userDisabled, userEnabled: // of both the last one counts
		id, _, _ := strings.Cut(line.Object, "/")
		name = "user " + id
	default:
		return
	}
	if len(e.heard) >= maxEnds {
		for old, one := range e.heard {
			if now.Sub(one.at) > changesKept {
				delete(e.heard, old)
			}
		}
	}
	if len(e.heard) < maxEnds {
		e.heard[name] = end{line, now}
	}
}

// reached notes that the feed was read, and lost that lines went unheard.
func (e *ends) reached(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.contact = now
}

func (e *ends) lost() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.heard)
}

// since are the lines that were heard within a time before the feed fell silent.
func (e *ends) since(window time.Duration) (lines []change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.heard {
		if e.contact.Sub(one.at) <= window {
			lines = append(lines, one.change)
		}
	}
	return lines
}

// RestoreEnds implements broker.Failovers.
func (s *Failovers) RestoreEnds(ctx context.Context, window time.Duration) error {
	ctx = context.WithValue(ctx, restoring{}, true)
	for _, one := range s.ends.since(window) {
		if err := s.restoreEnd(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

// restoreEnd applies one line again. What the database holds later of the same thing wins.
func (s *Failovers) restoreEnd(ctx context.Context, line change) error {
	switch line.Kind {
	case connectionEnded:
		lost, ok := endedRow(line.Object)
		if !ok {
			return nil
		}
		if err := s.Restore(ctx, broker.Restore{Row: lost}); err != nil && !errors.Is(err, broker.ErrSuperseded) && !errors.Is(err, broker.ErrNotConnected) {
			return err
		}
		return nil
	case userDisabled:
		id, _, _ := strings.Cut(line.Object, "/")
		return s.write(besideRequests(ctx), func(tx *gorm.DB) error { return s.users.disableAgain(tx, id) })
	case tokenRevoked:
		return s.tokens.revokeAgain(ctx, line.Object)
	case sessionChanged:
		digest, err := hex.DecodeString(line.Object)
		if err != nil {
			s.log.Warn("a line of the change feed names no session", slog.String("error", err.Error()))
			return nil
		}
		return s.write(besideRequests(ctx), func(tx *gorm.DB) error {
			now, err := s.now(tx)
			if err != nil {
				return err
			}
			_, err = s.users.sessions.endSessions(tx, tx.Session(&gorm.Session{}).Where("digest = ?", digest), now)
			return err
		})
	}
	return nil
}

// endedObject names a connection that has ended, with the version of its tombstone and of which login it was.
func endedObject(row broker.Row) string {
	return fmt.Sprintf("%s/%s/%d/%d", row.UserID, row.Provider, row.Version, row.ConnectedAt.UnixMilli())
}

func endedRow(object string) (row broker.Row, ok bool) {
	parts := strings.Split(object, "/")
	if len(parts) != 4 {
		return row, false
	}
	version, versionErr := strconv.ParseInt(parts[2], 10, 64)
	connected, connectedErr := strconv.ParseInt(parts[3], 10, 64)
	row.UserID, row.Provider, row.Phase, row.Version = parts[0], parts[1], broker.Disconnected, version
	row.ConnectedAt = time.UnixMilli(connected)
	return row, versionErr == nil && connectedErr == nil
}

// disableAgain disables a user whom the database holds as enabled.
func (s *Users) disableAgain(tx *gorm.DB, id string) error {
	now, err := s.now(tx)
	if err != nil {
		return err
	}
	var row user
	err = s.locked(tx).Take(&row, "id = ? AND disabled_at IS NULL", id).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.disable(tx, &row, now, true)
}
