//go:build kube

// Package kube tests against a real kube-apiserver and etcd, which `make test-kube` builds once.
package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
)

// The API server's users, by token. The ones beside admin have the rights that RBAC gives them.
const tokens = `admin-token,admin,admin,"system:masters"
wts-token,wts,wts
gen3-token,gen3,gen3
tenant-token,tenant,tenant
controller-token,system:serviceaccount:jupyterhub:hub,controller
`

// server is a real API server.
type server struct {
	*kubernetes.Clientset // as admin
	address               string
	dir, programs         string
	etcdPort, port        int
	etcd, api             *exec.Cmd
	issuer                *issuer
}

var running *server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	programs := os.Getenv("WTS_TEST_KUBE_PROGRAMS")
	dir, err := os.MkdirTemp("", "wts-kube-")
	if programs == "" || err != nil {
		fmt.Fprintln(os.Stderr, "run it by make test-kube", err)
		return 1
	}
	defer os.RemoveAll(dir)
	running = &server{dir: dir, programs: programs, etcdPort: freePort(), port: freePort()}
	defer running.stop()
	if err := running.startIssuer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := running.start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return instance.Main(m)
}

func freePort() int {
	port, err := instance.Port()
	if err != nil {
		panic(err)
	}
	return port
}

func (s *server) start() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": []byte(tokens),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	client := fmt.Sprintf("http://127.0.0.1:%d", s.etcdPort)
	peer := fmt.Sprintf("http://127.0.0.1:%d", freePort())
	s.etcd = exec.Command(filepath.Join(s.programs, "etcd"), "--data-dir", s.dir+"/etcd", "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "error")
	if err := s.etcd.Start(); err != nil {
		return err
	}
	if err := s.startAPI(); err != nil {
		return err
	}
	config := s.as("admin-token")
	s.Clientset, err = kubernetes.NewForConfig(config)
	return err
}

func (s *server) as(token string) *rest.Config {
	return &rest.Config{Host: s.address, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

func (s *server) startAPI() error {
	log, err := os.Create(s.dir + "/apiserver.log")
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("https://127.0.0.1:%d", s.port)
	const own = "https://kubernetes.default.svc.cluster.local"
	s.api = exec.Command(filepath.Join(s.programs, "kube-apiserver"),
		"--etcd-servers", fmt.Sprintf("http://127.0.0.1:%d", s.etcdPort), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(s.port),
		"--endpoint-reconciler-type", "none", "--cert-dir", s.dir+"/certs", "--service-cluster-ip-range", "10.96.0.0/24",
		"--authorization-mode", "RBAC", "--token-auth-file", s.dir+"/tokens.csv", "--enable-priority-and-fairness=false",
		"--service-account-issuer", own, "--api-audiences", own,
		"--service-account-signing-key-file", s.dir+"/sa.key", "--service-account-key-file", s.dir+"/sa.pub",
		"--oidc-issuer-url", s.issuer.URL, "--oidc-ca-file", s.issuer.authority, "--oidc-client-id", "cluster", "--oidc-signing-algs", "ES256",
		"--oidc-username-claim", "preferred_username", "--oidc-username-prefix", "wts:",
		// Nobody runs the controllers that make default service accounts and their tokens.
		"--disable-admission-plugins", "ServiceAccount")
	s.api.Stdout, s.api.Stderr = log, log
	if err := s.api.Start(); err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(s.as("admin-token"))
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		response, err := client.Get(s.address + "/readyz")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
	}
	tail, _ := os.ReadFile(s.dir + "/apiserver.log")
	return fmt.Errorf("the API server is not ready after 90 s:\n%s", tail[max(0, len(tail)-2000):])
}

func (s *server) stopAPI() {
	_ = s.api.Process.Kill()
	_ = s.api.Wait()
}

func (s *server) stop() {
	if s.issuer != nil {
		s.issuer.Close()
	}
	for _, command := range []*exec.Cmd{s.api, s.etcd} {
		if command != nil && command.Process != nil {
			_ = command.Process.Kill()
			_ = command.Wait()
		}
	}
}

// apply creates what the manifests of deploy/ hold.
func (s *server) apply(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/kubernetes/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		s.create(t, document)
	}
}

