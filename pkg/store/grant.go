package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/grant"
)

// Grants keeps what people allow programs; it implements grant.Store and grant.Logins.
type Grants struct {
	*core
	sessions *Sessions
}

// authorization is a row of authorizations. Times are unix milliseconds.
type authorization struct {
	Digest          string `gorm:"primaryKey"`
	UserCode        *string
	Client          string
	Audience        string
	Scopes          string
	State           string
	RedirectURI     string
	Challenge       string
	UserID          *string
	AuthenticatedAt *int64
	Login           *string
	Address         string
	Agent           string
	CreatedAt       int64 `gorm:"autoCreateTime:false"`
	ExpiresAt       int64
}

// grantError says in the owner's words that there is no such row, or that the database does not answer.
func grantError(err error) error {
	switch {
	case err == nil, errors.Is(err, grant.ErrUnknown), errors.Is(err, grant.ErrReplayed):
		return err
	case errors.Is(err, gorm.ErrRecordNotFound):
		return grant.ErrUnknown
	}
	return fmt.Errorf("%w: %w", grant.ErrUnavailable, err)
}

// A login is a row of sessions whose client is not empty: what ends sessions ends logins too (a user who is disabled,
// a person who ends all of theirs), and the feed tells every replica by the same word. No cookie of a browser finds one,
// since a login's digest is over a text that no cookie can hold.

// optional is a text that may be null.
func optional(digest *grant.Digest) *string {
	if digest == nil {
		return nil
	}
	text := digest.String()
	return &text
}

// digestOf reads a digest; nil where there is none.
func digestOf(text *string) *grant.Digest {
	if text == nil {
		return nil
	}
	raw, err := hex.DecodeString(*text)
	if err != nil || len(raw) != len(grant.Digest{}) {
		return nil
	}
	digest := grant.Digest(raw)
	return &digest
}

// authorization is a row as it is read.
func (r *authorization) authorization() (read grant.Authorization) {
	read = grant.Authorization{
		Client: r.Client, Audience: r.Audience, Scopes: strings.Fields(r.Scopes), State: grant.State(r.State), RedirectURI: r.RedirectURI, Challenge: r.Challenge,
		UserCode: digestOf(r.UserCode), Login: digestOf(r.Login), AuthenticatedAt: instant(r.AuthenticatedAt), Address: r.Address, Agent: r.Agent,
		CreatedAt: time.UnixMilli(r.CreatedAt), ExpiresAt: time.UnixMilli(r.ExpiresAt),
	}
	if own := digestOf(&r.Digest); own != nil {
		read.Digest = *own
	}
	if r.UserID != nil {
		read.UserID = *r.UserID
	}
	return read
}

// CreateAuthorization implements grant.Store.
func (s *Grants) CreateAuthorization(ctx context.Context, made grant.Authorization) error {
	row := authorization{
		Digest: made.Digest.String(), UserCode: optional(made.UserCode), Client: made.Client, Audience: made.Audience, Scopes: strings.Join(made.Scopes, " "),
		State: string(made.State), RedirectURI: made.RedirectURI, Challenge: made.Challenge, AuthenticatedAt: millis(made.AuthenticatedAt),
		Address: made.Address, Agent: made.Agent, CreatedAt: made.CreatedAt.UnixMilli(), ExpiresAt: made.ExpiresAt.UnixMilli(),
	}
	if made.UserID != "" {
		row.UserID = &made.UserID
	}
	return grantError(s.write(ctx, func(tx *gorm.DB) error { return tx.Create(&row).Error }))
}

// find reads one authorization that is there.
func (s *Grants) find(ctx context.Context, condition string, arguments ...any) (grant.Authorization, error) {
	var row authorization
	err := s.run(ctx, func(tx *gorm.DB) error {
		row = authorization{}
		return tx.Take(&row, append([]any{condition}, arguments...)...).Error
	})
	if err != nil {
		return grant.Authorization{}, grantError(err)
	}
	return row.authorization(), nil
}

// Authorization implements grant.Store.
func (s *Grants) Authorization(ctx context.Context, digest grant.Digest) (grant.Authorization, error) {
	return s.find(ctx, "digest = ?", digest.String())
}

// Waiting implements grant.Store.
func (s *Grants) Waiting(ctx context.Context, userCode grant.Digest) (grant.Authorization, error) {
	return s.find(ctx, "user_code = ? AND state = ?", userCode.String(), string(grant.Pending))
}

// Decide implements grant.Store.
func (s *Grants) Decide(ctx context.Context, userCode grant.Digest, state grant.State, userID string, authenticatedAt time.Time) error {
	return grantError(s.write(ctx, func(tx *gorm.DB) error {
		if _, err := s.fenced(tx); err != nil {
			return err
		}
		result := tx.Model(&authorization{}).Where("user_code = ? AND state = ?", userCode.String(), string(grant.Pending)).
			Updates(map[string]any{"state": string(state), "user_id": userID, "authenticated_at": authenticatedAt.UnixMilli()})
		if result.Error == nil && result.RowsAffected == 0 {
			return gorm.ErrRecordNotFound
		}
		return result.Error
	}))
}

