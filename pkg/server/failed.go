package server

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/web"
)

// A person reads what happened in their own terms, why, and what to do next: one button, which is filled. The words of the
// API are for programs, and keep Gen3's; a status says nothing to a person. So there are two tables: the one in errors.go
// for who parses an answer, and this one for who reads it. An error that neither names is "That did not work", with the id
// by which an operator finds it in the log.

// way is what a person can do about a failure.
type way int

const (
	toHome       way = iota
	tryAgain         // the same provider, and the same way back
	startAgain       // the same, in words for a sign-in that was not this person's fault
	tellOperator     // nothing but to tell an operator
	tellDisabled     // the same, for a person who is refused everything
	chooseOne        // keep one account or connect the other
	goOn             // it went well, but for what an operator has to know
	goBack           // where the person came from
	toPortal         // where one signs in behind Gen3's portal
)

// failure is what a person reads about something that failed: what happened, in their terms, and why. %s stands for the
// provider's name.
type failure struct {
	is          error
	reason      string // in the address of /failed
	status      int
	title, text string
	way         way
}

// failures are looked through from the top; the last line is for everything else. Those of a login come first, with the
// words of the API nowhere among them: it keeps Gen3's.
var failures = []failure{
	{broker.ErrDeclined, "declined", http.StatusForbidden, "You declined at %s", "Nothing was connected, and nothing else has changed.", tryAgain},
	{errManyLogins, "many", http.StatusTooManyRequests, "Too many sign-ins at the moment", "Many people sign in just now. Try again in a minute.", tryAgain},
	{broker.ErrState, "state", http.StatusForbidden, "This sign-in took too long, or was opened twice", "Nothing has changed. A sign-in is good for ten minutes, once, and in the browser that began it.", startAgain},
	{broker.ErrReplayed, "state", http.StatusForbidden, "", "", startAgain},
	{broker.ErrClientRejected, "client", http.StatusServiceUnavailable, "%s does not know this service", "The registration of this service there has to be corrected, which only an operator can do. Trying again does not help.", tellOperator},
	{broker.ErrRevoking, "revoking", http.StatusServiceUnavailable, "%s is still ending your former connection", "That takes a few seconds.", tryAgain},
	{broker.ErrUserDisabled, "disabled", http.StatusForbidden, "Your account is disabled", "An operator disabled it, and can enable it again. Until then your workspaces and API tokens are refused. What you connected is kept.", tellDisabled},
	{authn.ErrDisabled, "disabled", http.StatusForbidden, "", "", tellDisabled},
	{broker.ErrOtherAccount, "account", http.StatusConflict, "You are connected with another account of %s", "Keep the account that is connected, or disconnect it and connect the one that you signed in with just now. Disconnecting stops the tokens of running workspaces.", chooseOne},
	{broker.ErrOtherPerson, "person", http.StatusForbidden, "You are signed in at %s as another user", "Sign out there, then start again.", startAgain},
	{broker.ErrSignedOut, "signed-out", http.StatusUnauthorized, "You are not signed in here any more", "Sign in here, then connect %s again.", startAgain},
	{broker.ErrSignInFirst, "signed-out", http.StatusUnauthorized, "", "", startAgain},
	{errShort, "short", http.StatusOK, "Signed in, but only until", "%s gave no refresh token, so that your workspaces are refused after that, and signing in again does not help. An operator can: with offline_access among the scopes of the provider, or prompt: consent.", goOn},
	{broker.ErrUnavailable, "unavailable", http.StatusServiceUnavailable, "%s is not answering", "You are not signed in there yet. Try again in a moment.", tryAgain},
	{errSignInOutage, "outage", http.StatusServiceUnavailable, "This service cannot finish the sign-in", "Its database does not answer. Nothing has changed; try again in a moment.", tryAgain},
	{broker.ErrLoginFailed, "refused", http.StatusForbidden, "The sign-in at %s did not succeed", "What it answered was not accepted. If it goes on like that, tell an operator.", tryAgain},
	// Of everything else.
	{errNotFound, "", http.StatusNotFound, "There is no page here", "The address may be old, or mistyped.", toHome},
	{apitoken.ErrUnknown, "", http.StatusNotFound, "It is not there any more", "It was removed, or is not yours to see.", toHome},
	{errNoSuchSession, "", http.StatusNotFound, "It is not there any more", "The session has ended already.", toHome},
	{errMethod, "", http.StatusMethodNotAllowed, "This address takes no such request", "Nothing has changed. Begin from the page again.", toHome},
	{errFraming, "", http.StatusForbidden, "A sign-in needs a window of its own", "Another page tried to begin one unseen, and was stopped.", toHome},
	{errCrossing, "", http.StatusForbidden, "Another site sent this", "Nothing has changed. If you wanted it, do it on the page itself.", toHome},
	{errLongRedirect, "", http.StatusBadRequest, "The way back is too long", "The address that sent you here wants to have you sent back to one of more than 4096 characters.", toHome},
	{errNotAdmin, "", http.StatusForbidden, "This page is for admins", "An operator says who they are.", toHome},
	{aggregate.ErrTooOften, "", http.StatusTooManyRequests, "Too many requests", "Try again in a moment.", goBack},
	{apitoken.ErrTooOften, "", http.StatusTooManyRequests, "Too many requests", "Try again in a moment.", goBack},
	{errTooOften, "", http.StatusTooManyRequests, "Too many changes at once", "Nothing was changed by the last one. Try again in a moment.", goBack},
	{apitoken.ErrFull, "", http.StatusConflict, "There are as many tokens as there may be", "Revoke one that is not needed any more, then make the new one.", goBack},
	{apitoken.ErrRotations, "", http.StatusConflict, "This token was rotated too often", "Make another one in its place.", goBack},
	{apitoken.ErrRevoked, "", http.StatusConflict, "This token was revoked before", "A token that was revoked is not rotated. Make a new one.", goBack},
	{apitoken.ErrExpired, "", http.StatusConflict, "This token has expired", "A token that has expired is not rotated. Make a new one.", goBack},
	{errNoIntegration, "", http.StatusNotFound, "It is not there any more", "The configuration has no such integration.", toHome},
	{issuer.ErrNotOwn, "", http.StatusConflict, "This key is not made here", "The secret stands in the configuration; change it there.", goBack},
	{issuer.ErrAccess, "", http.StatusForbidden, "You may not have such a token", "An operator says who may have tokens of this service, and with which scopes.", goBack},
	{grant.ErrClient, "", http.StatusBadRequest, "The program is not known here", "It asks under a name that no operator has registered. Nothing was given to it.", tellOperator},
	{grant.ErrRedirect, "", http.StatusBadRequest, "The program wants its answer elsewhere", "It asks to have you sent to an address that is not registered for it. Nothing was given to it.", tellOperator},
	{broker.ErrNotConnected, "", http.StatusForbidden, "You are not connected with %s", "Connect it, then try again.", startAgain},
	{broker.ErrGrantExpired, "", http.StatusForbidden, "Your connection with %s has ended", "Sign in there again.", startAgain},
	{broker.ErrGrantBroken, "", http.StatusForbidden, "Your connection with %s has ended", "Sign in there again.", startAgain},
	{authn.ErrUnavailable, "", http.StatusServiceUnavailable, "This service cannot look that up", "Its database does not answer. Nothing has changed; try again in a moment.", goBack},
	{errOutage, "", http.StatusServiceUnavailable, "This service cannot look that up", "Its database does not answer. Nothing has changed; try again in a moment.", goBack},
	{authn.ErrBearer, "", http.StatusUnauthorized, "Sign in first", "The sign-in that your browser sent is not valid any more.", startAgain},
	{errPortal, "", http.StatusForbidden, "Sign in at the portal first", "This page works for people who are signed in at the portal, and here.", toPortal},
	{authn.ErrNoProof, "", http.StatusForbidden, "Sign in first", "This page is for people who are signed in.", startAgain},
	{errAuthAddress, "", http.StatusBadRequest, "This site is not registered here", "The page that sent you here wants you to be sent on to an address that is not registered with this service.", toHome},
	{nil, "", http.StatusBadRequest, "That did not work", "Nothing has changed. Begin from the page again; if it goes on like that, tell an operator.", toHome},
}

