package broker_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/store"
)

const callback = "https://wts.example.org/oauth2/authorize"

// fixture is a broker over a real database and a real provider.
type fixture struct {
	*broker.Broker
	store  *faulty
	logins *store.Logins
	count  func() int64 // the statements so far
	path   string       // of the database
	main   *providertest.Server
	second *providertest.Server
	clock  atomic.Int64 // nanoseconds added to the time
	losses atomic.Int64
}

// faulty is the real store, with errors where the test wants them.
type faulty struct {
	broker.Store
	failCommits  atomic.Int64
	hang         atomic.Int64 // nanoseconds that reading a row takes
	onConnection func()
}

var errDatabase = errors.New("the database is away")

func (f *faulty) Apply(ctx context.Context, row broker.Row, action broker.Action) (broker.Change, error) {
	if _, commit := action.(broker.Commit); commit && f.failCommits.Add(-1) >= 0 {
		return broker.Change{}, errDatabase
	}
	return f.Store.Apply(ctx, row, action)
}

func (f *faulty) Row(ctx context.Context, userID, providerID string) (broker.Row, error) {
	if hang := time.Duration(f.hang.Load()); hang > 0 {
		select {
		case <-ctx.Done():
			return broker.Row{}, ctx.Err()
		case <-time.After(hang):
		}
	}
	row, err := f.Store.Row(ctx, userID, providerID)
	if f.onConnection != nil {
		f.onConnection()
	}
	return row, err
}

func newFixture(t *testing.T, change ...func(*provider.Config)) *fixture {
	t.Helper()
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "wts.db")
	db, err := store.Open(store.Config{URL: secret.Text("sqlite:" + path)}, keys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &fixture{store: &faulty{Store: db.Connections}, logins: db.Logins, count: db.Statements, path: path}
	options := providertest.Options{Users: []providertest.User{{Name: "alice", Password: "a", Email: "alice@example.org"}, {Name: "bob", Password: "b"}}}
	var providers []*provider.Provider
	start := func(id, callback string) *providertest.Server {
		server, err := providertest.Start(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		server.Register(providertest.Client{ID: "wts", Secret: "s", RedirectURI: callback})
		config := provider.Config{Issuer: server.Issuer, ClientID: "wts", ClientSecret: "s", UsernameClaim: "preferred_username", RefreshTimeout: 2 * time.Second}
		for _, one := range change {
			one(&config)
		}
		providers = append(providers, provider.New(id, config, callback))
		return server
	}
	h.main, h.second = start("main", callback), start("second", callback+"/second")
	h.Broker = broker.New(broker.Parts{
		Config: broker.Config{DefaultProvider: "main", Wait: 3 * time.Second, SpoolDir: t.TempDir()}, Providers: providers, Store: h.store, Logins: db.Logins,
		Replicas: db.Replicas, Outbox: db.Outbox, Failovers: db.Failovers, Ended: db.Endings, Alone: true,
		Keys: keys, Observer: broker.Observer{GrantLost: func(string, string) { h.losses.Add(1) }}, Now: func() time.Time { return time.Now().Add(time.Duration(h.clock.Load())) },
	})
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { h.Run(ctx); close(stopped) }()
	t.Cleanup(func() { stop(); <-stopped })
	for deadline := time.Now().Add(20 * time.Second); !h.Beating(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no heartbeat within 20 s")
		}
	}
	return h
}

func (h *fixture) advance(by time.Duration) { h.clock.Add(int64(by)) }

