package kube_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

// The short form runs with the other tests; make load-kube runs the whole one.
var (
	loadTime = flag.Duration("kube.load", 2*time.Second, "how long new connections are made")
	loadRate = flag.Int("kube.rate", 200, "new connections a second")
	loadPods = flag.Int("kube.pods", 500, "pods of the cluster")
)

// podRow is as many addresses with a pod at each. At some the pod changes all the time: generation is the
// last one that the API server has said is there.
type podRow struct {
	server     *kubetest.Server
	generation []atomic.Int64
}

func (s *podRow) address(n int) string { return fmt.Sprintf("127.1.%d.%d", n/250, n%250+1) }

func (s *podRow) move(n int) {
	now := s.generation[n].Load()
	if now > 0 {
		s.server.Delete("work", fmt.Sprintf("pod-%d-%d", n, now))
	}
	pod := kubetest.Pod("work", fmt.Sprintf("pod-%d-%d", n, now+1), s.address(n), fmt.Sprintf("%d-%d", n, now+1))
	if now == 0 { // most pods of a cluster have been there for a while
		pod.CreationTimestamp = hourAgo
	}
	s.server.Put(kubetest.Grown(pod))
	s.generation[n].Store(now + 1)
}

// front is an HTTP server that answers each connection with the user of its pod, as the service does.
func front(t *testing.T, pods *cluster) *httptest.Server {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			panic(err)
		}
		switch pod, err := pods.PodAt(r.Context(), peer.Addr()); {
		case errors.Is(err, authn.ErrUnknown):
			w.WriteHeader(http.StatusForbidden)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			_, _ = io.WriteString(w, pod.Username)
		}
	}))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return authn.WithConnection(ctx) }
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// call makes a new connection from an address and returns the status and the user.
func call(server *httptest.Server, from string) (status, user string, err error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	connection, err := dialer.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		return "", "", err
	}
	defer connection.Close()
	_, _ = io.WriteString(connection, "GET / HTTP/1.1\r\nHost: wts\r\nConnection: close\r\n\r\n")
	text, err := io.ReadAll(connection)
	head, body, _ := strings.Cut(string(text), "\r\n\r\n")
	_, status, _ = strings.Cut(head, " ")
	return status[:min(3, len(status))], body, err
}

// What kubernetes.md says of pods without watch: nothing is refused for lack of a turn, and the answer is as
// fresh as a list of one's own.
func TestNewConnectionsWhereWatchingIsForbidden(t *testing.T) {
	s := &podRow{generation: make([]atomic.Int64, *loadPods)}
	w := newCluster(t, kube.Config{Namespaces: []string{"work"}}, func(server *kubetest.Server) {
		server.ForbidWatch()
		s.server = server
		for n := range *loadPods {
			s.move(n)
		}
	})
	server := front(t, w)
	list := listTime(t, w.server)
	ended := make(chan struct{})
	var moving, calling sync.WaitGroup
	moving.Go(func() { // a tenth of the addresses change hands, a hundred times a second
		for {
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
				s.move(rand.IntN(max(1, *loadPods/10)))
			}
		}
	})
	var mu sync.Mutex
	var took []time.Duration
	statuses := map[string]int{}
	_, before := w.server.Calls()
	cpu := processTime()
	began := time.Now()
	for number := range int(loadTime.Seconds() * float64(*loadRate)) { // each at its time, however late the others are
		time.Sleep(time.Until(began.Add(time.Duration(number) * time.Second / time.Duration(*loadRate))))
		calling.Go(func() {
			n := rand.IntN(*loadPods)
			known, start := s.generation[n].Load(), time.Now()
			status, user, err := call(server, s.address(n))
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
			took = append(took, time.Since(start))
			var of, generation int64
			switch {
			case err != nil || status == "503":
				t.Errorf("%s: %s %q, %v", s.address(n), status, user, err)
			case status == "403": // between two pods of an address that changes hands there is none
				if n >= max(1, *loadPods/10) {
					t.Errorf("%s has a pod all the time: 403", s.address(n))
				}
			default:
				if _, err := fmt.Sscanf(user, "%d-%d", &of, &generation); err != nil || of != int64(n) || generation < known {
					t.Errorf("%s is %q, though the API server had said %d before the request", s.address(n), user, known)
				}
			}
		})
	}
	calling.Wait()
	lasted := time.Since(began)
	spent := processTime() - cpu
	close(ended)
	moving.Wait()
	_, after := w.server.Calls()
	named, tables, whole := after["list of a name"]-before["list of a name"], after["table"]-before["table"], after["list of all"]-before["list of all"]
	lists := after["list"] - before["list"] - named
	slices.Sort(took)
	t.Logf("%d requests in %s, %v; a list takes another client %s; p50 %s, p99 %s (%.1f lists), the slowest %s; %.1f lists a second, %.1f of them of all pods, %.1f tables, and %.1f of a pod; %.2f cores for all, the API server and the callers too",
		len(took), lasted.Round(time.Millisecond), statuses, list.Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), float64(took[len(took)*99/100])/float64(list), took[len(took)-1].Round(time.Millisecond),
		float64(lists)/lasted.Seconds(), float64(whole)/lasted.Seconds(), float64(tables)/lasted.Seconds(), float64(named)/lasted.Seconds(), spent.Seconds()/lasted.Seconds())
	if rate := float64(lists) / lasted.Seconds(); rate > 51 {
		t.Errorf("%.1f lists a second", rate)
	}
	if named > (tables+1)**loadPods/16 { // where more are new, a full list is asked for
		t.Errorf("%d lists of a pod beside %d tables", named, tables)
	}
}

// listTime is what a list of all pods takes one who decodes it as client-go does: the median of five.
func listTime(t *testing.T, server *kubetest.Server) time.Duration {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := protobuf.NewSerializer(scheme, scheme)
	var took []time.Duration
	for range 5 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/namespaces/work/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", runtime.ContentTypeProtobuf)
		began := time.Now()
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		if pods := len(list.(*corev1.PodList).Items); pods != *loadPods {
			t.Fatalf("a list has %d pods", pods)
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}

func processTime() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
