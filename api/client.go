// Package api is the contract with those who call wts: what is asked, what is answered, and a client.
//
//	client := &api.Client{URL: "http://wts.wts", Proof: api.ProofFile("/var/run/secrets/wts/proof")}
//	tokens := client.TokenSource(ctx, api.Request{Audience: "storage"})
//	storage := oauth2.NewClient(ctx, tokens)
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/workspace-token-service/wts/pkg/unverified"
)

// Request is what a token is wanted for.
type Request struct {
	// Audience wants a token that wts signs for it; without one, IDP's own access token is wanted.
	Audience string
	// IDP is a provider; empty is the default one.
	IDP string
	// Scopes are for an audience's token.
	Scopes []string
	// Datasets are those of an integration that the token is to name; all of them where there is none.
	Datasets []string
	// Expires is the life wanted, to the second; 0 leaves it to the service.
	Expires time.Duration
}

// Answer is the body of a good answer of GET /token. A provider's own token comes with Token alone.
type Answer struct {
	Token     string `json:"token"`
	TokenType string `json:"token_type,omitempty"`
	ExpiresIn int64  `json:"expires_in,omitempty"` // seconds
	Audience  string `json:"audience,omitempty"`
}

// Token is a token and when it ends.
type Token struct {
	Value string
	// ExpiresAt is when it ends by this machine's clock: as the service said, else as the token
	// itself says. Zero where neither says.
	ExpiresAt time.Time
}

// Error is an answer that is not good.
type Error struct {
	Status     int           // HTTP status
	Message    string        // what the service says, for people
	Code       string        // what it says, for programs; empty where a proxy answered
	ConnectURL string        // where the person logs in; empty where that does not help
	RequestID  string        // by which the service's log has it; empty where a proxy answered
	RetryAfter time.Duration // 0 unless the service said when to try again
}

func (e *Error) Error() string {
	return fmt.Sprintf("the service answered %d: %s", e.Status, e.Message)
}

// Temporary tells an outage, which time mends, from what the user has to mend.
func (e *Error) Temporary() bool {
	return e.Status >= http.StatusInternalServerError || e.Status == http.StatusTooManyRequests
}

// Client asks wts for tokens. It is safe for concurrent use.
type Client struct {
	// URL is the service's, as this machine reaches it.
	URL string
	// Proof is sent as a bearer; nil where the address proves who calls.
	Proof func() (string, error)
	// HTTP is the client to use; nil is one that waits for at most 30 s and follows no redirect.
	HTTP *http.Client
}

// ProofFile reads a proof from a file each time: a projected service-account token changes there.
func ProofFile(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("the proof: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
}

const maxAnswer = 1 << 20 // bytes

// patient follows no redirect: a proof is for the service that was named.
var patient = &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// Token asks for a token. The error is *Error where the service has answered.
func (c *Client) Token(ctx context.Context, want Request) (Token, error) {
	request, err := c.request(ctx, want)
	if err != nil {
		return Token{}, err
	}
	asked := time.Now()
	body, err := c.do(request)
	if err != nil {
		return Token{}, err
	}
	var answer Answer
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" {
		return Token{}, errors.New("asking for a token: the answer holds none; is that the address of wts?")
	}
	token := Token{Value: answer.Token}
	if answer.ExpiresIn > 0 {
		token.ExpiresAt = asked.Add(time.Duration(answer.ExpiresIn) * time.Second)
	} else {
		token.ExpiresAt = unverified.Expiry(answer.Token)
	}
	return token, nil
}

func (c *Client) request(ctx context.Context, want Request) (*http.Request, error) {
	query := url.Values{}
	for name, value := range map[string]string{"audience": want.Audience, "idp": want.IDP, "scope": strings.Join(want.Scopes, " "), "datasets": strings.Join(want.Datasets, ",")} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if want.Expires > 0 {
		query.Set("expires", strconv.FormatInt(int64(max(want.Expires/time.Second, 1)), 10))
	}
	return c.newRequest(ctx, http.MethodGet, "/token?"+query.Encode(), nil)
}

// newRequest is a request at a path of the service, with the proof of who calls.
func (c *Client) newRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.URL, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("the service's address: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	if c.Proof != nil {
		proof, err := c.Proof()
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+proof)
	}
	return request, nil
}

// do sends a request and returns the body of a good answer.
func (c *Client) do(request *http.Request) ([]byte, error) {
	client := c.HTTP
	if client == nil {
		client = patient
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking wts: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("asking wts: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return nil, failure(response, body)
	}
	return body, nil
}

// failure reads an error in each of the shapes that the service has: Gen3's, that of OAuth (RFC 6749 5.2) and problem
// details (RFC 9457).
func failure(response *http.Response, body []byte) *Error {
	var said struct {
		Message, Error, Detail, Code string
		Description                  string `json:"error_description"`
		ConnectURL                   string `json:"connect_url"`
		RequestID                    string `json:"request_id"`
	}
	_ = json.Unmarshal(body, &said) // a proxy's page says nothing
	failed := &Error{
		Status: response.StatusCode, Code: said.Code, ConnectURL: said.ConnectURL, RequestID: said.RequestID,
		Message: cmp.Or(said.Detail, said.Message, said.Description, said.Error, http.StatusText(response.StatusCode)),
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		failed.RetryAfter = time.Duration(seconds) * time.Second
	}
	return failed
}

// unknownLife is how long a token that does not say when it ends is kept by TokenSource.
const unknownLife = time.Minute

// TokenSource is for golang.org/x/oauth2: it keeps a token for as long as it lives. The context bounds
// every request that it makes.
func (c *Client) TokenSource(ctx context.Context, want Request) oauth2.TokenSource {
	return oauth2.ReuseTokenSource(nil, source{ctx, c, want})
}

type source struct {
	ctx    context.Context //nolint:containedctx // oauth2.TokenSource has no other place for it
	client *Client
	want   Request
}

// Token implements oauth2.TokenSource.
func (s source) Token() (*oauth2.Token, error) {
	token, err := s.client.Token(s.ctx, s.want)
	if err != nil {
		return nil, err
	}
	if token.ExpiresAt.IsZero() {
		token.ExpiresAt = time.Now().Add(unknownLife)
	}
	return &oauth2.Token{AccessToken: token.Value, TokenType: "Bearer", Expiry: token.ExpiresAt}, nil
}
