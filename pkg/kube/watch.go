package kube

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	probeAgain = 5 * time.Minute // where watching is forbidden: somebody may allow it
	reachAgain = 2 * time.Second
)

// Run follows the pods until the context ends. Nothing that fails ends it.
func (c *Cluster) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, namespace := range c.scopes() {
		all.Go(func() { (&feed{c, namespace}).follow(ctx) })
	}
	all.Wait()
}

// follow watches one namespace where that is allowed. Where it is not, it says so, once, and new
// connections share lists.
func (f *feed) follow(ctx context.Context) {
	for said := ""; ctx.Err() == nil; {
		err := f.mayWatch(ctx)
		wait := reachAgain
		switch {
		case err == nil:
			said = ""
			f.watch(ctx)
			continue
		case apierrors.IsForbidden(err):
			wait = probeAgain
			f.index.forget(f.namespace)
			if said != "forbidden" {
				f.log.Warn("pods cannot be watched with the rights at hand, so each new connection waits for a question about all pods, of which there are at most ten a second; grant watch on pods", "namespace", f.namespace)
			}
			said = "forbidden"
		case ctx.Err() == nil && said != "unreachable":
			said = "unreachable"
			f.log.Error("the API server cannot be reached, and is tried again", "namespace", f.namespace, "error", err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// mayWatch begins a watch of nothing and ends it: listing everything first, to learn afterwards that
// watching is forbidden, would be a burden on a large cluster.
func (f *feed) mayWatch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	f.observer.KubeCall("watch")
	probe, err := f.core.Get().Namespace(f.namespace).Resource("pods").
		Param("watch", "true").Param("timeoutSeconds", "1").Param("fieldSelector", "metadata.name=wts-probe").Watch(ctx)
	if err != nil {
		return err
	}
	probe.Stop()
	return nil
}

// watch keeps the index true to one namespace, until the context ends or watching is forbidden.
func (f *feed) watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			f.observer.KubeCall("list")
			var list corev1.PodList
			err := f.core.Get().Namespace(f.namespace).Resource("pods").VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(&list)
			return &list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			f.observer.KubeCall("watch")
			options.Watch = true
			opened, err := f.core.Get().Namespace(f.namespace).Resource("pods").VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
			if apierrors.IsForbidden(err) {
				cancel()
			}
			// A stream that opens is no news yet: it is heard of when it says something (see feed).
			return opened, err
		},
	}
	logger := logr.FromSlogHandler(f.log.Handler())
	reflector := cache.NewReflectorWithOptions(source, &corev1.Pod{}, f, cache.ReflectorOptions{Name: "pods", Logger: &logger})
	reflector.RunWithContext(klog.NewContext(ctx, logger))
}

// feed keeps the index true to one namespace, or to all; the reflector puts into it what it hears.
type feed struct {
	*Cluster
	namespace string
}

// put takes over a pod as the API server describes it, and reports one whose user was changed.
func (f *feed) put(object any) error {
	of, ok := object.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the API server sent a %T for a pod", object)
	}
	fresh := f.read(of)
	if f.index.put(fresh) {
		f.reportAnnotation(fresh)
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(object any) error { return f.put(object) }

// Update implements cache.ReflectorStore.
func (f *feed) Update(object any) error { return f.put(object) }

// Delete implements cache.ReflectorStore. A deletion that the watch missed comes as a tombstone, or
// shows in the next list.
func (f *feed) Delete(object any) error {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if of, ok := object.(*corev1.Pod); ok {
		f.gone.Set(string(of.UID), nil)
		f.index.drop(string(of.UID))
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed) Replace(objects []any, _ string) error {
	pods := make([]*pod, 0, len(objects))
	for _, object := range objects {
		if of, ok := object.(*corev1.Pod); ok {
			pods = append(pods, f.read(of))
		}
	}
	if changed := f.index.replace(f.namespace, pods, f.now()); changed > 0 {
		f.log.Warn("pods' users were changed after they were first seen, which is ignored (rule 6)", "pods", strconv.Itoa(changed))
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *feed) Resync() error { return nil }

// UpdateResourceVersion implements cache.ResourceVersionUpdater: it is called at every event, and at
// the bookmarks which the API server sends where nothing happens.
func (f *feed) UpdateResourceVersion(string) { f.index.heard(f.namespace, f.now()) }
