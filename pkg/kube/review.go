package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// Reviewer lets the API server verify service-account tokens. It implements authn.ServiceAccounts.
type Reviewer struct {
	*Cluster
	Audience string
	// Signed, where it is set, tells by the issuer's published keys whether the cluster signed a token.
	// Its error is authn.ErrBearer for one that the API server cannot accept; where the keys tell nothing,
	// it says neither.
	Signed func(ctx context.Context, token string) (signed bool, err error)
}

// reviewTimeout bounds one review, and the wait for it.
const reviewTimeout = 3 * time.Second

// reviewed is a verdict that is a few seconds old.
type reviewed struct {
	bound authn.BoundPod
	err   error
}

// The extra fields in which the API server says what a token is bound to.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// Verify implements authn.ServiceAccounts. A verdict is kept for ten seconds; whether the pod lives is
// asked apart from that, and each time.
func (r Reviewer) Verify(ctx context.Context, token string) (authn.BoundPod, error) {
	key := sha256.Sum256([]byte(token))
	if known, ok := r.reviews.GetIfPresent(key); ok {
		return known.bound, known.err
	}
	uid, why := r.hopeless(token)
	if why != "" { // nobody needs to be asked
		return authn.BoundPod{}, fmt.Errorf("%w: rule 10: %s", authn.ErrBearer, why)
	}
	signed := false
	if r.Signed != nil {
		var err error
		if signed, err = r.Signed(ctx, token); err != nil {
			return authn.BoundPod{}, err
		}
	}
	answer, err, _ := r.flights.Do("review "+string(key[:]), func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		if !signed {
			if err := r.lanes.enter(ctx, key, uid, authn.OriginOf(ctx)); err != nil {
				return nil, err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
		defer cancel()
		r.observer.KubeCall("tokenreview")
		review := authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.Audience}}}
		if err := r.authn.Post().Resource("tokenreviews").Body(&review).Do(ctx).Into(&review); err != nil {
			return nil, fmt.Errorf("asking the API server to review a token: %w", err)
		}
		bound, err := r.read(review.Status)
		r.lanes.remember(key, bound.UID, err == nil)
		r.reviews.Set(key, &reviewed{bound, err})
		return reviewed{bound, err}, nil
	})
	if err != nil {
		return authn.BoundPod{}, err
	}
	verdict, _ := answer.(reviewed)
	return verdict.bound, verdict.err
}

// hopeless says why a token cannot pass, from what it claims and before it is verified: only one that
// names our audience, a pod and a time to come is worth a question. The pod's UID is claimed, not proven.
func (r Reviewer) hopeless(token string) (uid, why string) {
	var claims struct {
		Audience   any     `json:"aud"`
		ExpiresAt  float64 `json:"exp"`
		Kubernetes struct {
			Pod struct {
				UID string `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := unverified.Claims(token, &claims); err != nil {
		return "", err.Error()
	}
	audiences, _ := claims.Audience.([]any)
	switch {
	case claims.Audience != r.Audience && !slices.Contains(audiences, any(r.Audience)):
		return "", "it is for another audience"
	case claims.ExpiresAt <= float64(r.now().Unix()):
		return "", "it has expired"
	case claims.Kubernetes.Pod.UID == "":
		return "", "it is bound to no pod"
	}
	return claims.Kubernetes.Pod.UID, ""
}

// read takes the verdict of the API server and nothing else: the claims that were read before count for nothing here.
func (r Reviewer) read(status authenticationv1.TokenReviewStatus) (authn.BoundPod, error) {
	refused := func(why string) (authn.BoundPod, error) {
		return authn.BoundPod{}, fmt.Errorf("%w: rule 10: %s", authn.ErrBearer, why)
	}
	first := func(name string) string {
		if values := status.User.Extra[name]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	rest, ok := strings.CutPrefix(status.User.Username, "system:serviceaccount:")
	namespace, account, named := strings.Cut(rest, ":")
	switch {
	case !status.Authenticated:
		return refused("the API server does not accept it")
	case !slices.Contains(status.Audiences, r.Audience):
		return refused("it is for another audience")
	case !ok || !named:
		return refused("it is of no service account")
	case first(extraPodName) == "" || first(extraPodUID) == "":
		return refused("it is bound to no pod")
	}
	return authn.BoundPod{Namespace: namespace, Name: first(extraPodName), UID: first(extraPodUID), ServiceAccount: account}, nil
}
