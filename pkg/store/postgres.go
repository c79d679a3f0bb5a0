package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// openPostgres reaches nobody yet. The error of a URL that cannot be read does not repeat it: it may
// hold the password.
func openPostgres(url string) (gorm.Dialector, *sql.DB, error) {
	config, err := parsePostgres(url)
	if err != nil {
		return nil, nil, err
	}
	pool := stdlib.OpenDB(*config)
	return postgres.New(postgres.Config{Conn: pool}), pool, nil
}

// plaintext tells whether a connection to another machine may go without TLS, as PostgreSQL's own
// default (sslmode=prefer) lets it.
func plaintext(url string) bool {
	config, err := parsePostgres(url)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(config.Host)
	if strings.HasPrefix(config.Host, "/") || config.Host == "localhost" || err == nil && address.IsLoopback() {
		return false
	}
	return config.TLSConfig == nil || slices.ContainsFunc(config.Fallbacks, func(other *pgconn.FallbackConfig) bool { return other.TLSConfig == nil })
}

// Place names a database by where it is, host, port and name, and by nothing that changes with its
// credentials: what belongs to one database is kept apart from another's by it.
func Place(url string) string {
	if path, ok := strings.CutPrefix(url, sqlitePrefix); ok {
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute
		}
		return sqlitePrefix + path
	}
	config, err := parsePostgres(url)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s:%d/%s", config.Host, config.Port, config.Database)
}

// execMode is pgx's setting in a URL of how statements are sent.
const execMode = "default_query_exec_mode="

// modeOf is how a URL wants statements sent; zero, which is no mode, where it says nothing.
func modeOf(url string) pgx.QueryExecMode {
	if !strings.Contains(url, execMode) {
		return 0
	}
	config, err := parsePostgres(url)
	if err != nil {
		return 0
	}
	return config.DefaultQueryExecMode
}

// parsePostgres reads a URL as pgx does. An error names the setting and repeats nothing of the URL, which holds a
// password.
func parsePostgres(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database.url: is not a PostgreSQL URL; escape special characters of the password (RFC 3986)")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 3 * time.Second
	}
	if len(config.Fallbacks) > 0 && config.ValidateConnect == nil && slices.ContainsFunc(config.Fallbacks, func(other *pgconn.FallbackConfig) bool {
		return other.Host != config.Host || other.Port != config.Port
	}) {
		// Of several hosts, the primary; a standby would take the connection, and refuse what is done with it.
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "wts"
	}
	if !strings.Contains(url, execMode) {
		// One round trip and no named statement, which a pooler in transaction mode would lose. See hot.
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return config, nil
}