// begin begins a login and goes through the provider's page; it returns what the provider sends back.
func (h *fixture) begin(t *testing.T, providerID, userID, name, password string) broker.Callback {
	t.Helper()
	begun, err := h.Begin(t.Context(), providerID, userID, "")
	if err != nil {
		t.Fatal(err)
	}
	browser := providertest.Browser()
	var back *url.URL
	browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if next.URL.Host == "wts.example.org" {
			back = next.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	if _, err := providertest.LogIn(t.Context(), browser, begun.URL, name, password); err != nil || back == nil {
		t.Fatalf("logging in: %v", err)
	}
	query := back.Query()
	return broker.Callback{Provider: strings.TrimPrefix(strings.TrimPrefix(back.Path, "/oauth2/authorize"), "/"), State: query.Get("state"), Code: query.Get("code"), Issuer: query.Get("iss"), Sealed: begun.Sealed, UserID: userID}
}

func (h *fixture) connect(t *testing.T, providerID, userID, name, password string) broker.Connected {
	t.Helper()
	done, err := h.Finish(t.Context(), h.begin(t, providerID, userID, name, password))
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return done
}

func (h *fixture) token(t *testing.T, userID string, life time.Duration) broker.Token {
	t.Helper()
	token, err := h.Token(t.Context(), userID, "main", life)
	if err != nil {
		t.Fatalf("asking for a token: %v", err)
	}
	return token
}

// put stores tokens as another replica's refresh would.
func (h *fixture) put(t *testing.T, userID string, tokens provider.Tokens) {
	t.Helper()
	row := h.row(t, userID)
	claimed, err := h.store.Apply(t.Context(), row, broker.Claim{Version: row.Version, Flight: rand.Text(), Replica: "another"})
	if err != nil {
		t.Fatal(err)
	}
	flight := claimed.Row
	commit := broker.Commit{Flight: flight.FlightID, Version: flight.Version, Presented: flight.Digest, Token: flight.RefreshToken, Tokens: tokens}
	if tokens.RefreshToken != "" {
		commit.Successor = []byte("digest of " + string(tokens.RefreshToken))
	}
	if _, err := h.store.Store.Apply(t.Context(), flight, commit); err != nil {
		t.Fatal(err)
	}
}

func (h *fixture) row(t *testing.T, userID string) broker.Row {
	t.Helper()
	row, err := h.store.Store.Row(t.Context(), userID, "main")
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// A cached answer touches neither the database nor the provider.
func TestACachedTokenCostsNothing(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	first := h.token(t, alice, 0)
	statements, ledger := h.count(), h.main.Ledger()
	for range 1000 {
		if got := h.token(t, alice, 600*time.Second); got.Value != first.Value {
			t.Fatal("another token")
		}
		if err := h.Living(t.Context(), alice, "main"); err != nil {
			t.Fatal(err)
		}
	}
	if now := h.count(); now != statements {
		t.Errorf("1,000 cached answers sent %d statements", now-statements)
	}
	if diff := cmp.Diff(ledger, h.main.Ledger()); diff != "" {
		t.Errorf("1,000 cached answers called the provider: %s", diff)
	}
}

func TestOneRefreshForManyCallers(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	now := time.Now()
	h.put(t, alice, provider.Tokens{AccessToken: "old", IssuedAt: now.Add(-45 * time.Second), AccessExpiresAt: now.Add(15 * time.Second)})
	before := h.main.Ledger()
	var all sync.WaitGroup
	var values sync.Map
	for range 100 {
		all.Go(func() {
			token, err := h.Token(context.Background(), alice, "main", 600*time.Second)
			if err != nil {
				t.Error(err)
			}
			values.Store(token.Value, true)
		})
	}
	all.Wait()
	if posts := h.main.Ledger().TokenPosts - before.TokenPosts; posts != 1 {
		t.Errorf("%d requests for one expiry, want 1", posts)
	}
	distinct := 0
	values.Range(func(any, any) bool { distinct++; return true })
	if _, old := values.Load(secret.Text("old")); distinct != 1 || old {
		t.Errorf("%d different tokens, the old one among them: %t", distinct, old)
	}
}

func TestRotatedTokensAreStored(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	seen := map[secret.Text]bool{}
	for range 5 {
		seen[h.row(t, alice).RefreshToken] = true
		h.advance(45 * time.Second)
		h.token(t, alice, 600*time.Second)
	}
	if ledger := h.main.Ledger(); len(seen) != 5 || ledger.Rotations != 5 || ledger.Reused+ledger.Refused != 0 {
		t.Errorf("%d refresh tokens were stored; the ledger: %+v", len(seen), ledger)
	}
}

func TestACommitThatFailsIsTriedAgainAndNotThePresentation(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	before := h.row(t, alice).RefreshToken
	h.advance(45 * time.Second)
	h.store.failCommits.Store(3)
	h.token(t, alice, 600*time.Second)
	for deadline := time.Now().Add(5 * time.Second); h.row(t, alice).RefreshToken == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the successor was not stored")
		}
	}
	if ledger := h.main.Ledger(); ledger.Rotations != 1 || ledger.Reused != 0 {
		t.Errorf("the ledger: %+v", ledger)
	}
}

