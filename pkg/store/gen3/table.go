// Package gen3 is the form of the table refresh_token that Gen3's Python service keeps: its columns, its ages, its
// words for providers, and how its tokens are encrypted. Whose rows are whose, and when they are read, written or
// deleted, is decided by its importer (package store).
package gen3

import (
	"crypto/rand"
	"strings"
	"sync/atomic"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

const (
	// Default is the table's word for the default provider.
	Default = "default"
	// Life is how long Fence's refresh tokens live, which tells when one was given.
	Life = 30 * 24 * time.Hour

	// maxToken is what fits the primary key of Python's table, in bytes; a larger one is kept in ours alone.
	maxToken = 2600
	// noEnd is the end of a grant that states none: 2100, which Python's datetime still knows.
	noEnd  = 4102444800
	maxEnd = 253402300799
)

// Row is a row of the table.
type Row struct {
	Token    string `gorm:"primaryKey"` // encrypted
	JTI      string `gorm:"column:jti"`
	Username string
	UserID   string `gorm:"column:userid"` // the subject at the provider, as Python read it in the token
	Expires  int64  // unix seconds
	IDP      string `gorm:"column:idp"`
}

// TableName implements gorm's Tabler.
func (Row) TableName() string { return "refresh_token" }

// Table is the table, as one process sees it. It is safe for concurrent use.
type Table struct {
	config Config
	fernet *keyring.Fernet
	last   atomic.Bool // it was seen in its last form, in which it stays
}

// New reads the key of a table; an error says why it is none.
func New(config Config) (*Table, error) {
	fernet, err := open(config)
	return &Table{config: config, fernet: fernet}, err
}

// Knows tells whether the table may hold something of a provider, which is one that is configured.
func (t *Table) Knows(providerID string) bool {
	_, configured := t.config.Providers[providerID]
	return configured
}

// Mirrors tells whether the grants of a provider are written into the table: what may rotate is of no use there.
func (t *Table) Mirrors(providerID string) bool {
	return (t.config.Mirror == nil || *t.config.Mirror) && t.config.Providers[providerID]
}

// Rotates tells that the grants of a provider may rotate, so that what the table holds of them may be dead.
func (t *Table) Rotates(providerID string) bool { return !t.config.Providers[providerID] }

// IsDefault tells the default provider, whose rows are the only ones of the table's first form.
func (t *Table) IsDefault(providerID string) bool { return providerID == t.config.DefaultProvider }

// Provider is the provider that the table knows by a word of its own; false where it is not configured.
func (t *Table) Provider(idp string) (id string, configured bool) {
	if idp == Default {
		return t.config.DefaultProvider, true
	}
	return idp, t.Knows(idp) && !t.IsDefault(idp)
}

// idp is the table's word for a provider.
func (t *Table) idp(providerID string) string {
	if t.IsDefault(providerID) {
		return Default
	}
	return providerID
}

// At narrows rows to those of a provider. Before there was an idp, every row was the default provider's.
func (t *Table) At(rows *gorm.DB, form Form, providerID string) *gorm.DB {
	switch {
	case form.IDP:
		return rows.Where("idp = ?", t.idp(providerID))
	case !t.IsDefault(providerID):
		return rows.Where("1 = 0")
	}
	return rows
}

// Grant is a grant that the table holds.
type Grant struct {
	Token      secret.Text
	Subject    string
	Expires    time.Time
	Unreadable bool // there are rows, and the key opens none
}

// Lives tells that a grant can be used.
func (g *Grant) Lives(now time.Time) bool {
	return g != nil && !g.Unreadable && now.Before(g.Expires)
}

// Newest reads the newest grant of some rows; nil where there is none.
func (t *Table) Newest(rows *gorm.DB, form Form) (*Grant, error) {
	var found []Row
	if err := rows.Select("token", "userid", "expires").Order("expires DESC").Limit(10).Find(&found).Error; err != nil {
		return nil, err
	}
	for _, row := range found {
		token, ok := t.open(row, form)
		if ok {
			return &Grant{Token: secret.Text(token), Subject: row.UserID, Expires: time.Unix(row.Expires, 0)}, nil
		}
	}
	if len(found) > 0 {
		return &Grant{Unreadable: true, Expires: time.Unix(found[0].Expires, 0)}, nil
	}
	return nil, nil
}

// open decrypts a row's token. Those from before the table's last form are in clear.
func (t *Table) open(row Row, form Form) (token string, ok bool) {
	token, err := t.fernet.Open(row.Token)
	switch {
	case err == nil:
		return token, true
	case form.Sealed || keyring.IsFernet(row.Token):
		return "", false
	}
	return row.Token, true
}

// DeleteCopies deletes the copies of one token among some rows.
func (t *Table) DeleteCopies(tx, rows *gorm.DB, token secret.Text) error {
	var found []Row
	if err := rows.Select("token").Find(&found).Error; err != nil {
		return err
	}
	for _, row := range found {
		if held, ok := t.open(row, Form{}); !ok || held != string(token) {
			continue
		}
		if err := tx.Where("token = ?", row.Token).Delete(&Row{}).Error; err != nil {
			return err
		}
	}
	return nil
}

// Create writes a grant into the table. One whose token is too large for its primary key is left out.
func (t *Table) Create(tx *gorm.DB, username, providerID string, grant Grant) error {
	expires := int64(noEnd)
	if !grant.Expires.IsZero() {
		expires = min(grant.Expires.Unix(), maxEnd)
	}
	row := Row{
		Token: t.fernet.Seal(string(grant.Token), time.Now()), JTI: rand.Text(), Username: username, UserID: grant.Subject,
		Expires: expires, IDP: t.idp(providerID),
	}
	if len(row.Token) > maxToken {
		return nil
	}
	return tx.Create(&row).Error
}

// Form is what the table looks like, which tells how old it is: its migrations first made it, then added idp, then
// encrypted the tokens. An old form is read as it is and never changed: the binary that one may have to go back to
// knows no later one.
type Form struct{ There, IDP, Sealed bool }

// The revisions of its migrations; the last one encrypts the tokens.
const (
	created  = "a38a346e6ded"
	addedIDP = "27833deaf81f"
	sealed   = "3417aec47fe2"
)

// Form looks at the table.
func (t *Table) Form(tx *gorm.DB) (form Form, err error) {
	if t.last.Load() {
		return Form{true, true, true}, nil
	}
	columns := func(table string, names ...string) (count int64, err error) {
		query := "SELECT count(*) FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false)) AND table_name = ? AND column_name IN ?"
		if tx.Name() == "sqlite" {
			query = "SELECT count(*) FROM pragma_table_info(?) WHERE name IN ?"
		}
		return count, tx.Raw(query, table, names).Scan(&count).Error
	}
	count, err := columns("refresh_token", "token", "idp")
	if err != nil || count == 0 {
		return Form{}, err
	}
	form = Form{There: true, IDP: count == 2}
	versions, err := columns("alembic_version", "version_num")
	if err != nil || versions == 0 {
		return form, err
	}
	var revision string
	if err := tx.Raw("SELECT version_num FROM alembic_version").Scan(&revision).Error; err != nil {
		return form, err
	}
	form.Sealed = form.IDP && revision != "" && revision != created && revision != addedIDP
	t.last.Store(form.Sealed)
	return form, nil
}

// schema makes the table as its own migrations leave it, and says so in their words: without the stamp, a Python
// pod would migrate it again, and fail.
const schema = `
CREATE TABLE refresh_token (
	token varchar NOT NULL, jti varchar NOT NULL, username varchar NOT NULL, userid varchar NOT NULL,
	expires bigint NOT NULL, idp varchar NOT NULL,
	CONSTRAINT refresh_token_pkey PRIMARY KEY (token), CONSTRAINT refresh_token_jti_key UNIQUE (jti));
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
INSERT INTO alembic_version (version_num) VALUES ('` + sealed + `')`

// lock is the advisory lock under which the table is made; any number that nobody else takes.
const lock = 7305808869231

// Make makes the table in a database that has none, in a transaction. One that is there is never changed.
func Make(tx *gorm.DB) error {
	if tx.Name() == "postgres" {
		if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", int64(lock)).Error; err != nil {
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
	for statement := range strings.SplitSeq(schema, ";\n") {
		if err := tx.Exec(statement).Error; err != nil {
			return err
		}
	}
	return nil
}
