package kube

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// pod is what is kept of a pod. It is never changed once it is shared.
type pod struct {
	authn.Pod          // Username as it was at first sight
	annotated   string // the annotation as it is now
	ended       bool   // Succeeded or Failed
	terminating bool   // it has a deletion timestamp
	hostNetwork bool
	addresses   []netip.Addr
	hosts       []netip.Addr // its node's
}

// read takes what is needed out of a pod of the API's.
func (c *Cluster) read(of *corev1.Pod) *pod {
	p := &pod{
		Pod:         authn.Pod{Namespace: of.Namespace, Name: of.Name, UID: string(of.UID), ServiceAccount: of.Spec.ServiceAccountName},
		ended:       of.Status.Phase == corev1.PodSucceeded || of.Status.Phase == corev1.PodFailed,
		terminating: of.DeletionTimestamp != nil,
		hostNetwork: of.Spec.HostNetwork,
	}
	p.Actor = "pod " + p.Namespace + "/" + p.Name + " " + p.UID
	for _, name := range c.config.Annotations {
		if value, ok := of.Annotations[name]; ok {
			p.annotated = value // an empty one too: the pod then has no user, whatever the next one says
			break
		}
	}
	p.Username = p.annotated
	p.addresses = appendAddress(p.addresses, of.Status.PodIP)
	for _, also := range of.Status.PodIPs {
		p.addresses = appendAddress(p.addresses, also.IP)
	}
	p.hosts = appendAddress(p.hosts, of.Status.HostIP)
	for _, also := range of.Status.HostIPs {
		p.hosts = appendAddress(p.hosts, also.IP)
	}
	return p
}

// appendAddress adds an address that is one and is not there yet.
func appendAddress(all []netip.Addr, text string) []netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return all
	}
	address = address.Unmap()
	for _, known := range all {
		if known == address {
			return all
		}
	}
	return append(all, address)
}

func (p *pod) alive() bool { return !p.ended && !p.terminating }

// own are the addresses that no other pod has while it runs: none of one on its node's network.
func (p *pod) own() []netip.Addr {
	if p.hostNetwork || !p.alive() {
		return nil
	}
	return p.addresses
}

// judge decides which pod is at an address, by the rules about addresses. The error is ErrUnknown
// where no living pod is there.
func (c *Cluster) judge(address netip.Addr, pods []*pod, node bool) (authn.Pod, error) {
	if node {
		return authn.Pod{}, &authn.Refusal{Rule: 2, Reason: "the address is a node's"}
	}
	var found *pod
	for _, one := range pods {
		if !one.alive() { // rule 3: as if it were not there
			continue
		}
		for _, host := range one.hosts {
			if host == address {
				return authn.Pod{}, &authn.Refusal{Rule: 2, Reason: "the address is a node's"}
			}
		}
		if one.hostNetwork {
			return authn.Pod{}, &authn.Refusal{Rule: 2, Reason: "the pod shares its node's network"}
		}
		if found != nil {
			return authn.Pod{}, &authn.Refusal{Rule: 4, Reason: "two running pods have the address"}
		}
		found = one
	}
	if found == nil {
		return authn.Pod{}, authn.ErrUnknown
	}
	return c.accept(found)
}

// accept applies the rules that hold for a pod whatever it was found by.
func (c *Cluster) accept(found *pod) (authn.Pod, error) {
	switch {
	case !c.counts(found.Namespace):
		return authn.Pod{}, &authn.Refusal{Rule: 5, Reason: "the pod's namespace is not one that counts"}
	case found.Username == "":
		return authn.Pod{}, &authn.Refusal{Rule: 5, Reason: "the pod's annotation names no user"}
	}
	return found.Pod, nil
}

// PodAt implements authn.Pods.
func (c *Cluster) PodAt(ctx context.Context, peer netip.Addr) (authn.Pod, error) {
	peer = peer.Unmap().WithZone("")
	if c.followed() {
		pods, node := c.index.at(peer)
		if found, err := c.judge(peer, pods, node); !errors.Is(err, authn.ErrUnknown) && !c.behind(peer, found.UID) {
			return found, err // the hot path ends here: nobody was asked
		}
		return c.appear(ctx, peer)
	}
	return authn.OncePerConnection(ctx, connectionLife, func() (authn.Pod, error) {
		live, err := c.live(ctx, want{address: peer}, true)
		if err != nil {
			return authn.Pod{}, err
		}
		return c.judge(peer, live.pods, live.node)
	})
}

