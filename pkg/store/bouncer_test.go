package store_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/store/storetest"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// openPooled opens a database behind pgbouncer in transaction mode.
func openPooled(t *testing.T) *store.Store {
	t.Helper()
	direct := pgtest.Database(t)
	s, err := store.Open(store.Config{URL: secret.Text(pgtest.Bouncer(t, direct)), DirectURL: secret.Text(direct)}, newKeys(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// All that a database has to do for us, it does behind pgbouncer in transaction mode too.
func TestConformanceBehindPgbouncer(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store { return conformed(openPooled(t)) })
}

func TestChangesAreHeardBehindPgbouncer(t *testing.T) {
	s := openPooled(t)
	ears := &ear{heard: map[string]time.Time{}}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { s.Feed.Follow(ctx, ears.listener(), time.Hour); close(followed) }()
	defer func() { stop(); <-followed }()
	await(t, ears, "missed", time.Time{})
	time.Sleep(500 * time.Millisecond) // for LISTEN
	alice := connect(t, s, "alice")
	began := time.Now()
	if err := s.Connections.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	await(t, ears, "connection "+alice+" main", began)
	await(t, ears, "landed "+alice+" main", time.Time{}) // a notification, which the direct way brings
}
