package verifier

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// ErrInactive: the issuer says that a token which only it can read is not good.
var ErrInactive = errors.New("not an active token")

const (
	// introspectedFor is how long an answer is believed: a token that was revoked is refused this long after.
	introspectedFor = 10 * time.Second
	maxIntrospected = 10_000
)

// WithIntrospection accepts opaque tokens too, as API tokens of wts are: the issuer is asked about them at its
// introspection endpoint (RFC 7662), with the service's own credentials by HTTP Basic. An answer is kept for ten
// seconds, a refusal too.
func WithIntrospection(endpoint, id, secret string) Option {
	return func(s *settings) {
		s.introspection = &introspection{endpoint: endpoint, id: id, secret: secret, answers: map[[sha256.Size]byte]introspected{}}
	}
}

// introspection asks the issuer about tokens.
type introspection struct {
	endpoint, id, secret string
	asking               singleflight.Group
	mu                   sync.Mutex
	answers              map[[sha256.Size]byte]introspected
}

type introspected struct {
	claims *Claims // nil: not active
	until  time.Time
}

// verify returns what the issuer says of a token that is active, and for this audience.
func (i *introspection) verify(ctx context.Context, v *Verifier, token string, fingerprint [sha256.Size]byte, now time.Time) (*Claims, error) {
	i.mu.Lock()
	answer, known := i.answers[fingerprint]
	i.mu.Unlock()
	if !known || !now.Before(answer.until) {
		asked, err, _ := i.asking.Do(string(fingerprint[:]), func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			claims, err := i.ask(ctx, v, token)
			fresh := introspected{claims: claims, until: now.Add(introspectedFor)}
			if err == nil {
				i.keep(fingerprint, fresh)
			}
			return fresh, err
		})
		if err != nil {
			return nil, fmt.Errorf("%w: introspection: %w", ErrUnavailable, err)
		}
		answer, _ = asked.(introspected)
	}
	switch {
	case answer.claims == nil:
		return nil, ErrInactive
	case !v.settings.anyAudience && !v.among(answer.claims.Audience):
		return nil, ErrAudience
	case !answer.claims.ExpiresAt.IsZero() && !now.Before(answer.claims.ExpiresAt.Add(v.settings.leeway)):
		return nil, ErrExpired
	}
	return answer.claims, nil
}

// keep remembers an answer. When there are too many, all are forgotten: made-up tokens must not fill memory.
func (i *introspection) keep(fingerprint [sha256.Size]byte, answer introspected) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.answers) >= maxIntrospected {
		clear(i.answers)
	}
	i.answers[fingerprint] = answer
}

// ask asks once (RFC 7662 2). The claims are nil for a token that is not active.
func (i *introspection) ask(ctx context.Context, v *Verifier, token string) (*Claims, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, i.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("the endpoint is not a URL")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.SetBasicAuth(url.QueryEscape(i.id), url.QueryEscape(i.secret))
	response, err := v.settings.client.Do(request)
	if err != nil {
		return nil, errors.New("the issuer cannot be reached")
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeySetBytes))
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer answered %d", response.StatusCode)
	}
	var said struct {
		Active bool `json:"active"`
		wireClaims
		Username string `json:"username"` // RFC 7662 2.2
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return nil, errors.New("the issuer's answer cannot be read")
	}
	if !said.Active {
		return nil, nil
	}
	claims := said.wireClaims
	if claims.Username == "" {
		claims.Username = said.Username
	}
	return &Claims{
		Issuer: v.issuer, Subject: claims.Subject, Audience: claims.Audience, ClientID: claims.ClientID, ID: claims.ID, Username: claims.Username,
		Scopes: claims.Scope, Groups: claims.Groups, Resource: claims.Resource.first(), IssuedAt: claims.IssuedAt.time(), NotBefore: claims.NotBefore.time(), ExpiresAt: claims.ExpiresAt.time(), raw: body,
	}, nil
}
