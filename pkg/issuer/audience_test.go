package issuer_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// startedWith is an issuer of a configuration, with its first keys.
func startedWith(t *testing.T, config issuer.Config) *issuer.Issuer {
	t.Helper()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	i := issuer.New(config, &memory{}, time.Now)
	if err := i.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	return i
}

// Who may have an audience's tokens, and with which scopes: the rules that a user matches add up, and less is never
// given in the place of more.
func TestWhoMayHaveATokenForAnAudience(t *testing.T) {
	audience := issuer.Audience{Scopes: []string{"read", "write", "admin"}, Access: []issuer.Access{
		{Users: []string{"alice"}},
		{Groups: []string{"staff", "curators"}, Scopes: []string{"write"}},
		{Groups: []string{"readers"}, Scopes: []string{"read"}},
	}}
	open := issuer.Audience{Scopes: []string{"read"}}
	public := issuer.Audience{Scopes: []string{"read", "write"}, Access: []issuer.Access{{Everyone: true, Scopes: []string{"read"}}}}
	i := startedWith(t, issuer.Config{Audiences: map[string]issuer.Audience{"a": audience, "open": open, "public": public}})
	for name, row := range map[string]struct {
		audience, username string
		groups, scopes     []string
		want               error
	}{
		"a user by name has all":                  {audience: "a", username: "alice", scopes: []string{"read", "write", "admin"}},
		"a name is not a group":                   {audience: "a", username: "bob", groups: []string{"alice"}, want: issuer.ErrAccess},
		"a group is not a name":                   {audience: "a", username: "staff", want: issuer.ErrAccess},
		"no rule matches":                         {audience: "a", username: "bob", want: issuer.ErrAccess},
		"no rule matches, and a scope is asked":   {audience: "a", username: "bob", scopes: []string{"read"}, want: issuer.ErrAccess},
		"a group has its scope":                   {audience: "a", username: "bob", groups: []string{"staff"}, scopes: []string{"write"}},
		"a group has no other scope":              {audience: "a", username: "bob", groups: []string{"staff"}, scopes: []string{"read"}, want: issuer.ErrAccess},
		"two groups add up":                       {audience: "a", username: "bob", groups: []string{"readers", "curators"}, scopes: []string{"read", "write"}},
		"two groups add up to no third scope":     {audience: "a", username: "bob", groups: []string{"readers", "curators"}, scopes: []string{"admin"}, want: issuer.ErrAccess},
		"a scope that the audience does not have": {audience: "a", username: "alice", scopes: []string{"delete"}, want: issuer.ErrScope},
		"a scope twice":                           {audience: "a", username: "alice", scopes: []string{"read", "read"}},
		"no rule at all":                          {audience: "open", username: "bob", scopes: []string{"read"}},
		"everyone has its scope":                  {audience: "public", username: "bob", scopes: []string{"read"}},
		"everyone has no other":                   {audience: "public", username: "bob", scopes: []string{"write"}, want: issuer.ErrAccess},
		"no scope is asked":                       {audience: "public", username: "bob"},
		"no such audience":                        {audience: "b", username: "alice", want: issuer.ErrAudience},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := i.Mint(issuer.Request{Audience: row.audience, Person: issuer.Person{ID: "u1", Username: row.username, Groups: row.groups}, Scopes: row.scopes})
			if !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			if err != nil {
				return
			}
			if scope, _ := part(t, token.Value, 1)["scope"].(string); scope != strings.Join(row.scopes, " ") {
				t.Errorf("got the scope %v, want what was asked for, %v", scope, row.scopes)
			}
		})
	}
}

