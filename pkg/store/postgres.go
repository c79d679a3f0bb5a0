package store

import (
	"database/sql"
	"errors"
	"net/netip"
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

func parsePostgres(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database.url: is not a PostgreSQL URL; escape special characters of the password (RFC 3986)")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 3 * time.Second
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "wts"
	}
	return config, nil
}
