// Package kube is the edge to Kubernetes: which pod is at an address, and whether the pod that a
// service-account token is bound to still lives. client-go lives here and nowhere else.
//
// It owns the eleven rules of who may be taken for whom (docs/kubernetes.md), as far as they are about
// pods. Where it may watch, it keeps an index of all pods and asks the API server nothing; where it
// may only list, as under the RBAC that Gen3 ships, new TCP connections share lists of pods.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config is the cluster, as the operator writes it.
type Config struct {
	// Enabled takes callers for the pods that they are.
	Enabled bool `config:"enabled"`
	// Kubeconfig names a file; without it the pod's own service account is used.
	Kubeconfig string `config:"kubeconfig"`
	// Namespaces are those whose pods count; all, where none is named. Name them.
	Namespaces []string `config:"namespaces"`
	// Annotations name a pod's user; the first that is there counts, even if it is empty. Default
	// gen3username and hub.jupyter.org/username.
	Annotations []string `config:"annotations"`
	// MaxStale is how long known pods go on after the last contact with the API server. Default 2 min;
	// at least 90 s, since a server where nothing happens says so once a minute.
	MaxStale time.Duration `config:"max_stale"`
	// DisablePeerAddress leaves service-account tokens as the only proof of a pod.
	DisablePeerAddress bool                 `config:"disable_peer_address"`
	ServiceAccount     ServiceAccountConfig `config:"service_account"`
}

// How service-account tokens are verified.
const (
	VerifyLocal  = "local"  // by the cluster's published keys
	VerifyReview = "review" // by the API server, which needs the right to create token reviews
)

