package store

import (
	"sync"
	"time"
)

// Few flights are waited for by another replica's callers, and a notification wakes every replica. So who is refused a
// claim since another has it says so, and a flight of which no replica said this lands in silence. A word that comes after
// the landing is answered at once; one that is lost costs a poll.

// flights are those that are waited for, and those that landed here, within the last moments.
type flights struct {
	mu    sync.Mutex
	since time.Time
	// Of each, what was noted since, and in as much time before that.
	awaited, landed [2]map[string]struct{}
}

// rememberedFor is longer than the time between two looks of one who waits, who says so at each.
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
