package server

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// connections are the page of what a person has connected.
type connections struct {
	broker  *broker.Broker
	history audit.History
}

// show answers /: it tells a program what there is, and shows a person their connections. A person's page is two
// statements: their rows, and the last token of each that was handed out.
func (v *connections) show(x *exchange) error {
	if !x.wantsPage() {
		return x.json(http.StatusOK, map[string]string{
			"/token":                 "get temporary token",
			"/external_oidc":         "list available identity providers",
			"/oauth2":                "oauth2 resources",
			"/.well-known/jwks.json": "keys that verify our tokens",
		})
	}
	if x.caller.User.ID == "" {
		signInPage(x, "/", false)
		return nil
	}
	standings, err := v.broker.Standings(x.Request.Context(), x.caller.User.ID)
	if err != nil {
		return err
	}
	var ids []string
	for i := range standings {
		if standings[i].Flaw == nil {
			ids = append(ids, standings[i].ID)
		}
	}
	handouts, err := v.history.Handouts(x.Request.Context(), x.caller.User.ID, ids)
	if err != nil {
		return errUnreadable
	}
	var page web.Connections
	for i := range standings {
		one := &standings[i]
		card := cardOf(x, one)
		if last, used := handouts[one.ID]; used {
			card.UsedAt, card.UsedBy = last.At, web.Deed{Actor: last.Actor}.Who()
		}
		page.Cards = append(page.Cards, card)
	}
	x.page(http.StatusOK, page)
	return nil
}

const (
	// soon is how long before its end a person is told of a grant or a token.
	soon = 7 * 24 * time.Hour
	// ailing is how long refreshes fail before a person is told.
	ailing = 10 * time.Minute
)

// A card says by colour and by word how a connection is, so that neither alone is needed to see it; what is wrong comes
// before what is about to be, and what is about to be before that all is well.

// cardOf shows how a person is connected to a provider.
func cardOf(x *exchange, one *broker.Standing) web.Card {
	card := web.Card{Name: one.Name, Connected: one.Flaw == nil}
	begin := x.base + "/oauth2/authorization_url?" + url.Values{"idp": {one.ID}}.Encode()
	switch {
	case errors.Is(one.Flaw, broker.ErrNotConnected):
		card.Pill, card.Connect, card.ConnectLabel = "Not connected", begin, "Connect"
		return card
	case errors.Is(one.Flaw, broker.ErrGrantExpired):
		card.Tone, card.Pill, card.Text, card.TextTime = "bad", "Needs sign-in", "It ended", one.Ends
	case one.Flaw != nil:
		card.Tone, card.Pill, card.Text = "bad", "Needs sign-in", "The provider does not accept this connection any more"
	case !one.FailingSince.IsZero() && time.Since(one.FailingSince) > ailing:
		card.Tone, card.Pill, card.Text, card.TextTime = "bad", "Ailing: the provider refuses", "No new token since", one.FailingSince
	case endsSoon(one.Since, one.Ends):
		card.Tone, card.Pill, card.PillTime, card.Text, card.TextTime = "warn", "Renew by", one.Ends, "Ends", one.Ends
	default:
		card.Tone, card.Pill = "good", "Connected"
		if !one.Ends.IsZero() {
			card.Text, card.TextTime = "ends", one.Ends
		}
	}
	if one.Expected && card.Text != "" {
		card.Text = "expected to end, as others did there,"
	}
	card.Account, card.Since = one.Account, one.Since
	if card.Tone != "good" {
		card.Connect, card.ConnectLabel = begin, "Reconnect"
	}
	card.Disconnect = disconnecting(x, one)
	return card
}

// endsSoon tells that a grant ends within a week, or within a day, and lived so long that this is news: one that lives
// for a shift does not warn all along.
func endsSoon(since, ends time.Time) bool {
	left := time.Until(ends)
	for _, ahead := range []time.Duration{soon, 24 * time.Hour} {
		if !ends.IsZero() && left < ahead && !since.After(ends.Add(-ahead)) {
			return true
		}
	}
	return false
}

// disconnecting asks before a connection ends, and says what stops working.
func disconnecting(x *exchange, one *broker.Standing) *web.Confirm {
	ask := web.Confirm{
		Ask: "Disconnect", Of: one.Name, Do: "Disconnect " + one.Name, Danger: true, Action: x.base + "/oauth2/logout?" + url.Values{"idp": {one.ID}}.Encode(),
		Text: "Your workspaces get no more tokens of " + one.Name + ". What they have works until it ends.",
	}
	if one.Default {
		ask.Text = "Everything stops that runs for you: " + one.Name + " says who you are, so that without it your workspaces get no token of any provider, and your API tokens are refused."
	}
	return &ask
}

// withRedirect is the address at which a connection begins, with the provider where it is not the default one and a way
// back.
func withRedirect(address, idp, redirect string) string {
	query := url.Values{}
	if idp != "" {
		query.Set("idp", idp)
	}
	if redirect != "" {
		query.Set("redirect", redirect)
	}
	if len(query) == 0 {
		return address
	}
	return address + "?" + strings.ReplaceAll(query.Encode(), "%2F", "/")
}
