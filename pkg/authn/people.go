package authn

import (
	"context"
	"errors"

	"github.com/maypok86/otter/v2"
)

const maxPeople = 100_000

// people remembers users, by name and by id, until the change feed says that one has changed.
// Nobody is remembered as unknown: whoever logs in for the first time is known at once.
type people struct {
	directory Directory
	byName    *otter.Cache[string, *User]
	byID      *otter.Cache[string, *User]
	// bySubject holds the ids of users, which are for good: what may change of a user is in byID alone.
	bySubject *otter.Cache[identity, *string]
}

// identity is who a person is at a provider.
type identity struct{ issuer, subject string }

func newPeople(directory Directory) *people {
	remember := &otter.Options[string, *User]{MaximumSize: maxPeople}
	return &people{
		directory: directory, byName: otter.Must(remember), byID: otter.Must(remember),
		bySubject: otter.Must(&otter.Options[identity, *string]{MaximumSize: maxPeople}),
	}
}

// named finds a user by name. Somebody who never logged in is a user without an id.
func (p *people) named(ctx context.Context, username string) (User, error) {
	if user, ok := p.byName.GetIfPresent(username); ok {
		return *user, nil
	}
	user, err := p.byName.Get(context.WithoutCancel(ctx), username, loader(p.directory.UserByName))
	if errors.Is(err, ErrUnknown) {
		return User{Username: username}, nil
	}
	if err != nil {
		return User{}, outage(err)
	}
	return *user, nil
}

// loader reads what a cache does not hold. Caches hold pointers: each other type of value is a hundred kilobytes of
// the binary.
func loader[K comparable, V any](read func(context.Context, K) (V, error)) otter.LoaderFunc[K, *V] {
	return func(ctx context.Context, key K) (*V, error) {
		value, err := read(ctx, key)
		return &value, err
	}
}

// withID finds a user by their own id, which never means anybody else. A user who is not there is not remembered: one
// who logs in again has to be found at once.
func (p *people) withID(ctx context.Context, id string) (User, error) {
	if user, ok := p.byID.GetIfPresent(id); ok {
		return *user, nil
	}
	user, err := p.byID.Get(context.WithoutCancel(ctx), id, loader(p.directory.UserByID))
	switch {
	case errors.Is(err, ErrUnknown):
		return User{}, ErrUnknown
	case err != nil:
		return User{}, outage(err)
	}
	return *user, nil
}

// withSubject finds whom a verified identity means; see Directory.UserBySubject. Who was set aside is found by the id no
// more: then the identity is looked up anew.
func (p *people) withSubject(ctx context.Context, who identity, username string) (User, error) {
	if id, ok := p.bySubject.GetIfPresent(who); ok {
		user, err := p.withID(ctx, *id)
		if !errors.Is(err, ErrUnknown) {
			return user, err
		}
		p.bySubject.Invalidate(who)
	}
	user, err := p.directory.UserBySubject(ctx, who.issuer, who.subject, username)
	if err == nil && user.ID != "" {
		p.bySubject.Set(who, &user.ID)
	}
	return user, err
}

// NameOf is what a user is called now; empty for one who has no name any more, or whose name cannot be read.
func (a *Authenticator) NameOf(ctx context.Context, userID string) string {
	user, err := a.people.withID(ctx, userID)
	if err != nil {
		return ""
	}
	return user.Username
}

// ForgetUser drops what is remembered of a user. The change feed calls it.
func (a *Authenticator) ForgetUser(id, username string) {
	a.people.byID.Invalidate(id)
	a.people.byName.Invalidate(username)
}

// Forget drops everything that is remembered. It is for when changes may have been missed.
func (a *Authenticator) Forget() {
	a.people.byID.InvalidateAll()
	a.people.byName.InvalidateAll()
	a.people.bySubject.InvalidateAll()
	a.sessions.cache.InvalidateAll()
}
