package issuer

import (
	"crypto/subtle"
	"maps"
	"slices"
	"time"
)

// Person is who a token is about, as far as an audience's rules ask.
type Person struct {
	ID       string // our own, never reused
	Username string
	Groups   []string
	// What else the default provider says, where an audience's tokens tell of it: who they are there, what they are called,
	// and an address that it has verified. Empty where it does not say so.
	Subject, Name, Email string
}

// scopesOf are the scopes that a user may have, and whether they may have a token at all.
func (a *Audience) scopesOf(who Person) (scopes []string, allowed bool) {
	if len(a.Access) == 0 {
		return a.Scopes, true
	}
	for _, rule := range a.Access {
		in := func(group string) bool { return slices.Contains(who.Groups, group) }
		if !rule.Everyone && !slices.Contains(rule.Users, who.Username) && !slices.ContainsFunc(rule.Groups, in) {
			continue
		}
		allowed = true
		if len(rule.Scopes) == 0 {
			return a.Scopes, true
		}
		scopes = append(scopes, rule.Scopes...)
	}
	return scopes, allowed
}

// allow judges what is asked for; ErrAccess and ErrScope. Less is never given silently.
func (a *Audience) allow(who Person, scopes []string) error {
	may, allowed := a.scopesOf(who)
	if !allowed {
		return ErrAccess
	}
	for _, scope := range scopes {
		switch {
		case !slices.Contains(a.Scopes, scope):
			return ErrScope
		case !slices.Contains(may, scope):
			return ErrAccess
		}
	}
	return nil
}

// registry is the audiences that are registered, by id.
type registry map[string]Audience

// Audience tells whether an audience is registered.
func (r registry) Audience(id string) bool {
	_, ok := r[id]
	return ok
}

// Groups tells whether an audience's tokens say anything of groups, or depend on them; and whether they decide who may
// have one.
func (r registry) Groups(id string) (asked, decide bool) {
	audience := r[id]
	return audience.asksGroups(), audience.groupsDecide()
}

// AsksGroups tells that an audience's tokens, or who may have them, depend on groups and what else the default provider
// says of a user.
func (r registry) AsksGroups(id string) bool {
	audience := r[id]
	return audience.asksGroups()
}

// APITokens is what may be made for an audience; false where it is not registered.
func (r registry) APITokens(audience string) (APITokens, bool) {
	found, ok := r[audience]
	return found.APITokens, ok
}

// Authenticates tells whether a secret is that of an audience's resource service.
func (r registry) Authenticates(audience, presented string) bool {
	own := string(r[audience].Secret)
	return own != "" && subtle.ConstantTimeCompare([]byte(own), []byte(presented)) == 1
}

// Allow judges whether a user may have tokens for an audience with these scopes now. The errors are ErrAudience,
// ErrScope and ErrAccess.
func (r registry) Allow(audience string, who Person, scopes []string) error {
	found, ok := r[audience]
	if !ok {
		return ErrAudience
	}
	return found.allow(who, scopes)
}

// Narrow returns those of an API token's scopes that count now: that the audience has, and that a user may have; for a
// token of no user, that the audience has. The errors are ErrAudience and ErrAccess.
func (r registry) Narrow(audience string, who *Person, scopes []string) ([]string, error) {
	found, ok := r[audience]
	if !ok {
		return nil, ErrAudience
	}
	may, allowed := found.Scopes, true
	if who != nil {
		may, allowed = found.scopesOf(*who)
	}
	if !allowed {
		return nil, ErrAccess
	}
	var narrowed []string
	for _, scope := range scopes {
		if slices.Contains(may, scope) && slices.Contains(found.Scopes, scope) {
			narrowed = append(narrowed, scope)
		}
	}
	return narrowed, nil
}

// ScopesOf are the scopes that an audience has; none of one that is not configured.
func (r registry) ScopesOf(audience string) []string {
	return append([]string{}, r[audience].Scopes...)
}

// PersonalJWTs are the audiences of personal API tokens that are JWTs, each with its max_unseen.
func (r registry) PersonalJWTs() map[string]time.Duration {
	found := map[string]time.Duration{}
	for id, audience := range r {
		if audience.APITokens.Personal && audience.APITokens.JWT {
			found[id] = audience.APITokens.MaxUnseen
		}
	}
	return found
}

// asksGroups tells that a rule of the audience, or its profile, needs the user's groups.
func (a *Audience) asksGroups() bool {
	return profiles[a.Profile].about || a.groupsDecide()
}

// groupsDecide tells that who may have an audience's tokens depends on their groups.
func (a *Audience) groupsDecide() bool {
	return slices.ContainsFunc(a.Access, func(rule Access) bool { return len(rule.Groups) > 0 })
}

// Audiences are the ids of the audiences that are registered, in order.
func (r registry) Audiences() []string { return slices.Sorted(maps.Keys(r)) }

// ScopesFor are the scopes of an audience that a user may have now, in the audience's order, and whether they may have
// its tokens at all.
func (r registry) ScopesFor(audience string, who Person) (scopes []string, allowed bool) {
	found, ok := r[audience]
	if !ok {
		return nil, false
	}
	may, allowed := found.scopesOf(who)
	for _, scope := range found.Scopes {
		if slices.Contains(may, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes, allowed
}
