package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// logins answers what a person does about their connections: /oauth2/ and the pages of a login.
type logins struct {
	broker    *broker.Broker
	sessions  *authn.Sessions
	limits    *loginLimits
	crossSite *http.CrossOriginProtection
}

// authorizationURL begins a login: GET /oauth2/authorization_url?idp=&redirect=.
func (l *logins) authorizationURL(x *exchange) error {
	// A page cannot begin a login unseen: where a browser says what it loads this for, it has to be
	// the window itself.
	if dest := x.GetHeader("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		return errFraming
	}
	redirect, _ := x.param("redirect")
	switch {
	case len(redirect) > maxRedirect:
		return errLongRedirect
	case redirect != "" && !localPath(redirect):
		return badRequest("message", "only support relative redirect")
	}
	name, _ := x.param("idp")
	id, err := l.broker.Provider(name)
	if err != nil {
		return unknownProvider(name)
	}
	return l.begin(x, id, redirect)
}

// begin sends the browser to a provider, which sends it back with a redirect to follow; or asks first whether the person
// means it.
func (l *logins) begin(x *exchange, id, redirect string) error {
	confirmed := l.broker.IsDefault(id) || l.confirmed(x)
	if !confirmed && x.caller.User.ID != "" {
		return l.askToConnect(x, id, redirect)
	}
	begun, err := l.broker.Begin(x.Request.Context(), id, x.caller.User.ID, redirect)
	if errors.Is(err, broker.ErrSignInFirst) && x.refused != nil {
		return x.refused // a login would not replace the bearer, and would lead here again and again
	}
	if errors.Is(err, broker.ErrSignInFirst) && x.wantsPage() {
		// Sign in, and come back here.
		here := connectAddress(x, id, redirect, confirmed)
		x.Redirect(http.StatusFound, x.base+"/oauth2/authorization_url?"+url.Values{"redirect": {here}}.Encode())
		return nil
	}
	if err != nil {
		return &loginError{error: err, provider: id, redirect: redirect}
	}
	x.dropOldFlows()
	x.setLong(flowCookie(begun.State), begun.Sealed)
	keepWayBack(x, begun.State, id, redirect)
	x.Redirect(http.StatusFound, begun.URL)
	return nil
}

// authorize is the callback, /oauth2/authorize or a provider's own below it. Of its parameters these four
// are read, and no other ever goes on to the provider.
func (l *logins) authorize(x *exchange) error {
	back := broker.Callback{UserID: x.caller.User.ID, Provider: x.Param("idp")}
	back.State, _ = x.param("state")
	back.Code, _ = x.param("code")
	back.Issuer, _ = x.param("iss")
	back.Error, _ = x.param("error")
	back.Sealed = x.takeLong(flowCookie(back.State))
	if x.portal && x.caller.Proof == authn.Bearer {
		back.Username = x.caller.User.Username
	}
	x.event.Action = audit.Connect
	done, err := l.finish(x, back)
	x.event.Provider = done.Provider
	if done.Default {
		x.event.Action = audit.Login
	}
	if done.Username != "" { // also of a login that is refused: the audit says whose it was
		x.caller.User.ID, x.caller.User.Username = done.UserID, done.Username
	}
	if err != nil {
		failed := &loginError{error: err, provider: done.Provider, redirect: done.Redirect, callback: true}
		if failed.provider == "" {
			failed.provider, failed.redirect = wayBack(x, back.State)
		}
		return failed
	}
	if done.Default {
		if err := l.signIn(x, done.UserID); err != nil {
			return err
		}
	}
	if !done.Lasting {
		return l.connectedForNow(x, done)
	}
	switch {
	case done.Redirect != "":
		l.sayConnected(x, done)
		x.Redirect(http.StatusFound, escapedPath(done.Redirect))
	case x.wantsPage():
		l.sayConnected(x, done)
		x.Redirect(http.StatusFound, x.base+"/")
	default:
		return x.json(http.StatusOK, map[string]string{"success": "connected with " + l.broker.NameOf(done.Provider)})
	}
	return nil
}

// ofCallback is an error of a callback, also of one that was refused before it was looked at: its page has another
// address, without the code.
func ofCallback(err error) error {
	var known *loginError
	if errors.As(err, &known) {
		return err
	}
	return &loginError{error: err, callback: true}
}

// finish ends a login within the limits of logins.
func (l *logins) finish(x *exchange, back broker.Callback) (done broker.Connected, err error) {
	back.Admit = func(provider string) error {
		ended, refused := l.limits.admit(x.Request.Context(), x, provider)
		if refused == nil {
			x.ended = ended
		}
		return refused
	}
	defer func() { // also where a panic ends it: the network has a place for so many logins alone
		if x.ended != nil {
			x.ended(err)
		}
	}()
	return l.broker.Finish(x.Request.Context(), back)
}

