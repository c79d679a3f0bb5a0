package kube_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

var hourAgo = metav1.NewTime(time.Now().Add(-time.Hour))

// crowd is 200 pods, each an hour old and at its address, in a namespace that may not be watched. They were asked for once.
func crowd(t *testing.T, prepare func(*kubetest.Server)) (w *cluster, pods []*corev1.Pod) {
	t.Helper()
	w = newCluster(t, kube.Config{Namespaces: []string{"work"}}, func(s *kubetest.Server) {
		s.ForbidWatch()
		for i := range 200 {
			pod := kubetest.Pod("work", fmt.Sprint("pod-", i), crowded(i), fmt.Sprint("user-", i))
			pod.CreationTimestamp = hourAgo
			if i == 160 {
				pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: "fd00::160"})
			}
			pods = append(pods, pod)
			s.Put(pod)
		}
		prepare(s)
	})
	eventually(t, "it says so", func() bool { return w.log.count("pods cannot be watched") == 1 })
	if got := w.together(crowded(1), crowded(2)); got[crowded(1)] != "user-1" || got[crowded(2)] != "user-2" {
		t.Fatalf("at first: %v", got)
	}
	return w, pods
}

func crowded(i int) string { return fmt.Sprintf("10.4.0.%d", i) }

// together asks for addresses at once, so that all of them share a question about all pods, and says who was found.
func (w *cluster) together(addresses ...string) (users map[string]string) {
	users = map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	before, release := w.lists(), w.server.HoldLists()
	all.Go(func() { _, _ = w.connect(crowded(0)) }) // it is asked for alone, and they wait for the turn after it
	for w.lists() == before {
		time.Sleep(time.Millisecond)
	}
	for _, address := range append(slices.Clone(addresses), "10.9.9.9") { // which no pod has: there are two at least
		all.Go(func() {
			pod, err := w.connect(address)
			mu.Lock()
			defer mu.Unlock()
			if users[address] = pod.Username; err != nil {
				users[address] = err.Error()
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	release()
	all.Wait()
	delete(users, "10.9.9.9")
	return users
}

// asked is how many questions of a kind came since.
func (w *cluster) asked() (since func(kind string) int) {
	_, before := w.server.Calls()
	return func(kind string) int {
		_, now := w.server.Calls()
		return now[kind] - before[kind]
	}
}

// After the first list a table is asked for, and what is new in it. What is told is what a full list tells.
func TestATableTellsWhatAFullListTells(t *testing.T) {
	t.Parallel()
	w, pods := crowd(t, func(*kubetest.Server) {})
	put := func(name, address, user string, change ...func(*corev1.Pod)) {
		pod := kubetest.Pod("work", name, address, user)
		for _, one := range change {
			one(pod)
		}
		w.server.Put(pod)
	}
	changed := func(n int, change func(*corev1.Pod)) {
		pod := pods[n].DeepCopy()
		change(pod)
		w.server.Put(pod)
	}
	const unknown = "unknown"
	for _, step := range []struct {
		name   string
		change func()
		want   map[string]string
		named  int  // how many were asked for by their names
		listed bool // all may have been listed
	}{
		{"nothing", func() {}, map[string]string{crowded(100): "user-100", crowded(101): "user-101", "fd00::160": "user-160"}, 1, false},
		{"an address moves to another pod", func() {
			w.server.Delete("work", "pod-110")
			put("another", crowded(110), "mallory")
		}, map[string]string{crowded(110): "mallory", crowded(111): "user-111"}, 1, false},
		{"another pod by the same name at the same address", func() {
			w.server.Delete("work", "pod-120")
			put("pod-120", crowded(120), "eve")
		}, map[string]string{crowded(120): "eve"}, 1, false},
		{"a pod gets another address", func() {
			changed(130, func(pod *corev1.Pod) { pod.Status.PodIP, pod.Status.PodIPs = "10.4.1.130", nil })
		}, map[string]string{"10.4.1.130": "user-130", crowded(130): unknown}, 1, false},
		{"a pod loses its address", func() {
			changed(131, func(pod *corev1.Pod) { pod.Status.PodIP, pod.Status.PodIPs = "", nil })
		}, map[string]string{crowded(131): unknown}, 1, false},
		{"a pod ends", func() {
			changed(140, func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded })
		}, map[string]string{crowded(140): unknown}, 1, false},
		{
			"a pod that has ended, and another at its address", func() { put("after-140", crowded(140), "grace") },
			map[string]string{crowded(140): "grace"},
			1, false,
		},
		{"a pod is terminated, and no caller asks for it", func() {
			changed(150, func(pod *corev1.Pod) { pod.DeletionTimestamp = &hourAgo })
		}, map[string]string{crowded(151): "user-151"}, 0, false},
		{"then one asks for it", func() {}, map[string]string{crowded(150): unknown}, 1, false},
		{"and another one", func() {}, map[string]string{crowded(150): unknown}, 0, false},
		{"a pod with two addresses is replaced by one with another second", func() {
			w.server.Delete("work", "pod-160")
			put("pod-160", crowded(160), "heidi", func(pod *corev1.Pod) { pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: "fd00::161"}) })
		}, map[string]string{"fd00::160": unknown}, 1, true},
		{"which is known then", func() {}, map[string]string{"fd00::161": "heidi"}, 1, false},
		{"a new pod with two addresses, of which the second asks", func() {
			put("dual", "10.4.2.1", "ivan", func(pod *corev1.Pod) { pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: "fd00::2:1"}) })
		}, map[string]string{"fd00::2:1": "ivan"}, 1, false},
		{"a new pod in its node's network", func() {
			put("host", "192.0.2.7", "judy", func(pod *corev1.Pod) { pod.Spec.HostNetwork, pod.Status.HostIP = true, "192.0.2.7" })
		}, map[string]string{"192.0.2.7": "the pod is not accepted: rule 2: the address is a node's", "192.0.2.1": "the pod is not accepted: rule 2: the address is a node's"}, 1, false},
		{"and another there", func() {
			put("beside", "192.0.2.7", "oscar", func(pod *corev1.Pod) { pod.Spec.HostNetwork, pod.Status.HostIP = true, "192.0.2.7" })
		}, map[string]string{crowded(1): "user-1"}, 1, false},
		{
			"two pods at one address", func() { put("twin", crowded(170), "trent") },
			map[string]string{crowded(170): "the pod is not accepted: rule 4: two running pods have the address"},
			2, false,
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.change()
			var addresses []string
			for address := range step.want {
				addresses = append(addresses, address)
			}
			asked := w.asked()
			if difference := cmp.Diff(step.want, w.together(addresses...)); difference != "" {
				t.Error(difference)
			}
			if asked("table") == 0 || asked("list of a name") > step.named*asked("table") || step.named > asked("list of a name") {
				t.Errorf("%d tables, %d pods by their names; want %d for each", asked("table"), asked("list of a name"), step.named)
			}
			if all := asked("list of all"); all > 0 && !step.listed {
				t.Errorf("all pods were asked for %d times", all)
			}
		})
	}
}

