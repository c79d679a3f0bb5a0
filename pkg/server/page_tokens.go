package server

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/web"
)

// The pages of API tokens do what the API does, by the same service: a form is read, and a page says what was done. A
// value is in one answer alone: that of the page after the form, which has it from a cookie that was sealed for its
// person, and drops it.

// tokenPages are the pages of API tokens, a person's own and those of the resources that they maintain.
type tokenPages struct{ *people }

// list answers GET /tokens: those that work, and below them those that do not any more, which stay so that a person finds
// what a value was that turns up somewhere. Who has none yet sees the form at once.
func (v *tokenPages) list(x *exchange) error {
	after, _ := x.param("after")
	who := v.personAtHand(x)
	tokens, err := v.service.List(x.Request.Context(), who, apitoken.Filter{After: after, Limit: pageSize})
	if err != nil {
		return err
	}
	page := web.Tokens{CanMake: v.canMake(), Made: takeNotice(x, true).Made}
	if len(tokens) == 0 && after == "" && page.CanMake && isRecent(x) {
		return v.shown(x, http.StatusOK, sentToken{first: true}, "")
	}
	page.TokenLists = lists(tokens, x.base+"/tokens", page.Made, nil)
	page.More = older(tokens, x.base+"/tokens")
	x.page(http.StatusOK, page)
	return nil
}

// older is where a list goes on.
func older(tokens []apitoken.Token, path string) string {
	if len(tokens) < pageSize {
		return ""
	}
	return path + "?after=" + tokens[len(tokens)-1].ID
}

// A list is no place to wait for a provider: who is an admin by a group is known from what was asked before. What an
// admin may do is judged again, and by what the provider says now, where they do it.

// personAtHand is who asks, with their groups as far as they are known without asking.
func (p *people) personAtHand(x *exchange) issuer.Person {
	who := issuer.Person{ID: x.caller.User.ID, Username: x.caller.User.Username}
	if p.service.AdminsByGroup() {
		who.Groups = p.broker.GroupsAtHand(who.ID)
	}
	return who
}

// canMake tells whether there is an audience of which personal tokens may be made at all.
func (v *tokenPages) canMake() bool {
	return slices.ContainsFunc(v.issuer.Audiences(), func(id string) bool {
		policy, _ := v.issuer.APITokens(id)
		return policy.Personal
	})
}

// lists parts tokens into those that work and those that do not any more. Names are those of the makers, where they are
// shown.
func lists(tokens []apitoken.Token, path string, made *web.Made, maker func(userID string) (name string, left bool)) web.TokenLists {
	shown := web.TokenLists{
		Active: web.TokenTable{ID: "active", Caption: "API tokens that work", Acts: true},
		Past:   web.TokenTable{ID: "past", Caption: "API tokens that were revoked or have expired"},
	}
	now := time.Now()
	for _, token := range tokens {
		row := rowOf(token, path, now)
		row.New = made != nil && token.Name == made.Name && now.Sub(token.Values[0].CreatedAt) < time.Minute
		if maker != nil {
			row.MadeBy, row.Left = maker(token.UserID)
		}
		if token.State(now) == "active" {
			shown.Active.Rows = append(shown.Active.Rows, row)
		} else {
			shown.Past.Rows = append(shown.Past.Rows, row)
		}
	}
	shown.Filter = len(shown.Active.Rows) > 5
	return shown
}

// rowOf shows a token to who may manage it.
func rowOf(token apitoken.Token, path string, now time.Time) web.TokenRow {
	known := view(token, now)
	row := web.TokenRow{
		Name: token.Name, Description: token.Description, Audience: token.Audience, Hint: known.Hint, Scopes: token.Scopes, Networks: known.Networks,
		Created: token.CreatedAt, Expires: token.ExpiresAt, LastUsed: token.LastUsedAt, LastUsedFrom: token.LastUsedFrom,
		Revoked: token.RevokedAt, RevokedBy: token.RevokedBy, RevokedFor: token.RevokedFor,
		Soon: !token.ExpiresAt.IsZero() && token.ExpiresAt.Sub(now) < soon,
	}
	if known.OldValueUntil != nil {
		row.OldUntil = *known.OldValueUntil
	}
	named := "“" + token.Name + "”"
	row.Rotate = web.Confirm{
		Ask: "Rotate", Of: named, Do: "Rotate " + named, Action: path + "/" + token.ID + "/rotate",
		Text: "It gets a new value, which is shown once. The present value works for one more day.",
	}
	row.Revoke = web.Confirm{
		Ask: "Revoke", Of: named, Do: "Revoke " + named, Danger: true, Action: path + "/" + token.ID + "/revoke",
		Text: "Whatever uses it is refused at once, for good.",
	}
	return row
}