var resources = map[string]string{
	"ServiceAccount": "serviceaccounts", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
	"NetworkPolicy": "networkpolicies", "Pod": "pods",
	"ValidatingAdmissionPolicy": "validatingadmissionpolicies", "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}

// create posts a manifest; the server decodes it strictly.
func (s *server) create(t *testing.T, manifest []byte) {
	t.Helper()
	body, err := yaml.YAMLToJSON(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var of metav1.PartialObjectMetadata
	if err := json.Unmarshal(body, &of); err != nil {
		t.Fatal(err)
	}
	path := "/apis/" + of.APIVersion
	if of.APIVersion == "v1" {
		path = "/api/v1"
	}
	if of.Namespace != "" {
		s.namespace(t, of.Namespace)
		path += "/namespaces/" + of.Namespace
	}
	err = s.CoreV1().RESTClient().Post().AbsPath(path+"/"+resources[of.Kind]).Param("fieldValidation", "Strict").Body(body).Do(t.Context()).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("%s %s: %v", of.Kind, of.Name, err)
	}
}

func (s *server) namespace(t *testing.T, name string) {
	t.Helper()
	_, err := s.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// pod creates a pod; its status is set apart, as a kubelet does.
func (s *server) pod(t testing.TB, name, address, user string) *corev1.Pod {
	t.Helper()
	made, err := s.CoreV1().Pods("work").Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"gen3username": user}},
		Spec:       corev1.PodSpec{ServiceAccountName: "worker", Containers: []corev1.Container{{Name: "c", Image: "x"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if address != "" {
		s.status(t, made, address)
	}
	return made
}

func (s *server) status(t testing.TB, of *corev1.Pod, address string) {
	t.Helper()
	of.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, HostIP: "192.0.2.1", HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}}}
	if _, err := s.CoreV1().Pods(of.Namespace).UpdateStatus(context.Background(), of, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (s *server) remove(t testing.TB, of *corev1.Pod) {
	t.Helper()
	now := int64(0)
	err := s.CoreV1().Pods(of.Namespace).Delete(context.Background(), of.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil {
		t.Fatal(err)
	}
}

// identity is what is tested, with the rights of one of the server's users.
type identity struct {
	*kube.Cluster
	mu    sync.Mutex
	calls map[string]int
	log   bytes.Buffer
}

func (i *identity) KubeCall(verb string)   { i.mu.Lock(); i.calls[verb]++; i.mu.Unlock() }
func (i *identity) KubeAnnotationChanged() {}

func (i *identity) Write(line []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.log.Write(line)
}

func (i *identity) said(part string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Contains(i.log.String(), part)
}

func (i *identity) count() (all int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, n := range i.calls {
		all += n
	}
	return all
}

func (s *server) identity(t *testing.T, token string, config kube.Config) *identity {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: t, clusters: [{name: t, cluster: {server: "%s", insecure-skip-tls-verify: true}}],
users: [{name: t, user: {token: %s}}], contexts: [{name: t, context: {cluster: t, user: t}}]}`, s.address, token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	i := &identity{calls: map[string]int{}}
	config.Kubeconfig = path
	var err error
	if i.Cluster, err = kube.New(config, i, slog.New(slog.NewTextHandler(i, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { i.Run(ctx) })
	t.Cleanup(func() { stop(); all.Wait() })
	return i
}

func (i *identity) user(address string) (string, error) {
	pod, err := i.PodAt(context.Background(), netip.MustParseAddr(address))
	return pod.Username, err
}

func within(t *testing.T, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// grantRights gives wts what our own manifests give it, and gen3 what Gen3's chart does.
func grantRights(t *testing.T) {
	t.Helper()
	running.apply(t, "rbac.yaml")
	for name, verbs := range map[string]string{"gen3": "get, list", "tenant": "create, get, update, patch"} {
		running.create(t, fmt.Appendf(nil, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: %s},
rules: [{apiGroups: [""], resources: [pods, pods/status, pods/binding, pods/ephemeralcontainers], verbs: [%s]}]}`, name, verbs))
		running.create(t, fmt.Appendf(nil, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: %s},
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %s}]}`, name, name, name))
	}
	for role, users := range map[string][]string{"wts": {"wts"}, "tenant": {"system:serviceaccount:jupyterhub:hub"}} {
		for _, user := range users {
			running.create(t, fmt.Appendf(nil, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: %s-of-test},
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "%s"}]}`, role, role, user))
		}
	}
	running.create(t, []byte(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: discovery-of-test},
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:service-account-issuer-discovery"},
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: wts}]}`))
}

func TestAgainstTheRealAPIServer(t *testing.T) {
	running.namespace(t, "work")
	grantRights(t)

	t.Run("identity is right within a second of the status", func(t *testing.T) {
		i := running.identity(t, "wts-token", kube.Config{Namespaces: []string{"work"}})
		within(t, 10*time.Second, "the index is followed", func() bool { _, err := i.user("10.9.9.9"); return errors.Is(err, authn.ErrUnknown) })
		slowest := time.Duration(0)
		for n := range 20 {
			name, address := fmt.Sprintf("quick-%d", n), fmt.Sprintf("10.1.0.%d", n)
			pod := running.pod(t, name, "", name)
			running.status(t, pod, address)
			slowest = max(slowest, within(t, time.Second, name, func() bool { user, _ := i.user(address); return user == name }))
		}
		before := i.count()
		for n := range 10_000 {
			if _, err := i.user(fmt.Sprintf("10.1.0.%d", n%20)); err != nil {
				t.Fatal(err)
			}
		}
		if calls := i.count() - before; calls > 2 { // a watch may be renewed meanwhile
			t.Errorf("10,000 requests made %d calls", calls)
		}
		t.Logf("the slowest was known after %s", slowest)
	})

	t.Run("an address that changes hands", func(t *testing.T) {
		i := running.identity(t, "wts-token", kube.Config{})
		const rounds = 1000
		var last *corev1.Pod
		for round := range rounds {
			name := fmt.Sprintf("hand-%d", round)
			if last != nil {
				running.remove(t, last)
			}
			last = running.pod(t, name, "10.2.0.1", name)
			within(t, 5*time.Second, name, func() bool { user, _ := i.user("10.2.0.1"); return user == name })
			for range 5 { // the server has said so: never again the one before
				if user, err := i.user("10.2.0.1"); user != name {
					t.Fatalf("round %d: %q, %v", round, user, err)
				}
			}
		}
		running.remove(t, last)
		t.Logf("%d rounds", rounds)
	})

	t.Run("rights to get and list alone", func(t *testing.T) {
		i := running.identity(t, "gen3-token", kube.Config{})
		within(t, 10*time.Second, "it says so", func() bool { return i.said("pods cannot be watched") })
		pod := running.pod(t, "fallback", "10.3.0.1", "carol")
		if user, err := i.user("10.3.0.1"); user != "carol" {
			t.Errorf(`got %q, %v; want "carol"`, user, err)
		}
		running.remove(t, pod)
		if _, err := i.user("10.3.0.1"); !errors.Is(err, authn.ErrUnknown) {
			t.Errorf("after it is gone: %v", err)
		}
	})

	t.Run("many connections with the rights to get and list alone", manyConnections)
	t.Run("tables of pods", tables)

	t.Run("bound service-account tokens", boundTokens)
	t.Run("our manifests are what the server understands", func(t *testing.T) {
		running.apply(t, "networkpolicy.yaml")
		running.apply(t, "sample-workspace.yaml")
	})
	t.Run("an API server that stops and starts", stopAndStart)
	t.Run("the admission policy", admissionPolicy) // the last: nobody makes a pod with an annotation after it
}

func boundTokens(t *testing.T) {
	i := running.identity(t, "wts-token", kube.Config{})
	if _, err := running.CoreV1().ServiceAccounts("work").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := running.pod(t, "bound", "10.4.0.1", "alice")
	request := func(audience string, to *corev1.Pod) string {
		t.Helper()
		life := int64(600)
		asked := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &life}}
		if to != nil {
			asked.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: to.Name, UID: to.UID}
		}
		made, err := running.CoreV1().ServiceAccounts("work").CreateToken(t.Context(), "worker", asked, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.Status.Token
	}
	issuer, keys, err := i.Issuer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := verifier.New(t.Context(), issuer, "wts", authn.ServiceAccountTokens(), verifier.WithKeySetURL(keys), verifier.WithHTTPClient(i.HTTPClient()))
	if err != nil {
		t.Fatal(err)
	}
	local := authn.LocalTokens{Verifier: func(context.Context) (*verifier.Verifier, error) { return tokens, nil }}
	good, other, unbound := request("wts", pod), request("vault", pod), request("wts", nil)
	for name, proof := range map[string]authn.ServiceAccounts{"by the keys": local, "by review": kube.Reviewer{Cluster: i.Cluster, Audience: "wts"}} {
		bound, err := proof.Verify(t.Context(), good)
		if err != nil || bound != (authn.BoundPod{Namespace: "work", Name: "bound", UID: string(pod.UID), ServiceAccount: "worker"}) {
			t.Errorf("%s: %+v, %v", name, bound, err)
		}
		if found, err := i.PodNamed(t.Context(), bound.Namespace, bound.Name, bound.UID); err != nil || found.Username != "alice" {
			t.Errorf("%s: its pod: %+v, %v", name, found, err)
		}
		if _, err := proof.Verify(t.Context(), other); !errors.Is(err, authn.ErrBearer) {
			t.Errorf("%s: another audience: %v", name, err)
		}
		if _, err := proof.Verify(t.Context(), unbound); !errors.Is(err, authn.ErrBearer) {
			t.Errorf("%s: bound to nothing: %v", name, err)
		}
	}
	running.remove(t, pod)
	took := within(t, time.Second, "the token of a deleted pod is refused", func() bool {
		_, err := i.PodNamed(context.Background(), "work", "bound", string(pod.UID))
		return errors.Is(err, authn.ErrUnknown)
	})
	t.Logf("refused %s after its pod was deleted", took)
}

// Security.md E11.
func admissionPolicy(t *testing.T) {
	running.apply(t, "admission.yaml")
	tenant, err := kubernetes.NewForConfig(running.as("tenant-token"))
	if err != nil {
		t.Fatal(err)
	}
	controller, err := kubernetes.NewForConfig(running.as("controller-token"))
	if err != nil {
		t.Fatal(err)
	}
	workspace := func(name string, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}},
		}
	}
	alice := map[string]string{"gen3username": "alice"}
	// A policy takes a moment until it holds.
	within(t, 20*time.Second, "the policy holds", func() bool {
		_, err := tenant.CoreV1().Pods("work").Create(t.Context(), workspace("probe-"+strings.ToLower(rand.Text()), alice), metav1.CreateOptions{})
		return apierrors.IsForbidden(err)
	})
	if _, err := controller.CoreV1().Pods("work").Create(t.Context(), workspace("made-by-hub", alice), metav1.CreateOptions{}); err != nil {
		t.Fatalf("the controller: %v", err)
	}
	if _, err := tenant.CoreV1().Pods("work").Create(t.Context(), workspace("plain", nil), metav1.CreateOptions{}); err != nil {
		t.Fatalf("a pod that claims nothing: %v", err)
	}
	patch := func(who *kubernetes.Clientset, name, body string, subresources ...string) error {
		_, err := who.CoreV1().Pods("work").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, subresources...)
		return err
	}
	const shell = `{"spec":{"ephemeralContainers":[{"name":"shell","image":"x"}]}}`
	for name, row := range map[string]struct {
		err     error
		allowed bool
	}{
		"create with the hub's annotation": {func() error {
			_, err := tenant.CoreV1().Pods("work").Create(t.Context(), workspace("a", map[string]string{"hub.jupyter.org/username": "alice"}), metav1.CreateOptions{})
			return err
		}(), false},
		"annotate a plain pod":            {patch(tenant, "plain", `{"metadata":{"annotations":{"gen3username":"alice"}}}`), false},
		"change a workspace's annotation": {patch(tenant, "made-by-hub", `{"metadata":{"annotations":{"gen3username":"bob"}}}`), false},
		"remove a workspace's annotation": {patch(tenant, "made-by-hub", `{"metadata":{"annotations":{"gen3username":null}}}`), false},
		"annotate through the status":     {patch(tenant, "plain", `{"metadata":{"annotations":{"gen3username":"alice"}}}`, "status"), false},
		"annotate through a binding": {tenant.CoreV1().Pods("work").Bind(t.Context(), &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "plain", Namespace: "work", Annotations: alice}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"},
		}, metav1.CreateOptions{}), false},
		"an image of one's own in a workspace": {patch(tenant, "made-by-hub", `{"spec":{"containers":[{"name":"c","image":"evil"}]}}`), false},
		"an image of one's own in a plain pod": {patch(tenant, "plain", `{"spec":{"containers":[{"name":"c","image":"mine"}]}}`), true},
		"a status without the annotation":      {patch(tenant, "made-by-hub", `{"status":{"message":"x"}}`, "status"), true},
		"a binding without the annotation": {tenant.CoreV1().Pods("work").Bind(t.Context(), &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "plain", Namespace: "work"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"},
		}, metav1.CreateOptions{}), true},
		"a shell in a workspace's pod":         {patch(tenant, "made-by-hub", shell, "ephemeralcontainers"), false},
		"the controller changes it afterwards": {patch(controller, "made-by-hub", `{"metadata":{"annotations":{"gen3username":"bob"}}}`), false},
		"another annotation":                   {patch(tenant, "made-by-hub", `{"metadata":{"annotations":{"note":"x"}}}`), true},
		"a shell in a plain pod":               {patch(tenant, "plain", shell, "ephemeralcontainers"), true},
	} {
		// By the policy, that is: not for want of rights.
		if row.allowed != (row.err == nil) || row.err != nil && (!apierrors.IsForbidden(row.err) || !strings.Contains(row.err.Error(), "wts-pod-user")) {
			t.Errorf("%s: %v, want allowed %v", name, row.err, row.allowed)
		}
	}
}

func stopAndStart(t *testing.T) {
	i := running.identity(t, "wts-token", kube.Config{MaxStale: 3 * time.Second})
	running.pod(t, "known", "10.5.0.1", "alice")
	within(t, 10*time.Second, "the pod is known", func() bool { user, _ := i.user("10.5.0.1"); return user == "alice" })
	running.stopAPI()
	if user, err := i.user("10.5.0.1"); user != "alice" {
		t.Errorf("a known pod, the server just gone: %q, %v", user, err)
	}
	outage := func(err error) bool {
		return err != nil && !errors.Is(err, authn.ErrUnknown) && !errors.Is(err, authn.ErrRefused)
	}
	if _, err := i.user("10.9.9.9"); !outage(err) {
		t.Errorf("an unknown address: %v; want an outage", err)
	}
	time.Sleep(3500 * time.Millisecond)
	if _, err := i.user("10.5.0.1"); !outage(err) {
		t.Errorf("a known pod, the server long gone: %v; want an outage", err)
	}
	if err := running.startAPI(); err != nil {
		t.Fatal(err)
	}
	took := within(t, 60*time.Second, "it recovers", func() bool { user, _ := i.user("10.5.0.1"); return user == "alice" })
	t.Logf("recovered %s after the server was ready", took)
}
