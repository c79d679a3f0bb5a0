package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Gen3Config is the table refresh_token of Gen3's Python service, which we find in the database that
// we take over. What stands in it is read, and what we keep is mirrored into it, so that old and new
// pods run side by side and the way back loses nobody (Gen3 contract 1.4 and 4).
type Gen3Config struct {
	// EncryptionKey is the Fernet key of the table. The table is left alone without it.
	EncryptionKey     secret.Text `config:"encryption_key"`
	EncryptionKeyFile string      `config:"encryption_key_file"`
	// Mirror writes the refresh tokens of providers known not to rotate into the table. On unless told
	// otherwise.
	Mirror *bool `config:"mirror"`

	// DefaultProvider is the provider that the table calls "default".
	DefaultProvider string `config:"-"`
	// Providers are those configured; true where one is known not to rotate.
	Providers map[string]bool `config:"-"`
}

// Validate judges the key.
func (c Gen3Config) Validate() error {
	if c.EncryptionKey == "" {
		return nil
	}
	if _, err := keyring.NewFernet(string(c.EncryptionKey)); err != nil {
		return fmt.Errorf("gen3.encryption_key: %w", err)
	}
	return nil
}

// gen3 is the table, as one process sees it. A nil one is none.
type gen3 struct {
	config  Gen3Config
	fernet  *keyring.Fernet
	current atomic.Bool // the table was seen in its last form, in which it stays
}

func newGen3(config Gen3Config) (*gen3, error) {
	if config.EncryptionKey == "" {
		return nil, nil
	}
	fernet, err := keyring.NewFernet(string(config.EncryptionKey))
	if err != nil {
		return nil, fmt.Errorf("gen3.encryption_key: %w", err)
	}
	return &gen3{config: config, fernet: fernet}, nil
}

// Enabled tells whether there is such a table to look at.
func (g *gen3) Enabled() bool { return g != nil }

// knows tells whether the table may hold something of a provider that is configured.
func (g *gen3) knows(providerID string) bool {
	if !g.Enabled() {
		return false
	}
	_, configured := g.config.Providers[providerID]
	return configured
}

func (g *gen3) mirrors(providerID string) bool {
	return g.Enabled() && (g.config.Mirror == nil || *g.config.Mirror) && g.config.Providers[providerID]
}

const gen3Default = "default"

// idp is the table's word for a provider, and provider the other way round.
func (g *gen3) idp(providerID string) string {
	if providerID == g.config.DefaultProvider {
		return gen3Default
	}
	return providerID
}

func (g *gen3) provider(idp string) (id string, configured bool) {
	if idp == gen3Default {
		return g.config.DefaultProvider, true
	}
	return idp, g.knows(idp) && idp != g.config.DefaultProvider
}

// gen3Row is a row of refresh_token.
type gen3Row struct {
	Token    string `gorm:"primaryKey"`
	JTI      string `gorm:"column:jti"`
	Username string
	UserID   string `gorm:"column:userid"`
	Expires  int64  // unix seconds
	IDP      string `gorm:"column:idp"`
}

// TableName implements gorm's Tabler.
func (gen3Row) TableName() string { return "refresh_token" }

// gen3Form is what the table looks like, which tells how old it is: its migrations first made it,
// then added idp, then encrypted the tokens. An old form is read as it is and never changed: the
// binary that one may have to go back to knows no later one.
type gen3Form struct {
	there, idp, sealed bool
}

// The revisions of its migrations; the last one encrypts the tokens.
const (
	gen3Created  = "a38a346e6ded"
	gen3AddedIDP = "27833deaf81f"
	gen3Sealed   = "3417aec47fe2"
)

func (s *core) gen3Form(tx *gorm.DB) (form gen3Form, err error) {
	if s.gen3.current.Load() {
		return gen3Form{true, true, true}, nil
	}
	columns := func(table string, names ...string) (count int64, err error) {
		query := "SELECT count(*) FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false)) AND table_name = ? AND column_name IN ?"
		if s.dialect == "sqlite" {
			query = "SELECT count(*) FROM pragma_table_info(?) WHERE name IN ?"
		}
		return count, tx.Raw(query, table, names).Scan(&count).Error
	}
	count, err := columns("refresh_token", "token", "idp")
	if err != nil || count == 0 {
		return gen3Form{}, err
	}
	form = gen3Form{there: true, idp: count == 2}
	versions, err := columns("alembic_version", "version_num")
	if err != nil || versions == 0 {
		return form, err
	}
	var revision string
	if err := tx.Raw("SELECT version_num FROM alembic_version").Scan(&revision).Error; err != nil {
		return form, err
	}
	form.sealed = form.idp && revision != "" && revision != gen3Created && revision != gen3AddedIDP
	s.gen3.current.Store(form.sealed)
	return form, nil
}

