package apitoken

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Every change of a token goes through one function of the store, under a lock on its row, and is told to every replica
// in the same transaction: what was revoked on one is refused by all, and of two changes at once none is lost.

// Wanted is what a token is made of.
type Wanted struct {
	Audience, Resource string // a resource makes it the resource's
	Format             Format // Opaque where it is empty
	Name, Description  string
	Scopes             []string
	Networks           []string
	// Lifetime is how long it lives; 0 is the audience's default. Endless gives it no end.
	Lifetime time.Duration
	Endless  bool
	// AtMost is how many active ones its owner may have of the audience and the format; 0 for as many as in all.
	AtMost int
}

// draft judges what is asked for.
func (s *Service) draft(who issuer.Person, wanted Wanted) (Token, error) {
	policy, registered := s.judge.audiences.APITokens(wanted.Audience)
	kind := Personal
	if wanted.Resource != "" {
		kind = Resource
	}
	_, decide := s.judge.audiences.Groups(wanted.Audience)
	networks, err := parseNetworks(wanted.Networks)
	switch {
	case !registered:
		return Token{}, issuer.ErrAudience
	case kind == Personal && !policy.Personal:
		return Token{}, fmt.Errorf("%w: no personal tokens may be made for it", ErrPolicy)
	case kind == Resource && !policy.Resource:
		return Token{}, fmt.Errorf("%w: no tokens of resources may be made for it", ErrPolicy)
	case wanted.Format == JWT && !policy.JWT:
		return Token{}, fmt.Errorf("%w: no tokens that are JWTs may be made for it", ErrPolicy)
	case wanted.Format != "" && wanted.Format != Opaque && wanted.Format != JWT:
		return Token{}, fmt.Errorf("%w: format has to be opaque or jwt", ErrInput)
	case err != nil:
		return Token{}, err
	case wanted.Format == JWT && len(networks) > 0:
		return Token{}, fmt.Errorf("%w: a JWT cannot be held to networks: who verifies it by itself does not ask", ErrPolicy)
	case wanted.Format == JWT && kind == Personal && decide:
		return Token{}, fmt.Errorf("%w: who may have its tokens depends on groups, and a JWT does not change with them; make an opaque one", ErrPolicy)
	}
	if err := checkText("name", wanted.Name, maxName, true); err != nil {
		return Token{}, err
	}
	if err := checkText("description", wanted.Description, maxDescription, false); err != nil {
		return Token{}, err
	}
	if err := s.judge.audiences.Allow(wanted.Audience, who, wanted.Scopes); err != nil {
		return Token{}, err
	}
	now := s.now()
	expires, err := expiry(kind, policy, wanted, now)
	if err != nil {
		return Token{}, err
	}
	scopes := slices.Clone(wanted.Scopes)
	slices.Sort(scopes)
	return Token{
		ID: rand.Text(), Kind: kind, Format: cmp.Or(wanted.Format, Opaque), UserID: who.ID, Audience: wanted.Audience, Resource: wanted.Resource, Name: wanted.Name,
		Description: wanted.Description, Scopes: slices.Compact(scopes), Networks: networks, CreatedAt: now, ExpiresAt: expires,
	}, nil
}

// Every token has an end that its maker chose, or the audience's default; one without an end is a resource's alone, and the
// operator has to allow it.

// expiry is when a token ends that is made now.
func expiry(kind Kind, policy issuer.APITokens, wanted Wanted, now time.Time) (time.Time, error) {
	life := wanted.Lifetime
	if life == 0 {
		life = policy.DefaultLifetime
	}
	switch {
	case wanted.Endless && (kind != Resource || !policy.Endless || wanted.Format == JWT):
		return time.Time{}, fmt.Errorf("%w: a token has to have an end, at most %d days from now", ErrPolicy, policy.MaxLifetime/(24*time.Hour))
	case wanted.Endless:
		return time.Time{}, nil
	case life < time.Minute:
		return time.Time{}, fmt.Errorf("%w: a token lives for at least a minute", ErrInput)
	case life > policy.MaxLifetime:
		return time.Time{}, fmt.Errorf("%w: a token lives for at most %s", ErrPolicy, policy.MaxLifetime)
	}
	return now.Add(life), nil
}

// checkText wants what a person can read: nothing that looks like nothing, or like something else.
func checkText(field, text string, most int, needed bool) error {
	hidden := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	switch {
	case needed && strings.TrimSpace(text) == "":
		return fmt.Errorf("%w: %s is missing", ErrInput, field)
	case len(text) > most:
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrInput, field, most)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, hidden):
		return fmt.Errorf("%w: %s has a character that cannot be seen", ErrInput, field)
	}
	return nil
}

// parseNetworks reads networks in CIDR form, or single addresses.
func parseNetworks(texts []string) (networks []netip.Prefix, err error) {
	if len(texts) > maxNetworks {
		return nil, fmt.Errorf("%w: more than %d networks", ErrInput, maxNetworks)
	}
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if address, single := netip.ParseAddr(text); single == nil && address.Zone() == "" {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: networks: %q is no network like 192.0.2.0/24", ErrInput, cut(text))
		}
		if network.Addr().Is4In6() {
			network = netip.PrefixFrom(network.Addr().Unmap(), max(network.Bits()-96, 0))
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// cut is what is kept or repeated of a text that was sent: its beginning, with a question mark for each character that
// cannot be seen.
func cut(text string) string {
	seen := func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}
	return strings.Map(seen, strings.ToValidUTF8(text[:min(len(text), 64)], ""))
}
