package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// Claims are what the default provider said of a user, and when; the zero time where it never did.
type Claims struct {
	Subject     string // who the user is there
	Groups      []string
	Name, Email string // empty where it does not say them
	At          time.Time
}

// ClaimStore keeps what the default provider said of users.
type ClaimStore interface {
	Claims(ctx context.Context, userID string) (Claims, error)
	SetClaims(ctx context.Context, userID string, claims Claims) error
}

const (
	// maxClaims bounds the users whose claims are in memory.
	maxClaims = 100_000
	// claimsPatience is how long a caller waits for the provider to say them.
	claimsPatience = 3 * time.Second
)

// A group that was taken away is to take effect soon, and no token is to wait for a provider that is slow: what is known
// is asked for anew before it is too old, beside the caller who uses it.

// claims are the users' groups, as they are asked for again and again.
type claims struct {
	broker  *Broker
	said    ClaimStore
	entries *otter.Cache[string, *Claims]
	asking  singleflight.Group
}

// newClaims holds nothing: the first who asks reads the database.
func newClaims(said ClaimStore) *claims {
	return &claims{said: said, entries: otter.Must(&otter.Options[string, *Claims]{MaximumSize: maxClaims})}
}

// About is what the default provider says of a user: at most claims_max_age old where it can be asked, and at most
// ride_through_max where it fails. A provider that cannot be asked said it at the last login.
func (c *claims) About(ctx context.Context, userID string) (Claims, error) {
	b := c.broker
	known, ok := c.entries.GetIfPresent(userID)
	if !ok || b.now().Sub(known.At) >= b.config.ClaimsMaxAge { // another replica may have asked meanwhile
		read, err := c.said.Claims(ctx, userID)
		switch {
		case err != nil && !ok:
			return Claims{}, outage(err)
		case err == nil:
			known = &read
			c.entries.Set(userID, known)
		}
	}
	age := b.now().Sub(known.At)
	if age < b.config.ClaimsMaxAge {
		if age > b.config.ClaimsMaxAge/4*3 {
			b.engine.background(func(ctx context.Context) { _, _ = c.ask(ctx, userID, known.Subject) }) // the next caller sees
		}
		return *known, nil
	}
	fresh, err := c.ask(ctx, userID, known.Subject)
	switch {
	case err == nil:
		return fresh, nil
	case errors.Is(err, provider.ErrNoUserInfo) && !known.At.IsZero():
		return *known, nil
	case age < b.config.RideThroughMax:
		return *known, nil
	}
	return Claims{}, err
}

// ask asks the provider, once for all who want to know of the same user.
func (c *claims) ask(ctx context.Context, userID, subject string) (Claims, error) {
	b := c.broker
	asking := c.asking.DoChan(userID, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.config.Wait)
		defer cancel()
		token, err := b.Token(ctx, userID, b.byDefault, time.Minute)
		if err != nil {
			return Claims{}, err
		}
		about, err := b.providers[b.byDefault].About(ctx, token.Value, subject)
		if err != nil {
			noteRefusal(ctx, b, userID, b.byDefault, token.Value, err)
			return Claims{}, fmt.Errorf("asking about a user: %w", err)
		}
		said := Claims{Subject: subject, Groups: about.Groups, Name: about.Name, Email: about.Email, At: b.now()}
		c.entries.Set(userID, &said)
		return said, c.said.SetClaims(ctx, userID, said)
	})
	patience := time.NewTimer(claimsPatience)
	defer patience.Stop()
	select {
	case said := <-asking:
		got, _ := said.Val.(Claims)
		if said.Err != nil && !errors.Is(said.Err, provider.ErrNoUserInfo) && !isVerdict(said.Err) {
			return got, outage(said.Err)
		}
		return got, said.Err
	case <-patience.C:
		return Claims{}, outage(errors.New("the provider takes long to say a user's groups"))
	case <-ctx.Done():
		return Claims{}, outage(ctx.Err())
	}
}

// isVerdict tells an error of the grant itself, which is no outage.
func isVerdict(err error) bool {
	return errors.Is(err, ErrNotConnected) || errors.Is(err, ErrGrantExpired) || errors.Is(err, ErrGrantBroken)
}