// gen3Pair narrows a query to the rows of one user and provider. Before there was an idp, every row
// was the default provider's.
func (s *core) gen3Pair(tx *gorm.DB, form gen3Form, userID, providerID string) *gorm.DB {
	pair := tx.Where("username = (SELECT username FROM users WHERE id = ? AND set_aside_at IS NULL)", userID)
	if providerID == s.gen3.config.DefaultProvider {
		// Python stored whatever account was logged in to under the name that was logged in before. A person
		// whose identity is known has only what is theirs.
		pair = pair.Where("userid = (SELECT subject FROM users WHERE id = ?) OR EXISTS (SELECT 1 FROM users WHERE id = ? AND issuer = ?)", userID, userID, gen3Issuer)
	}
	switch {
	case form.idp:
		return pair.Where("idp = ?", s.gen3.idp(providerID))
	case providerID != s.gen3.config.DefaultProvider:
		return pair.Where("1 = 0")
	}
	return pair
}

// gen3Grant is the newest grant that the table holds of a user at a provider.
type gen3Grant struct {
	token      secret.Text
	subject    string // whose it is there, as Python read it in the token
	expires    time.Time
	unreadable bool // there are rows, and the key opens none
}

// gen3Newest reads it; nil where there is none.
func (s *core) gen3Newest(tx *gorm.DB, userID, providerID string) (*gen3Grant, error) {
	form, err := s.gen3Form(tx)
	if err != nil || !form.there {
		return nil, err
	}
	var rows []gen3Row
	if err := s.gen3Pair(tx, form, userID, providerID).Select("token", "userid", "expires").Order("expires DESC").Limit(10).Find(&rows).Error; err != nil {
		return nil, err
	}
	for _, row := range rows {
		token, err := s.gen3.fernet.Open(row.Token)
		if err != nil && (form.sealed || keyring.IsFernet(row.Token)) {
			continue
		}
		if err != nil {
			token = row.Token // from before they were encrypted
		}
		return &gen3Grant{token: secret.Text(token), subject: row.UserID, expires: time.Unix(row.Expires, 0)}, nil
	}
	if len(rows) > 0 {
		return &gen3Grant{unreadable: true, expires: time.Unix(rows[0].Expires, 0)}, nil
	}
	return nil, nil
}

// wanting tells that a row of ours does not serve, so that Gen3's table may know better: a Python pod
// may have written there what it was given meanwhile.
func (s *core) wanting(found broker.Row, now time.Time) bool {
	return found.Phase == broker.Broken || found.Phase == broker.Disconnected || found.Unreadable || !found.RefreshExpiresAt.IsZero() && !now.Before(found.RefreshExpiresAt)
}

// fromGen3 completes what our own table says, which may be nothing.
func (s *core) fromGen3(ctx context.Context, userID, providerID string, found broker.Row, err error) (broker.Row, error) {
	missing := errors.Is(err, broker.ErrNotConnected)
	now := time.Now()
	if !s.gen3.knows(providerID) || err != nil && !missing || !missing && !s.wanting(found, now) {
		return found, err
	}
	var grant *gen3Grant
	failed := s.run(ctx, func(tx *gorm.DB) (err error) {
		grant, err = s.gen3Newest(tx, userID, providerID)
		return err
	})
	switch {
	case failed != nil:
		return broker.Row{}, failed
	case grant == nil:
		return found, err
	case grant.unreadable, !now.Before(grant.expires):
		if !missing {
			return found, err
		}
		// Nothing to keep, and something to say: that it cannot be read, or has expired.
		return broker.Row{Connection: broker.Connection{
			UserID: userID, Provider: providerID, Phase: broker.Ready, Unreadable: grant.unreadable,
			RefreshToken: grant.token, RefreshExpiresAt: grant.expires,
		}}, nil
	}
	return s.takeOver(ctx, userID, providerID)
}

// gen3Life is how long Fence's refresh tokens live, which tells when one was given.
const gen3Life = 30 * 24 * time.Hour

// takeOver copies a grant from Gen3's table into ours. It stays there, for the way back.
func (s *core) takeOver(ctx context.Context, userID, providerID string) (found broker.Row, err error) {
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
		if found = row; !missing && !s.wanting(row, now) {
			return nil // another was quicker
		}
		grant, err := s.gen3Newest(tx, userID, providerID)
		switch {
		case err != nil:
			return err
		case grant == nil || grant.unreadable || !now.Before(grant.expires),
			!missing && string(row.Digest) == string(s.keys.Digest(string(grant.token))):
			if missing {
				return gorm.ErrRecordNotFound
			}
			return nil
		}
		next := broker.Row{
			Connection: broker.Connection{
				UserID: userID, Provider: providerID, Subject: grant.subject, Phase: broker.Ready, Version: row.Version + 1,
				ConnectedAt: earlier(now, grant.expires.Add(-gen3Life)), Rotates: broker.RotationUnknown,
				RefreshToken: grant.token, RefreshExpiresAt: grant.expires,
			},
			Digest: s.keys.Digest(string(grant.token)), StoredVersion: row.Version + 1, Reading: row.Reading,
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

func earlier(one, other time.Time) time.Time {
	if other.Before(one) {
		return other
	}
	return one
}

func (s *core) gen3Reachable(tx *gorm.DB) (gen3Form, error) {
	if !s.gen3.Enabled() {
		return gen3Form{}, nil
	}
	return s.gen3Form(tx)
}
