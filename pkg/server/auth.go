package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// A login at /auth goes through four addresses. /auth/login compares the client's redirect URI with those that are
// registered, and sends the browser to the default provider as any login here. /auth/complete, where it comes back to,
// wants a session of the last minutes, makes a code and sends the browser to the client. The client trades the code at
// /auth/token for the token of a login, which is a row among the person's sessions: it is seen on their page, renewed at
// /auth/renew and ended at /auth/logout, or by the person, or with the user.

// auths answers below /auth, where PEPhub's clients log in, for the one audience that is served there.
type auths struct {
	service  *grant.Auth
	tokens   *apitoken.Service
	issuer   *issuer.Issuer
	limits   *limits
	logins   *logins
	audience string // empty where none is served
	public   string
}

// authDevices answers programs without a browser.
type authDevices struct{ *auths }

// What is said where PEPhub's clients look at the text.
var (
	errAuthToken    = errors.New("Invalid token")   //nolint:staticcheck // its words
	errAuthExpired  = errors.New("JWT has expired") //nolint:staticcheck // its words
	errAuthRevoked  = errors.New("JWT has been revoked")
	errAuthCode     = errors.New("Invalid authorization code.")                                                           //nolint:staticcheck // its words
	errAuthRedirect = errors.New("The provided client_redirect_uri is invalid. Please try logging in again.")             //nolint:staticcheck // its words
	errAuthPending  = errors.New("User didn't log in")                                                                    //nolint:staticcheck // its words
	errAuthDevice   = errors.New("Item not found")                                                                        //nolint:staticcheck // its words
	errAuthAddress  = errors.New("client_redirect_uri is not registered here; an operator adds it to auth.redirect_uris") //nolint:lll // one text
)

// errAuthOff: no audience is served here.
var errAuthOff = errors.New("no audience is served at /auth; an operator names one in auth.audience")

// served answers that there is nothing while no audience is served.
func (a *auths) served(handle func(*exchange) error) func(*exchange) error {
	if a.audience == "" {
		return func(*exchange) error { return errAuthOff }
	}
	return handle
}

// detailShape is the error of /auth: PEPhub's clients read {"detail": ...}.
func detailShape(x *exchange, said answer, _ string) error {
	detail := strings.TrimPrefix(strings.TrimPrefix(said.message, denied), refused)
	return x.json(said.status, map[string]string{"detail": detail, "code": said.code, "request_id": x.id})
}

// pollShape is that of a device's question: its client reads the text of a 401, and breaks at any other refusal.
func pollShape(x *exchange, said answer, member string) error {
	if said.status < http.StatusInternalServerError {
		said.status = http.StatusUnauthorized
	}
	return detailShape(x, said, member)
}

// login answers GET /auth/login: on to the default provider, and then back to the client.
func (a *auths) login(x *exchange) error {
	asked, err := a.asked(x)
	if err != nil {
		return err
	}
	return a.logins.begin(x, x.defaultProvider, asked.here(x))
}

// authAsked is what a client asks for by way of a person's browser.
type authAsked struct{ redirectURI, finally, challenge string }

// asked reads it. A redirect URI is compared before anything is done. A page can neither begin a login unseen nor get a
// code: where a browser says what it loads this for, it has to be the window itself (rule A1).
func (a *auths) asked(x *exchange) (asked authAsked, err error) {
	if dest := x.GetHeader("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		return asked, errFraming
	}
	asked.redirectURI, _ = x.param("client_redirect_uri")
	asked.finally, _ = x.param("client_finally_send_to")
	asked.challenge, _ = x.param("code_challenge")
	method, _ := x.param("code_challenge_method")
	switch {
	case !a.service.Redirects(asked.redirectURI):
		return asked, errAuthAddress
	case asked.finally != "" && !localPath(asked.finally) && !a.service.Sends(asked.finally):
		return asked, &inputError{"client_finally_send_to: want a path, or a page of the client's own site"}
	case asked.challenge != "" && (method != "S256" || len(asked.challenge) != 43):
		return asked, &inputError{"code_challenge: want a SHA-256, and code_challenge_method=S256"}
	case len(asked.here(x)) > maxRedirect:
		return asked, errLongRedirect
	}
	return asked, nil
}

// here is where the browser comes back to once its person has logged in.
func (a authAsked) here(x *exchange) string {
	query := url.Values{}
	for name, value := range map[string]string{"client_redirect_uri": a.redirectURI, "client_finally_send_to": a.finally, "code_challenge": a.challenge} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if a.challenge != "" {
		query.Set("code_challenge_method", "S256")
	}
	return strings.TrimSuffix(x.base+"/auth/complete?"+query.Encode(), "?")
}

// authFresh is how long ago a person may have logged in for whom a code is made: within the login that asked for it.
const authFresh = 5 * time.Minute

