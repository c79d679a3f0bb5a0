package kube_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
	"github.com/workspace-token-service/wts/test/paired"
)

// cluster is a cluster with the client that is tested.
type cluster struct {
	*kube.Cluster
	server  *kubetest.Server
	log     *logBook
	calls   atomic.Int64
	changes atomic.Int64
}

func (w *cluster) KubeCall(string)        { w.calls.Add(1) }
func (w *cluster) KubeAnnotationChanged() { w.changes.Add(1) }

type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logBook) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

func newCluster(t testing.TB, config kube.Config, prepare ...func(*kubetest.Server)) *cluster {
	t.Helper()
	w := &cluster{server: kubetest.Start(t), log: &logBook{}}
	for _, one := range prepare {
		one(w.server)
	}
	config.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config.Kubeconfig, []byte(w.server.Kubeconfig()), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.Cluster, err = kube.New(config, w, slog.New(slog.NewTextHandler(w.log, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { stop(); w.server.CloseClientConnections(); running.Wait() })
	return w
}

// eventually waits for at most ten seconds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func at(address string) netip.Addr { return netip.MustParseAddr(address) }

func (w *cluster) user(address string) (string, error) {
	pod, err := w.PodAt(context.Background(), at(address))
	return pod.Username, err
}

// settle waits until the index holds a marker pod that is put last.
func (w *cluster) settle(t testing.TB) {
	t.Helper()
	w.server.Put(kubetest.Pod("work", "marker", "10.255.255.1", "marker"))
	eventually(t, "the index is followed", func() bool {
		before := w.calls.Load()
		user, _ := w.user("10.255.255.1")
		return user == "marker" && w.calls.Load() == before
	})
}

func rule(err error) int {
	var refusal *authn.Refusal
	if errors.As(err, &refusal) {
		return refusal.Rule
	}
	return 0
}

// Kubernetes.md rules 2 to 5 and 8; security.md E3, E4, E5, E9, E11: by the index and by asking.
func TestWhichPodIsAtAnAddress(t *testing.T) {
	t.Parallel()
	change := func(pod *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
		change(pod)
		return pod
	}
	now := metav1.Now()
	pods := []*corev1.Pod{
		kubetest.Pod("work", "alice", "10.0.0.1", "alice"),
		change(kubetest.Pod("work", "jupyter", "10.0.0.2", ""), func(p *corev1.Pod) { p.Annotations["hub.jupyter.org/username"] = "bob" }),
		change(kubetest.Pod("work", "both", "10.0.0.3", "first"), func(p *corev1.Pod) { p.Annotations["hub.jupyter.org/username"] = "second" }),
		kubetest.Pod("work", "nobody", "10.0.0.4", ""),
		change(kubetest.Pod("work", "emptied", "10.0.0.13", ""), func(p *corev1.Pod) {
			p.Annotations["gen3username"], p.Annotations["hub.jupyter.org/username"] = "", "alice"
		}),
		change(kubetest.Pod("work", "done", "10.0.0.5", "x"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		change(kubetest.Pod("work", "failed", "10.0.0.6", "x"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		change(kubetest.Pod("work", "going", "10.0.0.7", "x"), func(p *corev1.Pod) { p.DeletionTimestamp = &now }),
		change(kubetest.Pod("work", "host", "10.0.0.8", "x"), func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		kubetest.Pod("work", "twin-1", "10.0.0.9", "x"),
		kubetest.Pod("work", "twin-2", "10.0.0.9", "y"),
		change(kubetest.Pod("work", "old", "10.0.0.10", "old"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		kubetest.Pod("work", "new", "10.0.0.10", "new"),
		kubetest.Pod("other", "stranger", "10.0.0.11", "x"),
		change(kubetest.Pod("work", "dual", "10.0.0.12", "dual"), func(p *corev1.Pod) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::12"})
		}),
		change(kubetest.Pod("work", "on-node", "192.0.2.7", "x"), func(p *corev1.Pod) { p.Status.HostIP, p.Status.HostIPs = "192.0.2.7", nil }),
	}
	for mode, forbid := range map[string]bool{"by the index": false, "asked for one by one": true} {
		t.Run(mode, func(t *testing.T) {
			w := newCluster(t, kube.Config{Namespaces: []string{"work", "other-that-counts"}}, func(s *kubetest.Server) {
				if forbid {
					s.ForbidWatch()
				}
				for _, pod := range pods {
					s.Put(pod)
				}
			})
			if !forbid {
				w.settle(t)
			}
			for name, row := range map[string]struct {
				address, user string
				rule          int
				unknown       bool
			}{
				"its user":                               {address: "10.0.0.1", user: "alice"},
				"a mapped address":                       {address: "::ffff:10.0.0.1", user: "alice"},
				"the hub's annotation":                   {address: "10.0.0.2", user: "bob"},
				"the first of two annotations":           {address: "10.0.0.3", user: "first"},
				"no annotation":                          {address: "10.0.0.4", rule: 5},
				"an empty one before another":            {address: "10.0.0.13", rule: 5},
				"one that succeeded":                     {address: "10.0.0.5", unknown: true},
				"one that failed":                        {address: "10.0.0.6", unknown: true},
				"one that is being deleted":              {address: "10.0.0.7", unknown: true},
				"one on its node's network":              {address: "10.0.0.8", rule: 2},
				"two living ones":                        {address: "10.0.0.9", rule: 4},
				"a living one after a dead one":          {address: "10.0.0.10", user: "new"},
				"one of a namespace that does not count": {address: "10.0.0.11", unknown: true},
				"one whose address is its node's":        {address: "192.0.2.7", rule: 2},
				"nobody":                                 {address: "10.9.9.9", unknown: true},
			} {
				t.Run(name, func(t *testing.T) {
					user, err := w.user(row.address)
					if user != row.user || rule(err) != row.rule || errors.Is(err, authn.ErrUnknown) != row.unknown {
						t.Errorf("got %q, %v", user, err)
					}
				})
			}
			if user, err := w.user("fd00::12"); user != "dual" {
				t.Errorf("a second address: %q, %v", user, err)
			}
			if _, err := w.user("192.0.2.1"); rule(err) != 2 {
				t.Errorf("a node's address, known from other pods: %v", err)
			}
		})
	}
}

// Kubernetes.md rule 6; security.md E6: the server has said so, and nobody is taken for another.
func TestAnAddressThatChangesHands(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	for round := range 300 {
		first, second := fmt.Sprintf("a-%d", round), fmt.Sprintf("b-%d", round)
		w.server.Put(kubetest.Pod("work", first, "10.1.0.1", first))
		eventually(t, first, func() bool { user, _ := w.user("10.1.0.1"); return user == first })
		w.server.Delete("work", first)
		w.server.Put(kubetest.Pod("work", second, "10.1.0.1", second))
		eventually(t, second, func() bool { user, _ := w.user("10.1.0.1"); return user == second })
		if user, err := w.user("10.1.0.1"); user != second { // and never again the first
			t.Fatalf("round %d: %q, %v", round, user, err)
		}
		w.server.Delete("work", second)
	}
}

// The index hears of an address's pods one by one, and late: whom the API server has named in the
// meantime is not forgotten for whom the index has only come to.
func TestAnIndexThatLagsBehind(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	step := w.server.HoldEvents()
	w.server.Put(kubetest.Pod("work", "first", "10.1.0.1", "first"))
	if user, err := w.user("10.1.0.1"); user != "first" {
		t.Fatalf("asked for: %q, %v", user, err)
	}
	w.server.Delete("work", "first")
	w.server.Put(kubetest.Pod("work", "second", "10.1.0.1", "second"))
	if user, err := w.user("10.1.0.1"); user != "second" && !errors.Is(err, authn.ErrUnknown) {
		t.Fatalf("asked for, as the index knows nobody: %q, %v", user, err)
	}
	for more := true; more; {
		more = step()
		time.Sleep(50 * time.Millisecond) // for the index to take it in
		if user, err := w.user("10.1.0.1"); user != "second" {
			t.Errorf(`got %q, %v; want "second"`, user, err)
		}
	}
	_, before := w.server.Calls()
	for range 100 {
		if user, err := w.user("10.1.0.1"); user != "second" {
			t.Errorf(`got %q, %v; want "second"`, user, err)
		}
	}
	if _, now := w.server.Calls(); now["list"] != before["list"] {
		t.Errorf("once the index has caught up, the server is asked %d times", now["list"]-before["list"])
	}
}

func TestAnAnnotationIsPinnedAtFirstSight(t *testing.T) {
	t.Parallel()
	for mode, forbid := range map[string]bool{"by the index": false, "asked for one by one": true} {
		t.Run(mode, func(t *testing.T) {
			w := newCluster(t, kube.Config{}, func(s *kubetest.Server) {
				if forbid {
					s.ForbidWatch()
				}
			})
			pod := kubetest.Pod("work", "alice", "10.0.0.1", "alice")
			w.server.Put(pod)
			if !forbid {
				w.settle(t)
			}
			if user, err := w.user("10.0.0.1"); user != "alice" {
				t.Fatalf(`got %q, %v; want "alice"`, user, err)
			}
			pod.Annotations["gen3username"] = "admin"
			w.server.Put(pod)
			eventually(t, "the change is reported", func() bool {
				if user, err := w.user("10.0.0.1"); user != "alice" {
					t.Fatalf("after the change: %q, %v", user, err)
				}
				return w.changes.Load() > 0 && w.log.count("rule 6") > 0
			})
		})
	}
}

// Kubernetes.md rule 7; security.md E7, E8, F4.
func TestAnAPIServerThatGoesAndComes(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{MaxStale: 3 * time.Second})
	w.server.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
	w.settle(t)
	w.server.SetDown(true)
	if user, err := w.user("10.0.0.1"); user != "alice" {
		t.Errorf("a known pod, the server just gone: %q, %v", user, err)
	}
	if _, err := w.user("10.9.9.9"); err == nil || errors.Is(err, authn.ErrUnknown) || errors.Is(err, authn.ErrRefused) {
		t.Errorf("an unknown one: %v; want an outage", err)
	}
	time.Sleep(3100 * time.Millisecond)
	if _, err := w.user("10.0.0.1"); err == nil || errors.Is(err, authn.ErrUnknown) || errors.Is(err, authn.ErrRefused) {
		t.Errorf("a known pod, the server long gone: %v; want an outage", err)
	}
	w.server.SetDown(false)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if user, _ := w.user("10.0.0.1"); user == "alice" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not recover within 20 s")
		}
	}
}

// A stream that opens is no news: what the index held before an outage is not believed again until the
// server has said how things are.
func TestAWatchThatOpensAndSaysNothing(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{MaxStale: time.Second})
	w.server.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
	w.settle(t)
	w.server.SetDown(true)
	time.Sleep(1100 * time.Millisecond)
	w.server.Delete("work", "alice")
	w.server.Put(kubetest.Pod("work", "mallory", "10.0.0.1", "mallory"))
	w.server.Stall()
	w.server.SetDown(false)
	eventually(t, "the server answers", func() bool { user, _ := w.user("10.0.0.1"); return user != "" })
	for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
		if user, err := w.user("10.0.0.1"); user != "mallory" {
			t.Fatalf(`got %q, %v; want "mallory"`, user, err)
		}
	}
}

// An answer that was read before a connection began is not for that connection.
func TestAnAnswerIsNotForWhoComesAfterTheQuestion(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{}, func(s *kubetest.Server) {
		s.ForbidWatch()
		s.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
	})
	eventually(t, "it says so", func() bool { return w.log.count("pods cannot be watched") == 1 })
	_, before := w.server.Calls()
	release := w.server.HoldLists()
	var first sync.WaitGroup
	first.Go(func() { _, _ = w.PodAt(authn.WithConnection(context.Background()), at("10.0.0.1")) })
	eventually(t, "the question is asked", func() bool { _, now := w.server.Calls(); return now["list"] > before["list"] })
	w.server.Delete("work", "alice")
	w.server.Put(kubetest.Pod("work", "mallory", "10.0.0.1", "mallory"))
	answered := make(chan authn.Pod, 1)
	go func() {
		pod, _ := w.PodAt(authn.WithConnection(context.Background()), at("10.0.0.1"))
		answered <- pod
	}()
	time.Sleep(50 * time.Millisecond)
	release()
	if pod := <-answered; pod.Username != "mallory" {
		t.Errorf("mallory's new connection is %q", pod.Username)
	}
	first.Wait()
}

// Many callers at one new address, whose annotation changes meanwhile: the race detector watches.
func TestManyCallersAtANewAddress(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	pod := kubetest.Pod("work", "new", "10.0.0.50", "alice")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				if user, err := w.user("10.0.0.50"); user != "alice" && user != "" {
					t.Errorf(`got %q, %v; want "alice", or no user`, user, err)
				}
			}
		})
	}
	w.server.Put(pod)
	for i := range 20 {
		pod.Annotations["gen3username"] = fmt.Sprint("mallory-", i)
		eventually(t, "the pod is known", func() bool { user, _ := w.user("10.0.0.50"); return user == "alice" })
		w.server.Put(pod)
	}
	all.Wait()
}

