package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// legacy is what a service before this one left in the database, and may still read and write. It has a say at six
// places; with noLegacy, nothing happens there. Whoever removes it removes this file, gen3.go and the package gen3.
type legacy struct {
	// find completes what our own table holds of a user, at one provider, or at all where that is empty.
	find func(ctx context.Context, userID, providerID string, own []broker.Row) ([]broker.Row, error)
	// person finds somebody whom our own table does not know; authn.ErrUnknown where it does not either. An empty
	// subject is one that is not known.
	person func(ctx context.Context, username, subject string) (authn.User, error)
	// adopt lets an identity be a person whom only the legacy knew; nil where there is none. The identity is one of
	// ours already where known.
	adopt func(tx *gorm.DB, identity provider.Identity, known bool, now int64) (*user, error)
	// rename tells that a user has another name, or none.
	rename func(tx *gorm.DB, who *user, name string) error
	// mirror tells of the tokens that a login brought.
	mirror func(tx *gorm.DB, who *user, row broker.Row, token secret.Text) error
	// forget tells that one token of a user is dead, or all of them at a provider where it is empty.
	forget func(tx *gorm.DB, userID, providerID string, token secret.Text) (forgotten bool, err error)

	// copies: it has copies of tokens, so that one that is spent has to be forgotten there.
	copies bool
	// prepare runs after the migrations, and tidy with the janitor.
	prepare, tidy func(tx *gorm.DB) error
}

func noLegacy() legacy {
	nothing := func(*gorm.DB) error { return nil }
	return legacy{
		find:    func(_ context.Context, _, _ string, own []broker.Row) ([]broker.Row, error) { return own, nil },
		person:  func(context.Context, string, string) (authn.User, error) { return authn.User{}, authn.ErrUnknown },
		adopt:   func(*gorm.DB, provider.Identity, bool, int64) (*user, error) { return nil, nil },
		rename:  func(*gorm.DB, *user, string) error { return nil },
		mirror:  func(*gorm.DB, *user, broker.Row, secret.Text) error { return nil },
		forget:  func(*gorm.DB, string, string, secret.Text) (bool, error) { return false, nil },
		prepare: nothing, tidy: nothing,
	}
}
