package login

import (
	"context"
	"errors"
	"net"
	"net/url"
	"time"

	"github.com/workspace-token-service/wts/api"
)

// Code is what a person types, or opens, on a device that has a browser (RFC 8628 3.3).
type Code struct {
	UserCode string `json:"user_code"`
	// Address is where to type it; Complete has it filled in.
	Address   string    `json:"verification_uri"`
	Complete  string    `json:"verification_uri_complete"`
	ExpiresAt time.Time `json:"expires_at"`
}

// ByDevice begins a login by a code, which show shows: for a machine without a browser. It waits until the person has
// decided, through outages of the service. The errors are ErrDenied, ErrTooLate, *api.Error, and those of the network.
func (s Service) ByDevice(ctx context.Context, scopes []string, show func(Code)) (Login, error) {
	ctx, config := withClient(ctx), s.config(scopes)
	begun, err := config.DeviceAuth(ctx, forAudience)
	if err != nil {
		return Login{}, said(err)
	}
	show(Code{begun.UserCode, begun.VerificationURI, begun.VerificationURIComplete, begun.Expiry.UTC().Truncate(time.Second)})
	for {
		token, err := config.DeviceAccessToken(ctx, begun)
		if err == nil {
			return s.begun(token), nil
		}
		if ctx.Err() != nil {
			return Login{}, ctx.Err()
		}
		if err = said(err); errors.Is(err, ErrEnded) || !time.Now().Before(begun.Expiry) { // the code is not known any more
			return Login{}, ErrTooLate
		}
		if !passing(err) {
			return Login{}, err
		}
		if begun.Interval = max(2*begun.Interval, 5); !sleep(ctx, time.Duration(begun.Interval)*time.Second) { // RFC 8628 3.5
			return Login{}, ctx.Err()
		}
	}
}

// passing tells an outage.
func passing(err error) bool {
	var answered *api.Error
	if errors.As(err, &answered) {
		return answered.Temporary()
	}
	var asked *url.Error
	var network net.Error
	return errors.As(err, &asked) || errors.As(err, &network)
}

// sleep tells whether it slept to the end.
func sleep(ctx context.Context, wait time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}
