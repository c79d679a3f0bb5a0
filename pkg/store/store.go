// Package store keeps everything in a database: PostgreSQL, or SQLite as the embedded default.
//
// It implements the Store interfaces of the packages that own the rules (broker, authn, issuer) and
// holds no rule of its own but those of rows: what is one transaction, what is swapped on which
// condition, what is sealed. gorm lives here and nowhere else.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store/gen3"
)

// Config is the database, as the operator writes it.
type Config struct {
	// URL is postgres://user:password@host:5432/name, or sqlite:path/to/file.
	URL secret.Text `config:"url"`
	// URLFile names a file that holds the URL; it wins over URL.
	URLFile string `config:"url_file"`
	// DirectURL reaches the same database past a pooler in transaction mode (pgbouncer): for migrations,
	// which hold a lock of a session, and for notifications. URL where it is empty.
	DirectURL secret.Text `config:"direct_url"`
	// DirectURLFile names a file that holds it; it wins over DirectURL.
	DirectURLFile string `config:"direct_url_file"`
	// MaxConnections bounds the pool. Default 16; SQLite has 4.
	MaxConnections int `config:"max_connections"`
	// Gen3 is the table of Gen3's Python service in the same database.
	Gen3 gen3.Config `config:"-"`
}

const sqlitePrefix = "sqlite:"

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	url := string(c.URL)
	switch {
	case url == "" && c.URLFile == "":
		faults = append(faults, errors.New("database.url: is missing; want postgres://user:password@host:5432/name or sqlite:wts.db"))
	case url == "":
	case strings.HasPrefix(url, sqlitePrefix):
		if strings.TrimPrefix(url, sqlitePrefix) == "" {
			faults = append(faults, errors.New("database.url: sqlite: names no file"))
		}
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		if _, err := parsePostgres(url); err != nil {
			faults = append(faults, err)
		}
	default:
		faults = append(faults, errors.New("database.url: must begin with postgres:// or sqlite: to name a database"))
	}
	if direct := string(c.DirectURL); direct != "" {
		if _, err := parsePostgres(direct); err != nil || !strings.HasPrefix(url, "postgres") {
			faults = append(faults, errors.New("database.direct_url: want a PostgreSQL URL beside that of a pooler in database.url"))
		}
	}
	faults = append(faults, c.Gen3.Validate())
	if c.MaxConnections < 0 {
		faults = append(faults, errors.New("database.max_connections: must not be negative"))
	}
	return errors.Join(faults...)
}

// Store is the database: a part for each thing that is kept. It is safe for concurrent use.
type Store struct {
	*core
	Connections *Connections
	Logins      *Logins
	Users       *Users
	Sessions    *Sessions
	SigningKeys *SigningKeys
	Outbox      *Outbox
	Replicas    *Replicas
	Failovers   *Failovers
	Feed        *Feed
	APITokens   *APITokens
	Resources   *Resources
	Publishers  *Publishers
	Grants      *Grants
	Audit       *Audit
	Endings     *Endings
	Gen3        *Gen3 // nil where there is no such table
}

// The parts. Each is a table or two, and what it needs of another is a field of it.
type (
	// Connections keeps users' grants; it implements broker.Store.
	Connections struct{ *connectionRows }
	// Logins stores what a login gave; it implements broker.LoginStore.
	Logins struct {
		*connectionRows
		users *Users
	}
	// Users implements authn.Directory.
	Users struct {
		*core
		sessions *Sessions
	}
	// Sessions implements authn.SessionStore.
	Sessions struct{ *core }
	// SigningKeys implements issuer.Store.
	SigningKeys struct{ *core }
	// Outbox keeps tokens to be revoked; it implements broker.Outbox.
	Outbox struct{ *core }
	// Replicas keeps heartbeats; it implements broker.Replicas.
	Replicas struct{ *core }
	// Failovers brings back what a failover lost; it implements broker.Failovers.
	Failovers struct {
		*Connections
		users  *Users
		tokens *APITokens
	}
	// Feed tells what changed.
	Feed struct{ *core }
)

