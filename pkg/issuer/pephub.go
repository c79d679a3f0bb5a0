package issuer

import (
	"encoding/json"
	"strconv"
	"strings"
)

// typePEPhub tells tokens of the profile from all others that the same keys sign (RFC 8725 3.11).
const typePEPhub = "pephub+jwt"

// pephubClaims is what PEPhub reads of a token: who the person is at GitHub, and in which organisations. It has neither
// aud nor nbf: a stock PEPhub accepts no token that has one. Whom the token is for stands in audience in their place, for
// services that look (verifier.WithAudienceClaim).
type pephubClaims struct {
	Login         string   `json:"login"` // in lower case, as it is compared
	ID            any      `json:"id"`    // GitHub's number
	Name          string   `json:"name"`
	Organisations []string `json:"orgs"` // in lower case, and never null
	IssuedAt      int64    `json:"iat"`
	ExpiresAt     int64    `json:"exp"`
	TokenID       string   `json:"jti"`
	Issuer        string   `json:"iss"`
	Subject       string   `json:"sub"` // the user's own id
	Audience      string   `json:"audience"`
	Session       string   `json:"sid,omitempty"`
	Status        *status  `json:"status,omitempty"`
}

// pephub makes the claims of a person. The id is a number where the default provider's is one, as GitHub's are.
func pephub(body claims, who Person) any {
	said := pephubClaims{
		Login: lowered(who.Username), ID: who.Subject, Name: who.Name, Organisations: make([]string, 0, len(who.Groups)),
		IssuedAt: body.IssuedAt, ExpiresAt: body.ExpiresAt, TokenID: body.ID, Issuer: body.Issuer, Subject: body.Subject, Audience: body.Audience,
		Session: body.Session, Status: body.Status,
	}
	if number, err := strconv.ParseInt(who.Subject, 10, 64); err == nil && number >= 0 {
		said.ID = json.Number(strconv.FormatInt(number, 10))
	}
	if said.Name == "" {
		said.Name = who.Username
	}
	for _, group := range who.Groups {
		said.Organisations = append(said.Organisations, lowered(group))
	}
	return said
}

// lowered is a name in lower case. Letters beyond ASCII stay as they are: Unicode folds the sign for kelvin into a k, and
// who may choose their own name would be another person by it.
func lowered(name string) string {
	return strings.Map(func(letter rune) rune {
		if 'A' <= letter && letter <= 'Z' {
			return letter + 'a' - 'A'
		}
		return letter
	}, name)
}
