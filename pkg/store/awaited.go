package store

import (
	"sync"
	"time"
)

// Callers at another replica wait for few flights, and a notification wakes every replica. So a replica that is refused
// a claim tells the others that it waits, and the holder notifies a landing only where it was told so. A word that comes
// after the landing is answered at once; one that is lost costs a poll.

// flights are those that another replica waits for, and those that landed here, within the last moments.
type flights struct {
	mu    sync.Mutex
	since time.Time
	// Of each, what was noted since, and in as much time before that.
	awaited, landed [2]map[string]struct{}
}

// rememberedFor is longer than the time between two looks of a replica that waits: it says so at each look.
const rememberedFor = 2 * time.Second

// await notes that a connection's flight is waited for, and tells whether it landed here a moment ago.
func (f *flights) await(object string, now time.Time) (landed bool) {
	return f.note(&f.awaited, &f.landed, object, now)
}

// land notes that a connection's flight landed here, and tells whether it is waited for.
func (f *flights) land(object string, now time.Time) (awaited bool) {
	return f.note(&f.landed, &f.awaited, object, now)
}

func (f *flights) note(in, asked *[2]map[string]struct{}, object string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if age := now.Sub(f.since); age > rememberedFor {
		for _, of := range []*[2]map[string]struct{}{&f.awaited, &f.landed} {
			if of[1] = of[0]; age > 2*rememberedFor {
				of[1] = nil
			}
			of[0] = map[string]struct{}{}
		}
		f.since = now
	}
	in[0][object] = struct{}{}
	_, lately := asked[0][object]
	_, before := asked[1][object]
	return lately || before
}