// A watch that died without a word: bookmarks stop coming, and the index is not believed for ever.
func TestAWatchThatDiedInSilence(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{MaxStale: time.Second})
	w.server.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
	w.settle(t)
	w.server.Mute()
	w.server.Delete("work", "alice")
	w.server.Put(kubetest.Pod("work", "mallory", "10.0.0.1", "mallory"))
	time.Sleep(1100 * time.Millisecond)
	if user, err := w.user("10.0.0.1"); user != "mallory" {
		t.Errorf("%q, %v; want what the server says when it is asked", user, err)
	}
	w.server.Bookmark()
}

func TestAPodThatAppearsAMomentLater(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	time.AfterFunc(300*time.Millisecond, func() { w.server.Put(kubetest.Pod("work", "late", "10.0.0.99", "late")) })
	if user, err := w.user("10.0.0.99"); user != "late" {
		t.Errorf(`got %q, %v; want "late"`, user, err)
	}
	began := time.Now()
	if _, err := w.user("10.0.0.98"); !errors.Is(err, authn.ErrUnknown) || time.Since(began) > 3*time.Second {
		t.Errorf("a stranger waits %s and gets %v", time.Since(began), err)
	}
	began = time.Now()
	if _, err := w.user("10.0.0.98"); !errors.Is(err, authn.ErrUnknown) || time.Since(began) > 100*time.Millisecond {
		t.Errorf("a stranger who comes again waits %s and gets %v", time.Since(began), err)
	}
}