var (
	// errShort is no failure of a login: it brought no refresh token.
	errShort    = errors.New("no refresh token came")
	errNotAdmin = errors.New("the page is for admins")
	errTooOften = errors.New("too many requests")
	errOutage   = errors.New("an outage")
	// errSignInOutage is one during a login.
	errSignInOutage = errors.New("an outage during a login")
	// errPortal: the portal's sign-in is missing, which no login here brings.
	errPortal = fmt.Errorf("%w: sign in at the portal", authn.ErrNoProof)
)

// failureOf is the line of an error, the first that fits. An outage of ours is told from one of the provider's: only the
// latter is named, since the person can do something about the provider that they chose.
//
// One that has no words stands for the line before it, of the same reason.
func failureOf(err error) failure {
	var many *errTooMany
	var login *loginError
	switch ours := isOutage(err) && !ofProvider(err) || errors.Is(err, errUnreadable); {
	case errors.As(err, &many) && many.kind.name == changes:
		err = errTooOften
	case many != nil:
		err = aggregate.ErrTooOften
	case ours && errors.As(err, &login):
		err = errSignInOutage
	case ours:
		err = errOutage
	}
	for _, one := range failures {
		if one.is == nil || errors.Is(err, one.is) {
			return one.worded()
		}
	}
	return failures[len(failures)-1]
}

