package kube_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

// reviewing is an authenticator that has tokens reviewed.
type reviewing struct {
	*cluster
	callers *authn.Authenticator
}

type directory struct{}

func (directory) UserByID(context.Context, string) (authn.User, error) {
	return authn.User{}, authn.ErrUnknown
}

func (directory) UserByName(_ context.Context, name string) (authn.User, error) {
	return authn.User{ID: name, Username: name}, nil
}

func (directory) UserBySubject(context.Context, string, string, string) (authn.User, error) {
	return authn.User{}, authn.ErrUnknown
}

func newReviewing(t *testing.T, signed func(context.Context, string) (bool, error)) *reviewing {
	t.Helper()
	w := newCluster(t, kube.Config{})
	w.settle(t)
	return &reviewing{w, authn.New(authn.Parts{
		Directory: directory{}, Pods: w.Cluster, ServiceAccounts: kube.Reviewer{Cluster: w.Cluster, Audience: "wts", Signed: signed},
	})}
}

// send presents a token from an address.
func (r *reviewing) send(token, from string) error {
	request := httptest.NewRequest(http.MethodGet, "/token", nil)
	request.RemoteAddr = from + ":40000"
	if strings.Contains(from, ":") {
		request.RemoteAddr = "[" + from + "]:40000"
	}
	request.Header.Set("Authorization", "Bearer "+token)
	_, err := r.callers.Authenticate(request, r.callers.Peer(request), authn.Accepts{ServiceAccount: true})
	return err
}

func (r *reviewing) reviews() int {
	_, calls := r.server.Calls()
	return calls["tokenreview"]
}

// flood presents made-up tokens from some addresses until stop is called.
func (r *reviewing) flood(victim *corev1.Pod, from []string) (stop func()) {
	ended := make(chan struct{})
	var number atomic.Int64
	var all sync.WaitGroup
	for _, address := range from {
		all.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(20 * time.Millisecond):
					_ = r.send(madeUp(victim, number.Add(1)), address)
				}
			}
		})
	}
	return func() { close(ended); all.Wait() }
}

// madeUp is a token that names a pod, and that nobody has signed.
func madeUp(pod *corev1.Pod, number int64) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"ES256","kid":"1"}`)) + "." + encode(fmt.Appendf(nil,
		`{"iss":%q,"aud":["wts"],"exp":9999999999,"jti":"%d","kubernetes.io":{"namespace":"work","pod":{"name":%q,"uid":%q},"serviceaccount":{"name":"worker"}}}`,
		kubetest.Issuer, number, pod.Name, pod.UID)) + "." + encode(make([]byte, 64))
}

// Where the issuer's keys cannot be had: the token that was good, a new one of its pod, and
// those of other pods are good beside a flood from many addresses, and from many of one IPv6 network.
func TestMadeUpTokensKeepNoGoodOneWaiting(t *testing.T) {
	t.Parallel()
	r := newReviewing(t, nil)
	alice := kubetest.Pod("work", "alice", "10.0.0.1", "alice")
	r.server.Put(alice)
	known := r.server.Token(alice, "wts")
	if err := r.send(known, "10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	var from []string
	for i := range 30 {
		from = append(from, fmt.Sprintf("10.9.0.%d", i), fmt.Sprintf("fd00::%x", i+1))
	}
	before, began := r.reviews(), time.Now()
	stop := r.flood(alice, from)
	time.Sleep(time.Second)
	var all sync.WaitGroup
	for i := range 20 {
		pod := kubetest.Pod("work", fmt.Sprint("pod-", i), fmt.Sprintf("10.0.1.%d", i), "bob")
		r.server.Put(pod)
		token := r.server.Token(pod, "wts")
		for range 30 { // a pod that begins makes several requests at once
			all.Go(func() {
				if err := r.send(token, fmt.Sprintf("10.0.1.%d", i)); err != nil {
					t.Errorf("a new pod: %v", err)
				}
			})
		}
	}
	all.Wait()
	if err := r.send(known, "10.9.0.1"); err != nil { // even from an address that others use up
		t.Errorf("a token that was good: %v", err)
	}
	stop()
	if rate := float64(r.reviews()-before) / time.Since(began).Seconds(); rate > 700 { // 20 of each of 31 origins at once, then 5 a second
		t.Errorf("%.0f reviews a second", rate)
	}
	eventually(t, "a verdict is ten seconds old", func() bool { return time.Since(began) > 9*time.Second })
	stop = r.flood(alice, from)
	time.Sleep(time.Until(began.Add(11 * time.Second)))
	for range 20 {
		if err := r.send(known, "10.9.0.1"); err != nil {
			t.Errorf("a token that was good, reviewed again: %v", err)
		}
	}
	stop()
}

// A pod that had a good token may come with a new one from an origin that others use up.
func TestAPodThatWasGoodHasAReservedShare(t *testing.T) {
	t.Parallel()
	r := newReviewing(t, nil)
	alice, other := kubetest.Pod("work", "alice", "10.0.0.1", "alice"), kubetest.Pod("work", "other", "10.0.0.2", "bob")
	r.server.Put(alice)
	r.server.Put(other)
	if err := r.send(r.server.Token(alice, "wts"), "10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		_ = r.send(madeUp(other, int64(i)), "10.9.0.1")
	}
	if err := r.send(r.server.Token(other, "wts"), "10.9.0.1"); !outage(err) {
		t.Errorf("a pod that is not known yet, from there: %v; want that it cannot be told now", err)
	}
	if err := r.send(r.server.Token(alice, "wts"), "10.9.0.1"); err != nil {
		t.Errorf("a new token of a pod that is known: %v", err)
	}
	for i := range 50 { // a network of IPv6 is one origin
		_ = r.send(madeUp(other, int64(100+i)), fmt.Sprintf("fd00::%x", i+1))
	}
	if err := r.send(r.server.Token(other, "wts"), "fd00::ff"); !outage(err) {
		t.Errorf("a pod that is not known yet, from that network: %v; want that it cannot be told now", err)
	}
}

// Where the issuer's keys can be had, what is made up never reaches the API server, and what is signed needs
// no share.
func TestMadeUpTokensDoNotReachTheServer(t *testing.T) {
	t.Parallel()
	r := newReviewing(t, func(_ context.Context, token string) (bool, error) {
		if strings.HasSuffix(token, strings.Repeat("A", 86)) {
			return false, fmt.Errorf("%w: the signature does not hold", authn.ErrBearer)
		}
		return true, nil
	})
	alice := kubetest.Pod("work", "alice", "10.0.0.1", "alice")
	r.server.Put(alice)
	for i := range 50 {
		if err := r.send(madeUp(alice, int64(i)), "10.0.0.1"); !errors.Is(err, authn.ErrBearer) {
			t.Fatalf("a made-up token: %v", err)
		}
	}
	if reviews := r.reviews(); reviews != 0 {
		t.Errorf("made-up tokens caused %d reviews", reviews)
	}
	for range 50 {
		if err := r.send(r.server.Token(alice, "wts"), "10.0.0.1"); err != nil {
			t.Errorf("a signed token: %v", err)
		}
	}
}
