// Package server is the HTTP edge: routes, callers, errors. gin lives here and nowhere else.
//
// Handlers parse, call and render. What a proof is worth is authn's to say, what a grant is worth
// the broker's, what a token says the issuer's.
package server

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/publisher"
	"github.com/workspace-token-service/wts/web"
)

// Observer counts requests. Route is asked once for each route.
type Observer interface {
	Route(name string) func(status int, took time.Duration)
	// Proven is told by which proof a caller was known.
	Proven(proof authn.Proof)
}

// Parts are what a Server is made of; all of them are needed.
type Parts struct {
	Config    Config
	Authn     *authn.Authenticator
	Sessions  *authn.Sessions
	Broker    *broker.Broker
	Issuer    *issuer.Issuer
	APITokens *apitoken.Service
	// Publishers say whose CI jobs act for resources.
	Publishers *publisher.Service
	// Grants are how programs come to act for people.
	Grants  *grant.Service
	Commons *aggregate.Aggregator
	// Trail takes what the audit keeps in the database, and Events reads it for people.
	Trail    *audit.Trail
	Events   audit.History
	Accounts Accounts
	Seals    Seals
	Database Database
	Observer Observer
	Log      *slog.Logger
}

// Server answers requests. It is an http.Handler.
type Server struct {
	engine *gin.Engine
	edge   *edge
}

// Drain has /readyz say from now on that the service is about to end; everything else goes on.
func (s *Server) Drain() { s.edge.draining.Store(true) }

// New makes a server of its parts. Its error is that of the pages' logo, which cannot be read.
func New(parts Parts) (*Server, error) {
	gin.SetMode(gin.ReleaseMode)
	parts.Config = parts.Config.WithDefaults()
	s := &Server{engine: gin.New(), edge: &edge{
		authn: parts.Authn, sessions: parts.Sessions, observer: parts.Observer, log: parts.Log, trail: parts.Trail, portal: parts.Config.Portal, public: parts.Config.URL,
		broker: parts.Broker, apiTokens: parts.APITokens, seals: parts.Seals,
	}}
	crossSite := http.NewCrossOriginProtection()
	if public, err := url.Parse(parts.Config.URL); err == nil {
		s.edge.base, s.edge.secure = strings.TrimRight(public.Path, "/"), public.Scheme == "https"
		_ = crossSite.AddTrustedOrigin(public.Scheme + "://" + public.Host) // an origin, since the URL is valid
	}
	var err error
	if s.edge.site, err = web.New(parts.Config.Page, s.edge.base); err != nil {
		return nil, err
	}
	s.edge.defaultProvider, _ = parts.Broker.Provider("") // there always is one
	s.edge.exchanges.New = func() any { return &exchange{} }
	// The peer is the TCP peer. gin believes everybody's X-Forwarded-For unless told otherwise; here
	// nobody asks gin (authn.Peer is what decides), and it is told all the same.
	_ = s.engine.SetTrustedProxies(nil)
	s.engine.RemoveExtraSlash = true
	s.engine.RedirectTrailingSlash = false
	s.engine.HandleMethodNotAllowed = true
	s.routes(parts, crossSite)
	return s, nil
}

// Routes are the method and the path of every route, for who compares them with the contract (api/openapi.yaml).
func (s *Server) Routes() []string {
	var all []string
	for _, route := range s.engine.Routes() {
		all = append(all, route.Method+" "+route.Path)
	}
	return all
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if ambiguous(r.URL) {
		r.URL.Path, r.URL.RawPath = nowhere, ""
	}
	s.engine.ServeHTTP(w, r)
}

// nowhere is a path that no route has.
const nowhere = "/\x00"