// core is what the parts share: the connections to the database, its clock, the keyring and the feed.
type core struct {
	db      *gorm.DB
	pool    *sql.DB
	ear     *sql.DB // the change feed's, so that requests which take every connection do not deafen it
	dialect string  // "postgres" or "sqlite"
	dsn     string  // a URL, or a path
	direct  string  // the URL past a pooler; the same where there is none
	keys    *keyring.Keyring
	legacy  legacy
	owner   *flock.Flock
	log     *slog.Logger

	unlimited  bool // for tests of what holds without the server's limit
	reached    atomic.Bool
	ownMode    pgx.QueryExecMode      // how the URL wants statements sent; zero where it says nothing
	nameless   atomic.Bool            // the database does not say which incarnation it is
	newest     atomic.Pointer[string] // the incarnation that was seen last
	ends       ends
	flights    flights
	statements atomic.Int64
	woken      chan struct{} // a change was written by this process
	bell       chan string   // what the other replicas are to be notified of
}

// Open prepares a database without reaching for it: one that is down does not keep the service from
// starting. The schema is there after Migrate.
func Open(config Config, keys *keyring.Keyring, log *slog.Logger) (*Store, error) {
	s := newStore(&core{
		keys: keys, legacy: noLegacy(), log: log,
		woken: make(chan struct{}, 1), bell: make(chan string, 4096), ends: ends{heard: map[string]end{}},
	})
	url := string(config.URL)
	var dialector gorm.Dialector
	var err error
	if path, ok := strings.CutPrefix(url, sqlitePrefix); ok {
		s.dialect, s.dsn = "sqlite", path
		dialector, s.pool, err = openSQLite(path)
		s.ear = s.pool
		config.MaxConnections = 4
	} else {
		s.dialect, s.dsn, s.direct = "postgres", url, cmp.Or(string(config.DirectURL), url)
		s.ownMode = modeOf(url)
		dialector, s.pool, err = openPostgres(url)
		if err == nil {
			_, s.ear, err = openPostgres(url)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.connectGen3(config.Gen3); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if config.MaxConnections == 0 {
		config.MaxConnections = 16
	}
	s.pool.SetMaxOpenConns(config.MaxConnections)
	s.pool.SetMaxIdleConns(config.MaxConnections)
	s.pool.SetConnMaxIdleTime(5 * time.Minute)
	if s.ear != s.pool {
		s.ear.SetMaxOpenConns(2) // the feed, and the bell
	}
	s.db, err = gorm.Open(dialector, &gorm.Config{
		DisableAutomaticPing:   true,
		SkipDefaultTransaction: true,
		TranslateError:         true,
		Logger:                 logger.Discard, // errors are returned, and logged once, at the edge
	})
	if err != nil {
		return nil, errors.Join(errors.New("preparing the database failed"), s.pool.Close())
	}
	if err := s.countStatements(); err != nil {
		return nil, errors.Join(err, s.pool.Close())
	}
	return s, nil
}

// newStore makes the parts of a store, each with what it needs of another.
func newStore(c *core) *Store {
	outbox, sessions := &Outbox{c}, &Sessions{c}
	rows, users := &connectionRows{c, outbox, &hot{core: c}}, &Users{c, sessions}
	connections, tokens := &Connections{rows}, &APITokens{c}
	return &Store{
		core: c, Connections: connections, Logins: &Logins{rows, users}, Users: users, Sessions: sessions, SigningKeys: &SigningKeys{c},
		Outbox: outbox, Replicas: &Replicas{c}, Failovers: &Failovers{connections, users, tokens}, Feed: &Feed{c},
		APITokens: tokens, Resources: &Resources{c}, Publishers: &Publishers{c}, Grants: &Grants{c, sessions}, Audit: &Audit{c}, Endings: &Endings{c},
	}
}

// countStatements keeps count of what is asked of the database, for the tests that say how much
// that may be, and for the metrics.
func (s *core) countStatements() error {
	count := func(tx *gorm.DB) {
		if tx.Statement.Context.Value(beside{}) == nil {
			s.statements.Add(1)
		}
	}
	hooks := s.db.Callback()
	return errors.Join(
		hooks.Query().Before("*").Register("count", count), hooks.Row().Before("*").Register("count", count),
		hooks.Raw().Before("*").Register("count", count), hooks.Create().Before("*").Register("count", count),
		hooks.Update().Before("*").Register("count", count), hooks.Delete().Before("*").Register("count", count),
	)
}

// beside marks the context of statements that no request causes: heartbeats, sweeps, the outbox.
type beside struct{}

// besideRequests is a context whose statements no request causes.
func besideRequests(ctx context.Context) context.Context {
	return context.WithValue(ctx, beside{}, true)
}

// Statements is how many statements were sent so far, those of the change feed, the heartbeats, the
// sweeps and the outbox not counted.
func (s *Store) Statements() int64 { return s.statements.Load() }

// run runs a statement of its own, or several that need no transaction.
func (s *core) run(ctx context.Context, query func(tx *gorm.DB) error) error {
	ctx, cancel := context.WithTimeout(ctx, broker.StatementTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := query(s.db.WithContext(ctx))
		if (stale(err) || s.unnamed(err)) && attempt < maxAttempts {
			continue
		}
		return databaseError(err)
	}
}

// write runs one transaction. One that met another, at a unique key or in a deadlock, is run again:
// what it found the first time has changed. So is one whose connection was gone before the commit was sent: nothing of
// it has happened.
func (s *core) write(ctx context.Context, work func(tx *gorm.DB) error) error {
	ctx, cancel := context.WithTimeout(ctx, broker.StatementTimeout)
	defer cancel()
	var told []change
	ctx = context.WithValue(ctx, toldKey{}, &told)
	for attempt := 0; ; attempt++ {
		committing := false
		told = nil
		err := s.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
			err := s.limit(tx)
			if err == nil {
				err = work(tx)
			}
			committing = err == nil
			return err
		})
		again := errors.Is(err, gorm.ErrDuplicatedKey) || undone(err) || s.unnamed(err) || stale(err) && !committing
		if again && attempt < maxAttempts {
			continue
		}
		if err == nil && len(told) > 0 {
			for _, line := range told { // before the feed has heard them
				s.ends.keep(line, time.Now())
			}
			s.announced()
		}
		return databaseError(err)
	}
}

