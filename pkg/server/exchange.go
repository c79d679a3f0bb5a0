package server

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Types of tokens (RFC 8693 3).
const (
	typeAccess = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT    = "urn:ietf:params:oauth:token-type:jwt"
	typeID     = "urn:ietf:params:oauth:token-type:id_token"
)

// errSelfRenewal: a provider's access token would renew itself for ever, past the end of its grant.
var errSelfRenewal = errors.New("a token of the default provider is not exchanged for another one of it")

// errOtherAudience: an API token is traded for one of its own audience alone.
var errOtherAudience = errors.New("the API token is for another audience")

// exchanged is the answer of a token exchange (RFC 8693 2.2.1).
type exchanged struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in,omitempty"` // seconds
	Scope           string `json:"scope,omitempty"`
}

// exchange trades a token that shows who asks for one of an audience, or for a provider's (RFC 8693): an API token, a
// service account's, or an access token of the default provider. The rules are those of /token.
func (o *oauth) exchange(x *exchange, form url.Values) error {
	subject, kind := form.Get("subject_token"), form.Get("subject_token_type")
	wanted := form.Get("requested_token_type")
	switch {
	case subject == "":
		return &inputError{"subject_token is missing"}
	case kind != typeAccess && kind != typeJWT && kind != typeID:
		return &inputError{"subject_token_type: want " + typeAccess + ", or " + typeID + " for a CI job's"}
	case wanted != "" && wanted != typeAccess && wanted != typeJWT:
		return &inputError{"requested_token_type: want " + typeAccess + " or " + typeJWT}
	case form.Has("actor_token") || form.Has("actor_token_type"):
		return &inputError{"actor_token: delegation is not served"}
	case kind == typeID:
		return o.jobs.exchange(x, form)
	case form.Has("resource"):
		return &inputError{"resource: name the audience instead"}
	}
	target := form.Get("audience")
	x.event.Audience = cut(target)
	if apitoken.Claims(subject, o.issuer.URL()) {
		token, err := o.service.Check(x.Request.Context(), subject, x.peer.Addr)
		if err != nil {
			x.event.Token = token.ID
			return ofToken(err)
		}
		if token.Audience != issuer.OwnAudience {
			return o.trade(x, form, subject, token)
		}
	}
	request := x.Request.Clone(x.Request.Context())
	request.Header = http.Header{"Authorization": {"Bearer " + subject}}
	caller, err := x.authn.Authenticate(request, x.peer, authn.Accepts{ServiceAccount: true, APIToken: true, Login: true, Bearer: true})
	x.caller = caller
	if err != nil {
		return err
	}
	x.observer.Proven(caller.Proof)
	return o.issue(x, form, target)
}

// An API token of a resource service is good at that service alone: here it becomes a short token for it, and nothing
// else. One for wts itself is its user, and goes on as any proof does, by its scopes.

// trade trades an API token for a short one of its own audience.
func (o *oauth) trade(x *exchange, form url.Values, subject string, token apitoken.Token) error {
	x.event.Action, x.event.Audience, x.event.Resource = audit.Mint, token.Audience, token.Resource
	x.event.UserID, x.event.Proof, x.event.Actor = token.UserID, string(authn.APIToken), "token "+token.ID
	x.share = "token " + token.ID
	if target := form.Get("audience"); target != "" && target != token.Audience {
		return errOtherAudience
	}
	life, err := lifetime(form.Get("expires"))
	if err != nil {
		return err
	}
	if err := o.limits.take(x, mints, nil); err != nil {
		return err
	}
	_, minted, err := o.service.Trade(x.Request.Context(), subject, x.peer.Addr, strings.Fields(form.Get("scope")), life)
	if err != nil {
		return ofToken(err)
	}
	tellEnd(x, token.ExpiresAt)
	return answerMinted(x, minted)
}

// issue answers a caller who is known with a token of an audience, or of a provider: both are named in audience.
func (o *oauth) issue(x *exchange, form url.Values, target string) error {
	life, err := lifetime(form.Get("expires"))
	if err != nil {
		return err
	}
	x.want = tokenWanted{audience: target}
	if target != "" && !o.issuer.Audience(target) {
		id, err := o.tokens.broker.Provider(target)
		if err != nil {
			return issuer.ErrAudience
		}
		x.want = tokenWanted{idp: target, provider: id}
	}
	if target == "" {
		x.want.audience = o.tokens.defaultAudience
	}
	if x.want.audience == "" && x.want.provider == "" {
		return &inputError{"audience is missing"}
	}
	if err := o.tokens.scoped(x); err != nil {
		return err
	}
	tellEnd(x, x.caller.ExpiresAt)
	scopes := strings.Fields(form.Get("scope"))
	if x.want.audience != "" {
		if err := o.tokens.narrow(x, form.Get("datasets"), form.Get("ip")); err != nil {
			return err
		}
		minted, err := o.tokens.minted(x, life, scopes)
		if err != nil {
			return err
		}
		return answerMinted(x, minted)
	}
	switch {
	case len(scopes) > 0: // a provider's token has the scopes of its grant
		return issuer.ErrScope
	case x.caller.Proof == authn.Bearer && o.tokens.broker.IsDefault(x.want.provider):
		return errSelfRenewal
	}
	x.event.Action = audit.Handout
	token, err := o.tokens.handout(x, life)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, exchanged{AccessToken: string(token.Value), IssuedTokenType: typeAccess, TokenType: "Bearer", ExpiresIn: secondsLeft(token.ExpiresAt)})
}

// secondsLeft is how long a token lives; 0 where that is not known.
func secondsLeft(ends time.Time) int64 {
	if ends.IsZero() {
		return 0
	}
	return max(int64(time.Until(ends)/time.Second), 1)
}

// answerMinted answers with a token that was minted. The audit has it before the caller does.
func answerMinted(x *exchange, token issuer.Token) error {
	if !x.logged {
		x.event.Token = token.ID
		x.record()
	}
	return x.json(http.StatusOK, exchanged{
		AccessToken: token.Value, IssuedTokenType: typeAccess, TokenType: "Bearer", ExpiresIn: token.ExpiresIn, Scope: strings.Join(token.Scopes, " "),
	})
}
