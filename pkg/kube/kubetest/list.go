package kubetest

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
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
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	list.ResourceVersion = strconv.Itoa(s.version)
	selected := query.Get("fieldSelector")
	if selected == "" {
		s.calls["list of all"]++
	}
	for _, pod := range s.listed(query.Get("resourceVersion")) {
		if in(r.PathValue("namespace"), pod) && (selected == "" || selected == "status.podIP="+pod.Status.PodIP || selected == "metadata.name="+pod.Name) {
			list.Items = append(list.Items, *pod)
		}
	}
	held, cut, alone := s.slow, s.cut, s.json
	s.mu.Unlock()
	if held != nil {
		<-held
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

// Grown makes a pod as large as a notebook's is on a real cluster, about six kilobytes.
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
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"` + strings.Repeat("f", 1200) + `":{}}}`)}}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.PodScheduled, corev1.ContainersReady, corev1.PodInitialized} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	}
	return pod
}
