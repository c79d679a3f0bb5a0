package grant_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// failing keeps one authorization and one login, and fails where it is told to.
type failing struct {
	authorization          grant.Authorization
	login                  grant.Login
	ends, rotates, creates error
	ended                  int
}

func (*failing) CreateAuthorization(context.Context, grant.Authorization) error { return nil }

func (f *failing) Authorization(context.Context, grant.Digest) (grant.Authorization, error) {
	return f.authorization, nil
}

func (f *failing) Waiting(context.Context, grant.Digest) (grant.Authorization, error) {
	return f.authorization, nil
}

func (*failing) Decide(context.Context, grant.Digest, grant.State, string, time.Time) error {
	return nil
}

func (f *failing) Spend(context.Context, grant.Digest, *grant.Digest) (grant.Authorization, error) {
	return f.authorization, nil
}

func (f *failing) CreateLogin(context.Context, grant.Login, int) error { return f.creates }

func (f *failing) Login(context.Context, grant.Digest) (grant.Login, error) { return f.login, nil }

func (f *failing) RotateLogin(context.Context, grant.Digest, grant.Digest, grant.Digest, time.Time, time.Time) error {
	return f.rotates
}

func (f *failing) EndLogin(context.Context, grant.Digest) error {
	f.ended++
	return f.ends
}

// willing gives everybody every token.
type willing struct{}

func (willing) Audience(string) bool               { return true }
func (willing) Groups(string) (asked, decide bool) { return false, false }

func (willing) Allow(string, issuer.Person, []string) error { return nil }

func (willing) Narrow(_ string, _ *issuer.Person, scopes []string) ([]string, error) {
	return scopes, nil
}

func (willing) Mint(issuer.Request) (issuer.Token, error) { return issuer.Token{Value: "token"}, nil }

func (willing) Now(context.Context, string, bool, time.Duration) (issuer.Person, error) {
	return issuer.Person{ID: "u"}, nil
}

func serviceOf(f *failing) *grant.Service {
	return grant.New(grant.Parts{
		Config: grant.Config{Clients: map[string]grant.Client{"c": {Audiences: []string{"a"}, Refresh: true, RedirectURIs: []string{"https://c"}}}},
		Store:  f, Logins: f, Audiences: willing{}, People: willing{}, Now: time.Now,
	})
}

// An outage is told as one: no client keeps a token that was not stored, and no thief's login goes on unseen.
func TestOutagesAreTold(t *testing.T) {
	away := errors.Join(grant.ErrUnavailable, errors.New("the database"))
	const secret = "BBBBBBBBBBBBBBBBBBBBBBBBBB"
	token := "wtsl_" + strings.Repeat("A", 26) + secret
	login := grant.Login{Client: "c", Audience: "a", UserID: "u", Secret: grant.DigestOf(secret), EndsAt: time.Now().Add(time.Hour), CreatedAt: time.Now()}

	f := &failing{login: login, rotates: away}
	if got, err := serviceOf(f).Refresh(t.Context(), "c", token, nil); !errors.Is(err, grant.ErrUnavailable) || f.ended != 0 {
		t.Errorf("a rotation that is not stored: %+v, %v, %d ended; want an outage, and the login as it was", got, err, f.ended)
	}
	f = &failing{login: login, rotates: grant.ErrReplayed}
	if _, err := serviceOf(f).Refresh(t.Context(), "c", token, nil); !errors.Is(err, grant.ErrReplayed) || f.ended != 1 {
		t.Errorf("another one came first: %v, %d ended; want that the login was", err, f.ended)
	}
	login.Secret = grant.DigestOf("another")
	f = &failing{login: login, ends: away}
	if _, err := serviceOf(f).Refresh(t.Context(), "c", token, nil); !errors.Is(err, grant.ErrReplayed) || !errors.Is(err, grant.ErrUnavailable) {
		t.Errorf("a replay whose login cannot be ended: %v, want both", err)
	}
	began := grant.Digest{1}
	f = &failing{ends: away, authorization: grant.Authorization{
		State: grant.Spent, Client: "c", Audience: "a", RedirectURI: "https://c", Challenge: grant.ChallengeOf("v"), Login: &began, ExpiresAt: time.Now().Add(time.Minute),
	}}
	if _, err := serviceOf(f).Exchange(t.Context(), "c", "code", "https://c", "v"); !errors.Is(err, grant.ErrGrant) || !errors.Is(err, grant.ErrUnavailable) || f.ended != 1 {
		t.Errorf("a code that comes again, whose login cannot be ended: %v, want both", err)
	}
	f = &failing{creates: away, authorization: grant.Authorization{State: grant.Allowed, Client: "c", Audience: "a", RedirectURI: "https://c", Challenge: grant.ChallengeOf("v"), ExpiresAt: time.Now().Add(time.Minute)}}
	if got, err := serviceOf(f).Exchange(t.Context(), "c", "code", "https://c", "v"); !errors.Is(err, grant.ErrUnavailable) {
		t.Errorf("a login that is not stored: %+v, %v; want an outage", got, err)
	}
	f.creates, f.ends, f.authorization.State, f.authorization.Login = nil, away, grant.Spent, &began
	// Who has the code alone ends nothing.
	if _, err := serviceOf(f).Exchange(t.Context(), "c", "code", "https://c", "w"); !errors.Is(err, grant.ErrGrant) || f.ended != 0 {
		t.Errorf("a code that comes again without its verifier: %v, %d ended; want that nothing is", err, f.ended)
	}
	f = &failing{login: grant.Login{UserID: "u", Client: "c"}, ends: away}
	if _, err := serviceOf(f).Revoke(t.Context(), token); !errors.Is(err, grant.ErrUnavailable) {
		t.Errorf("a revocation that is not stored: %v, want an outage", err)
	}
}
