package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// TokenKeeper keeps API tokens and the resources that have some.
type TokenKeeper interface {
	apitoken.Store
	apitoken.Uses
	apitoken.Resources
}

func digestOf(name string) apitoken.Digest { return apitoken.DigestOf(name) }

func tokenOf(id, userID string) apitoken.Token {
	return apitoken.Token{
		ID: id, Kind: apitoken.Personal, UserID: userID, Audience: "storage", Name: "a name", Description: "two\nlines", Scopes: []string{"read", "write"},
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, CreatedAt: now(), ExpiresAt: now().Add(time.Hour),
		Values: []apitoken.Value{{Digest: digestOf(id), Suffix: "abcd", CreatedAt: now()}},
	}
}

func create(t *testing.T, s Store, token apitoken.Token) apitoken.Token {
	t.Helper()
	if err := s.CreateToken(t.Context(), token, apitoken.Most{All: 100}); err != nil {
		t.Fatal(err)
	}
	return token
}

func putResource(t *testing.T, s Store, audience, id string) {
	t.Helper()
	if err := s.PutResource(t.Context(), apitoken.ResourceInfo{Audience: audience, ID: id, Name: "The " + id}); err != nil {
		t.Fatal(err)
	}
}

func tokenComesBack(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	personal := create(t, s, tokenOf("t1", alice))
	endless := tokenOf("t2", alice)
	putResource(t, s, "storage", "plugin")
	endless.Kind, endless.Resource, endless.ExpiresAt, endless.Networks, endless.Scopes = apitoken.Resource, "plugin", time.Time{}, nil, nil
	create(t, s, endless)
	for name, want := range map[string]apitoken.Token{"t1": personal, "t2": endless} {
		got, err := s.Token(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name, want, got)
		if got, err = s.TokenOf(t.Context(), digestOf(name)); err != nil {
			t.Fatal(err)
		}
		equal(t, name+" by its value", want, got)
	}
	_, err := s.Token(t.Context(), "t3")
	want(t, "an id that is none", err, apitoken.ErrUnknown)
	_, err = s.TokenOf(t.Context(), digestOf("t3"))
	want(t, "a value that is none", err, apitoken.ErrUnknown)
	_, err = s.UpdateToken(t.Context(), "t3", func(token apitoken.Token, _ time.Time) (apitoken.Token, error) { return token, nil })
	want(t, "changing what is not there", err, apitoken.ErrUnknown)
}

