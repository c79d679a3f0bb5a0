package server

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// oauth answers the OAuth endpoints: /oauth2/token, /oauth2/introspect and /oauth2/revoke.
type oauth struct {
	tokens  *tokens
	service *apitoken.Service
	issuer  *issuer.Issuer
	limits  *limits
	jobs    *publishers
	grants  *grants
}

// The grants of the token endpoint.
const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 2.1
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"    // RFC 8628 3.4
	grantCode     = "authorization_code"
	grantRefresh  = "refresh_token"
)

// errGrantType: the grant is none that is served.
var errGrantType = errors.New("grant_type: want " + strings.Join(grantTypes, ", "))

var grantTypes = []string{grantCode, grantRefresh, grantDevice, grantExchange}

// errTokenType: what was sent is no token that can be revoked.
var errTokenType = errors.New("a minted token cannot be revoked: it ends by itself, within minutes")

// token answers POST /oauth2/token (RFC 6749 3.2).
func (o *oauth) token(x *exchange) error {
	form, err := readForm(x)
	if err != nil {
		return err
	}
	switch form.Get("grant_type") {
	case grantExchange:
		return o.exchange(x, form)
	case grantCode, grantRefresh, grantDevice:
		return o.grants.token(x, form)
	case "":
		return &inputError{"grant_type is missing"}
	}
	return errGrantType
}

// readForm reads the parameters of an OAuth endpoint: in the body alone, each at most once (RFC 6749 3.2).
func readForm(x *exchange) (url.Values, error) {
	const isForm = "application/x-www-form-urlencoded"
	if sent := x.GetHeader("Content-Type"); sent != isForm {
		if kind, _, _ := mime.ParseMediaType(sent); kind != isForm {
			return nil, &inputError{"the body has to be a form, with Content-Type: " + isForm}
		}
	}
	body, err := readAll(x.Request)
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, &inputError{fmt.Sprintf("the body is larger than %d bytes", maxBody)}
		}
		return nil, &inputError{"the body is cut off"}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, &inputError{"the body is not the form that is expected"}
	}
	for name, values := range form {
		if len(values) > 1 {
			return nil, &inputError{fmt.Sprintf("%s is sent more than once", cut(name))}
		}
	}
	return form, nil
}

// readAll reads a body, at once where it says how long it is.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > maxBody {
		return io.ReadAll(r.Body)
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

// client is the audience whose resource service makes a request, by its own credentials: HTTP Basic, or in the form
// (RFC 6749 2.3.1).
func (o *oauth) client(x *exchange, form url.Values) (audience string, err error) {
	name, secret, basic := x.Request.BasicAuth()
	switch {
	case basic && form.Get("client_secret") != "":
		return "", &inputError{"the client's credentials are sent twice"}
	case basic: // both parts are form-encoded
		name, secret = unescaped(name), unescaped(secret)
	default:
		name, secret = form.Get("client_id"), form.Get("client_secret")
	}
	if !o.issuer.Authenticates(name, secret) {
		return "", errClient
	}
	x.event.Proof, x.event.Actor, x.share = "client", cut(name), "client "+name
	return name, nil
}

// oauthErrors are the error codes of OAuth for ours (RFC 6749 5.2, RFC 8693 2.2.2). Others are invalid_request, or by
// the status.
var oauthErrors = map[string]string{
	"client": "invalid_client", "client_unknown": "invalid_client", "client_unauthorized": "unauthorized_client",
	"grant": "invalid_grant", "grant_replayed": "invalid_grant", "person": "invalid_grant",
	"pending": "authorization_pending", "slow": "slow_down", "denied": "access_denied", "expired": "expired_token", "grant_type": "unsupported_grant_type", "token_type": "unsupported_token_type",
	"audience": "invalid_target", "access": "invalid_target", "not_connected": "invalid_target", "grant_expired": "invalid_target",
	"grant_broken": "invalid_target", "self_renewal": "invalid_target",
	"scope": "invalid_scope", "token_scope": "invalid_scope", "dataset": "invalid_target",
}

// oauthShape is the error of an OAuth endpoint (RFC 6749 5.2), and beside it what all errors of ours have.
func oauthShape(x *exchange, said answer, _ string) error {
	status, code := said.status, oauthErrors[said.code]
	x.Writer.Header().Del("WWW-Authenticate")
	switch {
	case code == "invalid_client" && status == http.StatusUnauthorized:
		x.Header("WWW-Authenticate", `Basic realm="wts", charset="UTF-8"`)
	case status == http.StatusInternalServerError:
		code = "server_error"
	case status > http.StatusInternalServerError, status == http.StatusTooManyRequests:
		code = "temporarily_unavailable"
	case code == "":
		status, code = http.StatusBadRequest, "invalid_request"
	default:
		status = http.StatusBadRequest
	}
	detail := strings.TrimPrefix(strings.TrimPrefix(said.message, denied), refused)
	body := map[string]string{"error": code, "error_description": detail, "code": said.code, "request_id": x.id}
	if address := x.connectURL(said.code); address != "" {
		body["connect_url"] = address
	}
	return x.json(status, body)
}

