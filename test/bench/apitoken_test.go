package bench

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/test/paired"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// An API token that is looked up among a million in PostgreSQL, beside one among a thousand; and what of a million has
// ended, one in a hundred, as a status list asks for it.
func BenchmarkAMillionAPITokens(b *testing.B) {
	const tokens = 1000
	open := func() (*store.Store, string) {
		database := pgtest.Database(b)
		keys, err := keyring.Parse(keyring.Generate(time.Now()))
		if err != nil {
			b.Fatal(err)
		}
		s, err := store.Open(store.Config{URL: secret.Text(database)}, keys, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		if _, err := s.Migrate(b.Context()); err != nil {
			b.Fatal(err)
		}
		execOn(b, database, "INSERT INTO users (id, issuer, subject, username, created_at, disabled_at) SELECT 'u' || n, 'https://op', 'u' || n, 'u' || n, 0, CASE WHEN n = 7 THEN 1 END FROM generate_series(0, 999) n")
		fill(b, database, 0, tokens)
		return s, database
	}
	for b.Loop() {
		few, _ := open()
		many, database := open()
		fill(b, database, tokens, 1_000_000)
		execOn(b, database, "ANALYZE")
		var ratios []float64
		for n := range tokens {
			var took [2]time.Duration
			for step := range took {
				at := (n + step) % 2
				began := time.Now()
				if _, err := []*store.Store{few, many}[at].APITokens.TokenOf(b.Context(), apitoken.DigestOf(fmt.Sprint(n))); err != nil {
					b.Fatal(err)
				}
				took[at] = time.Since(began)
			}
			ratios = append(ratios, float64(took[1])/float64(took[0]))
		}
		paired.Report(b, paired.Median(ratios), "x-time-among-1,000-tokens", "≤1.3")
		began := time.Now()
		ended, err := many.APITokens.EndedStatuses(b.Context(), 0, 1<<20, time.Now(), []apitoken.Lapse{{Audience: "a", Provider: "main", RanOutBefore: time.Now()}})
		if err != nil || len(ended) != 11_000 {
			b.Fatalf("got %d ended tokens, %v; want 10,000, and 1,000 of a user who is disabled", len(ended), err)
		}
		paired.Report(b, time.Since(began).Seconds()*1000, "ms-for-a-status-list", "≤200")
	}
}

func execOn(b *testing.B, database, statement string) {
	b.Helper()
	connection, err := pgx.Connect(b.Context(), database)
	if err != nil {
		b.Fatal(err)
	}
	defer connection.Close(b.Context())
	if _, err := connection.Exec(b.Context(), statement); err != nil {
		b.Fatal(err)
	}
}

// fill inserts tokens whose values are their numbers, from one up to another. Of those beyond the first thousand one in
// a hundred is revoked.
func fill(b *testing.B, database string, from, to int) {
	b.Helper()
	between := fmt.Sprintf("FROM generate_series(%d, %d) n", from, to-1)
	execOn(b, database, "INSERT INTO api_tokens (id, kind, format, user_id, audience, name, created_at, revoked_at) SELECT 't' || n, 'personal', 'jwt', 'u' || n % 1000, 'a', 'n', 0, CASE WHEN n % 100 = 0 THEN 1 END "+between)
	execOn(b, database, "INSERT INTO api_token_values (digest, token_id, suffix, created_at, status) SELECT sha256(n::text::bytea), 't' || n, 'abcd', 0, n "+between)
}
