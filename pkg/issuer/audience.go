package issuer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Audience is a resource service that is registered to receive our tokens. What it says is decided in one place, Mint,
// whichever way a token is asked for.
type Audience struct {
	// Profile is what its tokens say beside who they are for: standard (the default), resource, gen3, pephub or
	// proteinpaint; see docs/tokens.md.
	Profile string `config:"profile"`
	// Algorithm signs its tokens. Default ES256; RS256 for gen3, HS256 for pephub and proteinpaint.
	Algorithm string `config:"algorithm"`
	// SigningSecret is what signs its tokens by HS256 where the resource service chose it; SigningSecretFile names a file
	// that holds it, and wins. Without one a secret is made here, and shown once.
	SigningSecret     secret.Text `config:"signing_secret"`
	SigningSecretFile string      `config:"signing_secret_file"`
	// MaxLifetime bounds a token's life; DefaultLifetime holds where the caller asks for none.
	// Defaults: 1 hour, and 10 minutes.
	MaxLifetime     time.Duration `config:"max_lifetime"`
	DefaultLifetime time.Duration `config:"default_lifetime"`
	// Scopes are those that may be asked for. A token holds none that was not asked for.
	Scopes []string `config:"scopes"`
	// Access says who may have its tokens, and which scopes they get: the rules that a user matches add up. Without a
	// rule every user may have all of them.
	Access []Access `config:"access"`
	// APITokens is what may be made for it that lives long.
	APITokens APITokens `config:"api_tokens"`
	// Secret is that of the resource service itself, with which it says who maintains its resources; SecretFile names a
	// file that holds it, and wins. Without one it cannot.
	Secret     secret.Text `config:"secret"`
	SecretFile string      `config:"secret_file"`
	// Integration is the dataset of a ProteinPaint server, for the profile proteinpaint and no other.
	Integration *Integration `config:"integration"`
}

// Access is one rule of who may have an audience's tokens.
type Access struct {
	// Everyone, Users (by username) or Groups (by the provider's groups_claim).
	Everyone bool     `config:"everyone"`
	Users    []string `config:"users"`
	Groups   []string `config:"groups"`
	// Scopes of the audience's that they get; all of them where it is left out.
	Scopes []string `config:"scopes"`
}

// APITokens says which API tokens may be made for an audience.
type APITokens struct {
	// Personal tokens act for the user who made them; Resource ones belong to a resource of the audience. None may be
	// made unless told otherwise.
	Personal bool `config:"personal"`
	Resource bool `config:"resource"`
	// DefaultLifetime (30 days) and MaxLifetime (a year) of a token.
	DefaultLifetime time.Duration `config:"default_lifetime"`
	MaxLifetime     time.Duration `config:"max_lifetime"`
	// Endless lets opaque tokens of resources have no end.
	Endless bool `config:"endless"`
	// JWT lets tokens be made that a service verifies offline, for at most 400 days.
	JWT bool `config:"jwt"`
	// MaxUnseen is for how long personal tokens go on after their user's grant has run out by time. Default 90 days.
	MaxUnseen time.Duration `config:"max_unseen"`
}

// OwnAudience is the audience of tokens that are for wts itself: API tokens, and those of programs that a person let in.
const OwnAudience = "wts"

// The scopes of it. ScopeToken is for tokens that wts mints, provider:<id> for a provider's; the others are for a program
// that sees its person's tokens, resources and sessions, that changes and ends them, or that makes tokens which go on
// when its own login has ended.
const (
	ScopeToken     = "token"
	ScopeAPIRead   = "api:read"
	ScopeAPI       = "api"
	ScopeAPICreate = "api:create"
)

// Own is the audience as it is where an operator does not write one: all that a person's own program may want, each by
// a scope that it has to ask for. It takes no API tokens: those are the operator's to allow.
func Own(providers []string) Audience {
	own := Audience{Scopes: []string{ScopeToken, ScopeAPI, ScopeAPICreate, ScopeAPIRead}}
	for _, id := range providers {
		if scope := "provider:" + id; isScope(scope) { // other ids cannot be asked for here
			own.Scopes = append(own.Scopes, scope)
		}
	}
	return own
}

// minSecret is how short a resource service's secret may be, in bytes.
const minSecret = 20

const (
	day = 24 * time.Hour
	// longestLife bounds what can be configured: a retired key stays published for as long.
	longestLife = day
	// longestJWT bounds the life of an API token that is a JWT, for the same reason.
	longestJWT = 400 * day
	// longestUnheard bounds it where its readers share a secret with us: they read no status list, so that they hear of no
	// revocation.
	longestUnheard = 30 * day
	// defaultMaxLifetime bounds the life of an API token where the operator does not.
	defaultMaxLifetime = 365 * day
)

// withDefaults fills in what the operator left out.
func (a Audience) withDefaults() Audience {
	if a.Profile == "" {
		a.Profile = ProfileStandard
	}
	if a.Algorithm == "" {
		a.Algorithm = profiles[a.Profile].algorithm()
	}
	if a.MaxLifetime == 0 {
		a.MaxLifetime = cmp.Or(profiles[a.Profile].longest, time.Hour)
	}
	if a.DefaultLifetime == 0 {
		a.DefaultLifetime = min(cmp.Or(profiles[a.Profile].usual, 10*time.Minute), a.MaxLifetime)
	}
	a.Integration = a.Integration.withDefaults()
	policy := &a.APITokens
	if policy.MaxLifetime == 0 {
		policy.MaxLifetime = defaultMaxLifetime
		if a.Algorithm == HS256 {
			policy.MaxLifetime = longestUnheard
		}
	}
	if policy.DefaultLifetime == 0 {
		policy.DefaultLifetime = min(30*day, policy.MaxLifetime)
	}
	if policy.MaxUnseen == 0 {
		policy.MaxUnseen = 90 * day
	}
	return a
}

