package kubetest

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/duration"
)

func newProtobuf(t testing.TB) runtime.Serializer {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return protobuf.NewSerializer(scheme, scheme)
}

// list answers in the form that is asked for. It serialises every pod, each time, as the real one does.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	s.mu.Lock()
	s.calls["list"]++
	meta := metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}
	var pods []*corev1.Pod
	selected := query.Get("fieldSelector")
	table := strings.Contains(r.Header.Get("Accept"), ";as=Table;") && query.Get("includeObject") == "None"
	switch {
	case strings.HasPrefix(selected, "metadata.name="):
		s.calls["list of a name"]++
	case selected == "" && table:
		s.calls["table"]++
	case selected == "":
		s.calls["list of all"]++
	}
	for _, pod := range s.listed(query.Get("resourceVersion")) {
		if in(r.PathValue("namespace"), pod) && (selected == "" || selected == "status.podIP="+pod.Status.PodIP || selected == "metadata.name="+pod.Name) {
			pods = append(pods, pod)
		}
	}
	held, cut, alone, noTables, after := s.slow, s.cut, s.json, s.noTables, s.afterTable
	refused := s.noNames && strings.HasPrefix(selected, "metadata.name=")
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	if refused {
		failure(w, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
		return
	}
	if table {
		if after != nil {
			after()
		}
		if noTables {
			failure(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		if cut > 0 {
			w = &cutShort{ResponseWriter: w, left: cut}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(tableOf(pods))
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: meta}
	for _, pod := range pods {
		list.Items = append(list.Items, *pod)
	}
	if !strings.Contains(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) || alone {
		answer(w, http.StatusOK, list)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	if cut > 0 {
		w = &cutShort{ResponseWriter: w, left: cut}
	}
	_ = s.protobuf.Encode(&list, w)
}

// tableOf is what the API server prints of pods, as far as a test can know: the real one's table is tested by make
// test-kube. It is put together by hand, since the machine that is measured has to make it.
func tableOf(pods []*corev1.Pod) []byte {
	table := append(make([]byte, 0, 160*len(pods)+2000), `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"columnDefinitions":[`...)
	for i, name := range []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node"} {
		table = fmt.Appendf(table, `%s{"name":%q,"type":"string","format":"","description":"","priority":0}`, ","[:min(i, 1)], name)
	}
	table = append(table, `],"rows":[`...)
	for i, pod := range pods {
		status, address := string(pod.Status.Phase), pod.Status.PodIP
		switch {
		case pod.DeletionTimestamp != nil:
			status = "Terminating"
		case pod.Status.Phase == corev1.PodSucceeded:
			status = "Completed"
		case pod.Status.Phase == corev1.PodFailed:
			status = "Error"
		}
		if address == "" {
			address = `\u003cnone\u003e`
		}
		age := duration.HumanDuration(time.Since(pod.CreationTimestamp.Time))
		node, conditions := pod.Spec.NodeName, ""
		if node == "" {
			node = pod.Status.HostIP
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			conditions = `"conditions":[{"type":"Completed","status":"True","reason":"","message":""}],`
		}
		for _, part := range []string{","[:min(i, 1)], `{"cells":["`, pod.Name, `","1/1","`, status, `","0","`, age, `","`, address, `","`, node, `"],`, conditions, `"object":null}`} {
			table = append(table, part...)
		}
	}
	return append(table, `]}`...)
}

// listed are the pods that a list of that resource version sees: the most recent ones, or for 0 those that
// a cache of the server's holds, which may be as old as ServeOldLists says.
func (s *Server) listed(version string) map[string]*corev1.Pod {
	if version == "0" && s.old != nil {
		return s.old
	}
	return s.pods
}

// cutShort ends an answer before its end.
type cutShort struct {
	http.ResponseWriter
	left int
}

func (c *cutShort) Write(part []byte) (int, error) {
	if c.left -= len(part); c.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(part)
}

// SnapshotCache lets lists of resource version 0 answer from now on what the server holds now.
func (s *Server) SnapshotCache() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = maps.Clone(s.pods)
}

// CutLists ends the answers to lists after so many bytes; 0 lets them be whole again.
func (s *Server) CutLists(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = bytes
}

// AnswerJSON answers lists in JSON, whatever is asked for, as a proxy before the server may insist on.
func (s *Server) AnswerJSON() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.json = true
}

// MakeNoTables refuses to make tables of pods.
func (s *Server) MakeNoTables() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noTables = true
}

// RefuseNames refuses lists of a name, as a server does that is asked for too much at once.
func (s *Server) RefuseNames() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noNames = true
}

// AfterTable is called whenever a table was read, before it is answered.
func (s *Server) AfterTable(call func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.afterTable = call
}

// HoldLists keeps answers to lists that have been read back until release is called.
func (s *Server) HoldLists() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.slow = held
	return func() {
		s.mu.Lock()
		s.slow = nil
		s.mu.Unlock()
		close(held)
	}
}

// Grown makes a pod as large as a notebook's is on a real cluster, about ten kilobytes, of which more than half are
// metadata: what the API server notes of each environment variable alone is eighty bytes.
func Grown(pod *corev1.Pod) *corev1.Pod {
	container := corev1.Container{
		Name: "notebook", Image: "quay.example.org/workspaces/notebook@sha256:" + strings.Repeat("0123456789abcdef", 4),
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("8Gi")}},
	}
	for i := range 40 {
		container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprint("SETTING_OF_THE_WORKSPACE_", i), Value: strings.Repeat("v", 40)})
	}
	for i := range 6 {
		name := fmt.Sprint("volume-", i)
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/home/jovyan/" + name})
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	pod.Spec.Containers = []corev1.Container{container}
	pod.Labels = map[string]string{"app": "jupyter", "component": "singleuser-server"}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"` + strings.Repeat("f", 5000) + `":{}}}`)}}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.PodScheduled, corev1.ContainersReady, corev1.PodInitialized} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	}
	return pod
}
