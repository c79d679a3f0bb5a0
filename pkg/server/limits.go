package server

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// Every caller has a share of each kind of request (rule F1). A request that would be refused anyway is told why, and
// not that there were too many.

// kind is a kind of request that is limited.
type kind struct {
	name      string
	perSecond float64
	burst     int
}

// The kinds. A worker's many processes share its user's part, so that there are many of those that cost little.
const (
	handouts = "token"  // upstream tokens
	mints    = "mint"   // tokens of our own
	reads    = "read"   // of the API
	changes  = "change" // of API tokens and resources
	reports  = "report" // of tokens that were found

	introspections = "introspect" // of tokens, by resource services
	devices        = "device"     // programs that begin to wait for a person
)

var kinds = map[string]kind{
	handouts: {handouts, 200, 2000}, mints: {mints, 100, 1000}, reads: {reads, 20, 200}, changes: {changes, 1, 30}, reports: {reports, 1, 20},
	introspections: {introspections, 1000, 10_000}, devices: {devices, 1, 30},
}

// checkLimits wants the names of kinds, and how many of each a caller may have in a second.
func checkLimits(perSecond map[string]float64) error {
	var faults []error
	for name, most := range perSecond {
		if _, known := kinds[name]; !known || most <= 0 {
			faults = append(faults, fmt.Errorf("rate_limits.%s: is %g; want token, mint, read, change, report, introspect or device, and more than 0 a second", name, most))
		}
	}
	return errors.Join(faults...)
}

// errTooMany says that a caller's share is used up.
type errTooMany struct {
	kind  kind
	after time.Duration
}

func (e *errTooMany) Error() string {
	return "too many requests of the kind " + strconv.Quote(e.kind.name)
}

const (
	maxLimited  = 100_000
	limitedLife = 10 * time.Minute // how long a caller is remembered after the last request
)

// limits are the shares of the callers.
type limits struct {
	kinds  map[string]kind
	shares *otter.Cache[string, *rate.Limiter]
}

// newLimits has the kinds as they are, but for those of which an operator allows more or less; ten seconds' worth of
// them may come at once.
func newLimits(perSecond map[string]float64) *limits {
	chosen := maps.Clone(kinds)
	for name, most := range perSecond {
		chosen[name] = kind{name, most, int(min(max(10*most, 1), math.MaxInt32))}
	}
	return &limits{chosen, otter.Must(&otter.Options[string, *rate.Limiter]{
		MaximumSize: maxLimited, ExpiryCalculator: otter.ExpiryAccessing[string, *rate.Limiter](limitedLife),
	})}
}

// principal is whose share a request takes: that of the user, whatever the proof; of what a handler knows the request
// by; or for one that proves nothing that of the network.
func (x *exchange) principal() string {
	switch {
	case x.share != "":
		return x.share
	case x.caller.User.ID != "":
		return x.caller.User.ID
	case x.caller.User.Username != "":
		return "name " + x.caller.User.Username
	}
	return networkOf(x.peer.Network())
}

// networkOf names the share of those who prove nothing: they have it together with their neighbours.
func networkOf(address netip.Addr) string { return "network " + address.String() }

// take takes a request of a kind out of the caller's share. Where that is used up, otherwise is asked first: an error
// that would have refused the request anyway is the answer.
func (l *limits) take(x *exchange, name string, otherwise func() error) error {
	of := l.kinds[name]
	key := of.name + " " + x.principal()
	share, known := l.shares.GetIfPresent(key)
	if !known {
		share, _ = l.shares.SetIfAbsent(key, rate.NewLimiter(rate.Limit(of.perSecond), of.burst))
	}
	if share.Allow() {
		if x.api && !x.quiet { // what is called all the time is told when its share is used up
			l.tell(x, of, share)
		}
		return nil
	}
	if otherwise != nil {
		if err := otherwise(); err != nil {
			return err
		}
	}
	l.tell(x, of, share)
	return &errTooMany{of, time.Duration(float64(time.Second) / of.perSecond)}
}

// tell says how much of a share is left, and when all of it is back (draft-ietf-httpapi-ratelimit-headers).
func (l *limits) tell(x *exchange, of kind, share *rate.Limiter) {
	left := max(share.Tokens(), 0)
	window := int(math.Ceil(float64(of.burst) / of.perSecond))
	back := int(math.Ceil((float64(of.burst) - left) / of.perSecond))
	quoted := strconv.Quote(of.name)
	x.Header("RateLimit-Policy", quoted+";q="+strconv.Itoa(of.burst)+";w="+strconv.Itoa(window))
	x.Header("RateLimit", quoted+";r="+strconv.Itoa(int(left))+";t="+strconv.Itoa(back))
}

// limited is a handler whose requests are limited.
func (l *limits) limited(of string, handle func(*exchange) error) func(*exchange) error {
	return func(x *exchange) error {
		if err := l.take(x, of, nil); err != nil {
			return err
		}
		return handle(x)
	}
}

// asTooMany is the error of a share that is used up, if it is one.
func asTooMany(err error) (*errTooMany, bool) {
	var many *errTooMany
	return many, errors.As(err, &many)
}
