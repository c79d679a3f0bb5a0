package server

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// grants answers where a person lets a program act for them: /oauth2/auth, /oauth2/device_authorization, /device, and
// what follows at /oauth2/token.
type grants struct {
	service   *grant.Service
	limits    *limits
	crossSite *http.CrossOriginProtection
	public    string
}

// What is asked for travels through the browser and back with the form, and is judged anew each time: the page holds no
// state that the server would have to keep, and what was changed on the way is refused as it would have been at first.

// wish is what a program asks a person for, by way of their browser (RFC 6749 4.1.1).
type wish struct {
	grant.Request
	client grant.Client
	fields url.Values // what was sent, for the form that sends it again
}

// The parameters that are read; others are ignored, as RFC 6749 3.1 wants.
var wished = []string{"response_type", "client_id", "redirect_uri", "scope", "audience", "state", "code_challenge", "code_challenge_method", "prompt"}

// read reads a wish. Its error is answered here where the browser may go nowhere; sent says that the client was told.
func (g *grants) read(x *exchange, values url.Values) (read wish, sent bool, err error) {
	read.fields = url.Values{}
	for _, name := range wished {
		switch sent := values[name]; {
		case len(sent) > 1:
			return read, false, &inputError{name + " is sent more than once"}
		case len(sent) == 1 && sent[0] != "":
			read.fields[name] = sent
		}
	}
	read.Request, err = g.service.Check(grant.Request{
		Client: read.fields.Get("client_id"), RedirectURI: read.fields.Get("redirect_uri"), Audience: read.fields.Get("audience"),
		Scopes: strings.Fields(read.fields.Get("scope")), Challenge: read.fields.Get("code_challenge"),
	})
	if errors.Is(err, grant.ErrClient) || errors.Is(err, grant.ErrRedirect) {
		return read, false, err
	}
	read.client, _ = g.service.Client(read.Client)
	x.event.Audience = read.Audience
	prompt := read.fields.Get("prompt")
	switch {
	case read.fields.Get("response_type") != "code":
		return read, true, g.back(x, read, "unsupported_response_type", "want response_type=code")
	case read.fields.Get("code_challenge_method") != "S256":
		return read, true, g.back(x, read, "invalid_request", "want code_challenge_method=S256")
	case err != nil:
		return read, true, g.refuse(x, read, err)
	case prompt != "" && !slices.Contains([]string{"none", "consent", "login"}, prompt):
		return read, true, g.back(x, read, "invalid_request", "prompt: want none, consent or login")
	}
	return read, false, nil
}

// authorize answers GET /oauth2/auth: a person who is logged in is asked whether the program may act for them.
func (g *grants) authorize(x *exchange) error {
	if dest := x.GetHeader("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		return errFraming
	}
	asked, sent, err := g.read(x, x.Request.URL.Query())
	if sent || err != nil {
		return err
	}
	silent := asked.fields.Get("prompt") == "none"
	switch loggedIn, err := g.loggedIn(x, asked.client, asked.fields.Get("prompt") == "login"); {
	case err != nil:
		return err
	case !loggedIn && silent:
		return g.back(x, asked, "login_required", "the person has to log in first")
	case !loggedIn:
		if asked.fields.Get("prompt") == "login" { // once
			asked.fields.Del("prompt")
		}
		return g.logIn(x, "/oauth2/auth?"+asked.fields.Encode())
	}
	if err := g.service.May(x.Request.Context(), x.caller.User.ID, asked.Audience, asked.Scopes); err != nil {
		return g.refuse(x, asked, err)
	}
	if asked.client.SkipConsent && asked.fields.Get("prompt") != "consent" {
		return g.allow(x, asked)
	}
	if silent {
		return g.back(x, asked, "consent_required", "the person has to be asked")
	}
	asked.fields.Set("for", x.caller.User.ID)
	page := g.consent(x, asked.client, grant.Authorization{Audience: asked.Audience, Scopes: asked.Scopes}, asked.fields)
	page.Action, page.Site, page.Target = "/oauth2/auth", siteOf(asked.RedirectURI), siteOf(asked.RedirectURI)
	x.page(http.StatusOK, page)
	return nil
}

