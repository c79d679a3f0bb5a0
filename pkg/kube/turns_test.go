package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

// listing is a cluster that may not be watched.
func listing(t *testing.T, prepare func(*kubetest.Server)) *cluster {
	t.Helper()
	w := newCluster(t, kube.Config{}, func(server *kubetest.Server) { server.ForbidWatch(); prepare(server) })
	eventually(t, "it says so", func() bool { return w.log.count("pods cannot be watched") == 1 })
	return w
}

// connect asks for the pod at an address on a connection of its own.
func (w *cluster) connect(address string) (authn.Pod, error) {
	return w.PodAt(authn.WithConnection(context.Background()), at(address))
}

func (w *cluster) lists() int {
	_, calls := w.server.Calls()
	return calls["list"]
}

func outage(err error) bool {
	return err != nil && !errors.Is(err, authn.ErrUnknown) && !errors.Is(err, authn.ErrRefused)
}

// All who come while a list is under way share the next one, whatever address they come from.
func TestOneListIsForAllWhoWait(t *testing.T) {
	t.Parallel()
	const callers = 1000
	w := listing(t, func(s *kubetest.Server) {
		for i := range callers {
			s.Put(kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), fmt.Sprint("user-", i)))
		}
	})
	before, release := w.lists(), w.server.HoldLists()
	var all sync.WaitGroup
	all.Go(func() { _, _ = w.connect("10.0.0.0") })
	eventually(t, "the first list is under way", func() bool { return w.lists() == before+1 })
	for i := range callers {
		all.Go(func() {
			if pod, err := w.connect(fmt.Sprintf("10.0.%d.%d", i/250, i%250)); pod.Username != fmt.Sprint("user-", i) {
				t.Errorf("%d: %q, %v", i, pod.Username, err)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	if now := w.lists(); now != before+1 {
		t.Errorf("%d lists are under way at once", now-before)
	}
	release()
	all.Wait()
	if now := w.lists(); now > before+3 {
		t.Errorf("%d callers caused %d lists", callers, now-before)
	}
}

// Whether the answer is a list of all pods or of one address: it is not for a connection that came after
// the question.
func TestAListUnderWayIsNotForWhoComesLater(t *testing.T) {
	t.Parallel()
	for round := range 5 {
		w := listing(t, func(s *kubetest.Server) {
			s.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
			s.Put(kubetest.Pod("work", "bob", "10.0.0.2", "bob"))
		})
		w.server.SnapshotCache() // what a list of resource version 0 would say
		before, release := w.lists(), w.server.HoldLists()
		var early sync.WaitGroup
		early.Go(func() { _, _ = w.connect("10.9.9.9") }) // one by one, and then all
		early.Go(func() { _, _ = w.connect("10.0.0.2") })
		eventually(t, "a list is under way", func() bool { return w.lists() == before+1 })
		w.server.Delete("work", "alice")
		w.server.Put(kubetest.Pod("work", "mallory", "10.0.0.1", "mallory"))
		var late sync.WaitGroup
		for range 10 {
			late.Go(func() {
				if pod, err := w.connect("10.0.0.1"); pod.Username != "mallory" {
					t.Errorf("round %d: mallory's new connection is %q, %v", round, pod.Username, err)
				}
			})
		}
		late.Go(func() { _, _ = w.connect("10.0.0.2") })
		time.Sleep(20 * time.Millisecond)
		release()
		late.Wait()
		early.Wait()
	}
}

// Rules 2, 4 and 8 hold in a list of all pods, and where one caller asks alone.
func TestTheRulesInAList(t *testing.T) {
	t.Parallel()
	w := listing(t, func(s *kubetest.Server) {
		s.Put(kubetest.Pod("work", "twin-1", "10.0.0.9", "x"))
		s.Put(kubetest.Pod("work", "twin-2", "10.0.0.9", "y"))
		dual := kubetest.Pod("work", "dual", "10.0.0.12", "dual")
		dual.Status.PodIPs = append(dual.Status.PodIPs, corev1.PodIP{IP: "fd00::12"})
		s.Put(dual)
	})
	check := func(address, user string, wantRule int, unknown bool) {
		pod, err := w.connect(address)
		if pod.Username != user || rule(err) != wantRule || errors.Is(err, authn.ErrUnknown) != unknown {
			t.Errorf("%s: %q, %v", address, pod.Username, err)
		}
	}
	for _, together := range []bool{false, true} {
		var all sync.WaitGroup
		for _, ask := range []func(){
			func() { check("10.0.0.9", "", 4, false) },
			func() { check("192.0.2.1", "", 2, false) },
			func() { check("fd00::12", "dual", 0, false) },
			func() { check("10.0.0.12", "dual", 0, false) },
			func() { check("10.9.9.9", "", 0, true) },
		} {
			if !together {
				ask()
				continue
			}
			all.Go(ask)
		}
		all.Wait()
	}
}

// A list that fails, or that is not whole, is an outage for those who waited for it: a pod that was not
// read may be there.
func TestAListThatFails(t *testing.T) {
	t.Parallel()
	w := listing(t, func(s *kubetest.Server) {
		for i := range 100 {
			s.Put(kubetest.Grown(kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.0.0.%d", i), "alice")))
		}
	})
	ask := func(what string, want func(error) bool) {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if _, err := w.connect(fmt.Sprintf("10.0.0.%d", i)); !want(err) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		all.Wait()
	}
	w.server.CutLists(1000)
	ask("lists that are cut short", outage)
	w.server.CutLists(0)
	ask("whole lists", func(err error) bool { return err == nil })
	w.server.SetDown(true)
	ask("no server", outage)
	w.server.SetDown(false)
	w.server.AnswerJSON()
	ask("lists in JSON", func(err error) bool { return err == nil })
}

// One caller who goes away does not end the turn of the others.
func TestACallerWhoGoesAway(t *testing.T) {
	t.Parallel()
	w := listing(t, func(s *kubetest.Server) { s.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice")) })
	before, release := w.lists(), w.server.HoldLists()
	gone, leave := context.WithCancel(context.Background())
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := w.PodAt(authn.WithConnection(gone), at("10.0.0.1")); !errors.Is(err, context.Canceled) {
			t.Errorf("who went away: %v", err)
		}
	})
	eventually(t, "a list is under way", func() bool { return w.lists() == before+1 })
	both.Go(func() {
		if pod, err := w.connect("10.0.0.1"); pod.Username != "alice" {
			t.Errorf(`got %q, %v; want "alice"`, pod.Username, err)
		}
	})
	leave()
	time.Sleep(20 * time.Millisecond)
	release()
	both.Wait()
}

// Strangers do not keep new pods, which the watch has not shown yet, from being found.
func TestStrangersKeepNoNewPodWaiting(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	step := w.server.HoldEvents()
	ended := make(chan struct{})
	var strangers sync.WaitGroup
	for i := range 400 {
		strangers.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(50 * time.Millisecond):
					_, _ = w.PodAt(context.Background(), netip.AddrFrom4([4]byte{10, 9, byte(i / 200), byte(i % 200)}))
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	var pods sync.WaitGroup
	for i := range 50 {
		name, address := fmt.Sprint("new-", i), fmt.Sprintf("10.3.0.%d", i)
		w.server.Put(kubetest.Pod("work", name, address, name))
		pods.Go(func() {
			if user, err := w.user(address); user != name {
				t.Errorf("%s: %q, %v", name, user, err)
			}
		})
	}
	pods.Wait()
	close(ended)
	strangers.Wait()
	for step() {
	}
}

// A burst of pods that present tokens, where nothing may be watched.
func TestManyPodsByTheirNames(t *testing.T) {
	t.Parallel()
	pods := make([]*corev1.Pod, 500)
	w := listing(t, func(s *kubetest.Server) {
		for i := range pods {
			pods[i] = kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), fmt.Sprint("user-", i))
			s.Put(pods[i])
		}
	})
	var all sync.WaitGroup
	for i, pod := range pods {
		all.Go(func() {
			if found, err := w.PodNamed(context.Background(), "work", pod.Name, string(pod.UID)); found.Username != fmt.Sprint("user-", i) {
				t.Errorf("%s: %q, %v", pod.Name, found.Username, err)
			}
		})
	}
	all.Wait()
}
