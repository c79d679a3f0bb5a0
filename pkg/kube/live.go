package kube

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

// live asks the API server, in a turn that begins after this call and is shared with all who wait for it.
// What it finds is pinned.
func (c *Cluster) live(ctx context.Context, wanted want, thorough bool) (found, error) {
	shared, err := c.turns.ask(ctx, wanted, thorough)
	if err != nil {
		return found{}, err
	}
	mine := found{node: shared.node}
	for _, one := range shared.pods {
		if pinned := c.pinned(one); pinned != nil {
			mine.pods = append(mine.pods, pinned)
		}
	}
	return mine, nil
}

// listOne asks for the pods at an address, in each namespace that counts, or for the one of a name.
func (c *Cluster) listOne(ctx context.Context, only want, visit func(*pod)) error {
	scopes, selector := c.scopes(), "status.podIP="+only.address.String()
	if !only.address.IsValid() {
		scopes, selector = []string{only.namespace}, "metadata.name="+only.name
	}
	return each(ctx, scopes, visit, func(ctx context.Context, namespace string, visit func(*pod)) error {
		return c.listIn(ctx, namespace, selector, func(of *corev1.Pod) { visit(c.read(of)) })
	})
}

// listAll asks for all pods, as far as they have to do with what is wanted.
func (c *Cluster) listAll(ctx context.Context, wants map[want]*found, visit func(*pod)) error {
	return each(ctx, c.scopes(), visit, func(ctx context.Context, namespace string, visit func(*pod)) error {
		return c.wholes[namespace].list(ctx, wants, visit)
	})
}

// each asks in several namespaces at once; visit is given one pod at a time.
func each(ctx context.Context, scopes []string, visit func(*pod), list func(ctx context.Context, namespace string, visit func(*pod)) error) error {
	var mu sync.Mutex
	asking, ctx := errgroup.WithContext(ctx)
	for _, namespace := range scopes {
		asking.Go(func() error {
			return list(ctx, namespace, func(seen *pod) {
				mu.Lock()
				defer mu.Unlock()
				visit(seen)
			})
		})
	}
	if err := asking.Wait(); err != nil {
		return fmt.Errorf("asking the API server for pods: %w", err)
	}
	return nil
}

// listIn lists the pods of a namespace, and hands each to visit. No resource version is named: that means the most
// recent state, where 0 would mean whatever a cache of the API server holds.
func (c *Cluster) listIn(ctx context.Context, namespace, selector string, visit func(*corev1.Pod)) error {
	c.observer.KubeCall("list")
	// Compressing what goes through the cluster's own network would cost both sides more than the rest.
	request := c.core.Get().Namespace(namespace).Resource("pods").SetHeader("Accept", podFormats).SetHeader("Accept-Encoding", "identity")
	if selector != "" {
		request.Param("fieldSelector", selector)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	return readPods(body, visit)
}

// pinned gives a pod that was just read the annotation that it had at first sight (rule 6). It is nil
// where the watch has said meanwhile that the pod is gone; where the watch knows better how it is, that
// counts. The pod itself is shared, and stays as it is.
func (c *Cluster) pinned(seen *pod) *pod {
	if _, gone := c.gone.GetIfPresent(seen.UID); gone {
		return nil
	}
	fresh := *seen
	if known := c.index.of(fresh.UID); known != nil {
		fresh.Username = known.Username
		fresh.ended, fresh.terminating = fresh.ended || known.ended, fresh.terminating || known.terminating
		return &fresh
	}
	fresh.Username = pin(c.pins, &fresh)
	if fresh.Username != fresh.annotated {
		c.reportAnnotation(&fresh)
	}
	return &fresh
}

// reportAnnotation reports a pod whose annotation changed after it was first seen, which is ignored (rule 6).
func (c *Cluster) reportAnnotation(of *pod) {
	c.observer.KubeAnnotationChanged()
	c.log.Warn("a pod's user was changed after it was first seen, which is ignored (rule 6)", "namespace", of.Namespace, "pod", of.Name, "uid", of.UID)
}
