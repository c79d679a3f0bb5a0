package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Pod is a workspace's pod; outside Kubernetes, a worker at an address.
type Pod struct {
	Namespace, Name, UID string
	ServiceAccount       string
	// Username is what the pod's annotation said when the pod was first seen; empty where it says
	// nothing.
	Username string
	// Actor names the pod for the audit, in a word made once.
	Actor string
}

// Pods finds living pods. The errors are ErrUnknown where there is none, a *Refusal where a rule
// forbids to take it for anybody, and anything else where it cannot be told now.
type Pods interface {
	// PodAt finds the pod at an address. It is called at most once for a request.
	PodAt(ctx context.Context, peer netip.Addr) (Pod, error)
	// PodNamed finds a pod that a service-account token is bound to. It has to be the one of that UID.
	PodNamed(ctx context.Context, namespace, name, uid string) (Pod, error)
}

// Refusal says which rule of kubernetes.md forbids to take a pod for its user. It is ErrRefused.
type Refusal struct {
	Rule   int
	Reason string
}

func (r *Refusal) Error() string { return fmt.Sprintf("%v: rule %d: %s", ErrRefused, r.Rule, r.Reason) }

// Unwrap gives ErrRefused.
func (r *Refusal) Unwrap() error { return ErrRefused }

// ErrRefused: a pod is there, and a rule forbids to take it for its user.
var ErrRefused = errors.New("the pod is not accepted")

// atAddress takes the caller for the pod at that address.
func (a *Authenticator) atAddress(ctx context.Context, peer netip.Addr) (Caller, error) {
	if a.pods == nil || !peer.IsValid() {
		return Caller{}, ErrNoProof
	}
	pod, err := a.pods.PodAt(ctx, peer)
	if err != nil {
		return Caller{}, podFailure(err)
	}
	return a.userOf(ctx, pod, PodAddress)
}

// podFailure tells what nobody can know from what nobody may be.
func podFailure(err error) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return ErrNoProof
	case errors.Is(err, ErrRefused):
		return err
	default:
		return outage(err)
	}
}

// userOf is the user whom a pod's annotation names.
func (a *Authenticator) userOf(ctx context.Context, pod Pod, proof Proof) (Caller, error) {
	caller := Caller{Proof: proof, Actor: pod.Actor}
	if pod.Username == "" {
		return caller, &Refusal{Rule: 5, Reason: "the pod's annotation names no user"}
	}
	user, err := a.people.named(ctx, pod.Username)
	if err != nil {
		return caller, err
	}
	caller.User = user
	return allowed(caller)
}

// StaticWorkers are workers by address, as a file names them: for machines that are no cluster.
type StaticWorkers map[netip.Addr]Pod

// NewStaticWorkers reads a valid map of addresses to user names.
func NewStaticWorkers(byAddress map[string]string) StaticWorkers {
	workers := StaticWorkers{}
	for text, username := range byAddress {
		if address, err := netip.ParseAddr(text); err == nil {
			workers[address.Unmap()] = Pod{Name: text, Username: username, Actor: "worker " + address.Unmap().String()}
		}
	}
	return workers
}

// PodAt implements Pods.
func (w StaticWorkers) PodAt(_ context.Context, peer netip.Addr) (Pod, error) {
	if found, ok := w[peer]; ok {
		return found, nil
	}
	return Pod{}, ErrUnknown
}

// PodNamed implements Pods: no service account binds a token to an address in a file.
func (w StaticWorkers) PodNamed(context.Context, string, string, string) (Pod, error) {
	return Pod{}, ErrUnknown
}