// ServiceAccountConfig is off while Audience is empty.
type ServiceAccountConfig struct {
	// Audience is that of the projected tokens which pods present.
	Audience string `config:"audience"`
	// Verify is VerifyLocal (the default) or VerifyReview.
	Verify string `config:"verify"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults() Config {
	if len(c.Annotations) == 0 {
		c.Annotations = []string{"gen3username", "hub.jupyter.org/username"}
	}
	if c.MaxStale == 0 {
		c.MaxStale = 2 * time.Minute
	}
	if c.ServiceAccount.Verify == "" {
		c.ServiceAccount.Verify = VerifyLocal
	}
	return c
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	if c.MaxStale != 0 && c.MaxStale < leastStale {
		faults = append(faults, fmt.Errorf("kubernetes.max_stale: is %s, want at least %s", c.MaxStale, leastStale))
	}
	if verify := c.ServiceAccount.Verify; verify != "" && verify != VerifyLocal && verify != VerifyReview {
		faults = append(faults, fmt.Errorf("kubernetes.service_account.verify: is %q, want %s or %s", verify, VerifyLocal, VerifyReview))
	}
	if c.Enabled && c.DisablePeerAddress && c.ServiceAccount.Audience == "" {
		faults = append(faults, errors.New("kubernetes: with disable_peer_address and without service_account.audience no pod can prove anything"))
	}
	for i, namespace := range c.Namespaces {
		if namespace == "" || slices.Contains(c.Namespaces[:i], namespace) {
			faults = append(faults, fmt.Errorf("kubernetes.namespaces[%d]: is empty, or named twice", i))
		}
	}
	return errors.Join(faults...)
}

const leastStale = 90 * time.Second

// Observer hears what the cluster is asked. Its methods must be quick.
type Observer interface {
	KubeCall(verb string)
	KubeAnnotationChanged()
}

// Cluster finds pods. It is safe for concurrent use, and asks nothing before Run but what callers
// need at once.
type Cluster struct {
	config   Config
	core     *rest.RESTClient
	authn    *rest.RESTClient
	client   *http.Client
	observer Observer
	log      *slog.Logger
	now      func() time.Time

	index   *index
	turns   *turns
	wholes  map[string]*whole // by namespace
	lanes   *lanes
	waiting *waitingRoom
	flights singleflight.Group
	// Caches hold pointers: each other type of value is a hundred kilobytes of the binary. Where the key alone says
	// something, there is no value.
	told    *otter.Cache[netip.Addr, *string] // pods that were asked for and that the index has yet to hear of, by UID
	absent  *otter.Cache[string, *pod]        // addresses that had no pod a moment ago
	living  *otter.Cache[string, *pod]        // pods by UID, where nothing is watched
	pins    *otter.Cache[string, *string]     // annotations by UID, where nothing is watched
	reviews *otter.Cache[[32]byte, *reviewed]
	gone    *otter.Cache[string, *pod] // UIDs of pods that were deleted a moment ago
}

const (
	// maxWaiting is how many callers may wait at once for a pod to appear, and maxWaitingAt at one
	// address.
	maxWaiting, maxWaitingAt = 1024, 8
	// livesFor is how long a pod that was asked for is taken to live (kubernetes.md rule 10).
	livesFor = 10 * time.Second
	// absentFor is how long an address without a pod is not asked for again.
	absentFor = 2 * time.Second
	// toldFor is how long the index may take to hear of a pod that was asked for before that.
	toldFor = time.Minute
	maxKept = 100_000
)

// New makes a client of the cluster. It reaches for nothing yet.
func New(config Config, observer Observer, log *slog.Logger) (*Cluster, error) {
	connection, err := connect(config.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	return newCluster(config, connection, observer, log)
}

// connect is the way to the API server: by a file, or as a pod of the cluster.
func connect(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

func newCluster(config Config, connection *rest.Config, observer Observer, log *slog.Logger) (*Cluster, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, authenticationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("kubernetes: its types: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	connection = rest.CopyConfig(connection)
	connection.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	connection.QPS, connection.Burst = -1, 0 // what callers can cause is bounded here, by turns and lanes
	client, err := rest.HTTPClientFor(connection)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	of := func(path string, version schema.GroupVersion) (*rest.RESTClient, error) {
		group := rest.CopyConfig(connection)
		group.APIPath, group.GroupVersion = path, &version
		return rest.RESTClientForConfigAndClient(group, client)
	}
	core, err := of("/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	authentication, err := of("/apis", authenticationv1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	config = config.WithDefaults()
	c := &Cluster{
		config: config, core: core, authn: authentication, client: client,
		observer: observer, log: log, now: time.Now,
		lanes:   newLanes(),
		waiting: &waitingRoom{at: map[netip.Addr]int{}},
		gone:    otter.Must(&otter.Options[string, *pod]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[string, *pod](livesFor)}),
		told:    otter.Must(&otter.Options[netip.Addr, *string]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[netip.Addr, *string](toldFor)}),
		absent:  otter.Must(&otter.Options[string, *pod]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[string, *pod](absentFor)}),
		living:  otter.Must(&otter.Options[string, *pod]{MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[string, *pod](livesFor)}),
		pins:    otter.Must(&otter.Options[string, *string]{MaximumSize: maxKept}),
		reviews: otter.Must(&otter.Options[[32]byte, *reviewed]{
			MaximumSize: maxKept, ExpiryCalculator: otter.ExpiryWriting[[32]byte, *reviewed](livesFor),
		}),
	}
	c.index = newIndex(c.scopes(), c.pins)
	c.turns, c.wholes = &turns{one: c.listOne, all: c.listAll}, map[string]*whole{}
	for _, namespace := range c.scopes() {
		c.wholes[namespace] = &whole{Cluster: c, namespace: namespace}
	}
	return c, nil
}

// scopes are the namespaces to follow; "" is all of them.
func (c *Cluster) scopes() []string {
	if len(c.config.Namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return c.config.Namespaces
}

// counts tells whether pods of a namespace may prove who their user is.
func (c *Cluster) counts(namespace string) bool {
	return len(c.config.Namespaces) == 0 || slices.Contains(c.config.Namespaces, namespace)
}

// Issuer asks the API server who issues its service-account tokens, and where their keys are, to be
// fetched with HTTPClient.
func (c *Cluster) Issuer(ctx context.Context) (issuer, keysURL string, err error) {
	c.observer.KubeCall("discovery")
	body, err := c.core.Get().AbsPath("/.well-known/openid-configuration").DoRaw(ctx)
	if err != nil {
		return "", "", fmt.Errorf("asking the API server for its issuer: %w", err)
	}
	var document struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(body, &document); err != nil || document.Issuer == "" {
		return "", "", errors.New("the API server's discovery document names no issuer")
	}
	// The document's own jwks_uri may be an address that is reachable from outside alone.
	return document.Issuer, c.core.Get().AbsPath("/openid/v1/jwks").URL().String(), nil
}

// HTTPClient speaks to the API server, as ourselves.
func (c *Cluster) HTTPClient() *http.Client { return c.client }