// Each profile says what its verifiers want, and is signed by what they know.
func TestProfiles(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: "https://wts", Audiences: map[string]issuer.Audience{
		"standard": {Scopes: []string{"read"}}, "resource": {Profile: issuer.ProfileResource, Scopes: []string{"read"}}, "gen3": {Profile: issuer.ProfileGen3, Scopes: []string{"read"}},
	}})
	for name, row := range map[string]struct {
		algorithm string
		want      map[string]any
	}{
		"standard": {issuer.ES256, map[string]any{"scope": "read"}},
		"resource": {issuer.RS256, map[string]any{"scope": "read", "token_type": "access", "user_id": "u1", "resource": "plugin-7", "plugin_id": "plugin-7"}},
		"gen3": {issuer.RS256, map[string]any{
			"scope": []any{"openid", "read"}, "pur": "access", "azp": "pod", "context": map[string]any{"user": map[string]any{"name": "alice"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			request := issuer.Request{Audience: name, Person: issuer.Person{ID: "u1", Username: "alice"}, ClientID: "pod", Scopes: []string{"read"}}
			if name == "resource" {
				request.Resource = "plugin-7"
			}
			token, err := i.Mint(request)
			if err != nil {
				t.Fatal(err)
			}
			got := part(t, token.Value, 1)
			for _, common := range []string{"iss", "sub", "aud", "client_id", "iat", "exp", "jti", "preferred_username"} {
				if got[common] == nil {
					t.Errorf("%s is missing", common)
				}
				delete(got, common)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Error(diff)
			}
			if head := part(t, token.Value, 0); head["alg"] != row.algorithm || head["typ"] != "at+jwt" {
				t.Errorf("got the header %v, want %s and at+jwt", head, row.algorithm)
			}
		})
	}
}

func TestFaultsOfAnAudience(t *testing.T) {
	for name, row := range map[string]struct {
		audience issuer.Audience
		want     string
	}{
		"a profile that is none":             {issuer.Audience{Profile: "pephub2"}, "audiences.x.profile"},
		"an algorithm its verifiers lack":    {issuer.Audience{Profile: "gen3", Algorithm: "ES256"}, "audiences.x.algorithm"},
		"a rule that matches no user":        {issuer.Audience{Access: []issuer.Access{{}}}, "audiences.x.access[0]"},
		"a rule with a scope of no audience": {issuer.Audience{Scopes: []string{"a"}, Access: []issuer.Access{{Everyone: true, Scopes: []string{"b"}}}}, "audiences.x.access[0].scopes"},
		"a scope with a blank":               {issuer.Audience{Scopes: []string{"a b"}}, "audiences.x.scopes[0]"},
		"an empty scope":                     {issuer.Audience{Scopes: []string{""}}, "audiences.x.scopes[0]"},
		"JWTs for longer than 400 days":      {issuer.Audience{APITokens: issuer.APITokens{JWT: true, MaxLifetime: 500 * 24 * time.Hour}}, "audiences.x.api_tokens.max_lifetime"},
		"API tokens for seconds":             {issuer.Audience{APITokens: issuer.APITokens{MaxLifetime: time.Second}}, "audiences.x.api_tokens.max_lifetime"},
		"a default beyond the maximum":       {issuer.Audience{APITokens: issuer.APITokens{MaxLifetime: time.Hour, DefaultLifetime: 2 * time.Hour}}, "audiences.x.api_tokens.default_lifetime"},
		"a token unseen before it was made":  {issuer.Audience{APITokens: issuer.APITokens{MaxUnseen: -1}}, "audiences.x.api_tokens.max_unseen"},
	} {
		t.Run(name, func(t *testing.T) {
			err := issuer.Config{Audiences: map[string]issuer.Audience{"x": row.audience}}.Validate()
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want a fault of %s", err, row.want)
			}
		})
	}
}

// A list of a million tokens of which one in a hundred has ended is small.
func TestTheStatusListOfAMillionTokens(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: "https://wts"})
	list := make([]byte, issuer.StatusListSize/8)
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		n := random.IntN(1_000_000)
		list[n/8] |= 1 << (n % 8)
	}
	token, err := i.SignStatusList(3, list)
	if err != nil {
		t.Fatal(err)
	}
	if len(token) >= 30_000 {
		t.Errorf("it has %d bytes, want less than 30,000", len(token))
	}
	if head, claims := part(t, token, 0), part(t, token, 1); head["typ"] != "statuslist+jwt" || claims["sub"] != "https://wts/status/3" {
		t.Errorf("got %v, %v; want a status list of that name", head, claims)
	}
}

// A scope is a word as RFC 6749 3.3 has it: what is one survives being joined and split.
func FuzzScope(f *testing.F) {
	for _, text := range []string{"read", "provider:commons", "a b", `"`, "", "é"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := issuer.Config{Audiences: map[string]issuer.Audience{"a": {Scopes: []string{text}}}}.Validate()
		words := strings.Fields("first " + text + " last")
		if err == nil && (len(words) != 3 || words[1] != text) {
			t.Errorf("%q is a scope, and splits into %q", text, words)
		}
	})
}
