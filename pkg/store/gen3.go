package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store/gen3"
)

// Gen3 is the table of Gen3's Python service, of which old pods may still run. Its rows are taken over when they are
// asked for, and what we keep is mirrored into it, for the way back (Gen3 contract 1.4 and 4).
type Gen3 struct {
	*connectionRows
	users *Users
	table *gen3.Table
}

// gen3Issuer marks people of whom Gen3's table knows the name alone. Their own first login with us
// says which identity they are; until then the name is, as it was with the Python service.
const gen3Issuer = "gen3"

// connectGen3 gives the table its say.
func (s *Store) connectGen3(config gen3.Config) error {
	if !config.Enabled() {
		return nil
	}
	table, err := gen3.New(config)
	if err != nil {
		return err
	}
	s.Gen3 = &Gen3{connectionRows: s.Connections.connectionRows, users: s.Users, table: table}
	s.legacy = legacy{
		find: s.Gen3.find, person: s.Gen3.person, adopt: s.Gen3.adopt, rename: s.Gen3.rename, mirror: s.Gen3.mirror, forget: s.Gen3.forget,
		copies: true, prepare: gen3.Make, tidy: s.Gen3.tidy,
	}
	return nil
}

// of are the rows of a user at a provider.
func (s *Gen3) of(tx *gorm.DB, form gen3.Form, userID, providerID string) *gorm.DB {
	rows := tx.Where("username = (SELECT username FROM users WHERE id = ? AND set_aside_at IS NULL)", userID)
	if s.table.IsDefault(providerID) {
		// Python stored whatever account was logged in to under the name that was logged in before. A person
		// whose identity is known has only what is theirs.
		rows = rows.Where("userid = (SELECT subject FROM users WHERE id = ?) OR EXISTS (SELECT 1 FROM users WHERE id = ? AND issuer = ?)", userID, userID, gen3Issuer)
	}
	return s.table.At(rows, form, providerID)
}

// newest is the newest grant that the table holds of a user at a provider; nil where there is none.
func (s *Gen3) newest(tx *gorm.DB, userID, providerID string) (*gen3.Grant, error) {
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return nil, err
	}
	return s.table.Newest(s.of(tx, form, userID, providerID), form)
}

// wanting tells that a row of ours is missing or does not serve, so that Gen3's table may know better: a Python pod
// may have written there what it was given meanwhile.
func wanting(own broker.Row, now time.Time) bool {
	return own.Version == 0 || own.Phase == broker.Broken || own.Phase == broker.Disconnected || own.Unreadable ||
		!own.RefreshExpiresAt.IsZero() && !now.Before(own.RefreshExpiresAt)
}

// find implements legacy.
func (s *Gen3) find(ctx context.Context, userID, providerID string, own []broker.Row) (found []broker.Row, err error) {
	ids := []string{providerID}
	if providerID == "" {
		if ids, err = s.providers(ctx, userID); err != nil {
			return nil, err
		}
	}
	found = slices.Clone(own)
	for _, id := range ids {
		i := slices.IndexFunc(found, func(row broker.Row) bool { return row.Provider == id })
		if !s.table.Knows(id) || i >= 0 && !wanting(found[i], time.Now()) {
			continue
		}
		row, held, err := s.findOne(ctx, userID, id, i < 0)
		switch {
		case err != nil:
			return nil, err
		case held && i < 0:
			found = append(found, row)
		case held:
			found[i] = row
		}
	}
	return found, nil
}