// ambiguous tells a path that a proxy before us may read as another one than we do: with dots that lead
// elsewhere, or with an escaped slash, backslash or dot.
func ambiguous(address *url.URL) bool {
	if strings.Contains(address.Path, "/.") {
		for segment := range strings.SplitSeq(address.Path, "/") {
			if segment == "." || segment == ".." {
				return true
			}
		}
	}
	if strings.IndexByte(address.Path, '\\') >= 0 || strings.IndexByte(address.Path, 0) >= 0 || !utf8.ValidString(address.Path) {
		return true
	}
	raw := strings.ToLower(address.RawPath) // empty where the path was sent as we would write it
	return strings.Contains(raw, "%2f") || strings.Contains(raw, "%2e")
}

// routes is the table of contents: each line says who answers, and which proofs the route accepts.
func (s *Server) routes(parts Parts, crossSite *http.CrossOriginProtection) {
	limits := newLimits(parts.Config.RateLimits)
	tokens := &tokens{parts.Broker, parts.Issuer, limits, parts.Config.DefaultAudience}
	external := &external{parts.Broker, parts.Config.URL}
	commons := &commons{parts.Broker, parts.Commons}
	logins := &logins{parts.Broker, parts.Sessions, newLoginLimits(), crossSite}
	keys := &keys{parts.Issuer, renderDiscovery(parts.Config.URL, parts.Issuer.ScopesOf(issuer.OwnAudience))}
	health := &health{parts.Database, parts.Issuer, parts.Config.Version, parts.Config.Commit}

	anyone, probe := policy{}, policy{quiet: true}
	visitor := policy{accepts: authn.Accepts{Session: true}, anonymous: true}
	person := policy{accepts: authn.Accepts{Session: true, Bearer: true}, anonymous: true}
	leaving := policy{accepts: person.accepts, anonymous: true, disabled: true, action: audit.Disconnect}
	client := policy{accepts: authn.Accepts{Session: !parts.Config.Portal, Bearer: true}, anonymous: true}
	asker := policy{accepts: client.accepts, anonymous: true, strict: true, action: audit.Handout}
	worker := policy{
		accepts: authn.Accepts{ServiceAccount: true, APIToken: true, Login: true, Session: !parts.Config.Portal, Bearer: true, Pod: true}, refine: tokens.proofs, action: audit.Handout,
	}

	s.get("/token", worker, tokens.token)
	s.get("/token/", worker, tokens.token)

	s.get("/external_oidc", client, external.list)
	s.get("/external_oidc/", client, external.list)
	s.get("/aggregate/*endpoint", asker, commons.aggregate)

	s.get("/oauth2/connected", client, logins.connected)
	s.get("/oauth2/authorization_url", person, logins.authorizationURL)
	callback := policy{accepts: person.accepts, anonymous: true, callback: true}
	s.only(http.MethodGet, "/oauth2/authorize", callback, logins.authorize) // no HEAD: a code is good once
	s.only(http.MethodGet, "/oauth2/authorize/:idp", callback, logins.authorize)
	s.get("/failed", visitor, logins.failed)
	s.get("/oauth2/logout", anyone, logins.logout)
	s.only(http.MethodPost, "/oauth2/logout", leaving, logins.disconnect)

	api := &apiTokens{parts.APITokens, parts.Issuer, parts.Broker, limits, crossSite}
	jobs := &publishers{api, parts.Publishers}
	grants := &grants{parts.Grants, limits, crossSite, parts.Config.URL}
	s.pages(parts, api)
	s.apiRoutes(parts, api, jobs)
	s.integrationRoutes(parts, api, tokens)
	s.oauthRoutes(parts, &oauth{tokens, parts.APITokens, parts.Issuer, limits, jobs, grants})
	served := parts.Grants.Auth()
	s.authRoutes(&auths{served, parts.APITokens, parts.Issuer, limits, logins, served.Audience, parts.Config.URL}, callback)

	s.get("/status/:list", anyone, (&statusLists{parts.APITokens}).show)
	s.get("/.well-known/jwks.json", anyone, keys.keySet)
	s.get("/.well-known/openid-configuration", anyone, keys.discover)
	s.get("/.well-known/oauth-authorization-server", anyone, keys.discover)

	s.get("/_status", probe, health.status)
	s.get("/_version", anyone, health.showVersion)
	s.get("/healthz", probe, health.healthz)
	s.get("/readyz", probe, health.readyz)
	s.get("/static/:file", probe, asset)
	reference := newReference()
	s.get("/docs", policy{accepts: visitor.accepts, anonymous: true, quiet: true, forPeople: true}, reference.show)
	s.get("/openapi.yaml", probe, reference.file)

	s.engine.NoRoute(s.edge.handler("none", anyone, func(*exchange) error { return errNotFound }))
	s.engine.NoMethod(s.edge.handler("none", anyone, func(*exchange) error { return errMethod }))
}