// form answers GET of the form that makes a token: a person's, or a resource's where the address names one.
func (v *tokenPages) form(x *exchange) error {
	if !isRecent(x) {
		signInPage(x, x.Request.URL.RequestURI(), true)
		return nil
	}
	return v.shown(x, http.StatusOK, sentToken{}, "")
}

// sentToken is the form as it was sent.
type sentToken struct {
	newToken
	expires, networks string
	first             bool // nothing was sent: the person has no token yet
}

// The form offers what the person may have, and nothing else: audiences that take personal tokens and let this person in,
// each with the scopes that they may be given. It is judged again when it is sent, since a form is the browser's.

// shown shows the form, with what was sent and what is wrong with it.
func (v *tokenPages) shown(x *exchange, status int, sent sentToken, fault string) error {
	audience, resource := x.Param("audience"), x.Param("resource")
	if resource != "" {
		who, err := v.person(x, "")
		if err == nil {
			err = v.service.Manages(x.Request.Context(), who, audience, resource)
		}
		if err != nil {
			return err
		}
	}
	page := web.NewToken{
		Action: x.base + "/tokens", Fault: fault, Resource: resource, Name: sent.Name, Description: sent.Description, Networks: sent.networks, JWT: sent.Format == "jwt",
		First: sent.first,
		Open:  sent.Description != "" || sent.networks != "" || sent.Format == "jwt",
	}
	if resource != "" {
		page.Action = x.base + "/resources/" + audience + "/" + resource + "/tokens"
	}
	page.Back = strings.TrimSuffix(page.Action, "/tokens")
	if resource == "" {
		page.Back = page.Action
	}
	longest := time.Duration(0)
	for _, id := range v.issuer.Audiences() {
		policy, _ := v.issuer.APITokens(id)
		if audience != "" && id != audience || resource == "" && !policy.Personal || resource != "" && !policy.Resource {
			continue
		}
		who, err := v.person(x, id)
		if err != nil {
			return err
		}
		scopes, allowed := v.issuer.ScopesFor(id, who)
		if !allowed {
			continue
		}
		longest = max(longest, policy.MaxLifetime)
		page.JWTs = page.JWTs || policy.JWT
		page.Audiences = append(page.Audiences, choiceOf(id, scopes, sent))
	}
	switch {
	case len(page.Audiences) == 0 && sent.first:
		x.page(status, web.Tokens{})
		return nil
	case len(page.Audiences) == 0:
		return issuer.ErrAccess
	}
	if !slices.ContainsFunc(page.Audiences, func(one web.AudienceChoice) bool { return one.Chosen }) {
		page.Audiences[0].Chosen = sent.Audience == ""
	}
	page.Presets = presets(longest, sent.expires)
	x.page(status, page)
	return nil
}

// choiceOf is an audience as the form offers it. A scope's field names its audience, since every audience's are sent.
func choiceOf(id string, scopes []string, sent sentToken) web.AudienceChoice {
	choice := web.AudienceChoice{ID: id, Chosen: id == sent.Audience}
	for _, scope := range scopes {
		one := web.ScopeChoice{Value: id + " " + scope, Name: scope, Chosen: choice.Chosen && slices.Contains(sent.Scopes, scope)}
		if id == issuer.OwnAudience {
			one.Text = web.ScopeWords(scope)
		}
		choice.Scopes = append(choice.Scopes, one)
	}
	return choice
}

// presets are the lives to choose from, up to the longest that is allowed.
func presets(longest time.Duration, chosen string) (all []web.Choice) {
	const day = 24 * time.Hour
	if chosen == "" {
		chosen = "30"
	}
	for _, days := range []int{1, 7, 30, 90, 180, 365} {
		if time.Duration(days)*day > longest && len(all) > 0 {
			break
		}
		label := fmt.Sprintf("%d days (%s)", days, time.Now().AddDate(0, 0, days).UTC().Format("2 Jan 2006"))
		if days == 1 {
			label = "1 day"
		}
		value := strconv.Itoa(days)
		all = append(all, web.Choice{Value: value, Label: label, Chosen: value == chosen})
	}
	return all
}

// What is wrong with a form is no failure: the page is the form again, with what was typed, and says what to change. It
// is answered with 422, and not with a redirect: nothing was done that reload could repeat.

