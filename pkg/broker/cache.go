package broker

import (
	"crypto/sha256"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/workspace-token-service/wts/pkg/secret"
)

type cacheKey struct{ userID, provider string }

// held is what memory holds of a connection that was good when it was read. There may be hundreds of
// thousands: the token is held once, as a part of the answer, and times are unix nanoseconds.
type held struct {
	value secret.Text
	body  string
	sum   [sha256.Size]byte
	// Of the token, and of the grant behind it; 0: it does not expire, or that is not known.
	issued, expires, grantEnds int64
	connected                  int64 // when the grant began
	// renewAt is when a caller's next use lets the token be renewed beside it; 0: never.
	renewAt  atomic.Int64
	renewing atomic.Bool
	// confirming: a caller looks whether the row still says so.
	confirming atomic.Bool
	read       int64 // when this was read from the row
	degraded   bool  // it is handed out because no better one can be had
	// asked is when its provider was asked last whether it accepts the token: askBeside.
	asked atomic.Int64
}

// Token is an upstream access token, ready to be handed on.
type Token struct {
	Value secret.Text
	// Body is the beginning of the JSON answer, {"token":"...", rendered once for all who ask: its end says how long
	// the token lives from now.
	Body string
	// SHA256 of the value, which is what the audit may know of it.
	SHA256    [sha256.Size]byte
	ExpiresAt time.Time // zero: it does not expire
	// GrantEnds is when the grant behind it ends; zero where that is not known. GrantEndExpected: the provider did not
	// state that, and is expected to end it by its habit.
	GrantEnds        time.Time
	GrantEndExpected bool
	// Degraded: it lives, though not for as long as was asked, because the provider or the database is
	// away, or others are waited for whose tokens are dead.
	Degraded bool
}

// hold makes what memory holds of a row. The row's times, which are the database's, become this process's.
func hold(row Row) *held {
	local := row.local()
	issued, expires := local.AccessIssuedAt, local.AccessExpiresAt
	fresh := &held{
		value: row.AccessToken, body: render(row.AccessToken), sum: sha256.Sum256([]byte(row.AccessToken)),
		issued: instant(issued), expires: instant(expires), grantEnds: instant(local.ends()), connected: instant(local.ConnectedAt),
		read: instant(row.Reading.Sent),
	}
	if plain := fresh.body[len(bodyBefore) : len(fresh.body)-len(bodyAfter)]; plain == string(row.AccessToken) {
		fresh.value = secret.Text(plain)
	}
	if whole := expires.Sub(issued); row.RefreshToken != "" && row.AccessToken != "" && !issued.IsZero() && whole > 0 {
		fresh.renewAt.Store(instant(issued.Add(whole/10*7 + spread(whole/10, cacheKey{row.UserID, row.Provider}, issued))))
	}
	return fresh
}

// instant is a time in unix nanoseconds, which end in 2262: what lies after is the last of them.
func instant(at time.Time) int64 {
	switch {
	case at.IsZero():
		return 0
	case at.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return at.UnixNano()
}

// token is what a caller gets. The text is shared with the cache, not copied.
func (h *held) token() Token {
	token := Token{Value: h.value, Body: h.body, SHA256: h.sum, Degraded: h.degraded}
	if h.expires != 0 {
		token.ExpiresAt = time.Unix(0, h.expires)
	}
	return token
}

// enough tells whether the token lives long enough for what was asked. What is asked is capped at
// half of the token's whole life, and a token younger than a quarter of its life always is enough:
// else a provider of 60 s tokens would be refreshed at every call of `expires=600`.
func (h *held) enough(life time.Duration, now time.Time) bool {
	if h.expires == 0 || h.value == "" {
		return h.value != ""
	}
	at := now.UnixNano()
	whole, left, age := time.Duration(h.expires-h.issued), time.Duration(h.expires-at), time.Duration(at-h.issued)
	return left > 0 && (left >= min(life, whole/2) || age < whole/4)
}

// valid tells whether the token is good at all.
func (h *held) valid(now time.Time) bool {
	return h.value != "" && (h.expires == 0 || now.UnixNano() < h.expires)
}

// ended tells whether the grant behind it has run out: an end that the provider stated is kept to
// even where the provider itself would not.
func (h *held) ended(now time.Time) bool { return h.grantEnds != 0 && now.UnixNano() >= h.grantEnds }

// maxAge is how long what was read from a row is believed without a look at it. The change feed says at
// once what has changed; this is for the day on which it does not.
const maxAge = time.Minute

// old tells that the row is to be read again before more is handed out by it.
func (h *held) old(now time.Time) bool {
	return h.read != 0 && time.Duration(now.UnixNano()-h.read) >= maxAge
}

// cache holds what was read of connections that were good.
type cache struct {
	entries   *otter.Cache[cacheKey, *held]
	forgotten atomic.Uint64 // counts what it was told to forget
}

// maxHeld bounds the access tokens in memory, in bytes with what is kept about each: tokens of 900 bytes fit
// 150,000 times.
const (
	maxHeld    = 192 << 20
	heldBeside = 350
)

// newCache makes a cache that forgets what is used least once it is full; nothing in it expires by time, since a token
// that has run out may still name a grant that lives.
func newCache() *cache {
	return &cache{entries: otter.Must(&otter.Options[cacheKey, *held]{
		MaximumWeight: maxHeld,
		Weigher:       func(key cacheKey, entry *held) uint32 { return uint32(len(entry.body) + len(key.userID) + heldBeside) }, //nolint:gosec // tokens are bounded
	})}
}

func (c *cache) get(key cacheKey) (*held, bool) { return c.entries.GetIfPresent(key) }

// stamp is taken before a row is read that is to be remembered.
func (c *cache) stamp() uint64 { return c.forgotten.Load() }

// forget drops a connection, and what is being read of it.
func (c *cache) forget(key cacheKey) {
	c.forgotten.Add(1) // before the invalidation: see remember
	c.entries.Invalidate(key)
}

// forgetAll drops everything, since a change may have gone unheard.
func (c *cache) forgetAll() {
	c.forgotten.Add(1)
	c.entries.InvalidateAll()
}

// remember holds a row, unless something was to be forgotten since the stamp: then what was read may be
// what was to be forgotten.
func (c *cache) remember(key cacheKey, row Row, stamp uint64) *held {
	fresh := hold(row)
	c.entries.Set(key, fresh)
	if c.forgotten.Load() != stamp {
		c.entries.Invalidate(key)
	}
	return fresh
}

// What stands before and after a token in an answer.
const bodyBefore, bodyAfter = `{"token":"`, `"`

// render makes the beginning of an answer of a token. Tokens are printable ASCII (RFC 6749 A.12); anything
// that JSON or a terminal could take for something else is escaped.
func render(token secret.Text) string {
	const digits = "0123456789abcdef"
	var body strings.Builder
	body.Grow(len(bodyBefore) + len(token) + len(bodyAfter))
	body.WriteString(bodyBefore)
	for i := range len(token) {
		switch char := token[i]; {
		case char == '"' || char == '\\':
			body.WriteByte('\\')
			body.WriteByte(char)
		case char < 0x20 || char > 0x7e || char == '<' || char == '>' || char == '&':
			body.WriteString(`\u00`)
			body.WriteByte(digits[char>>4])
			body.WriteByte(digits[char&15])
		default:
			body.WriteByte(char)
		}
	}
	body.WriteString(bodyAfter)
	return body.String()
}