// A pod that was young when it was read may have been replaced by one that seems as old: it is asked for until the table
// tells the two apart.
func TestAYoungPodIsAskedForAgain(t *testing.T) {
	t.Parallel()
	w, _ := crowd(t, func(s *kubetest.Server) {
		for name, age := range map[string]time.Duration{"young": time.Minute, "older": 3 * time.Minute} {
			pod := kubetest.Pod("work", name, map[string]string{"young": "10.4.3.1", "older": "10.4.3.2"}[name], name)
			pod.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
			s.Put(pod)
		}
	})
	for address, want := range map[string]bool{"10.4.3.1": true, "10.4.3.2": false} {
		asked := w.asked()
		if got := w.together(address); got[address] == "" || (asked("list of a name") > 0) != want {
			t.Errorf("%s: %v, asked for by name %d times", address, got, asked("list of a name"))
		}
	}
}

// Where many pods are new, a full list is the cheaper question.
func TestManyNewPodsAreAFullList(t *testing.T) {
	t.Parallel()
	w, pods := crowd(t, func(*kubetest.Server) {})
	asked := w.asked()
	for i, pod := range pods[:100] {
		w.server.Delete("work", pod.Name)
		w.server.Put(kubetest.Pod("work", fmt.Sprint("new-", i), crowded(i), fmt.Sprint("new-", i)))
	}
	if got := w.together(crowded(1), crowded(150)); got[crowded(1)] != "new-1" || got[crowded(150)] != "user-150" {
		t.Errorf("got %v", got)
	}
	if asked("list of a name") > 0 || asked("list of all") == 0 {
		t.Errorf("%d were asked for by their names, and all %d times", asked("list of a name"), asked("list of all"))
	}
}

// The table and the pods that are asked for by name are of two moments. An address that moves between them has one
// pod, not two.
func TestAnAddressThatMovesBetweenTwoQuestions(t *testing.T) {
	t.Parallel()
	w, _ := crowd(t, func(*kubetest.Server) {})
	next := kubetest.Pod("work", "next", "10.4.4.4", "next")
	w.server.Put(next)
	var once sync.Once
	w.server.AfterTable(func() {
		once.Do(func() {
			w.server.Delete("work", "pod-7")
			next.Status.PodIP, next.Status.PodIPs = crowded(7), nil
			w.server.Put(next)
		})
	})
	if got := w.together(crowded(7)); got[crowded(7)] != "next" {
		t.Errorf("got %v", got)
	}
}

// secondOf gives a pod another second address.
func secondOf(pod *corev1.Pod, address string) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}, {IP: address}}
	return pod
}

