package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// openSQLite opens a file, made where there is none. Transactions take the write lock when they
// begin: one that took it later could find that another had come between.
func openSQLite(path string) (gorm.Dialector, *sql.DB, error) {
	if err := forOwnerAlone(path); err != nil {
		return nil, nil, fmt.Errorf("database.url: the file %s cannot be opened: %w", path, err)
	}
	options := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)",
	}}
	pool, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, nil, fmt.Errorf("database.url: the file %s cannot be opened: %w", path, err)
	}
	return pureGo{&sqlite.Dialector{Conn: pool}}, pool, nil
}

// forOwnerAlone makes the file, or takes the rights of others on it away: SQLite would make it with those
// that the umask leaves, and give the same to the files beside it.
func forOwnerAlone(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = file.Chmod(0o600)
	}
	return errors.Join(err, file.Close())
}

// pureGo is gorm's SQLite dialect over a driver without C, whose unique violations gorm would not
// recognise.
type pureGo struct{ *sqlite.Dialector }

// Translate implements gorm.ErrorTranslator.
func (d pureGo) Translate(err error) error {
	var failure *driver.Error
	if errors.As(err, &failure) {
		switch failure.Code() {
		case codes.SQLITE_CONSTRAINT_UNIQUE, codes.SQLITE_CONSTRAINT_PRIMARYKEY:
			return gorm.ErrDuplicatedKey
		}
	}
	return err
}