func tokensListed(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt-1", "at")))
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at")))
	for i := range 5 {
		token := tokenOf(fmt.Sprint("a", i), alice)
		token.CreatedAt = now().Add(time.Duration(i) * time.Second)
		create(t, s, token)
	}
	create(t, s, tokenOf("b0", bob))
	putResource(t, s, "storage", "plugin")
	plugin := tokenOf("p0", bob)
	plugin.Kind, plugin.Resource = apitoken.Resource, "plugin"
	create(t, s, plugin)
	ids := func(filter apitoken.Filter) (ids []string) {
		t.Helper()
		tokens, err := s.Tokens(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range tokens {
			if len(token.Values) != 1 || token.Values[0].Digest != digestOf(token.ID) {
				t.Errorf("%s came with the values %v", token.ID, token.Values)
			}
			ids = append(ids, token.ID)
		}
		return ids
	}
	equal(t, "alice's", []string{"a4", "a3", "a2", "a1", "a0"}, ids(apitoken.Filter{UserID: alice}))
	equal(t, "a page", []string{"a4", "a3"}, ids(apitoken.Filter{UserID: alice, Limit: 2}))
	equal(t, "the next", []string{"a2", "a1"}, ids(apitoken.Filter{UserID: alice, Limit: 2, After: "a3"}))
	equal(t, "bob's, without those of a resource", []string{"b0"}, ids(apitoken.Filter{UserID: bob}))
	equal(t, "the resource's", []string{"p0"}, ids(apitoken.Filter{Audience: "storage", Resource: "plugin"}))
	equal(t, "another resource's", []string(nil), ids(apitoken.Filter{Audience: "other", Resource: "plugin"}))
	if err := s.Used(t.Context(), "a1", now().Add(time.Hour), "192.0.2.1", time.Minute); err != nil {
		t.Fatal(err)
	}
	equal(t, "unused", []string{"a4", "a3", "a2", "a0"}, ids(apitoken.Filter{UserID: alice, UnusedSince: now().Add(time.Minute)}))
}

func tokenRotates(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	create(t, s, tokenOf("t1", alice))
	until := now().Add(time.Hour)
	rotated, err := s.UpdateToken(t.Context(), "t1", func(token apitoken.Token, at time.Time) (apitoken.Token, error) {
		token.Values[0].Until = until
		token.Values = append([]apitoken.Value{{Digest: digestOf("next"), Suffix: "wxyz", CreatedAt: at}}, token.Values...)
		return token, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"next", "t1"} {
		got, err := s.TokenOf(t.Context(), digestOf(value))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Values) != 2 || got.Values[0].Digest != digestOf("next") || !got.Values[0].Until.IsZero() || got.Values[1].Digest != digestOf("t1") || !got.Values[1].Until.Equal(until) {
			t.Errorf("by %s: got %+v, want the new value and the old one with its end", value, got.Values)
		}
		equal(t, "what the change returned", rotated.Values, got.Values)
	}
	// A replica whose clock is ahead made the old value: the one without an end counts.
	skewed := tokenOf("t2", alice)
	skewed.Values[0].CreatedAt = now().Add(time.Hour)
	create(t, s, skewed)
	if _, err := s.UpdateToken(t.Context(), "t2", func(token apitoken.Token, at time.Time) (apitoken.Token, error) {
		token.Values[0].Until = until
		token.Values = append(token.Values, apitoken.Value{Digest: digestOf("t2 next"), Suffix: "wxyz", CreatedAt: at})
		return token, nil
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Token(t.Context(), "t2"); err != nil || got.Values[0].Digest != digestOf("t2 next") {
		t.Errorf("got %+v, %v; want the value without an end first", got.Values, err)
	}
	// A value that is left out is gone.
	if _, err := s.UpdateToken(t.Context(), "t2", func(token apitoken.Token, _ time.Time) (apitoken.Token, error) {
		token.Values = token.Values[:1]
		return token, nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err = s.TokenOf(t.Context(), digestOf("t2"))
	want(t, "a value that was left out", err, apitoken.ErrUnknown)
	refused := errors.New("not now")
	_, err = s.UpdateToken(t.Context(), "t1", func(token apitoken.Token, _ time.Time) (apitoken.Token, error) {
		token.Name = "changed"
		return token, refused
	})
	want(t, "a change that is refused", err, refused)
	if got, err := s.Token(t.Context(), "t1"); err != nil || got.Name != "a name" {
		t.Errorf("got %q, %v; want the name as it was", got.Name, err)
	}
}

func usesNoted(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	create(t, s, tokenOf("t1", alice))
	first := now().Add(time.Hour)
	for _, use := range []struct {
		after time.Duration
		from  string
		want  time.Duration
	}{{0, "192.0.2.1", 0}, {59 * time.Second, "192.0.2.2", 0}, {time.Minute, "192.0.2.3", time.Minute}, {30 * time.Second, "192.0.2.4", time.Minute}} {
		if err := s.Used(t.Context(), "t1", first.Add(use.after), use.from, time.Minute); err != nil {
			t.Fatal(err)
		}
		got, err := s.Token(t.Context(), "t1")
		if err != nil || !got.LastUsedAt.Equal(first.Add(use.want)) {
			t.Errorf("used after %s: noted %s, %v; want %s", use.after, got.LastUsedAt, err, first.Add(use.want))
		}
	}
	// A change of the token takes no use back that was noted while it was under way.
	_, err := s.UpdateToken(t.Context(), "t1", func(token apitoken.Token, _ time.Time) (apitoken.Token, error) {
		token.LastUsedAt, token.Name = time.Time{}, "renamed"
		return token, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Token(t.Context(), "t1"); err != nil || got.LastUsedAt.IsZero() || got.Name != "renamed" {
		t.Errorf("got %+v, %v; want the name changed and the use kept", got, err)
	}
}

func asManyTokensAsMayBe(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	expired := tokenOf("expired", alice)
	expired.ExpiresAt = now().Add(-time.Minute)
	create(t, s, expired)
	create(t, s, tokenOf("revoked", alice))
	if _, err := s.UpdateToken(t.Context(), "revoked", func(token apitoken.Token, at time.Time) (apitoken.Token, error) {
		token.RevokedAt, token.RevokedBy = at, "alice"
		return token, nil
	}); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			switch err := s.CreateToken(context.Background(), tokenOf(fmt.Sprint("t", i), alice), apitoken.Most{All: 3}); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, apitoken.ErrFull):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 3 {
		t.Errorf("%d tokens were made at once, want as many as may be active, 3", made.Load())
	}
	alike := tokenOf("alike", alice)
	want(t, "a fourth of an audience and a format", s.CreateToken(t.Context(), alike, apitoken.Most{All: 9, Alike: 3}), apitoken.ErrFull)
	alike.Format = apitoken.JWT
	want(t, "the first of another format", s.CreateToken(t.Context(), alike, apitoken.Most{All: 9, Alike: 1}), nil)
}

func resourcesKept(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	put := func(id string, maintainers ...string) {
		t.Helper()
		info := apitoken.ResourceInfo{Audience: "sites", ID: id, Name: "The " + id}
		for _, name := range maintainers {
			info.Maintainers = append(info.Maintainers, apitoken.Maintainer{Username: name})
		}
		if err := s.PutResource(t.Context(), info); err != nil {
			t.Fatal(err)
		}
	}
	maintainers := func() []apitoken.Maintainer {
		t.Helper()
		info, err := s.Resource(t.Context(), "sites", "plugin")
		if err != nil || info.Name != "The plugin" {
			t.Fatalf("got %+v, %v; want The plugin", info, err)
		}
		return info.Maintainers
	}
	ids := func(userID string) (ids []string) {
		t.Helper()
		all, err := s.ResourcesOf(t.Context(), userID)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range all {
			ids = append(ids, info.ID)
		}
		return ids
	}
	put("plugin", "alice", "bob")
	equal(t, "a name that nobody has logged in by", []apitoken.Maintainer{{Username: "alice", UserID: alice}, {Username: "bob"}}, maintainers())
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at")))
	equal(t, "who has logged in since", []apitoken.Maintainer{{Username: "alice", UserID: alice}, {Username: "bob", UserID: bob}}, maintainers())
	put("other", "bob")
	put("orphan")
	equal(t, "alice's", []string{"plugin"}, ids(alice))
	equal(t, "bob's", []string{"other", "plugin"}, ids(bob))
	equal(t, "nobody's", []string{"orphan"}, ids(""))
	if err := s.SetDisabled(t.Context(), "bob", true); err != nil {
		t.Fatal(err)
	}
	equal(t, "nobody's who may log in", []string{"orphan", "other"}, ids(""))
	put("plugin", "alice")
	equal(t, "bob is taken out", []apitoken.Maintainer{{Username: "alice", UserID: alice}}, maintainers())
	_, err := s.Resource(t.Context(), "other-audience", "plugin")
	want(t, "of another audience", err, apitoken.ErrUnknown)

	// The name alice comes back with another subject: what was bound to the first one is not the second one's.
	second := grantOf("alice", tokensOf("rt-3", "at"))
	second.Identity.Subject = "another"
	stored, err := s.Connect(t.Context(), second)
	if err != nil || stored.UserID == alice {
		t.Fatalf("got %s, %v; want another user", stored.UserID, err)
	}
	equal(t, "the second alice's", []string(nil), ids(stored.UserID))
	put("plugin", "alice")
	equal(t, "who stays keeps the user", []apitoken.Maintainer{{Username: "alice", UserID: alice}}, maintainers())
	_, err = s.EditResource(t.Context(), "sites", "plugin", func(info apitoken.ResourceInfo) (apitoken.ResourceInfo, error) {
		equal(t, "what is edited", []apitoken.Maintainer{{Username: "alice", UserID: alice}}, info.Maintainers)
		info.Maintainers = append(info.Maintainers, apitoken.Maintainer{Username: "carol"})
		return info, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "after an edit", []apitoken.Maintainer{{Username: "alice", UserID: alice}, {Username: "carol"}}, maintainers())
	no := errors.New("not now")
	_, err = s.EditResource(t.Context(), "sites", "plugin", func(info apitoken.ResourceInfo) (apitoken.ResourceInfo, error) {
		info.Maintainers = nil
		return info, no
	})
	want(t, "an edit that is refused", err, no)
	equal(t, "after it", []apitoken.Maintainer{{Username: "alice", UserID: alice}, {Username: "carol"}}, maintainers())
	_, err = s.EditResource(t.Context(), "sites", "none", func(info apitoken.ResourceInfo) (apitoken.ResourceInfo, error) { return info, nil })
	want(t, "an edit of what is not there", err, apitoken.ErrUnknown)
}

func claimsKept(t *testing.T, s Store) {
	grant := grantOf("alice", tokensOf("rt", "at"))
	grant.Identity.Groups = []string{"staff", "a group"}
	alice := connect(t, s, grant)
	got, err := s.Claims(t.Context(), alice)
	if err != nil || got.At.IsZero() || got.Subject != grant.Identity.Subject {
		t.Fatalf("got %+v, %v; want what the login said, and when", got, err)
	}
	equal(t, "of the login", grant.Identity.Groups, got.Groups)
	later := broker.Claims{Groups: []string{}, At: got.At.Add(time.Minute)}
	for _, claims := range []broker.Claims{later, {Groups: []string{"older"}, At: got.At.Add(time.Second)}} {
		if err := s.SetClaims(t.Context(), alice, claims); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = s.Claims(t.Context(), alice); err != nil || len(got.Groups) != 0 || !got.At.Equal(later.At) {
		t.Errorf("got %+v, %v; want the newest word, that there are none", got, err)
	}
	bob := connect(t, s, grantOf("bob", tokensOf("rt-2", "at")))
	if got, err = s.Claims(t.Context(), bob); err != nil || !got.At.IsZero() || got.Groups != nil {
		t.Errorf("got %+v, %v; want nothing said", got, err)
	}
}
