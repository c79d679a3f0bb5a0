package server

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// Accounts is what an admin may see and do about people.
type Accounts interface {
	// Search lists the users whose names begin so, by name.
	Search(ctx context.Context, beginning string, limit int) ([]authn.Account, error)
	// SetDisabled disables the user who has a name now, or enables them; authn.ErrUnknown where there is none.
	SetDisabled(ctx context.Context, username string, disabled bool) error
}

// adminPages are the page of admins. It shows what people have and none of it, and lets nobody act as another.
type adminPages struct {
	*activityPages
	accounts Accounts
}

const (
	peopleShown   = 50
	refusalsShown = 30
	refusalsSince = 7 * 24 * time.Hour
)

// An admin's page is read once in a while, and may cost five statements: people and how many, what they have connected,
// keys with the database's time, and refusals along an index that has these alone.

// only lets in admins alone. Who they are is asked anew, and not taken from what is at hand.
func (a *apiTokens) only(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		who, err := a.person(x, "")
		if err != nil {
			return err
		}
		if !a.service.IsAdmin(who) {
			return errNotAdmin
		}
		return handle(x)
	}
}

// show answers GET /admin?name=: people, providers, keys and what was refused, without a secret.
func (v *adminPages) show(x *exchange) error {
	ctx := x.Request.Context()
	name, _ := x.param("name")
	people, err := v.accounts.Search(ctx, name, peopleShown+1)
	if err != nil {
		return errUnreadable
	}
	page := web.Admin{Name: name, Cut: len(people) > peopleShown, Providers: v.providerRows()}
	for i := range people[:min(len(people), peopleShown)] {
		page.People = append(page.People, v.personRow(x, &people[i]))
	}
	if page.Keys, err = v.keyRows(ctx); err != nil {
		return errUnreadable
	}
	refusals, err := v.history.Find(ctx, audit.Filter{Refused: true, Since: x.began.Add(-refusalsSince), Limit: refusalsShown})
	if err != nil {
		return errUnreadable
	}
	for i := range refusals {
		deed := v.deedOf(x, &refusals[i], nil)
		deed.Person, deed.Report = refusals[i].Username, ""
		page.Refusals = append(page.Refusals, deed)
	}
	x.page(http.StatusOK, page)
	return nil
}

// personRow shows what a person has.
func (v *adminPages) personRow(x *exchange, one *authn.Account) web.PersonRow {
	row := web.PersonRow{
		Username: one.Username, Disabled: !one.DisabledAt.IsZero(), SetAside: !one.SetAsideAt.IsZero(), Since: one.CreatedAt, Seen: one.SeenAt, Tokens: one.Tokens, Sessions: one.Sessions,
	}
	for _, id := range one.Providers {
		name := id
		if _, err := v.broker.Provider(id); err == nil {
			name = v.broker.NameOf(id)
		}
		row.Connected = append(row.Connected, name)
	}
	if row.SetAside { // the name means another person now
		return row
	}
	query := "?" + url.Values{"name": {one.Username}}.Encode()
	if row.Disabled {
		row.Enable = x.base + "/admin/enable" + query
		return row
	}
	row.Disable = web.Confirm{
		Ask: "Disable", Of: one.Username, Do: "Disable " + one.Username, Danger: true, Action: x.base + "/admin/disable" + query,
		Text: one.Username + " is signed out, and their workspaces and API tokens are refused within seconds. What they connected is kept.",
	}
	return row
}

// providerRows say how the providers are, as this replica saw them.
func (v *adminPages) providerRows() (rows []web.ProviderRow) {
	conditions := broker.ConditionsOf(v.broker)
	for i := range conditions {
		one := &conditions[i]
		row := web.ProviderRow{ID: one.ID, Name: one.Name, Tone: "good", State: "Answering", Posts: one.Posts, Failures: one.Failures, Success: one.Success}
		switch {
		case one.Rejects:
			row.Tone, row.State, row.Text = "bad", "Rejects this service", "It does not accept the client credentials; correct client_id and client_secret."
		case !one.Failing.IsZero():
			row.Tone, row.State, row.Text = "bad", "Failing", "No refresh was served since "+one.Failing.UTC().Format("15:04 MST")+"."
		case one.Posts == 0:
			row.Tone, row.State = "", "Not asked yet"
		}
		rows = append(rows, row)
	}
	return rows
}

// keyRows say which keys sign, and what comes next.
func (v *adminPages) keyRows(ctx context.Context) (rows []web.KeyRow, err error) {
	keys, now, err := v.issuer.Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		state := issuer.StateOf(key, keys, now)
		row := web.KeyRow{ID: key.ID, Algorithm: key.Algorithm, State: string(state), From: key.ActivatesAt}
		switch state {
		case issuer.Active:
			row.Tone, row.Text, row.At = "good", "next rotation", key.RotatesAt
		case issuer.Next:
			row.Text = "signs from then on"
		case issuer.Retired, issuer.Gone:
			row.Text, row.At = "published until", key.LeavesAt
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Disabling is what an admin does when an account is in wrong hands, so that it asks for their own sign-in of the last
// hour: a session that was left open disables nobody.

// named is the person who has a name now.
func (v *adminPages) named(ctx context.Context, name string) (authn.Account, error) {
	found, err := v.accounts.Search(ctx, name, peopleShown)
	if err != nil {
		return authn.Account{}, errUnreadable
	}
	for i := range found {
		if found[i].Username == name && found[i].SetAsideAt.IsZero() {
			return found[i], nil
		}
	}
	return authn.Account{}, apitoken.ErrUnknown
}

// setDisabled answers POST /admin/disable and /admin/enable with ?name=.
func (v *adminPages) setDisabled(disabled bool) func(*exchange) error {
	action := audit.EnableUser
	if disabled {
		action = audit.DisableUser
	}
	return func(x *exchange) error {
		if !isRecent(x) {
			signInPage(x, "/admin", true)
			return nil
		}
		name, _ := x.param("name")
		if disabled && name == x.caller.User.Username {
			x.event.Reason = "an admin may not disable themselves"
			return goTo(x, "/admin", "You cannot disable yourself here; another admin can.")
		}
		who, err := v.named(x.Request.Context(), name)
		if err != nil {
			return err
		}
		if err := v.accounts.SetDisabled(x.Request.Context(), name, disabled); err != nil {
			return errUnreadable
		}
		x.authn.ForgetUser(who.ID, name)
		// The one it is done to finds it in their activity; who did it stands as the actor.
		alsoDone(x, audit.Event{Action: action, UserID: who.ID, Username: name, Proof: string(x.caller.Proof), Actor: "admin " + x.caller.User.Username})
		x.event.Action = ""
		said := name + " is enabled again."
		if disabled {
			said = name + " is disabled: every replica refuses them within seconds."
		}
		return goTo(x, "/admin?"+url.Values{"name": {name}}.Encode(), said)
	}
}