// Spend implements grant.Store. The row is locked, so that of many at once one reads it as it was.
func (s *Grants) Spend(ctx context.Context, digest grant.Digest, login *grant.Digest) (grant.Authorization, error) {
	var row authorization
	err := s.write(ctx, func(tx *gorm.DB) error {
		row = authorization{}
		if _, err := s.fenced(tx); err != nil {
			return err
		}
		if err := s.locked(tx).Take(&row, "digest = ?", digest.String()).Error; err != nil || row.State != string(grant.Allowed) {
			return err
		}
		return tx.Model(&authorization{}).Where("digest = ?", row.Digest).Updates(map[string]any{"state": string(grant.Spent), "login": optional(login)}).Error
	})
	if err != nil {
		return grant.Authorization{}, grantError(err)
	}
	return row.authorization(), nil
}

// CreateLogin implements grant.Logins. What it begins for is locked, so that it is taken back before, or the login is
// there to be ended.
func (s *Grants) CreateLogin(ctx context.Context, begun grant.Login, most int) error {
	return grantError(s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		if err := s.locked(tx).Take(&authorization{}, "login = ? AND state = ?", begun.Digest.String(), string(grant.Spent)).Error; err != nil {
			return err
		}
		if err := tx.Take(&user{}, "id = ? AND disabled_at IS NULL", begun.UserID).Error; err != nil {
			return err
		}
		oldest := tx.Model(&session{}).Select("digest").Where("user_id = ? AND client = ?", begun.UserID, begun.Client).Order("seen_at DESC, digest").Offset(most - 1).Limit(MaxListed)
		if _, err := s.sessions.endSessions(tx, tx.Session(&gorm.Session{}).Where("digest IN (?)", oldest), now); err != nil {
			return err
		}
		return tx.Create(&session{
			Digest: begun.Digest[:], UserID: begun.UserID, CreatedAt: begun.CreatedAt.UnixMilli(), SeenAt: begun.SeenAt.UnixMilli(), EndsAt: begun.EndsAt.UnixMilli(),
			Address: begun.Address, Agent: begun.Agent, Client: begun.Client, Audience: begun.Audience, Scopes: strings.Join(begun.Scopes, " "), Secret: begun.Secret.String(),
		}).Error
	}))
}

// Login implements grant.Logins.
func (s *Grants) Login(ctx context.Context, digest grant.Digest) (grant.Login, error) {
	var row session
	err := s.run(ctx, func(tx *gorm.DB) error {
		row = session{}
		if _, err := s.fenced(tx); err != nil { // one that was ended may not be, as a standby has it
			return err
		}
		return tx.Take(&row, "digest = ? AND client <> ''", digest[:]).Error
	})
	if err != nil {
		return grant.Login{}, grantError(err)
	}
	read := grant.Login{
		Digest: digest, UserID: row.UserID, Client: row.Client, Audience: row.Audience, Scopes: strings.Fields(row.Scopes),
		CreatedAt: time.UnixMilli(row.CreatedAt), SeenAt: time.UnixMilli(row.SeenAt), EndsAt: time.UnixMilli(row.EndsAt), Address: row.Address, Agent: row.Agent,
	}
	if secret := digestOf(&row.Secret); secret != nil {
		read.Secret = *secret
	}
	return read, nil
}

// RotateLogin implements grant.Logins. Replicas hear of it, since the end of the login is another one.
func (s *Grants) RotateLogin(ctx context.Context, digest, old, fresh grant.Digest, seen, ends time.Time) error {
	return grantError(s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		result := tx.Model(&session{}).Where("digest = ? AND client <> '' AND secret = ?", digest[:], old.String()).
			Updates(map[string]any{"secret": fresh.String(), "seen_at": seen.UnixMilli(), "ends_at": ends.UnixMilli()})
		switch {
		case result.Error != nil:
			return result.Error
		case result.RowsAffected == 0: // another one came first, or it was ended
			if err := tx.Take(&session{}, "digest = ? AND client <> ''", digest[:]).Error; err != nil {
				return err
			}
			return grant.ErrReplayed
		}
		return s.tell(tx, now, sessionChanged, hex.EncodeToString(digest[:]))
	}))
}

// EndLogin implements grant.Logins.
func (s *Grants) EndLogin(ctx context.Context, digest grant.Digest) error {
	return grantError(s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		_, err = s.sessions.endSessions(tx, tx.Session(&gorm.Session{}).Where("digest = ? AND client <> ''", digest[:]), now)
		return err
	}))
}