// ofProvider tells an outage of a provider's, which has its own error or said so at the callback, from one of our
// database.
func ofProvider(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) || errors.Is(err, broker.ErrNoCode) || errors.Is(err, broker.ErrRevoking)
}

// worded is the line itself, or for one without words the first of its reason.
func (f failure) worded() failure {
	if f.title != "" {
		return f
	}
	return failureNamed(f.reason)
}

// failureNamed is the first line of a reason.
func failureNamed(reason string) failure {
	for _, one := range failures {
		if one.reason == reason && reason != "" {
			return one
		}
	}
	return failures[len(failures)-1]
}

// loginError is a login that failed, with the provider and the way back, as far as they are known. A callback's is told
// on a page of its own, which can be loaded again.
type loginError struct {
	error
	provider, redirect string
	callback           bool
	ends               time.Time // of a login that brought no refresh token
}

func (e *loginError) Unwrap() error { return e.error }

// The address of the page has all that the page needs, since it may be loaded by any replica, at any time, and again.
// All of it is sealed, for this request and this browser: a link that another one sends says nothing but that something
// did not work, and leads to no provider.

// failed is what the page of a failure knows.
type failed struct {
	Reason   string    `json:"w,omitempty"`
	Provider string    `json:"p,omitempty"`
	Redirect string    `json:"r,omitempty"`
	Account  string    `json:"a,omitempty"` // that is connected
	Other    string    `json:"o,omitempty"` // that the person signed in with
	Ends     time.Time `json:"e,omitzero"`
	At       time.Time `json:"t,omitzero"` // when it happened
	request  string
}

// failedCookie holds a random value of this browser's, for which the addresses of its failures are sealed.
const (
	failedCookie = "wts-failed"
	failedLife   = time.Hour
)

func failedPlace(id, browser string) keyring.Place {
	return keyring.Place{Table: "address", Owner: id + " " + browser, Column: "failed"}
}

// loginFailed sends the browser of a callback that failed to a page of its own address, which can be loaded
// again. Gen3's portal closes its window at an address in which there is no "auth", and reads error=401 in it (Gen3
// contract 1.4): hexadecimal digits spell no such word, whatever provider and way back are called.
func loginFailed(x *exchange, err *loginError) {
	known := failed{Reason: failureOf(err).reason, Provider: err.provider, Ends: err.ends, At: x.began}
	if len(err.redirect) <= maxWayBack {
		known.Redirect = err.redirect
	}
	var other *broker.OtherAccount
	if errors.As(err, &other) {
		known.Account, known.Other = other.Connected, other.SignedIn
	}
	browser := rand.Text()
	if cookie, err := x.Request.Cookie(x.cookieName(failedCookie)); err == nil && cookie.Value != "" {
		browser = cookie.Value // of an earlier failure, whose page can still be loaded
	}
	x.setCookie(failedCookie, browser, failedLife)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it is no HTML, and an address has no room to spare
	_ = encoder.Encode(known)    // strings and times
	query := url.Values{"id": {x.id}, "of": {hex.EncodeToString(x.seals.Seal(text.Bytes(), failedPlace(x.id, browser)))}}
	if !errors.Is(err, errShort) {
		query.Set("error", "401")
	}
	x.Redirect(http.StatusSeeOther, x.base+"/failed?"+query.Encode())
}

// failed is the page of a login that failed.
func (l *logins) failed(x *exchange) error {
	request, _ := x.param("id")
	sealed, _ := x.param("of")
	var known failed
	cookie, err := x.Request.Cookie(x.cookieName(failedCookie))
	if raw, wrong := hex.DecodeString(sealed); err == nil && wrong == nil && sealed != "" {
		if text, err := x.seals.Open(raw, failedPlace(request, cookie.Value)); err == nil && json.Unmarshal(text, &known) == nil {
			known.request = request
		}
	}
	shown := failureNamed(known.Reason)
	if x.portal && shown.status >= http.StatusInternalServerError { // Gen3's revproxy has a page of its own for these
		shown.status = http.StatusForbidden
	}
	failurePage(x, shown, known)
	return nil
}

