package issuer

import (
	"slices"
	"strings"
)

// The profiles of an audience. docs/tokens.md has every claim of each.
const (
	ProfileStandard = "standard" // RFC 9068
	ProfileResource = "resource" // standard, and what sites want that verify with simplejwt
	ProfileGen3     = "gen3"     // what Gen3's authutils wants of a Fence's access token
)

// profile is what the tokens of an audience say beside who they are for. To add one: a line in profiles, and the
// claims that it adds.
type profile struct {
	algorithms []string // that its verifiers know; the first is the default
	// add adds to the claims of the standard profile, or changes them.
	add func(body *claims, request Request)
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
}

// Profiles are the names of all profiles.
func Profiles() []string { return []string{ProfileStandard, ProfileResource, ProfileGen3} }

// algorithm is the one that signs where the operator names none.
func (p profile) algorithm() string {
	if len(p.algorithms) == 0 {
		return ES256
	}
	return p.algorithms[0]
}

// signs tells whether the readers of a profile's tokens know an algorithm.
func (p profile) signs(algorithm string) bool { return slices.Contains(p.algorithms, algorithm) }

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
	PluginID  string `json:"plugin_id,omitempty"`
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
