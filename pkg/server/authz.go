package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// A service in another language than Go has the decision about a namespace here. It sends the token that its caller sent
// it, and answers as it is answered. The groups are those of now, whatever the token says.

// authz answers /authz/check.
type authz struct{ *auths }

// Why a namespace is not the caller's.
var (
	errNamespaceUnknown = errors.New("there is no such project, or it is not yours to see")
	errNamespaceLogin   = errors.New("log in first")
	errNamespaceOther   = errors.New("you are neither the owner of the namespace nor in its organisation")
)

// check answers POST /authz/check.
func (a *authz) check(x *exchange) error {
	var asked struct {
		Namespace  string               `json:"namespace"`
		Action     namespace.Action     `json:"action"`
		Visibility namespace.Visibility `json:"visibility"`
	}
	if err := json.NewDecoder(x.Request.Body).Decode(&asked); err != nil {
		return &inputError{"the body is not the JSON that is expected"}
	}
	if asked.Visibility == "" {
		asked.Visibility = namespace.Public
	}
	switch {
	case asked.Namespace == "":
		return &inputError{"namespace is missing"}
	case !slices.Contains([]namespace.Action{namespace.Read, namespace.Submit, namespace.Edit, namespace.Delete}, asked.Action):
		return &inputError{"action: want read, submit, edit or delete"}
	case !slices.Contains([]namespace.Visibility{namespace.Public, namespace.Private, namespace.Missing}, asked.Visibility):
		return &inputError{"visibility: want public, private or missing"}
	}
	if err := a.limits.take(x, introspections, nil); err != nil {
		return err
	}
	who, err := a.member(x)
	if err != nil {
		return err
	}
	switch namespace.Decide(who, asked.Action, asked.Namespace, asked.Visibility) {
	case namespace.Allow:
		body := map[string]any{"allowed": true}
		if !who.Anonymous() {
			body["login"] = who.Login
		}
		return x.json(http.StatusOK, body)
	case namespace.Authenticate:
		return errNamespaceLogin
	case namespace.Forbid:
		return errNamespaceOther
	case namespace.Hide:
	}
	return errNamespaceUnknown
}

// member is the person of the token that was sent, with their groups of now. A token that has expired, or is none, is no
// token, so that its user still reads what is public; one that was revoked is refused.
func (a *authz) member(x *exchange) (namespace.Caller, error) {
	if x.GetHeader("Authorization") == "" {
		return namespace.Caller{}, nil
	}
	sent, err := a.caller(x)
	switch {
	case errors.Is(err, errAuthToken), errors.Is(err, errAuthExpired):
		return namespace.Caller{}, nil
	case err != nil:
		return namespace.Caller{}, err
	}
	user, err := x.authn.Owner(x.Request.Context(), sent.person())
	switch {
	case errors.Is(err, authn.ErrBearer), errors.Is(err, authn.ErrDisabled):
		return namespace.Caller{}, errAuthRevoked
	case err != nil:
		return namespace.Caller{}, err
	}
	who, err := about(x, a.logins.broker, issuer.Person{ID: user.ID, Username: user.Username})
	return namespace.Caller{Login: namespace.Key(who.Username), Orgs: who.Groups}, err
}

// person is the id of who sent a token: what the database says, or of a token that was minted for minutes what it says.
func (c authCaller) person() string {
	if c.userID != "" {
		return c.userID
	}
	return c.said.Subject
}