// create answers POST of the form. What is wrong with it is said in the form, which keeps what was typed.
func (v *tokenPages) create(x *exchange) error {
	sent, err := readTokenForm(x)
	if err != nil {
		return err
	}
	audience, resource := x.Param("audience"), x.Param("resource")
	x.event.Audience, x.event.Resource = cut(sent.Audience), cut(resource)
	list := x.base + "/tokens"
	if resource != "" {
		list = x.base + "/resources/" + audience + "/" + resource
	}
	if !isRecent(x) {
		return goTo(x, strings.TrimPrefix(list, x.base)+"/new", "")
	}
	if resource != "" && sent.Audience != audience {
		return apitoken.ErrUnknown
	}
	who, err := v.person(x, sent.Audience)
	if err != nil {
		return err
	}
	days, _ := strconv.Atoi(sent.expires)
	token, value, err := v.service.Create(x.Request.Context(), who, apitoken.Wanted{
		Audience: sent.Audience, Resource: resource, Format: apitoken.Format(sent.Format), Name: sent.Name, Description: sent.Description, Scopes: sent.Scopes, Networks: sent.Networks,
		Lifetime: time.Duration(min(max(days, 0), 3650)) * 24 * time.Hour,
	})
	if errors.Is(err, apitoken.ErrInput) || errors.Is(err, apitoken.ErrPolicy) || errors.Is(err, issuer.ErrScope) || errors.Is(err, issuer.ErrAudience) {
		x.event.Reason = err.Error()
		return v.shown(x, http.StatusUnprocessableEntity, sent, sentence(reasonOf(err)))
	}
	if err != nil {
		return err
	}
	return v.made(x, token, value, list)
}

// The audit has the line before the browser has the value, as everywhere: who got a token can be found.

// made shows a value on the page of the list, once.
func (v *tokenPages) made(x *exchange, token apitoken.Token, value, list string) error {
	x.event.Token = token.ID
	x.record()
	leave(x, notice{Made: &web.Made{Name: token.Name, Value: value, Audience: token.Audience, Public: x.public, Scopes: token.Scopes, Expires: token.ExpiresAt}})
	x.Redirect(http.StatusSeeOther, list)
	return nil
}

// readTokenForm reads the form that makes a token.
func readTokenForm(x *exchange) (sent sentToken, err error) {
	if x.Request.ParseForm() != nil {
		return sent, &inputError{"the form cannot be read"}
	}
	form := x.Request.PostForm
	sent.Name, sent.Audience, sent.Description, sent.Format = strings.TrimSpace(form.Get("name")), form.Get("audience"), strings.TrimSpace(form.Get("description")), form.Get("format")
	sent.expires, sent.networks = form.Get("expires"), form.Get("networks")
	sent.Description = strings.ReplaceAll(sent.Description, "\r\n", "\n")
	sent.Networks = strings.FieldsFunc(sent.networks, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
	for _, field := range form["scope"] {
		if audience, scope, ok := strings.Cut(field, " "); ok && audience == sent.Audience {
			sent.Scopes = append(sent.Scopes, scope)
		}
	}
	return sent, nil
}

// sentence is a text that begins and ends as one.
func sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// listOf is the page of the list that a token of the address is in.
func listOf(x *exchange) string {
	if resource := x.Param("resource"); resource != "" {
		return "/resources/" + x.Param("audience") + "/" + resource
	}
	return "/tokens"
}

// revoke answers POST of the button that revokes a token.
func (v *tokenPages) revoke(x *exchange) error {
	who, token, err := v.addressed(x)
	if err != nil {
		return err
	}
	if token, err = v.service.Revoke(x.Request.Context(), who, token.ID); err != nil {
		return err
	}
	return goTo(x, listOf(x), "“"+token.Name+"” is revoked, and refused from now on.")
}

// rotate answers POST of the button that rotates a token.
func (v *tokenPages) rotate(x *exchange) error {
	if !isRecent(x) {
		signInPage(x, listOf(x), true)
		return nil
	}
	who, token, err := v.addressed(x)
	if err == nil && v.issuer.AsksGroups(token.Audience) {
		who, err = v.person(x, token.Audience)
	}
	if err != nil {
		return err
	}
	token, value, err := v.service.Rotate(x.Request.Context(), who, token.ID, nil)
	if err != nil {
		return err
	}
	return v.made(x, token, value, x.base+listOf(x))
}

// revokeAll answers POST of the button that revokes all of a person's own tokens.
func (v *tokenPages) revokeAll(x *exchange) error {
	if !isRecent(x) {
		signInPage(x, "/activity/not-me", true)
		return nil
	}
	who, err := v.person(x, "")
	if err != nil {
		return err
	}
	ended, err := v.revokedAll(x, who)
	if err != nil {
		return err
	}
	return goTo(x, "/tokens", fmt.Sprintf("%s revoked, and refused from now on.", counted(ended, "API token is", "API tokens are")))
}

// counted is a number of things in words.
func counted(number int, one, many string) string {
	if number == 1 {
		return "1 " + one
	}
	return strconv.Itoa(number) + " " + many
}
