package store

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

// signingKey is a row of signing_keys. Times are unix milliseconds of the database, since a replica's own clock may be
// wrong about when a key may sign.
type signingKey struct {
	ID          string `gorm:"primaryKey"`
	Algorithm   string
	Private     []byte
	Public      []byte
	CreatedAt   int64 `gorm:"autoCreateTime:false"`
	ActivatesAt int64
	LeavesAt    *int64
	TokenLife   int64
}

// keyPlace binds a sealed private half to its row: one that is moved to another does not open.
func keyPlace(id string) keyring.Place {
	return keyring.Place{Table: "signing_keys", Owner: id, Column: "private"}
}

// keysLock is the advisory lock under which the signing keys change; any number that is ours alone.
const keysLock = 7_764_011

// SigningKeys implements issuer.Store.
func (s *SigningKeys) SigningKeys(ctx context.Context) (keys []issuer.Key, now time.Time, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		_, keys, now, err = s.signingKeys(tx)
		return err
	})
	return keys, now, err
}

// A key is written once and then only dated: its halves stay byte for byte what they were, so that a replica whose keyring
// does not open the private half can date it too, and loses nothing of it.

// signingKeys reads the keys with the database's time, by which they activate and leave.
func (s *SigningKeys) signingKeys(tx *gorm.DB) (rows []signingKey, keys []issuer.Key, now time.Time, err error) {
	at, err := s.now(tx)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	if err := tx.Order("created_at, id").Find(&rows).Error; err != nil {
		return nil, nil, time.Time{}, err
	}
	for i := range rows {
		key, err := s.openKey(&rows[i])
		if err != nil {
			return nil, nil, time.Time{}, err
		}
		keys = append(keys, key)
	}
	return rows, keys, time.UnixMilli(at), nil
}

// openKey reads a row. A private half that the keyring does not open is left out: the key is
// published all the same.
func (s *SigningKeys) openKey(row *signingKey) (issuer.Key, error) {
	public, err := x509.ParsePKIXPublicKey(row.Public)
	if err != nil {
		return issuer.Key{}, fmt.Errorf("the public half of signing key %s: %w", row.ID, err)
	}
	key := issuer.Key{
		ID: row.ID, Algorithm: row.Algorithm, Public: public, CreatedAt: time.UnixMilli(row.CreatedAt),
		ActivatesAt: time.UnixMilli(row.ActivatesAt), LeavesAt: instant(row.LeavesAt), TokenLife: time.Duration(row.TokenLife) * time.Millisecond,
	}
	if raw, err := s.keys.Open(row.Private, keyPlace(row.ID)); err == nil {
		private, err := x509.ParsePKCS8PrivateKey(raw)
		if err != nil {
			return issuer.Key{}, fmt.Errorf("the private half of signing key %s cannot be read", row.ID)
		}
		key.Private, _ = private.(crypto.Signer)
	}
	return key, nil
}

// UpdateSigningKeys implements issuer.Store.
func (s *SigningKeys) UpdateSigningKeys(ctx context.Context, update func([]issuer.Key, time.Time) ([]issuer.Key, error)) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		if s.dialect == "postgres" {
			if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", keysLock).Error; err != nil {
				return err
			}
		}
		rows, keys, now, err := s.signingKeys(tx)
		if err != nil {
			return err
		}
		updated, err := update(keys, now)
		if err != nil {
			return err
		}
		changed, err := s.storeKeys(tx, rows, updated)
		if err != nil || !changed {
			return err
		}
		return s.tell(tx, now.UnixMilli(), keysChanged, "")
	})
}

// Every replica maintains the keys once a minute, and most of the time there is nothing to do: what is the same is not
// written, and no replica is told of it.

// storeKeys makes the table hold these keys and no others, touching only what differs.
func (s *SigningKeys) storeKeys(tx *gorm.DB, rows []signingKey, keys []issuer.Key) (changed bool, err error) {
	before := map[string]signingKey{}
	for _, row := range rows {
		before[row.ID] = row
	}
	for _, key := range keys {
		old, existed := before[key.ID]
		delete(before, key.ID)
		row, err := s.sealKey(key, old)
		if err != nil {
			return false, err
		}
		if existed && row.equal(old) {
			continue
		}
		changed = true
		if err := tx.Save(&row).Error; err != nil {
			return false, err
		}
	}
	for _, gone := range before {
		changed = true
		if err := tx.Delete(&gone).Error; err != nil {
			return false, err
		}
	}
	return changed, nil
}

// sealKey is the row of a key. A key that was there keeps its halves, byte for byte.
func (s *SigningKeys) sealKey(key issuer.Key, old signingKey) (signingKey, error) {
	row := signingKey{
		ID: key.ID, Algorithm: key.Algorithm, Private: old.Private, Public: old.Public, CreatedAt: key.CreatedAt.UnixMilli(),
		ActivatesAt: key.ActivatesAt.UnixMilli(), LeavesAt: millis(key.LeavesAt), TokenLife: key.TokenLife.Milliseconds(),
	}
	if old.ID != "" {
		return row, nil
	}
	private, err := x509.MarshalPKCS8PrivateKey(key.Private)
	if err != nil {
		return signingKey{}, fmt.Errorf("storing signing key %s: %w", key.ID, err)
	}
	if row.Public, err = x509.MarshalPKIXPublicKey(key.Public); err != nil {
		return signingKey{}, fmt.Errorf("storing signing key %s: %w", key.ID, err)
	}
	row.Private = s.keys.Seal(private, keyPlace(key.ID))
	return row, nil
}

func (r signingKey) equal(other signingKey) bool {
	return r.ActivatesAt == other.ActivatesAt && r.TokenLife == other.TokenLife && instant(r.LeavesAt).Equal(instant(other.LeavesAt)) &&
		bytes.Equal(r.Private, other.Private)
}
