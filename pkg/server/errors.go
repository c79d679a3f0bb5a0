package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/publisher"
)

// answer is an error as its caller sees it. The text never holds what an upstream said.
type answer struct {
	status  int
	code    string // for programs; it stays as it is where a text changes
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

	errClient        = errors.New("the resource service's own credentials are needed: HTTP Basic with the audience as the name")
	errNoSuchSession = errors.New("there is no such session")
	errTokenScope    = errors.New("the token does not hold the scope for this")
	errUnreadable    = errors.New("the database does not answer")
	errSlow          = errors.New("ask less often: the interval is 5 s")
)

// table is the one table from error to status and message: the first line that fits holds.
var table = []struct {
	is     error
	answer answer
}{
	{errNotFound, answer{http.StatusNotFound, "not_found", "There is nothing at this address", 0}},
	{errMethod, answer{http.StatusMethodNotAllowed, "method", "The method is not allowed for this address", 0}},
	{errLongRedirect, answer{http.StatusBadRequest, "long_redirect", "redirect is longer than 4096 bytes", 0}},
	{errManyLogins, answer{http.StatusTooManyRequests, "many_logins", "Too many logins at the moment, try again in a minute", 30 * time.Second}},
	{errFraming, answer{http.StatusForbidden, "framing", denied + errFraming.Error(), 0}},
	{errCrossing, answer{http.StatusForbidden, "crossing", denied + errCrossing.Error(), 0}},
	{apitoken.ErrTooOften, answer{http.StatusTooManyRequests, "too_many", apitoken.ErrTooOften.Error(), time.Second}},
	{authn.ErrUnavailable, answer{http.StatusServiceUnavailable, "unavailable", "The service cannot tell who is calling at the moment, try again later", 2 * time.Second}},
	{authn.ErrNoProof, answer{http.StatusForbidden, "no_proof", denied + "You need to be authenticated to use this resource", 0}},
	{authn.ErrRefused, answer{http.StatusForbidden, "refused", denied + "You need to be authenticated to use this resource", 0}},
	{authn.ErrDisabled, answer{http.StatusForbidden, "disabled", denied + "your account is disabled, please ask an operator", 0}},
	{broker.ErrUserDisabled, answer{http.StatusForbidden, "user_disabled", denied + "your account is disabled, please ask an operator", 0}},
	{broker.ErrClientRejected, answer{http.StatusServiceUnavailable, "client_rejected", "The provider rejects this service's client credentials; an operator has to fix them", 0}},
	{broker.ErrRevoking, answer{http.StatusServiceUnavailable, "revoking", "A disconnect of the same account is still being told to the provider; try again in a few seconds", 0}},
	{broker.ErrUnavailable, answer{http.StatusServiceUnavailable, "unavailable", "The token cannot be had at the moment, try again later", 2 * time.Second}},
	{broker.ErrNotConnected, answer{http.StatusForbidden, "not_connected", denied + "User doesn't have a refresh token", 0}},
	{broker.ErrGrantExpired, answer{http.StatusForbidden, "grant_expired", denied + "your refresh token is expired, please login again", 0}},
	{broker.ErrGrantBroken, answer{http.StatusForbidden, "grant_broken", denied + "your refresh token is no longer valid, please login again", 0}},
	{broker.ErrState, answer{http.StatusForbidden, "state", denied + "could not authorize; state did not match across auth requests", 0}},
	{broker.ErrReplayed, answer{http.StatusForbidden, "replayed", denied + "could not authorize; this login is over already", 0}},
	{broker.ErrSignedOut, answer{http.StatusUnauthorized, "signed_out", refused + "no authorization header provided", 0}},
	{broker.ErrSignInFirst, answer{http.StatusUnauthorized, "sign_in_first", refused + "user is not logged in", 0}},
	{broker.ErrOtherPerson, answer{http.StatusForbidden, "other_person", denied + "you are logged in at the provider as another user than here; log out there first", 0}},
	{broker.ErrOtherAccount, answer{http.StatusConflict, "other_account", "You are connected with another account of this provider; disconnect it first, then connect the other one", 0}},
	{errNoSession, answer{http.StatusUnauthorized, "no_session", refused + "user is not logged in", 0}},
	{errNotLinked, answer{http.StatusForbidden, "not_linked", denied + "user is not connected with token service or expired", 0}},
	{aggregate.ErrEndpoint, answer{http.StatusNotFound, "endpoint", "supplied endpoint is not configured in the Workspace Token Service aggregate endpoint allowlist", 0}},
	{aggregate.ErrTooOften, answer{http.StatusTooManyRequests, "too_often", "Too many requests, try again in a moment", time.Second}},
	{issuer.ErrAccess, answer{http.StatusForbidden, "access", denied + "you may not have such a token for the audience", 0}},
	{issuer.ErrDataset, answer{http.StatusForbidden, "dataset", denied + issuer.ErrDataset.Error(), 0}},
	{issuer.ErrAddress, answer{http.StatusBadRequest, "address", issuer.ErrAddress.Error() + "; a program names it in ip", 0}},
	{issuer.ErrNoSecret, answer{http.StatusServiceUnavailable, "no_secret", issuer.ErrNoSecret.Error(), time.Minute}},
	{issuer.ErrPending, answer{http.StatusConflict, "pending_key", issuer.ErrPending.Error(), 0}},
	{issuer.ErrNoNext, answer{http.StatusConflict, "no_next", issuer.ErrNoNext.Error(), 0}},
	{issuer.ErrNotOwn, answer{http.StatusConflict, "not_own", issuer.ErrNotOwn.Error(), 0}},
	{errNoIntegration, answer{http.StatusNotFound, "unknown", errNoIntegration.Error(), 0}},
	{errNoPublicKey, answer{http.StatusNotFound, "no_public_key", errNoPublicKey.Error(), 0}},
	{errSignIn, answer{http.StatusUnauthorized, "sign_in", refused + errSignIn.Error(), 0}},
	{issuer.ErrScope, answer{http.StatusForbidden, "scope", denied + "the scope is not one that this audience gives", 0}},
	{errClient, answer{http.StatusUnauthorized, "client", refused + errClient.Error(), 0}},
	{errGrantType, answer{http.StatusBadRequest, "grant_type", errGrantType.Error(), 0}},
	{errTokenType, answer{http.StatusBadRequest, "token_type", errTokenType.Error(), 0}},
	{errOtherAudience, answer{http.StatusBadRequest, "audience", errOtherAudience.Error(), 0}},
	{errSelfRenewal, answer{http.StatusForbidden, "self_renewal", denied + errSelfRenewal.Error(), 0}},
	{grant.ErrClient, answer{http.StatusBadRequest, "client_unknown", grant.ErrClient.Error(), 0}},
	{grant.ErrRedirect, answer{http.StatusBadRequest, "redirect_uri", grant.ErrRedirect.Error(), 0}},
	{grant.ErrReplayed, answer{http.StatusBadRequest, "grant_replayed", grant.ErrReplayed.Error(), 0}},
	{grant.ErrGrant, answer{http.StatusBadRequest, "grant", grant.ErrGrant.Error(), 0}},
	{grant.ErrPending, answer{http.StatusBadRequest, "pending", grant.ErrPending.Error(), 0}},
	{errAuthAddress, answer{http.StatusBadRequest, "redirect_uri", errAuthAddress.Error(), 0}},
	{errNamespaceUnknown, answer{http.StatusNotFound, "not_found", errNamespaceUnknown.Error(), 0}},
	{errNamespaceLogin, answer{http.StatusUnauthorized, "login_needed", errNamespaceLogin.Error(), 0}},
	{errNamespaceOther, answer{http.StatusForbidden, "not_a_member", errNamespaceOther.Error(), 0}},
	{errAuthOff, answer{http.StatusNotFound, "not_found", errAuthOff.Error(), 0}},
	{errAuthToken, answer{http.StatusUnauthorized, "invalid_token", errAuthToken.Error(), 0}},
	{errAuthExpired, answer{http.StatusUnauthorized, "expired_token", errAuthExpired.Error(), 0}},
	{errAuthRevoked, answer{http.StatusUnauthorized, "revoked_token", errAuthRevoked.Error(), 0}},
	{errAuthCode, answer{http.StatusBadRequest, "grant", errAuthCode.Error(), 0}},
	{errAuthRedirect, answer{http.StatusBadRequest, "redirect_uri", errAuthRedirect.Error(), 0}},
	{errAuthPending, answer{http.StatusUnauthorized, "pending", errAuthPending.Error(), 0}},
	{errAuthDevice, answer{http.StatusUnauthorized, "unknown", errAuthDevice.Error(), 0}},
	{errAuthLogin, answer{http.StatusForbidden, "login_needed", errAuthLogin.Error(), 0}},
	{errAuthManyKeys, answer{http.StatusBadRequest, "full", errAuthManyKeys.Error(), 0}},
	{errAuthNoKey, answer{http.StatusNotFound, "unknown", errAuthNoKey.Error(), 0}},
	{errAuthTwoKeys, answer{http.StatusConflict, "ambiguous", errAuthTwoKeys.Error(), 0}},
	{grant.ErrRenewed, answer{http.StatusConflict, "renewed", grant.ErrRenewed.Error(), 0}},
	{issuer.ErrNoSecret, answer{http.StatusServiceUnavailable, "no_secret", issuer.ErrNoSecret.Error(), 0}},
	{errUnreadable, answer{http.StatusServiceUnavailable, "unavailable", "The service cannot look this up at the moment, try again later", 2 * time.Second}},
	{errSlow, answer{http.StatusBadRequest, "slow", errSlow.Error(), 0}},
	{grant.ErrDenied, answer{http.StatusBadRequest, "denied", grant.ErrDenied.Error(), 0}},
	{grant.ErrExpired, answer{http.StatusBadRequest, "expired", grant.ErrExpired.Error(), 0}},
	{grant.ErrUnauthorized, answer{http.StatusBadRequest, "client_unauthorized", grant.ErrUnauthorized.Error(), 0}},
	{grant.ErrUnavailable, answer{http.StatusServiceUnavailable, "unavailable", "The service cannot look this up at the moment, try again later", 2 * time.Second}},
	{publisher.ErrUnavailable, answer{http.StatusServiceUnavailable, "unavailable", "The job's token cannot be judged at the moment, try again later", 2 * time.Second}},
	{publisher.ErrReplayed, answer{http.StatusForbidden, "replayed", denied + publisher.ErrReplayed.Error(), 0}},
	{publisher.ErrNoMatch, answer{http.StatusForbidden, "no_publisher", denied + publisher.ErrNoMatch.Error(), 0}},
	{publisher.ErrUnknown, answer{http.StatusNotFound, "unknown", publisher.ErrUnknown.Error(), 0}},
	{publisher.ErrFull, answer{http.StatusConflict, "full", publisher.ErrFull.Error(), 0}},
	{errNoSuchSession, answer{http.StatusNotFound, "unknown", errNoSuchSession.Error(), 0}},
	{errTokenScope, answer{http.StatusForbidden, "token_scope", denied + errTokenScope.Error(), 0}},
	{errNotAdmin, answer{http.StatusForbidden, "not_admin", denied + errNotAdmin.Error(), 0}},
	{errStepUp, answer{http.StatusForbidden, "step_up", denied + errStepUp.Error(), 0}},
	{errNoPerson, answer{http.StatusForbidden, "no_person", denied + errNoPerson.Error(), 0}},
	{issuer.ErrAudience, answer{http.StatusBadRequest, "audience", "the audience is not registered", 0}},
	{apitoken.ErrUnavailable, answer{http.StatusServiceUnavailable, "unavailable", "The service cannot look this up at the moment, try again later", 2 * time.Second}},
	{apitoken.ErrRotations, answer{http.StatusConflict, "rotations", apitoken.ErrRotations.Error(), 0}},
	{apitoken.ErrUnknown, answer{http.StatusNotFound, "unknown", "there is no such token or resource", 0}},
	{apitoken.ErrForbidden, answer{http.StatusForbidden, "forbidden", denied + apitoken.ErrForbidden.Error(), 0}},
	{apitoken.ErrFull, answer{http.StatusConflict, "full", apitoken.ErrFull.Error(), 0}},
	{issuer.ErrNoKey, answer{http.StatusServiceUnavailable, "no_key", "No key can sign at the moment, try again later", 5 * time.Second}},
}