func TestACallerWhoGoesAwayTakesNoRotationAlong(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.advance(45 * time.Second)
	h.main.Fail(&providertest.Fault{Times: 1, Delay: 300 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Token(ctx, alice, "main", 600*time.Second); err == nil {
		// the token still lived: that is an answer too
		t.Log("answered with the living token")
	}
	h.token(t, alice, 600*time.Second)
	h.advance(45 * time.Second)
	h.token(t, alice, 600*time.Second)
	if ledger := h.main.Ledger(); ledger.Reused+ledger.Refused != 0 {
		t.Errorf("the ledger: %+v", ledger)
	}
}

// Refresh-engine.md promise 3, with what holds before the whole engine: whatever a provider in
// trouble says, the row stays as it is, and a token that lives is served.
func TestAnOutageOfTheProviderLosesNothing(t *testing.T) {
	for name, fault := range map[string]providertest.Fault{
		"a 500":              {Status: 500},
		"a firewall's page":  {Status: 403, Body: "<html>"},
		"a 429":              {Status: 429, Header: http.Header{"Retry-After": {"7"}}},
		"invalid_client":     {Status: 401, Body: `{"error":"invalid_client"}`, Header: http.Header{"Content-Type": {"application/json"}}},
		"invalid_scope":      {Status: 400, Body: `{"error":"invalid_scope"}`, Header: http.Header{"Content-Type": {"application/json"}}},
		"broken connections": {Down: true},
		"no answer":          {Delay: 2500 * time.Millisecond, Status: 500},
		"an empty answer":    {Status: 200},
		"a redirect":         {Status: 307, Header: http.Header{"Location": {"https://elsewhere.example"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newFixture(t)
			alice := h.connect(t, "main", "", "alice", "a").UserID
			living := h.token(t, alice, 0)
			before := h.row(t, alice)
			h.main.Fail(&fault)

			h.advance(45 * time.Second) // half its life is gone: it should be refreshed, and lives
			if got := h.token(t, alice, 600*time.Second); got.Value != living.Value {
				t.Error("another token than the one that lives")
			}
			h.advance(20 * time.Second) // it has run out
			_, err := h.Token(t.Context(), alice, "main", 0)
			var outage *broker.Unavailable
			if !errors.As(err, &outage) || outage.RetryAfter <= 0 {
				t.Errorf("got %v, want an outage with a time to try again", err)
			}
			// Claim, version and phase may move; tokens and their ends may not.
			if diff := cmp.Diff(before.Connection, h.row(t, alice).Connection, cmp.Comparer(func(a, b secret.Text) bool { return string(a) == string(b) }),
				cmpopts.IgnoreFields(broker.Connection{}, "Version", "Phase", "Reason")); diff != "" {
				t.Errorf("the row changed (-before +after):\n%s", diff)
			}
			if err := h.Living(t.Context(), alice, "main"); err != nil {
				t.Errorf("the grant lives all the same: %v", err)
			}
			// One attempt for each back-off window, however many ask.
			posts := h.main.Ledger().TokenPosts
			for range 50 {
				_, _ = h.Token(t.Context(), alice, "main", 0)
			}
			if more := h.main.Ledger().TokenPosts - posts; more > 1 {
				t.Errorf("50 callers caused %d attempts", more)
			}
		})
	}
}

func TestAProvidersVerdictEndsTheGrantAndALoginMendsIt(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	before := h.row(t, alice)
	h.main.Revoke("alice")
	h.advance(61 * time.Second)
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrGrantBroken) {
		t.Errorf("got %v, want ErrGrantBroken", err)
	}
	if err := h.Living(t.Context(), alice, "main"); !errors.Is(err, broker.ErrGrantBroken) {
		t.Errorf("living: got %v, want ErrGrantBroken", err)
	}
	after := h.row(t, alice)
	if after.Phase != broker.Broken || after.RefreshToken != before.RefreshToken {
		t.Errorf("the row is %s, and its token kept: %v", after.Phase, after.RefreshToken == before.RefreshToken)
	}
	if h.losses.Load() != 1 {
		t.Errorf("%d grants are counted as lost", h.losses.Load())
	}
	h.clock.Store(0)
	if again := h.connect(t, "main", "", "alice", "a"); again.UserID != alice {
		t.Errorf("the login made another user")
	}
	h.token(t, alice, 0)
}

func TestADisconnectIsSeenAtOnceEvenInTheMiddleOfARefresh(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.advance(45 * time.Second)
	h.main.Fail(&providertest.Fault{Times: 1, Delay: 300 * time.Millisecond})
	var refreshing sync.WaitGroup
	refreshing.Go(func() { _, _ = h.Token(context.Background(), alice, "main", 600*time.Second) })
	time.Sleep(100 * time.Millisecond)
	if err := h.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	refreshing.Wait()
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("got %v, want ErrNotConnected", err)
	}
	if row := h.row(t, alice); row.Phase != broker.Disconnected || row.RefreshToken != "" {
		t.Errorf("the row is %s", row.Phase)
	}
}

// What was read before a change is not remembered after it.
func TestWhatWasToBeForgottenIsNotRemembered(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.store.onConnection = func() { // another replica disconnects just after the row was read
		h.store.onConnection = nil
		if err := h.store.Disconnect(t.Context(), alice, "main"); err != nil {
			t.Error(err)
		}
		h.Forget(alice, "main")
	}
	_, _ = h.Token(t.Context(), alice, "main", 0)
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("got %v, want ErrNotConnected", err)
	}
}