// decide answers POST /oauth2/auth: what the person said.
func (g *grants) decide(x *exchange) error {
	form, err := g.form(x)
	if err != nil {
		return err
	}
	asked, sent, err := g.read(x, form)
	if sent || err != nil {
		return err
	}
	switch loggedIn, err := g.loggedIn(x, asked.client, false); {
	case err != nil:
		return err
	case !loggedIn, form.Get("for") != x.caller.User.ID: // it is to be shown to who is here now
		return g.logInOrAsk(x, loggedIn, "/oauth2/auth?"+asked.fields.Encode())
	case form.Get("decision") != "allow":
		x.event.Action, x.event.Client, x.event.Reason = audit.Allow, asked.Client, grant.ErrDenied.Error()
		return g.back(x, asked, "access_denied", "the person did not allow it")
	}
	return g.allow(x, asked)
}

// form reads what a page of ours sends, and no page of another site.
func (g *grants) form(x *exchange) (url.Values, error) {
	if err := g.crossSite.Check(x.Request); err != nil {
		return nil, errCrossing
	}
	return readForm(x)
}

// allow sends the browser back with a code. A person has a share of them.
func (g *grants) allow(x *exchange, asked wish) error {
	if err := g.limits.take(x, changes, nil); err != nil {
		return err
	}
	x.event.Action, x.event.Client = audit.Allow, asked.Client
	code, err := g.service.Allow(x.Request.Context(), asked.Request, x.caller.User.ID, x.caller.Since)
	if err != nil {
		return g.refuse(x, asked, err)
	}
	return g.redirect(x, asked, url.Values{"code": {code}})
}

// refuse tells the client why it gets nothing; an outage is told to the person.
func (g *grants) refuse(x *exchange, asked wish, err error) error {
	if isOutage(err) {
		return err
	}
	x.event.Reason = err.Error()
	switch {
	case errors.Is(err, grant.ErrRequest):
		return g.back(x, asked, "invalid_request", reasonOf(err))
	case errors.Is(err, grant.ErrUnauthorized):
		return g.back(x, asked, "unauthorized_client", reasonOf(err))
	case errors.Is(err, issuer.ErrScope):
		return g.back(x, asked, "invalid_scope", "the scope is not one that this audience gives")
	}
	return g.back(x, asked, "access_denied", "the person may not have such a token")
}

// back sends the browser back with an error (RFC 6749 4.1.2.1).
func (g *grants) back(x *exchange, asked wish, code, text string) error {
	return g.redirect(x, asked, url.Values{"error": {code}, "error_description": {text}})
}

// redirect sends the browser back to the client, with who sends it (RFC 9207).
func (g *grants) redirect(x *exchange, asked wish, answer url.Values) error {
	answer.Set("iss", g.public)
	if state := asked.fields.Get("state"); state != "" {
		answer.Set("state", state)
	}
	address, err := url.Parse(asked.RedirectURI)
	if err != nil {
		return grant.ErrRedirect
	}
	query := address.Query()
	for name, values := range answer {
		query[name] = values
	}
	address.RawQuery = query.Encode()
	x.Redirect(http.StatusSeeOther, address.String())
	return nil
}

// siteOf is what the policy of a page has to name for its form to lead there.
func siteOf(redirectURI string) string {
	address, err := url.Parse(redirectURI)
	switch {
	case err != nil:
		return ""
	case address.Host == "", strings.HasPrefix(address.Host, "["): // no policy can name an IPv6 address
		return address.Scheme + ":"
	}
	return address.Scheme + "://" + address.Host
}

// loggedIn tells whether a person is here who may decide: for what outlives the hour, one who logged in within it
// (rule C6).
func (g *grants) loggedIn(x *exchange, client grant.Client, anew bool) (bool, error) {
	switch {
	case x.caller.Proof == "" && x.portal: // a login here would not log them in at the portal
		return false, errPortal
	case x.caller.Proof == "":
		return false, nil
	case anew:
		return time.Since(x.caller.Since) < time.Minute, nil
	case client.Refresh || slices.Contains(client.Audiences, issuer.OwnAudience):
		return time.Since(x.caller.Since) < stepUp, nil
	}
	return true, nil
}

// logIn sends the browser to log in, and back here.
func (g *grants) logIn(x *exchange, here string) error {
	if len(x.base+here) > maxRedirect {
		return errLongRedirect
	}
	x.Redirect(http.StatusSeeOther, x.base+"/oauth2/authorization_url?"+url.Values{"redirect": {x.base + here}}.Encode())
	return nil
}