// shape renders an error as the callers of a route parse it.
type shape func(x *exchange, said answer, member string) error

// gen3 is {"message": ...}, or {"error": ...} of a bad expires (Gen3 contract 1.0, 1.2), and beside it what Gen3's own
// clients do not read: the error's code, the request's id, and where a login helps its address.
func gen3(x *exchange, said answer, member string) error {
	body := map[string]string{member: said.message, "code": said.code, "request_id": x.id}
	if address := x.connectURL(said.code); address != "" {
		body["connect_url"] = address
	}
	if said.code == "no_proof" && x.byAddress {
		body["detail"] = noWorker(x)
	}
	return x.json(said.status, body)
}

// problem is application/problem+json (RFC 9457). The title is that of the status, and the code a member of its own.
func problem(x *exchange, said answer, _ string) error {
	detail := strings.TrimPrefix(strings.TrimPrefix(said.message, denied), refused)
	body := map[string]any{"title": http.StatusText(said.status), "status": said.status, "detail": detail, "code": said.code, "request_id": x.id}
	if address := x.connectURL(said.code); address != "" {
		body["connect_url"] = address
	}
	return x.render(said.status, problemType, body)
}

// connectURL is where a person logs in whose connection is what is missing; empty where a login does not help.
func (x *exchange) connectURL(code string) string {
	if !slices.Contains([]string{"not_connected", "grant_expired", "grant_broken", "step_up", "no_person", "sign_in"}, code) {
		return ""
	}
	address := x.public + "/oauth2/authorization_url"
	if x.want.provider != "" && x.want.provider != x.defaultProvider {
		address += "?" + url.Values{"idp": {x.want.provider}}.Encode()
	}
	return address
}