// findOne is what the table holds in the place of a row that is missing or does not serve.
func (s *Gen3) findOne(ctx context.Context, userID, providerID string, missing bool) (row broker.Row, held bool, err error) {
	var grant *gen3.Grant
	err = s.run(ctx, func(tx *gorm.DB) (err error) {
		grant, err = s.newest(tx, userID, providerID)
		return err
	})
	switch {
	case err != nil || grant == nil:
		return row, false, err
	case grant.Lives(time.Now()):
		row, err = s.takeOver(ctx, userID, providerID)
		if errors.Is(err, broker.ErrNotConnected) {
			return row, false, nil
		}
		return row, err == nil, err
	}
	// Nothing to keep, and something to say where there is no row: that it cannot be read, or has expired.
	return broker.Row{Connection: broker.Connection{
		UserID: userID, Provider: providerID, Phase: broker.Ready, Unreadable: grant.Unreadable,
		RefreshToken: grant.Token, RefreshExpiresAt: grant.Expires,
	}}, missing, nil
}

// takeOver copies a grant from Gen3's table into ours. It stays there, for the way back.
func (s *Gen3) takeOver(ctx context.Context, userID, providerID string) (found broker.Row, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		if err := s.lockUser(tx, userID); err != nil {
			return err
		}
		row, err := s.lockRow(tx, userID, providerID)
		missing := errors.Is(err, broker.ErrNotConnected)
		if err != nil && !missing {
			return err
		}
		now := row.Reading.Now().Truncate(time.Millisecond)
		if found = row; !wanting(row, now) {
			return nil // another was quicker
		}
		grant, err := s.newest(tx, userID, providerID)
		switch {
		case err != nil:
			return err
		case !grant.Lives(now), !missing && string(row.Digest) == string(s.keys.Digest(string(grant.Token))):
			if missing {
				return gorm.ErrRecordNotFound
			}
			return nil
		}
		next := broker.Row{
			Connection: broker.Connection{
				UserID: userID, Provider: providerID, Subject: grant.Subject, Phase: broker.Ready, Version: row.Version + 1,
				ConnectedAt: earlier(now, grant.Expires.Add(-gen3.Life)), Rotates: broker.RotationUnknown,
				RefreshToken: grant.Token, RefreshExpiresAt: grant.Expires,
			},
			Digest: s.keys.Digest(string(grant.Token)), StoredVersion: row.Version + 1, Reading: row.Reading,
		}
		if missing {
			err = s.insert(tx, next) // where another was quicker, all of this is run again
		} else if swapped, failed := s.update(tx, row, next, now); failed != nil || !swapped {
			err = errors.Join(failed, errSwaps)
		}
		if err != nil {
			return err
		}
		found = next
		return s.tell(tx, now.UnixMilli(), connectionChanged, objectOf(userID, providerID))
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return broker.Row{}, broker.ErrNotConnected
	}
	return found, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// providers are those of which the table holds something of a user's that lives.
