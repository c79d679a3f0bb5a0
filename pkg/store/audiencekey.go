package store

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// audienceKey is a row of a key that is one audience's own.
type audienceKey struct {
	ID          string `gorm:"primaryKey"`
	Audience    string
	Algorithm   string
	Private     []byte
	Public      []byte
	CreatedAt   int64 `gorm:"autoCreateTime:false"`
	ActivatesAt *int64
	RetiredAt   *int64
}

// audienceKeyPlace binds a sealed key to its row.
func audienceKeyPlace(id string) keyring.Place {
	return keyring.Place{Table: "audience_keys", Owner: id, Column: "private"}
}

// AudienceKeys implements issuer.Store.
func (s *SigningKeys) AudienceKeys(ctx context.Context) (keys []issuer.AudienceKey, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		_, keys, err = s.audienceKeys(tx)
		return err
	})
	return keys, err
}

// audienceKeys reads the keys of all audiences, the oldest first; of those of one millisecond the one that signed first.
func (s *SigningKeys) audienceKeys(tx *gorm.DB) (rows map[string]audienceKey, keys []issuer.AudienceKey, err error) {
	var all []audienceKey
	if err := tx.Order("created_at, retired_at IS NULL, activates_at IS NULL, id").Find(&all).Error; err != nil {
		return nil, nil, err
	}
	rows = map[string]audienceKey{}
	for _, row := range all {
		key, err := s.openAudienceKey(row)
		if err != nil {
			return nil, nil, err
		}
		rows[row.ID], keys = row, append(keys, key)
	}
	return rows, keys, nil
}

// openAudienceKey reads a row. A half that the keyring does not open is left out.
func (s *SigningKeys) openAudienceKey(row audienceKey) (issuer.AudienceKey, error) {
	key := issuer.AudienceKey{
		ID: row.ID, Audience: row.Audience, Algorithm: row.Algorithm, CreatedAt: time.UnixMilli(row.CreatedAt),
		ActivatesAt: instant(row.ActivatesAt), RetiredAt: instant(row.RetiredAt),
	}
	var err error
	if len(row.Public) > 0 {
		if key.Public, err = x509.ParsePKIXPublicKey(row.Public); err != nil {
			return key, fmt.Errorf("the public half of audience key %s: %w", row.ID, err)
		}
	}
	raw, err := s.keys.Open(row.Private, audienceKeyPlace(row.ID))
	if err != nil {
		return key, nil //nolint:nilerr // the row is kept, and said to be closed
	}
	if key.Public == nil {
		key.Secret = secret.Text(raw)
		return key, nil
	}
	private, err := x509.ParsePKCS8PrivateKey(raw)
	if err != nil {
		return key, fmt.Errorf("the private half of audience key %s cannot be read", row.ID)
	}
	key.Private, _ = private.(crypto.Signer)
	return key, nil
}

// UpdateAudienceKeys implements issuer.Store, under the lock of the signing keys.
func (s *SigningKeys) UpdateAudienceKeys(ctx context.Context, update func([]issuer.AudienceKey, time.Time) ([]issuer.AudienceKey, error)) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		if s.dialect == "postgres" {
			if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", keysLock).Error; err != nil {
				return err
			}
		}
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		rows, keys, err := s.audienceKeys(tx)
		if err != nil {
			return err
		}
		updated, err := update(keys, time.UnixMilli(now))
		if err != nil {
			return err
		}
		if err := s.storeAudienceKeys(tx, rows, updated); err != nil {
			return err
		}
		return s.tell(tx, now, keysChanged, "")
	})
}

// The keys are few, and each change of them is one transaction under the lock of the signing keys: a replica that reads
// the feed's word reads all of them again, and signs with what it read.

// storeAudienceKeys makes the table hold these keys and no others. A key that was there keeps its halves, byte for byte.
func (s *SigningKeys) storeAudienceKeys(tx *gorm.DB, rows map[string]audienceKey, keys []issuer.AudienceKey) error {
	for _, key := range keys {
		row, there := rows[key.ID]
		delete(rows, key.ID)
		if !there {
			var err error
			if row, err = s.sealAudienceKey(key); err != nil {
				return err
			}
		}
		row.ActivatesAt, row.RetiredAt = millis(key.ActivatesAt), millis(key.RetiredAt)
		if err := tx.Save(&row).Error; err != nil {
			return err
		}
	}
	for _, gone := range rows {
		if err := tx.Delete(&gone).Error; err != nil {
			return err
		}
	}
	return nil
}

// sealAudienceKey is the row of a new key.
func (s *SigningKeys) sealAudienceKey(key issuer.AudienceKey) (row audienceKey, err error) {
	row = audienceKey{ID: key.ID, Audience: key.Audience, Algorithm: key.Algorithm, CreatedAt: key.CreatedAt.UnixMilli()}
	raw := []byte(key.Secret)
	if key.Secret == "" {
		if raw, err = x509.MarshalPKCS8PrivateKey(key.Private); err != nil {
			return row, fmt.Errorf("storing audience key %s: %w", key.ID, err)
		}
		if row.Public, err = x509.MarshalPKIXPublicKey(key.Public); err != nil {
			return row, fmt.Errorf("storing audience key %s: %w", key.ID, err)
		}
	}
	row.Private = s.keys.Seal(raw, audienceKeyPlace(key.ID))
	return row, nil
}
