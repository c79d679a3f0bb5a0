package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/web"
)

// answer is an error as its caller sees it. The text never holds what an upstream said.
type answer struct {
	status  int
	message string
	retry   time.Duration // Retry-After, for an outage
}

// The prefixes of the Gen3 contract (1.0).
const (
	denied  = "You don't have access to this resource: "
	refused = "Authentication Error: "
)

var (
	errNotFound     = errors.New("no such route")
	errMethod       = errors.New("the route has no such method")
	errLongRedirect = errors.New("the redirect is too long")
	errFraming      = errors.New("a login begins by opening this address in a window, not within another page")
	errCrossing     = errors.New("the request comes from another site")
	// Of /oauth2/connected, which has words of its own.
	errNoSession = errors.New("no user is logged in")
	errNotLinked = errors.New("the user is not connected, or no longer")
)

// table is the one table from error to status and message: the first line that fits holds.
var table = []struct {
	is     error
	answer answer
}{
	{errNotFound, answer{http.StatusNotFound, "There is nothing at this address", 0}},
	{errMethod, answer{http.StatusMethodNotAllowed, "The method is not allowed for this address", 0}},
	{errLongRedirect, answer{http.StatusBadRequest, "redirect is longer than 4096 bytes", 0}},
	{errManyLogins, answer{http.StatusTooManyRequests, "Too many logins at the moment, try again in a minute", 30 * time.Second}},
	{errFraming, answer{http.StatusForbidden, denied + errFraming.Error(), 0}},
	{errCrossing, answer{http.StatusForbidden, denied + errCrossing.Error(), 0}},
	{authn.ErrUnavailable, answer{http.StatusServiceUnavailable, "The service cannot tell who is calling at the moment, try again later", 2 * time.Second}},
	{authn.ErrNoProof, answer{http.StatusForbidden, denied + "You need to be authenticated to use this resource", 0}},
	{authn.ErrRefused, answer{http.StatusForbidden, denied + "You need to be authenticated to use this resource", 0}},
	{authn.ErrDisabled, answer{http.StatusForbidden, denied + "your account is disabled, please ask an operator", 0}},
	{broker.ErrUserDisabled, answer{http.StatusForbidden, denied + "your account is disabled, please ask an operator", 0}},
	{broker.ErrClientRejected, answer{http.StatusServiceUnavailable, "The provider rejects this service's client credentials; an operator has to fix them", 0}},
	{broker.ErrRevoking, answer{http.StatusServiceUnavailable, "A disconnect of the same account is still being told to the provider; try again in a few seconds", 0}},
	{broker.ErrUnavailable, answer{http.StatusServiceUnavailable, "The token cannot be had at the moment, try again later", 2 * time.Second}},
	{broker.ErrNotConnected, answer{http.StatusForbidden, denied + "User doesn't have a refresh token", 0}},
	{broker.ErrGrantExpired, answer{http.StatusForbidden, denied + "your refresh token is expired, please login again", 0}},
	{broker.ErrGrantBroken, answer{http.StatusForbidden, denied + "your refresh token is no longer valid, please login again", 0}},
	{broker.ErrState, answer{http.StatusForbidden, denied + "could not authorize; state did not match across auth requests", 0}},
	{broker.ErrReplayed, answer{http.StatusForbidden, denied + "could not authorize; this login is over already", 0}},
	{broker.ErrSignedOut, answer{http.StatusUnauthorized, refused + "no authorization header provided", 0}},
	{broker.ErrSignInFirst, answer{http.StatusUnauthorized, refused + "user is not logged in", 0}},
	{broker.ErrOtherPerson, answer{http.StatusForbidden, denied + "you are logged in at the provider as another user than here; log out there first", 0}},
	{broker.ErrOtherAccount, answer{http.StatusConflict, "You are connected with another account of this provider; disconnect it first, then connect the other one", 0}},
	{errNoSession, answer{http.StatusUnauthorized, refused + "user is not logged in", 0}},
	{errNotLinked, answer{http.StatusForbidden, denied + "user is not connected with token service or expired", 0}},
	{aggregate.ErrEndpoint, answer{http.StatusNotFound, "supplied endpoint is not configured in the Workspace Token Service aggregate endpoint allowlist", 0}},
	{aggregate.ErrTooOften, answer{http.StatusTooManyRequests, "Too many requests, try again in a moment", time.Second}},
	{issuer.ErrScope, answer{http.StatusForbidden, denied + "the scope is not one that this audience gives", 0}},
	{issuer.ErrNoKey, answer{http.StatusServiceUnavailable, "No key can sign at the moment, try again later", 5 * time.Second}},
}

// shape renders an error as the callers of a route parse it.
type shape func(x *exchange, status int, member, message string) error

// gen3 is {"message": ...}, or {"error": ...} of a bad expires (Gen3 contract 1.0, 1.2).
func gen3(x *exchange, status int, member, message string) error {
	return x.json(status, map[string]string{member: message})
}

// requestError is a fault of the request, in words that say what to do.
type requestError struct {
	member, message string // {"message": ...}, or {"error": ...} for expires
}

func (e *requestError) Error() string { return e.message }

func badRequest(member, message string) error { return &requestError{member, message} }

func unknownProvider(name string) error {
	return badRequest("message", fmt.Sprintf("Requested IdP %q is not configured", cut(name)))
}

// fail renders an error in the shape that its caller parses.
func (x *exchange) fail(err error) {
	member := "message"
	said := answer{http.StatusInternalServerError, "Internal server error", 0}
	var request *requestError
	var outage *broker.Unavailable
	switch {
	case errors.As(err, &request):
		member, said = request.member, answer{status: http.StatusBadRequest, message: request.message}
	case errors.Is(err, authn.ErrBearer):
		said = answer{status: http.StatusUnauthorized, message: refused + strings.TrimPrefix(err.Error(), authn.ErrBearer.Error()+": ")}
		x.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
	case errors.Is(err, broker.ErrLoginFailed):
		said = answer{status: http.StatusForbidden, message: denied + loginReason(err)}
	default:
		for _, line := range table {
			if errors.Is(err, line.is) {
				said = line.answer
				break
			}
		}
	}
	if errors.As(err, &outage) {
		said.retry = outage.RetryAfter
	}
	if said.retry > 0 {
		x.Header("Retry-After", strconv.Itoa(int(max(said.retry, time.Second).Round(time.Second)/time.Second)))
	}
	var login *loginError
	if errors.As(err, &login) && x.wantsPage() {
		x.loginFailed(login)
		return
	}
	if x.wantsPage() {
		message := web.Message{Title: http.StatusText(said.status), Text: said.message, RequestID: x.id}
		if said.status != http.StatusNotFound {
			message.Steps = []web.Step{{Label: "Log in", Address: x.base + "/oauth2/authorization_url"}}
		}
		x.page(said.status, message)
		return
	}
	_ = x.shape(x, said.status, member, said.message)
}

// loginReason says why a login failed: our own words, and an error code of the closed set.
func loginReason(err error) string {
	if errors.Is(err, broker.ErrNoCode) {
		return "missing_code: Missing 'code' in response."
	}
	var failure *provider.Error
	if !errors.As(err, &failure) {
		return err.Error()
	}
	switch {
	case failure.Code != "":
		return failure.Code + ": the provider refused the login"
	case failure.Reason != "":
		return "the login is not accepted: " + failure.Doing + ": " + failure.Reason
	default:
		return broker.ErrLoginFailed.Error()
	}
}
