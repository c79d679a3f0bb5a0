package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// activityPages are the page of what was done in a person's name, and of what to end where it was not them.
type activityPages struct {
	*people
	history  audit.History
	programs *grant.Service
}

// charted is how many days the chart has.
const charted = 30

// The audit is written for operators, in its own words, and may name what a person does not know: the page says the same
// in theirs. Who asked is what the proof said, and never more than the audit has: a workspace by its pod's name, a
// program by the client that was let in, an API token by its name where it is the person's.

// list answers GET /activity: what was done in a person's name, ?action=&outcome=refused&after=.
func (v *activityPages) list(x *exchange) error {
	ctx := x.Request.Context()
	filter := audit.Filter{UserID: x.caller.User.ID, Limit: pageSize / 2}
	action, _ := x.param("action")
	outcome, _ := x.param("outcome")
	filter.Action, filter.Refused = audit.Action(action), outcome == "refused"
	if text, ok := x.param("after"); ok {
		place, err := parsePlace(text)
		if err != nil {
			return err
		}
		filter.Before = place
	}
	found, err := v.history.Find(ctx, filter)
	if err != nil {
		return errUnreadable
	}
	days, err := v.history.Days(ctx, x.caller.User.ID, charted, x.began)
	if err != nil {
		return errUnreadable
	}
	names, err := v.tokenNames(ctx, x)
	if err != nil {
		return err
	}
	page := web.Activity{Refused: filter.Refused, Filtered: filter.Action != "" || filter.Refused}
	page.Days, page.From, page.Most = web.Chart(days, x.began.UTC())
	for _, name := range web.Deeds {
		page.Actions = append(page.Actions, web.Choice{Value: name, Label: chosenLabel(name), Chosen: name == action})
	}
	for i := range found {
		page.Rows = append(page.Rows, v.deedOf(x, &found[i], names))
	}
	if len(found) == filter.Limit {
		page.Next = x.base + "/activity?" + url.Values{"action": {action}, "outcome": {outcome}, "after": {placeOf(&found[len(found)-1])}}.Encode()
	}
	x.page(http.StatusOK, page)
	return nil
}

// chosenLabel is what a kind of deed is called in the list to choose from.
func chosenLabel(action string) string {
	switch action {
	case string(audit.Handout):
		return "Tokens of providers"
	case string(audit.Mint):
		return "Tokens of this service"
	}
	return web.What(action)
}

// The audit names a token by its id, which says nothing to a person. Names are read with one statement for the page, the
// newest tokens' alone: those of older ones are shown as "a token".

// tokenNames are the names of a person's API tokens by their ids.
func (v *activityPages) tokenNames(ctx context.Context, x *exchange) (map[string]string, error) {
	tokens, err := v.service.List(ctx, issuer.Person{ID: x.caller.User.ID}, apitoken.Filter{Limit: pageSize})
	names := map[string]string{}
	for _, token := range tokens {
		names[token.ID] = token.Name
	}
	return names, err
}

// deedOf shows an entry of the audit in the words of people.
func (v *activityPages) deedOf(x *exchange, entry *audit.Entry, names map[string]string) web.Deed {
	deed := web.Deed{
		At: entry.At, Times: entry.Times, Action: string(entry.Action), Provider: entry.Provider, Audience: entry.Audience, Resource: entry.Resource,
		Actor: entry.Actor, Address: entry.Peer, Reason: plainReason(entry.Reason), TokenName: names[entry.Token],
	}
	if id, ok := strings.CutPrefix(entry.Actor, "token "); ok && deed.TokenName == "" {
		deed.TokenName = names[id]
	}
	if _, err := v.broker.Provider(entry.Provider); err == nil && entry.Provider != "" {
		deed.Provider = v.broker.NameOf(entry.Provider)
	}
	if entry.Client != "" {
		deed.Client = nameOfClient(v.programs, entry.Client)
	}
	report := url.Values{"request": {entry.Request}}
	if id, ok := strings.CutPrefix(entry.Actor, "token "); ok && names[id] != "" {
		report.Set("token", id)
	}
	deed.Report = x.base + "/activity/not-me?" + report.Encode()
	return deed
}

// plainReason is why something was refused, without the prefixes of the API.
func plainReason(reason string) string {
	return strings.TrimPrefix(strings.TrimPrefix(reason, denied), refused)
}

// placeOf is where a list goes on after an entry.
func placeOf(last *audit.Entry) string {
	return fmt.Sprintf("%d.%s.%d", last.At.UnixMilli(), last.Chain, last.Seq)
}

// A person who finds what they did not do has to end it without knowing what it was: all tokens, all sessions, and whom
// to tell of a workspace, which only an operator can end.

// notMe answers GET /activity/not-me: what a person can end who did not do what they see.
func (v *activityPages) notMe(x *exchange) error {
	page := web.NotMe{
		Provider: v.broker.NameOf(x.defaultProvider), EndAll: endAll(x),
		RevokeAll: web.Confirm{
			Ask: "Revoke all", Of: "API tokens", Do: "Revoke all API tokens", Danger: true, Action: x.base + "/tokens/revoke",
			Text: "Every program that uses one is refused at once, for good.",
		},
	}
	request, _ := x.param("request")
	page.Request = cut(request)
	if id, _ := x.param("token"); id != "" {
		token, err := v.service.Get(x.Request.Context(), v.personAtHand(x), id)
		if err != nil {
			return err
		}
		row := rowOf(token, x.base+"/tokens", time.Now())
		if token.State(time.Now()) == "active" && token.Kind == apitoken.Personal {
			page.Token = &row
		}
	}
	x.page(http.StatusOK, page)
	return nil
}
