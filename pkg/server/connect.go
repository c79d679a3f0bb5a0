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
func (s *Server) confirmed(x *exchange) bool {
	switch x.GetHeader("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
		return true
	}
	if !x.wantsPage() { // no browser opens an address without asking for a page
		return true
	}
	given, _ := x.param("confirm")
	cookie, err := x.Request.Cookie(s.cookieName(confirmCookie))
	return err == nil && given != "" && subtle.ConstantTimeCompare([]byte(given), []byte(cookie.Value)) == 1
}

// askToConnect shows a page that asks whether to connect a provider.
func (s *Server) askToConnect(x *exchange, id, redirect string) error {
	name := s.Broker.NameOf(id)
	s.page(x, http.StatusOK, web.Message{
		Title: "Connect " + name + "?", RequestID: x.id,
		Text: "A link from another site asks to connect " + name + ". Your workspaces would then get tokens of the account that is logged in there. Connect only if you wanted to.",
		Steps: []web.Step{
			{Label: "Connect " + name, Address: s.connectAddress(x, id, redirect, true)},
			{Label: "Cancel", Address: s.base + "/"},
		},
	})
	return nil
}

// connectAddress is a path that begins to connect a provider. It is confirmed for this browser alone.
func (s *Server) connectAddress(x *exchange, id, redirect string, confirmed bool) string {
	query := url.Values{"idp": {id}}
	if redirect != "" {
		query.Set("redirect", redirect)
	}
	if confirmed {
		value := rand.Text()
		s.setCookie(x, confirmCookie, value, broker.FlowLife)
		query.Set("confirm", value)
	}
	return s.base + "/oauth2/authorization_url?" + query.Encode()
}