// complete answers GET /auth/complete, where a login that /auth/login began comes back to: a code for the client.
func (a *auths) complete(x *exchange) error {
	asked, err := a.asked(x)
	if err != nil {
		return err
	}
	if x.caller.Proof == "" || time.Since(x.caller.Since) > authFresh {
		x.Redirect(http.StatusFound, strings.Replace(asked.here(x), "/auth/complete", "/auth/login", 1))
		return nil
	}
	x.event.Action, x.event.Client, x.event.Audience = audit.Allow, grant.AuthClient, a.audience
	if err := a.limits.take(x, changes, nil); err != nil {
		return err
	}
	code, err := a.service.AllowLogin(x.Request.Context(), asked.redirectURI, asked.challenge, x.caller.User.ID, x.caller.Since)
	if err != nil {
		return err
	}
	answer := url.Values{"code": {code}}
	if asked.redirectURI == "" {
		x.Redirect(http.StatusFound, x.base+"/auth/login/success?"+answer.Encode())
		return nil
	}
	if asked.finally != "" {
		answer.Set("client_finally_send_to", asked.finally)
	}
	address, err := url.Parse(asked.redirectURI)
	if err != nil {
		return grant.ErrRedirect
	}
	query := address.Query()
	for name, values := range answer {
		query[name] = values
	}
	address.RawQuery = query.Encode()
	x.Redirect(http.StatusFound, address.String())
	return nil
}

// success answers GET /auth/login/success.
func (a *auths) success(x *exchange) error {
	x.page(http.StatusOK, web.Message{Title: "Login successful", Text: "You can close this window and go on where you began."})
	return nil
}

// authCode is the body of POST /auth/token. PKCE's verifier is for clients that sent a challenge.
type authCode struct {
	Code     string  `json:"code"`
	Redirect *string `json:"client_redirect_uri"`
	Verifier string  `json:"code_verifier"`
}

// token answers POST /auth/token: the token for a code.
func (a *auths) token(x *exchange) error {
	var sent authCode
	if err := json.NewDecoder(x.Request.Body).Decode(&sent); err != nil { // members that are not known are passed over, as PEPhub does
		return &inputError{"the body is not the JSON that is expected"}
	}
	if sent.Code == "" {
		return &inputError{"code is missing"}
	}
	if err := a.limits.take(x, mints, nil); err != nil {
		return err
	}
	redirect := ""
	if sent.Redirect != nil {
		redirect = *sent.Redirect
	}
	done, err := a.service.Redeem(x.Request.Context(), sent.Code, redirect, sent.Verifier)
	a.note(x, done)
	switch {
	case errors.Is(err, grant.ErrGrant):
		return errAuthCode
	case errors.Is(err, grant.ErrRedirect):
		return errAuthRedirect
	case err != nil:
		return ofPerson(err)
	}
	x.record()
	return x.json(http.StatusOK, map[string]any{"token": done.Token.Value, "client_redirect_uri": sent.Redirect})
}

// note fills the event of a token that was made, or was not.
func (a *auths) note(x *exchange, done grant.Issued) {
	x.event.Action, x.event.Client, x.event.Audience = audit.Mint, grant.AuthClient, a.audience
	x.event.UserID, x.event.Username, x.event.Token = done.UserID, done.Username, done.Token.ID
	if done.Login != "" {
		x.event.Proof, x.event.Actor = string(authn.Login), "login "+done.Login
	}
}

// device answers POST /auth/device/init. What the device asks by is not in the address that its person opens.
func (a *authDevices) device(x *exchange) error {
	if err := a.limits.take(x, devices, nil); err != nil {
		return err
	}
	begun, err := a.service.BeginLogin(x.Request.Context(), x.peer.Addr.Unmap().String(), readable(x.GetHeader("User-Agent"), maxAgent))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, map[string]any{
		"device_code": begun.DeviceCode, "auth_url": a.public + "/auth/device/login/" + begun.UserCode, "expires_in": int(grant.AuthLife / time.Second),
	})
}

// showDevice answers GET /auth/device/login/{code}: the page of all devices, on which the person sees who asks.
func (a *authDevices) showDevice(x *exchange) error {
	x.Redirect(http.StatusFound, x.base+"/device?"+url.Values{"user_code": {cut(x.Param("code"))}}.Encode())
	return nil
}

// poll answers POST /auth/device/token: the token of a device, once its person has allowed it.
func (a *authDevices) poll(x *exchange) error {
	if err := a.limits.take(x, mints, nil); err != nil {
		return errAuthPending
	}
	done, err := a.service.PollLogin(x.Request.Context(), x.GetHeader("device-code"))
	if !errors.Is(err, grant.ErrPending) {
		a.note(x, done)
	}
	switch {
	case errors.Is(err, grant.ErrPending):
		return errAuthPending
	case errors.Is(err, grant.ErrGrant):
		return errAuthDevice
	case err != nil:
		return ofPerson(err)
	}
	x.record()
	return x.json(http.StatusOK, map[string]string{"jwt_token": done.Token.Value})
}

// What a token says is one thing, and who sent it is another: where the audience verifies with a secret it can sign what
// it likes. So nothing is done for a user by the claims alone. A login is the row that sid names, and the person is that
// row's; a key is found by the digest of the whole token, which is kept since it was made.

