// Package kubetest is a small API server in this process: pods that can be listed, watched and got,
// token reviews, service-account tokens and their keys. It speaks the wire of the real one, to
// client-go's own client; what it cannot show (RBAC, admission, a real watch cache) is tested against
// the real one (make test-kube).
package kubetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Issuer is the issuer of its service-account tokens.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// Server is a running API server.
type Server struct {
	*httptest.Server
	key      *ecdsa.PrivateKey
	protobuf runtime.Serializer

	mu          sync.Mutex
	version     int
	pods        map[string]*corev1.Pod // by namespace/name
	watchers    map[chan event]string  // the namespace that each watches
	calls       map[string]int
	down        bool
	forbidWatch bool
	mute        bool
	stalled     bool
	slow        chan struct{}
	old         map[string]*corev1.Pod // what a cache holds
	cut         int                    // after how many bytes lists end
	json        bool                   // whatever is asked for
	noTables    bool
	noNames     bool
	afterTable  func() // is called when a table was read
	holding     bool
	held        []func() // events that were held back
}

type event struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{key: key, protobuf: newProtobuf(t), version: 1, pods: map[string]*corev1.Pod{}, watchers: map[chan event]string{}, calls: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", s.listOrWatch)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", s.listOrWatch)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}", s.get)
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", s.review)
	mux.HandleFunc("GET /.well-known/openid-configuration", s.discovery)
	mux.HandleFunc("GET /openid/v1/jwks", s.keys)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		down := s.down
		s.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Pod makes a running pod; change it before it is put. It is created when it is put, where its creation is not set.
func Pod(namespace, name, address, user string) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name + "-" + rand.Text()), Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{ServiceAccountName: "worker"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "192.0.2.1", HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}}},
	}
	if user != "" {
		pod.Annotations["gen3username"] = user
	}
	if address != "" {
		pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	}
	return pod
}

// Put adds a pod, or changes the one of its name, and tells those who watch.
func (s *Server) Put(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	pod = pod.DeepCopy()
	pod.ResourceVersion = strconv.Itoa(s.version)
	if pod.CreationTimestamp.IsZero() {
		pod.CreationTimestamp = metav1.Now()
	}
	kind := "ADDED"
	key := pod.Namespace + "/" + pod.Name
	if old, ok := s.pods[key]; ok && old.UID == pod.UID {
		kind, pod.CreationTimestamp = "MODIFIED", old.CreationTimestamp
	}
	s.pods[key] = pod
	s.tell(kind, pod)
}

// Delete removes a pod, and tells those who watch.
func (s *Server) Delete(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod, ok := s.pods[namespace+"/"+name]; ok {
		s.version++
		delete(s.pods, namespace+"/"+name)
		gone := pod.DeepCopy()
		gone.ResourceVersion = strconv.Itoa(s.version)
		s.tell("DELETED", gone)
	}
}

func (s *Server) tell(kind string, pod *corev1.Pod) {
	if s.mute {
		return
	}
	for watcher, namespace := range s.watchers {
		if namespace != "" && namespace != pod.Namespace {
			continue
		}
		send := func() { watcher <- event{kind, pod} }
		if s.holding {
			s.held = append(s.held, send)
			continue
		}
		send()
	}
}

// HoldEvents keeps events back from those who watch; step lets the next one go, and says whether there
// was one.
func (s *Server) HoldEvents() (step func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.held) == 0 {
			s.holding = false
			return false
		}
		s.held[0]()
		s.held = s.held[1:]
		return true
	}
}

// Bookmark tells those who watch that nothing has happened.
func (s *Server) Bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for watcher := range s.watchers {
		watcher <- s.bookmark(nil)
	}
}

func (s *Server) bookmark(annotations map[string]string) event {
	return event{"BOOKMARK", &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(s.version), Annotations: annotations},
	}}
}

// SetDown breaks every connection, now and until it is up again.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	s.down = down
	for watcher := range s.watchers {
		close(watcher)
		delete(s.watchers, watcher)
	}
	s.mu.Unlock()
	if down {
		s.CloseClientConnections()
	}
}

// ForbidWatch answers watches as RBAC without that verb does.
func (s *Server) ForbidWatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forbidWatch = true
}

// Mute keeps events from those who watch: a watch that has silently died.
func (s *Server) Mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = true
}

// Stall lets watches open and say nothing.
func (s *Server) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = true
}

// Calls is how many requests came, by kind.
func (s *Server) Calls() (all int, byKind map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byKind = map[string]int{}
	for kind, count := range s.calls {
		byKind[kind] = count
		all += count
	}
	return all, byKind
}

func (s *Server) listOrWatch(w http.ResponseWriter, r *http.Request) {
	if watch := r.URL.Query().Get("watch"); watch == "true" || watch == "1" {
		s.watch(w, r)
		return
	}
	s.list(w, r)
}

func in(namespace string, pod *corev1.Pod) bool { return namespace == "" || namespace == pod.Namespace }

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	query, namespace := r.URL.Query(), r.PathValue("namespace")
	s.mu.Lock()
	s.calls["watch"]++
	if s.forbidWatch {
		s.mu.Unlock()
		failure(w, http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	}
	if s.stalled {
		s.mu.Unlock()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	events := make(chan event, 100_000)
	if query.Get("sendInitialEvents") == "true" {
		for _, pod := range s.pods {
			if in(namespace, pod) {
				events <- event{"ADDED", pod}
			}
		}
		events <- s.bookmark(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	if query.Get("fieldSelector") == "" {
		s.watchers[events] = namespace
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, events)
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	out, encoder := http.NewResponseController(w), json.NewEncoder(w)
	_ = out.Flush()
	for {
		select {
		case next, open := <-events:
			if !open || encoder.Encode(next) != nil {
				return
			}
			_ = out.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls["get"]++
	if pod, ok := s.pods[r.PathValue("namespace")+"/"+r.PathValue("name")]; ok {
		answer(w, http.StatusOK, pod)
		return
	}
	failure(w, http.StatusNotFound, metav1.StatusReasonNotFound)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func failure(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: reason, Code: int32(code),
	})
}

// Kubeconfig is the text of a kubeconfig that leads here.
func (s *Server) Kubeconfig() string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "t",
"clusters": [{"name": "t", "cluster": {"server": %q}}], "users": [{"name": "t"}],
"contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}]}`, s.URL)
}