func (s *Gen3) providers(ctx context.Context, userID string) (ids []string, err error) {
	idps := []string{}
	err = s.run(ctx, func(tx *gorm.DB) error {
		form, err := s.table.Form(tx)
		if err != nil || !form.There {
			return err
		}
		rows := tx.Model(&gen3.Row{}).Where("username = (SELECT username FROM users WHERE id = ? AND set_aside_at IS NULL) AND expires > ?", userID, time.Now().Unix())
		if form.IDP {
			return rows.Distinct("idp").Pluck("idp", &idps).Error
		}
		var count int64
		if err := rows.Count(&count).Error; err != nil || count == 0 {
			return err
		}
		idps = append(idps, gen3.Default)
		return nil
	})
	for _, idp := range idps {
		if id, configured := s.table.Provider(idp); configured {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// mirror implements legacy. A grant is written in the place of what the table held of that user and provider. It is
// a copy for the way back, so that no login fails with it.
func (s *Gen3) mirror(tx *gorm.DB, who *user, row broker.Row, token secret.Text) error {
	if s.table.Rotates(row.Provider) {
		// What may have rotated is of no use on the way back, and would come up again behind the new grant.
		_, err := s.forget(tx, who.ID, row.Provider, "")
		return err
	}
	if !s.table.Mirrors(row.Provider) || token == "" {
		return nil
	}
	form, err := s.table.Form(tx)
	if err != nil || !form.Sealed {
		return err // into an older form they would go in clear
	}
	err = tx.Transaction(func(tx *gorm.DB) error { // a savepoint
		if err := s.of(tx, form, row.UserID, row.Provider).Delete(&gen3.Row{}).Error; err != nil {
			return err
		}
		return s.table.Create(tx, who.Username, row.Provider, gen3.Grant{Token: token, Subject: row.Subject, Expires: row.RefreshExpiresAt})
	})
	if err != nil && !stale(err) {
		s.log.Warn("a connection was kept, and not mirrored into Gen3's table", slog.String("provider", row.Provider), slog.String("error", err.Error()))
		return nil
	}
	return err
}

// forget implements legacy. Of a token that is spent the copies are deleted, as housekeeping, for the sake of which
// nothing of ours is undone: the successor is in the same transaction. Another token of the same user stays: a Python
// pod was given it meanwhile, and it may well be alive.
func (s *Gen3) forget(tx *gorm.DB, userID, providerID string, token secret.Text) (forgotten bool, err error) {
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return false, err
	}
	if token == "" {
		deleted := s.of(tx, form, userID, providerID).Delete(&gen3.Row{})
		return deleted.RowsAffected > 0, deleted.Error
	}
	err = tx.Transaction(func(tx *gorm.DB) error { // a savepoint
		return s.table.DeleteCopies(tx, s.of(tx, form, userID, providerID), token)
	})
	if err != nil && !stale(err) {
		s.log.Warn("a token that is spent could not be deleted from Gen3's table", slog.String("provider", providerID), slog.String("error", err.Error()))
		return false, nil
	}
	return false, err
}

// tidy implements legacy.
func (s *Gen3) tidy(tx *gorm.DB) error {
	form, err := s.table.Form(tx)
	if err != nil || !form.There {
		return err
	}
	now, err := s.now(tx)
	if err != nil {
		return err
	}
	return tx.Where("expires < ?", time.UnixMilli(now).Add(-deadKept).Unix()).Delete(&gen3.Row{}).Error
}

// Gen3Import is what Import found.
type Gen3Import struct {
	Imported   int // connections that are ours now
	Unreadable int // rows of providers of ours that the key does not open
	Ignored    int // rows of providers that are not configured
}

// Import takes over everything that Gen3's table holds and that still lives. It may be called again at any time; what
// is not imported is read when it is asked for.
func (s *Gen3) Import(ctx context.Context) (result Gen3Import, err error) {
	pairs, err := s.pairs(ctx)
	if err != nil {
		return result, err
	}
	for _, pair := range pairs {
		providerID, configured := s.table.Provider(pair.IDP)
		if !configured {
			result.Ignored++
			continue
		}
		who, err := s.users.UserByName(ctx, pair.Username)
		if errors.Is(err, authn.ErrUnknown) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return result, err
		}
		own, err := s.ownRow(ctx, who.ID, providerID)
		if err == nil && !wanting(own, time.Now()) {
			continue
		}
		missing := errors.Is(err, broker.ErrNotConnected)
		if err != nil && !missing {
			return result, err
		}
		found, held, err := s.findOne(ctx, who.ID, providerID, missing)
		switch {
		case err != nil:
			return result, fmt.Errorf("importing Gen3's table: %w", err)
		case held && found.Unreadable:
			result.Unreadable++
		case held && found.Version > own.Version:
			result.Imported++
		}
	}
	return result, nil
}

// pairs are the users and providers of whom the table holds something that lives.
func (s *Gen3) pairs(ctx context.Context) (pairs []gen3.Row, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		form, err := s.table.Form(tx)
		if err != nil || !form.There {
			return err
		}
		columns := []string{"username", "idp"}
		if !form.IDP {
			columns = columns[:1]
		}
		return tx.Model(&gen3.Row{}).Distinct(columns).Where("expires > ?", time.Now().Unix()).Find(&pairs).Error
	})
	for i := range pairs {
		if pairs[i].IDP == "" {
			pairs[i].IDP = gen3.Default
		}
	}
	return pairs, err
}
