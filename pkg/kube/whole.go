package kube

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// whole tells of all pods of a namespace, for those who wait. A full list of ten thousand takes the API server a second
// of its time. The table that kubectl prints has the name, the address, the state and the age of each, and takes it a
// twentieth of that: a pod that is older than the moment at which it was read is the one that was read, so that the
// rest is in memory. The others are asked for by name. What comes out is as fresh as a full list, which is what is
// asked for where many are new.
//
// One turn is under way at a time, and only that one reads and writes the memory.
type whole struct {
	*Cluster
	namespace string
	pods      map[string]reading // by name, as they were read last
	tables    time.Time          // when a table may be asked for again
}

// reading is a pod as it was at some time after the question about it was sent.
type reading struct {
	pod  *pod
	sent time.Time
}

// age is how long ago it was, by whichever clock says more: one stands still while the machine is suspended, and the
// other may be set back.
func (r reading) age(now time.Time) time.Duration {
	return max(now.Sub(r.sent), now.Round(0).Sub(r.sent.Round(0)))
}

const (
	// A pod that is asked for by its name costs the API server as much as oneByName pods of a full list. So many are
	// asked for in a turn at most, and at once.
	oneByName, namesAtMost, namesAtOnce = 16, 128, 8
	// createTime is how much older than its first appearance a pod may look: what an API server may take to create it
	// (its request timeout, 60 s), and what the clocks of two API servers may differ by.
	createTime = 90 * time.Second
	// tablesAgain is how long no table is asked for after one that was none.
	tablesAgain = 30 * time.Second
)

// list gives the pods to visit, one at a time: all that is wanted, and all nodes' addresses.
func (w *whole) list(ctx context.Context, wants map[want]*found, visit func(*pod)) error {
	fresh, failed := w.byTable(ctx, wants)
	if fresh == nil {
		var err error
		if fresh, err = w.full(ctx); err != nil {
			return err
		}
	}
	if failed != nil { // it is the table that fails: a proxy may let no such question through
		w.tables = w.now().Add(tablesAgain)
		w.log.Warn("the API server gives no table of pods, so that all are listed for a while", "namespace", w.namespace, "error", failed.Error())
	}
	for _, one := range fresh {
		visit(one.pod)
	}
	if w.pods = fresh; w.namespace == metav1.NamespaceAll {
		w.pods = nil // a name tells no pod there
	}
	return nil
}

// full asks for every pod, by UID where all namespaces count and by name in one.
func (w *whole) full(ctx context.Context) (map[string]reading, error) {
	sent, all := w.now(), map[string]reading{}
	err := w.listIn(ctx, w.namespace, "", func(of *corev1.Pod) {
		if w.namespace == metav1.NamespaceAll {
			all[string(of.UID)] = reading{w.read(of), sent}
			return
		}
		all[of.Name] = w.remembered(of, sent)
	})
	return all, err
}

// remembered is a pod that is kept. It is seen now (rule 6), whenever it is asked for.
func (w *whole) remembered(of *corev1.Pod, sent time.Time) reading {
	one := reading{w.read(of), sent}
	pin(w.pins, one.pod)
	return one
}

// byTable brings what is in memory up to date. It is nil where a full list is the better question. The error is that of
// the table.
func (w *whole) byTable(ctx context.Context, wants map[want]*found) (map[string]reading, error) {
	if len(w.pods) == 0 || w.now().Before(w.tables) {
		return nil, nil
	}
	rows, err := w.table(ctx)
	if err != nil {
		return nil, err
	}
	// Ages are computed by the API server before this moment, so that they are compared with more than has passed.
	now, fresh := w.now(), make(map[string]reading, len(rows))
	var names []string
	for _, row := range rows {
		switch known, ok := w.pods[row.name]; {
		case ok && row.same(known) && (row.tells(known, now) && !w.byOther(wants, known) || !w.wanted(wants, row, known)):
			fresh[row.name] = known
		case row.address.IsValid() || row.bound || w.wanted(wants, row, known):
			names = append(names, row.name)
		}
	}
	if len(names) > min(namesAtMost, len(rows)/oneByName) {
		return nil, nil
	}
	named, first := w.named(ctx, names)
	// One of the table that shares an address with one of these, which were asked for later, may have ended between.
	ended := sharing(fresh, named)
	again, second := w.named(ctx, ended)
	if !first || !second {
		return nil, nil // so many questions may be refused where one list is not
	}
	for _, name := range ended {
		delete(fresh, name)
	}
	for _, one := range append(named, again...) {
		fresh[one.pod.Name] = one
	}
	if unanswered(wants, fresh) {
		return nil, nil
	}
	return fresh, nil
}

// wanted tells whether a caller waits for the pod of a row, or for the one by that name that was known.
func (w *whole) wanted(wants map[want]*found, row row, known reading) bool {
	return wants[want{address: row.address}] != nil || wants[want{namespace: w.namespace, name: row.name}] != nil || w.byOther(wants, known)
}

// byOther tells whether a caller waits for a pod by an address that no table shows: only the first is in it.
func (w *whole) byOther(wants map[want]*found, known reading) bool {
	return known.pod != nil && len(known.pod.addresses) > 1 &&
		slices.ContainsFunc(known.pod.addresses[1:], func(address netip.Addr) bool { return wants[want{address: address}] != nil })
}

// unanswered tells that an address is wanted at which no pod is, where some pods have addresses of its family that no
// table shows.
func unanswered(wants map[want]*found, fresh map[string]reading) bool {
	second4, second6 := false, false
	for _, one := range fresh {
		for i, address := range one.pod.addresses {
			second4, second6 = second4 || i > 0 && address.Is4(), second6 || i > 0 && address.Is6()
		}
	}
	left := map[netip.Addr]bool{}
	for wanted := range wants {
		if address := wanted.address; second4 && address.Is4() || second6 && address.Is6() {
			left[address] = true
		}
	}
	if len(left) > 0 {
		for _, one := range fresh {
			for _, address := range one.pod.addresses {
				delete(left, address)
			}
		}
	}
	return len(left) > 0
}

// named asks for pods by their names, several at once. One that is gone meanwhile is none, and another by the name is the
// one that counts. It is not ok where one of them cannot be asked for.
func (w *whole) named(ctx context.Context, names []string) (found []reading, ok bool) {
	var mu sync.Mutex
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(namesAtOnce)
	for _, name := range names {
		asking.Go(func() error {
			sent := w.now()
			return w.listIn(ctx, w.namespace, "metadata.name="+name, func(of *corev1.Pod) {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, w.remembered(of, sent))
			})
		})
	}
	err := asking.Wait()
	return found, err == nil
}

// sharing names the pods of the table that run at an address of one that was asked for by its name.
func sharing(table map[string]reading, named []reading) (names []string) {
	at := map[netip.Addr]bool{}
	for _, one := range named {
		for _, address := range one.pod.own() {
			at[address] = true
		}
	}
	if len(at) == 0 {
		return nil
	}
	for name, one := range table {
		if slices.ContainsFunc(one.pod.own(), func(address netip.Addr) bool { return at[address] }) {
			names = append(names, name)
		}
	}
	return names
}
