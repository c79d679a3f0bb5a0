package kube

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// liveTimeout bounds one question to the API server.
const liveTimeout = 3 * time.Second

// liveAt asks the API server for the pods at an address: one question for all who ask it at once.
// The server looks at a pod's first address only; others are found by the index.
func (c *Cluster) liveAt(ctx context.Context, peer netip.Addr) ([]*pod, error) {
	answer, err, _ := c.flights.Do("at "+peer.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liveTimeout)
		defer cancel()
		var pods []*pod
		for _, namespace := range c.scopes() {
			if err := c.limiter.Wait(ctx); err != nil {
				return nil, errBusy
			}
			c.observer.KubeCall("list")
			var list corev1.PodList
			err := c.core.Get().Namespace(namespace).Resource("pods").Param("fieldSelector", "status.podIP="+peer.String()).Do(ctx).Into(&list)
			if err != nil {
				return nil, fmt.Errorf("asking the API server for the pod at an address: %w", err)
			}
			for at := range list.Items {
				pods = append(pods, c.read(&list.Items[at]))
			}
		}
		return c.pinned(pods), nil
	})
	if err != nil {
		return nil, err
	}
	pods, _ := answer.([]*pod)
	return pods, nil
}

// liveNamed asks the API server for a pod by its name.
func (c *Cluster) liveNamed(ctx context.Context, namespace, name string) (*pod, error) {
	answer, err, _ := c.flights.Do("named "+namespace+"/"+name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liveTimeout)
		defer cancel()
		if err := c.limiter.Wait(ctx); err != nil {
			return nil, errBusy
		}
		c.observer.KubeCall("get")
		var of corev1.Pod
		err := c.core.Get().Namespace(namespace).Resource("pods").Name(name).VersionedParams(&metav1.GetOptions{}, metav1.ParameterCodec).Do(ctx).Into(&of)
		switch {
		case apierrors.IsNotFound(err):
			return nil, authn.ErrUnknown
		case err != nil:
			return nil, fmt.Errorf("asking the API server for a pod: %w", err)
		}
		return c.pinned([]*pod{c.read(&of)})[0], nil
	})
	if err != nil {
		return nil, err
	}
	found, _ := answer.(*pod)
	return found, nil
}

// pinned gives pods that were asked for the annotation that they had at first sight: in the index
// where it holds them, else as they were first asked for (rule 6).
func (c *Cluster) pinned(pods []*pod) []*pod {
	for _, one := range pods {
		if known := c.index.of(one.UID); known != nil {
			if known != one {
				one.Username = known.Username
			}
			continue
		}
		first, isNew := c.pins.SetIfAbsent(one.UID, one.annotated)
		if !isNew && first != one.annotated {
			c.reportAnnotation(one)
			one.Username = first
		}
	}
	return pods
}

func (c *Cluster) reportAnnotation(of *pod) {
	c.observer.KubeAnnotationChanged()
	c.log.Warn("a pod's user was changed after it was first seen, which is ignored (rule 6)", "namespace", of.Namespace, "pod", of.Name, "uid", of.UID)
}