// pages are those of a person: a form posts below the page that it stands on.
func (s *Server) pages(parts Parts, api *apiTokens) {
	people := &people{api}
	tokens := &tokenPages{people}
	activity := &activityPages{people, parts.Events, parts.Grants}
	sessions := &sessionPages{parts.Sessions, parts.Grants}
	admin := &adminPages{activity, parts.Accounts}

	visitor := policy{accepts: authn.Accepts{Session: true}, anonymous: true}
	person := policy{accepts: authn.Accepts{Session: true, Bearer: parts.Config.Portal}, anonymous: true, both: parts.Config.Portal, forPeople: true}
	show := func(path string, handle func(*exchange) error) { s.get(path, person, people.signedIn(handle)) }
	post := func(path, page string, action audit.Action, handle func(*exchange) error) {
		acting := person
		acting.action = action
		s.only(http.MethodPost, path, acting, people.acting(page, handle))
	}
	s.get("/", visitor, (&connections{parts.Broker, parts.Events}).show)
	show("/tokens", tokens.list)
	show("/tokens/new", tokens.form)
	post("/tokens", "/tokens", audit.CreateToken, tokens.create)
	post("/tokens/:id/rotate", "/tokens", audit.RotateToken, tokens.rotate)
	post("/tokens/:id/revoke", "/tokens", audit.RevokeToken, tokens.revoke)
	post("/tokens/revoke", "/tokens", "", tokens.revokeAll)

	const resource = "/resources/:audience/:resource"
	show("/resources", tokens.resources)
	show(resource, tokens.resource)
	show(resource+"/new", tokens.form)
	post(resource+"/tokens", "/resources", audit.CreateToken, tokens.create)
	post(resource+"/tokens/:id/rotate", "/resources", audit.RotateToken, tokens.rotate)
	post(resource+"/tokens/:id/revoke", "/resources", audit.RevokeToken, tokens.revoke)

	show("/activity", activity.list)
	show("/activity/not-me", activity.notMe)
	show("/sessions", sessions.list)
	post("/sessions/:id/end", "/sessions", audit.EndSession, sessions.end)
	post("/sessions/end", "/sessions", audit.EndSession, sessions.endAll)

	show("/admin", admin.only(admin.show))
	post("/admin/disable", "/admin", audit.DisableUser, admin.only(admin.setDisabled(true)))
	post("/admin/enable", "/admin", audit.EnableUser, admin.only(admin.setDisabled(false)))
}

// oauthRoutes are those of programs, and the pages on which a person lets one in.
func (s *Server) oauthRoutes(parts Parts, oauth *oauth) {
	grants := oauth.grants
	asked := policy{accepts: authn.Accepts{Session: true, Bearer: parts.Config.Portal}, anonymous: true, both: parts.Config.Portal}
	s.only(http.MethodGet, "/oauth2/auth", asked, grants.authorize) // no HEAD: a code may be made
	s.only(http.MethodPost, "/oauth2/auth", asked, grants.decide)
	s.only(http.MethodGet, "/device", asked, grants.showDevice)
	s.only(http.MethodPost, "/device", asked, grants.decideDevice)

	program := func(action audit.Action) policy { return policy{action: action, shape: oauthShape, api: true} } // who asks stands in the form
	s.only(http.MethodPost, "/oauth2/device_authorization", program(""), grants.device)
	s.only(http.MethodPost, "/oauth2/introspect", policy{quiet: true, shape: oauthShape, api: true}, oauth.introspect)
	for path, line := range map[string]struct {
		action audit.Action
		handle func(*exchange) error
	}{"/oauth2/token": {audit.Exchange, oauth.token}, "/oauth2/revoke": {audit.RevokeToken, oauth.revoke}} {
		s.only(http.MethodPost, path, program(line.action), grants.crossOrigin(line.handle))
		s.only(http.MethodOptions, path, policyOfOptions, grants.crossOrigin(preflight))
	}
}

