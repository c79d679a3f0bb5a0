package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// inCluster is a replica whose workers are pods. The loopback addresses are the pods'.
func inCluster(t *testing.T, change ...func(*config.Config)) (*replica, *kubetest.Server) {
	t.Helper()
	cluster := kubetest.Start(t)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(cluster.Kubeconfig()), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, append([]func(*config.Config){func(c *config.Config) {
		c.Authn.Workers = nil
		c.Kube = kube.Config{Enabled: true, Kubeconfig: kubeconfig, Namespaces: []string{"work"}, ServiceAccount: kube.ServiceAccountConfig{Audience: "wts"}}
	}}, change...)...)
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "alice")
	return r, cluster
}

// eventually waits for at most five seconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// refusal is what the audit has to say of a request.
func (r *replica) refusal(t *testing.T, got answer, reason string) bool {
	t.Helper()
	r.service.log.Warn("a warning, which writes out what came before it")
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, got.header.Get("X-Request-Id")) {
			return strings.Contains(line, `"audit":`) && strings.Contains(line, `"outcome":"refused"`) && strings.Contains(line, reason)
		}
	}
	return false
}

// The attack suite: kubernetes.md's rules and those of docs/security.md under E, through the whole service. Each
// attack ends in 401 or 403 and an audit event that says why.
func TestAttacksOnPodIdentity(t *testing.T) {
	r, cluster := inCluster(t)
	now := metav1.Now()
	with := func(pod *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
		change(pod)
		cluster.Put(pod)
		return pod
	}
	as := func(*corev1.Pod) {}
	alice := with(kubetest.Pod("work", "alice", "127.0.0.2", "alice"), as)
	with(kubetest.Pod("work", "host", "127.0.1.1", "alice"), func(p *corev1.Pod) { p.Spec.HostNetwork = true })
	with(kubetest.Pod("work", "node", "127.0.9.9", "alice"), func(p *corev1.Pod) { p.Status.HostIP = "127.0.1.2" })
	with(kubetest.Pod("work", "done", "127.0.1.3", "alice"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	with(kubetest.Pod("work", "failed", "127.0.1.4", "alice"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	going := with(kubetest.Pod("work", "going", "127.0.1.5", "alice"), func(p *corev1.Pod) { p.DeletionTimestamp = &now })
	with(kubetest.Pod("work", "twin-1", "127.0.1.6", "alice"), as)
	with(kubetest.Pod("work", "twin-2", "127.0.1.6", "mallory"), as)
	outside := with(kubetest.Pod("elsewhere", "alice", "127.0.1.7", "alice"), as)
	with(kubetest.Pod("work", "blank", "127.0.1.8", ""), as)
	late := with(kubetest.Pod("work", "late", "127.0.1.9", "mallory"), as)
	deleted := with(kubetest.Pod("work", "deleted", "127.0.1.10", "alice"), as)
	with(kubetest.Pod("work", "last", "127.0.1.11", "alice"), as)
	eventually(t, "the pods are known", func() bool { return r.from(t, "127.0.1.11", "/token/").status == http.StatusOK })
	late.Annotations["gen3username"] = "alice"
	cluster.Put(late)
	cluster.Delete("work", "deleted")
	with(kubetest.Pod("work", "marker", "127.0.1.12", "alice"), as)
	eventually(t, "the changes are known", func() bool { return r.from(t, "127.0.1.12", "/token/").status == http.StatusOK })

	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	token := cluster.Token(alice, "wts")
	if got := r.from(t, "127.0.0.2", "/token/"); got.status != http.StatusOK {
		t.Fatalf("alice's pod: %d %s", got.status, got.body)
	}
	for _, path := range []string{"/token/", "/token/?idp=first", "/token/?audience=storage"} {
		if got := r.from(t, "127.0.7.7", path, bearer(token)...); got.status != http.StatusOK {
			t.Fatalf("%s with a service-account token, from anywhere: %d %s", path, got.status, got.body)
		}
	}

	for name, row := range map[string]struct {
		from    string
		headers []string
		status  int
		reason  string
	}{
		"E1: X-Forwarded-For":                      {from: "127.0.8.1", headers: []string{"X-Forwarded-For", "127.0.0.2"}, status: 403, reason: "nothing says who is calling"},
		"E1: Forwarded":                            {from: "127.0.8.1", headers: []string{"Forwarded", "for=127.0.0.2"}, status: 403, reason: "nothing says who is calling"},
		"E1: X-Real-IP, X-UserId, REMOTE_USER":     {from: "127.0.8.1", headers: []string{"X-Real-IP", "127.0.0.2", "X-UserId", "alice", "REMOTE_USER", "alice"}, status: 403, reason: "nothing says who is calling"},
		"E3: a pod on its node's network":          {from: "127.0.1.1", status: 403, reason: "rule 2"},
		"E3: a node's own address":                 {from: "127.0.1.2", status: 403, reason: "rule 2"},
		"E4: two living pods":                      {from: "127.0.1.6", status: 403, reason: "rule 4"},
		"E5: a pod that succeeded":                 {from: "127.0.1.3", status: 403, reason: "nothing says who is calling"},
		"E5: a pod that failed":                    {from: "127.0.1.4", status: 403, reason: "nothing says who is calling"},
		"E5: a pod that is being deleted":          {from: "127.0.1.5", status: 403, reason: "nothing says who is calling"},
		"E6: the address of a pod that is gone":    {from: "127.0.1.10", status: 403, reason: "nothing says who is calling"},
		"E8, E10: an address that is no pod's":     {from: "127.0.8.2", status: 403, reason: "nothing says who is calling"},
		"E11: a namespace that does not count":     {from: "127.0.1.7", status: 403, reason: "nothing says who is calling"},
		"E11: an empty annotation":                 {from: "127.0.1.8", status: 403, reason: "rule 5"},
		"E11: an annotation changed afterwards":    {from: "127.0.1.9", status: 403, reason: "the user is not connected"},
		"a browser in alice's pod":                 {from: "127.0.0.2", headers: []string{"Sec-Fetch-Mode", "cors"}, status: 403, reason: "nothing says who is calling"},
		"E13: another audience":                    {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "vault")), status: 401, reason: "rule 10"},
		"E13: expired":                             {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) { c["exp"] = time.Now().Add(-time.Second).Unix() })), status: 401, reason: "rule 10"},
		"E13: without an expiry, as legacy tokens": {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) { delete(c, "exp") })), status: 401, reason: "rule 10"},
		"E13: of another cluster":                  {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) { c["iss"] = "https://other-cluster" })), status: 401, reason: "rule 10"},
		"E13: signed by another cluster":           {from: "127.0.0.2", headers: bearer(kubetest.Start(t).Token(alice, "wts")), status: 401, reason: "rule 10"},
		"E13: bound to no pod": {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) {
			c["kubernetes.io"] = map[string]any{"namespace": "work", "serviceaccount": map[string]string{"name": "worker"}}
		})), status: 401, reason: "rule 10"},
		"E13: bound to a pod that is gone":          {from: "127.0.0.2", headers: bearer(cluster.Token(deleted, "wts")), status: 401, reason: "rule 10"},
		"E13: bound to a pod that is being deleted": {from: "127.0.0.2", headers: bearer(cluster.Token(going, "wts")), status: 401, reason: "rule 10"},
		"E13: bound to another pod of that name": {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) {
			c["kubernetes.io"].(map[string]any)["pod"] = map[string]string{"name": "alice", "uid": "another"}
		})), status: 401, reason: "rule 10"},
		"E13: of a service account the pod does not run as": {from: "127.0.0.2", headers: bearer(cluster.Token(alice, "wts", func(c map[string]any) {
			c["kubernetes.io"].(map[string]any)["serviceaccount"] = map[string]string{"name": "admin"}
		})), status: 401, reason: "rule 10"},
		"E13: of a namespace that does not count": {from: "127.0.0.2", headers: bearer(cluster.Token(outside, "wts")), status: 403, reason: "rule 5"},
		"E13: tampered with":                      {from: "127.0.0.2", headers: bearer(token[:len(token)-4] + "AAAA"), status: 401, reason: "rule 10"},
		"E13: not signed":                         {from: "127.0.0.2", headers: bearer("eyJhbGciOiJub25lIn0." + strings.Split(token, ".")[1] + "."), status: 401, reason: "rule 10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := r.from(t, row.from, "/token/", row.headers...)
			if got.status != row.status || got.member("message") == "" {
				t.Errorf("answered %d %s, want %d", got.status, got.body, row.status)
			}
			if !r.refusal(t, got, row.reason) {
				t.Errorf("no audit event says %q", row.reason)
			}
		})
	}
	t.Run("rule 11: a pod's proof is enough for tokens and nothing else", func(t *testing.T) {
		for _, headers := range [][]string{nil, bearer(token)} {
			for _, path := range []string{"/oauth2/logout?idp=first"} {
				got := r.send(t, http.MethodPost, "127.0.0.2", path, headers...)
				if got.status != http.StatusUnauthorized || !r.refusal(t, got, "sign in first") {
					t.Errorf("%s: %d %s", path, got.status, got.body)
				}
			}
			if got := r.from(t, "127.0.0.2", "/oauth2/authorization_url?idp=second", headers...); got.status != http.StatusUnauthorized {
				t.Errorf("connecting a provider: %d", got.status)
			}
		}
		if got := r.from(t, "127.0.0.2", "/token/"); got.status != http.StatusOK {
			t.Errorf("the connection is gone: %d", got.status)
		}
	})
}

