package kube

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// index holds every pod that is followed, by UID and by each of its addresses, and every address of a
// node that is known.
type index struct {
	mu        sync.RWMutex
	byUID     map[string]*pod
	byAddress map[netip.Addr][]*pod
	nodes     map[netip.Addr]int // how many pods name it as their host
	scopes    map[string]*scope
	changed   chan struct{} // closed and replaced at every change
	pins      *otter.Cache[string, *string]
}

// scope is one namespace that is followed, or all.
type scope struct {
	synced  bool
	contact time.Time // last heard of the API server
}

// newIndex is empty, and answers for nothing until the scopes were listed.
func newIndex(scopes []string, pins *otter.Cache[string, *string]) *index {
	i := &index{
		pins:  pins,
		byUID: map[string]*pod{}, byAddress: map[netip.Addr][]*pod{}, nodes: map[netip.Addr]int{},
		scopes: map[string]*scope{}, changed: make(chan struct{}),
	}
	for _, name := range scopes {
		i.scopes[name] = &scope{}
	}
	return i
}

// at returns the pods at an address, living or not, and whether it is a node's.
func (i *index) at(address netip.Addr) (pods []*pod, node bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.byAddress[address], i.nodes[address] > 0
}

// of is the pod with a uid; nil where none is known.
func (i *index) of(uid string) *pod {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.byUID[uid]
}

// freshness tells whether everything is followed, and when the one that was silent longest was heard.
func (i *index) freshness() (synced bool, contact time.Time) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	synced, first := true, true
	for _, one := range i.scopes {
		synced = synced && one.synced
		if first || one.contact.Before(contact) {
			contact = one.contact
		}
		first = false
	}
	return synced, contact
}

// heard notes when a scope was heard of last.
func (i *index) heard(name string, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scopes[name].contact = at
}

// forget says that a scope is no longer followed. Its pods are dropped: they would only grow old.
func (i *index) forget(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.replaceLocked(name, nil)
	i.scopes[name].synced = false
}

// put adds a pod, or changes it. The annotation that was there at first sight stays.
func (i *index) put(fresh *pod) (annotationChanged bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.putLocked(fresh)
}

// putLocked adds a pod or changes one. The user is the one of its first sight for as long as the pod lives (rule 6).
func (i *index) putLocked(fresh *pod) (annotationChanged bool) {
	if known, ok := i.byUID[fresh.UID]; ok {
		annotationChanged = known.annotated != fresh.annotated
		fresh.Username = known.Username
		i.dropLocked(known)
	} else { // it may have been asked for before it was followed
		fresh.Username = pin(i.pins, fresh)
		annotationChanged = fresh.Username != fresh.annotated
	}
	i.byUID[fresh.UID] = fresh
	for _, address := range fresh.addresses {
		i.byAddress[address] = append(slices.Clip(i.byAddress[address]), fresh) // readers hold the old slice
	}
	for _, host := range fresh.hosts {
		i.nodes[host]++
	}
	close(i.changed)
	i.changed = make(chan struct{})
	return annotationChanged
}

// pin is the annotation of a pod at its first sight.
func pin(pins *otter.Cache[string, *string], fresh *pod) string {
	annotated := fresh.annotated // a copy: the pod itself is not kept
	first, _ := pins.SetIfAbsent(fresh.UID, &annotated)
	return *first
}

// drop forgets a pod that is gone; another by the same name has another UID.
func (i *index) drop(uid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known, ok := i.byUID[uid]; ok {
		i.dropLocked(known)
		i.pins.Invalidate(uid)
	}
}

// dropLocked takes a pod out of every list. Readers may hold the old slices, which are not written to.
func (i *index) dropLocked(known *pod) {
	delete(i.byUID, known.UID)
	for _, address := range known.addresses {
		left := slices.DeleteFunc(slices.Clone(i.byAddress[address]), func(other *pod) bool { return other == known })
		if i.byAddress[address] = left; len(left) == 0 {
			delete(i.byAddress, address)
		}
	}
	for _, host := range known.hosts {
		if i.nodes[host]--; i.nodes[host] <= 0 {
			delete(i.nodes, host)
		}
	}
}

// replace makes a scope hold these pods and no others.
func (i *index) replace(name string, pods []*pod, at time.Time) (annotationsChanged int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.scopes[name].synced, i.scopes[name].contact = true, at
	return i.replaceLocked(name, pods)
}

// replaceLocked does so within one lock: nobody sees the index between two lists.
func (i *index) replaceLocked(name string, pods []*pod) (annotationsChanged int) {
	stays := make(map[string]bool, len(pods))
	for _, fresh := range pods {
		stays[fresh.UID] = true
	}
	for uid, known := range i.byUID {
		if !stays[uid] && (name == "" || known.Namespace == name) {
			i.dropLocked(known)
		}
	}
	for _, fresh := range pods {
		if i.putLocked(fresh) {
			annotationsChanged++
		}
	}
	return annotationsChanged
}

// change is closed at the next change.
func (i *index) change() <-chan struct{} {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.changed
}
