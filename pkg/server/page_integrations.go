package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// integrationPages are the pages on which an admin connects a ProteinPaint server: what to copy there, the keys, and
// whether it works.
type integrationPages struct {
	*integrationKeys
	people *people
}

// A page does what the API does, by the same functions; what it adds are the words, and that a step which needs a fresh
// login leads there.

// integrationPages are their routes.
func (s *Server) integrationPages(parts Parts, i *integrationKeys) {
	v := &integrationPages{i, &people{i.apiTokens}}
	person := policy{accepts: authn.Accepts{Session: true, Bearer: parts.Config.Portal}, anonymous: true, both: parts.Config.Portal, forPeople: true}
	show := func(path string, handle func(*exchange) error) {
		s.get(path, person, v.people.signedIn(i.only(handle)))
	}
	const one = "/integrations/:id"
	post := func(path string, action audit.Action, handle func(*exchange) error) {
		acting := person
		acting.action = action
		s.only(http.MethodPost, one+path, acting, v.people.acting("/integrations", i.only(i.named(v.fresh(handle)))))
	}
	show("/integrations", v.showAll)
	show(one, i.named(v.showOne))
	post("/keys", audit.MakeAudienceKey, v.make)
	post("/keys/activate", audit.ActivateAudienceKey, v.activate)
	post("/keys/drop", audit.DropAudienceKey, v.drop)
	post("/selftest", audit.TestIntegration, v.test)
}

// here is the page of the integration of the address.
func (*integrationPages) here(x *exchange) string { return "/integrations/" + x.Param("id") }

// fresh wants a login of the last hour, and leads to one.
func (v *integrationPages) fresh(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		x.from = v.here(x)
		if !isRecent(x) {
			signInPage(x, x.from, true)
			return nil
		}
		return handle(x)
	}
}

// showAll answers GET /integrations.
func (v *integrationPages) showAll(x *exchange) error {
	var page web.Integrations
	for _, id := range v.issuer.Audiences() {
		if of, is := v.issuer.Integration(id); is {
			page.Rows = append(page.Rows, web.IntegrationRow{ID: id, Dataset: of.Dataset, Embedders: of.Embedders, Algorithm: v.issuer.Algorithm(id)})
		}
	}
	x.page(http.StatusOK, page)
	return nil
}

// showOne answers GET of one integration.
func (v *integrationPages) showOne(x *exchange) error {
	id, of := v.of(x)
	owned := v.issuer.OwnKeys(id)
	page := web.Integration{
		IntegrationRow: web.IntegrationRow{ID: id, Dataset: of.Dataset, Embedders: of.Embedders, Algorithm: v.issuer.Algorithm(id)},
		Route:          of.Route, IP: of.IP, Header: of.HeaderKey, Origins: of.Origins, Snippet: snippetOf(x, id), Owned: owned, Instance: of.InstanceURL,
		Files: x.base + "/api/v1/integrations/" + id, Action: x.base + v.here(x),
	}
	if made := takeNotice(x, true).Made; made != nil && made.Audience == id {
		page.Made = made
	}
	for _, cohort := range of.Cohorts {
		page.Cohorts = append(page.Cohorts, cohort.ID)
	}
	if made, err := v.blockOf(id, of); err == nil {
		text, err := indented(made)
		if err != nil {
			return err
		}
		page.Config = string(text)
	}
	if keys, err := v.issuer.PublicKeys(id); err == nil {
		page.PEM = keys[0]
	}
	var err error
	if page.Keys, err = v.keyRows(x, id, &page); err != nil {
		return err
	}
	if page.Roles, err = v.roleRows(id, of); err != nil {
		return err
	}
	x.page(http.StatusOK, page)
	return nil
}

// keyRows are the keys, and what can be done with them now.
func (v *integrationPages) keyRows(x *exchange, id string, page *web.Integration) (rows []web.KeyRow, err error) {
	if !page.Owned {
		return nil, nil
	}
	keys, err := v.issuer.AudienceKeys(x.Request.Context(), id)
	if err != nil {
		return nil, errUnreadable
	}
	action := x.base + v.here(x) + "/keys"
	thing := "public key"
	if page.Algorithm == issuer.HS256 {
		thing = "secret"
	}
	for _, key := range keys {
		row := web.KeyRow{ID: key.ID, Algorithm: key.Algorithm, State: string(key.State()), From: key.ActivatesAt}
		switch key.State() {
		case issuer.Active:
			row.Tone, page.Signs = "good", true
		case issuer.Next:
			row.Tone, row.Text, row.PEM, page.Next = "warn", "waits for its activation", key.PEM(), true
		case issuer.Retired, issuer.Gone:
			row.Text, row.At = "signs no more since", key.RetiredAt
		}
		rows = append(rows, row)
	}
	page.Make = web.Confirm{
		Ask: "Make the next key", Of: "of " + id, Do: "Make it", Action: action,
		Text: "A new " + thing + " is made. Tokens are signed with the present one until you activate the new one.",
	}
	if !page.Signs {
		page.Make.Ask, page.Make.Text = "Make the first key", "A "+thing+" is made, and signs at once."
	}
	if page.Next {
		page.Activate = web.Confirm{
			Ask: "Activate", Of: "the next key of " + id, Do: "Activate the next key", Action: action + "/activate",
			Text: "Tokens are signed with the next key from now on. Where instance_url is configured, the ProteinPaint server is asked first whether it accepts one.",
		}
		page.Force = web.Confirm{
			Ask: "Activate untried", Of: "the next key of " + id, Do: "Activate it without a trial", Danger: true, Action: action + "/activate?force=true",
			Text: "The ProteinPaint server is not asked. If it does not have the key yet, it refuses people until it does.",
		}
		page.Drop = web.Confirm{
			Ask: "Drop", Of: "the next key of " + id, Do: "Drop the next key", Danger: true, Action: action + "/drop", Text: "The next key never signs. The present one goes on.",
		}
	}
	return rows, nil
}