// A provider that gives no refresh token: the access token is the grant, and ends with it.
func TestAGrantWithoutARefreshToken(t *testing.T) {
	h := newFixture(t)
	at := time.Now()
	stored, err := h.logins.Connect(t.Context(), broker.Grant{
		Provider: "main", Identity: provider.Identity{Issuer: "i", Subject: "s", Username: "carol"},
		Tokens: provider.Tokens{AccessToken: "whole", IssuedAt: at, AccessExpiresAt: at.Add(time.Hour)},
	})
	if err != nil {
		t.Fatal(err)
	}
	alice := stored.UserID
	h.advance(50 * time.Minute)
	if got := h.token(t, alice, time.Hour); got.Value != "whole" {
		t.Error("not handed out while it lives")
	}
	h.Forget(alice, "main")
	if got := h.token(t, alice, time.Hour); got.Value != "whole" {
		t.Error("not handed out while it lives, from the row")
	}
	h.advance(11 * time.Minute)
	for range 2 {
		if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrGrantExpired) {
			t.Errorf("run out: got %v, want ErrGrantExpired", err)
		}
		if err := h.Living(t.Context(), alice, "main"); !errors.Is(err, broker.ErrGrantExpired) {
			t.Errorf("living: got %v, want ErrGrantExpired", err)
		}
	}
}

// An end that slides: another replica refreshed, and this one remembers the old end.
func TestAnEndThatMovedOnAnotherReplica(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	put := func(ends time.Duration) {
		tokens := provider.Tokens{RefreshToken: "rt", AccessToken: "at", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(2 * time.Hour)}
		if ends != 0 {
			tokens.RefreshExpiresAt = time.Now().Add(ends)
		}
		h.put(t, alice, tokens)
	}
	put(10 * time.Minute)
	h.Forget(alice, "main")
	h.token(t, alice, 0)
	put(time.Hour)
	h.advance(11 * time.Minute)
	h.token(t, alice, 0)
	if err := h.Living(t.Context(), alice, "main"); err != nil {
		t.Error(err)
	}
}

