package authn

import (
	"context"
	"errors"
	"sync"
	"time"
)

// memo is what is remembered of one TCP connection.
type memo struct {
	mu    sync.Mutex
	pod   Pod
	err   error
	until time.Time // zero while nothing is remembered
}

type memoKey struct{}

// WithConnection gives a connection's context a memory of its own. An HTTP server calls it for each
// connection that it accepts.
func WithConnection(ctx context.Context) context.Context {
	return context.WithValue(ctx, memoKey{}, &memo{})
}

// OncePerConnection finds a pod once for each TCP connection, and again when that is older than
// life. An identity is never remembered by an address alone: the address may have another pod by
// now, but a connection cannot change hands. That it is nobody's is remembered for a second, an outage
// not at all.
func OncePerConnection(ctx context.Context, life time.Duration, find func() (Pod, error)) (Pod, error) {
	remembered, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return find()
	}
	remembered.mu.Lock()
	defer remembered.mu.Unlock()
	if time.Now().Before(remembered.until) {
		return remembered.pod, remembered.err
	}
	remembered.until = time.Time{}
	pod, err := find()
	switch {
	case errors.Is(err, ErrUnknown), errors.Is(err, ErrRefused):
		life = time.Second
	case err != nil:
		return pod, err
	}
	remembered.pod, remembered.err, remembered.until = pod, err, time.Now().Add(life)
	return pod, err
}
