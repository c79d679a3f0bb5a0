package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// stepUp is how recent a login has to be of a person who makes a token that lives long (rule C6).
const stepUp = time.Hour

var (
	errStepUp   = errors.New("log in again: a token that lives long is made within an hour of a login")
	errNoPerson = errors.New("sign in first")
)

// apiTokens answers /api/v1/tokens and the tokens of /api/v1/resources.
type apiTokens struct {
	service   *apitoken.Service
	issuer    *issuer.Issuer
	broker    *broker.Broker
	limits    *limits
	crossSite *http.CrossOriginProtection
}

// Who may do what is decided in package apitoken; here a request is read, and a token shown. A route that changes
// something refuses what a page of another site has a browser send, and what makes a value visible wants a recent login:
// a session that was stolen makes no token that outlives it.

// when is a time as the API shows it; nil for the zero time.
func when(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC().Truncate(time.Second)
	return &at
}

// view shows a token to who may manage it: never a value, but for the one time at which it is made.
func view(token apitoken.Token, now time.Time) api.APIToken {
	shown := api.APIToken{
		ID: token.ID, Kind: string(token.Kind), Format: string(token.Format), State: token.State(now), Audience: token.Audience, Resource: token.Resource,
		Name: token.Name, Description: token.Description, Scopes: append([]string{}, token.Scopes...), Networks: []string{},
		CreatedAt: *when(token.CreatedAt), CreatedBy: token.UserID, ExpiresAt: when(token.ExpiresAt), LastUsedAt: when(token.LastUsedAt),
		LastUsedFrom: token.LastUsedFrom, RevokedAt: when(token.RevokedAt), RevokedBy: token.RevokedBy, RevokedFor: token.RevokedFor,
	}
	for _, network := range token.Networks {
		shown.Networks = append(shown.Networks, network.String())
	}
	if len(token.Values) > 0 {
		shown.Hint = token.Hint()
	}
	if len(token.Values) > 1 {
		shown.RotatedAt = when(token.Values[0].CreatedAt)
		last := slices.MaxFunc(token.Values[1:], func(a, b apitoken.Value) int { return a.Until.Compare(b.Until) })
		if now.Before(last.Until) {
			shown.OldValueUntil = when(last.Until)
		}
	}
	return shown
}

// person is who makes the request, with their groups where an audience asks for them, or who is an admin depends on them.
func (a *apiTokens) person(x *exchange, audience string) (issuer.Person, error) {
	who := issuer.Person{ID: x.caller.User.ID, Username: x.caller.User.Username}
	if who.ID == "" {
		return who, errNoPerson
	}
	asked := a.issuer.AsksGroups(audience)
	if !asked && !a.service.AdminsByGroup() {
		return who, nil
	}
	known, err := about(x, a.broker, who)
	if err != nil && !asked { // no admin, while their groups cannot be had
		return who, nil
	}
	return known, err
}

// changing wants a request that no other site can have had a browser send.
func (a *apiTokens) changing(handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		if err := a.crossSite.Check(x.Request); err != nil {
			return errCrossing
		}
		return handle(x)
	}
}

// isRecent tells a login of the last hour.
func isRecent(x *exchange) bool {
	return x.caller.Since.IsZero() || time.Since(x.caller.Since) <= stepUp
}

// recent wants a login of the last hour.
func recent(x *exchange) error {
	if !isRecent(x) {
		return errStepUp
	}
	return nil
}

// within keeps a program from making itself a token for wts that may do more than the program may.
func within(x *exchange, audience string, scopes []string) error {
	lacks := func(scope string) bool { return !slices.Contains(x.caller.Scopes, scope) }
	if x.caller.Proof == authn.Login && audience == issuer.OwnAudience && slices.ContainsFunc(scopes, lacks) {
		return errTokenScope
	}
	return nil
}

// newToken is the body that makes a token.
type newToken struct {
	Audience    string   `json:"audience"`
	Format      string   `json:"format"` // opaque unless told otherwise, or jwt
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Scopes      []string `json:"scopes"`
	Networks    []string `json:"networks"`
	// ExpiresIn is its life in seconds; left out, the audience's default; null, none.
	ExpiresIn json.RawMessage `json:"expires_in"`
}

// create answers POST of a person's token, or of a resource's where the address names one. The audit has the line before
// the person has the token.
func (a *apiTokens) create(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	var sent newToken
	if err := readBody(x, &sent); err != nil {
		return err
	}
	audience, resource := x.Param("audience"), x.Param("resource")
	switch {
	case audience == "":
		audience = sent.Audience
	case sent.Audience != "" && sent.Audience != audience:
		return &inputError{"audience: is not the one of the address"}
	}
	x.event.Audience, x.event.Resource = cut(audience), cut(resource)
	if err := within(x, audience, sent.Scopes); err != nil {
		return err
	}
	wanted := apitoken.Wanted{
		Audience: audience, Resource: resource, Format: apitoken.Format(sent.Format), Name: sent.Name, Description: sent.Description, Scopes: sent.Scopes, Networks: sent.Networks,
		Endless: string(sent.ExpiresIn) == "null",
	}
	if len(sent.ExpiresIn) > 0 && !wanted.Endless {
		seconds, err := strconv.ParseInt(string(sent.ExpiresIn), 10, 64)
		if err != nil || seconds <= 0 {
			return &inputError{"expires_in: has to be a positive number of seconds, or null"}
		}
		wanted.Lifetime = time.Duration(min(seconds, maxExpires)) * time.Second
	}
	who, err := a.person(x, audience)
	if err != nil {
		return err
	}
	token, value, err := a.service.Create(x.Request.Context(), who, wanted)
	if err != nil {
		return err
	}
	x.event.Token = token.ID
	x.record()
	shown := view(token, time.Now())
	shown.Token = value
	x.Header("Location", x.base+x.Request.URL.Path+"/"+token.ID)
	return x.json(http.StatusCreated, shown)
}