// authRoutes are those of PEPhub's clients, for the audience that is served there. What a script or a program calls takes
// no cookie.
func (s *Server) authRoutes(auth *auths, callback policy) {
	devices, keys := &authDevices{auth}, &authKeys{auth}
	browser := policy{accepts: authn.Accepts{Session: true}, anonymous: true, shape: detailShape}
	s.get("/auth/login", browser, auth.served(auth.login))
	s.only(http.MethodGet, "/auth/callback", callback, auth.served(auth.logins.authorize)) // for a provider where this address is registered
	s.only(http.MethodGet, "/auth/complete", browser, auth.served(auth.complete))
	s.get("/auth/login/success", browser, auth.served(auth.success))
	s.get("/auth/device/login/:code", browser, auth.served(devices.showDevice))

	script := func(method, path string, policy policy, handle func(*exchange) error) {
		policy.api = true
		if policy.shape == nil {
			policy.shape = detailShape
		}
		s.only(method, path, policy, auth.served(auth.crossOrigin(handle)))
	}
	script(http.MethodPost, "/auth/token", policy{}, auth.token)
	script(http.MethodPost, "/auth/device/init", policy{}, devices.device)
	script(http.MethodPost, "/auth/device/token", policy{shape: pollShape}, devices.poll)
	script(http.MethodGet, "/auth/session", policy{quiet: true}, auth.session)
	script(http.MethodPost, "/auth/renew", policy{action: audit.Mint}, auth.renew)
	script(http.MethodPost, "/auth/logout", policy{action: audit.EndSession}, auth.logout)
	script(http.MethodGet, "/auth/user/keys", policy{action: audit.ListTokens}, keys.list)
	script(http.MethodPost, "/auth/user/keys", policy{action: audit.CreateToken}, keys.create)
	script(http.MethodDelete, "/auth/user/keys", policy{action: audit.RevokeToken}, keys.drop)
	script(http.MethodPost, "/authz/check", policy{quiet: true}, (&authz{auth}).check)
	for _, path := range []string{"/auth/token", "/auth/device/init", "/auth/device/token", "/auth/session", "/auth/renew", "/auth/logout", "/auth/user/keys"} {
		s.only(http.MethodOptions, path, policyOfOptions, auth.served(auth.crossOrigin(preflight)))
	}
}

