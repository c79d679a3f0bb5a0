package broker_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// A provider that answers later than its grace lasts loses nobody: one POST, and its answer is
// waited for. The code before cut each POST at the grace less 5 s, and presented the token again after it.
func TestAProviderThatIsSlowerThanItsGraceLosesNobody(t *testing.T) {
	for name, fault := range map[string]providertest.Fault{
		"it acts late":    {Delay: 2 * time.Second},
		"it answers late": {Thinks: 2 * time.Second},
		"it does both":    {Delay: 1500 * time.Millisecond, Thinks: 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newFixture(t, func(c *provider.Config) { c.ReuseGrace, c.RefreshTimeout = time.Second, 0 })
			alice := h.connect(t, "main", "", "alice", "a").UserID
			long := time.Now().Add(-time.Hour)
			h.put(t, alice, provider.Tokens{AccessToken: "spent", IssuedAt: long, AccessExpiresAt: long.Add(time.Minute)})
			h.Forget(alice, "main")
			before := h.main.Ledger()
			h.main.Fail(&fault)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				_, err := h.Token(t.Context(), alice, "main", 0)
				if err == nil {
					break
				}
				if !errors.Is(err, broker.ErrUnavailable) || time.Now().After(deadline) {
					t.Fatalf("got %v, want an outage at most, and a token in the end", err)
				}
			}
			after := h.main.Ledger()
			if posts := after.TokenPosts - before.TokenPosts; posts != 1 || after.Reused > 0 || h.losses.Load() > 0 {
				t.Errorf("%d posts, %d replays, %d grants lost; want one post and nothing else", posts, after.Reused, h.losses.Load())
			}
		})
	}
}

// No answer within refresh_timeout, and no grace: the provider may still be working on the token, so that
// it is presented once more only after spool_wait (refresh-engine.md step 8).
func TestAfterATimeoutTheTokenRestsForSpoolWait(t *testing.T) {
	h := newFixture(t, func(c *provider.Config) { c.RefreshTimeout = 500 * time.Millisecond })
	alice := h.connect(t, "main", "", "alice", "a").UserID
	before := h.main.Ledger().TokenPosts
	h.main.Fail(&providertest.Fault{Times: 1, Thinks: time.Second})
	h.advance(61 * time.Second)
	_, err := h.Token(t.Context(), alice, "main", 0)
	var outage *broker.Unavailable
	if !errors.As(err, &outage) || outage.RetryAfter < time.Minute {
		t.Errorf("got %v; want an outage that says how long it will last, about 2 m", err)
	}
	time.Sleep(3 * time.Second)
	_, _ = h.Token(t.Context(), alice, "main", 0)
	if posts := h.main.Ledger().TokenPosts - before; posts != 1 || h.main.Ledger().Reused > 0 {
		t.Errorf("%d posts and %d replays within 3 s, want one post", posts, h.main.Ledger().Reused)
	}
	row := h.row(t, alice)
	if rest := row.NextAttemptAt.Sub(row.Reading.Database); row.Phase != broker.Suspect || rest < 100*time.Second {
		t.Errorf("the row is %s and rests for %s, want suspect, for 2 m", row.Phase, rest)
	}
}