// limit has the server undo a transaction whose COMMIT does not come: one that is held up on the way must
// not take effect long after its caller was told that it failed. A setting of the transaction, since
// those of a session do not pass a pooler.
func (s *core) limit(tx *gorm.DB) error {
	if s.dialect != "postgres" || s.unlimited {
		return nil
	}
	return tx.Exec(fmt.Sprintf("SET LOCAL idle_in_transaction_session_timeout = %d", broker.StatementTimeout.Milliseconds())).Error
}

// maxAttempts is more than the pool holds: after the database was restarted, each of its connections
// is found dead once.
const maxAttempts = 40

// undone tells that PostgreSQL undid a transaction for another's sake.
func undone(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && (said.Code == "40P01" || said.Code == "40001")
}

// stale tells that a connection from the pool turned out to be dead. A database that cannot be
// reached is another thing, and is not tried again here.
func stale(err error) bool {
	if err == nil {
		return false
	}
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) {
		return false
	}
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.Code == "57P01" // terminated by an administrator, or by a shutdown
	}
	for _, dead := range []error{driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, dead) {
			return true
		}
	}
	return pgconn.SafeToRetry(err)
}

// databaseError says of an error that the database made it. What a driver says may be shown: a connection error repeats the
// address, never the password.
func databaseError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("database: %w", err)
}

// databaseTime is the clock of PostgreSQL in unix milliseconds.
const databaseTime = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

// now is the database's time, in unix milliseconds. SQLite is in this process, and so is its clock.
func (s *core) now(tx *gorm.DB) (int64, error) {
	if s.dialect == "sqlite" {
		return time.Now().UnixMilli(), nil
	}
	var now int64
	err := tx.Raw(databaseTime).Scan(&now).Error
	return now, err
}

// millis and instant translate times; zero is NULL.
func millis(at time.Time) *int64 {
	if at.IsZero() {
		return nil
	}
	value := at.UnixMilli()
	return &value
}

func instant(value *int64) time.Time {
	if value == nil {
		return time.Time{}
	}
	return time.UnixMilli(*value)
}
