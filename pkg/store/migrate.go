package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"gorm.io/gorm"
)

//go:embed migrations
var migrations embed.FS

// ErrTooNew says that the database belongs to a later version of wts, which this one would harm.
var ErrTooNew = errors.New("the database was migrated by a later version of wts that this one cannot work with; run that one")

// Migrate brings the schema up to date. Every replica may call it, at once: one of them migrates.
// Older binaries go on while they know enough of the schema, which the schema itself says.
func (s *Store) Migrate(ctx context.Context) (applied int, err error) {
	folder, err := fs.Sub(migrations, "migrations/"+s.dialect)
	if err != nil {
		return 0, fmt.Errorf("the migrations: %w", err)
	}
	options := []goose.ProviderOption{goose.WithTableName("wts_migrations"), goose.WithDisableGlobalRegistry(true), goose.WithSlog(s.log)}
	dialect := goose.DialectSQLite3
	if s.dialect == "postgres" {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return 0, fmt.Errorf("the migrations' lock: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	pool := s.pool
	if s.dialect == "postgres" && s.direct != s.dsn {
		if _, pool, err = openPostgres(s.direct); err != nil {
			return 0, err
		}
		defer func() { _ = pool.Close() }()
	}
	provider, err := goose.NewProvider(dialect, pool, folder, options...)
	if err != nil {
		return 0, fmt.Errorf("the migrations: %w", err)
	}
	sources := provider.ListSources()
	if err := s.checkAge(ctx, sources[len(sources)-1].Version); err != nil {
		return 0, err
	}
	if s.dialect == "sqlite" { // goose has a lock of its own for PostgreSQL alone
		file := flock.New(s.dsn + ".migrating")
		if err := file.Lock(); err != nil {
			return 0, fmt.Errorf("locking %s for its migration: %w", s.dsn, err)
		}
		defer func() { _ = file.Unlock() }()
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return 0, databaseError(err)
	}
	if err := s.write(ctx, s.legacy.prepare); err != nil {
		return 0, err
	}
	if err := s.mark(ctx); err != nil {
		return 0, err
	}
	s.reached.Store(true)
	return len(results), nil
}

// checkAge refuses a schema that needs a later binary than this one, which knows the migrations up
// to newest.
func (s *Store) checkAge(ctx context.Context, newest int64) error {
	return s.run(ctx, func(tx *gorm.DB) error {
		if !tx.Migrator().HasTable("wts_schema") {
			return tx.Exec("SELECT 1").Error // gorm's HasTable keeps a lost connection to itself
		}
		var oldest int64
		if err := tx.Table("wts_schema").Select("oldest").Scan(&oldest).Error; err != nil {
			return err
		}
		if oldest > newest {
			return ErrTooNew
		}
		return nil
	})
}