// While a provider fails, everybody gets the token that lives, not the first caller alone; and what
// another replica stored is found.
func TestABackOffHidesNoLivingToken(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.main.Fail(&providertest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3600"}}})
	h.advance(45 * time.Second)
	h.Forget(alice, "main") // as after a restart
	for range 3 {
		h.token(t, alice, 600*time.Second)
	}
	h.advance(20 * time.Second)
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("run out: got %v", err)
	}
	fresh := provider.Tokens{AccessToken: "of another replica", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(time.Hour)}
	h.put(t, alice, fresh)
	if got := h.token(t, alice, 0); got.Value != "of another replica" {
		t.Error("what another replica stored was not found")
	}
}

func TestADisconnectWhileARefreshHangsIsNotUndoneByItsFailure(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.advance(45 * time.Second)
	h.main.Fail(&providertest.Fault{Times: 1, Delay: 500 * time.Millisecond, Status: http.StatusBadGateway})
	var flying sync.WaitGroup
	flying.Go(func() { _, _ = h.Token(context.Background(), alice, "main", 600*time.Second) })
	time.Sleep(100 * time.Millisecond)
	if err := h.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("joining the flight: got %v, want ErrNotConnected", err)
	}
	flying.Wait()
}

// Security.md B2.
func TestAGrantWhoseStatedEndHasComeIsNotUsed(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	tokens := provider.Tokens{
		RefreshToken: "rt", AccessToken: "at", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(time.Hour),
		RefreshExpiresAt: time.Now().Add(10 * time.Minute),
	}
	h.put(t, alice, tokens)
	h.Forget(alice, "main")
	h.token(t, alice, 0)
	h.advance(11 * time.Minute)
	if _, err := h.Token(t.Context(), alice, "main", 0); !errors.Is(err, broker.ErrGrantExpired) {
		t.Errorf("got %v, want ErrGrantExpired", err)
	}
	if err := h.Living(t.Context(), alice, "main"); !errors.Is(err, broker.ErrGrantExpired) {
		t.Errorf("living: got %v, want ErrGrantExpired", err)
	}
}

// A grant that ran out is good for API tokens a while longer, at the first look already; one that is no good otherwise
// is not.
func TestAGrantThatRanOutALittleAgo(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	h.put(t, alice, provider.Tokens{
		RefreshToken: "rt", AccessToken: "at", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(time.Hour), RefreshExpiresAt: time.Now().Add(10 * time.Minute),
	})
	h.Forget(alice, "main")
	h.token(t, alice, 0)
	h.advance(11 * time.Minute)
	for range 3 {
		if err := h.LivingWithin(t.Context(), alice, "main", time.Hour); err != nil {
			t.Errorf("within an hour: got %v, want nil", err)
		}
	}
	if err := h.LivingWithin(t.Context(), alice, "main", 30*time.Second); !errors.Is(err, broker.ErrGrantExpired) {
		t.Errorf("within half a minute: got %v, want ErrGrantExpired", err)
	}
	if err := h.Disconnect(t.Context(), alice, "main"); err != nil {
		t.Fatal(err)
	}
	if err := h.LivingWithin(t.Context(), alice, "main", time.Hour); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("disconnected: got %v, want ErrNotConnected", err)
	}
}