// apiRoutes are those of API tokens and of the resources that have some.
func (s *Server) apiRoutes(parts Parts, tokens *apiTokens, jobs *publishers) {
	resources, limits := &resources{tokens}, tokens.limits
	person := func(action audit.Action, scopes ...string) policy {
		return policy{
			accepts: authn.Accepts{Session: true, Bearer: parts.Config.Portal, Login: true}, scopes: scopes,
			action: action, shape: problem, api: true, both: parts.Config.Portal,
		}
	}
	itself := func(action audit.Action) policy { return policy{action: action, shape: problem, api: true} } // the token is looked at by the handler
	change := func(method, path string, action audit.Action, handle func(*exchange) error) {
		s.only(method, path, person(action, issuer.ScopeAPI), limits.limited(changes, tokens.changing(handle)))
	}
	// What is made goes on when the login has ended that made it.
	lasting := func(method, path string, action audit.Action, handle func(*exchange) error) {
		s.only(method, path, person(action, issuer.ScopeAPICreate), limits.limited(changes, tokens.changing(handle)))
	}
	read := func(path string, action audit.Action, handle func(*exchange) error) {
		s.get(path, person(action, issuer.ScopeAPIRead, issuer.ScopeAPI), limits.limited(reads, handle))
	}

	read("/api/v1/tokens", audit.ListTokens, tokens.list)
	lasting(http.MethodPost, "/api/v1/tokens", audit.CreateToken, tokens.create)
	change(http.MethodDelete, "/api/v1/tokens", audit.RevokeToken, tokens.revokeAll)
	s.get("/api/v1/tokens/self", itself(audit.UseToken), tokens.self)
	s.only(http.MethodPost, "/api/v1/tokens/self/rotate", itself(audit.RotateToken), tokens.rotateSelf)
	s.only(http.MethodPost, "/api/v1/tokens/leaked", itself(audit.ReportToken), limits.limited(reports, tokens.leaked))

	sessions := &sessions{parts.Sessions}
	read("/api/v1/sessions", audit.ListSessions, sessions.list)
	change(http.MethodDelete, "/api/v1/sessions", audit.EndSession, sessions.endAll)
	change(http.MethodDelete, "/api/v1/sessions/:id", audit.EndSession, sessions.end)

	own := &standings{parts.Broker}
	read("/api/v1/user", "", own.user)
	read("/api/v1/connections", "", own.list)
	change(http.MethodDelete, "/api/v1/connections/:provider", audit.Disconnect, own.end)

	read("/api/v1/events", audit.ListEvents, (&events{parts.Events}).list)
	read("/api/v1/resources", audit.ListTokens, resources.list)
	s.only(http.MethodPut, "/api/v1/resources/:audience/:resource", itself(audit.PutResource), resources.put)
	read("/api/v1/resources/:audience/:resource", audit.ListTokens, resources.show)
	lasting(http.MethodPatch, "/api/v1/resources/:audience/:resource", audit.PutResource, resources.edit)

	for _, below := range []string{"/api/v1/tokens", "/api/v1/resources/:audience/:resource/tokens"} {
		read(below+"/:id", audit.ListTokens, tokens.show)
		change(http.MethodPatch, below+"/:id", audit.EditToken, tokens.edit)
		change(http.MethodDelete, below+"/:id", audit.RevokeToken, tokens.revoke)
		lasting(http.MethodPost, below+"/:id/rotate", audit.RotateToken, tokens.rotate)
	}
	read("/api/v1/resources/:audience/:resource/publishers", audit.ListTokens, jobs.list)
	lasting(http.MethodPost, "/api/v1/resources/:audience/:resource/publishers", audit.AddPublisher, jobs.create)
	change(http.MethodDelete, "/api/v1/resources/:audience/:resource/publishers/:id", audit.RemovePublisher, jobs.remove)
	read("/api/v1/resources/:audience/:resource/tokens", audit.ListTokens, tokens.list)
	lasting(http.MethodPost, "/api/v1/resources/:audience/:resource/tokens", audit.CreateToken, tokens.create)
}

// get serves GET, HEAD and OPTIONS, as the Gen3 contract (1.0) wants of every GET route.
func (s *Server) get(path string, policy policy, handle func(*exchange) error) {
	answer := s.edge.handler(path, policy, handle)
	s.engine.GET(path, answer)
	s.engine.HEAD(path, answer)
	s.engine.OPTIONS(path, s.edge.handler(path, policyOfOptions, allowGet))
}

// only serves one method of a path.
func (s *Server) only(method, path string, policy policy, handle func(*exchange) error) {
	s.engine.Handle(method, path, s.edge.handler(path, policy, handle))
}

func allowGet(x *exchange) error {
	x.Header("Allow", "OPTIONS, GET, HEAD")
	x.Status(http.StatusOK)
	return nil
}