// noWorker says what the address of a caller proved, which is nothing.
func noWorker(x *exchange) string {
	if x.peer.Proxied {
		return "the request came through a proxy, so that no address says which worker it is from"
	}
	return "no pod or worker at " + x.peer.Addr.String()
}

// isOutage tells an error that says nothing of what was asked about.
func isOutage(err error) bool {
	var outage *broker.Unavailable
	for _, one := range []error{authn.ErrUnavailable, apitoken.ErrUnavailable, grant.ErrUnavailable, apitoken.ErrTooOften, broker.ErrUnavailable, issuer.ErrNoKey} {
		if errors.Is(err, one) {
			return true
		}
	}
	return errors.As(err, &outage)
}

// isBadToken tells the faults of an API token that is presented.
func isBadToken(err error) bool {
	for _, bad := range []error{apitoken.ErrForm, apitoken.ErrRevoked, apitoken.ErrExpired, apitoken.ErrReplaced, apitoken.ErrNetwork} {
		if errors.Is(err, bad) {
			return true
		}
	}
	return false
}

// reasonOf is what an error says beside its kind.
func reasonOf(err error) string {
	for _, kind := range []error{apitoken.ErrInput, apitoken.ErrPolicy, publisher.ErrInput, publisher.ErrToken, grant.ErrRequest} {
		if errors.Is(err, kind) {
			return strings.TrimPrefix(err.Error(), kind.Error()+": ")
		}
	}
	return err.Error()
}

