package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

type cacheKey struct{ userID, provider string }

// held is what memory holds of a connection that was good when it was read.
type held struct {
	token             Token
	issuedAt, expires time.Time // zero: it does not expire
	grantEnds         time.Time // zero: unknown
	// renewAt is when a caller's next use lets the token be renewed beside it; zero: never.
	renewAt  atomic.Int64 // unix nanoseconds
	renewing atomic.Bool
}

// Token is an upstream access token, ready to be handed on.
type Token struct {
	Value Secret
	// Body is the whole JSON answer, {"token": "..."}, rendered once for all who ask.
	Body []byte
	// SHA256 of the value in hex, which is what the audit may know of it.
	SHA256    string
	ExpiresAt time.Time // zero: it does not expire
	// Degraded: it lives, though not for as long as was asked, because the provider or the database is
	// away, or others are waited for whose tokens are dead.
	Degraded bool
}

func hold(of Connection) *held {
	sum := sha256.Sum256([]byte(of.AccessToken))
	fresh := &held{
		token: Token{
			Value: of.AccessToken, Body: render(of.AccessToken), SHA256: hex.EncodeToString(sum[:]), ExpiresAt: of.AccessExpiresAt,
		},
		issuedAt: of.AccessIssuedAt, expires: of.AccessExpiresAt, grantEnds: of.ends(),
	}
	if whole := of.AccessExpiresAt.Sub(of.AccessIssuedAt); of.RefreshToken != "" && of.AccessToken != "" && !of.AccessIssuedAt.IsZero() && whole > 0 {
		fresh.renewAt.Store(of.AccessIssuedAt.Add(whole*7/10 + rand.N(whole/10+1)).UnixNano())
	}
	return fresh
}

// enough tells whether the token lives long enough for what was asked. What is asked is capped at
// half of the token's whole life, and a token younger than a quarter of its life always is enough:
// else a provider of 60 s tokens would be refreshed at every call of `expires=600`.
func (h *held) enough(life time.Duration, now time.Time) bool {
	if h.expires.IsZero() || h.token.Value == "" {
		return h.token.Value != ""
	}
	whole := h.expires.Sub(h.issuedAt)
	left := h.expires.Sub(now)
	return left > 0 && (left >= min(life, whole/2) || now.Sub(h.issuedAt) < whole/4)
}

// living tells whether the token is good at all.
func (h *held) living(now time.Time) bool {
	return h.token.Value != "" && (h.expires.IsZero() || now.Before(h.expires))
}

// ended tells whether the grant behind it has run out: an end that the provider stated is kept to
// even where the provider itself would not.
func (h *held) ended(now time.Time) bool { return !h.grantEnds.IsZero() && !now.Before(h.grantEnds) }

// Forget drops what is held of a connection. The change feed calls it, on every replica.
func (b *Broker) Forget(userID, providerID string) {
	b.forgotten.Add(1) // before the invalidation: see remember
	key := cacheKey{userID, providerID}
	b.cache.Invalidate(key)
}

// ForgetAll drops everything. It is for when changes may have been missed.
func (b *Broker) ForgetAll() {
	b.forgotten.Add(1)
	b.cache.InvalidateAll()
}

// remember holds a connection, unless something was to be forgotten since it was read: then what
// was read may be what was to be forgotten.
func (b *Broker) remember(key cacheKey, of Connection, readAt uint64) *held {
	fresh := hold(of)
	b.cache.Set(key, fresh)
	if b.forgotten.Load() != readAt {
		b.cache.Invalidate(key)
	}
	return fresh
}

// render makes {"token": "..."} of a token. Tokens are printable ASCII (RFC 6749 A.12); anything
// that JSON or a terminal could take for something else is escaped.
func render(token provider.Secret) []byte {
	const digits = "0123456789abcdef"
	body := make([]byte, 0, len(token)+16)
	body = append(body, `{"token":"`...)
	for at := range len(token) {
		switch char := token[at]; {
		case char == '"' || char == '\\':
			body = append(body, '\\', char)
		case char < 0x20 || char > 0x7e || char == '<' || char == '>' || char == '&':
			body = append(body, '\\', 'u', '0', '0', digits[char>>4], digits[char&15])
		default:
			body = append(body, char)
		}
	}
	return append(body, "\"}\n"...)
}
