package authn

import (
	"context"
	"sync"
	"time"
)

// memo is what is remembered of one TCP connection.
type memo struct {
	mu      sync.Mutex
	pod     Pod
	foundAt time.Time // zero while nothing is remembered
}

type memoKey struct{}

// WithConnection gives a connection's context a memory of its own. An HTTP server calls it for each
// connection that it accepts.
func WithConnection(ctx context.Context) context.Context {
	return context.WithValue(ctx, memoKey{}, &memo{})
}

// OncePerConnection finds a pod once for each TCP connection, and again when that is older than
// life. An identity is never remembered by an address alone: the address may have another pod by
// now, but a connection cannot change hands. What fails is not remembered.
func OncePerConnection(ctx context.Context, life time.Duration, find func() (Pod, error)) (Pod, error) {
	remembered, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return find()
	}
	remembered.mu.Lock()
	defer remembered.mu.Unlock()
	if !remembered.foundAt.IsZero() && time.Since(remembered.foundAt) < life {
		return remembered.pod, nil
	}
	remembered.foundAt = time.Time{}
	pod, err := find()
	if err == nil {
		remembered.pod, remembered.foundAt = pod, time.Now()
	}
	return pod, err
}
