package kube

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// turnTimeout bounds the lists of one turn.
	turnTimeout = 5 * time.Second
	// A turn begins at most every turnEvery, and one that asks about all pods when wholeShare times as long has passed
	// as the last of them took, at most wholeEvery: however many callers there are, what they can make wts ask of the
	// API server is bounded, and where it answers at once they do not wait for longer. They wait meanwhile.
	turnEvery, wholeEvery = 20 * time.Millisecond, 100 * time.Millisecond
	wholeShare            = 4
)

// want is what a caller needs from the API server: the pods at an address, or the pod of a name.
type want struct {
	address         netip.Addr
	namespace, name string
}

// found is the answer to one want.
type found struct {
	pods []*pod
	node bool // some pod names the address as its node's
}

// turn is one question to the API server, for all the callers who share it.
type turn struct {
	wants    map[want]*found
	thorough bool // a lone want that finds no pod needs the list of all pods too
	done     chan struct{}
	err      error
}

// turns lets callers share lists of pods. At most one turn is under way; a caller that arrives waits for
// the next one, which begins after it arrived. So no caller is refused for lack of a turn, and none gets
// an answer that the API server read before the caller came: the address may have changed hands since.
type turns struct {
	// one gives the pods to visit that one want is about, and all those that several are.
	one func(ctx context.Context, only want, visit func(*pod)) error
	all func(ctx context.Context, wants map[want]*found, visit func(*pod)) error

	mu      sync.Mutex
	next    *turn
	running bool

	began, wholeDue time.Time // only the goroutine that runs the turns reads and writes them
}

// ask waits for the next turn, or until the context ends.
func (t *turns) ask(ctx context.Context, wanted want, thorough bool) (*found, error) {
	t.mu.Lock()
	if t.next == nil {
		t.next = &turn{wants: map[want]*found{}, done: make(chan struct{})}
	}
	mine := t.next
	mine.thorough = mine.thorough || thorough
	if mine.wants[wanted] == nil {
		mine.wants[wanted] = &found{}
	}
	if !t.running {
		t.running = true
		go t.run(context.WithoutCancel(ctx)) // the turn is shared: one caller that goes away must not end it
	}
	t.mu.Unlock()
	select {
	case <-mine.done:
		return mine.wants[wanted], mine.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run takes turn after turn until no caller waits.
func (t *turns) run(ctx context.Context) {
	for mine := t.begin(); mine != nil; mine = t.begin() {
		mine.err = t.take(ctx, mine)
		close(mine.done)
	}
}

// begin waits until the next turn is due, and closes it to callers: those who come later are for the one
// after it.
func (t *turns) begin() *turn {
	for {
		t.mu.Lock()
		if t.next == nil {
			t.running = false
			t.mu.Unlock()
			return nil
		}
		wait := time.Until(t.began.Add(turnEvery))
		if len(t.next.wants) > 1 {
			wait = max(wait, time.Until(t.wholeDue))
		}
		if wait <= 0 {
			mine := t.next
			t.next = nil
			t.mu.Unlock()
			return mine
		}
		t.mu.Unlock()
		time.Sleep(wait)
	}
}

// take asks for what the callers of a turn want: by a field selector where it is one thing, else by one
// question about all pods, which costs the API server as much as two or three of those do.
func (t *turns) take(ctx context.Context, mine *turn) error {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	t.began = time.Now()
	if len(mine.wants) == 1 {
		for only, found := range mine.wants {
			err := t.one(ctx, only, mine.visit)
			if err != nil || !mine.thorough || len(found.pods) > 0 {
				return err
			}
		}
		// A selector finds a pod by its first address alone, and no node: the list of all pods tells.
		time.Sleep(time.Until(t.wholeDue))
	}
	t.began = time.Now()
	err := t.all(ctx, mine.wants, mine.visit)
	pause := wholeEvery // after a failure too, however quick
	if err == nil {
		pause = min(pause, max(turnEvery, wholeShare*time.Since(t.began)))
	}
	t.wholeDue = t.began.Add(pause)
	return err
}

// visit keeps a pod for those who want it.
func (t *turn) visit(seen *pod) {
	for _, host := range seen.hosts {
		if found := t.wants[want{address: host}]; found != nil {
			found.node = true
		}
	}
	for _, address := range seen.addresses {
		if found := t.wants[want{address: address}]; found != nil {
			found.pods = append(found.pods, seen)
		}
	}
	if found := t.wants[want{namespace: seen.Namespace, name: seen.Name}]; found != nil {
		found.pods = append(found.pods, seen)
	}
}
