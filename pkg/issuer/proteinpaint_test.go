package issuer_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// clinical is an integration with two cohorts and two roles.
func clinical() *issuer.Integration {
	return &issuer.Integration{
		Dataset: "clinical", Cohorts: []issuer.Cohort{{ID: "trial-1", Label: "Trial 1"}, {ID: "trial-2"}}, Embedders: []string{"portal.example.org"},
		Roles: []issuer.Role{
			{Groups: []string{"pepkit"}, Result: map[string]any{"role": "admin"}},
			{Users: []string{"bob"}, Result: map[string]any{"role": "reader", "trial-1": map[string]any{"role": "admin"}}},
		},
	}
}

func proteinPaint(algorithm string, change ...func(*issuer.Integration)) issuer.Audience {
	of := clinical()
	for _, one := range change {
		one(of)
	}
	return issuer.Audience{Profile: issuer.ProfileProteinPaint, Algorithm: algorithm, Integration: of}
}

func TestProteinPaintProfile(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{
		"loose": proteinPaint(""), "strict": proteinPaint("", func(of *issuer.Integration) { of.IP = issuer.IPStrict }),
		"bare": proteinPaint("", func(of *issuer.Integration) { of.Cohorts, of.Roles = nil, nil }), "plain": {},
	}})
	for _, audience := range []string{"loose", "strict", "bare"} {
		if _, err := i.MakeAudienceKey(t.Context(), audience); err != nil {
			t.Fatal(err)
		}
	}
	home := netip.MustParseAddr("::ffff:192.0.2.7")
	bob := issuer.Person{ID: "u2", Username: "bob"}
	admin := map[string]any{"role": "admin"}
	for name, row := range map[string]struct {
		request  issuer.Request
		datasets []any
		email    string
		address  any
		result   any
		err      error
	}{
		"a person whose group has a role": {issuer.Request{Audience: "loose", Person: curator}, []any{"trial-1", "trial-2", "clinical"}, "a@example.org", nil, admin, nil},
		"one without an address": {
			issuer.Request{Audience: "loose", Person: bob}, []any{"trial-1", "trial-2", "clinical"}, "bob", nil, map[string]any{"role": "reader", "trial-1": admin}, nil,
		},
		"one without a role":                {issuer.Request{Audience: "bare", Person: bob}, []any{"clinical"}, "bob", nil, nil, nil},
		"narrowed":                          {issuer.Request{Audience: "loose", Person: curator, Datasets: []string{"trial-2"}}, []any{"trial-2"}, "a@example.org", nil, admin, nil},
		"a dataset too many":                {request: issuer.Request{Audience: "loose", Person: curator, Datasets: []string{"trial-2", "trial-3"}}, err: issuer.ErrDataset},
		"a dataset of no integration":       {request: issuer.Request{Audience: "plain", Person: curator, Datasets: []string{"trial-2"}}, err: issuer.ErrDataset},
		"strict, with the address":          {issuer.Request{Audience: "strict", Person: curator, Address: home}, []any{"trial-1", "trial-2", "clinical"}, "a@example.org", "192.0.2.7", admin, nil},
		"strict, without one":               {request: issuer.Request{Audience: "strict", Person: curator}, err: issuer.ErrAddress},
		"loose, where the request names it": {issuer.Request{Audience: "bare", Person: bob, Address: home}, []any{"clinical"}, "bob", "192.0.2.7", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := i.Mint(row.request)
			if !errors.Is(err, row.err) {
				t.Fatalf("got %v, want %v", err, row.err)
			}
			if err != nil {
				return
			}
			header, claims := ofParts(t, token.Value)
			if header["alg"] != "HS256" || header["typ"] != "JWT" {
				t.Errorf("the header is %v", header)
			}
			if life := claims["exp"].(float64) - claims["iat"].(float64); life != 300 {
				t.Errorf("it lives for %v s, want 300", life)
			}
			delete(claims, "exp")
			delete(claims, "iat")
			want := map[string]any{"datasets": row.datasets, "email": row.email, "iss": url, "jti": token.ID}
			for claim, value := range map[string]any{"ip": row.address, "clientAuthResult": row.result} {
				if value != nil {
					want[claim] = value
				}
			}
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Errorf("the claims (-want +got):\n%s", diff)
			}
		})
	}
	said, err := i.Preview("strict", 1)
	if err != nil || !strings.Contains(string(said), `"role":"reader"`) || !strings.Contains(string(said), `"exp":`) || !strings.Contains(string(said), `"ip":`) {
		t.Errorf("the preview: %s, %v", said, err)
	}
	if said, err := i.Preview("loose", -1); err != nil || strings.Contains(string(said), "clientAuthResult") {
		t.Errorf("the preview of no role: %s, %v", said, err)
	}
	for audience, role := range map[string]int{"plain": -1, "none": -1, "loose": 2} {
		if _, err := i.Preview(audience, role); !errors.Is(err, issuer.ErrAudience) {
			t.Errorf("a preview of %s, role %d: %v", audience, role, err)
		}
	}
}

// late is a store in which the key that another replica has made just now is not seen at first.
type late struct {
	*memory
	reads int
}