// Security.md E2: through a trusted proxy nobody is a pod.
func TestNobodyIsAPodThroughATrustedProxy(t *testing.T) {
	r, cluster := inCluster(t, func(c *config.Config) { c.Authn.TrustedProxies = []string{"127.0.0.2"} })
	alice := kubetest.Pod("work", "alice", "127.0.0.2", "alice")
	cluster.Put(alice)
	cluster.Put(kubetest.Pod("work", "other", "127.0.0.4", "alice"))
	eventually(t, "the pods are known", func() bool { return r.from(t, "127.0.0.4", "/token/").status == http.StatusOK })
	for _, headers := range [][]string{nil, {"X-Forwarded-For", "127.0.0.4"}} {
		if got := r.from(t, "127.0.0.2", "/token/", headers...); got.status != http.StatusForbidden || !r.refusal(t, got, "nothing says") {
			t.Errorf("%v: %d %s", headers, got.status, got.body)
		}
	}
	if got := r.from(t, "127.0.0.2", "/token/", "Authorization", "Bearer "+cluster.Token(alice, "wts")); got.status != http.StatusOK {
		t.Errorf("a service-account token does not depend on an address: %d %s", got.status, got.body)
	}
}

// Where the API server reviews tokens, its published keys keep made-up ones from it.
func TestMadeUpTokensAreNotReviewed(t *testing.T) {
	r, cluster := inCluster(t, func(c *config.Config) { c.Kube.ServiceAccount.Verify = kube.VerifyReview })
	alice := kubetest.Pod("work", "alice", "127.0.0.2", "alice")
	cluster.Put(alice)
	good := []string{"Authorization", "Bearer " + cluster.Token(alice, "wts")}
	eventually(t, "the pod is known", func() bool { return r.from(t, "127.0.0.2", "/token/", good...).status == http.StatusOK })
	_, before := cluster.Calls()
	other := kubetest.Start(t)
	for range 100 {
		if got := r.from(t, "127.0.0.9", "/token/", "Authorization", "Bearer "+other.Token(alice, "wts")); got.status != http.StatusUnauthorized {
			t.Fatalf("a token of another cluster: %d %s", got.status, got.body)
		}
	}
	if got := r.from(t, "127.0.0.2", "/token/", "Authorization", "Bearer "+cluster.Token(alice, "wts")); got.status != http.StatusOK {
		t.Errorf("another good token: %d %s", got.status, got.body)
	}
	if _, after := cluster.Calls(); after["tokenreview"]-before["tokenreview"] != 1 {
		t.Errorf("100 made-up tokens and a good one caused %d reviews", after["tokenreview"]-before["tokenreview"])
	}
}