// failurePage says what happened, and what to do next with the same provider and the same way back.
func failurePage(x *exchange, shown failure, known failed) {
	id, err := x.broker.Provider(known.Provider)
	if err != nil { // it is not configured any more
		id = x.defaultProvider
	}
	if known.Provider = id; !localPath(known.Redirect) {
		known.Redirect = ""
	}
	name := x.broker.NameOf(id)
	message := web.Message{Title: withName(shown.title, name), Text: withName(shown.text, name), RequestID: known.request, At: known.At, Alert: true}
	if message.At.IsZero() {
		message.At = x.began
	}
	if known.Account != "" && known.Other != "" {
		message.Title = "You are connected as " + known.Account + ", and signed in there as " + known.Other
	}
	if shown.way == goOn {
		message.TitleTime = known.Ends
	}
	if shown.reason == "unavailable" || shown.reason == "client" {
		message.Until = worksUntil(x, id)
	}
	message.Steps = steps(x, shown.way, known)
	if shown.status == http.StatusServiceUnavailable || shown.status == http.StatusTooManyRequests {
		if x.Writer.Header().Get("Retry-After") == "" {
			x.Header("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
		}
	}
	x.page(shown.status, message)
}

const retryAfter = 5 * time.Second

// While a provider does not answer, what a workspace has goes on: the person is told until when, so that they know whether
// to wait or to save their work. Nothing is asked of the provider for it.

// worksUntil is until when a person's workspaces go on with what they have of a provider; zero where that is not known.
func worksUntil(x *exchange, id string) time.Time {
	if x.caller.User.ID == "" {
		return time.Time{}
	}
	connection, err := x.broker.Connection(x.Request.Context(), x.caller.User.ID, id)
	if err != nil || time.Until(connection.AccessExpiresAt) < time.Minute {
		return time.Time{}
	}
	return connection.AccessExpiresAt
}

// steps are the ways on, the best one first.
func steps(x *exchange, way way, known failed) []web.Step {
	returning := web.Step{Label: "Back", Address: x.base + "/"}
	if known.Redirect != "" {
		returning.Address = known.Redirect
	}
	begin := web.Step{Label: "Try again", Address: connectAddress(x, known.Provider, known.Redirect, way == tryAgain || way == startAgain)}
	switch way {
	case tryAgain:
		return []web.Step{begin, returning}
	case startAgain:
		begin.Label = "Start again"
		return []web.Step{begin}
	case tellOperator, tellDisabled:
		if way == tellDisabled { // no way to sign in, but one to leave
			returning = web.Step{Label: "Log out", Address: x.base + "/oauth2/logout", Post: true}
		}
		return append(support(x, "Tell your operator"), returning)
	case goOn:
		returning.Label = "Continue"
		return append(support(x, "Tell your operator"), returning)
	case chooseOne:
		return chooseAccount(x, known, returning)
	case goBack:
		returning.Address = x.base + cmp.Or(x.from, "/")
		return []web.Step{returning}
	case toPortal:
		return []web.Step{{Label: "Go to the portal", Address: "/"}}
	case toHome:
	}
	return []web.Step{{Label: "Home", Address: x.base + "/"}}
}

// support is the way to an operator, where one is configured.
func support(x *exchange, label string) []web.Step {
	if x.site.Support == "" {
		return nil
	}
	return []web.Step{{Label: label, Address: x.site.Support}}
}

// Two accounts of one provider are a matter of taste or a mistake, and only the person knows which: the one that is
// connected stays until they say otherwise.

// chooseAccount lets a person keep the account that is connected, or connect the other one.
func chooseAccount(x *exchange, known failed, returning web.Step) []web.Step {
	returning.Label = "Keep it"
	other := web.Step{
		Label: "Disconnect it, and connect the other", Post: true, Address: x.base + "/oauth2/logout?idp=" + url.QueryEscape(known.Provider),
		Fields: []web.Field{{Name: "then", Value: "connect"}, {Name: "redirect", Value: known.Redirect}},
	}
	if known.Account != "" && known.Other != "" {
		returning.Label, other.Label = "Keep "+known.Account, "Disconnect "+known.Account+" and connect "+known.Other
	}
	return []web.Step{returning, other}
}