// connectedForNow tells a person, a program and the log that a login gave no refresh token: workers are
// refused as soon as its access token has expired.
func (l *logins) connectedForNow(x *exchange, done broker.Connected) error {
	name := l.broker.NameOf(done.Provider)
	x.log.Warn("a login brought no refresh token, so that the connection ends with its access token; add offline_access to the provider's scopes, or set prompt: consent (Google: login_params.access_type: offline)",
		slog.String("provider", done.Provider), slog.String("request", x.id))
	if !x.wantsPage() {
		text := name + " gave no refresh token: the connection ends with its first access token, and workspaces are refused after that. Logging in again will not help; tell an operator to ask for offline access."
		return x.json(http.StatusOK, map[string]string{"success": "connected with " + name, "warning": text})
	}
	loginFailed(x, &loginError{error: errShort, provider: done.Provider, redirect: done.Redirect, ends: done.Ends})
	return nil
}

// sayConnected says on the next page of ours what a login did.
func (l *logins) sayConnected(x *exchange, done broker.Connected) {
	said := l.broker.NameOf(done.Provider) + " is connected"
	if done.Account != "" {
		said += " as " + done.Account
	}
	leave(x, notice{Notice: web.Notice{Text: said + ". Your workspaces can use it now."}})
}

// connected tells whether the caller's grant lives: GET /oauth2/connected?idp=. A 403 is what lets
// Gen3's portal link anew by itself (Gen3 contract 1.1).
func (l *logins) connected(x *exchange) error {
	name, _ := x.param("idp")
	id, err := l.broker.Provider(name)
	if err != nil {
		return unknownProvider(name)
	}
	if x.caller.Proof == "" {
		return errNoSession
	}
	err = l.broker.Living(x.Request.Context(), x.caller.User.ID, id)
	for _, mendedByLogin := range []error{broker.ErrNotConnected, broker.ErrGrantExpired, broker.ErrGrantBroken} {
		if errors.Is(err, mendedByLogin) {
			return errNotLinked
		}
	}
	if err != nil {
		return err
	}
	x.Data(http.StatusOK, "text/html; charset=utf-8", nil)
	return nil
}

// signIn begins a session with a handle of its own; the one that the browser had ends.
func (l *logins) signIn(x *exchange, userID string) error {
	if err := l.sessions.End(x.Request.Context(), x.Request); err != nil {
		return err
	}
	handle, life, err := l.sessions.Begin(x.Request.Context(), userID, x.peer.Addr.Unmap().String(), readable(x.GetHeader("User-Agent"), maxAgent))
	if err != nil {
		return err
	}
	x.cookie(l.sessions.Cookie, handle, life)
	return nil
}

// logout ends the session that asks, if there is one: GET /oauth2/logout, 204 always (Gen3 contract).
func (l *logins) logout(x *exchange) error {
	x.event.Action = audit.Logout
	if err := l.sessions.End(x.Request.Context(), x.Request); err != nil {
		return err
	}
	x.cookie(l.sessions.Cookie, "", -1)
	x.Status(http.StatusNoContent)
	return nil
}

// disconnect is POST /oauth2/logout: with idp the connection ends, at once and on every replica;
// without it the session does.
func (l *logins) disconnect(x *exchange) error {
	if err := l.crossSite.Check(x.Request); err != nil {
		return errCrossing
	}
	name, named := x.param("idp")
	if !named {
		if err := l.logout(x); err != nil || !x.wantsPage() {
			return err
		}
		return signedOut(x, "You are signed out here. Your workspaces go on.")
	}
	x.event.Action = audit.Disconnect
	id, err := l.broker.Provider(name)
	if err != nil {
		return unknownProvider(name)
	}
	x.event.Provider = id
	if x.caller.User.ID == "" {
		return broker.ErrSignInFirst
	}
	if err := l.broker.Disconnect(x.Request.Context(), x.caller.User.ID, id); err != nil && !errors.Is(err, broker.ErrNotConnected) {
		return err
	}
	told := revokes(x, l.broker, id)
	switch {
	case x.wantsPage():
		return l.disconnected(x, id, told)
	case !told:
		x.Header("Wts-Notice", noRevocation)
	}
	x.Status(http.StatusNoContent)
	return nil
}

// disconnected tells a person what was ended, and where the grant goes on; or goes on to connect another account.
func (l *logins) disconnected(x *exchange, id string, told bool) error {
	name := l.broker.NameOf(id)
	if then := x.Request.PostFormValue("then"); then == "connect" {
		// A page between: else the policy that the form's page has would hold for the provider's addresses too.
		redirect := x.Request.PostFormValue("redirect")
		if !localPath(redirect) {
			redirect = ""
		}
		address := connectAddress(x, id, redirect, true)
		x.page(http.StatusOK, web.Message{
			Title: "On to " + name, Text: "The former account is disconnected. You go on to " + name + " by yourself; if not, use the button.", At: x.began,
			Steps: []web.Step{{Label: "Connect " + name, Address: address}}, Refresh: address,
		})
		return nil
	}
	said := name + " is disconnected. Your workspaces get no more tokens of it."
	if !told {
		said += " It cannot be told to forget the grant: if you want it to end there too, remove this service's access in your account at " + name + "."
	}
	return goTo(x, "/", said)
}