func (l *late) AudienceKeys(ctx context.Context) ([]issuer.AudienceKey, error) {
	if l.reads++; l.reads == 1 {
		return nil, nil
	}
	return l.memory.AudienceKeys(ctx)
}

// Two replicas that start at once make one key, and both have it.
func TestOneFirstKey(t *testing.T) {
	config := issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"own": proteinPaint(issuer.ES256)}}
	kept := &memory{}
	one, two := issuer.New(config, kept, time.Now), issuer.New(config, &late{memory: kept}, time.Now)
	var keys []string
	for _, replica := range []*issuer.Issuer{one, two} {
		if err := replica.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		published, err := replica.PublicKeys("own")
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, published...)
	}
	if len(kept.own) != 1 || len(keys) != 2 || keys[0] != keys[1] {
		t.Errorf("%d keys are kept, and the replicas have %q; want one, the same", len(kept.own), keys)
	}
}

// The public key of an integration exists from the start, and is replaced by an admin alone.
func TestPinnedKeys(t *testing.T) {
	for _, algorithm := range []string{issuer.ES256, issuer.RS256} {
		t.Run(algorithm, func(t *testing.T) {
			config := issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"own": proteinPaint(algorithm), "secret": proteinPaint("")}}
			kept := &memory{}
			one, two := issuer.New(config, kept, time.Now), issuer.New(config, kept, time.Now)
			for _, replica := range []*issuer.Issuer{one, two, one} {
				if err := replica.Maintain(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(kept.own) != 1 {
				t.Fatalf("%d keys were made, want one", len(kept.own))
			}
			verifies := func(token, text string) bool {
				block, _ := pem.Decode([]byte(text))
				public, err := x509.ParsePKIXPublicKey(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				_, err = jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(algorithm), public))
				return err == nil
			}
			first, err := two.PublicKeys("own")
			if err != nil || len(first) != 1 {
				t.Fatalf("the public keys: %v, %v", first, err)
			}
			token, err := one.Mint(issuer.Request{Audience: "own", Person: curator})
			if err != nil || !verifies(token.Value, first[0]) {
				t.Fatalf("minting: %v", err)
			}
			if _, err := one.Trial(issuer.Request{Audience: "own", Person: curator}); !errors.Is(err, issuer.ErrNoNext) {
				t.Errorf("a trial without a next key: %v", err)
			}
			next, err := one.MakeAudienceKey(t.Context(), "own")
			if err != nil || next.State() != issuer.Next {
				t.Fatal(err)
			}
			trial, err := one.Trial(issuer.Request{Audience: "own", Person: curator})
			if err != nil || !verifies(trial.Value, next.PEM()) || verifies(trial.Value, first[0]) {
				t.Errorf("the trial is not signed with the next key: %v", err)
			}
			if all, err := one.PublicKeys("own"); err != nil || len(all) != 2 || all[0] != first[0] || all[1] != next.PEM() {
				t.Errorf("beside the next one: %v, %v", all, err)
			}
			if _, err := one.PublicKeys("secret"); !errors.Is(err, issuer.ErrNotOwn) {
				t.Errorf("the public key of a secret: %v", err)
			}
		})
	}
}