const (
	// connectionLife is how long a pod that was asked for counts for the rest of its connection.
	connectionLife = 30 * time.Second
	// appearTime is how long a caller waits for its own pod to appear: it may have begun before the
	// API server has said so.
	appearTime = 1500 * time.Millisecond
)

// behind tells that the API server, asked, has named another pod at the address than the index does:
// what the index says is older, and it may yet come to name pods that are gone.
func (c *Cluster) behind(peer netip.Addr, uid string) bool {
	told, asked := c.told.GetIfPresent(peer)
	if asked && *told == uid {
		_, _ = c.told.Invalidate(peer) // it has caught up
	}
	return asked && *told != uid
}

// followed tells whether the index can be believed: all of it is followed, and the API server was
// heard not too long ago (rule 7).
func (c *Cluster) followed() bool {
	synced, contact := c.index.freshness()
	return synced && c.now().Sub(contact) <= c.config.MaxStale
}

// appear asks for a pod that the index does not hold, and waits a little for it where the API server does
// not know it yet.
func (c *Cluster) appear(ctx context.Context, peer netip.Addr) (authn.Pod, error) {
	if _, absent := c.absent.GetIfPresent(peer.String()); absent {
		return authn.Pod{}, authn.ErrUnknown
	}
	deadline := time.NewTimer(appearTime)
	defer deadline.Stop()
	change := c.index.change() // before the question: what the index hears meanwhile is not missed
	live, err := c.live(ctx, want{address: peer}, false)
	if err != nil {
		return authn.Pod{}, err
	}
	_, node := c.index.at(peer)
	found, err := c.judge(peer, live.pods, node || live.node)
	if err == nil {
		c.told.Set(peer, &found.UID)
	}
	if !errors.Is(err, authn.ErrUnknown) {
		return found, err
	}
	if !c.waiting.enter(peer) { // after the question: a pod that is there needs no place
		return authn.Pod{}, errBusy
	}
	defer c.waiting.leave(peer)
	for {
		select {
		case <-change:
			change = c.index.change()
			pods, node := c.index.at(peer)
			if found, err := c.judge(peer, pods, node); !errors.Is(err, authn.ErrUnknown) {
				return found, err
			}
		case <-deadline.C:
			c.absent.Set(peer.String(), nil)
			return authn.Pod{}, authn.ErrUnknown
		case <-ctx.Done():
			return authn.Pod{}, ctx.Err()
		}
	}
}

var errBusy = errors.New("too many callers wait for their pods")

// waitingRoom has a bounded number of places, and few for each address: a stranger who comes again and
// again does not keep pods from waiting for themselves.
type waitingRoom struct {
	mu  sync.Mutex
	all int
	at  map[netip.Addr]int
}

// enter tells whether one more request of a peer may wait for its pod to appear.
func (w *waitingRoom) enter(peer netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= maxWaiting || w.at[peer] >= maxWaitingAt {
		return false
	}
	w.all++
	w.at[peer]++
	return true
}

func (w *waitingRoom) leave(peer netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.at[peer]--; w.at[peer] == 0 {
		delete(w.at, peer)
	}
}

// PodNamed implements authn.Pods.
func (c *Cluster) PodNamed(ctx context.Context, namespace, name, uid string) (authn.Pod, error) {
	if !c.counts(namespace) { // before anybody is asked: we may not have the right to ask there
		return authn.Pod{}, &authn.Refusal{Rule: 5, Reason: "the pod's namespace is not one that counts"}
	}
	if c.followed() {
		if known := c.index.of(uid); known != nil {
			return c.acceptNamed(known, namespace, name)
		}
	} else if known, ok := c.living.GetIfPresent(uid); ok {
		return c.acceptNamed(known, namespace, name)
	}
	if _, absent := c.absent.GetIfPresent(uid); absent {
		return authn.Pod{}, authn.ErrUnknown
	}
	live, err := c.live(ctx, want{namespace: namespace, name: name}, false)
	if err != nil {
		return authn.Pod{}, err
	}
	if len(live.pods) != 1 || live.pods[0].UID != uid { // gone, or another by that name
		c.absent.Set(uid, nil)
		return authn.Pod{}, authn.ErrUnknown
	}
	found := live.pods[0]
	if found.alive() {
		c.living.Set(uid, found)
	}
	return c.acceptNamed(found, namespace, name)
}

// acceptNamed judges a pod that a token names: all three of its names have to be those of the token.
func (c *Cluster) acceptNamed(found *pod, namespace, name string) (authn.Pod, error) {
	if !found.alive() || found.Namespace != namespace || found.Name != name {
		return authn.Pod{}, authn.ErrUnknown
	}
	return c.accept(found)
}
