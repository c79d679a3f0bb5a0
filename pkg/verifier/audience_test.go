package verifier_test

import (
	"errors"
	"testing"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// A token whose other readers accept no aud says in another claim whom it is for.
func TestWithAudienceClaim(t *testing.T) {
	a := newAuthority(t)
	v := newVerifier(t, a, verifier.WithAudienceClaim("audience"), verifier.WithTypes("pephub+jwt"))
	plain := newVerifier(t, a, verifier.WithTypes("pephub+jwt"))
	for name, row := range map[string]struct {
		claims object
		want   error
	}{
		"for this one":              {object{"aud": nil, "audience": audience}, nil},
		"for this one among others": {object{"aud": nil, "audience": []string{"x", audience}}, nil},
		"for another":               {object{"aud": nil, "audience": "other"}, verifier.ErrAudience},
		"for none":                  {object{"aud": nil}, verifier.ErrAudience},
		"for null":                  {object{"aud": nil, "audience": []any{nil}}, verifier.ErrAudience},
		"by another name":           {object{"aud": nil, "Audience": audience}, verifier.ErrAudience},
		"for a number":              {object{"aud": nil, "audience": 7}, verifier.ErrMalformed},
		"by aud alone":              {object{"aud": audience}, verifier.ErrAudience},
		"by both":                   {object{"aud": audience, "audience": audience}, nil},
		"aud says another":          {object{"aud": "other", "audience": audience}, verifier.ErrAudience},
		"aud says another, in caps": {object{"aud": nil, "AUD": "other", "audience": audience}, verifier.ErrAudience},
		"aud says none":             {object{"aud": []string{}, "audience": audience}, verifier.ErrAudience},
		"the claim says another":    {object{"aud": audience, "audience": "other"}, verifier.ErrAudience},
	} {
		t.Run(name, func(t *testing.T) {
			token := forge(object{"alg": "ES256", "kid": "ec", "typ": "pephub+jwt"}, a.claims(row.claims), a.keys["ec"])
			for range 2 { // the second time from memory
				claims, err := v.Verify(t.Context(), token)
				if !errors.Is(err, row.want) {
					t.Fatalf("got %v, want %v", err, row.want)
				}
				if err == nil && claims.Audience[len(claims.Audience)-1] != audience {
					t.Errorf("the claims say the audience is %q", claims.Audience)
				}
			}
			if _, err := plain.Verify(t.Context(), token); row.claims["aud"] != audience && err == nil {
				t.Error("a verifier of aud takes a token that has none for it")
			}
		})
	}
}

func TestAudienceClaimAndAnyAudienceContradict(t *testing.T) {
	if _, err := verifier.New(t.Context(), "https://wts", "", verifier.AnyAudience(), verifier.WithAudienceClaim("audience")); err == nil {
		t.Error("both are accepted")
	}
}
