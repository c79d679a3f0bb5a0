package authn

import (
	"context"
	"errors"
	"net/netip"
)

// pod takes the caller for the worker at that address.
func (a *Authenticator) pod(ctx context.Context, peer netip.Addr) (Caller, error) {
	if a.workers == nil || !peer.IsValid() {
		return Caller{}, ErrNoProof
	}
	username, actor, err := a.workers.UserAt(ctx, peer)
	switch {
	case errors.Is(err, ErrUnknown):
		return Caller{}, ErrNoProof
	case err != nil:
		return Caller{}, outage(err)
	}
	user, err := a.people.named(ctx, username)
	if err != nil {
		return Caller{}, err
	}
	return allowed(Caller{User: user, Proof: Pod, Actor: actor})
}

// StaticWorkers are workers by address, as a file names them: for machines that are no cluster.
type StaticWorkers map[netip.Addr]worker

type worker struct{ username, actor string }

// NewStaticWorkers reads a valid map of addresses to user names.
func NewStaticWorkers(byAddress map[string]string) StaticWorkers {
	workers := StaticWorkers{}
	for text, username := range byAddress {
		if address, err := netip.ParseAddr(text); err == nil {
			workers[address.Unmap()] = worker{username: username, actor: "worker " + address.Unmap().String()}
		}
	}
	return workers
}

// UserAt implements Workers.
func (w StaticWorkers) UserAt(_ context.Context, peer netip.Addr) (string, string, error) {
	found, ok := w[peer]
	if !ok {
		return "", "", ErrUnknown
	}
	return found.username, found.actor, nil
}
