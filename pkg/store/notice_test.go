package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Tokens that are about to end are told about, in every database.
func TestNoticesOfTokens(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		alice, beside := connect(t, s, "alice"), raw(t, url)
		for name, hours := range map[string]int64{"a day": 20, "a week": 100, "a month": 500, "later": 1000, "ended": -1} {
			ends := time.Now().UnixMilli() + hours*3_600_000
			exec(t, beside, fmt.Sprintf("INSERT INTO api_tokens (id, kind, format, user_id, audience, name, created_at, expires_at) VALUES ('%s', 'personal', 'opaque', '%s', 'wts', 'n', %d, %d)",
				name, alice, ends-40*24*3_600_000, ends))
			if hours > 0 { // one that was made for this time is no news
				exec(t, beside, fmt.Sprintf("INSERT INTO api_tokens (id, kind, format, user_id, audience, name, created_at, expires_at) VALUES ('new, %s', 'personal', 'opaque', '%s', 'wts', 'n', %d, %d)",
					name, alice, ends-hours*3_600_000, ends))
			}
		}
		var told []string
		for {
			notice, due, err := s.APITokens.TakeNotice(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if !due {
				break
			}
			told = append(told, fmt.Sprint(notice.Token.ID, " ", notice.Days))
			if err := s.APITokens.Noticed(t.Context(), notice); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"a day 1", "a week 7", "a month 30"}; !slices.Equal(told, want) {
			t.Errorf("told: %v, want %v", told, want)
		}
	})
}
