package apitoken

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
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
	// finding has a value looked up once for all who present it at the same time.
	finding   singleflight.Group
	strangers *strangers
	now       func() time.Time
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

// strangers bounds the look-ups of values that are none, by network: a checksum keeps out typos, not those who compute
// it. Values that are tokens cost nothing of it.
type strangers struct {
	shares *otter.Cache[netip.Addr, *rate.Limiter]
}

const (
	strangersPerSecond, strangersAtOnce = 5, 50
	maxStrangers                        = 10_000 // networks
)

// newStrangers holds the networks that were seen last; one that was forgotten begins with a whole share.
func newStrangers() *strangers {
	return &strangers{otter.Must(&otter.Options[netip.Addr, *rate.Limiter]{MaximumSize: maxStrangers})}
}

// of is the share of a network: an IPv4 address, or an IPv6 one's /64.
func (s *strangers) of(from netip.Addr) *rate.Limiter {
	from = from.Unmap()
	if from.Is6() {
		if network, err := from.Prefix(64); err == nil {
			from = network.Addr()
		}
	}
	share, known := s.shares.GetIfPresent(from)
	if !known {
		share, _ = s.shares.SetIfAbsent(from, rate.NewLimiter(strangersPerSecond, strangersAtOnce))
	}
	return share
}

// forget drops a value, and has a look-up that is under way forgotten too: it may have read what was before.
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
	return c.look(ctx, value, from, c.strangers.of(from))
}

// look is Check, with the share of look-ups of values that are none; nil where the caller is bounded otherwise.
func (c *checker) look(ctx context.Context, value string, from netip.Addr, share *rate.Limiter) (Token, error) {
	if !mayBe(value) {
		return Token{}, ErrForm
	}
	digest := DigestOf(value)
	found, err := c.find(ctx, digest, share)
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

// find looks a value up, in memory first. What is not there is not remembered, and counts against its network.
func (c *checker) find(ctx context.Context, digest Digest, share *rate.Limiter) (*entry, error) {
	old, ok := c.known.entries.GetIfPresent(digest)
	if ok && c.now().Sub(old.read) < maxAge {
		return old, nil
	}
	if !ok && share != nil && share.Tokens() < 1 {
		return nil, ErrTooOften
	}
	// Who comes after something was forgotten joins no look-up that began before it.
	stamp := c.known.forgotten.Load()
	read, err, _ := c.finding.Do(string(digest[:])+strconv.FormatUint(stamp, 36), func() (any, error) { return c.read(context.WithoutCancel(ctx), digest, stamp) })
	switch {
	case errors.Is(err, ErrUnknown):
		if share != nil {
			share.Allow()
		}
		return nil, ErrUnknown
	case err != nil && ok: // the database is away: what was read before is believed until the feed was deaf for too long
		return old, nil
	case err != nil:
		return nil, err
	}
	fresh, _ := read.(*entry)
	return fresh, nil
}

// read reads a value's token from the database, and remembers it.
func (c *checker) read(ctx context.Context, digest Digest, stamp uint64) (*entry, error) {
	fresh := &entry{read: c.now()}
	token, err := c.store.TokenOf(ctx, digest)
	if errors.Is(err, ErrUnknown) {
		c.known.entries.Invalidate(digest)
	}
	if err != nil {
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
