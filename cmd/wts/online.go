package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/store"
)

// tried is one thing that was tried of the world around the service.
type tried struct {
	Where string `json:"where"`
	What  string `json:"what"`
	Said  string `json:"said,omitempty"`
	Error string `json:"error,omitempty"` // empty where it is good
}

// textOf is an error's text; empty for none.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// try tries the database and every provider at once, and returns what was found in a stable order. The
// clients' credentials cost a request at the token endpoint.
func try(ctx context.Context, loaded config.Config, db *store.Store, credentials bool) []tried {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ids := slices.Sorted(maps.Keys(loaded.Providers))
	found := make([][]provider.Finding, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			found[i] = provider.New(id, loaded.Providers[id], loaded.CallbackURL(id)).Probe(ctx, credentials)
		})
	}
	results := tryDatabase(ctx, db)
	all.Wait()
	for i, id := range ids {
		for _, one := range found[i] {
			results = append(results, tried{"providers." + id, one.What, one.Said, textOf(one.Err)})
		}
	}
	return results
}

func tryDatabase(ctx context.Context, db *store.Store) []tried {
	const where = "database"
	skew, err := db.Clock(ctx)
	if err != nil {
		return []tried{{where, "connection", "", err.Error()}}
	}
	results := []tried{{where, "connection", "reachable", ""}}
	if skew > 5*time.Second || skew < -5*time.Second {
		results = append(results, tried{where, "clock", "", "it differs from this machine's by " + skew.Round(time.Second).String()})
	}
	if unreadable, total, err := db.Unreadable(ctx); err == nil && unreadable > 0 {
		results = append(results, tried{where, "sealed tokens", "", fmt.Sprintf("%d of %d connections do not open with this keyring%s", unreadable, total, inMode())})
	}
	if db.Plaintext() {
		results = append(results, tried{where, "encryption", "", "the connection may go without TLS: add sslmode=verify-full to database.url"})
	}
	return results
}

// tryOnline tries everything for a command.
func tryOnline(ctx context.Context, loaded config.Config) ([]tried, error) {
	db, err := store.Open(loaded.Database, loaded.Keys, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return try(ctx, loaded, db, true), nil
}

// summarize logs the same at the start, beside serving, but for the credentials.
func (s *service) summarize(ctx context.Context) {
	wrong := 0
	for _, one := range try(ctx, s.config, s.store, false) {
		if one.Error != "" && ctx.Err() == nil {
			wrong++
			s.log.Warn("something that logins and refreshes need does not work yet", slog.String("where", one.Where), slog.String("what", one.What), slog.String("error", one.Error))
		}
	}
	if wrong == 0 && ctx.Err() == nil {
		s.log.Info("the providers and the database answer as they should", slog.Int("providers", len(s.config.Providers)))
	}
}
