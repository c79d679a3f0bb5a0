package issuer

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// ProteinPaint shows datasets inside the pages of portals. The portal's page asks us for a token of its person and hands
// it to the ProteinPaint server, which verifies it with one secret or one public key of its configuration, and trades it
// for a session of its own. It reads no key set and asks nobody, so that a token is short, and each integration has a key
// that is no other's.

var (
	// ErrDataset: a dataset was asked for that the integration does not have. Less is never given silently.
	ErrDataset = errors.New("the integration has no such dataset")
	// ErrAddress: the integration holds tokens to the address of their person, which is not known here.
	ErrAddress = errors.New("the integration wants the address of the person, which is not known here")
)

const (
	// longestProteinPaint bounds a token's life. What it is traded for lives on, so that a longer one gains nothing.
	longestProteinPaint = time.Hour
	usualProteinPaint   = 5 * time.Minute
)

// proteinPaintClaims is what ProteinPaint reads of a token, and what we need to know one again. It has neither aud nor
// nbf, since a clock behind ours would refuse it, and never dslabel, embedder and route: a token that has these three is
// read there as one of ProteinPaint's own sessions.
type proteinPaintClaims struct {
	Datasets  []string       `json:"datasets"`
	Email     string         `json:"email"` // the username where the provider verified no address
	Address   string         `json:"ip,omitempty"`
	IssuedAt  int64          `json:"iat"`
	ExpiresAt int64          `json:"exp"` // always: without it a token is accepted for ever
	Result    map[string]any `json:"clientAuthResult,omitempty"`
	TokenID   string         `json:"jti"`
	Issuer    string         `json:"iss"`
}

// proteinPaint makes the claims of a person.
func proteinPaint(body claims, request Request) any {
	said := proteinPaintClaims{
		Datasets: request.Datasets, Email: cmp.Or(request.Person.Email, request.Person.Username, request.Person.ID),
		IssuedAt: body.IssuedAt, ExpiresAt: body.ExpiresAt, TokenID: body.ID, Issuer: body.Issuer,
	}
	if of := request.integration; of != nil {
		if len(said.Datasets) == 0 {
			said.Datasets = of.Datasets()
		}
		_, said.Result = of.RoleOf(request.Person)
	}
	if request.Address.IsValid() {
		said.Address = request.Address.Unmap().WithZone("").String()
	}
	return said
}

// Datasets are the ids that a token names: those of the cohorts, and the dataset itself, by which ProteinPaint knows a
// token that is sent as a bearer.
func (i *Integration) Datasets() []string {
	var ids []string
	for _, cohort := range i.Cohorts {
		ids = append(ids, cohort.ID)
	}
	if !slices.Contains(ids, i.Dataset) {
		ids = append(ids, i.Dataset)
	}
	return ids
}

// RoleOf is the number of the first role that a person matches and what ProteinPaint is told of it; -1 and nil where they
// match none.
func (i *Integration) RoleOf(who Person) (number int, result map[string]any) {
	for number, role := range i.Roles {
		in := func(group string) bool { return slices.Contains(who.Groups, group) }
		if role.Everyone || slices.Contains(role.Users, who.Username) || slices.ContainsFunc(role.Groups, in) {
			return number, maps.Clone(role.Result)
		}
	}
	return -1, nil
}

// Integration is that of an audience, as it is with its defaults; false where the audience has none.
func (r registry) Integration(audience string) (Integration, bool) {
	found := r[audience].Integration
	if found == nil {
		return Integration{}, false
	}
	return *found, true
}

// Algorithm is what signs the tokens of an audience.
func (r registry) Algorithm(audience string) string { return r[audience].Algorithm }

// integrated judges what a request says of an integration, and fills in which one it is.
func (a *Audience) integrated(request *Request) error {
	request.integration = a.Integration
	switch {
	case a.Integration == nil && len(request.Datasets) > 0:
		return ErrDataset
	case a.Integration == nil:
		return nil
	case a.Integration.IP == IPStrict && !request.Address.IsValid():
		return ErrAddress
	}
	known := a.Integration.Datasets()
	for _, id := range request.Datasets {
		if !slices.Contains(known, id) {
			return ErrDataset
		}
	}
	return nil
}

// Preview is the payload of a token that a person of a role would get, or with a negative number one who matches none,
// which nothing signs. The error is ErrAudience, of a role that is not there too.
func (i *Issuer) Preview(id string, role int) ([]byte, error) {
	audience, ok := i.config.Audiences[id]
	if !ok || audience.Integration == nil || role >= len(audience.Integration.Roles) {
		return nil, ErrAudience
	}
	of := *audience.Integration
	request := Request{Audience: id, Person: Person{Username: "person", Email: "person@example.org"}, integration: &of}
	if of.Roles = nil; role >= 0 {
		of.Roles = []Role{{Everyone: true, Result: audience.Integration.Roles[role].Result}}
	}
	if of.IP == IPStrict {
		request.Address = netip.AddrFrom4([4]byte{192, 0, 2, 1}) // for documentation (RFC 5737)
	}
	now := i.now()
	body := claims{Issuer: i.config.URL, IssuedAt: now.Unix(), ExpiresAt: now.Add(audience.DefaultLifetime).Unix(), ID: "preview"}
	return profiles[audience.Profile].render(body, request)
}
