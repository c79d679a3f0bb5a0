package apitoken

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// maxKnown bounds the tokens in memory.
	maxKnown = 100_000
	// maxAge is how long what was read is believed without a look: the change feed says at once what has changed, and
	// this is for the day on which it does not.
	maxAge = time.Minute
	// usePause is how often a use is noted: at most one write for each token and minute.
	usePause = time.Minute
)

// checker says what a value that is presented means. Most are in memory; the change feed takes out of it what has
// changed, so that a token that was revoked anywhere is refused everywhere within seconds.
type checker struct {
	store Store
	uses  Uses
	known *known
	now   func() time.Time
	// background runs what no caller waits for.
	background func(task func())
}

// known is what memory holds of tokens that were looked up, by the digest of a value.
type known struct {
	entries   *otter.Cache[Digest, *entry]
	forgotten atomic.Uint64
}

// entry is a token as it was read, and when it was used last as far as this replica has noted.
type entry struct {
	token Token
	read  time.Time
	used  atomic.Int64 // when a use was noted last, in unix nanoseconds
}

// newKnown holds the tokens that are in use: those that are presented least go first.
func newKnown() *known {
	return &known{entries: otter.Must(&otter.Options[Digest, *entry]{MaximumSize: maxKnown})}
}

func (k *known) forget(digest Digest) {
	k.forgotten.Add(1) // before the invalidation: see remember
	k.entries.Invalidate(digest)
}

// remember keeps what was read, unless something was to be forgotten since the stamp was taken: then what was read may
// be that.
func (k *known) remember(digest Digest, fresh *entry, stamp uint64) {
	k.entries.Set(digest, fresh)
	if k.forgotten.Load() != stamp {
		k.entries.Invalidate(digest)
	}
}

// forgetAll drops everything, since an unknown change went unheard.
func (k *known) forgetAll() {
	k.forgotten.Add(1)
	k.entries.InvalidateAll()
}

// Check says which token a value is, presented from an address now. With an error of the token itself (ErrRevoked,
// ErrExpired, ErrReplaced, ErrNetwork) the token is returned too, for the audit.
func (c *checker) Check(ctx context.Context, value string, from netip.Addr) (Token, error) {
	if !mayBe(value) {
		return Token{}, ErrForm
	}
	digest := DigestOf(value)
	found, err := c.find(ctx, digest)
	if err != nil {
		return Token{}, err
	}
	now := c.now()
	if err := found.token.check(digest, from, now); err != nil {
		return found.token, err
	}
	c.note(found, from, now)
	return found.token, nil
}

// find looks a value up, in memory first. What is not there is not remembered.
func (c *checker) find(ctx context.Context, digest Digest) (*entry, error) {
	old, ok := c.known.entries.GetIfPresent(digest)
	if ok && c.now().Sub(old.read) < maxAge {
		return old, nil
	}
	stamp := c.known.forgotten.Load()
	fresh := &entry{read: c.now()}
	token, err := c.store.TokenOf(ctx, digest)
	switch {
	case errors.Is(err, ErrUnknown):
		c.known.forget(digest)
		return nil, ErrUnknown
	case err != nil && ok: // the database is away: what was read before is believed until the feed was deaf for too long
		return old, nil
	case err != nil:
		return nil, err
	}
	fresh.token = token
	if !token.LastUsedAt.IsZero() {
		fresh.used.Store(token.LastUsedAt.UnixNano())
	}
	c.known.remember(digest, fresh, stamp)
	return fresh, nil
}

// note has a use noted beside the caller, seldom. One that is not noted is not worth a refusal.
func (c *checker) note(found *entry, from netip.Addr, now time.Time) {
	last := found.used.Load()
	if now.UnixNano()-last < int64(usePause) || !found.used.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	c.background(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.uses.Used(ctx, found.token.ID, now, from.Unmap().String(), usePause)
	})
}