// authCaller is who sent a token to /auth: by a login that goes on, or by a developer key.
type authCaller struct {
	said   issuer.Said
	userID string
	login  *grant.Login // nil for a key, and for a token that was minted otherwise
	newest bool
	key    *apitoken.Token
}

// caller finds out who sent a token: `Authorization: <token>`, as PEPHubClient has it, or with Bearer. What a token says
// proves nothing of its user where the audience knows the secret; a login or a key in the database does.
func (a *auths) caller(x *exchange) (who authCaller, err error) {
	header := strings.TrimSpace(x.GetHeader("Authorization"))
	if scheme, rest, found := strings.Cut(header, " "); found && strings.EqualFold(scheme, "Bearer") {
		header = strings.TrimSpace(rest)
	}
	who.said, err = a.issuer.Read(a.audience, header)
	switch {
	case errors.Is(err, issuer.ErrEnded):
		return who, errAuthExpired
	case err != nil:
		return who, errAuthToken
	case who.said.Session != "":
		return a.loginOf(x, who)
	}
	return a.keyOf(x, who, header)
}

// loginOf is the login that a token is of.
func (a *auths) loginOf(x *exchange, who authCaller) (authCaller, error) {
	login, newest, err := a.service.LoginOf(x.Request.Context(), who.said.Session, who.said.ID)
	who.userID, who.login, who.newest = login.UserID, &login, newest
	x.event.UserID, x.event.Proof, x.event.Actor, x.share = login.UserID, string(authn.Login), "login "+login.Digest.String()[:8], login.UserID
	if errors.Is(err, grant.ErrGrant) || err != nil && !isOutage(err) {
		return who, errAuthRevoked
	}
	return who, err
}

// keyOf is the developer key that a token is. One that is neither was minted for minutes, at /token: it counts where none
// but wts can have signed it.
func (a *auths) keyOf(x *exchange, who authCaller, value string) (authCaller, error) {
	found, person, err := a.tokens.PresentTo(x.Request.Context(), a.audience, value, netip.Addr{})
	switch {
	case errors.Is(err, apitoken.ErrUnknown) && a.issuer.Algorithm(a.audience) == issuer.HS256:
		return who, errAuthToken // who knows the secret can have made it up
	case errors.Is(err, apitoken.ErrUnknown):
		if err := a.tokens.MayAct(x.Request.Context(), who.said.Subject, a.audience); err != nil {
			return who, ofKey(err)
		}
		return who, nil
	case err != nil:
		return who, ofKey(err)
	}
	who.userID, who.key = person.ID, &found
	x.event.UserID, x.event.Proof, x.event.Actor, x.share = person.ID, string(authn.APIToken), "token "+found.ID, "token "+found.ID
	return who, nil
}

// ofKey says of a key, or of its person, that it does not count any more; an outage is one.
func ofKey(err error) error {
	switch {
	case isOutage(err):
		return err
	case errors.Is(err, apitoken.ErrExpired):
		return errAuthExpired
	}
	return errAuthRevoked
}

// session answers GET /auth/session: what the token says.
func (a *auths) session(x *exchange) error {
	who, err := a.caller(x)
	if err != nil {
		return err
	}
	x.event.Token = who.said.ID
	return x.json(http.StatusOK, who.said.Claims)
}

// renew answers POST /auth/renew: another token of a login, in the place of its newest.
func (a *auths) renew(x *exchange) error {
	who, err := a.caller(x)
	if err != nil {
		return err
	}
	if who.login == nil {
		return fmt.Errorf("%w: a key is not renewed; make another one", errAuthLogin)
	}
	if err := a.limits.take(x, mints, nil); err != nil {
		return err
	}
	done, err := a.service.Renew(x.Request.Context(), who.said.Session, who.said.ID)
	a.note(x, done)
	switch {
	case errors.Is(err, grant.ErrGrant):
		return errAuthRevoked
	case err != nil:
		return ofPerson(err)
	}
	x.record()
	return x.json(http.StatusOK, map[string]any{"token": done.Token.Value, "expires_in": done.Token.ExpiresIn})
}

// logout answers POST /auth/logout: the login ends here, and with it all of its tokens.
func (a *auths) logout(x *exchange) error {
	who, err := a.caller(x)
	if err != nil {
		return err
	}
	if who.login == nil {
		return fmt.Errorf("%w: a key is revoked at /auth/user/keys", errAuthLogin)
	}
	if _, err := a.service.End(x.Request.Context(), who.said.Session); err != nil && !errors.Is(err, grant.ErrGrant) {
		return err
	}
	return x.json(http.StatusOK, map[string]string{"message": "Logged out."})
}

// crossOrigin lets scripts of registered sites read an answer, and no other's (rule C4). No cookie counts at these
// addresses.
func (a *auths) crossOrigin(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		header := x.Writer.Header()
		header.Add("Vary", "Origin")
		if origin := x.GetHeader("Origin"); origin != "" && a.service.AllowedOrigin(origin) {
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
			header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Device-Code")
			header.Set("Access-Control-Max-Age", "600") // seconds
		}
		return handle(x)
	}
}