// With the index, nobody is asked.
func TestNothingIsAskedAtSteadyState(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{})
	for i := range 100 {
		w.server.Put(kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.2.0.%d", i), fmt.Sprint("user-", i)))
	}
	w.settle(t)
	before, _ := w.server.Calls()
	for i := range 10_000 {
		if user, err := w.user(fmt.Sprintf("10.2.0.%d", i%100)); user != fmt.Sprint("user-", i%100) {
			t.Fatalf("got %q, %v; want user-%d", user, err, i%100)
		}
	}
	if after, kinds := w.server.Calls(); after != before {
		t.Errorf("10,000 requests caused %d calls: %v", after-before, kinds)
	}
}

// Where rights are to get and list alone: once for each TCP connection, and the log says so once.
func TestWhereWatchingIsForbidden(t *testing.T) {
	t.Parallel()
	w := newCluster(t, kube.Config{}, func(s *kubetest.Server) {
		s.ForbidWatch()
		s.Put(kubetest.Pod("work", "alice", "10.0.0.1", "alice"))
	})
	eventually(t, "it says so", func() bool { return w.log.count("pods cannot be watched") == 1 })
	_, before := w.server.Calls()
	one, two := authn.WithConnection(t.Context()), authn.WithConnection(t.Context())
	for _, connection := range []context.Context{one, one, one, two, two} {
		if pod, err := w.PodAt(connection, at("10.0.0.1")); pod.Username != "alice" {
			t.Fatalf(`got %v, %v; want "alice"`, pod, err)
		}
	}
	if _, after := w.server.Calls(); after["list"]-before["list"] != 2 {
		t.Errorf("two connections caused %d lists", after["list"]-before["list"])
	}
	w.server.Delete("work", "alice")
	w.server.Put(kubetest.Pod("work", "bob", "10.0.0.1", "bob"))
	if pod, err := w.PodAt(authn.WithConnection(t.Context()), at("10.0.0.1")); pod.Username != "bob" {
		t.Errorf("a new connection after the address changed hands: %v, %v", pod, err)
	}
	w.server.SetDown(true)
	if _, err := w.PodAt(authn.WithConnection(t.Context()), at("10.0.0.1")); err == nil || errors.Is(err, authn.ErrUnknown) {
		t.Errorf("with the server down: %v; want an outage", err)
	}
}

