package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// Values that were rotated stay as long as their token: who presents one has a copy, which is worth knowing. What
// expired stays too, so that its owner sees what it was; a resource's tokens go with nothing but the database.

// APITokens keeps API tokens; it implements apitoken.Store and apitoken.Uses.
type APITokens struct{ *core }

// apiToken is a row of api_tokens. Times are unix milliseconds.
type apiToken struct {
	ID           string `gorm:"primaryKey"`
	Kind         string
	Format       string
	UserID       string
	Audience     string
	Resource     string
	Name         string
	Description  string
	Scopes       string
	Networks     string
	CreatedAt    int64 `gorm:"autoCreateTime:false"`
	ExpiresAt    *int64
	RevokedAt    *int64
	RevokedBy    string
	RevokedFor   string
	LastUsedAt   *int64
	LastUsedFrom string
}

// apiTokenValue is a row of api_token_values: a value's digest, never the value.
type apiTokenValue struct {
	Digest     []byte `gorm:"primaryKey"`
	TokenID    string
	Suffix     string
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	ValidUntil *int64
	Status     *int64
}

// apiTokenRow is a token as it is stored: lists are text, since nothing is looked for in them.
func apiTokenRow(token apitoken.Token) apiToken {
	networks := make([]string, 0, len(token.Networks))
	for _, network := range token.Networks {
		networks = append(networks, network.String())
	}
	return apiToken{
		ID: token.ID, Kind: string(token.Kind), Format: string(token.Format), UserID: token.UserID, Audience: token.Audience, Resource: token.Resource, Name: token.Name,
		Description: token.Description, Scopes: strings.Join(token.Scopes, " "), Networks: strings.Join(networks, " "), CreatedAt: token.CreatedAt.UnixMilli(),
		ExpiresAt: millis(token.ExpiresAt), RevokedAt: millis(token.RevokedAt), RevokedBy: token.RevokedBy, RevokedFor: token.RevokedFor,
		LastUsedAt: millis(token.LastUsedAt), LastUsedFrom: token.LastUsedFrom,
	}
}

// token is a row as it is read, with its values.
func (r *apiToken) token(values []apiTokenValue) apitoken.Token {
	token := apitoken.Token{
		ID: r.ID, Kind: apitoken.Kind(r.Kind), Format: apitoken.Format(r.Format), UserID: r.UserID, Audience: r.Audience, Resource: r.Resource, Name: r.Name,
		Description: r.Description, CreatedAt: time.UnixMilli(r.CreatedAt),
		ExpiresAt: instant(r.ExpiresAt), RevokedAt: instant(r.RevokedAt), RevokedBy: r.RevokedBy, RevokedFor: r.RevokedFor,
		LastUsedAt: instant(r.LastUsedAt), LastUsedFrom: r.LastUsedFrom,
	}
	if r.Scopes != "" {
		token.Scopes = strings.Fields(r.Scopes)
	}
	for text := range strings.FieldsSeq(r.Networks) {
		if network, err := netip.ParsePrefix(text); err == nil { // it was written by apiTokenRow
			token.Networks = append(token.Networks, network)
		}
	}
	for _, value := range values {
		token.Values = append(token.Values, apitoken.Value{
			Digest: apitoken.Digest(value.Digest), Suffix: value.Suffix, CreatedAt: time.UnixMilli(value.CreatedAt), Until: instant(value.ValidUntil),
			Status: statusOf(value.Status),
		})
	}
	return token
}

// valueRow is a value as it is stored.
func valueRow(id string, value apitoken.Value) apiTokenValue {
	row := apiTokenValue{Digest: value.Digest[:], TokenID: id, Suffix: value.Suffix, CreatedAt: value.CreatedAt.UnixMilli(), ValidUntil: millis(value.Until)}
	if value.Status > 0 {
		number := value.Status - 1
		row.Status = &number
	}
	return row
}

// statusOf is 1 and the number of a value in the status lists; 0 where it has none.
func statusOf(number *int64) int64 {
	if number == nil {
		return 0
	}
	return 1 + *number
}

