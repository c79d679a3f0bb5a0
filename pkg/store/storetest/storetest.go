// Package storetest is what every database has to do for us: one suite, run against each of them.
package storetest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/publisher"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Store is everything that a database keeps.
type Store struct {
	broker.Store
	broker.LoginStore
	broker.Outbox
	broker.Replicas
	Users
	authn.SessionStore
	Keeper
	TokenKeeper
	PublisherStore publisher.Store
	GrantStore     GrantStore
	broker.ClaimStore
	Issuer issuer.Store
}

// Users is a directory that can be changed.
type Users interface {
	authn.Directory
	SetDisabled(ctx context.Context, username string, disabled bool) error
}

// Keeper keeps the tables in order.
type Keeper interface {
	Tidy(ctx context.Context) error
	Unreadable(ctx context.Context) (unreadable, total int, err error)
}

// Run runs the suite; open gives an empty store each time.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Store){
		"a grant comes back as it was stored":           grantComesBack,
		"a flight swaps on the token presented":         flightSwaps,
		"of many claims one is given":                   oneClaim,
		"a claim whose word was lost is recognised":     claimRecognised,
		"a row that is not at hand is read first":       notAtHand,
		"verdicts are stored":                           verdictsStored,
		"orphans are found":                             orphans,
		"heartbeats change":                             beats,
		"an API token comes back as it was made":        tokenComesBack,
		"API tokens are listed":                         tokensListed,
		"an API token rotates":                          tokenRotates,
		"uses of an API token are noted":                usesNoted,
		"there are as many API tokens as may be":        asManyTokensAsMayBe,
		"resources have maintainers":                    resourcesKept,
		"what people allow programs is kept":            authorizationsKept,
		"logins of programs are kept":                   loginsKept,
		"trusted publishers are kept":                   publishersKept,
		"what a provider says of users is kept":         claimsKept,
		"a login meets a revocation under way":          revocationUnderWay,
		"each login may be a grant of its own":          separateGrants,
		"a disconnect leaves a tombstone":               tombstone,
		"what is unwanted is revoked once":              outbox,
		"a login cancels revocations of its own grant":  revocationsCancelled,
		"a login without a refresh token keeps the old": keepsRefreshToken,
		"another account is not swapped in":             otherAccount,
		"users are who issuer and subject say":          identities,
		"a name with another subject inherits nothing":  namesComeBack,
		"a first login in two tabs makes one user":      oneUserFromManyLogins,
		"a login state is good once":                    statesOnce,
		"sessions begin, are seen and end":              sessions,
		"a disabled user":                               disabled,
		"signing keys change under one lock":            signingKeys,
		"tidying leaves what is alive":                  tidying,
		"big tokens":                                    bigTokens,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// now has the precision of the databases.
func now() time.Time { return time.Now().Truncate(time.Millisecond) }

// localTimes translates a row's times, which are the database's, into this process's; the two differ by a
// statement's time at most, which the comparison allows for.
func localTimes(row broker.Row) broker.Connection {
	local := row.Connection
	for _, at := range []*time.Time{&local.AccessIssuedAt, &local.AccessExpiresAt, &local.RefreshExpiresAt} {
		*at = row.Reading.Local(*at)
	}
	return local
}

func grantOf(name string, tokens provider.Tokens) broker.Grant {
	return broker.Grant{
		Provider: "main", Tokens: tokens,
		Identity: provider.Identity{Issuer: "https://op", Subject: "sub-" + name, Username: name},
	}
}

func tokensOf(refresh, access secret.Text) provider.Tokens {
	at := now()
	return provider.Tokens{RefreshToken: refresh, AccessToken: access, IssuedAt: at, AccessExpiresAt: at.Add(time.Minute)}
}

func connect(t *testing.T, s Store, grant broker.Grant) (userID string) {
	t.Helper()
	stored, err := s.Connect(t.Context(), grant)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return stored.UserID
}

func read(t *testing.T, s Store, userID, providerID string) broker.Row {
	t.Helper()
	row, err := s.Row(t.Context(), userID, providerID)
	if err != nil {
		t.Fatalf("reading the connection: %v", err)
	}
	return row
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equal(t *testing.T, what string, want, got any, options ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(options, cmpopts.EquateApproxTime(time.Second), cmpopts.EquateComparable(netip.Prefix{}))...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func grantComesBack(t *testing.T, s Store) {
	tokens := tokensOf("rt-1", "at-1")
	tokens.RefreshExpiresAt = now().Add(time.Hour)
	alice := connect(t, s, grantOf("alice", tokens))
	got := read(t, s, alice, "main")
	equal(t, "the connection", broker.Connection{
		UserID: alice, Provider: "main", Subject: "sub-alice", Phase: broker.Ready, Version: 1,
		RefreshToken: "rt-1", AccessToken: "at-1", AccessIssuedAt: tokens.IssuedAt, AccessExpiresAt: tokens.AccessExpiresAt,
		RefreshExpiresAt: tokens.RefreshExpiresAt, Rotates: broker.RotationUnknown,
	}, localTimes(got), cmpopts.IgnoreFields(broker.Connection{}, "ConnectedAt"))
	if since := time.Since(got.ConnectedAt); since < -time.Minute || since > time.Minute {
		t.Errorf("connected %s ago", since)
	}
	_, err := s.Row(t.Context(), alice, "other")
	want(t, "another provider", err, broker.ErrNotConnected)
	_, err = s.Row(t.Context(), "nobody", "main")
	want(t, "another user", err, broker.ErrNotConnected)
}

func keepsRefreshToken(t *testing.T, s Store) {
	bob := connect(t, s, grantOf("bob", tokensOf("rt-old", "at-1")))
	ended := tokensOf("rt-ended", "at-2")
	ended.RefreshExpiresAt = now().Add(-time.Minute)
	refresh(t, s, bob, ended)
	connect(t, s, grantOf("bob", tokensOf("", "at-3")))
	equal(t, "one that has come to its end is not kept", secret.Text(""), read(t, s, bob, "main").RefreshToken)

	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	connect(t, s, grantOf("alice", tokensOf("", "at-2")))
	got := read(t, s, alice, "main")
	equal(t, "kept", []secret.Text{"rt-1", "at-2"}, []secret.Text{got.RefreshToken, got.AccessToken})
}

func otherAccount(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at-1")))
	link := func(account string, refresh secret.Text) error {
		grant := grantOf(account, tokensOf(refresh, "at"))
		grant.UserID, grant.Provider = alice, "second"
		_, err := s.Connect(t.Context(), grant)
		return err
	}
	if err := link("a-at-second", "rt-a"); err != nil {
		t.Fatal(err)
	}
	want(t, "another account", link("b-at-second", "rt-b"), broker.ErrOtherAccount)
	equal(t, "the first stays", secret.Text("rt-a"), read(t, s, alice, "second").RefreshToken)
	if err := s.Disconnect(t.Context(), alice, "second"); err != nil {
		t.Fatal(err)
	}
	if err := link("b-at-second", "rt-b"); err != nil {
		t.Errorf("after a disconnect: %v", err)
	}

	// Two users may connect one external account; neither takes anything from the other.
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at-2")))
	shared := grantOf("b-at-second", tokensOf("rt-c", "at"))
	shared.UserID, shared.Provider = bob, "second"
	connect(t, s, shared)
	equal(t, "alice's", secret.Text("rt-b"), read(t, s, alice, "second").RefreshToken)

	gone := grantOf("x", tokensOf("rt", "at"))
	gone.UserID = "no such user"
	_, err := s.Connect(t.Context(), gone)
	want(t, "a user that is gone", err, broker.ErrSignInFirst)
}