// Security.md E7, F4; kubernetes.md rules 7 and 9.
func TestAnAPIServerThatIsAway(t *testing.T) {
	r, cluster := inCluster(t, func(c *config.Config) { c.Kube.MaxStale = 5 * time.Second })
	alice := kubetest.Pod("work", "alice", "127.0.0.2", "alice")
	cluster.Put(alice)
	eventually(t, "the pod is known", func() bool { return r.from(t, "127.0.0.2", "/token/").status == http.StatusOK })
	bearer := []string{"Authorization", "Bearer " + cluster.Token(alice, "wts")}
	if got := r.from(t, "127.0.0.2", "/token/", bearer...); got.status != http.StatusOK {
		t.Fatalf("got %d %s; want 200", got.status, got.body)
	}
	cluster.SetDown(true)
	for name, headers := range map[string][]string{"by its address": nil, "by its token": bearer} {
		t.Run(name, func(t *testing.T) {
			if got := r.from(t, "127.0.0.2", "/token/", headers...); got.status != http.StatusOK {
				t.Errorf("a known pod %s, the server just gone: %d %s", name, got.status, got.body)
			}
		})
	}
	if got := r.from(t, "127.0.0.66", "/token/"); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("an unknown address: %d %s", got.status, got.body)
	}
	time.Sleep(5100 * time.Millisecond)
	for name, headers := range map[string][]string{"by its address": nil, "by its token": bearer} {
		t.Run(name, func(t *testing.T) {
			if got := r.from(t, "127.0.0.2", "/token/", headers...); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
				t.Errorf("a known pod %s, the server long gone: %d %s", name, got.status, got.body)
			}
		})
	}
	if got := r.call(t, nil, http.MethodGet, "/readyz"); got.status != http.StatusOK {
		t.Errorf("/readyz: %d", got.status)
	}
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	if got := r.call(t, browser, http.MethodGet, "/token/"); got.status != http.StatusOK {
		t.Errorf("the other proofs go on: %d %s", got.status, got.body)
	}
}