// list answers GET of a person's own tokens, or of a resource's: ?state=active&unused_days=90&after=<id>.
func (a *apiTokens) list(x *exchange) error {
	filter := apitoken.Filter{Audience: x.Param("audience"), Resource: x.Param("resource")}
	filter.After, _ = x.param("after")
	if text, ok := x.param("unused_days"); ok {
		days, err := strconv.Atoi(text)
		if err != nil || days < 0 || days > 36500 {
			return &inputError{"unused_days: has to be a number of days"}
		}
		filter.UnusedSince = time.Now().AddDate(0, 0, -days)
	}
	state, _ := x.param("state")
	if state != "" && !slices.Contains([]string{"active", "expired", "revoked"}, state) {
		return &inputError{"state: has to be active, expired or revoked"}
	}
	filter.Limit = pageSize
	who, err := a.person(x, "")
	if err != nil {
		return err
	}
	tokens, err := a.service.List(x.Request.Context(), who, filter)
	if err != nil {
		return err
	}
	answer := struct {
		Tokens []api.APIToken `json:"tokens"`
		// Next is to be sent as after for the next page; it is left out where there is none.
		Next string `json:"next,omitempty"`
	}{Tokens: []api.APIToken{}}
	if len(tokens) == pageSize {
		answer.Next = tokens[len(tokens)-1].ID
	}
	for _, token := range tokens {
		if shown := view(token, time.Now()); state == "" || shown.State == state {
			answer.Tokens = append(answer.Tokens, shown)
		}
	}
	return x.json(http.StatusOK, answer)
}

const pageSize = 100

// addressed is the token of the address, which has to be the resource's of the address.
func (a *apiTokens) addressed(x *exchange) (issuer.Person, apitoken.Token, error) {
	who, err := a.person(x, "")
	if err != nil {
		return who, apitoken.Token{}, err
	}
	token, err := a.service.Get(x.Request.Context(), who, x.Param("id"))
	if err == nil && (token.Resource != x.Param("resource") || token.Resource != "" && token.Audience != x.Param("audience")) {
		err = apitoken.ErrUnknown
	}
	x.event.Audience, x.event.Resource, x.event.Token = token.Audience, token.Resource, token.ID
	return who, token, err
}

// show answers GET of one token.
func (a *apiTokens) show(x *exchange) error {
	_, token, err := a.addressed(x)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, view(token, time.Now()))
}

// edit answers PATCH of what a token is called. What it may do is fixed when it is made.
func (a *apiTokens) edit(x *exchange) error {
	who, token, err := a.addressed(x)
	if err != nil {
		return err
	}
	var sent struct {
		Name        *string `json:"name"`
		Description *string `json:"description"`
	}
	if err := readBody(x, &sent); err != nil {
		return err
	}
	token, err = a.service.Edit(x.Request.Context(), who, token.ID, sent.Name, sent.Description)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, view(token, time.Now()))
}

// revoke answers DELETE: the token is refused from now on, and stays in the list.
func (a *apiTokens) revoke(x *exchange) error {
	who, token, err := a.addressed(x)
	if err != nil {
		return err
	}
	token, err = a.service.Revoke(x.Request.Context(), who, token.ID)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, view(token, time.Now()))
}

// revokeAll answers DELETE of all of a person's own tokens: for somebody whose laptop is gone.
func (a *apiTokens) revokeAll(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	who, err := a.person(x, "")
	if err != nil {
		return err
	}
	ended, err := a.revokedAll(x, who)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, map[string]int{"revoked": ended})
}

// revokedAll revokes all of a person's own tokens, and audits each; the number is that of those that were, after a
// failure too.
func (a *apiTokens) revokedAll(x *exchange, who issuer.Person) (int, error) {
	ended, err := a.service.RevokeAll(x.Request.Context(), who)
	for _, id := range ended {
		event := audit.Event{Action: audit.RevokeToken, UserID: who.ID, Username: who.Username, Proof: string(x.caller.Proof), Actor: x.caller.Actor, Token: id}
		alsoDone(x, event)
	}
	return len(ended), err
}

// readOverlap reads how long both values work.
func readOverlap(x *exchange) (*time.Duration, error) {
	var sent struct {
		Overlap *int64 `json:"overlap"` // seconds
	}
	if x.Request.ContentLength != 0 {
		if err := readBody(x, &sent); err != nil {
			return nil, err
		}
	}
	if sent.Overlap == nil {
		return nil, nil
	}
	overlap := time.Duration(min(max(*sent.Overlap, -1), maxExpires)) * time.Second
	return &overlap, nil
}

// rotate answers POST by a person who has logged in within the hour, as making a token does.
func (a *apiTokens) rotate(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	who, token, err := a.addressed(x)
	if err == nil && a.issuer.AsksGroups(token.Audience) {
		who, err = a.person(x, token.Audience)
	}
	if err != nil {
		return err
	}
	if err := within(x, token.Audience, token.Scopes); err != nil {
		return err
	}
	overlap, err := readOverlap(x)
	if err != nil {
		return err
	}
	token, value, err := a.service.Rotate(x.Request.Context(), who, token.ID, overlap)
	if err != nil {
		return err
	}
	x.record()
	shown := view(token, time.Now())
	shown.Token = value
	return x.json(http.StatusOK, shown)
}
