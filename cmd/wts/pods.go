package main

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// addPods adds the proofs of workers: by a file, by the cluster.
func (s *service) addPods(ctx context.Context, callers *authn.Parts) (err error) {
	workers := authn.NewStaticWorkers(s.config.Authn.Workers)
	if !s.config.Kube.Enabled {
		callers.Pods = workers
		return nil
	}
	if s.cluster, err = kube.New(s.config.Kube, s.metrics, s.log); err != nil {
		return err
	}
	callers.Pods = pods{workers: workers, Cluster: s.cluster, byAddress: !s.config.Kube.DisablePeerAddress}
	account := s.config.Kube.ServiceAccount
	if account.Audience == "" {
		return nil
	}
	tokens := &clusterTokens{base: ctx, cluster: s.cluster, audience: account.Audience}
	local := authn.LocalTokens{Verifier: tokens.get}
	callers.ServiceAccounts = local
	if account.Verify == kube.VerifyReview {
		callers.ServiceAccounts = kube.Reviewer{Cluster: s.cluster, Audience: account.Audience, Signed: local.Signed}
	}
	return nil
}

// pods are the workers of the file, and the cluster's.
type pods struct {
	*kube.Cluster
	workers   authn.StaticWorkers
	byAddress bool // an address proves a pod
}

// PodAt implements authn.Pods.
func (p pods) PodAt(ctx context.Context, peer netip.Addr) (authn.Pod, error) {
	if worker, err := p.workers.PodAt(ctx, peer); err == nil || !p.byAddress {
		return worker, err
	}
	return p.Cluster.PodAt(ctx, peer)
}

// clusterTokens makes the verifier of the cluster's tokens when the first one comes: who issues them
// is the API server's to tell, and it may be away at the start.
type clusterTokens struct {
	base     context.Context //nolint:containedctx // bounds the verifier's fetches, which outlive a request
	cluster  *kube.Cluster
	audience string

	asking singleflight.Group
	ready  atomic.Pointer[verifier.Verifier]
	failed atomic.Pointer[failure]
}

// failure is why there was no verifier, and when.
type failure struct {
	err  error
	when time.Time
}

// askAgain is how long a failure counts: made-up tokens must not have the API server asked each time.
const askAgain = time.Second

// get returns the verifier. Whoever comes while the API server is asked waits for that answer, for as
// long as their own context lasts; nothing is locked over the call.
func (c *clusterTokens) get(ctx context.Context) (*verifier.Verifier, error) {
	if ready := c.ready.Load(); ready != nil {
		return ready, nil
	}
	if failed := c.failed.Load(); failed != nil && time.Since(failed.when) < askAgain {
		return nil, failed.err
	}
	asked := c.asking.DoChan("", func() (any, error) {
		// Not the caller's context: one who goes away would fail the others.
		ctx, cancel := context.WithTimeout(c.base, 3*time.Second)
		defer cancel()
		issuer, keys, err := c.cluster.Issuer(ctx)
		if err != nil {
			c.failed.Store(&failure{err, time.Now()})
			return nil, err
		}
		made, err := verifier.New(c.base, issuer, c.audience, authn.ServiceAccountTokens(),
			verifier.WithKeySetURL(keys), verifier.WithHTTPClient(c.cluster.HTTPClient()))
		if err == nil {
			c.ready.Store(made)
		}
		return made, err
	})
	select {
	case answer := <-asked:
		made, _ := answer.Val.(*verifier.Verifier)
		return made, answer.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
