package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/workspace-token-service/wts/pkg/broker"
)

// A refresh is three statements: the row is read, claimed and committed. PostgreSQL takes longer to parse and plan them
// than to do what they say, so that each connection prepares them once. Where a pooler gives the server's sessions to
// its clients by turns, a session has not what another prepared: there they are sent as they are.

// wireKey is where a connection notes its wire.
const wireKey = "wts.wire"

// wire is how the refresh engine's statements are sent on a connection. Where that leads to one server for as long
// as it lasts, the system's identifier is asked for once: the server reads and checks a file for it.
type wire struct {
	mode   pgx.QueryExecMode
	system string // in digits; empty: to be asked for by each statement
}

// of is a statement as it is sent on the connection.
func (w wire) of(statement string) string {
	if w.system == "" {
		return statement
	}
	return strings.ReplaceAll(statement, systemIdentifier, "'"+w.system+"'")
}

// hot sends the few statements that a refresh consists of, past gorm.
type hot struct {
	*core
	unprepared atomic.Bool // a session has not what another prepared
}

// send runs a statement and returns how many rows it returned or changed. Values stand for the marks "?" in their
// order. Rows are read by a function, for another attempt anew.
func (s *hot) send(ctx context.Context, statement func() (string, []any), read func(pgx.Rows) error) (count int64, err error) {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > broker.StatementTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, broker.StatementTimeout)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		if ctx.Value(beside{}) == nil {
			s.statements.Add(1)
		}
		text, values := statement() // anew: what the database cannot say is asked no more
		count, err = s.once(ctx, numbered(text), values, read)
		if (stale(err) || s.forgot(err) || s.unnamed(err)) && attempt < maxAttempts {
			continue
		}
		return count, err
	}
}

// once is one attempt, on a connection of the pool.
func (s *hot) once(ctx context.Context, statement string, values []any, read func(pgx.Rows) error) (count int64, err error) {
	connection, err := s.pool.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = connection.Close() }()
	err = connection.Raw(func(driver any) error {
		to := driver.(*stdlib.Conn).Conn()
		wire, err := s.wire(ctx, to)
		if err != nil {
			return err
		}
		rows, err := to.Query(ctx, wire.of(statement), append([]any{wire.mode}, values...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if read == nil {
				continue
			}
			if err := read(rows); err != nil {
				return err
			}
		}
		count = rows.CommandTag().RowsAffected()
		return rows.Err()
	})
	return count, err
}

// wire is how statements are sent on a connection. A pooler makes up the process of the server that it names to its
// clients, so that a connection that names the true one leads to one session for as long as it lasts.
func (s *hot) wire(ctx context.Context, to *pgx.Conn) (found wire, err error) {
	if s.ownMode != 0 {
		return wire{mode: s.ownMode}, nil
	}
	if s.unprepared.Load() {
		return wire{mode: pgx.QueryExecModeExec}, nil
	}
	noted := to.PgConn().CustomData()
	if found, ok := noted[wireKey].(wire); ok {
		return found, nil
	}
	question := "SELECT pg_backend_pid(), " + systemIdentifier
	if s.nameless.Load() {
		question = "SELECT pg_backend_pid(), ''"
	}
	var server uint32
	if err := to.QueryRow(ctx, question).Scan(&server, &found.system); err != nil {
		return wire{}, fmt.Errorf("asking for the server's process: %w", err)
	}
	found.mode = pgx.QueryExecModeCacheStatement
	if server != to.PgConn().PID() {
		found = wire{mode: pgx.QueryExecModeExec}
	}
	noted[wireKey] = found
	return found, nil
}

// forgot gives up prepared statements where a session turned out not to have what was prepared, and tells that it has.
func (s *hot) forgot(err error) bool {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return false
	}
	switch said.Code {
	case "26000", "42P05": // no such statement, and one that is there already
		if s.unprepared.CompareAndSwap(false, true) {
			s.log.Info("the way to the database changes its sessions: statements are prepared no more")
		}
		return s.ownMode == 0
	case "0A000": // a migration changed the type of what it returns; the driver drops the statement
		return said.Routine == "RevalidateCachedQuery"
	}
	return false
}

// numbered gives the marks of a statement the numbers by which PostgreSQL knows them.
func numbered(statement string) string {
	text := strings.Builder{}
	text.Grow(len(statement) + 64)
	for number := 1; ; number++ {
		before, after, found := strings.Cut(statement, "?")
		text.WriteString(before)
		if !found {
			return text.String()
		}
		text.WriteByte('$')
		text.WriteString(strconv.Itoa(number))
		statement = after
	}
}