// logInOrAsk sends the browser to log in where it has to, or to the question again, which another person was asked.
func (g *grants) logInOrAsk(x *exchange, loggedIn bool, here string) error {
	if !loggedIn {
		return g.logIn(x, here)
	}
	x.Redirect(http.StatusSeeOther, x.base+here)
	return nil
}

// consent is the page that asks.
func (*grants) consent(x *exchange, client grant.Client, asked grant.Authorization, fields url.Values) web.Consent {
	page := web.Consent{
		Client: client.Name, Username: x.caller.User.Username, Audience: asked.Audience, Scopes: asked.Scopes, Lasting: client.Refresh, Own: asked.Audience == issuer.OwnAudience,
		Address: asked.Address, Agent: asked.Agent,
	}
	for name, values := range fields {
		page.Fields = append(page.Fields, web.Field{Name: name, Value: values[0]})
	}
	return page
}

// issued is the answer with a token for a program (RFC 6749 5.1).
type issued struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

// token answers /oauth2/token for a code, a device code or a refresh token. The client has no secret: client_id says
// which one it is, and what it was sent shows it.
func (g *grants) token(x *exchange, form url.Values) error {
	x.event.Action = audit.Mint
	client, err := g.clientOf(x, form)
	if err != nil {
		return err
	}
	if err := g.limits.take(x, mints, nil); err != nil {
		return err
	}
	var done grant.Issued
	ctx := x.Request.Context()
	switch form.Get("grant_type") {
	case grantCode:
		done, err = g.service.Exchange(ctx, client, form.Get("code"), form.Get("redirect_uri"), form.Get("code_verifier"))
	case grantRefresh:
		done, err = g.service.Refresh(ctx, client, form.Get("refresh_token"), strings.Fields(form.Get("scope")))
	default:
		done, err = g.poll(x, client, form.Get("device_code"))
	}
	x.event.UserID, x.event.Username, x.event.Audience, x.event.Token = done.UserID, done.Username, done.Token.Audience, done.Token.ID
	if done.Login != "" {
		x.event.Proof, x.event.Actor = string(authn.Login), "login "+done.Login
	}
	if err != nil {
		return ofPerson(err)
	}
	x.record()
	return x.json(http.StatusOK, issued{
		AccessToken: done.Token.Value, TokenType: "Bearer", ExpiresIn: done.Token.ExpiresIn, RefreshToken: done.RefreshToken, Scope: strings.Join(done.Token.Scopes, " "),
	})
}

// clientOf is the client that asks: its id stands in the form, or as the name of HTTP Basic without a secret.
func (g *grants) clientOf(x *exchange, form url.Values) (string, error) {
	client := form.Get("client_id")
	if name, secret, basic := x.Request.BasicAuth(); basic && secret == "" && client == "" {
		client = unescaped(name)
	}
	if !g.service.Registered(client) {
		return "", grant.ErrClient
	}
	x.event.Client = client
	return client, nil
}

// personError is what keeps a person's program from going on: the person themselves has to do something.
type personError struct{ error }

func (e *personError) Unwrap() error { return e.error }

// ofPerson marks the errors that are the person's.
func ofPerson(err error) error {
	for _, one := range []error{authn.ErrBearer, authn.ErrDisabled, broker.ErrUserDisabled, broker.ErrNotConnected, broker.ErrGrantExpired, broker.ErrGrantBroken} {
		if errors.Is(err, one) {
			return &personError{err}
		}
	}
	return err
}

// crossOrigin lets scripts of registered sites read an answer, and no other's (rule C4). No cookie counts at these
// addresses.
func (g *grants) crossOrigin(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		header := x.Writer.Header()
		header.Add("Vary", "Origin")
		if origin := x.GetHeader("Origin"); origin != "" && g.service.Allowed(origin) {
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Methods", http.MethodPost)
			header.Set("Access-Control-Allow-Headers", "Content-Type")
			header.Set("Access-Control-Max-Age", "600") // seconds
		}
		return handle(x)
	}
}

// preflight answers OPTIONS of what programs post to.
func preflight(x *exchange) error {
	x.Header("Allow", "OPTIONS, POST")
	x.Status(http.StatusNoContent)
	return nil
}
