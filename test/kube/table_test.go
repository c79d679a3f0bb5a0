//go:build kube

package kube

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/kube"
)

// overheard is a way to the API server on which questions about pods are counted, by kind.
func overheard(t *testing.T) (address string, asked func(kind string) int) {
	t.Helper()
	target, err := url.Parse(running.address)
	if err != nil {
		t.Fatal(err)
	}
	way := httputil.NewSingleHostReverseProxy(target)
	way.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the API server of this test
	var mu sync.Mutex
	counts := map[string]int{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, selector := "list", r.URL.Query().Get("fieldSelector")
		switch {
		case strings.HasPrefix(selector, "metadata.name="):
			kind = "name"
		case selector != "":
			kind = "address"
		case strings.Contains(r.Header.Get("Accept"), "as=Table"):
			kind = "table"
		}
		mu.Lock()
		counts[kind]++
		mu.Unlock()
		way.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, func(kind string) int { mu.Lock(); defer mu.Unlock(); return counts[kind] }
}

// tables asks for many pods under the rights of Gen3's chart: the real API server's table tells which of them are as they
// were, and what has become of the others.
func tables(t *testing.T) {
	const count = 100
	ctx, address := context.Background(), func(n int) string { return fmt.Sprintf("10.8.0.%d", n) }
	var pods [count]*corev1.Pod
	for n := range pods {
		pods[n] = running.pod(t, fmt.Sprintf("table-%d", n), address(n), fmt.Sprintf("user-%d", n))
	}
	defer func() {
		for _, pod := range pods {
			_ = running.CoreV1().Pods("work").Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0))
		}
	}()
	way, asked := overheard(t)
	direct := running.address
	running.address = way
	i := running.identity(t, "gen3-token", kube.Config{Namespaces: []string{"work"}})
	running.address = direct
	within(t, 10*time.Second, "it says so", func() bool { return i.said("pods cannot be watched") })
	together := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for round := range 8 { // the first caller of a turn may be alone in it, and the others share the next
			for one := range want {
				all.Go(func() {
					time.Sleep(time.Duration(round) * 3 * time.Millisecond)
					user, err := i.connect(one)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						user = err.Error()
					}
					if before, there := got[one]; there && before != user {
						user = before + ", then " + user
					}
					got[one] = user
				})
			}
		}
		all.Wait()
		if difference := cmp.Diff(want, got); difference != "" {
			t.Error(difference)
		}
	}
	some := map[string]string{address(1): "user-1", address(2): "user-2", address(3): "user-3"}
	together(some)
	t.Log("waiting until the pods are old enough to be told apart")
	time.Sleep(100 * time.Second)
	together(some) // they were young when they were read: they are asked for once more
	names, lists, before := asked("name"), asked("list"), asked("table")
	together(some)
	if asked("name") != names || asked("list") != lists || asked("table") == before {
		t.Errorf("%d names, %d lists and %d tables were asked for where nothing had changed", asked("name")-names, asked("list")-lists, asked("table")-before)
	}

	status := func(n int, change func(*corev1.PodStatus)) {
		t.Helper()
		now, err := running.CoreV1().Pods("work").Get(ctx, pods[n].Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(&now.Status)
		if _, err := running.CoreV1().Pods("work").UpdateStatus(ctx, now, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	running.remove(t, pods[10]) // and another by its name, at its address
	pods[10] = running.pod(t, pods[10].Name, address(10), "mallory")
	running.remove(t, pods[11])
	pods[11] = running.pod(t, "table-new", address(11), "eve")
	status(12, func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
	status(13, func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
	status(14, func(s *corev1.PodStatus) { s.Phase, s.Reason = corev1.PodFailed, "Evicted" })
	status(15, func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	})
	held, err := running.CoreV1().Pods("work").Get(ctx, pods[16].Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held.Finalizers = []string{"example.org/held"}
	if held, err = running.CoreV1().Pods("work").Update(ctx, held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	running.remove(t, held) // it is terminating until nothing holds it
	defer func() {
		if held, err = running.CoreV1().Pods("work").Get(ctx, held.Name, metav1.GetOptions{}); err == nil {
			held.Finalizers = nil
			_, _ = running.CoreV1().Pods("work").Update(ctx, held, metav1.UpdateOptions{})
		}
	}()
	together(map[string]string{
		address(10): "mallory", address(11): "eve", address(12): "unknown", address(13): "unknown", address(14): "unknown",
		address(15): "user-15", address(16): "unknown", address(17): "user-17",
	})
	t.Logf("%d tables, %d lists, %d pods by name, %d by address", asked("table"), asked("list"), asked("name"), asked("address"))
}
