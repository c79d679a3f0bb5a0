package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// BoundPod is the pod that a service-account token is bound to.
type BoundPod struct{ Namespace, Name, UID, ServiceAccount string }

// ServiceAccounts verifies service-account tokens of the cluster: signature, issuer, our audience,
// expiry. Its error is ErrBearer for one that is not good, and anything else where that cannot be
// told now. Whether the pod lives is for Pods to say.
type ServiceAccounts interface {
	Verify(ctx context.Context, token string) (BoundPod, error)
}

type originKey struct{}

// OriginOf is where the request of a context that Verify got comes from: the address by which requests of
// one origin are counted together (Peer.Network). It is invalid where it is not known.
func OriginOf(ctx context.Context) netip.Addr {
	origin, _ := ctx.Value(originKey{}).(netip.Addr)
	return origin
}

// unverifiedForm tells service-account tokens from others by a claim that only they have. Nothing is
// trusted by it: it chooses who verifies.
type unverifiedForm struct {
	Issuer     string          `json:"iss"`
	Purpose    string          `json:"pur"`
	Session    string          `json:"sid"`
	Kubernetes *kubernetesPart `json:"kubernetes.io"`
	threeParts bool
}

// kubernetesPart is what the API server writes into the tokens that it binds.
type kubernetesPart struct {
	Namespace      string    `json:"namespace"`
	Pod            *boundRef `json:"pod"`
	ServiceAccount *boundRef `json:"serviceaccount"`
}

type boundRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// serviceAccount takes the caller for the pod that the token is bound to (kubernetes.md rule 10).
func (a *Authenticator) serviceAccount(r *http.Request, token string) (Caller, error) {
	if a.serviceAccounts == nil {
		return Caller{}, fmt.Errorf("%w: service-account tokens are off here; an operator turns them on with kubernetes.service_account.audience", ErrBearer)
	}
	origin := context.WithValue(r.Context(), originKey{}, a.Peer(r).Network())
	bound, err := a.serviceAccounts.Verify(origin, token)
	switch {
	case errors.Is(err, ErrBearer):
		return Caller{}, err
	case err != nil:
		return Caller{}, outage(err)
	}
	pod, err := a.pods.PodNamed(r.Context(), bound.Namespace, bound.Name, bound.UID)
	switch {
	case errors.Is(err, ErrUnknown):
		return Caller{}, fmt.Errorf("%w: rule 10: the pod that it is bound to is gone", ErrBearer)
	case err != nil:
		return Caller{}, podFailure(err)
	case pod.ServiceAccount != bound.ServiceAccount:
		return Caller{}, fmt.Errorf("%w: rule 10: the pod runs as another service account", ErrBearer)
	}
	return a.userOf(r.Context(), pod, ServiceAccount)
}

// LocalTokens verifies service-account tokens by the cluster's published keys. The verifier is of the
// cluster's issuer, for our audience; it is asked for anew while there is none, since the issuer's
// name is the API server's to tell.
type LocalTokens struct {
	Verifier func(ctx context.Context) (*verifier.Verifier, error)
}

// Verify implements ServiceAccounts.
func (l LocalTokens) Verify(ctx context.Context, token string) (BoundPod, error) {
	tokens, err := l.Verifier(ctx)
	if err != nil {
		return BoundPod{}, err
	}
	claims, err := tokens.Verify(ctx, token)
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		return BoundPod{}, err
	case err != nil:
		return BoundPod{}, fmt.Errorf("%w: rule 10: %w", ErrBearer, err)
	}
	var form unverifiedForm // verified by now
	if err := claims.Decode(&form); err != nil || form.Kubernetes == nil || form.Kubernetes.Pod == nil || form.Kubernetes.ServiceAccount == nil {
		return BoundPod{}, fmt.Errorf("%w: rule 10: it is bound to no pod", ErrBearer)
	}
	return BoundPod{
		Namespace: form.Kubernetes.Namespace, Name: form.Kubernetes.Pod.Name, UID: form.Kubernetes.Pod.UID,
		ServiceAccount: form.Kubernetes.ServiceAccount.Name,
	}, nil
}

// Signed tells whether the cluster signed a token, before the API server is asked about it. Its error is
// ErrBearer where the published keys show that the cluster did not. It says neither of another issuer's
// token that these keys have signed, nor of any while the keys cannot be had: the API server has to tell.
func (l LocalTokens) Signed(ctx context.Context, token string) (bool, error) {
	_, err := l.Verify(ctx, token)
	if errors.Is(err, ErrBearer) && !errors.Is(err, verifier.ErrIssuer) {
		return false, err
	}
	return err == nil, nil
}

// ServiceAccountTokens are the verifier's options for such tokens: their header states no type.
func ServiceAccountTokens() verifier.Option { return verifier.WithTypes("", "JWT") }
