package server

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// confirmCookie holds a random value that a link of wts repeats: a browser that sends both has the link from a
// page of wts.
const confirmCookie = "wts-confirm"

// confirmed tells that the person asked for this connection: from a page of this site or by typing the
// address, as browsers say by Sec-Fetch-Site, or by the link of the page that asks. Another site could
// otherwise connect the person with an account of its choice (rule C5).
func (l *logins) confirmed(x *exchange) bool {
	switch x.GetHeader("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
		return true
	}
	if !x.wantsPage() { // no browser opens an address without asking for a page
		return true
	}
	given, _ := x.param("confirm")
	cookie, err := x.Request.Cookie(x.cookieName(confirmCookie))
	return err == nil && given != "" && subtle.ConstantTimeCompare([]byte(given), []byte(cookie.Value)) == 1
}

// askToConnect shows a page that asks whether to connect a provider.
func (l *logins) askToConnect(x *exchange, id, redirect string) error {
	name := l.broker.NameOf(id)
	x.page(http.StatusOK, web.Message{
		Title: "Connect " + name + "?", RequestID: x.id, At: x.began,
		Text: "A link from another site asks to connect " + name + ". Your workspaces would then get tokens of the account that is signed in there. Connect only if you wanted to.",
		Steps: []web.Step{
			{Label: "Connect", Address: connectAddress(x, id, redirect, true)},
			{Label: "Cancel", Address: x.base + "/"},
		},
	})
	return nil
}

// connectAddress is a path that begins to connect a provider. It is confirmed for this browser alone.
func connectAddress(x *exchange, id, redirect string, confirmed bool) string {
	query := url.Values{"idp": {id}}
	if redirect != "" {
		query.Set("redirect", redirect)
	}
	if confirmed {
		value := rand.Text()
		x.setCookie(confirmCookie, value, broker.FlowLife)
		query.Set("confirm", value)
	}
	return x.base + "/oauth2/authorization_url?" + query.Encode()
}