// roleRows are the roles, each with a preview.
func (v *integrationPages) roleRows(id string, of issuer.Integration) (rows []web.RoleRow, err error) {
	preview := func(role int) (string, error) {
		claims, err := v.issuer.Preview(id, role)
		if err != nil {
			return "", err
		}
		text, err := indented(json.RawMessage(claims))
		return string(text), err
	}
	for number, role := range of.Roles {
		row := web.RoleRow{Who: whoMatches(role)}
		result, err := json.Marshal(role.Result)
		if err != nil {
			return nil, fmt.Errorf("rendering a role: %w", err)
		}
		row.Result = string(result)
		if row.Preview, err = preview(number); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if slices.ContainsFunc(of.Roles, func(role issuer.Role) bool { return role.Everyone }) {
		return rows, nil
	}
	row := web.RoleRow{Who: "everyone else"}
	row.Preview, err = preview(-1)
	return append(rows, row), err
}

// whoMatches says in words whom a role is for.
func whoMatches(role issuer.Role) string {
	var all []string
	if role.Everyone {
		all = append(all, "everyone else")
	}
	if len(role.Users) > 0 {
		all = append(all, strings.Join(role.Users, ", "))
	}
	if len(role.Groups) > 0 {
		all = append(all, "members of "+strings.Join(role.Groups, ", "))
	}
	return strings.Join(all, "; ")
}

// make answers POST of the next key. A secret is shown on the page after it, once.
func (v *integrationPages) make(x *exchange) error {
	made, err := v.made(x)
	switch {
	case errors.Is(err, issuer.ErrPending):
		return goTo(x, v.here(x), "A next key waits already: activate it, or drop it.")
	case err != nil:
		return err
	}
	said := notice{Notice: web.Notice{Text: "The next key is made. Give it to the ProteinPaint server, then activate it."}}
	if made.State() == issuer.Active {
		said.Text = "The key is made, and signs from now on."
	}
	if made.Secret != "" {
		said.Made = &web.Made{Name: "The secret", Value: string(made.Secret), Audience: x.Param("id")}
	}
	leave(x, said)
	return goTo(x, v.here(x), "")
}

// activate answers POST: the next key signs, unless the ProteinPaint server would refuse it.
func (v *integrationPages) activate(x *exchange) error {
	_, err := v.activated(x)
	switch {
	case errors.Is(err, errNextRefused), errors.Is(err, issuer.ErrNoNext):
		x.event.Reason = err.Error()
		leave(x, notice{Notice: web.Notice{Text: "Nothing has changed: " + err.Error() + ".", Warning: true}})
		return goTo(x, v.here(x), "")
	case err != nil:
		return err
	}
	return goTo(x, v.here(x), "The next key signs from now on.")
}

// drop answers POST: the next key is gone.
func (v *integrationPages) drop(x *exchange) error {
	err := v.dropped(x)
	switch {
	case errors.Is(err, issuer.ErrNoNext):
		return goTo(x, v.here(x), "There is no next key any more.")
	case err != nil:
		return err
	}
	return goTo(x, v.here(x), "The next key is dropped.")
}

// test answers POST: what the ProteinPaint server says, in a notice.
func (v *integrationPages) test(x *exchange) error {
	checks, err := v.tested(x)
	var input *inputError
	switch {
	case errors.As(err, &input), errors.Is(err, issuer.ErrNoSecret), errors.Is(err, issuer.ErrAccess):
		leave(x, notice{Notice: web.Notice{Text: "The self-test cannot be made: " + err.Error() + ".", Warning: true}})
		return goTo(x, v.here(x), "")
	case err != nil:
		return err
	}
	var all []string
	failed := false
	for _, one := range checks {
		mark := "passed"
		if !one.Passed {
			mark, failed = "FAILED", true
		}
		all = append(all, one.Name+": "+mark+", "+one.Detail+".")
	}
	leave(x, notice{Notice: web.Notice{Text: strings.Join(all, " "), Warning: failed}})
	return goTo(x, v.here(x), "")
}
