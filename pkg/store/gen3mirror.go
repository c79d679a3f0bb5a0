package store

import (
	"crypto/rand"
	"log/slog"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// gen3Forget deletes what Gen3's table holds of a user at a provider.
func (s *core) gen3Forget(tx *gorm.DB, userID, providerID string) (rows int64, err error) {
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return 0, err
	}
	deleted := s.gen3Pair(tx, form, userID, providerID).Delete(&gen3Row{})
	return deleted.RowsAffected, deleted.Error
}

// gen3Spent deletes the copies of one token, which is dead. Another token of the same user stays: a
// Python pod was given it meanwhile, and it may well be alive.
//
// It is housekeeping, for the sake of which nothing of ours is undone: the successor is in the same
// transaction.
func (s *core) gen3Spent(tx *gorm.DB, userID, providerID string, token secret.Text) error {
	if !s.gen3.Enabled() {
		return nil
	}
	err := tx.Transaction(func(tx *gorm.DB) error { return s.gen3Delete(tx, userID, providerID, token) }) // a savepoint
	if err != nil && !stale(err) {
		s.log.Warn("a token that is spent could not be deleted from Gen3's table", slog.String("provider", providerID), slog.String("error", err.Error()))
		return nil
	}
	return err
}

func (s *core) gen3Delete(tx *gorm.DB, userID, providerID string, token secret.Text) error {
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return err
	}
	var rows []gen3Row
	if err := s.gen3Pair(tx, form, userID, providerID).Select("token").Find(&rows).Error; err != nil {
		return err
	}
	for _, row := range rows {
		clear, err := s.gen3.fernet.Open(row.Token)
		if err != nil && !keyring.IsFernet(row.Token) {
			clear = row.Token
		}
		if clear != string(token) {
			continue
		}
		if err := tx.Where("token = ?", row.Token).Delete(&gen3Row{}).Error; err != nil {
			return err
		}
	}
	return nil
}

const (
	// gen3MaxToken is what fits the primary key of Python's table, in bytes; a larger one is kept in ours
	// alone.
	gen3MaxToken = 2600
	// gen3NoEnd is the end of a grant that states none: 2100, which Python's datetime still knows.
	gen3NoEnd  = 4102444800
	gen3MaxEnd = 253402300799
)

// gen3Mirror writes a grant into Gen3's table, in the place of what it held of that user and provider.
// It is a copy for the way back, so that no login fails with it.
func (s *core) gen3Mirror(tx *gorm.DB, who *user, row broker.Row, token secret.Text) error {
	if !s.gen3.mirrors(row.Provider) || token == "" {
		return nil
	}
	form, err := s.gen3Form(tx)
	if err != nil || !form.sealed {
		return err // into an older form they would go in clear
	}
	expires := int64(gen3NoEnd)
	if !row.RefreshExpiresAt.IsZero() {
		expires = min(row.RefreshExpiresAt.Unix(), gen3MaxEnd)
	}
	mirrored := gen3Row{
		Token: s.gen3.fernet.Seal(string(token), time.Now()), JTI: rand.Text(), Username: who.Username, UserID: row.Subject,
		Expires: expires, IDP: s.gen3.idp(row.Provider),
	}
	err = tx.Transaction(func(tx *gorm.DB) error { // a savepoint
		if err := s.gen3Pair(tx, form, row.UserID, row.Provider).Delete(&gen3Row{}).Error; err != nil {
			return err
		}
		if len(mirrored.Token) > gen3MaxToken {
			return nil
		}
		return tx.Create(&mirrored).Error
	})
	if err != nil && !stale(err) {
		s.log.Warn("a connection was kept, and not mirrored into Gen3's table", slog.String("provider", row.Provider), slog.String("error", err.Error()))
		return nil
	}
	return err
}
