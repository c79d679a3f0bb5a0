package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// What a person sees and changes at /api/v1. The proof is a program's access token for wts itself, of a login
// (RFC 8628 or RFC 7636) with the scopes api:read, api or api:create. Times are in UTC, to the second.

// User is a person.
type User struct {
	ID       string `json:"id"` // given by wts, and never used again
	Username string `json:"username"`
}

// Connection is how a person is connected to one provider.
type Connection struct {
	Provider string `json:"provider"`
	Name     string `json:"name"`
	Default  bool   `json:"default"` // the provider says who the person is
	// State is connected, not_connected, expired or broken; of the last two a login is wanted.
	State       string     `json:"state"`
	Account     string     `json:"account,omitempty"` // what the person is called there
	ConnectedAt *time.Time `json:"connected_at"`
	EndsAt      *time.Time `json:"ends_at"`  // nil where that is not known
	Expected    bool       `json:"expected"` // the provider did not state the end
	// FailingSince is since when the provider's tokens cannot be refreshed; nil where they can.
	FailingSince *time.Time `json:"failing_since,omitempty"`
	ConnectURL   string     `json:"connect_url"` // where a browser begins to connect
}

// APIToken is a token that a person made, without its value but where it was made or rotated just now.
type APIToken struct { //nolint:revive // what the field calls it; Token is what GET /token answers
	ID            string     `json:"id"`
	Kind          string     `json:"kind"`   // personal or resource
	Format        string     `json:"format"` // opaque or jwt
	State         string     `json:"state"`  // active, expired or revoked
	Audience      string     `json:"audience"`
	Resource      string     `json:"resource,omitempty"`
	Name          string     `json:"name"`
	Description   string     `json:"description"`
	Scopes        []string   `json:"scopes"`
	Networks      []string   `json:"networks"`
	Hint          string     `json:"hint"` // its beginning and its end
	CreatedAt     time.Time  `json:"created_at"`
	CreatedBy     string     `json:"created_by,omitempty"` // the user's id
	RotatedAt     *time.Time `json:"rotated_at,omitempty"`
	OldValueUntil *time.Time `json:"old_value_until,omitempty"` // until when a former value is accepted
	ExpiresAt     *time.Time `json:"expires_at"`                // nil where it has no end
	LastUsedAt    *time.Time `json:"last_used_at"`
	LastUsedFrom  string     `json:"last_used_from,omitempty"`
	RevokedAt     *time.Time `json:"revoked_at,omitempty"`
	RevokedBy     string     `json:"revoked_by,omitempty"`
	RevokedFor    string     `json:"revoked_for,omitempty"`
	Token         string     `json:"token,omitempty"` // its value
}

// NewToken is what an API token is to be.
type NewToken struct {
	Audience    string   `json:"audience,omitempty"`
	Format      string   `json:"format,omitempty"`
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
	Networks    []string `json:"networks,omitempty"`
	// ExpiresIn is its life in seconds: nil is the audience's default, and NoEnd none where the audience allows that.
	ExpiresIn *int64 `json:"expires_in,omitempty"`
}

// NoEnd is the life of a token of a resource that has none.
const NoEnd int64 = -1

// MarshalJSON implements json.Marshaler: no end is null on the wire.
func (n NewToken) MarshalJSON() ([]byte, error) {
	type plain NewToken
	if n.ExpiresIn == nil || *n.ExpiresIn != NoEnd {
		return json.Marshal(plain(n))
	}
	n.ExpiresIn = nil
	return json.Marshal(struct {
		plain
		ExpiresIn *int64 `json:"expires_in"`
	}{plain: plain(n)})
}

// Tokens says whose API tokens are meant: a person's own, or those of a resource of an audience.
type Tokens struct{ Audience, Resource string }

// path is where they are.
func (t Tokens) path(more ...string) string {
	path := "/api/v1/tokens"
	if t.Resource != "" {
		path = "/api/v1/resources/" + url.PathEscape(t.Audience) + "/" + url.PathEscape(t.Resource) + "/tokens"
	}
	for _, part := range more {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// TokenFilter narrows a list of API tokens.
type TokenFilter struct {
	State      string // active, expired or revoked; all of them where it is empty
	UnusedDays int    // those that were not used for so many days
}

// User says who the person is. The error is *Error where the service has answered, as those of all that follow.
func (c *Client) User(ctx context.Context) (user User, err error) {
	return user, c.call(ctx, http.MethodGet, "/api/v1/user", nil, &user)
}

// Connections are a person's, one for each provider.
func (c *Client) Connections(ctx context.Context) ([]Connection, error) {
	var answer struct{ Connections []Connection }
	err := c.call(ctx, http.MethodGet, "/api/v1/connections", nil, &answer)
	return answer.Connections, err
}

// ListTokens lists API tokens, the newest first, with as many requests as there are pages. It ends with an error.
func (c *Client) ListTokens(ctx context.Context, of Tokens, filter TokenFilter) iter.Seq2[APIToken, error] {
	query := url.Values{}
	if filter.State != "" {
		query.Set("state", filter.State)
	}
	if filter.UnusedDays > 0 {
		query.Set("unused_days", strconv.Itoa(filter.UnusedDays))
	}
	return func(yield func(APIToken, error) bool) {
		for {
			var page struct {
				Tokens []APIToken
				Next   string
			}
			if err := c.call(ctx, http.MethodGet, of.path()+"?"+query.Encode(), nil, &page); err != nil {
				yield(APIToken{}, err)
				return
			}
			for i := range page.Tokens {
				if !yield(page.Tokens[i], nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("after", page.Next)
		}
	}
}

// CreateToken makes an API token, within an hour of the person's login. Its value is in this answer and in no other.
func (c *Client) CreateToken(ctx context.Context, of Tokens, wanted NewToken) (made APIToken, err error) {
	return made, c.call(ctx, http.MethodPost, of.path(), wanted, &made)
}

// RotateToken gives an API token another value, within an hour of the person's login. The former value is accepted for
// the overlap; nil is a day.
func (c *Client) RotateToken(ctx context.Context, of Tokens, id string, overlap *time.Duration) (made APIToken, err error) {
	body := map[string]int64{}
	if overlap != nil {
		body["overlap"] = int64(*overlap / time.Second)
	}
	return made, c.call(ctx, http.MethodPost, of.path(id, "rotate"), body, &made)
}

// RevokeToken ends an API token.
func (c *Client) RevokeToken(ctx context.Context, of Tokens, id string) (ended APIToken, err error) {
	return ended, c.call(ctx, http.MethodDelete, of.path(id), nil, &ended)
}

// call sends a body as JSON, where there is one, and reads the answer.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("asking wts: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	request, err := c.newRequest(ctx, method, path, sent)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.do(request)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the answer of %s is not what wts says; is that the address of wts?", path)
	}
	return nil
}
