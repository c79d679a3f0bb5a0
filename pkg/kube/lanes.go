package kube

import (
	"context"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// lanes bound the token reviews that callers can cause, so that made-up tokens neither burden the API
// server nor keep good callers waiting. They are for tokens of which the issuer's published keys tell
// nothing:
//
//   - a token that was good within the last hour is reviewed at once: there are as many as there are pods,
//     and each is reviewed at most once in ten seconds;
//   - a new token of a pod that had a good one within the hour has a reserved share, from which each pod
//     may take little: pods' UIDs are no secret, and a token claims one before it is verified;
//   - any other waits for its turn, and few may come from one origin.
type lanes struct {
	goodTokens *otter.Cache[[32]byte, *reviewed]
	goodPods   *otter.Cache[string, *rate.Limiter] // by UID
	origins    *otter.Cache[netip.Addr, *rate.Limiter]
	renewing   *rate.Limiter
	others     *rate.Limiter
}

const (
	goodFor = time.Hour
	// Reviews per second: of new tokens of pods that were good, of all other tokens, and of those of one
	// pod and of one origin.
	renewRate, renewBurst   = 50, 100
	otherRate, otherBurst   = 200, 400
	podRate, podBurst       = 0.1, 3
	originRate, originBurst = 5, 20
)

// newLanes makes the lanes with nobody in them: after a start every token is a new one, and waits its turn.
func newLanes() *lanes {
	return &lanes{
		goodTokens: otter.Must(&otter.Options[[32]byte, *reviewed]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[[32]byte, *reviewed](goodFor)}),
		goodPods:   otter.Must(&otter.Options[string, *rate.Limiter]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[string, *rate.Limiter](goodFor)}),
		origins: otter.Must(&otter.Options[netip.Addr, *rate.Limiter]{
			MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryAccessing[netip.Addr, *rate.Limiter](time.Minute),
		}),
		renewing: rate.NewLimiter(renewRate, renewBurst), others: rate.NewLimiter(otherRate, otherBurst),
	}
}

// enter waits until a token may be reviewed. Its error means that it cannot be told now.
func (l *lanes) enter(ctx context.Context, token [32]byte, uid string, origin netip.Addr) error {
	if _, good := l.goodTokens.GetIfPresent(token); good {
		return nil
	}
	if pod, good := l.goodPods.GetIfPresent(uid); good && pod.Allow() && l.renewing.Allow() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if !l.origin(origin).Allow() || l.others.Wait(ctx) != nil {
		return errBusy
	}
	return nil
}

// origin is the share of one network address, so that a flood of made-up tokens from one pod is its own.
func (l *lanes) origin(origin netip.Addr) *rate.Limiter {
	if known, ok := l.origins.GetIfPresent(origin); ok {
		return known
	}
	known, _ := l.origins.SetIfAbsent(origin, rate.NewLimiter(originRate, originBurst))
	return known
}

// remember keeps a verdict of the API server's.
func (l *lanes) remember(token [32]byte, uid string, good bool) {
	if !good {
		_, _ = l.goodTokens.Invalidate(token)
		return
	}
	l.goodTokens.Set(token, nil)
	pod, known := l.goodPods.GetIfPresent(uid)
	if !known {
		pod = rate.NewLimiter(podRate, podBurst)
	}
	l.goodPods.Set(uid, pod)
}
