package issuer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The profiles of an audience. docs/tokens.md has every claim of each.
const (
	ProfileStandard = "standard" // RFC 9068
	ProfileResource = "resource" // standard, and what sites want that verify with simplejwt
	ProfileGen3     = "gen3"     // what Gen3's authutils wants of a Fence's access token
	ProfilePEPhub   = "pephub"   // what PEPhub reads: login and organisations
	// ProfileProteinPaint is what ProteinPaint reads: the datasets of an integration, and a role.
	ProfileProteinPaint = "proteinpaint"
)

// profile is what the tokens of an audience say beside who they are for. To add one: a line in profiles, and the
// claims that it adds.
type profile struct {
	algorithms []string // that its verifiers know; the first is the default
	// add adds to the claims of the standard profile, or changes them.
	add func(body *claims, request Request)
	// kind is the type in the header (RFC 8725 3.11): at+jwt where it is empty. A JWT that is signed with a secret has the
	// type JWT in any case, as those who share a secret with us expect it.
	kind string
	// replace makes claims that have nothing of the standard profile's; nil where add suffices.
	replace func(body claims, request Request) any
	// pinned: its readers know one public key, so that an audience has a key of its own, which no age replaces.
	pinned bool
	// about: its tokens say what the default provider says of a person, groups among it.
	about bool
	// longest and usual are the greatest lifetime and the default one, where they are not those of other profiles.
	longest, usual time.Duration
	// bounded: no configuration allows more than longest.
	bounded bool
	// refuses says of an algorithm why the readers of its tokens do not know it.
	refuses map[string]string
}

var profiles = map[string]profile{
	ProfileStandard: {algorithms: Algorithms, add: func(*claims, Request) {}},
	ProfileResource: {algorithms: []string{RS256, ES256}, add: func(body *claims, request Request) {
		body.TokenType, body.UserID, body.PluginID = "access", request.Person.ID, request.Resource
	}},
	// authutils reads RS256 alone, a scope that is a list, and the name in context.user.name.
	ProfileGen3: {algorithms: []string{RS256}, add: func(body *claims, request Request) {
		scopes := request.Scopes
		if !slices.Contains(scopes, "openid") {
			scopes = append([]string{"openid"}, scopes...)
		}
		body.Purpose, body.Scope, body.AuthorizedParty = "access", scopes, request.ClientID
		body.Context = &gen3Context{User: gen3User{Name: request.Person.Username}}
	}},
	ProfilePEPhub: {
		algorithms: []string{HS256, RS256, ES256}, kind: typePEPhub, about: true, longest: 3 * day,
		replace: func(body claims, request Request) any { return pephub(body, request.Person) },
	},
	ProfileProteinPaint: {
		algorithms: []string{HS256, RS256, ES256}, pinned: true, about: true, longest: longestProteinPaint, usual: usualProteinPaint, bounded: true,
		replace: proteinPaint,
		refuses: map[string]string{EdDSA: "jsonwebtoken, the library by which ProteinPaint verifies, does not know it"},
	},
}

// Profiles are the names of all profiles.
func Profiles() []string {
	return []string{ProfileStandard, ProfileResource, ProfileGen3, ProfilePEPhub, ProfileProteinPaint}
}

// algorithm is the one that signs where the operator names none.
func (p profile) algorithm() string {
	if len(p.algorithms) == 0 {
		return ES256
	}
	return p.algorithms[0]
}

// signs tells whether the readers of a profile's tokens know an algorithm.
func (p profile) signs(algorithm string) bool { return slices.Contains(p.algorithms, algorithm) }

// bound is the greatest lifetime that may be configured.
func (p profile) bound() time.Duration {
	if p.bounded {
		return p.longest
	}
	return max(longestLife, p.longest)
}

// render is the payload of a token.
func (p profile) render(body claims, request Request) ([]byte, error) {
	var whole any = &body
	if p.replace != nil {
		whole = p.replace(body, request)
	} else {
		p.add(&body, request)
	}
	payload, err := json.Marshal(whole)
	if err != nil {
		return nil, fmt.Errorf("rendering the claims: %w", err)
	}
	return payload, nil
}

// claims is the payload, RFC 9068 2.2, with what profiles add. There is no nbf: verifiers with a clock behind ours
// refuse it.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  string   `json:"aud"`
	ClientID  string   `json:"client_id"`
	IssuedAt  int64    `json:"iat"`
	ExpiresAt int64    `json:"exp"`
	ID        string   `json:"jti"`
	Username  string   `json:"preferred_username,omitempty"`
	Scope     any      `json:"scope,omitempty"` // words with blanks between (RFC 8693 4.2); a list for gen3
	Groups    []string `json:"groups,omitempty"`
	Resource  string   `json:"resource,omitempty"`
	Actor     *Actor   `json:"act,omitempty"`
	Status    *status  `json:"status,omitempty"`
	// of a program that a person let in
	Session         string `json:"sid,omitempty"`
	AuthenticatedAt int64  `json:"auth_time,omitempty"` // RFC 9068 2.2.1
	// resource
	TokenType string `json:"token_type,omitempty"`
	UserID    string `json:"user_id,omitempty"`
	PluginID  string `json:"plugin_id,omitempty"` // the resource, by the name that plugin sites have for it
	// gen3
	Purpose         string       `json:"pur,omitempty"`
	AuthorizedParty string       `json:"azp,omitempty"`
	Context         *gen3Context `json:"context,omitempty"`
}

type gen3Context struct {
	User gen3User `json:"user"`
}

type gen3User struct {
	Name string `json:"name"`
}

// words are scopes as the standard claim has them.
func words(scopes []string) any {
	if len(scopes) == 0 {
		return nil
	}
	return strings.Join(scopes, " ")
}
