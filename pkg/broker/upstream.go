package broker

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// upstream is a provider and how it has been of late, as this replica saw it.
type upstream struct {
	Refresher
	id     string
	config provider.Config
	rate   *rate.Limiter
	served func(left time.Duration)
	// takeovers are the orphans that are being presented.
	takeovers chan struct{}
	tooMany   *provider.Error // the configured rate is used up

	mu        sync.Mutex
	heldUntil time.Time // it asked for patience, or rejects our client
	held      error
	// failing are the connections that failed since the last one that was served, and clientless those
	// of them that were told that this client may not do so.
	failing, clientless map[cacheKey]struct{}
	since               time.Time // the first of these failures
	failed, probed      time.Time // the last failure, and the last attempt while it fails
	answered            time.Time // the last refresh that was served
	posts, failures     int64     // since the process began
}

// newUpstream is a provider of which nothing bad is known yet.
func newUpstream(id string, refresher Refresher, config provider.Config) *upstream {
	config = config.WithDefaults(id)
	limit, burst := shareOf(config, 1)
	return &upstream{
		takeovers: make(chan struct{}, maxTakeovers), Refresher: refresher, id: id, config: config, rate: rate.NewLimiter(limit, burst),
		tooMany: &provider.Error{Provider: id, Doing: "refresh", Outcome: provider.Unsent, Reason: "refresh_rate is used up"},
		failing: map[cacheKey]struct{}{}, clientless: map[cacheKey]struct{}{},
	}
}

// share gives this replica its part of the provider's rate.
func (u *upstream) share(replicas int) {
	limit, burst := shareOf(u.config, replicas)
	u.rate.SetLimit(limit)
	u.rate.SetBurst(burst)
}

// shareOf is a part of the rate such that what may come at once, and what comes in the second after, are
// no more than it together. A replica whose part is less than two a second sends one at a time.
func shareOf(config provider.Config, replicas int) (rate.Limit, int) {
	part := config.RefreshRate / float64(max(replicas, 1))
	if part < 2 {
		return rate.Limit(part / 2), 1
	}
	burst := max(1, int(part/5))
	return rate.Limit(part - float64(burst)), burst
}

// queue is how long a refresh that is asked for now would wait for its turn.
func (u *upstream) queue() time.Duration {
	missing := 1 - u.rate.Tokens()
	return max(0, time.Duration(missing/float64(u.rate.Limit())*float64(time.Second)))
}

const (
	// misconfiguredFor is how long a provider rests that rejects our client's credentials.
	misconfiguredFor = 5 * time.Second
	minBackOff       = time.Second
	maxBackOff       = 5 * time.Second
	// maxGrantBackOff is how long a single connection rests that fails while others are served.
	maxGrantBackOff = 5 * time.Minute
	// manyFailures is how many connections fail, with none served between, before the provider is the
	// cause: then one attempt at a time asks whether it is back.
	manyFailures = 3
	// quietTime is how long after its last failure a provider counts as untried.
	quietTime = time.Minute
)

// admit tells whether the provider may be asked now; else why not, and for how long. While it fails, one
// attempt in a growing interval is let through, so that an outage costs it few requests and its end is
// seen soon.
func (u *upstream) admit(now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Before(u.heldUntil) {
		return &Unavailable{RetryAfter: u.heldUntil.Sub(now), Cause: u.held}
	}
	if len(u.failing) < manyFailures || now.Sub(u.failed) > quietTime {
		return nil
	}
	interval := min(max(now.Sub(u.since)/4, minBackOff), maxBackOff)
	if next := u.probed.Add(interval); now.Before(next) {
		return &Unavailable{RetryAfter: next.Sub(now), Cause: errFailing}
	}
	u.probed = now
	return nil
}

var errFailing = errors.New("the provider fails, and is asked now and then whether it is back")

// troubled tells that the last answers were failures: a caller whose token is valid does not wait then.
func (u *upstream) troubled() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.failing) > 0
}

// hold keeps everyone from the provider until then.
func (u *upstream) hold(until time.Time, cause error) {
	if until.After(u.heldUntil) {
		u.heldUntil, u.held = until, cause
	}
}

// note takes account of an answer about a connection, and returns how long the connection should rest
// and after what time a caller should try again.
func (u *upstream) note(row Row, err error, now time.Time) (rest, retry time.Duration) {
	key := cacheKey{row.UserID, row.Provider}
	u.mu.Lock()
	defer u.mu.Unlock()
	var failure *provider.Error
	if !errors.Is(err, u.tooMany) { // which sends nothing
		u.posts++
	}
	if err == nil || errors.As(err, &failure) && failure.Outcome == provider.Refused {
		if err == nil {
			u.answered = now
		}
		clear(u.failing)
		clear(u.clientless)
		return 0, 0
	}
	if errors.Is(err, u.tooMany) {
		rest = time.Second + spread(time.Second, key, now)
		return rest, rest
	}
	u.failures++
	if failure == nil {
		failure = &provider.Error{Outcome: provider.Unknown}
	}
	if len(u.failing) == 0 || now.Sub(u.failed) > quietTime {
		clear(u.failing)
		clear(u.clientless)
		u.since = now
	}
	u.failing[key], u.failed = struct{}{}, now
	rest = backOff(now.Sub(u.since), maxBackOff, key, now)
	if since := row.Reading.Local(row.FailingSince); !since.IsZero() && u.answered.After(since) {
		rest = backOff(now.Sub(since), maxGrantBackOff, key, now) // others are served: the grant is the cause
	}
	switch {
	case failure.Outcome == provider.Throttled:
		u.hold(now.Add(max(failure.RetryAfter, time.Second)), err)
	case failure.Outcome == provider.Misconfigured:
		u.clientless[key] = struct{}{}
		if !failure.OneGrant() || len(u.clientless) >= manyFailures {
			u.hold(now.Add(misconfiguredFor), err)
		}
	case failure.RetryAfter > 0:
		u.hold(now.Add(failure.RetryAfter), err)
	}
	return rest, max(rest, u.heldUntil.Sub(now), time.Second)
}

// backOff is half as long again as it has failed so far, however many users found out, with jitter.
func backOff(failing, most time.Duration, key cacheKey, now time.Time) time.Duration {
	rest := min(max(failing/2, minBackOff), most)
	return rest + spread(rest/2, key, now)
}

// spread is jitter, from 0 to less than most: a hash of whom it is for and when, so that a simulation with
// its own clock plays the same again.
func spread(most time.Duration, key cacheKey, now time.Time) time.Duration {
	if most <= 0 {
		return 0
	}
	sum := fnv.New64a()
	_, _ = sum.Write(binary.LittleEndian.AppendUint64([]byte(key.userID+"/"+key.provider), uint64(now.UnixNano())))
	mixed := sum.Sum64()
	mixed ^= mixed >> 33
	mixed *= 0xff51afd7ed558ccd
	mixed ^= mixed >> 33
	return time.Duration(mixed % uint64(most)) //nolint:gosec // less than most
}
