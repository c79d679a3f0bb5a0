package provider

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// The token endpoint (RFC 6749 3.2). Its answers are read by us and not by x/oauth2: a rotation is over
// once the provider has acted, so that a new refresh token is found first, and whatever else the answer
// says is read as far as it can be.

// gatedPost is one POST, sent through its gate.
type gatedPost struct {
	gate Gate
	sent atomic.Bool // a byte of it may have left
}

// answer is what a token endpoint said.
type answer struct {
	access, refresh, idToken secret.Text
	kind                     string        // token_type; empty where it does not say
	expiresIn                time.Duration // 0 where it does not say, or nothing that makes sense
	refreshExpiresIn         time.Duration
	code, description        string // of an error (RFC 6749 5.2)
}

// ask sends a form to the token endpoint, once, with the client's credentials in the pinned style.
func (p *Provider) ask(ctx context.Context, doing string, ends *endpoints, form url.Values, credential secret.Text, gate Gate) (answer, *Error) {
	post := &gatedPost{gate: gate}
	failure := &Error{Provider: p.ID, Doing: doing}
	response, err := p.post(ctx, ends.oauth.Endpoint.TokenURL, form, credential, post)
	if err != nil {
		return answer{}, p.unanswered(ctx, failure, err, post.sent.Load())
	}
	defer response.Body.Close()
	failure.Status, failure.RetryAfter = response.StatusCode, retryAfter(response.Header)
	body, err := io.ReadAll(response.Body)
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	said, readable := parseAnswer(body, kind)
	if response.StatusCode >= 200 && response.StatusCode < 300 && (said.access != "" || said.refresh != "") {
		return said, nil
	}
	if err != nil && response.StatusCode < 300 {
		failure.Status = 0
		return answer{}, p.unanswered(ctx, failure, err, true)
	}
	failure.Code = p.Config.known(said.code)
	failure.Outcome = p.Config.verdict(failure.Status, said)
	switch {
	case failure.Code != "" || failure.Status > 299:
	case kind == "text/html" || !readable && strings.HasPrefix(strings.TrimSpace(string(body)), "<"):
		failure.Outcome, failure.Reason = Unexpected, "the answer is a page: something between answered for the provider"
	case !readable:
		failure.Outcome, failure.Reason = Unknown, "the answer cannot be read"
	default:
		failure.Outcome, failure.Reason = Unknown, "the answer has no token"
	}
	return answer{}, failure
}

// unanswered is a POST without an answer that could be read.
func (p *Provider) unanswered(ctx context.Context, failure *Error, err error, sent bool) *Error {
	failure.Outcome, failure.Reason = Unsent, plain(err)
	switch {
	case errors.Is(err, ErrGate):
		failure.Reason = ErrGate.Error()
	case sent && (errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)):
		failure.Outcome = Unanswered
	case sent:
		failure.Outcome = Unknown
	}
	return failure
}

// post sends a form with the client's credentials (RFC 6749 2.3.1). It follows no redirect: that would
// carry the client's secret and the token along.
func (p *Provider) post(ctx context.Context, endpoint string, form url.Values, credential secret.Text, post *gatedPost) (*http.Response, error) {
	if p.Config.ClientAuth == AuthPost {
		form.Set("client_id", p.Config.ClientID)
		form.Set("client_secret", string(credential))
	}
	// The body is one that the transport knows to be in memory: head and body leave in one write, through
	// the gate.
	request, err := http.NewRequestWithContext(post.armed(ctx), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("the endpoint is not a URL")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	if p.Config.ClientAuth != AuthPost {
		request.SetBasicAuth(url.QueryEscape(p.Config.ClientID), url.QueryEscape(string(credential)))
	}
	return p.posts.RoundTrip(request)
}

// parseAnswer reads JSON or, as some providers answer, a form. It is lenient: what it cannot read of a
// member is as if it were not there.
func parseAnswer(body []byte, kind string) (said answer, readable bool) {
	members := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		if kind != "application/x-www-form-urlencoded" && kind != "text/plain" {
			return answer{}, false
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return answer{}, false
		}
		for name, values := range form {
			members[name] = values[0]
		}
	}
	text := func(name string) string { value, _ := members[name].(string); return value }
	said = answer{
		access: secret.Text(text("access_token")), refresh: secret.Text(text("refresh_token")), idToken: secret.Text(text("id_token")), kind: text("token_type"),
		expiresIn: seconds(members["expires_in"]), code: text("error"), description: text("error_description"),
	}
	// Keycloak's and GitHub's names for it; 0 is Keycloak's word for "does not end".
	for _, name := range []string{"refresh_expires_in", "refresh_token_expires_in"} {
		if life := seconds(members[name]); life > 0 {
			said.refreshExpiresIn = life
		}
	}
	return said, true
}

// maxSeconds keeps a provider's number within what time.Duration and the database hold: a century.
const maxSeconds = 100 * 365 * 24 * 3600

// seconds reads a number of seconds, or text that holds one; 0 where it is none, or not more than 0.
func seconds(value any) time.Duration {
	text := ""
	switch value := value.(type) {
	case json.Number:
		text = value.String()
	case string:
		text = strings.TrimSpace(value)
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(number) || math.IsInf(number, 0) || number <= 0 || number > maxSeconds {
		return 0
	}
	return time.Duration(number * float64(time.Second))
}

// maxAccessToken is how long an access token may be, in bytes: it has to fit the head of a request.
const maxAccessToken = 64 << 10

// usable tells that a caller can present the access token as it stands: as a bearer (RFC 6750), which is
// what every resource is told that it is.
func (a answer) usable() bool {
	return a.access != "" && len(a.access) <= maxAccessToken && printable(a.access) && (a.kind == "" || strings.EqualFold(a.kind, "bearer"))
}

// printable tells whether a token is made of the characters that one may have (RFC 6749 A.12, A.17).
func printable(token secret.Text) bool {
	for i := range len(token) {
		if token[i] < 0x20 || token[i] > 0x7e {
			return false
		}
	}
	return true
}

// unknownLife is what an access token is expected to live that does not say it.
const unknownLife = 5 * time.Minute

// read takes what is of use out of an answer. Times count from before the request was sent: the token is
// dead at the provider no earlier.
func read(said answer, issuedAt time.Time) Tokens {
	tokens := Tokens{AccessToken: said.access, RefreshToken: said.refresh, IssuedAt: issuedAt}
	if !said.usable() {
		tokens.AccessToken = ""
	}
	switch {
	case said.expiresIn > 0:
		tokens.AccessExpiresAt = issuedAt.Add(said.expiresIn)
	case said.refresh != "":
		tokens.AccessExpiresAt = issuedAt.Add(unknownLife)
	}
	// Fence's and Keycloak's refresh tokens are JWTs, which state their end. Nothing is trusted by it: it came from the
	// token endpoint, and only the provider itself can be misled.
	tokens.RefreshExpiresAt = unverified.Expiry(string(said.refresh))
	if said.refreshExpiresIn > 0 {
		tokens.RefreshExpiresAt = issuedAt.Add(said.refreshExpiresIn)
	}
	return tokens
}
