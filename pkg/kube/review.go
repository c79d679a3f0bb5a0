package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// Reviewer lets the API server verify service-account tokens. It implements authn.ServiceAccounts.
type Reviewer struct {
	*Cluster
	Audience string
}

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
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	if err := r.limiter.Wait(ctx); err != nil {
		return authn.BoundPod{}, errBusy
	}
	r.observer.KubeCall("tokenreview")
	review := authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.Audience}}}
	if err := r.authn.Post().Resource("tokenreviews").Body(&review).Do(ctx).Into(&review); err != nil {
		return authn.BoundPod{}, fmt.Errorf("asking the API server to review a token: %w", err)
	}
	bound, err := r.read(review.Status)
	r.reviews.Set(key, reviewed{bound, err})
	return bound, err
}

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
