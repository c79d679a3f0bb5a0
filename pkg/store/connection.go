package store

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// connection is a row of connections.
type connection struct {
	UserID           string `gorm:"primaryKey"`
	Provider         string `gorm:"primaryKey"`
	Subject          string
	Phase            string
	Reason           string
	Version          int64
	RefreshToken     []byte
	RefreshDigest    []byte
	AccessToken      []byte
	AccessIssuedAt   *int64
	AccessExpiresAt  *int64
	RefreshExpiresAt *int64
	ConnectedAt      int64
	UpdatedAt        int64 `gorm:"autoUpdateTime:false"`
	// The refresh engine's; see the second migration.
	ParentDigest  []byte
	Rotates       string `gorm:"default:unknown"`
	Flight        string
	Replica       string
	ClaimedAt     *int64
	PresentedAt   *int64
	NextAttemptAt *int64
	StoredVersion int64
}

// alive tells that the row holds a grant, whatever is being done with it.
func (r *connection) alive() bool {
	return r.Phase == string(broker.Ready) || r.Phase == string(broker.Refreshing) || r.Phase == string(broker.Suspect)
}

// rotation is what is known of the connection's refreshes, in a row that may be new.
func (r *connection) rotation() string { return cmp.Or(r.Rotates, string(broker.RotationUnknown)) }

func (r *connection) object() string { return r.UserID + "/" + r.Provider }

func (r *connection) place(column string) keyring.Place {
	return keyring.Place{Table: "connections", Owner: r.UserID, Part: r.Provider, Column: column}
}

// seal puts tokens into a row. An empty refresh token leaves the one that is there.
func (s *Store) seal(row *connection, tokens provider.Tokens) {
	row.AccessToken = s.keys.Seal([]byte(tokens.AccessToken), row.place("access_token"))
	row.AccessIssuedAt, row.AccessExpiresAt = millis(tokens.IssuedAt), millis(tokens.AccessExpiresAt)
	if tokens.RefreshToken != "" {
		row.RefreshToken = s.keys.Seal([]byte(tokens.RefreshToken), row.place("refresh_token"))
		row.RefreshDigest = s.keys.Digest(string(tokens.RefreshToken))
		row.RefreshExpiresAt = nil
	}
	if !tokens.RefreshExpiresAt.IsZero() {
		row.RefreshExpiresAt = millis(tokens.RefreshExpiresAt)
	}
}

// open reads a row. One that the keyring does not open is unreadable, which is no error: the row
// stays as it is for the keyring that does.
func (s *Store) open(row *connection) broker.Connection {
	found := broker.Connection{
		UserID: row.UserID, Provider: row.Provider, Subject: row.Subject, Phase: broker.Phase(row.Phase), Reason: row.Reason,
		Version: row.Version, ConnectedAt: time.UnixMilli(row.ConnectedAt), Rotates: broker.Rotation(row.Rotates),
		AccessIssuedAt: instant(row.AccessIssuedAt), AccessExpiresAt: instant(row.AccessExpiresAt),
		RefreshExpiresAt: instant(row.RefreshExpiresAt),
	}
	unseal := func(sealed []byte, column string) secret.Text {
		if len(sealed) == 0 {
			return ""
		}
		text, err := s.keys.Open(sealed, row.place(column))
		if err != nil {
			found.Unreadable = true
		}
		return secret.Text(text)
	}
	found.RefreshToken = unseal(row.RefreshToken, "refresh_token")
	found.AccessToken = unseal(row.AccessToken, "access_token")
	return found
}

// Connection implements broker.Store.
func (s *Store) Connection(ctx context.Context, userID, providerID string) (broker.Connection, error) {
	own, err := s.ownConnection(ctx, userID, providerID)
	return s.fromGen3(ctx, userID, providerID, own, err)
}

// Connections implements broker.Store.
func (s *Store) Connections(ctx context.Context, userID string) ([]broker.Connection, error) {
	var rows []connection
	var elsewhere []string
	err := s.read(ctx, func(tx *gorm.DB) (err error) {
		if err := tx.Find(&rows, "user_id = ?", userID).Error; err != nil {
			return err
		}
		elsewhere, err = s.gen3Providers(tx, userID)
		return err
	})
	if err != nil {
		return nil, err
	}
	found := map[string]broker.Connection{}
	for at := range rows {
		found[rows[at].Provider] = s.open(&rows[at])
	}
	for _, id := range elsewhere {
		if own, ours := found[id]; ours && !s.wanting(own, time.Now()) {
			continue
		}
		completed, err := s.Connection(ctx, userID, id)
		switch {
		case err == nil:
			found[id] = completed
		case !errors.Is(err, broker.ErrNotConnected):
			return nil, err
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// ownConnection reads a row of our own table.
func (s *Store) ownConnection(ctx context.Context, userID, providerID string) (broker.Connection, error) {
	var row connection
	err := s.read(ctx, func(tx *gorm.DB) error {
		return tx.Take(&row, "user_id = ? AND provider = ?", userID, providerID).Error
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return broker.Connection{}, broker.ErrNotConnected
	}
	if err != nil {
		return broker.Connection{}, err
	}
	return s.open(&row), nil
}

// Disconnect implements broker.Store. The tombstone keeps the version, so that it never restarts,
// and no token. What Gen3's table holds goes with it, even where our own holds nothing yet.
func (s *Store) Disconnect(ctx context.Context, userID, providerID string) error {
	err := s.write(ctx, func(tx *gorm.DB) error {
		if err := s.lockUser(tx, userID); err != nil {
			return err
		}
		row, now, err := s.lockConnection(tx, userID, providerID)
		missing := errors.Is(err, gorm.ErrRecordNotFound)
		if err != nil && !missing {
			return err
		}
		forgotten, err := s.gen3Forget(tx, userID, providerID)
		if err != nil {
			return err
		}
		if (missing || row.Phase == string(broker.Disconnected)) && forgotten == 0 {
			return gorm.ErrRecordNotFound
		}
		if err := s.unwanted(tx, row, s.open(row).RefreshToken, now); err != nil {
			return err
		}
		tombstone := connection{
			UserID: userID, Provider: providerID, Subject: row.Subject, ConnectedAt: row.ConnectedAt,
			Phase: string(broker.Disconnected), Version: row.Version + 1, UpdatedAt: now, Rotates: row.rotation(),
		}
		if err := tx.Save(&tombstone).Error; err != nil {
			return err
		}
		if err := s.tellLanded(tx, tombstone.object()); err != nil {
			return err
		}
		return s.tell(tx, now, connectionChanged, tombstone.object())
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return broker.ErrNotConnected
	}
	return err
}

// lockUser comes before a lock on a connection that may not be there yet: what has no row cannot be
// locked itself.
func (s *Store) lockUser(tx *gorm.DB, userID string) error {
	return s.locked(tx).Select("id").Take(&user{}, "id = ?", userID).Error
}

// lockConnection reads a row for a change, with the database's time.
func (s *Store) lockConnection(tx *gorm.DB, userID, providerID string) (*connection, int64, error) {
	now, err := s.now(tx)
	if err != nil {
		return nil, 0, err
	}
	var row connection
	err = s.locked(tx).Take(&row, "user_id = ? AND provider = ?", userID, providerID).Error
	return &row, now, err
}
