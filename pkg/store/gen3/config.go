package gen3

import (
	"fmt"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Config is what is done about the table in the database that we take over. What stands in it is read, and what we
// keep is mirrored into it, so that old and new pods run side by side and the way back loses nobody (Gen3 contract
// 1.4 and 4).
type Config struct {
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

// Enabled tells whether there is a key, without which the table is left alone.
func (c Config) Enabled() bool { return c.EncryptionKey != "" }

// Validate judges the key.
func (c Config) Validate() error {
	if !c.Enabled() {
		return nil
	}
	_, err := open(c)
	return err
}

func open(c Config) (*keyring.Fernet, error) {
	fernet, err := keyring.NewFernet(string(c.EncryptionKey))
	if err != nil {
		return nil, fmt.Errorf("gen3.encryption_key: %w", err)
	}
	return fernet, nil
}
