// Package dataset guards the datasets of a data portal: which token opens which dataset, on which routes, for the page of
// which embedder. It reads the rules in the shape of ProteinPaint's dsCredentials, and takes the tokens that wts mints
// with the profile proteinpaint, in their header or as a bearer.
//
//	rules, err := dataset.Parse(ctx, text)
//	guard, err := dataset.New(rules)
//	mux.Handle("POST /jwt-status", guard.Status())
//	mux.Handle("/termdb/", guard.Middleware(termdb))
//
// It owns what a request has to show before data is served. It differs from ProteinPaint where it is stricter: what no
// rule names is refused; a token has to expire; one without datasets opens nothing; every refusal has a status of its
// own. It keeps no session: each request shows its token.
package dataset

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// DefaultHeader is the header that holds the token, where a rule names no other.
const DefaultHeader = "X-Ds-Access-Token"

// Any is the label, the route or the embedder of a rule for all that have no rule of their own.
const Any = "*"

// Tokens verifies a token: a *verifier.Verifier by the key set of its issuer, a *verifier.Pinned by secrets or public
// keys that the service was given.
type Tokens interface {
	Verify(ctx context.Context, token string) (*verifier.Claims, error)
}

// Rule says what opens the routes of a dataset for an embedder.
type Rule struct {
	Label    string // of the dataset; Any is for the labels that no rule names
	Route    string // termdb, burden, or a glob such as /termdb/**; Any is every route
	Embedder string // the host of the page that shows the data; Any is every host
	Credential
}

// Credential is what a request has to show.
type Credential struct {
	// Tokens verifies what is shown. Nil forbids: nothing opens it.
	Tokens Tokens
	// Header holds the token; DefaultHeader where it is empty.
	Header string
	// Datasets are the ids that a token has to hold, all of them, where it does not hold the label itself.
	Datasets []string
	// Protected narrows a rule of the route termdb: these need a token, and "matrix" does, while aggregated data is open
	// to the rule's embedder. An entry is a glob of a path, or a word: what a request is "for", or a part of its path.
	// Without one the whole route needs a token.
	Protected []string
	// IPCheck says how the address that the token names is compared; Loose where it is empty.
	IPCheck IPCheck
}

// IPCheck is how a token's claim ip is compared with the address of the client.
type IPCheck string

const (
	// Loose takes a token without an address, and one whose address is of the other family, since a client may reach two
	// sites by IPv4 and by IPv6. IPv6 addresses are compared by their network of 64 bits (RFC 8981).
	Loose IPCheck = "loose"
	// Strict wants the very address.
	Strict IPCheck = "strict"
	// NoCheck compares nothing.
	NoCheck IPCheck = "none"
)

// Guard judges requests by rules. It is safe for concurrent use.
type Guard struct {
	labels   map[string][]*route
	clientIP func(*http.Request) netip.Addr
}

// route is a route of a dataset, and what each embedder has to show there.
type route struct {
	pattern   pattern
	embedders map[string]*Credential
}

// Option changes how a Guard works.
type Option func(*Guard)

// WithClientIP says whose request it is, for a service behind a proxy: the peer's address unless told otherwise. Read a
// forwarded address only from a proxy of your own.
func WithClientIP(address func(*http.Request) netip.Addr) Option {
	return func(g *Guard) { g.clientIP = address }
}

// New makes a guard. The first route that fits a request decides, in the order of the rules, Any last; then the embedder
// by its name, else Any. It reports every rule that has no meaning.
func New(rules []Rule, options ...Option) (*Guard, error) {
	guard := &Guard{labels: map[string][]*route{}, clientIP: peer}
	for _, option := range options {
		option(guard)
	}
	var failures []error
	for _, rule := range rules {
		if err := guard.add(rule); err != nil {
			failures = append(failures, fmt.Errorf("dataset %q, route %q, embedder %q: %w", rule.Label, rule.Route, rule.Embedder, err))
		}
	}
	if len(rules) == 0 {
		failures = append(failures, errors.New("dataset: no rules: every request would be refused"))
	}
	for _, routes := range guard.labels {
		slices.SortStableFunc(routes, func(a, b *route) int { return a.pattern.rank() - b.pattern.rank() })
	}
	return guard, errors.Join(failures...)
}

// add files a rule under its label and route. Two rules for the same embedder are refused, rather than the last one
// winning: which of them was meant decides on who sees data.
func (g *Guard) add(rule Rule) error {
	pattern, err := newPattern(rule.Route)
	switch {
	case err != nil:
		return err
	case rule.Label == "" || rule.Embedder == "":
		return errors.New(`the label or the embedder is empty; "*" is for all`)
	case rule.Label != Any && strings.ContainsAny(rule.Label, "*?[]{}!"):
		return errors.New(`a label is an exact one, or "*"`)
	}
	if err := rule.check(pattern); err != nil {
		return err
	}
	routes := g.labels[rule.Label]
	index := slices.IndexFunc(routes, func(known *route) bool { return known.pattern.text == pattern.text })
	if index < 0 {
		index, routes = len(routes), append(routes, &route{pattern: pattern, embedders: map[string]*Credential{}})
		g.labels[rule.Label] = routes
	}
	if routes[index].embedders[rule.Embedder] != nil {
		return errors.New("it has two rules; leave one")
	}
	if rule.Header == "" {
		rule.Header = DefaultHeader
	}
	routes[index].embedders[rule.Embedder] = &rule.Credential
	return nil
}

// check refuses a credential that would open less or more than it seems to.
func (c *Credential) check(route pattern) error {
	switch {
	case !slices.Contains([]IPCheck{"", Loose, Strict, NoCheck}, c.IPCheck):
		return fmt.Errorf("the IP check is %q, want %s, %s or %s", c.IPCheck, Loose, Strict, NoCheck)
	case slices.Contains(c.Datasets, ""):
		return errors.New("the id of a dataset is empty")
	case len(c.Protected) > 0 && route.text != termdb:
		return fmt.Errorf("only the route %s has parts that are protected; give each route a rule", termdb)
	case strings.EqualFold(c.Header, "Authorization"):
		return errors.New("the header Authorization is read anyway, as a bearer; name another one, or none")
	}
	for _, text := range c.Protected {
		if _, err := newPattern(text); err != nil {
			return fmt.Errorf("what is protected: %w", err)
		}
	}
	return nil
}

// find is what a request has to show. The rules of a label that has some are all that count for it, and the first route
// that fits is the only one: an embedder that it does not name is not looked for in the next, which could open more.
func (g *Guard) find(asked asked, fits func(pattern) bool) (*Credential, pattern, error) {
	routes, named := g.labels[asked.label]
	if !named {
		routes = g.labels[Any]
	}
	if asked.label == "" || asked.label == Any {
		return nil, pattern{}, fmt.Errorf("%w: the request names no dataset; give dslabel", ErrForbidden)
	}
	for _, route := range routes {
		if !fits(route.pattern) {
			continue
		}
		credential := route.embedders[asked.embedder]
		if credential == nil {
			credential = route.embedders[Any]
		}
		if credential == nil || credential.Tokens == nil {
			return nil, pattern{}, fmt.Errorf("%w: this dataset is not for the embedder that the request names", ErrForbidden)
		}
		return credential, route.pattern, nil
	}
	return nil, pattern{}, fmt.Errorf("%w: no rule names this dataset with this route", ErrForbidden)
}
