package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Outcome is what a failed call to a provider means for the grant (refresh-engine.md step 8).
type Outcome string

const (
	// Unsent: the request never left; nothing happened at the provider.
	Unsent Outcome = "unsent"
	// Unknown: sent, and the answer never came whole; the provider may have rotated.
	Unknown Outcome = "unknown"
	// Unanswered: sent, and no answer came for as long as one is waited for; the provider may still be
	// working on it.
	Unanswered Outcome = "unanswered"
	// Refused: the provider's own verdict that this grant, or this code, is dead (invalid_grant).
	Refused Outcome = "refused"
	// Misconfigured: the provider does not accept us as a client; no user's fault.
	Misconfigured Outcome = "misconfigured"
	// Throttled: 429; RetryAfter says for how long.
	Throttled Outcome = "throttled"
	// Unexpected: anything else, a firewall's HTML for one.
	Unexpected Outcome = "unexpected"
	// Untrusted: the answer came, and what it says of the person does not hold.
	Untrusted Outcome = "untrusted"
)

// Error is a call to a provider that failed. It never holds a word of the provider's body, since
// bodies echo codes and tokens: only the status and an error code of the closed set in verdicts.
type Error struct {
	Provider   string
	Doing      string // "discovery", "code exchange", "refresh"
	Outcome    Outcome
	Status     int           // HTTP status, 0 without one
	Code       string        // RFC 6749 5.2 error code, empty without a known one
	RetryAfter time.Duration // 0 unless the provider asked for it
	Reason     string        // our own words
}

// Error says what failed in our own words: nothing of what the provider sent but a known code.
func (e *Error) Error() string {
	text := fmt.Sprintf("provider %q: %s: %s", e.Provider, e.Doing, e.Outcome)
	if e.Status != 0 {
		text += fmt.Sprintf(", status %d", e.Status)
	}
	if e.Code != "" {
		text += ", " + e.Code
	}
	if e.Code == "invalid_client" {
		text += " (compare client_id, client_secret and client_auth with what is registered there)"
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Answer is what the provider said, for a person who looks into it: its error code, or the status; empty
// where it said nothing.
func (e *Error) Answer() string {
	switch {
	case e.Code != "":
		return e.Code
	case e.Status != 0:
		return "status " + strconv.Itoa(e.Status)
	}
	return ""
}

// OneGrant tells that the failure may be about the one grant that was presented: until several grants were
// answered so, the provider is asked for others.
func (e *Error) OneGrant() bool {
	switch e.Code {
	case "unauthorized_client", "unsupported_grant_type", "invalid_scope":
		return true
	}
	return false
}

// verdicts are the error codes of a token endpoint and what they mean (RFC 6749 5.2), with GitHub's
// own words for a dead refresh token and a dead code. Any other text stays unsaid.
var verdicts = map[string]Outcome{
	"invalid_grant":          Refused,
	"bad_refresh_token":      Refused,
	"bad_verification_code":  Refused,
	"invalid_client":         Misconfigured,
	"unauthorized_client":    Misconfigured,
	"unsupported_grant_type": Misconfigured,
	"invalid_scope":          Misconfigured,
	"redirect_uri_mismatch":  Misconfigured,
	"invalid_request":        Unexpected,
}

// callbackCodes are the codes of a failed login at the callback (RFC 6749 4.1.2.1, OIDC Core 3.1.2.6).
var callbackCodes = []string{
	"access_denied", "invalid_request", "unauthorized_client", "unsupported_response_type", "invalid_scope", "server_error",
	"temporarily_unavailable", "login_required", "consent_required", "interaction_required", "account_selection_required",
}

// CallbackCode returns the error code of a callback if it is one that may be repeated to a person,
// else a word of ours: whoever makes up a link must not make up what our page says.
func CallbackCode(code string) string {
	if slices.Contains(callbackCodes, code) {
		return code
	}
	return "an error that is not of RFC 6749"
}

// known returns a token endpoint's error code if it is one that may be repeated, else "".
func (c Config) known(code string) string {
	_, ok := verdicts[code]
	if _, quirky := quirks[c.Quirks].verdicts[code]; ok || quirky {
		return code
	}
	return ""
}

// verdict reads status, code and description together: a provider in trouble may answer 500 with any
// code in the body, so only a status that states a judgement lets the code speak.
func (c Config) verdict(status int, said answer) Outcome {
	if status < 500 {
		if outcome, other := quirks[c.Quirks].verdicts[said.code]; other {
			return outcome
		}
		for _, phrase := range deadGrants {
			if status == phrase.status && said.code == phrase.code && strings.Contains(said.description, phrase.says) {
				return Refused
			}
		}
	}
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status >= 500, status >= 300 && status < 400:
		return Unknown
	case c.known(said.code) != "":
		return verdicts[said.code]
	default:
		return Unexpected
	}
}

// plain says what went wrong on the way without repeating anything that came back.
func plain(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	var dial *net.OpError
	var address *url.Error
	switch {
	case errors.Is(err, errInside):
		return errInside.Error()
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return "the name " + dns.Name + " does not resolve"
	case errors.Is(err, errRedirect):
		return errRedirect.Error()
	case errors.Is(err, errTooLarge):
		return errTooLarge.Error()
	case errors.As(err, &dial):
		return "cannot reach " + dial.Op + " " + addressOf(dial)
	case errors.As(err, &address):
		return "the connection broke"
	default:
		return "the answer cannot be read"
	}
}

func addressOf(failure *net.OpError) string {
	if failure.Addr == nil {
		return "the provider"
	}
	return failure.Addr.String()
}

// retryAfter reads RFC 9110 10.2.3: seconds or a date; at most an hour is believed.
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		wait = time.Until(date)
	}
	return min(max(wait, 0), time.Hour)
}