// CreateToken implements apitoken.Store. The owner's row is locked, so that of two at once one is counted by the other.
func (s *APITokens) CreateToken(ctx context.Context, token apitoken.Token, most apitoken.Most) error {
	full := false
	err := s.write(ctx, func(tx *gorm.DB) error {
		now, err := s.fenced(tx)
		if err != nil {
			return err
		}
		if token.Kind == apitoken.Resource {
			err = s.locked(tx).Take(&resource{}, "audience = ? AND id = ?", token.Audience, token.Resource).Error
		} else {
			err = s.locked(tx).Select("id").Take(&user{}, "id = ?", token.UserID).Error
		}
		if err != nil {
			return err
		}
		active := tx.Model(&apiToken{}).Where("revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)", now)
		if token.Kind == apitoken.Resource {
			active = active.Where("audience = ? AND resource = ?", token.Audience, token.Resource)
		} else {
			active = active.Where("user_id = ? AND resource = ''", token.UserID)
		}
		var all, alike int64
		if err := active.Session(&gorm.Session{}).Count(&all).Error; err != nil {
			return err
		}
		if most.Alike > 0 {
			if err := active.Where("audience = ? AND format = ?", token.Audience, string(token.Format)).Count(&alike).Error; err != nil {
				return err
			}
		}
		if full = most.All > 0 && all >= int64(most.All) || most.Alike > 0 && alike >= int64(most.Alike); full {
			return nil
		}
		row := apiTokenRow(token)
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return s.putValues(tx, apitoken.Token{}, token)
	})
	if err == nil && full {
		return apitoken.ErrFull
	}
	return tokenError(err)
}

// putValues stores the values that are new or changed, and deletes those that are left out.
func (s *APITokens) putValues(tx *gorm.DB, before, after apitoken.Token) error {
	old := map[apitoken.Digest]apitoken.Value{}
	for _, value := range before.Values {
		old[value.Digest] = value
	}
	for _, value := range after.Values {
		if known, ok := old[value.Digest]; !ok || !known.Until.Equal(value.Until) {
			row := valueRow(after.ID, value)
			if err := tx.Save(&row).Error; err != nil {
				return err
			}
		}
		delete(old, value.Digest)
	}
	for digest := range old {
		if err := tx.Delete(&apiTokenValue{}, "digest = ?", digest[:]).Error; err != nil {
			return err
		}
	}
	return nil
}

// Token implements apitoken.Store.
func (s *APITokens) Token(ctx context.Context, id string) (apitoken.Token, error) {
	return s.one(ctx, "id = ?", id)
}

// TokenOf implements apitoken.Store.
func (s *APITokens) TokenOf(ctx context.Context, digest apitoken.Digest) (apitoken.Token, error) {
	return s.one(ctx, "id = (SELECT token_id FROM api_token_values WHERE digest = ?)", digest[:])
}

// one reads the token that a condition names.
func (s *APITokens) one(ctx context.Context, condition string, argument any) (token apitoken.Token, err error) {
	err = s.run(ctx, func(tx *gorm.DB) (err error) {
		token, err = s.take(tx, tx, condition, argument)
		return err
	})
	return token, tokenError(err)
}

// newestFirst orders values: the one that counts has no end, whatever the clocks said that made the others.
const newestFirst = "valid_until IS NOT NULL, created_at DESC"

// take reads a token with its values, by a query that may lock it. A database that a failover has set back may have
// lost that it was revoked.
func (s *APITokens) take(tx, query *gorm.DB, condition string, argument any) (apitoken.Token, error) {
	if _, err := s.fenced(tx); err != nil {
		return apitoken.Token{}, err
	}
	var row apiToken
	if err := query.Take(&row, condition, argument).Error; err != nil {
		return apitoken.Token{}, err
	}
	var values []apiTokenValue
	err := tx.Order(newestFirst).Find(&values, "token_id = ?", row.ID).Error
	return row.token(values), err
}

// tokenError says in the owner's words that there is no such row, or that the database does not answer.
func tokenError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gorm.ErrRecordNotFound):
		return apitoken.ErrUnknown
	}
	return fmt.Errorf("%w: %w", apitoken.ErrUnavailable, err)
}

// maxPage bounds a list of tokens.
const maxPage = 100

