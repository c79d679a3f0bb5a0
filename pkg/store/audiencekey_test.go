package store_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Keys of an audience's own are kept sealed, whole and apart, and another process has them after the change feed.
func TestAudienceKeysAreKept(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		keys := newKeys(t)
		s := open(t, url, keys)
		config := issuer.Config{URL: "https://wts", Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub}}}
		one, two := issuer.New(config, s.SigningKeys, time.Now), issuer.New(config, s.SigningKeys, time.Now)
		if err := one.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, err := one.MakeAudienceKey(t.Context(), "hub")
		if err != nil {
			t.Fatal(err)
		}
		next, err := one.MakeAudienceKey(t.Context(), "hub")
		if err != nil {
			t.Fatal(err)
		}
		if dump := dumpOf(t, raw(t, url)); bytes.Contains(dump, []byte(first.Secret)) || bytes.Contains(dump, []byte(next.Secret)) {
			t.Error("a secret stands in the database in the clear")
		}
		if err := two.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		token, err := two.Mint(issuer.Request{Audience: "hub", Person: issuer.Person{ID: "u", Username: "alice"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.ActivateAudienceKey(t.Context(), "hub", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := one.Read("hub", token.Value); err != nil {
			t.Errorf("what the retired key signed is not read: %v", err)
		}
		kept, err := two.AudienceKeys(t.Context(), "hub")
		if err != nil || len(kept) != 2 || kept[0].State() != issuer.Active || kept[0].Secret != next.Secret || kept[1].State() != issuer.Retired || kept[1].Secret != first.Secret {
			t.Fatalf("kept: %v, %v", kept, err)
		}
		closed, err := open(t, url, newKeys(t)).SigningKeys.AudienceKeys(t.Context())
		if err != nil || len(closed) != 2 || closed[0].Secret != "" {
			t.Errorf("with other keys: %v, %v", closed, err)
		}
	})
}

// Of several who change an audience's keys at once one is first: one secret signs, one waits, and one activates it.
func TestAudienceKeysAreChangedOneAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, newKeys(t))
		config := issuer.Config{URL: "https://wts", Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub}}}
		atOnce := func(change func(*issuer.Issuer) error, refusal error) (done int32) {
			t.Helper()
			var count atomic.Int32
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					switch err := change(issuer.New(config, s.SigningKeys, time.Now)); {
					case err == nil:
						count.Add(1)
					case !errors.Is(err, refusal):
						t.Error(err)
					}
				})
			}
			all.Wait()
			return count.Load()
		}
		made := atOnce(func(i *issuer.Issuer) error { _, err := i.MakeAudienceKey(context.Background(), "hub"); return err }, issuer.ErrPending)
		activated := atOnce(func(i *issuer.Issuer) error {
			_, err := i.ActivateAudienceKey(context.Background(), "hub", "")
			return err
		}, issuer.ErrNoNext)
		if made != 2 || activated != 1 {
			t.Errorf("%d keys were made and %d activated, want 2 and 1", made, activated)
		}
	})
}
