package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// gen3Table makes Gen3's table as its own migrations leave it, and says so in their words: without
// the stamp, a Python pod would migrate it again, and fail.
var gen3Table = []string{
	`CREATE TABLE refresh_token (
		token varchar NOT NULL, jti varchar NOT NULL, username varchar NOT NULL, userid varchar NOT NULL,
		expires bigint NOT NULL, idp varchar NOT NULL,
		CONSTRAINT refresh_token_pkey PRIMARY KEY (token), CONSTRAINT refresh_token_jti_key UNIQUE (jti))`,
	`CREATE TABLE alembic_version (version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))`,
	`INSERT INTO alembic_version (version_num) VALUES ('` + gen3Sealed + `')`,
}

// gen3Lock is the advisory lock under which the table is made; any number that nobody else takes.
const gen3Lock = 7305808869231

// makeGen3Table makes the table in a database that has none. One that is there is never changed.
func (s *core) makeGen3Table(ctx context.Context) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		if s.dialect == "postgres" {
			if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", int64(gen3Lock)).Error; err != nil {
				return err
			}
		}
		for _, table := range []string{"refresh_token", "alembic_version"} {
			if tx.Migrator().HasTable(table) {
				return nil
			}
		}
		if err := tx.Exec("SELECT 1").Error; err != nil { // HasTable keeps a lost connection to itself
			return err
		}
		for _, statement := range gen3Table {
			if err := tx.Exec(statement).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

// Gen3Import is what ImportGen3 found.
type Gen3Import struct {
	Imported   int // connections that are ours now
	Unreadable int // rows of providers of ours that the key does not open
	Ignored    int // rows of providers that are not configured
}

// ImportGen3 takes over everything that Gen3's table holds and that still lives. It may be called
// again at any time; what is not imported is read when it is asked for.
func (s *Store) ImportGen3(ctx context.Context) (result Gen3Import, err error) {
	pairs, err := s.gen3Pairs(ctx)
	if err != nil {
		return result, err
	}
	for _, pair := range pairs {
		providerID, configured := s.gen3.provider(pair.IDP)
		if !configured {
			result.Ignored++
			continue
		}
		who, err := s.Users.UserByName(ctx, pair.Username)
		if errors.Is(err, authn.ErrUnknown) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return result, err
		}
		own, err := s.ownRow(ctx, who.ID, providerID)
		if err == nil && !s.wanting(own, time.Now()) {
			continue
		}
		found, err := s.fromGen3(ctx, who.ID, providerID, own, err)
		switch {
		case errors.Is(err, broker.ErrNotConnected):
		case err != nil:
			return result, fmt.Errorf("importing Gen3's table: %w", err)
		case found.Unreadable:
			result.Unreadable++
		case found.Version > own.Version:
			result.Imported++
		}
	}
	return result, nil
}

// gen3Pairs are the users and providers of whom the table holds something that lives.
func (s *core) gen3Pairs(ctx context.Context) (pairs []gen3Row, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		form, err := s.gen3Reachable(tx)
		if err != nil || !form.there {
			return err
		}
		columns := []string{"username", "idp"}
		if !form.idp {
			columns = columns[:1]
		}
		return tx.Model(&gen3Row{}).Distinct(columns).Where("expires > ?", time.Now().Unix()).Find(&pairs).Error
	})
	for at := range pairs {
		if pairs[at].IDP == "" {
			pairs[at].IDP = gen3Default
		}
	}
	return pairs, err
}

// gen3Providers are those of which the table holds something of a user's that lives.
func (s *core) gen3Providers(tx *gorm.DB, userID string) (ids []string, err error) {
	form, err := s.gen3Reachable(tx)
	if err != nil || !form.there {
		return nil, err
	}
	idps := []string{}
	rows := tx.Model(&gen3Row{}).Where("username = (SELECT username FROM users WHERE id = ? AND set_aside_at IS NULL) AND expires > ?", userID, time.Now().Unix())
	if !form.idp {
		var count int64
		if err := rows.Count(&count).Error; err != nil || count == 0 {
			return nil, err
		}
		idps = append(idps, gen3Default)
	} else if err := rows.Distinct("idp").Pluck("idp", &idps).Error; err != nil {
		return nil, err
	}
	for _, idp := range idps {
		if id, configured := s.gen3.provider(idp); configured {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
