package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Whether a ProteinPaint server is configured as it should be is seen by asking it what a portal's page would: with a good
// token, with one that was changed, and as an embedder that it does not know. Its answers are told in words of ours: a
// server that answers otherwise than ProteinPaint does shows nothing of itself here.

const (
	testTime   = 10 * time.Second // for all of a self-test
	probeTime  = 5 * time.Second  // for one question
	maxStatus  = 64 << 10         // bytes of an answer
	trialLife  = 30 * time.Second
	noEmbedder = "embedder-that-no-portal-is.invalid" // RFC 6761 6.4
)

// newProbe asks ProteinPaint servers. It follows no redirect, and keeps no connection.
func newProbe() *http.Client {
	return &http.Client{
		Timeout: probeTime, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: probeTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// withinTest bounds a self-test, however many embedders there are.
func withinTest(x *exchange) (context.Context, context.CancelFunc) {
	return context.WithTimeout(x.Request.Context(), testTime)
}

// tried is what a check came to.
type tried struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail"`
}

// selfTest answers POST: what the ProteinPaint server says of tokens of the caller.
func (i *integrations) selfTest(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	checks, err := i.tested(x)
	if err != nil {
		return err
	}
	passed := true
	for _, one := range checks {
		passed = passed && one.Passed
	}
	return x.json(http.StatusOK, map[string]any{"passed": passed, "checks": checks})
}

// tested runs all checks.
func (i *integrations) tested(x *exchange) ([]tried, error) {
	id, of := i.of(x)
	if of.InstanceURL == "" {
		return nil, &inputError{"audiences." + cut(id) + ".integration.instance_url is missing in the configuration: where is the ProteinPaint server?"}
	}
	token, err := i.trialToken(x, id, i.issuer.Mint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withinTest(x)
	defer cancel()
	var checks []tried
	for _, host := range of.Embedders {
		checks = append(checks, i.accepted(ctx, of, host, token.Value))
	}
	changed := i.ask(ctx, of, of.Embedders[0], alteredToken(token.Value))
	checks = append(checks, changed.refusal("A token that was changed is refused", "it is accepted: the server verifies no signature"))
	stranger := i.ask(ctx, of, noEmbedder, token.Value)
	return append(checks, stranger.refusal(
		"An embedder that is not named is refused", `it gets data: the entry "*" with the type "forbidden" is missing under the route`,
	)), nil
}

// trialToken is a token for the caller, for a self-test. It is short, and audited.
func (i *integrations) trialToken(x *exchange, id string, mint func(issuer.Request) (issuer.Token, error)) (issuer.Token, error) {
	x.want = tokenWanted{audience: id}
	defaultID, _ := i.broker.Provider("") // there always is one
	if err := i.broker.LivingWithin(x.Request.Context(), x.caller.User.ID, defaultID, 0); err != nil {
		return issuer.Token{}, err
	}
	who, err := i.tokens.person(x, id)
	if err != nil {
		return issuer.Token{}, err
	}
	token, err := mint(issuer.Request{Audience: id, Person: who, ClientID: string(x.caller.Proof), Lifetime: trialLife, Address: x.peer.Addr})
	x.event.Token = token.ID
	return token, err
}

// alteredToken is a token with another signature of the same length.
func alteredToken(token string) string {
	at := strings.LastIndexByte(token, '.') + 1
	other := byte('A')
	if token[at] == other {
		other = 'B'
	}
	return token[:at] + string(other) + token[at+1:]
}

// answered is what a ProteinPaint server said to a token: the status, whether it gave a session, and what it said was
// wrong, by which it is recognized and which is never repeated.
type answered struct {
	failed  string // there is no answer, in words of ours
	status  int
	session bool
	fault   string
}

// The address is the operator's, by the configuration, so that nobody who signs in chooses where a token is sent. It is
// one of thirty seconds, of the admin who asks, and goes where the tokens of every portal go.

// ask posts a token to /jwt-status as a portal's page does.
func (i *integrations) ask(ctx context.Context, of issuer.Integration, embedder, token string) answered {
	route := of.Route
	if route == "*" {
		route = "termdb"
	}
	body, _ := json.Marshal(map[string]string{"dslabel": of.Dataset, "embedder": embedder, "route": route}) // strings
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, of.InstanceURL+"/jwt-status", bytes.NewReader(body))
	if err != nil {
		return answered{failed: "instance_url is no URL"}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(of.HeaderKey, token)
	response, err := i.probe.Do(request)
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return answered{failed: "it did not answer in time"}
	case err != nil:
		return answered{failed: "it cannot be reached at instance_url"}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxStatus))
	if err != nil {
		return answered{failed: "its answer broke off"}
	}
	var said struct {
		Session string          `json:"jwt"`
		Error   json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &said) != nil && response.StatusCode < 300 {
		return answered{failed: "its answer is not ProteinPaint's; is instance_url the base URL, with the basepath?"}
	}
	return answered{status: response.StatusCode, session: said.Session != "", fault: strings.ToLower(string(said.Error))}
}

// faults are what ProteinPaint says is wrong, by a part of its words, and what to do about it.
var faults = []struct{ part, detail string }{
	{"invalid signature", "it has another secret or public key for this embedder"},
	{"invalid algorithm", "its key is of another kind than the algorithm of this integration"},
	{"jwt expired", "its clock is ahead of this one"},
	{"jwt not active", "its clock is behind this one"},
	{"missing access", "its dsnames has an id that cohorts lacks here"},
	{"no credentials", "it has no secret for this embedder"},
	{"missing header", "it expects the token in another header: set header_key here as headerKey is there"},
}

// accepted wants a good token to be accepted.
func (i *integrations) accepted(ctx context.Context, of issuer.Integration, embedder, token string) tried {
	check := tried{Name: "A fresh token is accepted for " + embedder}
	got := i.ask(ctx, of, embedder, token)
	addressed := strings.Contains(got.fault, "ip address") || strings.Contains(got.fault, "connection has changed")
	switch {
	case got.failed != "":
		check.Detail = got.failed
	case got.status == http.StatusOK && got.session:
		check.Passed, check.Detail = true, "it gave a session"
	case got.status == http.StatusOK && got.fault == "":
		check.Detail = "it gave no session: no entry of dsCredentials is for this dataset, route and embedder, so that data is given without a token"
	case addressed && of.IP == issuer.IPStrict:
		check.Passed, check.Detail = true, "it accepts the token, which names another address than that of wts, as it has to"
	case addressed:
		check.Detail = "it compares addresses: set looseIpCheck there, or ip: strict here"
	case got.status >= 300 && got.status < 400:
		check.Detail = "it redirects; instance_url has to be the base URL itself"
	case got.status == http.StatusNotFound:
		check.Detail = "there is no /jwt-status; is instance_url the base URL, with the basepath?"
	case got.status >= 500:
		check.Detail = "it is out of order"
	default:
		check.Detail = "it refuses the token"
		for _, one := range faults {
			if strings.Contains(got.fault, one.part) {
				check.Detail = one.detail
				break
			}
		}
	}
	return check
}

// refusal wants a bad question to be refused.
func (a answered) refusal(name, otherwise string) tried {
	switch {
	case a.failed != "":
		return tried{name, false, a.failed}
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		return tried{name, true, "it is refused"}
	case a.status == http.StatusOK:
		return tried{name, false, otherwise}
	}
	return tried{name, false, "it is neither accepted nor refused"}
}
