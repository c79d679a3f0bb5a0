package server

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// visitor is a browser's callback from an address.
func visitor(address string, change ...func(*exchange)) *exchange {
	gin.SetMode(gin.TestMode)
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Request = httptest.NewRequest("GET", "/oauth2/authorize", nil)
	x := &exchange{Context: c, peer: authn.Peer{Addr: netip.MustParseAddr(address)}}
	for _, one := range change {
		one(x)
	}
	return x
}

// Rule F1: whose logins are limited, and by what. A network becomes suspicious by logins that fail, however they
// are spread over its addresses, and not by an outage.
func TestWhoseLoginsAreLimited(t *testing.T) {
	signedIn := func(x *exchange) { x.caller.Proof = authn.Session }
	forwarded := func(x *exchange) { x.Request.Header.Set("X-Forwarded-For", "10.1.1.1") }
	behindProxy := func(x *exchange) { x.peer.Proxied = true; forwarded(x) }
	for name, row := range map[string]struct {
		before  error // how a hundred logins from 10.0.0.1 and 2001:db8:: ended
		next    *exchange
		waiting bool // the next one has to wait, or is refused
	}{
		"after failures":                           {before: broker.ErrNoCode, next: visitor("10.0.0.1"), waiting: true},
		"after callbacks that were replayed":       {before: broker.ErrReplayed, next: visitor("10.0.0.1"), waiting: true},
		"after an outage":                          {before: broker.ErrUnavailable, next: visitor("10.0.0.1")},
		"after successes":                          {next: visitor("10.0.0.1")},
		"another address of the IPv6 network":      {before: broker.ErrNoCode, next: visitor("2001:db8::ffff"), waiting: true},
		"another IPv6 network":                     {before: broker.ErrNoCode, next: visitor("2001:db8:0:1::1")},
		"another address":                          {before: broker.ErrNoCode, next: visitor("10.0.0.2")},
		"a user from there, with a session":        {before: broker.ErrNoCode, next: visitor("10.0.0.1", signedIn)},
		"from there, by way of an unknown proxy":   {before: broker.ErrNoCode, next: visitor("10.0.0.1", forwarded)},
		"that address, told by a configured proxy": {before: broker.ErrNoCode, next: visitor("10.0.0.1", behindProxy), waiting: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLoginLimits()
				defer l.networks.StopAllGoroutines()
				for number := range 100 {
					from := visitor("10.0.0.1")
					if number%2 == 1 {
						from = visitor("2001:db8::1")
					}
					if ended, err := l.admit(t.Context(), from, "main"); err == nil {
						ended(row.before)
					}
				}
				began := time.Now()
				ended, err := l.admit(t.Context(), row.next, "main")
				if err == nil {
					ended(nil)
				}
				if waiting := err != nil || time.Since(began) > 100*time.Millisecond; waiting != row.waiting {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}

// A network has so many logins under way at once, and the others wait for a place.
func TestLoginsOfOneNetworkAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoginLimits()
		defer l.networks.StopAllGoroutines()
		var last func(error)
		for range maxUnderWay {
			ended, err := l.admit(t.Context(), visitor("10.0.0.1"), "main")
			if err != nil {
				t.Fatal(err)
			}
			last = ended
		}
		if _, err := l.admit(t.Context(), visitor("10.0.0.1"), "main"); !errors.Is(err, errManyLogins) {
			t.Errorf("one more: %v", err)
		}
		if _, err := l.admit(t.Context(), visitor("10.0.0.2"), "main"); err != nil {
			t.Errorf("another network: %v", err)
		}
		go func() { time.Sleep(time.Second); last(context.Canceled) }()
		if _, err := l.admit(t.Context(), visitor("10.0.0.1"), "main"); err != nil {
			t.Errorf("one that waits: %v", err)
		}
	})
}

// A suspicious network has a small share of its own, so that it takes none of another suspicious one.
func TestSuspiciousNetworksDoNotStarveEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoginLimits()
		defer l.networks.StopAllGoroutines()
		for _, address := range []string{"10.0.0.1", "10.0.0.2"} {
			for range toleratedBad {
				if ended, err := l.admit(t.Context(), visitor(address), "main"); err == nil {
					ended(broker.ErrNoCode)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var trying sync.WaitGroup
		for range maxUnderWay { // one of them tries all the time
			trying.Go(func() {
				for ctx.Err() == nil {
					if ended, err := l.admit(ctx, visitor("10.0.0.1"), "main"); err == nil {
						ended(broker.ErrNoCode)
					}
					time.Sleep(10 * time.Millisecond) // a refusal takes no time, and the clock goes on only where all wait
				}
			})
		}
		time.Sleep(30 * time.Second)
		began := time.Now()
		if _, err := l.admit(t.Context(), visitor("10.0.0.2"), "main"); err != nil || time.Since(began) > time.Second {
			t.Errorf("the other waits for %s: %v", time.Since(began), err)
		}
		cancel()
		trying.Wait()
	})
}
