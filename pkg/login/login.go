// Package login keeps a person's login on a machine of theirs: it begins one, in a browser or by a code that is typed
// elsewhere, and trades its refresh token for access tokens of wts itself. It is the other side of package grant.
package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// Client is who this program is to the service, which needs no registration (grant.CommandLine).
const Client = "wts-cli"

// audience is that of tokens for wts itself.
const audience = "wts"

var (
	// ErrNone: no login is kept for the service.
	ErrNone = errors.New("not logged in")
	// ErrEnded: the login has ended, at the service or by time.
	ErrEnded = errors.New("the login has ended")
	// ErrDenied: the person did not allow it.
	ErrDenied = errors.New("it was not allowed")
	// ErrTooLate: the person did not decide in time.
	ErrTooLate = errors.New("nothing was decided in time")
)

// Login is one at one service.
type Login struct {
	URL      string    `json:"-"`        // of the service
	Username string    `json:"username"` // as the service called the person when the login began
	Scopes   []string  `json:"scopes"`
	Began    time.Time `json:"began"`
	Secrets  Secrets   `json:"-"`
}

// Secrets are what a login is worth.
type Secrets struct {
	// RefreshToken is another one after each use.
	RefreshToken string `json:"refresh_token"`
	// AccessToken is for wts itself and lives for minutes.
	AccessToken string    `json:"access_token"`
	ExpiresAt   time.Time `json:"expires_at"` // by this machine's clock
}

// Service is where logins are made: what the service says of itself (RFC 8414 2).
type Service struct {
	Issuer string `json:"issuer"`
	// Scopes are those of tokens for wts itself.
	Scopes []string `json:"scopes_supported"`
	Auth   string   `json:"authorization_endpoint"`
	Device string   `json:"device_authorization_endpoint"`
	Token  string   `json:"token_endpoint"`
	Revoke string   `json:"revocation_endpoint"`

	address string // as logins are kept by it
}

const maxAnswer = 1 << 20 // bytes

// patience is how long one question to the service takes at most.
const patience = 30 * time.Second

// client follows no redirect: what it sends is for the service that was named.
var client = &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// Address is a service's URL as logins are kept by it. It has to be encrypted, for a refresh token is sent there, unless
// it is on this machine.
func Address(text string) (string, error) {
	parsed, err := url.Parse(text)
	switch {
	case err != nil, parsed.Host == "", parsed.Scheme != "http" && parsed.Scheme != "https", parsed.User != nil, parsed.RawQuery != "", parsed.Fragment != "":
		return "", fmt.Errorf("want an address like https://wts.example.org, got %q", text)
	case parsed.Scheme == "http" && !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, parsed.Hostname()):
		return "", fmt.Errorf("%q is not encrypted: a login is kept with https alone", text)
	}
	return parsed.Scheme + "://" + strings.ToLower(parsed.Host) + strings.TrimRight(parsed.EscapedPath(), "/"), nil
}

// Discover asks a service what it says of itself.
func Discover(ctx context.Context, address string) (Service, error) {
	var found Service
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return found, fmt.Errorf("the service's address: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return found, fmt.Errorf("asking wts: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return found, &api.Error{Status: response.StatusCode, Message: "it does not say how to log in; is that the address of wts?"}
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&found); err != nil || found.Token == "" || found.Device == "" || found.Auth == "" {
		return found, fmt.Errorf("%s does not say how to log in; is that the address of wts?", address)
	}
	// A service that is called otherwise than it was asked may be one that passes a login on (RFC 8414 3.3, RFC 9207).
	if own, err := Address(found.Issuer); err != nil || own != address {
		return found, fmt.Errorf("the service at %s is called %q: log in there", address, found.Issuer)
	}
	for _, endpoint := range []string{found.Auth, found.Device, found.Token, found.Revoke} {
		if !within(address, endpoint) {
			return found, fmt.Errorf("the service at %s names %q, which is not of this service", address, endpoint)
		}
	}
	found.address = address
	return found, nil
}

// within tells an endpoint on a service's own host: it is sent what a login is worth, or opened in a browser.
func within(address, endpoint string) bool {
	own, err := url.Parse(address)
	if err != nil {
		return false
	}
	parsed, err := url.Parse(endpoint)
	return err == nil && parsed.Scheme == own.Scheme && strings.EqualFold(parsed.Host, own.Host) && parsed.User == nil
}

// Usual are the scopes that a login asks for where none are named: all but the access tokens of providers.
func (s Service) Usual() []string {
	return slices.DeleteFunc(slices.Clone(s.Scopes), func(scope string) bool { return strings.HasPrefix(scope, "provider:") })
}

// config is that of the library.
func (s Service) config(scopes []string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: Client, Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: s.Auth, DeviceAuthURL: s.Device, TokenURL: s.Token, AuthStyle: oauth2.AuthStyleInParams},
	}
}

// forAudience is what every question names.
var forAudience = oauth2.SetAuthURLParam("audience", audience)

// withClient has the library ask with patience.
func withClient(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, client)
}

// begun is the login that a token is of.
func (s Service) begun(token *oauth2.Token) Login {
	var claims struct {
		Username string `json:"preferred_username"`
	}
	_ = unverified.Claims(token.AccessToken, &claims) // it came from the service itself; a name for the person to read
	granted, _ := token.Extra("scope").(string)
	return Login{URL: s.address, Username: claims.Username, Scopes: strings.Fields(granted), Began: time.Now().UTC().Truncate(time.Second), Secrets: secretsOf(token)}
}

// secretsOf are what a token endpoint has answered with.
func secretsOf(token *oauth2.Token) Secrets {
	return Secrets{RefreshToken: token.RefreshToken, AccessToken: token.AccessToken, ExpiresAt: token.Expiry.UTC()}
}

// refresh trades a login's refresh token. It is not given up before the answer is there: a token whose answer is lost has
// been used, and the login is lost with it.
func (s Service) refresh(ctx context.Context, login Login) (Secrets, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	token, err := s.config(nil).TokenSource(withClient(ctx), &oauth2.Token{RefreshToken: login.Secrets.RefreshToken}).Token()
	if err != nil {
		return Secrets{}, said(err)
	}
	return secretsOf(token), nil
}

// End ends a login at the service, by its refresh token (RFC 7009 2.1): its access tokens for wts are refused from then on.
// The errors are *api.Error, and those of the network.
func (s Service) End(ctx context.Context, login Login) error {
	form := strings.NewReader(url.Values{"token": {login.Secrets.RefreshToken}, "client_id": {Client}}.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Revoke, form)
	if err != nil {
		return fmt.Errorf("the service's address: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking wts: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &api.Error{Status: response.StatusCode, Message: "the login was not ended"}
	}
	return nil
}

// said is what an OAuth error means. The body of an answer is not part of it, which may be anything.
func said(err error) error {
	var answered *oauth2.RetrieveError
	if !errors.As(err, &answered) {
		return err
	}
	switch answered.ErrorCode {
	case "invalid_grant":
		return fmt.Errorf("%w: %q", ErrEnded, answered.ErrorDescription)
	case "access_denied":
		return ErrDenied
	case "expired_token":
		return ErrTooLate
	}
	message := answered.ErrorDescription
	if message == "" {
		message = http.StatusText(answered.Response.StatusCode)
	}
	return &api.Error{Status: answered.Response.StatusCode, Code: answered.ErrorCode, Message: message}
}
