package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

func encoded(t testing.TB, object runtime.Object) []byte {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(object, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func somePods(count int) *corev1.PodList {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
	now := metav1.Now()
	for i := range count {
		pod := kubetest.Grown(kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), fmt.Sprint("user-", i)))
		pod.Annotations["hub.jupyter.org/username"] = ""
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00::%x", i)})
		pod.Status.HostIPs = append(pod.Status.HostIPs, corev1.HostIP{IP: "fd01::1"})
		switch i % 4 {
		case 1:
			pod.DeletionTimestamp = &now
		case 2:
			pod.Spec.HostNetwork, pod.Status.Phase = true, corev1.PodSucceeded
		case 3:
			pod.Annotations, pod.Status.PodIPs = nil, nil
		}
		list.Items = append(list.Items, *pod)
	}
	return list
}

// What is read of a pod's protobuf is what decoding the whole pod gives.
func TestAListIsReadAsItIs(t *testing.T) {
	t.Parallel()
	list := somePods(20)
	c := &Cluster{config: Config{}.WithDefaults()}
	var want []*pod
	for i := range list.Items {
		want = append(want, c.read(&list.Items[i]))
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for form, body := range map[string][]byte{"protobuf": encoded(t, list), "JSON": text} {
		t.Run(form, func(t *testing.T) {
			var got []*pod
			if err := readPods(bytes.NewReader(body), func(of *corev1.Pod) { got = append(got, c.read(of)) }); err != nil {
				t.Fatalf("got %v; want no error", err)
			}
			if difference := cmp.Diff(fmt.Sprintf("%+v", deref(want)), fmt.Sprintf("%+v", deref(got))); difference != "" {
				t.Errorf("got %s; want no difference", difference)
			}
		})
	}
}

func deref(pods []*pod) (all []pod) {
	for _, one := range pods {
		all = append(all, *one)
	}
	return all
}

// A list that ends early, or is only a page, or no list, is none: a pod that it lacks may be there.
func TestAListThatIsNotWholeIsAnError(t *testing.T) {
	t.Parallel()
	whole := encoded(t, somePods(3))
	page := somePods(3)
	page.Continue = "more"
	bodies := map[string][]byte{
		"nothing": nil, "a page": encoded(t, page), "a pod": encoded(t, &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}),
		"HTML": []byte("<html>"), "a status": []byte(`{"kind":"Status"}`), "JSON that ends early": []byte(`{"kind":"PodList","items":[`),
		"a page of JSON":            []byte(`{"kind":"PodList","metadata":{"continue":"x"}}`),
		"a length that no list has": append(append([]byte{}, protobufMagic...), 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
	}
	for length := 1; length < len(whole); length += 7 {
		if object := bytes.Index(whole, []byte("PodList")); length > object { // the last bytes say nothing of the pods
			bodies[fmt.Sprintf("the first %d bytes", length)] = whole[:length*(len(whole)-16)/len(whole)]
		}
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			if err := readPods(bytes.NewReader(body), func(*corev1.Pod) {}); err == nil {
				t.Error("no error")
			}
		})
	}
	if err := readPods(strings.NewReader("{"+strings.Repeat(" ", maxJSONBytes)+"}"), func(*corev1.Pod) {}); err != errTooLong { //nolint:errorlint // is returned as it is
		t.Errorf("too much JSON: %v", err)
	}
}

func FuzzReadPods(f *testing.F) {
	f.Add(encoded(f, somePods(2)))
	f.Add([]byte(`{"kind":"PodList","items":[{}]}`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		_ = readPods(bytes.NewReader(body), func(of *corev1.Pod) { _ = of.Name })
	})
}

// BenchmarkAListOfPods prints what reading a list of 3,000 pods costs.
func BenchmarkAListOfPods(b *testing.B) {
	body := encoded(b, somePods(3000))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	c := &Cluster{config: Config{}.WithDefaults()}
	for b.Loop() {
		if err := readPods(bytes.NewReader(body), func(of *corev1.Pod) { c.read(of) }); err != nil {
			b.Fatal(err)
		}
	}
}