// A table shows the first address of a pod alone. Others may change hands while the pod, its name, its age and its first
// address stay as they are.
func TestASecondAddressIsNotTakenFromMemory(t *testing.T) {
	t.Parallel()
	w, pods := crowd(t, func(*kubetest.Server) {})
	w.server.Put(secondOf(pods[160], "fd00::999"))
	w.server.Put(secondOf(pods[161], "fd00::160"))
	want := map[string]string{"fd00::160": "user-161", "fd00::999": "user-160"}
	if difference := cmp.Diff(want, w.together("fd00::160", "fd00::999")); difference != "" {
		t.Error(difference)
	}
	if pod, err := w.connect("fd00::160"); pod.Username != "user-161" {
		t.Errorf("alone: %q, %v", pod.Username, err)
	}
	// One that was replaced while no caller asked for it.
	w.server.Delete("work", "pod-160")
	w.server.Put(secondOf(kubetest.Pod("work", "pod-160", crowded(160), "heidi"), "fd00::161"))
	w.together(crowded(1), crowded(2))
	if got := w.together("fd00::161"); got["fd00::161"] != "heidi" {
		t.Errorf("replaced: %v", got)
	}
}

// A node that is new has an address which a pod had whose node has died: the first that tells of it is a pod without an
// address.
func TestTheNodeOfAPodWithoutAnAddress(t *testing.T) {
	t.Parallel()
	w, _ := crowd(t, func(*kubetest.Server) {})
	pending := kubetest.Pod("work", "pending", "", "x")
	pending.Spec.NodeName, pending.Status.Phase = "new", corev1.PodPending
	pending.Status.HostIP, pending.Status.HostIPs = "", nil
	w.server.Put(pending)
	w.together(crowded(1))
	pending.Status.HostIP = crowded(50) // the kubelet has begun with it
	w.server.Put(pending)
	asked := w.asked()
	for range 2 {
		if got := w.together(crowded(50), crowded(51)); got[crowded(50)] != "the pod is not accepted: rule 2: the address is a node's" || got[crowded(51)] != "user-51" {
			t.Errorf("got %v", got)
		}
	}
	if asked("list of a name") != 1 || asked("list of all") != 0 {
		t.Errorf("%d by name, %d lists", asked("list of a name"), asked("list of all"))
	}
}

// The user of a pod is the one that it had when it was read first, also where no caller had asked for the pod yet.
func TestAPodIsSeenWhenItIsRead(t *testing.T) {
	t.Parallel()
	warm := kubetest.Pod("work", "warm", "10.4.7.7", "")
	warm.CreationTimestamp = hourAgo
	w, _ := crowd(t, func(s *kubetest.Server) { s.Put(warm) })
	claimed := warm.DeepCopy()
	claimed.Annotations["gen3username"] = "mallory"
	w.server.Put(claimed)
	const refused = "the pod is not accepted: rule 5: the pod's annotation names no user"
	if pod, err := w.connect("10.4.7.7"); err == nil || err.Error() != refused {
		t.Errorf("alone: %q, %v", pod.Username, err)
	}
	if got := w.together("10.4.7.7"); got["10.4.7.7"] != refused {
		t.Errorf("got %v", got)
	}
}

// Addresses are used again. That one of a pod which has ended, and which no caller asked for since, is another's is no
// reason to list them all.
func TestAddressesAreUsedAgain(t *testing.T) {
	t.Parallel()
	w, pods := crowd(t, func(*kubetest.Server) {})
	asked := w.asked()
	for n := 20; n < 23; n++ {
		ended := pods[n].DeepCopy()
		ended.Status.Phase = corev1.PodSucceeded
		w.server.Put(ended)
		w.server.Put(kubetest.Pod("work", "after-"+ended.Name, crowded(n), "grace"))
		w.together(crowded(1))
	}
	if got := w.together(crowded(20), crowded(21), crowded(22)); got[crowded(20)] != "grace" || got[crowded(21)] != "grace" || got[crowded(22)] != "grace" {
		t.Errorf("got %v", got)
	}
	if asked("list of all") > 0 {
		t.Errorf("all were listed %d times", asked("list of all"))
	}
}

// Where the API server refuses so many small questions, it is asked for one list, and for a table again the next time.
func TestPodsThatMayNotBeAskedForByName(t *testing.T) {
	t.Parallel()
	w, _ := crowd(t, (*kubetest.Server).RefuseNames)
	asked := w.asked()
	w.server.Put(kubetest.Pod("work", "new", "10.4.5.5", "new"))
	for range 2 {
		if got := w.together("10.4.5.5", crowded(1)); got["10.4.5.5"] != "new" || got[crowded(1)] != "user-1" {
			t.Errorf("got %v", got)
		}
	}
	if asked("table") != 2 || asked("list of all") != 2 || w.log.count("no table of pods") != 0 {
		t.Errorf("%d tables and %d lists were asked for", asked("table"), asked("list of all"))
	}
}

// A server that makes no tables, or a proxy that lets no question for one through, costs one question in a while.
func TestAServerThatMakesNoTables(t *testing.T) {
	t.Parallel()
	w, _ := crowd(t, (*kubetest.Server).MakeNoTables)
	asked := w.asked()
	for range 3 {
		if got := w.together(crowded(9), crowded(10)); got[crowded(9)] != "user-9" || got[crowded(10)] != "user-10" {
			t.Errorf("got %v", got)
		}
	}
	if asked("table") != 1 || asked("list of all") < 3 {
		t.Errorf("%d tables and %d lists were asked for", asked("table"), asked("list of all"))
	}
}
