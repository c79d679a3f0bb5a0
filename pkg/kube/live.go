package kube

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// liveTimeout bounds one question to the API server.
const liveTimeout = 3 * time.Second

// liveAt asks the API server for the pods at an address: one question for all who come before it is
// sent. Whoever comes later asks anew, since the address may have changed hands after the server read
// its answer. The server looks at a pod's first address only; others are found by the index.
func (c *Cluster) liveAt(ctx context.Context, peer netip.Addr) ([]*pod, error) {
	key := "at " + peer.String()
	answer, err, _ := c.flights.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liveTimeout)
		defer cancel()
		scopes := c.scopes()
		for range scopes {
			if err := c.limiter.Wait(ctx); err != nil {
				return nil, errBusy
			}
		}
		c.flights.Forget(key)
		lists := make([]corev1.PodList, len(scopes))
		asking, ctx := errgroup.WithContext(ctx)
		for at, namespace := range scopes {
			c.observer.KubeCall("list")
			asking.Go(func() error {
				return c.core.Get().Namespace(namespace).Resource("pods").Param("fieldSelector", "status.podIP="+peer.String()).Do(ctx).Into(&lists[at])
			})
		}
		if err := asking.Wait(); err != nil {
			return nil, fmt.Errorf("asking the API server for the pod at an address: %w", err)
		}
		var pods []*pod
		for _, list := range lists {
			for at := range list.Items {
				if fresh := c.pinned(c.read(&list.Items[at])); fresh != nil {
					pods = append(pods, fresh)
				}
			}
		}
		return pods, nil
	})
	if err != nil {
		return nil, err
	}
	pods, _ := answer.([]*pod)
	return pods, nil
}

// liveNamed asks the API server for a pod by its name.
func (c *Cluster) liveNamed(ctx context.Context, namespace, name string) (*pod, error) {
	key := "named " + namespace + "/" + name
	answer, err, _ := c.flights.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liveTimeout)
		defer cancel()
		if err := c.limiter.Wait(ctx); err != nil {
			return nil, errBusy
		}
		c.flights.Forget(key)
		c.observer.KubeCall("get")
		var of corev1.Pod
		err := c.core.Get().Namespace(namespace).Resource("pods").Name(name).VersionedParams(&metav1.GetOptions{}, metav1.ParameterCodec).Do(ctx).Into(&of)
		switch {
		case apierrors.IsNotFound(err):
			return nil, authn.ErrUnknown
		case err != nil:
			return nil, fmt.Errorf("asking the API server for a pod: %w", err)
		}
		if fresh := c.pinned(c.read(&of)); fresh != nil {
			return fresh, nil
		}
		return nil, authn.ErrUnknown
	})
	if err != nil {
		return nil, err
	}
	found, _ := answer.(*pod)
	return found, nil
}

// pinned gives a pod that was just read, and that nobody else has yet, the annotation that it had at
// first sight (rule 6). It is nil where the watch has said meanwhile that the pod is gone; where the
// watch knows better how it is, that counts.
func (c *Cluster) pinned(fresh *pod) *pod {
	if _, gone := c.gone.GetIfPresent(fresh.UID); gone {
		return nil
	}
	if known := c.index.of(fresh.UID); known != nil {
		fresh.Username = known.Username
		fresh.ended, fresh.terminating = fresh.ended || known.ended, fresh.terminating || known.terminating
		return fresh
	}
	fresh.Username, _ = c.pins.SetIfAbsent(fresh.UID, fresh.annotated)
	if fresh.Username != fresh.annotated {
		c.reportAnnotation(fresh)
	}
	return fresh
}

func (c *Cluster) reportAnnotation(of *pod) {
	c.observer.KubeAnnotationChanged()
	c.log.Warn("a pod's user was changed after it was first seen, which is ignored (rule 6)", "namespace", of.Namespace, "pod", of.Name, "uid", of.UID)
}
