package broker

import "sync"

// landings are the flights that a caller in this process waits for.
type landings struct {
	mu      sync.Mutex
	awaited map[cacheKey]chan struct{}
}

// await returns a channel that is closed when the connection's flight lands.
func (l *landings) await(key cacheKey) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	channel, ok := l.awaited[key]
	if !ok {
		channel = make(chan struct{})
		l.awaited[key] = channel
	}
	return channel
}

// land wakes all who wait for a connection's flight. Nobody may be waiting.
func (l *landings) land(key cacheKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if channel, ok := l.awaited[key]; ok {
		close(channel)
		delete(l.awaited, key)
	}
}

// aloft are the flights of this process that have not ended.
type aloft struct {
	mu      sync.Mutex
	ids     map[string]struct{}
	closing bool // none is begun any more
}

// add notes a flight, and tells whether it may begin: none does once the process is about to end.
func (a *aloft) add(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closing {
		a.ids[id] = struct{}{}
	}
	return !a.closing
}

// remove ends a flight.
func (a *aloft) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ids, id)
}

// has tells that a flight of this process is still under way, whatever the row says.
func (a *aloft) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.ids[id]
	return ok
}

// count is how many flights are under way.
func (a *aloft) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.ids)
}

// close lets no further flight begin.
func (a *aloft) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = true
}
