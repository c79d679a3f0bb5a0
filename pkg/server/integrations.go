package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

var (
	errNoIntegration = errors.New("there is no such integration")
	errNoPublicKey   = errors.New("the tokens of this integration are signed with a secret, which is not published")
	errSignIn        = errors.New("sign in at wts first, in a window of its own")
)

// integrations answers /api/v1/integrations: datasets of ProteinPaint servers that portals embed.
type integrations struct {
	*apiTokens
	tokens *tokens
	probe  *http.Client // for the self-test
}

// A portal's page asks for the token of its person by the session that they have here. It may, since its origin is
// registered and its site is ours: a browser sends the cookie to no other. What it gets is good at one ProteinPaint for
// minutes. All that an admin does is asked for from pages of ours alone.

// integrationRoutes are those of integrations: the page of a portal, the ProteinPaint server, and admins.
func (s *Server) integrationRoutes(parts Parts, api *apiTokens, tokens *tokens) {
	i := &integrations{api, tokens, newProbe()}
	portal := authn.Accepts{Session: true, Bearer: parts.Config.Portal}
	admin := func(action audit.Action) policy {
		return policy{accepts: portal, action: action, shape: problem, api: true, both: parts.Config.Portal}
	}
	read := func(path string, handle func(*exchange) error) {
		s.get(path, admin(""), api.limits.limited(reads, i.named(api.only(handle))))
	}
	change := func(method, path string, action audit.Action, handle func(*exchange) error) {
		s.only(method, path, admin(action), api.limits.limited(changes, api.changing(i.named(api.only(handle)))))
	}
	const one = "/api/v1/integrations/:id"
	s.get("/api/v1/integrations", policy{
		accepts: authn.Accepts{Session: true, Bearer: parts.Config.Portal, Login: true}, scopes: []string{issuer.ScopeAPIRead, issuer.ScopeAPI}, shape: problem, api: true, both: parts.Config.Portal,
	}, api.limits.limited(reads, i.list))
	s.only(http.MethodPost, one+"/token", policy{
		accepts: authn.Accepts{ServiceAccount: true, APIToken: true, Login: true, Session: !parts.Config.Portal, Bearer: true, Pod: true}, anonymous: true,
		refine: i.crossing, action: audit.Mint, shape: problem, api: true,
	}, i.named(i.token))
	s.only(http.MethodOptions, one+"/token", policyOfOptions, i.preflight)

	public := policy{shape: problem, api: true, quiet: true}
	s.get(one+"/pubkey.pem", public, i.named(i.publicKey))
	s.get(one+"/snippet.js", public, i.named(i.snippet))
	s.get(one+"/processor.mjs", public, i.named(i.processor))

	read(one+"/serverconfig.json", i.serverConfig)
	read(one+"/preview", i.preview)
	keys := &integrationKeys{i}
	read(one+"/keys", keys.keys)
	change(http.MethodPost, one+"/keys", audit.MakeAudienceKey, keys.makeKey)
	change(http.MethodPost, one+"/keys/activate", audit.ActivateAudienceKey, keys.activateKey)
	change(http.MethodDelete, one+"/keys/next", audit.DropAudienceKey, keys.dropKey)
	change(http.MethodPost, one+"/selftest", audit.TestIntegration, i.selfTest)
	s.integrationPages(parts, keys)
}

// named wants the integration of the address to be there.
func (i *integrations) named(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		x.event.Audience = cut(x.Param("id"))
		if _, known := i.issuer.Integration(x.Param("id")); !known {
			return errNoIntegration
		}
		return handle(x)
	}
}

// of is the integration of the address, which named has found.
func (i *integrations) of(x *exchange) (id string, of issuer.Integration) {
	id = x.Param("id")
	of, _ = i.issuer.Integration(id)
	return id, of
}

// integrationView is an integration as who may have its tokens sees it.
type integrationView struct {
	ID        string          `json:"id"`
	Dataset   string          `json:"dataset"`
	Cohorts   []issuer.Cohort `json:"cohorts"`
	Embedders []string        `json:"embedders"`
	Route     string          `json:"route"`
	Header    string          `json:"header"`
	TokenURL  string          `json:"token_url"`
}

// list answers GET of the integrations that the caller may have tokens for.
func (i *integrations) list(x *exchange) error {
	shown := []integrationView{}
	for _, id := range i.issuer.Audiences() {
		of, is := i.issuer.Integration(id)
		if !is {
			continue
		}
		who, err := i.person(x, id)
		if err != nil {
			return err
		}
		if i.issuer.Allow(id, who, nil) == nil {
			shown = append(shown, integrationView{id, of.Dataset, of.Cohorts, of.Embedders, of.Route, of.HeaderKey, addressOf(x, id, "token")})
		}
	}
	return x.json(http.StatusOK, map[string]any{"integrations": shown})
}

