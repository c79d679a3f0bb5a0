package server

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// failure is what a person reads about a login that failed. %s stands for the provider's name.
type failure struct {
	is          error
	reason      string // in the page's address
	status      int
	title, text string
	again       bool // trying again may help
}

// failures are looked through from the top; the last line is for everything else.
var failures = []failure{
	{broker.ErrNoCode, "declined", http.StatusForbidden, "%s did not log you in", "The login was declined, or ended there. Nothing has changed here.", true},
	{errManyLogins, "many", http.StatusTooManyRequests, "Too many sign-ins at the moment", "Try again in a minute.", true},
	{broker.ErrState, "state", http.StatusForbidden, "This sign-in took too long, or was opened twice", "Nothing has changed. Start again from here.", true},
	{broker.ErrReplayed, "replayed", http.StatusForbidden, "This sign-in was completed before", "If you expected something else, start again from here.", true},
	{broker.ErrClientRejected, "client", http.StatusServiceUnavailable, "%s does not know this service", "An operator has to correct the registration there.", false},
	{broker.ErrRevoking, "revoking", http.StatusServiceUnavailable, "%s is still ending your former connection", "Try again in a few seconds.", true},
	{broker.ErrUserDisabled, "disabled", http.StatusForbidden, "Your account is disabled", "An operator can enable it again.", false},
	{broker.ErrOtherAccount, "account", http.StatusConflict, "You are connected with another account of %s", "Keep that connection, or disconnect it and connect the account that you logged in with just now. Disconnecting stops the tokens of running workspaces.", false},
	{broker.ErrOtherPerson, "person", http.StatusForbidden, "You are logged in at %s as another user", "Log out there, then start again.", true},
	{broker.ErrSignedOut, "signed-out", http.StatusUnauthorized, "You are not logged in here any more", "Log in here, then connect %s again.", true},
	{broker.ErrSignInFirst, "signed-out", http.StatusUnauthorized, "You are not logged in here any more", "Log in here, then connect %s again.", true},
	{broker.ErrUnavailable, "unavailable", http.StatusServiceUnavailable, "%s is not answering", "Work that is running goes on with the tokens that it has. Try again in a moment.", true},
	{nil, "refused", http.StatusForbidden, "The sign-in at %s did not succeed", "What it answered was not accepted.", true},
}

// loginError is a callback that failed.
type loginError struct {
	error
	provider string
}

func (e *loginError) Unwrap() error { return e.error }

// loginFailed sends the browser of a callback that failed to a page of its own address, which can be loaded
// again. Gen3's portal closes its window at an address without "auth", and reads error=401 in it (Gen3
// contract 1.4).
func (x *exchange) loginFailed(err *loginError) {
	at := len(failures) - 1
	for i, one := range failures[:at] {
		if errors.Is(err, one.is) {
			at = i
			break
		}
	}
	query := url.Values{"error": {"401"}, "reason": {failures[at].reason}, "id": {x.id}}
	if err.provider != "" {
		query.Set("idp", err.provider)
	}
	x.Redirect(http.StatusSeeOther, x.base+"/failed?"+query.Encode())
}

// failed is the page of a login that failed. It shows our own words alone, by the reason in its address.
func (l *logins) failed(x *exchange) error {
	reason, _ := x.param("reason")
	request, _ := x.param("id")
	idp, _ := x.param("idp")
	id, err := l.broker.Provider(idp)
	if err != nil {
		id, _ = l.broker.Provider("")
	}
	shown := failures[len(failures)-1]
	for _, one := range failures {
		if one.reason == reason {
			shown = one
			break
		}
	}
	name := l.broker.NameOf(id)
	message := web.Message{Title: withName(shown.title, name), Text: withName(shown.text, name), RequestID: cut(request)}
	if shown.again {
		message.Steps = []web.Step{{Label: "Try again", Address: l.connectAddress(x, id, "", true)}}
	}
	if shown.reason == "account" {
		message.Steps = []web.Step{{Label: "Keep", Address: x.base + "/"}, {Label: "Disconnect " + name, Address: x.base + "/oauth2/logout?idp=" + url.QueryEscape(id), Post: true}}
	}
	if shown.status == http.StatusServiceUnavailable || shown.status == http.StatusTooManyRequests {
		x.Header("Retry-After", "5")
	}
	x.page(shown.status, message)
	return nil
}
