package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Finding is one thing that a probe tried.
type Finding struct {
	What string // "discovery", "keys", "credentials", "clock"
	Said string // what was found, for a person
	Err  error  // nil where it is as it should be
}

// clockSlack is how far a provider's clock may be from ours, in seconds of its Date header.
const clockSlack = 30 * time.Second

// Probe tries what a login and a refresh need, without a person: the discovery document, the keys, the
// clock and, where asked, the client's credentials: by a refresh token that cannot exist, which a provider
// refuses with invalid_grant once it has accepted the client.
func (p *Provider) Probe(ctx context.Context, credentials bool) (findings []Finding) {
	note := func(what, said string, err error) { findings = append(findings, Finding{what, said, err}) }
	ends, err := p.discover(ctx)
	if err == nil && !ends.fixed && ends.unsigned { // endpoints of our own, and perhaps a document beside them
		if found, failed := p.readDocument(ctx); failed == nil {
			ends = found
		}
	}
	if err != nil {
		note("discovery", "", err)
		return findings
	}
	note("discovery", "the token endpoint is "+ends.oauth.Endpoint.TokenURL, nil)
	if p.keys != nil {
		count, skew, err := p.probeKeys(ctx, p.keys.address)
		note("keys", fmt.Sprintf("%d keys at %s", count, p.keys.address), err)
		if skew > clockSlack || skew < -clockSlack {
			note("clock", "", fmt.Errorf("it differs from this machine's by %s: id_tokens may look expired", skew.Round(time.Second)))
		}
	}
	if credentials {
		said, err := p.probeCredentials(ctx, ends)
		note("credentials", said, err)
	}
	return findings
}

// probeKeys reads the key set as a login would, and compares the clocks by its Date.
func (p *Provider) probeKeys(ctx context.Context, address string) (count int, skew time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("%s is not a URL", address)
	}
	response, err := p.reader.Do(request)
	if err != nil {
		return 0, 0, errors.New(address + ": " + plain(err))
	}
	defer response.Body.Close()
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		skew = date.Sub(p.now())
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	switch {
	case response.StatusCode != http.StatusOK:
		return 0, skew, fmt.Errorf("%s answered %d", address, response.StatusCode)
	case json.NewDecoder(response.Body).Decode(&set) != nil || len(set.Keys) == 0:
		return 0, skew, errors.New(address + " is not a key set")
	}
	return len(set.Keys), skew, nil
}

// probeCredentials presents a refresh token that was never given. A provider that accepts the client refuses it with
// invalid_grant; one that does not says invalid_client.
func (p *Provider) probeCredentials(ctx context.Context, ends *endpoints) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"wts-check-config"}}
	_, failure := p.ask(ctx, "check", ends, form, p.Config.ClientSecret, nil)
	switch {
	case failure == nil:
		return "", errors.New("it accepts a refresh token that does not exist")
	case failure.Outcome == Refused:
		return "the client is accepted", nil
	case failure.Outcome == Misconfigured:
		return "", failure
	default:
		return "the provider does not tell: " + failure.Answer(), nil
	}
}