// The API server as the verifier of tokens, where its keys are not to be had.
func TestServiceAccountTokensByReview(t *testing.T) {
	r, cluster := inCluster(t, func(c *config.Config) {
		c.Kube.ServiceAccount.Verify = kube.VerifyReview
		c.Kube.DisablePeerAddress = true
	})
	alice, gone := kubetest.Pod("work", "alice", "127.0.0.2", "alice"), kubetest.Pod("work", "gone", "127.0.0.4", "alice")
	cluster.Put(alice)
	eventually(t, "the pod is known", func() bool {
		return r.from(t, "127.0.0.66", "/token/", "Authorization", "Bearer "+cluster.Token(alice, "wts")).status == http.StatusOK
	})
	if got := r.from(t, "127.0.0.2", "/token/"); got.status != http.StatusForbidden {
		t.Errorf("an address proves nothing here: %d", got.status)
	}
	for name, token := range map[string]string{
		"another audience": cluster.Token(alice, "vault"),
		"bound to no pod":  cluster.Token(alice, "wts", func(c map[string]any) { c["kubernetes.io"] = map[string]any{"namespace": "work"} }),
		"a pod that is gone, which the server still accepts": cluster.Token(gone, "wts"),
		"another cluster": kubetest.Start(t).Token(alice, "wts"),
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.from(t, "127.0.0.66", "/token/", "Authorization", "Bearer "+token); got.status != http.StatusUnauthorized || !r.refusal(t, got, "rule 10") {
				t.Errorf(`got %d %s; want 401 by rule 10`, got.status, got.body)
			}
		})
	}
}

func (r *replica) from(t *testing.T, address, path string, headers ...string) answer {
	t.Helper()
	return r.send(t, http.MethodGet, address, path, headers...)
}

// send calls from an address, with a connection of its own.
func (r *replica) send(t *testing.T, method, address, path string, headers ...string) answer {
	t.Helper()
	client := clientAt(address)
	client.Transport.(*http.Transport).DisableKeepAlives = true
	return r.call(t, client, method, path, headers...)
}