// A refresh whose id_token names another person is stored, and not handed out.
func TestARefreshThatNamesAnotherPersonEndsTheGrant(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.advance(61 * time.Second)
	// {"sub":"mallory"}
	h.main.Fail(&providertest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"access_token":"mallorys","refresh_token":"r2","expires_in":60,"id_token":"e30.eyJzdWIiOiJtYWxsb3J5In0.x"}`})
	if token, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrGrantBroken) {
		t.Errorf("got %v and a token of %d bytes, want ErrGrantBroken", err, len(token.Value))
	}
	row := h.row(t, alice)
	if row.Phase != broker.Broken || row.Reason != "identity_changed" || row.RefreshToken != "r2" {
		t.Errorf("the row is %s, %q, its successor stored: %t; want broken, identity_changed, true", row.Phase, row.Reason, row.RefreshToken == "r2")
	}
	if err := h.Living(t.Context(), alice, "main"); !errors.Is(err, broker.ErrGrantBroken) {
		t.Errorf("minting: got %v, want ErrGrantBroken", err)
	}
}

// An access token that may not be handed out: its refresh token is stored anyway, and another
// attempt is made after a rest, not at every call.
func TestAnAccessTokenThatMayNotBeHandedOut(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.advance(61 * time.Second)
	before := h.main.Ledger().TokenPosts
	h.main.Fail(&providertest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"access_token":"x\nhost=evil","refresh_token":"r2","expires_in":60}`})
	for range 20 {
		if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrUnavailable) {
			t.Fatalf("got %v, want an outage", err)
		}
	}
	if row := h.row(t, alice); row.RefreshToken != "r2" || row.Phase != broker.Ready {
		t.Errorf("the successor is stored: %t, and the row %s", row.RefreshToken == "r2", row.Phase)
	}
	if posts := h.main.Ledger().TokenPosts - before; posts != 1 {
		t.Errorf("20 callers cause %d posts, want 1", posts)
	}
}

// A connection that was read a while ago is read again before more is minted or handed out by it, so that
// a change that was never heard of is seen anyway.
func TestWhatIsRememberedHasAnAgeLimit(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.token(t, alice, 0)
	if err := h.store.Disconnect(t.Context(), alice, "main"); err != nil { // by another replica, unheard
		t.Fatal(err)
	}
	if err := h.Living(t.Context(), alice, "main"); err != nil {
		t.Fatalf("it is not remembered at all: %v", err)
	}
	h.advance(61 * time.Second)
	if err := h.Living(t.Context(), alice, "main"); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("minting a minute later: got %v, want ErrNotConnected", err)
	}
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("a minute later: got %v, want ErrNotConnected", err)
	}
}

// A disconnect is heard while a refresh is out, and then the database goes away: what the refresh brings is
// not remembered, for the row was read before the disconnect ("only read" in the findings, P5b).
func TestADisconnectDuringARefreshIsNotForgotten(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	long := time.Now().Add(-time.Hour)
	h.put(t, alice, provider.Tokens{AccessToken: "spent", IssuedAt: long, AccessExpiresAt: long.Add(time.Minute)})
	h.Forget(alice, "main")
	h.main.Fail(&providertest.Fault{Times: 1, Thinks: 600 * time.Millisecond})
	h.store.failCommits.Store(1000)
	done := make(chan struct{})
	go func() { _, _ = h.Token(t.Context(), alice, "main", 0); close(done) }()
	time.Sleep(300 * time.Millisecond)
	if err := h.store.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	h.Forget(alice, "main") // as the feed says
	<-done                  // its token would be valid for a minute
	h.store.failCommits.Store(0)
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("got %v, want ErrNotConnected: the token was remembered", err)
	}
}

// A database that hangs, rather than refuses, keeps nobody waiting whose token memory holds, however long
// ago it was read; and a caller who goes away is not a sign of it.
func TestADatabaseThatHangsKeepsNobodyWaiting(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	now := time.Now()
	h.put(t, alice, provider.Tokens{AccessToken: "long", IssuedAt: now, AccessExpiresAt: now.Add(10 * time.Hour)})
	h.Forget(alice, "main")
	h.token(t, alice, 0)
	h.advance(2 * time.Minute)
	h.store.hang.Store(int64(4 * time.Second))
	defer h.store.hang.Store(0)
	began := time.Now()
	for range 3 {
		if token := h.token(t, alice, 600*time.Second); token.Degraded || token.Value != "long" {
			t.Errorf("degraded %t, another token %t", token.Degraded, token.Value != "long")
		}
		if err := h.Living(t.Context(), alice, "main"); err != nil {
			t.Errorf("minting: %v", err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("six calls took %s, want them from memory", took)
	}
}