// introspected is what is said of a token that is active (RFC 7662 2.2).
type introspected struct {
	Active    bool     `json:"active"`
	Scope     string   `json:"scope,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	Username  string   `json:"username,omitempty"`
	TokenType string   `json:"token_type"`
	ExpiresAt int64    `json:"exp,omitempty"`
	IssuedAt  int64    `json:"iat,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  string   `json:"aud"`
	Issuer    string   `json:"iss"`
	ID        string   `json:"jti,omitempty"`
	Resource  string   `json:"resource,omitempty"`
	Groups    []string `json:"groups,omitempty"`
	// Of a resource's API token what its maintainers call it, so that the service can say who uploaded. What a person
	// calls their own is theirs.
	Name        string `json:"token_name,omitempty"`
	Description string `json:"token_description,omitempty"`
}

// introspect answers POST /oauth2/introspect (RFC 7662): what a token that a resource service was sent is worth now. The
// service learns of tokens for its own audience, and of any other that it is not active. In client_ip it says who sent
// it the token: without that no token is active that is held to networks.
func (o *oauth) introspect(x *exchange) error {
	form, err := readForm(x)
	if err != nil {
		return err
	}
	audience, err := o.client(x, form)
	if err != nil {
		return err
	}
	x.event.Audience = audience
	if err := o.limits.take(x, introspections, nil); err != nil {
		return err
	}
	token := form.Get("token")
	if token == "" {
		return &inputError{"token is missing"}
	}
	sender, _ := netip.ParseAddr(form.Get("client_ip"))
	said, err := o.inspect(x, token, audience, sender)
	switch {
	case isOutage(err):
		return err // never active: false
	case err != nil:
		x.event.Action, x.event.Reason = audit.Introspect, err.Error()
		return x.json(http.StatusOK, map[string]bool{"active": false})
	}
	return x.json(http.StatusOK, said)
}

// inspect says what a token is worth for an audience now; an error that is no outage says why nothing.
func (o *oauth) inspect(x *exchange, token, audience string, sender netip.Addr) (said introspected, err error) {
	ctx := x.Request.Context()
	if apitoken.Claims(token, o.issuer.URL()) {
		found, who, err := o.service.PresentTo(ctx, audience, token, sender)
		x.event.Token = found.ID
		if err != nil {
			return said, err
		}
		said = introspected{
			Active: true, Scope: strings.Join(found.Scopes, " "), ClientID: "api_token", Username: who.Username, TokenType: "Bearer", ExpiresAt: unix(found.ExpiresAt),
			IssuedAt: unix(found.CreatedAt), Subject: who.ID, Audience: found.Audience, Issuer: o.issuer.URL(), ID: found.ID, Resource: found.Resource, Groups: who.Groups,
		}
		if found.Kind == apitoken.Resource {
			said.Name, said.Description = found.Name, found.Description
		}
		return said, nil
	}
	claims, err := x.authn.Minted(ctx, token, audience)
	if err != nil {
		return said, err
	}
	x.event.Token = claims.ID
	if err := x.authn.Lives(ctx, claims); err != nil {
		return said, err
	}
	if !strings.HasPrefix(claims.Subject, "resource:") {
		if err := o.service.MayAct(ctx, claims.Subject, audience); err != nil {
			return said, err
		}
	}
	said = introspected{
		Active: true, Scope: strings.Join(claims.Scopes, " "), ClientID: claims.ClientID, Username: claims.Username, TokenType: "Bearer", ExpiresAt: unix(claims.ExpiresAt),
		IssuedAt: unix(claims.IssuedAt), Subject: claims.Subject, Audience: audience, Issuer: o.issuer.URL(), ID: claims.ID, Resource: claims.Resource, Groups: claims.Groups,
	}
	return said, nil
}

// unix is a time as JWTs have it; 0, which is left out, for the zero time.
func unix(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.Unix()
}

// revoke answers POST /oauth2/revoke (RFC 7009): who has an API token may end it. What is no token is no error.
func (o *oauth) revoke(x *exchange) error {
	form, err := readForm(x)
	if err != nil {
		return err
	}
	token := form.Get("token")
	if token == "" {
		return &inputError{"token is missing"}
	}
	if err := o.limits.take(x, changes, nil); err != nil {
		return err
	}
	switch login, err := o.grants.service.Revoke(x.Request.Context(), token); {
	case err == nil:
		x.event.Action, x.event.UserID, x.event.Client, x.event.Actor = audit.EndSession, login.UserID, login.Client, "login "+login.Digest.String()[:8]
		return x.json(http.StatusOK, struct{}{})
	case !errors.Is(err, grant.ErrUnknown):
		return err
	}
	if !apitoken.Claims(token, o.issuer.URL()) {
		if _, err := x.authn.Minted(x.Request.Context(), token, ""); err == nil {
			return errTokenType
		}
		return x.json(http.StatusOK, struct{}{})
	}
	found, err := o.service.RevokeSelf(x.Request.Context(), token)
	x.event.Token, x.event.UserID, x.event.Audience, x.event.Resource = found.ID, found.UserID, found.Audience, found.Resource
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, struct{}{})
}
