package store

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/grant"
)

type session struct {
	Digest    []byte `gorm:"primaryKey"`
	UserID    string
	CreatedAt int64 `gorm:"autoCreateTime:false"`
	SeenAt    int64
	EndsAt    int64
	Address   string
	Agent     string
	Client    string // the program; empty for a browser
	Audience  string
	Scopes    string
	Secret    string
}

// CreateSession implements authn.SessionStore.
func (s *Sessions) CreateSession(ctx context.Context, begun authn.BrowserSession) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		return tx.Create(&session{
			Digest: begun.Digest[:], UserID: begun.UserID, CreatedAt: begun.CreatedAt.UnixMilli(),
			SeenAt: begun.SeenAt.UnixMilli(), EndsAt: begun.EndsAt.UnixMilli(), Address: begun.Address, Agent: begun.Agent,
		}).Error
	})
}

// Session implements authn.SessionStore.
func (s *Sessions) Session(ctx context.Context, digest authn.SessionDigest) (authn.BrowserSession, error) {
	var rows []struct {
		Row   session       `gorm:"embedded"`
		State databaseState `gorm:"embedded"`
	}
	err := s.run(ctx, func(tx *gorm.DB) error {
		err := tx.Raw("SELECT s.*, d.* FROM ? d LEFT JOIN sessions s ON s.digest = ?", s.state(), digest[:]).Scan(&rows).Error
		if err == nil {
			err = s.usable(rows[0].State) // one that was ended may not be, as a standby has it
		}
		return err
	})
	if err != nil {
		return authn.BrowserSession{}, err
	}
	row := rows[0].Row
	if row.UserID == "" {
		return authn.BrowserSession{}, authn.ErrUnknown
	}
	return row.session(), nil
}

// TouchSession implements authn.SessionStore.
func (s *Sessions) TouchSession(ctx context.Context, digest authn.SessionDigest, seen time.Time) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		return tx.Model(&session{}).Where("digest = ?", digest[:]).Update("seen_at", seen.UnixMilli()).Error
	})
}

// EndSessions implements authn.SessionStore.
func (s *Sessions) EndSessions(ctx context.Context, userID string, digest *authn.SessionDigest) (ended []authn.SessionDigest, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		matching := tx.Session(&gorm.Session{})
		switch {
		case digest != nil && userID != "":
			matching = matching.Where("digest = ? AND user_id = ?", digest[:], userID)
		case digest != nil:
			matching = matching.Where("digest = ?", digest[:])
		default:
			if err := s.takeBack(tx, userID); err != nil {
				return err
			}
			matching = matching.Where("user_id = ?", userID)
		}
		ended, err = s.endSessions(tx, matching, now)
		return err
	})
	return ended, err
}

// SessionsOf implements authn.SessionStore.
func (s *Sessions) SessionsOf(ctx context.Context, userID string) (all []authn.BrowserSession, err error) {
	var rows []session
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Order("seen_at DESC, digest").Limit(MaxListed).Find(&rows, "user_id = ?", userID).Error
	})
	for i := range rows {
		all = append(all, rows[i].session())
	}
	return all, err
}

// session is a row as it is read.
func (r *session) session() authn.BrowserSession {
	return authn.BrowserSession{
		Digest: authn.SessionDigest(r.Digest), UserID: r.UserID, CreatedAt: time.UnixMilli(r.CreatedAt), SeenAt: time.UnixMilli(r.SeenAt), EndsAt: time.UnixMilli(r.EndsAt),
		Address: r.Address, Agent: r.Agent, Client: r.Client,
	}
}

// endSessionsOf ends every session of a user, in the transaction that is the reason.
func (s *Sessions) endSessionsOf(tx *gorm.DB, userID string, now int64) error {
	if err := s.takeBack(tx, userID); err != nil {
		return err
	}
	_, err := s.endSessions(tx, tx.Session(&gorm.Session{}).Where("user_id = ?", userID), now)
	return err
}

// A session of a browser proves who a user is, and what a user may do is asked at each request: of one who is disabled
// nothing is accepted, so that the session is of no use but to tell the person why they are refused.

// endLoginsOf ends what a user has let programs do, and no session of a browser.
func (s *Sessions) endLoginsOf(tx *gorm.DB, userID string, now int64) error {
	if err := s.takeBack(tx, userID); err != nil {
		return err
	}
	_, err := s.endSessions(tx, tx.Session(&gorm.Session{}).Where("user_id = ? AND client <> ''", userID), now)
	return err
}

// takeBack ends what a user has allowed programs that have not fetched their tokens yet, or are about to begin.
func (s *Sessions) takeBack(tx *gorm.DB, userID string) error {
	return tx.Model(&authorization{}).Where("user_id = ?", userID).Update("state", string(grant.Denied)).Error
}

// endSessions deletes the sessions that match and tells every replica of each, in the same transaction.
func (s *Sessions) endSessions(tx, matching *gorm.DB, now int64) (digests []authn.SessionDigest, err error) {
	var ended []session
	if err := matching.Clauses(clause.Returning{Columns: []clause.Column{{Name: "digest"}}}).Delete(&ended).Error; err != nil {
		return nil, err
	}
	var names []string
	for _, one := range ended {
		names = append(names, hex.EncodeToString(one.Digest))
		digests = append(digests, authn.SessionDigest(one.Digest))
	}
	for some := range slices.Chunk(names, 500) {
		if err := s.tell(tx, now, sessionChanged, some...); err != nil {
			return nil, err
		}
	}
	return digests, nil
}