func TestAPodByItsName(t *testing.T) {
	t.Parallel()
	for mode, forbid := range map[string]bool{"by the index": false, "asked for one by one": true} {
		t.Run(mode, func(t *testing.T) {
			alice := kubetest.Pod("work", "alice", "10.0.0.1", "alice")
			outside := kubetest.Pod("elsewhere", "x", "10.0.0.2", "x")
			w := newCluster(t, kube.Config{Namespaces: []string{"work"}}, func(s *kubetest.Server) {
				if forbid {
					s.ForbidWatch()
				}
				s.Put(alice)
				s.Put(outside)
			})
			if !forbid {
				w.settle(t)
			}
			find := func(pod *corev1.Pod, uid string) error {
				_, err := w.PodNamed(context.Background(), pod.Namespace, pod.Name, uid)
				return err
			}
			if pod, err := w.PodNamed(t.Context(), "work", "alice", string(alice.UID)); err != nil || pod.Username != "alice" || pod.ServiceAccount != "worker" {
				t.Errorf(`got %v, %v; want "alice", pod.ServiceAccount "worker"`, pod, err)
			}
			if err := find(alice, "another uid"); !errors.Is(err, authn.ErrUnknown) {
				t.Errorf("another pod by that name: %v", err)
			}
			if err := find(outside, string(outside.UID)); rule(err) != 5 {
				t.Errorf("a namespace that does not count: %v", err)
			}
			w.server.Delete("work", "alice")
			gone := func() bool { return errors.Is(find(alice, string(alice.UID)), authn.ErrUnknown) }
			if !forbid {
				eventually(t, "a deleted pod is gone", gone)
			}
		})
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	err := kube.Config{
		Enabled: true, MaxStale: time.Minute, DisablePeerAddress: true, Namespaces: []string{""}, ServiceAccount: kube.ServiceAccountConfig{Verify: "magic"},
	}.Validate()
	for _, want := range []string{"max_stale", "service_account.verify", "no pod can prove", "namespaces[0]"} {
		t.Run(want, func(t *testing.T) {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no fault about %s in:\n%v", want, err)
			}
		})
	}
}