// requestError is a fault of the request, in words that say what to do.
type requestError struct {
	member, message string // {"message": ...}, or {"error": ...} for expires
}

func (e *requestError) Error() string { return e.message }

// badRequest is a fault of the request, in the member that its caller reads.
func badRequest(member, message string) error { return &requestError{member, message} }

// unknownProvider says so in the words of Gen3 (Gen3 contract 1.2).
func unknownProvider(name string) error {
	return badRequest("message", fmt.Sprintf("Requested IdP %q is not configured", cut(name)))
}

// fail renders an error in the shape that its caller parses.
func (x *exchange) fail(err error) {
	member := "message"
	said := answer{http.StatusInternalServerError, "internal", "Internal server error", 0}
	var request *requestError
	var input *inputError
	var outage *broker.Unavailable
	var person *personError
	many, isMany := asTooMany(err)
	switch {
	case errors.As(err, &person):
		said = answer{status: http.StatusBadRequest, code: "person", message: "the person has to log in again, or may not any more: " + err.Error()}
	case errors.As(err, &request):
		member, said = request.member, answer{status: http.StatusBadRequest, code: "bad_request", message: request.message}
	case errors.Is(err, authn.ErrBearer):
		said = answer{status: http.StatusUnauthorized, code: "invalid_token", message: refused + strings.TrimPrefix(err.Error(), authn.ErrBearer.Error()+": ")}
		x.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
	case errors.Is(err, errNextRefused):
		said = answer{status: http.StatusConflict, code: "next_refused", message: err.Error()}
	case errors.As(err, &input):
		said = answer{status: http.StatusBadRequest, code: "bad_request", message: input.message}
	case errors.Is(err, publisher.ErrToken):
		said = answer{status: http.StatusForbidden, code: "job_token", message: reasonOf(err)}
	case errors.Is(err, apitoken.ErrInput), errors.Is(err, apitoken.ErrPolicy), errors.Is(err, publisher.ErrInput), errors.Is(err, grant.ErrRequest):
		said = answer{status: http.StatusBadRequest, code: "bad_request", message: reasonOf(err)}
	case isMany:
		said = answer{status: http.StatusTooManyRequests, code: "too_many", message: many.Error(), retry: many.after}
	case isBadToken(err):
		said = answer{status: http.StatusUnauthorized, code: "invalid_token", message: refused + err.Error()}
		x.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
	case errors.Is(err, broker.ErrLoginFailed):
		said = answer{status: http.StatusForbidden, code: "login_failed", message: denied + loginReason(err)}
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
	if !x.wantsPage() {
		_ = x.shape(x, said, member)
		return
	}
	var login *loginError
	known := failed{request: x.id}
	switch {
	case errors.As(err, &login) && login.callback:
		loginFailed(x, login)
		return
	case login != nil:
		known.Provider, known.Redirect = login.provider, login.redirect
	}
	shown := failureOf(err)
	shown.status = said.status
	failurePage(x, shown, known)
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
