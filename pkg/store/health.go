package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gofrs/flock"
	"gorm.io/gorm"
)

// Reached tells whether the database was ever reached with its schema in place.
func (s *Store) Reached() bool { return s.reached.Load() }

// Own takes an embedded database for this process alone, until Close; a server's is shared. The engine
// relies on it: nobody else can come back with what a flight brought.
func (s *Store) Own() error {
	if s.dialect != "sqlite" {
		return nil
	}
	s.owner = flock.New(s.dsn + ".serving")
	owned, err := s.owner.TryLock()
	if err == nil && !owned {
		err = errors.New("another wts serves it: one process serves an SQLite file; use PostgreSQL for more")
	}
	if err != nil {
		return fmt.Errorf("database.url: %s: %w", s.dsn, err)
	}
	return nil
}

// Ping asks the database for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return databaseError(s.pool.PingContext(ctx))
}

// Clock reaches for the database and says how far its clock is ahead of this machine's.
func (s *Store) Clock(ctx context.Context) (ahead time.Duration, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		sent := time.Now()
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		if err := tx.Exec("SELECT 1").Error; err != nil {
			return err
		}
		ahead = time.UnixMilli(now).Sub(sent)
		return nil
	})
	return ahead, err
}

// Close ends the connections to the database.
func (s *Store) Close() error {
	if len(s.bell) > 0 { // a command that ends now, and that nobody follows the feed for
		s.ringOnce(context.Background(), <-s.bell)
	}
	err := errors.Join(s.ear.Close(), s.pool.Close())
	if s.owner != nil {
		err = errors.Join(err, s.owner.Unlock())
	}
	return err
}

// Plaintext tells whether the database is another machine that may be reached without TLS.
func (s *Store) Plaintext() bool { return s.dialect == "postgres" && plaintext(s.dsn) }