// A pod found among 20,000, beside one found among 100.
func BenchmarkPodAt(b *testing.B) {
	among := func(pods int) func() {
		w := newCluster(b, kube.Config{})
		for i := range pods {
			w.server.Put(kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.%d.%d.%d", 3+i/62500, i/250%250, i%250), "alice"))
		}
		w.settle(b)
		ctx, address := context.Background(), at("10.3.0.77")
		return func() {
			if _, err := w.PodAt(ctx, address); err != nil {
				b.Error(err)
			}
		}
	}
	many, few := among(20_000), among(100)
	for b.Loop() {
		paired.Report(b, paired.CPU(many, few), "x-CPU-of-100-pods", "≤1.1")
	}
}

// BenchmarkTwentyThousandPods prints how long the index takes to hold 20,000
// pods, and how much memory it keeps for them.
func BenchmarkTwentyThousandPods(b *testing.B) {
	const pods = 20_000
	for b.Loop() {
		b.StopTimer()
		prepared := 0
		prepare := func(server *kubetest.Server) {
			for i := range pods {
				server.Put(kubetest.Pod("work", fmt.Sprint("workspace-", i), fmt.Sprintf("10.%d.%d.%d", 4+i/62500, i/250%250, i%250), fmt.Sprint("user-", i)))
			}
			prepared = heap()
		}
		began := time.Now()
		w := newCluster(b, kube.Config{}, prepare, func(*kubetest.Server) { began = time.Now() })
		last := fmt.Sprintf("10.4.%d.%d", (pods-1)/250%250, (pods-1)%250)
		b.StartTimer()
		for {
			before := w.calls.Load()
			if user, _ := w.user(last); user != "" && w.calls.Load() == before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/start")
		b.ReportMetric(float64(heap()-prepared)/1e6, "MB/20,000-pods")
		b.StartTimer()
	}
}

// heap is what is alive, in bytes.
func heap() int {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}
