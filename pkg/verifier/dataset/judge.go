package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Why a request is refused. What a refusal says repeats nothing of a token.
var (
	ErrRequest   = errors.New("the request cannot be read")                                 // 400
	ErrNoToken   = errors.New("a token is needed")                                          // 401
	ErrToken     = errors.New("the token is not accepted")                                  // 401
	ErrForbidden = errors.New("no token opens this")                                        // 403
	ErrAccess    = errors.New("the token does not open this dataset")                       // 403
	errClaims    = fmt.Errorf("%w: its claims cannot be read", ErrToken)                    // 401
	errAddress   = fmt.Errorf("%w: it was made for another address", ErrToken)              // 401
	errElsewhere = fmt.Errorf("%w: it is a session of another dataset or route", ErrAccess) // 403
)

// Access is what a request may see, and who asks.
type Access struct {
	Label    string // the dataset; read it from here, not from the request
	Embedder string
	Route    string // of the rule that let it in
	// Open says that the route needs no token: aggregated data, of which nothing below is known.
	Open bool

	Email            string
	Datasets         []string
	ClientAuthResult json.RawMessage // what the portal says of the person's role; null where it says nothing
	ExpiresAt        time.Time
	Claims           *verifier.Claims
}

// judge decides on a request: by the rule, and by the token where one is needed.
func (g *Guard) judge(r *http.Request) (*Access, error) {
	asked, err := ask(r)
	if err != nil {
		return nil, err
	}
	name := path.Clean("/" + r.URL.Path) // without a slash at its end, which says nothing of a route
	credential, route, err := g.find(asked, func(route pattern) bool { return route.matches(name) })
	if err != nil {
		return nil, err
	}
	if !credential.needed(route, name, asked.wanted) {
		return &Access{Label: asked.label, Embedder: asked.embedder, Route: route.text, Open: true}, nil
	}
	return g.admit(r, asked, credential, route)
}

// admit judges the token: its signature and times, then which datasets it opens, then whose it is. The answer to a token
// that is not accepted is 401, and to one that is accepted and opens something else 403.
func (g *Guard) admit(r *http.Request, asked asked, credential *Credential, route pattern) (*Access, error) {
	token := presented(r, credential.Header)
	if token == "" {
		return nil, fmt.Errorf("%w: in the header %s, or as a bearer", ErrNoToken, credential.Header)
	}
	claims, err := credential.Tokens.Verify(r.Context(), token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	var said struct {
		Datasets         []string        `json:"datasets"`
		Email            string          `json:"email"`
		IP               string          `json:"ip"`
		ClientAuthResult json.RawMessage `json:"clientAuthResult"`
		// A session of ProteinPaint's own names what it is for.
		Label    string `json:"dslabel"`
		Embedder string `json:"embedder"`
		Route    string `json:"route"`
	}
	if claims.Decode(&said) != nil {
		return nil, errClaims
	}
	switch {
	case claims.ExpiresAt.IsZero(): // introspection may not say
		return nil, fmt.Errorf("%w: it does not expire", ErrToken)
	case said.Label != "" && said.Label != asked.label, said.Embedder != "" && said.Embedder != asked.embedder, said.Route != "" && !route.named(said.Route):
		return nil, errElsewhere
	case !credential.opens(asked.label, said.Datasets):
		return nil, fmt.Errorf("%w: its datasets lack it", ErrAccess)
	}
	if err := credential.IPCheck.compare(said.IP, g.clientIP(r)); err != nil {
		return nil, err
	}
	return &Access{
		Label: asked.label, Embedder: asked.embedder, Route: route.text, Email: said.Email, Datasets: said.Datasets,
		ClientAuthResult: said.ClientAuthResult, ExpiresAt: claims.ExpiresAt, Claims: claims,
	}, nil
}

// opens tells whether the datasets of a token hold the label, or every id that is configured for it.
func (c *Credential) opens(label string, datasets []string) bool {
	if slices.Contains(datasets, label) {
		return true
	}
	return len(c.Datasets) > 0 && !slices.ContainsFunc(c.Datasets, func(id string) bool { return !slices.Contains(datasets, id) })
}

// compare compares the address that a token names with the client's. An IPv4 address that is written as an IPv6 one is
// the same (RFC 4291 2.5.5.2).
func (c IPCheck) compare(named string, client netip.Addr) error {
	if c == NoCheck || c != Strict && named == "" {
		return nil
	}
	address, err := netip.ParseAddr(named)
	if err != nil {
		return fmt.Errorf("%w: its address cannot be read", ErrToken)
	}
	address, client = address.Unmap().WithZone(""), client.Unmap().WithZone("")
	if !client.IsValid() {
		return fmt.Errorf("%w: the address of the client is not known", ErrToken)
	}
	if c != Strict {
		if address.Is4() != client.Is4() {
			return nil
		}
		if address.Is6() {
			network, _ := address.Prefix(64) // which an IPv6 address always has
			if network.Contains(client) {
				return nil
			}
		}
	}
	if address != client {
		return errAddress
	}
	return nil
}
