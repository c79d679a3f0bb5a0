package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// errManyLogins: too many logins that fail, or too many at once.
var errManyLogins = errors.New("too many logins at the moment")

// loginLimits bounds the logins that are finished, each of which is a row in the database and a request at a
// provider (rule F1). It counts failures by the network that a browser comes from: a network from which logins
// succeed is not slowed down by its size, and one from which they fail takes nothing of the others' share.
type loginLimits struct {
	networks *otter.Cache[netip.Addr, *loginRecord]

	mu     sync.Mutex
	shares map[string]*loginShares // by provider
}

// loginRecord is what is remembered of a network.
type loginRecord struct {
	mu                sync.Mutex
	failed, succeeded int
	alone             *rate.Limiter // of this network, once it is suspicious
	underWay          chan struct{}
}

// loginShares are the shares of the requests to one provider.
type loginShares struct {
	// signedIn is for users whom we know; unseen for browsers behind a proxy that is not configured, which cannot
	// be told apart; suspicious for networks from which logins fail.
	signedIn, clean, unseen, suspicious *rate.Limiter
}

const (
	maxNetworks  = 100_000
	networkLife  = 10 * time.Minute // how long a network is remembered after its last login
	toleratedBad = 10               // failures beyond the successes, until a network is suspicious
	maxUnderWay  = 20               // logins of one network at once; others wait
	loginWait    = 5 * time.Second  // how long a login waits for its turn
)

func newLoginLimits() *loginLimits {
	return &loginLimits{
		shares: map[string]*loginShares{},
		networks: otter.Must(&otter.Options[netip.Addr, *loginRecord]{
			MaximumSize: maxNetworks, ExpiryCalculator: otter.ExpiryAccessing[netip.Addr, *loginRecord](networkLife),
		}),
	}
}

// of are the shares of one provider, so that a flood of logins at one leaves the others alone.
func (l *loginLimits) of(provider string) *loginShares {
	l.mu.Lock()
	defer l.mu.Unlock()
	shares, known := l.shares[provider]
	if !known {
		shares = &loginShares{signedIn: rate.NewLimiter(50, 200), clean: rate.NewLimiter(100, 200), unseen: rate.NewLimiter(50, 200), suspicious: rate.NewLimiter(5, 10)}
		l.shares[provider] = shares
	}
	return shares
}

// admit lets a login be finished, now or in a moment; its error is errManyLogins. What it returns has to be told
// how the login ended.
func (l *loginLimits) admit(ctx context.Context, x *exchange, provider string) (ended func(error), err error) {
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	shares := l.of(provider)
	if x.caller.Proof != "" {
		return func(error) {}, turn(ctx, shares.signedIn)
	}
	if unseen(x.peer, x.GetHeader("X-Forwarded-For")+x.GetHeader("Forwarded")) {
		return func(error) {}, turn(ctx, shares.unseen)
	}
	record, _ := l.networks.ComputeIfAbsent(x.peer.Network(), func() (*loginRecord, bool) {
		return &loginRecord{alone: rate.NewLimiter(1, 3), underWay: make(chan struct{}, maxUnderWay)}, false
	})
	select {
	case record.underWay <- struct{}{}:
	case <-ctx.Done():
		return nil, errManyLogins
	}
	if !record.suspicious() {
		err = turn(ctx, shares.clean)
	} else if err = turn(ctx, record.alone); err == nil {
		err = turn(ctx, shares.suspicious)
	}
	if err != nil {
		<-record.underWay
		return nil, errManyLogins
	}
	return func(err error) { record.note(err); <-record.underWay }, nil
}

// unseen tells a browser that comes through a proxy which is not configured as one.
func unseen(peer authn.Peer, forwarded string) bool { return !peer.Proxied && forwarded != "" }

// turn waits for a share, for as long as a login may wait.
func turn(ctx context.Context, share *rate.Limiter) error {
	if err := share.Wait(ctx); err != nil {
		return errManyLogins
	}
	return nil
}

func (r *loginRecord) suspicious() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed >= toleratedBad+r.succeeded
}

// note counts how a login ended. An outage says nothing of the network.
func (r *loginRecord) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.succeeded++
	case errors.Is(err, broker.ErrLoginFailed), errors.Is(err, broker.ErrReplayed):
		r.failed++
	}
}
