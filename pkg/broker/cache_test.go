package broker

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Refresh-engine.md step 1.
func TestWhatIsEnough(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		life, age, asked time.Duration // of the token, its age, what is asked
		want             bool
	}{
		"plenty":                        {life: 20 * time.Minute, age: time.Minute, asked: 10 * time.Minute, want: true},
		"exactly enough":                {life: 20 * time.Minute, age: 15 * time.Minute, asked: 5 * time.Minute, want: true},
		"a second short":                {life: 20 * time.Minute, age: 15*time.Minute + time.Second, asked: 5 * time.Minute},
		"more than half is never asked": {life: time.Minute, age: 29 * time.Second, asked: 600 * time.Second, want: true},
		"half is":                       {life: time.Minute, age: 31 * time.Second, asked: 600 * time.Second},
		"a young one is enough whatever is asked": {life: 20 * time.Minute, age: 4 * time.Minute, asked: time.Hour, want: true},
		"run out":                          {life: time.Minute, age: time.Minute, asked: time.Second},
		"run out, though nothing is asked": {life: time.Minute, age: 2 * time.Minute},
		"a clock that went back":           {life: time.Minute, age: -time.Hour, asked: time.Second, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			of := hold(Row{Connection: Connection{AccessToken: "at", AccessIssuedAt: begin, AccessExpiresAt: begin.Add(row.life)}})
			if got := of.enough(row.asked, begin.Add(row.age)); got != row.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if !hold(Row{Connection: Connection{AccessToken: "at"}}).enough(time.Hour, begin) {
		t.Error("a token that does not expire is not enough")
	}
	if of := hold(Row{}); of.enough(0, begin) || of.valid(begin) {
		t.Error("no token at all is enough")
	}
}

// A JWT may say that it ends in the year 9999, which unix nanoseconds do not reach.
func TestFarEnds(t *testing.T) {
	now := time.Now()
	far := hold(Row{Connection: Connection{AccessToken: "at", RefreshToken: "rt", AccessIssuedAt: now, AccessExpiresAt: time.Unix(253402300799, 0), RefreshExpiresAt: time.Unix(1<<40, 0)}})
	if far.ended(now) || !far.valid(now) || !far.enough(time.Hour, now) || far.token().ExpiresAt.Before(now) {
		t.Errorf("got %+v; want not far.ended(now), far.valid(now), far.enough(time.Hour, now), not far.token().ExpiresAt.Before(now)", far.token())
	}
	long := hold(Row{Connection: Connection{AccessToken: "at", RefreshToken: "rt", AccessIssuedAt: now, AccessExpiresAt: now.AddDate(60, 0, 0)}})
	if renew := time.Unix(0, long.renewAt.Load()); renew.Before(now.AddDate(40, 0, 0)) {
		t.Errorf("a token of sixty years is renewed at %s", renew)
	}
}

// An answer, once it is ended, is always JSON, whatever a provider calls a token.
func TestRenderedTokensAreJSON(t *testing.T) {
	check := func(raw []byte) bool {
		ascii := strings.Map(func(r rune) rune { return r & 0x7f }, string(raw))
		var answer struct{ Token string }
		return json.Unmarshal([]byte(render(secret.Text(ascii))+"}"), &answer) == nil && answer.Token == ascii
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
	if got := render(`ey.J"\<x>`); got != `{"token":"ey.J\"\\\u003cx\u003e"` {
		t.Errorf("got %s", got)
	}
}

// Security.md F8: what memory holds is bounded in bytes, however large the tokens are.
func TestTheCacheIsBoundedInBytes(t *testing.T) {
	c := newCache()
	large := strings.Repeat("t", 64<<10)
	for user := range 2 * maxHeld / len(large) {
		c.entries.Set(cacheKey{fmt.Sprint(user), "main"}, &held{body: large})
	}
	c.entries.CleanUp()
	if bytes := c.entries.EstimatedSize() * len(large); bytes > maxHeld || bytes < maxHeld/2 {
		t.Errorf("%d bytes are held, want at most %d, and not much less", bytes, maxHeld)
	}
}
