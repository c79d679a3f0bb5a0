package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Developer keys are API tokens in the format JWT: they stand among a person's API tokens, with all that those have.
// Their old surface names them by their last five characters, which means one of the caller's own, or is refused.

// authKeys answers /auth/user/keys.
type authKeys struct{ *auths }

// maxKeys is how many valid keys a person may have.
const maxKeys = 5

var (
	errAuthLogin    = errors.New("this needs the token of a login, not a developer key: log in")
	errAuthManyKeys = errors.New("You have reached the maximum number of keys allowed") //nolint:staticcheck // PEPhub's words
	errAuthNoKey    = errors.New("you have no key that ends so")
	errAuthTwoKeys  = errors.New("several of your keys end so; revoke the one that you mean on the page of API tokens")
)

// authKey is a key as its list shows it.
type authKey struct {
	Key       string `json:"key"`
	CreatedAt string `json:"created_at"`
	Expires   string `json:"expires"`
}

// The answers have the members and the forms that the clients of old parse: times without a zone, a list that shows the
// ends of keys, 202 for what is gone. What they do not see is kept as for any API token.

// naive is a time as PEPhub's clients parse it: UTC, in microseconds, without saying so.
func naive(at time.Time) string {
	return at.UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000000")
}

// obscured is what a list shows of a key: its beginning, which is that of every JWT, and its last five characters.
func obscured(token *apitoken.Token) string {
	return "eyJhb**********" + token.Values[0].Suffix
}

// of are the keys of a person, the newest first.
func (a *authKeys) of(x *exchange, userID string) (keys []apitoken.Token, err error) {
	filter := apitoken.Filter{Limit: 100}
	for {
		page, err := a.tokens.List(x.Request.Context(), issuer.Person{ID: userID}, filter)
		if err != nil {
			return nil, err
		}
		for _, token := range page {
			filter.After = token.ID
			if token.Audience == a.audience && token.Format == apitoken.JWT && len(token.Values) > 0 {
				keys = append(keys, token)
			}
		}
		if len(page) < filter.Limit {
			return keys, nil
		}
	}
}

// list answers GET /auth/user/keys: those that are valid.
func (a *authKeys) list(x *exchange) error {
	who, err := a.caller(x)
	if err != nil {
		return err
	}
	if who.userID == "" {
		return errAuthToken
	}
	keys, err := a.of(x, who.userID)
	if err != nil {
		return err
	}
	shown := []authKey{}
	for _, token := range keys {
		if token.State(time.Now()) == "active" {
			shown = append(shown, authKey{obscured(&token), naive(token.CreatedAt), naive(token.ExpiresAt)})
		}
	}
	return x.json(http.StatusOK, map[string]any{"keys": shown})
}

// create answers POST /auth/user/keys: a key, which is shown once. Only the newest token of a login makes one: a key
// makes no keys, and who knows the audience's secret cannot make up a login.
func (a *authKeys) create(x *exchange) error {
	who, err := a.caller(x)
	switch {
	case err != nil:
		return err
	case who.login == nil:
		return errAuthLogin
	case !who.newest:
		return errAuthRevoked
	}
	x.event.Audience = a.audience
	if err := a.limits.take(x, changes, nil); err != nil {
		return err
	}
	keys, err := a.of(x, who.userID)
	if err != nil {
		return err
	}
	now := time.Now()
	if valid := slices.DeleteFunc(keys, func(token apitoken.Token) bool { return token.State(now) != "active" }); len(valid) >= maxKeys {
		return errAuthManyKeys
	}
	made, value, err := a.tokens.Create(x.Request.Context(), issuer.Person{ID: who.userID}, apitoken.Wanted{
		Audience: a.audience, Format: apitoken.JWT, Name: "Developer key", Description: "made by a client of " + a.audience, AtMost: maxKeys,
	})
	x.event.Token = made.ID
	switch {
	case errors.Is(err, apitoken.ErrFull): // another request was first
		return errAuthManyKeys
	case err != nil:
		return ofPerson(err)
	}
	x.record()
	return x.json(http.StatusOK, map[string]authKey{"key": {value, naive(made.CreatedAt), naive(made.ExpiresAt)}})
}

// drop answers DELETE /auth/user/keys: the caller's own key with these last five characters is revoked.
func (a *authKeys) drop(x *exchange) error {
	who, err := a.caller(x)
	switch {
	case err != nil:
		return err
	case who.login == nil:
		return errAuthLogin
	}
	x.event.Action, x.event.Audience = audit.RevokeToken, a.audience
	var sent struct {
		Last string `json:"last_five_chars"`
	}
	if err := json.NewDecoder(x.Request.Body).Decode(&sent); err != nil {
		return &inputError{"the body is not the JSON that is expected"}
	}
	if len(sent.Last) != 5 {
		return &inputError{"last_five_chars: want the five characters that the list shows at the end of the key"}
	}
	if err := a.limits.take(x, changes, nil); err != nil {
		return err
	}
	keys, err := a.of(x, who.userID)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(token apitoken.Token) bool { return !strings.HasSuffix(token.Values[0].Suffix, sent.Last) })
	valid := slices.DeleteFunc(slices.Clone(keys), func(token apitoken.Token) bool { return token.State(time.Now()) != "active" })
	switch {
	case len(keys) == 0:
		return errAuthNoKey
	case len(valid) > 1:
		return errAuthTwoKeys
	case len(valid) == 1:
		x.event.Token = valid[0].ID
		if _, err := a.tokens.Revoke(x.Request.Context(), issuer.Person{ID: who.userID, Username: "its user"}, valid[0].ID); err != nil {
			return err
		}
	}
	return x.json(http.StatusAccepted, map[string]string{"message": "Key deleted successfully."})
}