// Security.md A1, A3, A6.
func TestCallbacksThatAreRefused(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a").UserID
	bob := h.connect(t, "main", "", "bob", "b").UserID
	posts := func() int { return h.main.Ledger().TokenPosts + h.second.Ledger().TokenPosts }
	for name, row := range map[string]struct {
		change func(*broker.Callback)
		want   error
	}{
		"no state":                     {func(b *broker.Callback) { b.State = "" }, broker.ErrState},
		"another state":                {func(b *broker.Callback) { b.State = "x" }, broker.ErrState},
		"no cookie: another browser":   {func(b *broker.Callback) { b.Sealed = "" }, broker.ErrState},
		"a cookie that is not ours":    {func(b *broker.Callback) { b.Sealed = "AAAA" }, broker.ErrState},
		"a cookie of another login":    {func(b *broker.Callback) { b.Sealed = h.begin(t, "second", alice, "alice", "a").Sealed }, broker.ErrState},
		"somebody else is signed in":   {func(b *broker.Callback) { b.UserID = bob }, broker.ErrSignInFirst},
		"nobody is signed in any more": {func(b *broker.Callback) { b.UserID = "" }, broker.ErrSignedOut},
		"another issuer answers":       {func(b *broker.Callback) { b.Issuer = h.main.Issuer }, broker.ErrLoginFailed},
		"the provider says no":         {func(b *broker.Callback) { b.Error = "access_denied" }, broker.ErrLoginFailed},
		"no code":                      {func(b *broker.Callback) { b.Code = "" }, broker.ErrLoginFailed},
	} {
		t.Run(name, func(t *testing.T) {
			back := h.begin(t, "second", alice, "alice", "a")
			row.change(&back)
			before := posts()
			if _, err := h.Finish(t.Context(), back); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			if posts() != before {
				t.Error("a token endpoint was called")
			}
		})
	}
	back := h.begin(t, "second", alice, "alice", "a")
	h.advance(11 * time.Minute)
	if _, err := h.Finish(t.Context(), back); !errors.Is(err, broker.ErrState) {
		t.Errorf("too late: got %v, want ErrState", err)
	}
	h.clock.Store(0)
	stolen := h.begin(t, "second", alice, "alice", "a")
	stolen.Code = "a-code-of-somebody-else"
	if _, err := h.Finish(t.Context(), stolen); !errors.Is(err, broker.ErrLoginFailed) {
		t.Errorf("a code that the provider does not know: got %v, want ErrLoginFailed", err)
	}
	if _, err := h.Connection(t.Context(), alice, "second"); !errors.Is(err, broker.ErrNotConnected) {
		t.Errorf("after all of these: got %v, want ErrNotConnected", err)
	}

	used := h.begin(t, "second", alice, "alice", "a")
	if _, err := h.Finish(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	before := posts()
	if _, err := h.Finish(t.Context(), used); !errors.Is(err, broker.ErrReplayed) || posts() != before {
		t.Errorf("the same callback again: got %v, want ErrReplayed and no call", err)
	}
}

func TestNobodysLoginFillsAnothersRow(t *testing.T) {
	h := newFixture(t)
	alice := h.connect(t, "main", "", "alice", "a")
	bob := h.connect(t, "main", alice.UserID, "bob", "b") // alice is signed in; bob logs in
	if bob.UserID == alice.UserID || bob.Username != "bob" {
		t.Errorf("bob's login became %s", bob.Username)
	}
	h.connect(t, "second", alice.UserID, "alice", "a")
	h.connect(t, "second", bob.UserID, "alice", "a") // one external account, two users
	for _, user := range []string{alice.UserID, bob.UserID} {
		t.Run(user, func(t *testing.T) {
			if _, err := h.Connection(t.Context(), user, "second"); err != nil {
				t.Errorf("a connection is gone: %v", err)
			}
		})
	}
	other := h.begin(t, "second", alice.UserID, "bob", "b")
	if _, err := h.Finish(t.Context(), other); !errors.Is(err, broker.ErrOtherAccount) {
		t.Errorf("another account: got %v, want ErrOtherAccount", err)
	}
}

func TestTwoTabsBothFinish(t *testing.T) {
	h := newFixture(t)
	one, two := h.begin(t, "main", "", "alice", "a"), h.begin(t, "main", "", "alice", "a")
	for _, back := range []broker.Callback{two, one} {
		if _, err := h.Finish(t.Context(), back); err != nil {
			t.Error(err)
		}
	}
}

func TestWhoMayBegin(t *testing.T) {
	h := newFixture(t)
	if _, err := h.Begin(t.Context(), "second", "", ""); !errors.Is(err, broker.ErrSignInFirst) {
		t.Errorf("connecting without being signed in: got %v", err)
	}
	if _, err := h.Begin(t.Context(), "bogus", "u", ""); !errors.Is(err, broker.ErrProvider) {
		t.Errorf("a provider that is not configured: got %v", err)
	}
	h.main.Fail(&providertest.Fault{Down: true})
	var outage *broker.Unavailable
	if _, err := h.Begin(t.Context(), "main", "", ""); !errors.As(err, &outage) {
		t.Errorf("a provider that is down: got %v, want an outage", err)
	}
}