// validate reports every fault at once, each with the name of its field.
func (a Audience) validate(id string) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("audiences."+id+"."+format, args...))
	}
	profile, known := profiles[cmp.Or(a.Profile, ProfileStandard)]
	if !known {
		fault("profile: is %q, want one of %v", a.Profile, Profiles())
	}
	if a.Algorithm != "" && a.Algorithm != HS256 && !slices.Contains(Algorithms, a.Algorithm) {
		fault("algorithm: is %q, want one of %v", a.Algorithm, append([]string{HS256}, Algorithms...))
	} else if known && a.Algorithm != "" && !profile.signs(a.Algorithm) {
		why := ""
		if profile.refuses[a.Algorithm] != "" {
			why = ": " + profile.refuses[a.Algorithm]
		}
		fault("algorithm: is %q, want one of %v for the profile %s%s", a.Algorithm, profile.algorithms, cmp.Or(a.Profile, ProfileStandard), why)
	}
	if longest := profile.bound(); a.MaxLifetime != 0 && a.MaxLifetime < time.Second || a.MaxLifetime > longest {
		fault("max_lifetime: is %s, want 1s to %s", a.MaxLifetime, longest)
	}
	if a.SigningSecret != "" {
		switch {
		case known && cmp.Or(a.Algorithm, profile.algorithm()) != HS256:
			fault("signing_secret: is for the algorithm %s alone", HS256)
		case len(a.SigningSecret) < secretBytes: // RFC 7518 3.2
			fault("signing_secret: has %d bytes, want at least %d random ones", len(a.SigningSecret), secretBytes)
		}
	}
	if a.DefaultLifetime != 0 && a.DefaultLifetime < time.Second || a.MaxLifetime > 0 && a.DefaultLifetime > a.MaxLifetime {
		fault("default_lifetime: is %s, want at least 1s and at most max_lifetime", a.DefaultLifetime)
	}
	if a.Secret != "" && len(a.Secret) < minSecret {
		fault("secret: has %d bytes, want at least %d random ones", len(a.Secret), minSecret)
	}
	for i, scope := range a.Scopes {
		if !isScope(scope) {
			fault("scopes[%d]: %q is no scope: printable ASCII without a blank, a quotation mark or a backslash (RFC 6749 3.3)", i, scope)
		}
	}
	for i, rule := range a.Access {
		if !rule.Everyone && len(rule.Users) == 0 && len(rule.Groups) == 0 {
			fault("access[%d]: matches no user; want everyone, users or groups", i)
		}
		for _, scope := range rule.Scopes {
			if !slices.Contains(a.Scopes, scope) {
				fault("access[%d].scopes: %q is not one of the audience's scopes", i, scope)
			}
		}
	}
	if policy := a.APITokens; policy.JWT && known && cmp.Or(a.Algorithm, profile.algorithm()) == HS256 && policy.MaxLifetime > longestUnheard {
		fault("api_tokens.max_lifetime: is %s, want at most %s: who verifies with a shared secret hears of no revocation", policy.MaxLifetime, longestUnheard)
	}
	integration := a.validateIntegration(id, fault) // which adds to the faults
	return errors.Join(append(faults, integration, a.APITokens.validate(id))...)
}

// validateIntegration wants an integration where the profile is ProteinPaint's, and nowhere else.
func (a Audience) validateIntegration(id string, fault func(string, ...any)) error {
	switch is := a.Profile == ProfileProteinPaint; {
	case is && a.Integration == nil:
		fault("integration: is missing; the profile %s wants dataset and embedders", ProfileProteinPaint)
	case !is && a.Integration != nil:
		fault("integration: is for the profile %s alone", ProfileProteinPaint)
	case is && a.APITokens.JWT:
		fault("api_tokens.jwt: is not for the profile %s: ProteinPaint looks into no status list, so that such a token could not be revoked", ProfileProteinPaint)
	}
	if a.Integration == nil {
		return nil
	}
	return a.Integration.validate(id)
}

// validate reports every fault of the policy at once, each with the name of its field.
func (p APITokens) validate(id string) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("audiences."+id+".api_tokens."+format, args...))
	}
	longest := 10 * 365 * day
	if p.JWT {
		longest = longestJWT
	}
	if p.MaxLifetime != 0 && p.MaxLifetime < time.Minute || p.MaxLifetime > longest {
		fault("max_lifetime: is %s, want 1m to %s", p.MaxLifetime, longest)
	}
	if p.DefaultLifetime != 0 && p.DefaultLifetime < time.Minute || p.DefaultLifetime > cmp.Or(p.MaxLifetime, defaultMaxLifetime) {
		fault("default_lifetime: is %s, want at least 1m and at most max_lifetime", p.DefaultLifetime)
	}
	if p.MaxUnseen < 0 {
		fault("max_unseen: must not be negative")
	}
	return errors.Join(faults...)
}

// isScope tells a scope-token (RFC 6749 3.3).
func isScope(text string) bool {
	for i := range len(text) {
		if char := text[i]; char < 0x21 || char > 0x7e || char == '"' || char == '\\' {
			return false
		}
	}
	return text != ""
}