// Tokens implements apitoken.Store.
func (s *APITokens) Tokens(ctx context.Context, filter apitoken.Filter) (tokens []apitoken.Token, err error) {
	limit := filter.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	err = s.run(ctx, func(tx *gorm.DB) error {
		tokens = nil
		query := tx.Order("created_at DESC, id DESC").Limit(limit)
		if filter.Resource != "" {
			query = query.Where("audience = ? AND resource = ?", filter.Audience, filter.Resource)
		} else {
			query = query.Where("user_id = ? AND resource = ''", filter.UserID)
		}
		if !filter.UnusedSince.IsZero() {
			query = query.Where("coalesce(last_used_at, created_at) < ?", filter.UnusedSince.UnixMilli())
		}
		if filter.After != "" {
			query = query.Where("(created_at, id) < (SELECT created_at, id FROM api_tokens WHERE id = ?)", filter.After)
		}
		var rows []apiToken
		if err := query.Find(&rows).Error; err != nil {
			return err
		}
		ids := make([]string, 0, len(rows))
		for i := range rows {
			ids = append(ids, rows[i].ID)
		}
		var values []apiTokenValue
		if err := tx.Order(newestFirst).Find(&values, "token_id IN ?", ids).Error; err != nil {
			return err
		}
		for i := range rows {
			own := slices.DeleteFunc(slices.Clone(values), func(value apiTokenValue) bool { return value.TokenID != rows[i].ID })
			tokens = append(tokens, rows[i].token(own))
		}
		return nil
	})
	return tokens, tokenError(err)
}

// UpdateToken implements apitoken.Store.
func (s *APITokens) UpdateToken(ctx context.Context, id string, update func(apitoken.Token, time.Time) (apitoken.Token, error)) (token apitoken.Token, err error) {
	var refused error
	err = s.write(ctx, func(tx *gorm.DB) error {
		before, err := s.take(tx, s.locked(tx), "id = ?", id)
		if err != nil {
			return err
		}
		now, err := s.now(tx) // after the lock: what another change did meanwhile was before
		if err != nil {
			return err
		}
		handed := before
		handed.Values = slices.Clone(before.Values) // what was there is compared with what comes back
		if token, refused = update(handed, time.UnixMilli(now)); refused != nil {
			token = before
			return refused
		}
		row := apiTokenRow(token)
		if err := tx.Omit("last_used_at", "last_used_from").Save(&row).Error; err != nil { // a use may be noted meanwhile
			return err
		}
		if err := s.putValues(tx, before, token); err != nil {
			return err
		}
		return s.tellToken(tx, now, before, token)
	})
	if refused != nil {
		return token, refused
	}
	return token, tokenError(err)
}

// tellToken tells every replica of each value that a token had, and of an end that must not be undone.
func (s *APITokens) tellToken(tx *gorm.DB, now int64, before, after apitoken.Token) error {
	var digests []string
	for _, value := range before.Values {
		digests = append(digests, hex.EncodeToString(value.Digest[:]))
	}
	if err := s.tell(tx, now, tokenChanged, digests...); err != nil {
		return err
	}
	if before.RevokedAt.IsZero() && !after.RevokedAt.IsZero() {
		return s.tell(tx, now, tokenRevoked, after.ID)
	}
	return nil
}

// Used implements apitoken.Uses: one statement, which does nothing where another replica was quicker.
func (s *APITokens) Used(ctx context.Context, id string, at time.Time, from string, pause time.Duration) error {
	return s.run(besideRequests(ctx), func(tx *gorm.DB) error {
		return tx.Exec("UPDATE api_tokens SET last_used_at = ?, last_used_from = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at <= ?)",
			at.UnixMilli(), from, id, at.Add(-pause).UnixMilli()).Error
	})
}

// revokeAgain revokes a token that the database holds as active, after a failover.
func (s *APITokens) revokeAgain(ctx context.Context, id string) error {
	return s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		return tx.Model(&apiToken{}).Where("id = ? AND revoked_at IS NULL", id).Updates(map[string]any{"revoked_at": now, "revoked_by": "wts", "revoked_for": "it was revoked before a failover of the database"}).Error
	})
}