// addressOf is where something of an integration is, as portals and ProteinPaint servers reach it.
func addressOf(x *exchange, id, what string) string {
	return x.public + "/api/v1/integrations/" + id + "/" + what
}

// crossing lets scripts of the integration's origins read the answer, with the person's session, and no other's. Who
// comes from another page is not even looked up: they are told so by token.
func (i *integrations) crossing(x *exchange, accepts authn.Accepts) authn.Accepts {
	x.Writer.Header().Add("Vary", "Origin")
	origin := x.GetHeader("Origin")
	if origin == "" {
		return accepts
	}
	if !i.allowed(x, origin) {
		return authn.Accepts{}
	}
	return accepts
}

// allowed tells an origin of the integration's, and sets what its scripts need (Fetch standard, 3.2; rule C4).
func (i *integrations) allowed(x *exchange, origin string) bool {
	_, of := i.of(x)
	if !slices.Contains(of.Origins, origin) {
		return false
	}
	header := x.Writer.Header()
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Allow-Credentials", "true")
	header.Set("Access-Control-Expose-Headers", "Retry-After, X-Request-Id")
	return true
}

// preflight answers OPTIONS: what scripts of the integration's origins may send.
func (i *integrations) preflight(x *exchange) error {
	header := x.Writer.Header()
	header.Add("Vary", "Origin")
	if origin := x.GetHeader("Origin"); origin != "" && i.allowed(x, origin) {
		header.Set("Access-Control-Allow-Methods", http.MethodPost)
		header.Set("Access-Control-Allow-Headers", "Content-Type")
		header.Set("Access-Control-Max-Age", "600") // seconds
	}
	return preflight(x)
}

// integrationToken is the answer with a token.
type integrationToken struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	ExpiresIn int64     `json:"expires_in"` // seconds
	Header    string    `json:"header"`     // in which ProteinPaint expects it
}

// token answers POST of a token for the person whose page asks, or for a program that proves who it acts for. A session
// counts only with the origin of a page that may ask (rule C3).
func (i *integrations) token(x *exchange) error {
	id, of := i.of(x)
	origin := x.GetHeader("Origin")
	switch {
	case origin != "" && !slices.Contains(of.Origins, origin):
		return errCrossing
	case x.caller.Proof == authn.Session && origin == "":
		return errCrossing
	case x.caller.User.ID == "" && x.refused != nil:
		return x.refused
	case x.caller.Proof == "":
		return errSignIn
	}
	x.want = tokenWanted{audience: id}
	if err := i.tokens.scoped(x); err != nil {
		return err
	}
	tellEnd(x, x.caller.ExpiresAt)
	text, _ := x.param("expires")
	life, err := lifetime(text)
	if err != nil {
		return err
	}
	datasets, _ := x.param("datasets")
	address, _ := x.param("ip")
	if err := i.tokens.narrow(x, datasets, address); err != nil {
		return err
	}
	token, err := i.tokens.minted(x, life, nil)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, integrationToken{token.Value, token.ExpiresAt.UTC(), token.ExpiresIn, of.HeaderKey})
}

// narrow reads which datasets of an integration a token is to name, and the address of its person. That of a browser is
// what trusted proxies say; a program names the one of the person whose page it serves, else its own counts.
func (t *tokens) narrow(x *exchange, datasets, address string) error {
	split := func(r rune) bool { return r == ',' || r == ' ' }
	x.want.datasets = strings.FieldsFunc(datasets, split)
	of, is := t.issuer.Integration(x.want.audience)
	switch {
	case address != "" && (!is || x.caller.Proof == authn.Session):
		return badRequest("message", "ip is for programs that ask for an integration's token")
	case address != "":
		named, err := netip.ParseAddr(address)
		if err != nil {
			return badRequest("message", "ip is no address, like 192.0.2.7")
		}
		x.want.address = named
	case is && of.IP == issuer.IPStrict:
		x.want.address = x.peer.Addr
	}
	return nil
}

// preview answers GET of the claims that a person of a role would get: ?role=0 is the first, and without it one who has
// none.
func (i *integrations) preview(x *exchange) error {
	id, of := i.of(x)
	role := -1
	if text, named := x.param("role"); named {
		number, err := strconv.Atoi(text)
		if err != nil || number < 0 || number >= len(of.Roles) {
			return &inputError{"role: want the number of a role, from 0 to " + strconv.Itoa(len(of.Roles)-1)}
		}
		role = number
	}
	claims, err := i.issuer.Preview(id, role)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, map[string]json.RawMessage{"claims": claims})
}
