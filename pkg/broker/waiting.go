package broker

import (
	"context"
	"sync"
	"time"
)

// landings are the flights that somebody in this process waits for.
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

func (a *aloft) add(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closing {
		a.ids[id] = struct{}{}
	}
	return !a.closing
}

func (a *aloft) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ids, id)
}

func (a *aloft) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.ids[id]
	return ok
}

// Landed tells those who wait for a connection's flight to read the row again. The store's feed calls it.
func (b *Broker) Landed(userID, providerID string) {
	if up := b.upstreams[providerID]; up != nil && up.config.RevokesAccess {
		b.Forget(userID, providerID) // what is held died with the refresh
	}
	b.landings.land(cacheKey{userID, providerID})
}

// tasks are what runs beside the callers, for as long as the broker does.
type tasks struct {
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // the broker's own life, which outlasts every caller's
	running sync.WaitGroup
}

// background runs a task until it ends or the broker does. Before Run, and after it, nothing is run.
func (b *Broker) background(task func(ctx context.Context)) {
	b.tasks.mu.Lock()
	defer b.tasks.mu.Unlock()
	if b.tasks.ctx == nil || b.tasks.ctx.Err() != nil {
		return
	}
	ctx := b.tasks.ctx
	b.tasks.running.Go(func() { task(ctx) })
}

// Drain begins no flight any more, and waits until every one of this process has ended, or the context
// has: a token that is on its way when the process dies may be lost.
func (b *Broker) Drain(ctx context.Context) {
	b.aloft.mu.Lock()
	b.aloft.closing = true
	b.aloft.mu.Unlock()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		b.aloft.mu.Lock()
		left := len(b.aloft.ids)
		b.aloft.mu.Unlock()
		if left == 0 {
			tick.Stop()
			return
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

// Run keeps the engine: the heartbeat, the sweeper, the spool, the outbox. It returns when the context
// has ended and everything with it.
func (b *Broker) Run(ctx context.Context) {
	b.tasks.mu.Lock()
	b.tasks.ctx = ctx
	b.tasks.mu.Unlock()
	b.background(b.beat)
	b.background(b.sweep)
	b.background(b.revoke)
	<-ctx.Done()
	b.tasks.running.Wait()
	b.spool.close()
}