// Every token ends, whatever its profile, its algorithm and what was asked for.
func TestLesson19EveryTokenEnds(t *testing.T) {
	audiences := map[string]issuer.Audience{}
	for _, profile := range issuer.Profiles() {
		for _, algorithm := range append([]string{issuer.HS256}, issuer.Algorithms...) {
			audience := issuer.Audience{Profile: profile, Algorithm: algorithm}
			if profile == issuer.ProfileProteinPaint {
				audience.Integration = clinical()
			} else {
				audience.APITokens = issuer.APITokens{JWT: true, MaxLifetime: 24 * time.Hour}
			}
			id := profile + "-" + algorithm
			if (issuer.Config{URL: url, Audiences: map[string]issuer.Audience{id: audience}}).Validate() == nil {
				audiences[id] = audience
			}
		}
	}
	if len(audiences) < 10 {
		t.Fatalf("%d audiences, want one for each profile and algorithm", len(audiences))
	}
	i := startedWith(t, issuer.Config{URL: url, Audiences: audiences})
	for id, audience := range audiences {
		t.Run(id, func(t *testing.T) {
			if _, err := i.MakeAudienceKey(t.Context(), id); audience.Algorithm == issuer.HS256 && err != nil {
				t.Fatal(err)
			}
			longest := 24 * time.Hour
			switch audience.Profile {
			case issuer.ProfileProteinPaint:
				longest = time.Hour
			case issuer.ProfilePEPhub:
				longest = 72 * time.Hour
			}
			for _, wanted := range []time.Duration{0, time.Second, 1000 * 24 * time.Hour} {
				token, err := i.Mint(issuer.Request{Audience: id, Person: curator, Lifetime: wanted})
				if err != nil {
					t.Fatal(err)
				}
				ends(t, token.Value, longest)
			}
			if !audience.APITokens.JWT {
				return
			}
			lasting, err := i.MintLasting(issuer.Request{Audience: id, Person: curator}, issuer.Lasting{ID: "x", ExpiresAt: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			ends(t, lasting.Value, time.Hour)
		})
	}
}

// ends wants a token to have an end that is not further than that.
func ends(t *testing.T, token string, longest time.Duration) {
	t.Helper()
	_, claims := ofParts(t, token)
	exp, ok := claims["exp"].(float64)
	if left := time.Until(time.Unix(int64(exp), 0)); !ok || left <= -time.Second || left > longest {
		t.Errorf("it ends in %s (exp is %v), want within %s", left, claims["exp"], longest)
	}
}

// What ProteinPaint would misread, or refuse for people later, is refused when the configuration is read.
func TestLesson25UnreadableSettingsAreRefused(t *testing.T) {
	for name, row := range map[string]struct {
		audience issuer.Audience
		want     string
	}{
		"EdDSA":                        {proteinPaint(issuer.EdDSA), `audiences.x.algorithm: is "EdDSA", want one of [HS256 RS256 ES256] for the profile proteinpaint: jsonwebtoken`},
		"no integration":               {issuer.Audience{Profile: issuer.ProfileProteinPaint}, "audiences.x.integration: is missing"},
		"another profile":              {issuer.Audience{Integration: clinical()}, "audiences.x.integration: is for the profile proteinpaint alone"},
		"no embedder":                  {proteinPaint("", func(i *issuer.Integration) { i.Embedders = nil }), "integration.embedders: is empty"},
		"an embedder with a scheme":    {proteinPaint("", func(i *issuer.Integration) { i.Embedders = []string{"https://portal.example.org"} }), "integration.embedders[0]"},
		"an embedder with a port":      {proteinPaint("", func(i *issuer.Integration) { i.Embedders = []string{"portal.example.org:8080"} }), "integration.embedders[0]"},
		"any embedder":                 {proteinPaint("", func(i *issuer.Integration) { i.Embedders = []string{"*"} }), "integration.embedders[0]"},
		"no dataset":                   {proteinPaint("", func(i *issuer.Integration) { i.Dataset = "" }), "integration.dataset"},
		"a cohort twice":               {proteinPaint("", func(i *issuer.Integration) { i.Cohorts[1].ID = "trial-1" }), "integration.cohorts[1].id"},
		"a role without a result":      {proteinPaint("", func(i *issuer.Integration) { i.Roles[1].Result = nil }), "integration.roles[1].result: is missing"},
		"a role of no user":            {proteinPaint("", func(i *issuer.Integration) { i.Roles[1].Users = nil }), "integration.roles[1]: matches no user"},
		"a role behind everyone":       {proteinPaint("", func(i *issuer.Integration) { i.Roles[0].Everyone = true }), "integration.roles[0]: matches everyone"},
		"another comparison":           {proteinPaint("", func(i *issuer.Integration) { i.IP = "tight" }), `integration.ip: is "tight"`},
		"a header across origins":      {proteinPaint("", func(i *issuer.Integration) { i.HeaderKey = "x-our-token" }), `integration.header_key: is "x-our-token", and pages of https://portal.example.org`},
		"an origin elsewhere":          {proteinPaint("", func(i *issuer.Integration) { i.Origins = []string{"https://evil.example"} }), "integration.origins[0]: the host"},
		"an origin in clear":           {proteinPaint("", func(i *issuer.Integration) { i.Origins = []string{"http://portal.example.org"} }), "integration.origins[0]: \"http://portal.example.org\" is not encrypted"},
		"an origin with a path":        {proteinPaint("", func(i *issuer.Integration) { i.Origins = []string{"https://portal.example.org/"} }), "integration.origins[0]: is"},
		"an instance without a scheme": {proteinPaint("", func(i *issuer.Integration) { i.InstanceURL = "pp.example.org" }), "integration.instance_url"},
		"tokens of two hours":          {issuer.Audience{Profile: issuer.ProfileProteinPaint, MaxLifetime: 2 * time.Hour, Integration: clinical()}, "audiences.x.max_lifetime: is 2h0m0s, want 1s to 1h0m0s"},
		"API tokens that are JWTs": {
			issuer.Audience{Profile: issuer.ProfileProteinPaint, APITokens: issuer.APITokens{JWT: true}, Integration: clinical()}, "audiences.x.api_tokens.jwt: is not for the profile",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"x": row.audience}}.Validate()
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	for name, good := range map[string]issuer.Audience{
		"as it is": proteinPaint(""), "a header within one origin": proteinPaint("", func(i *issuer.Integration) {
			i.HeaderKey, i.InstanceURL = "x-our-token", "https://portal.example.org:443/proteinpaint"
		}),
		"a portal on this machine": proteinPaint("", func(i *issuer.Integration) {
			i.Embedders, i.Origins = []string{"localhost", "127.0.0.1"}, []string{"http://localhost:3000", "http://127.0.0.1:3000"}
		}),
		"a header of the list": proteinPaint(issuer.RS256, func(i *issuer.Integration) { i.HeaderKey = "X-Auth-Token" }),
	} {
		if err := (issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"x": good}}).Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
