package apitoken

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Who has a token is told before it ends, 30, 7 and 1 days ahead: in the answers to the token itself, and by a webhook
// to whatever tells people. The webhook tells of people's connections too, 7 and 1 days before their grants end.

// NoticeDays are how many days before its end a token is told about.
var NoticeDays = []int{30, 7, 1}

// WebhookConfig is where notices are sent to, as the operator writes it.
type WebhookConfig struct {
	// URL takes a POST of JSON for each notice; none are sent where it is empty.
	URL string `config:"webhook"`
	// Secret signs them; SecretFile names a file that holds it, and wins.
	Secret     secret.Text `config:"secret"`
	SecretFile string      `config:"secret_file"`
}

// Validate reports every fault at once, each with the name of its field.
func (c WebhookConfig) Validate() error {
	if c.URL == "" {
		return nil
	}
	var faults []error
	if parsed, err := url.Parse(c.URL); err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" {
		faults = append(faults, errors.New("notices.webhook: is not a URL like https://hooks.example.org/wts"))
	}
	if len(c.Secret) < 20 {
		faults = append(faults, errors.New("notices.secret_file: has to hold at least 20 random bytes, by which the receiver knows that wts sent a notice"))
	}
	return errors.Join(faults...)
}

// Notice is one token that is about to end.
type Notice struct {
	Token Token
	Days  int // 30, 7 or 1
}

// Notices keeps what was told.
type Notices interface {
	// TakeNotice gives a notice that is due, to nobody else for as long as the lease; false where none is.
	TakeNotice(ctx context.Context, lease time.Duration) (Notice, bool, error)
	// Noticed ends it.
	Noticed(ctx context.Context, notice Notice) error
}

// ConnectionNotice is one connection whose grant is about to end.
type ConnectionNotice struct {
	UserID, Username, Provider string
	ConnectedAt, EndsAt        time.Time
	// Expected: the provider did not state the end, and is expected to end the grant then, as it did others.
	Expected bool
	Days     int // 7 or 1
}

// ConnectionNotices keeps what was told of connections.
type ConnectionNotices interface {
	// TakeNotice gives a notice that is due, to no other replica for as long as the lease; false where none is.
	TakeNotice(ctx context.Context, lease time.Duration) (ConnectionNotice, bool, error)
	// Noticed ends it.
	Noticed(ctx context.Context, notice ConnectionNotice) error
}

// notifier tells people that their tokens and connections end.
type notifier struct {
	notices Notices
	// connections is nil where no such notices are sent.
	connections ConnectionNotices

	webhook   WebhookConfig
	resources Resources
	now       func() time.Time
}

// noticeLease is how long after an attempt that failed the next one is made.
const noticeLease = 10 * time.Minute

// noticeBody is what is sent. It holds nothing of the token that is secret.
type noticeBody struct {
	Type      string    `json:"type"` // "token.expiring"
	Days      int       `json:"days"`
	ID        string    `json:"id"`
	Kind      Kind      `json:"kind"`
	Audience  string    `json:"audience"`
	Resource  string    `json:"resource,omitempty"`
	Name      string    `json:"name"`
	ExpiresAt time.Time `json:"expires_at"`
	// UserID is the owner of a personal token; Maintainers are who maintains a resource, by username.
	UserID      string   `json:"user_id,omitempty"`
	Maintainers []string `json:"maintainers,omitempty"`
}

// connectionBody is what is sent of a connection.
type connectionBody struct {
	Type     string    `json:"type"` // "connection.ending"
	Days     int       `json:"days"`
	Provider string    `json:"provider"`
	UserID   string    `json:"user_id"`
	Username string    `json:"username"`
	EndsAt   time.Time `json:"ends_at"`
	Expected bool      `json:"expected"`
}

// notifyTime bounds a round of notices: what is left is sent in the next.
const notifyTime = 30 * time.Second

// source is where notices of one kind come from.
type source[N any] interface {
	TakeNotice(ctx context.Context, lease time.Duration) (N, bool, error)
	Noticed(ctx context.Context, notice N) error
}

// Notify sends the notices that are due, and stops at the first of each kind that is not taken: it is due again in ten
// minutes.
func (s *notifier) Notify(ctx context.Context) error {
	if s.webhook.URL == "" {
		return nil
	}
	err := notify(ctx, s, s.notices, s.tokenBody)
	if s.connections != nil {
		err = errors.Join(err, notify(ctx, s, s.connections, bodyOfConnection))
	}
	return err
}

// notify sends the notices of one kind.
func notify[N any](ctx context.Context, s *notifier, from source[N], body func(ctx context.Context, notice N) any) error {
	for began := time.Now(); time.Since(began) < notifyTime; {
		notice, due, err := from.TakeNotice(ctx, noticeLease)
		if err != nil || !due {
			return err
		}
		if err := s.send(ctx, body(ctx, notice)); err != nil {
			return fmt.Errorf("sending a notice: %w", err)
		}
		if err := from.Noticed(ctx, notice); err != nil {
			return err
		}
	}
	return nil
}

// bodyOfConnection is what is sent of a connection.
func bodyOfConnection(_ context.Context, notice ConnectionNotice) any {
	return connectionBody{
		Type: "connection.ending", Days: notice.Days, Provider: notice.Provider, UserID: notice.UserID, Username: notice.Username,
		EndsAt: notice.EndsAt.UTC().Truncate(time.Second), Expected: notice.Expected,
	}
}

// tokenBody is what is sent of a token, with who has to do with it.
func (s *notifier) tokenBody(ctx context.Context, notice Notice) any {
	token := notice.Token
	body := noticeBody{
		Type: "token.expiring", Days: notice.Days, ID: token.ID, Kind: token.Kind, Audience: token.Audience, Resource: token.Resource,
		Name: token.Name, ExpiresAt: token.ExpiresAt.UTC().Truncate(time.Second),
	}
	if token.Kind == Personal {
		body.UserID = token.UserID
	} else if info, err := s.resources.Resource(ctx, token.Audience, token.Resource); err == nil { // else nobody is named
		for _, one := range info.Maintainers {
			body.Maintainers = append(body.Maintainers, one.Username)
		}
	}
	return body
}

// send posts one notice. Its errors name no address, since one may hold a secret.
func (s *notifier) send(ctx context.Context, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("rendering it: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.webhook.URL, bytes.NewReader(text))
	if err != nil {
		return errors.New("notices.webhook is not a URL")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "wts")
	request.Header.Set("Wts-Signature", sign(string(s.webhook.Secret), s.now().Unix(), text))
	response, err := noRedirects.Do(request)
	if err != nil {
		return errors.New("the webhook cannot be reached") // the error repeats the address, which may hold a secret
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("the webhook answered %d", response.StatusCode)
	}
	return nil
}

// noRedirects sends a notice where the operator says, and nowhere else.
var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// sign is a notice's signature: the time, and an HMAC-SHA-256 of the time, a dot and the body, so that an old notice
// does not pass for a new one.
func sign(key string, at int64, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(strconv.FormatInt(at, 10) + "."))
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at, hex.EncodeToString(mac.Sum(nil)))
}
