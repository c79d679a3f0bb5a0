package chart

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	v2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartPath = root + "/helm/wts"
)

// kinds are the types that manifests are decoded into, strictly: a field that is not theirs, or stands
// twice, is an error.
var kinds = map[string]func() any{
	"v1/ConfigMap":                                    func() any { return &corev1.ConfigMap{} },
	"v1/Namespace":                                    func() any { return &corev1.Namespace{} },
	"v1/Pod":                                          func() any { return &corev1.Pod{} },
	"v1/Secret":                                       func() any { return &corev1.Secret{} },
	"v1/Service":                                      func() any { return &corev1.Service{} },
	"v1/ServiceAccount":                               func() any { return &corev1.ServiceAccount{} },
	"apps/v1/Deployment":                              func() any { return &appsv1.Deployment{} },
	"batch/v1/Job":                                    func() any { return &batchv1.Job{} },
	"autoscaling/v2/HorizontalPodAutoscaler":          func() any { return &autoscalingv2.HorizontalPodAutoscaler{} },
	"policy/v1/PodDisruptionBudget":                   func() any { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1/NetworkPolicy":              func() any { return &networkingv1.NetworkPolicy{} },
	"networking.k8s.io/v1/Ingress":                    func() any { return &networkingv1.Ingress{} },
	"gateway.networking.k8s.io/v1/HTTPRoute":          func() any { return &httpRoute{} },
	"rbac.authorization.k8s.io/v1/Role":               func() any { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() any { return &rbacv1.RoleBinding{} },
	"rbac.authorization.k8s.io/v1/ClusterRole":        func() any { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },

	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy":        func() any { return &admissionv1.ValidatingAdmissionPolicy{} },
	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": func() any { return &admissionv1.ValidatingAdmissionPolicyBinding{} },

	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return &serviceMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return &prometheusRule{} },
}

// serviceMonitor holds the fields of the Prometheus operator's API reference that we use.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector          metav1.LabelSelector `json:"selector"`
		NamespaceSelector *struct {
			Any        bool     `json:"any"`
			MatchNames []string `json:"matchNames"`
		} `json:"namespaceSelector"`
		Endpoints []struct {
			Port          string `json:"port"`
			Path          string `json:"path"`
			Interval      string `json:"interval"`
			ScrapeTimeout string `json:"scrapeTimeout"`
			Scheme        string `json:"scheme"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// httpRoute holds the fields of the Gateway API's reference that we use.
type httpRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ParentRefs []struct {
			Name, Namespace, SectionName string
		} `json:"parentRefs"`
		Hostnames []string `json:"hostnames"`
		Rules     []struct {
			Matches []struct {
				Path struct{ Type, Value string } `json:"path"`
			} `json:"matches"`
			Filters []struct {
				Type       string `json:"type"`
				URLRewrite struct {
					Path struct{ Type, ReplacePrefixMatch string } `json:"path"`
				} `json:"urlRewrite"`
			} `json:"filters"`
			BackendRefs []struct {
				Name string `json:"name"`
				Port int    `json:"port"`
			} `json:"backendRefs"`
		} `json:"rules"`
	} `json:"spec"`
}

// prometheusRule, the same.
type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

// decode decodes every manifest of a text, and returns them by kind and name.
func decode(t *testing.T, name, text string) map[string]any {
	t.Helper()
	found := map[string]any{}
	documents := yamlDocuments(text)
	for _, document := range documents {
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Errorf("%s: %v\n%s", name, err, document)
			continue
		}
		if head.Kind == "" {
			continue // a comment
		}
		make, known := kinds[head.APIVersion+"/"+head.Kind]
		if !known {
			t.Errorf("%s: %s/%s is no kind that is known here", name, head.APIVersion, head.Kind)
			continue
		}
		object := make()
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Errorf("%s: %s %s: %v", name, head.Kind, head.Name, err)
		}
		if head.Name == "" {
			t.Errorf("%s: a %s without a name", name, head.Kind)
		}
		key := head.Kind + " " + head.Name
		if head.Namespace != "" {
			key += " in " + head.Namespace
		}
		if _, twice := found[key]; twice {
			t.Errorf("%s: %s stands twice", name, key)
		}
		found[key] = object
	}
	return found
}

func yamlDocuments(text string) (documents []string) {
	current := &strings.Builder{}
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \n") == "---" {
			documents = append(documents, current.String())
			current.Reset()
			continue
		}
		current.WriteString(line)
	}
	return append(documents, current.String())
}

// cluster is what `lookup` finds: what is in every cluster, and the secrets of a release that was
// installed before.
type cluster struct{ objects []runtime.Object }

// GetClientFor implements engine.ClientProvider.
func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	group, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false, err
	}
	resource := group.WithResource(strings.ToLower(kind) + "s")
	objects := []runtime.Object{}
	for _, object := range append(c.objects, systemNamespace()) {
		if object.GetObjectKind().GroupVersionKind().Kind == kind {
			objects = append(objects, object)
		}
	}
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{resource: kind + "List"}, objects...)
	return client.Resource(resource), kind != "Namespace", nil
}

func systemNamespace() runtime.Object {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kube-system"}}}
}

// render renders the chart as an installation or, over what is there, as an upgrade.
func render(t *testing.T, values map[string]any, there map[string]any) map[string]any {
	t.Helper()
	loaded, err := loader.Load(chartPath)
	if err != nil {
		t.Fatal(err)
	}
	release := common.ReleaseOptions{Name: "gen3", Namespace: "commons", Revision: 1, IsInstall: there == nil, IsUpgrade: there != nil}
	all, err := util.ToRenderValues(loaded, values, release, common.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	var before cluster
	for _, object := range there {
		secret, ok := object.(*corev1.Secret)
		if !ok {
			continue
		}
		secret = secret.DeepCopy()
		secret.Namespace = release.Namespace
		converted, err := runtime.DefaultUnstructuredConverter.ToUnstructured(secret)
		if err != nil {
			t.Fatal(err)
		}
		before.objects = append(before.objects, &unstructured.Unstructured{Object: converted})
	}
	rendered, err := engine.RenderWithClientProvider(loaded, all, before)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if strings.HasSuffix(name, ".yaml") {
			maps.Copy(objects, decode(t, name, rendered[name]))
		}
	}
	return objects
}

func read(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// values are what the chart is tried with. testdata/gen3.yaml are those of gen3-helm's chart.
func values(t *testing.T) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for _, name := range []string{"own", "own-full", "gen3", "gen3-production", "gen3-subchart"} {
		all[name] = read(t, "testdata/"+name+".yaml")
	}
	all["gen3-production"] = util.CoalesceTables(all["gen3-production"], read(t, "testdata/gen3.yaml"))
	return all
}

func TestLint(t *testing.T) {
	for name, values := range values(t) {
		linter := lint.RunAll(chartPath, values, "commons")
		for _, message := range linter.Messages {
			if message.Severity >= support.WarningSev {
				t.Errorf("%s: %s", name, message)
			}
		}
	}
}

func TestEveryManifestIsWhatItSays(t *testing.T) {
	for name, values := range values(t) {
		t.Run(name, func(t *testing.T) {
			objects := render(t, values, nil)
			if len(objects) < 6 {
				t.Errorf("only %v", slices.Sorted(maps.Keys(objects)))
			}
			checkReferences(t, objects)
		})
	}
}

// checkReferences finds what a pod names and the chart does not make, beside what an operator brings.
func checkReferences(t *testing.T, objects map[string]any) {
	t.Helper()
	brought := []string{"Secret wts-database", "Secret wts-oidc-client", "Secret wts-dbcreds", "Secret wts-g3auto", "Secret main-client", "ConfigMap authorities", "ServiceAccount workspace-token-service"}
	for name, object := range objects {
		deployment, ok := object.(*appsv1.Deployment)
		if !ok {
			continue
		}
		pod := deployment.Spec.Template
		for key, value := range deployment.Spec.Selector.MatchLabels {
			if pod.Labels[key] != value {
				t.Errorf("%s does not select its own pods", name)
			}
		}
		needs := []string{"ServiceAccount " + pod.Spec.ServiceAccountName}
		for _, volume := range pod.Spec.Volumes {
			if volume.Secret != nil {
				needs = append(needs, "Secret "+volume.Secret.SecretName)
			}
			if volume.ConfigMap != nil {
				needs = append(needs, "ConfigMap "+volume.ConfigMap.Name)
			}
		}
		for _, variable := range pod.Spec.Containers[0].Env {
			if variable.ValueFrom != nil && variable.ValueFrom.SecretKeyRef != nil {
				needs = append(needs, "Secret "+variable.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, need := range needs {
			if _, made := objects[need]; !made && !slices.Contains(brought, need) {
				t.Errorf("%s needs %s, which nobody makes", name, need)
			}
		}
	}
}

func TestSecretsStayTheSameOverAnUpgrade(t *testing.T) {
	for name, values := range values(t) {
		t.Run(name, func(t *testing.T) {
			first := render(t, values, nil)
			again, second := render(t, values, nil), render(t, values, first)
			made := 0
			for key, object := range first {
				secret, ok := object.(*corev1.Secret)
				if !ok {
					continue
				}
				made++
				if diff := cmp.Diff(secret, second[key]); diff != "" {
					t.Errorf("%s changed:\n%s", key, diff)
				}
				if other, _ := again[key].(*corev1.Secret); key != "Secret wts-oidc-client" && cmp.Equal(secret.Data, other.Data) {
					t.Errorf("%s is the same in another installation", key)
				}
				if secret.Annotations["helm.sh/resource-policy"] != "keep" {
					t.Errorf("%s goes with the release", key)
				}
			}
			if deployments := differing(first, second, "Deployment"); deployments != "" {
				t.Errorf("an upgrade without a change rolls the pods: %s", deployments)
			}
			t.Logf("%d secrets", made)
		})
	}
}

// Without a cluster nothing can be looked up, and keys that are new at each rendering open nothing.
func TestARenderingWithoutAClusterMakesNoKeys(t *testing.T) {
	for name, test := range map[string]struct {
		add     string
		missing string
	}{
		"own":             {`keyringSecret: wts-keyring`, "keyringSecret is missing"},
		"gen3":            {`secrets: {encryption_key: "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="}`, "secrets.encryption_key is missing"},
		"gen3-production": {`{secrets: {encryption_key: k}, postgres: {password: p}}`, "secrets.encryption_key is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			all := values(t)[name]
			if name == "gen3" {
				all = util.CoalesceTables(map[string]any{"postgres": map[string]any{"password": "p"}}, all)
			}
			if _, err := renderText(t, all, nil); err == nil || !strings.Contains(err.Error(), test.missing) {
				t.Errorf("got %v, want %s", err, test.missing)
			}
			var added map[string]any
			if err := yaml.Unmarshal([]byte(test.add), &added); err != nil {
				t.Fatal(err)
			}
			all = util.CoalesceTables(added, all)
			first, err := renderText(t, all, nil)
			if err != nil {
				t.Fatal(err)
			}
			if second, err := renderText(t, all, nil); err != nil || !cmp.Equal(first, second) {
				t.Errorf("a second rendering differs: %v\n%s", err, cmp.Diff(first, second))
			}
		})
	}
	all := util.CoalesceTables(map[string]any{"secrets": map[string]any{"encryption_key": "k"}}, values(t)["gen3-production"])
	if _, err := renderText(t, all, nil); err == nil || !strings.Contains(err.Error(), "postgres.password is missing") {
		t.Errorf("a new password for the database at each rendering: %v", err)
	}
}

// loadChart loads the chart once for the many renderings of TestEveryValueCounts.
var loadChart = sync.OnceValues(func() (*v2.Chart, error) { return loader.Load(chartPath) })

// renderText renders the chart; without a cluster as `helm template` does.
func renderText(t *testing.T, values map[string]any, provider engine.ClientProvider) (map[string]string, error) {
	t.Helper()
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	all, err := util.ToRenderValues(loaded, values, common.ReleaseOptions{Name: "gen3", Namespace: "commons", Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	if provider == nil {
		return engine.Render(loaded, all)
	}
	return engine.RenderWithClientProvider(loaded, all, provider)
}

func differing(first, second map[string]any, kind string) (diff string) {
	for key, object := range first {
		if strings.HasPrefix(key, kind+" ") {
			diff += cmp.Diff(object, second[key])
		}
	}
	return diff
}

// What stood in gen3-helm's own secret stays, its keys above all; and the values are heard.
func TestGen3sSecretIsTakenOver(t *testing.T) {
	old := map[string]any{"Secret wts-g3auto": &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "wts-g3auto"},
		Data: map[string][]byte{"appcreds.json": []byte(`{"encryption_key": "THE-KEY", "secret_key": "S", "oidc_client_id": "kept", "wts_base_url": "https://old/wts/", "external_oidc": [{"base_url": "https://x"}]}`)},
	}}
	secret, _ := render(t, values(t)["gen3-production"], old)["Secret wts-g3auto"].(*corev1.Secret)
	var creds map[string]any
	if err := json.Unmarshal(secret.Data["appcreds.json"], &creds); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"encryption_key": "THE-KEY", "secret_key": "S", "oidc_client_id": "kept", "wts_base_url": "https://data.example.org/wts/", "fence_base_url": "https://data.example.org/user/",
	} {
		t.Run(name, func(t *testing.T) {
			if creds[name] != want {
				t.Errorf("%s is %v, want %s", name, creds[name], want)
			}
		})
	}
	if external := fmt.Sprint(creds["external_oidc"]); !strings.Contains(external, "https://other.example.org") {
		t.Errorf("external_oidc: %s", external)
	}
	fresh, _ := render(t, values(t)["gen3"], nil)["Secret wts-g3auto"].(*corev1.Secret)
	if err := json.Unmarshal(fresh.Data["appcreds.json"], &creds); err != nil {
		t.Fatal(err)
	}
	key, _ := creds["encryption_key"].(string)
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 32 {
		t.Errorf("the new encryption_key is none: %d bytes, %v", len(raw), err)
	}
}

func TestWithGen3sValuesTheNamesAreGen3s(t *testing.T) {
	for _, name := range []string{"gen3", "gen3-production", "gen3-subchart"} {
		t.Run(name, func(t *testing.T) {
			objects := render(t, values(t)[name], nil)
			for _, want := range []string{"Deployment wts-deployment", "Service workspace-token-service", "ClusterRole workspace-token-service", "Secret wts-g3auto"} {
				t.Run(want, func(t *testing.T) {
					if _, made := objects[want]; !made {
						t.Errorf("%s: no %s", name, want)
					}
				})
			}
			deployment, _ := objects["Deployment wts-deployment"].(*appsv1.Deployment)
			want := map[string]string{"app": "wts", "release": "production"}
			if diff := cmp.Diff(want, deployment.Spec.Selector.MatchLabels); diff != "" {
				t.Errorf("a selector cannot be changed: %s", diff)
			}
			if image := deployment.Spec.Template.Spec.Containers[0].Image; strings.Contains(image, "cdis") {
				t.Errorf("%s runs %s", name, image)
			}
		})
	}
	production := render(t, values(t)["gen3-production"], nil)
	for _, want := range []string{"HorizontalPodAutoscaler wts-deployment", "PodDisruptionBudget wts-deployment", "Secret wts-oidc-client", "Job wts-dbcreate"} {
		t.Run(want, func(t *testing.T) {
			if _, made := production[want]; !made {
				t.Errorf("production: no %s", want)
			}
		})
	}
}

// No Deployment or Job runs as root, unless the values say so.
func TestPodsHaveNoRights(t *testing.T) {
	for name, values := range values(t) {
		for key, object := range render(t, values, nil) {
			var pod corev1.PodSpec
			switch object := object.(type) {
			case *appsv1.Deployment:
				pod = object.Spec.Template.Spec
			case *batchv1.Job:
				pod = object.Spec.Template.Spec
			default:
				continue
			}
			container := pod.Containers[0].SecurityContext
			if pod.SecurityContext == nil || container == nil || !isTrue(pod.SecurityContext.RunAsNonRoot) || pod.SecurityContext.SeccompProfile == nil ||
				container.AllowPrivilegeEscalation == nil || *container.AllowPrivilegeEscalation || container.Capabilities == nil || !slices.Contains(container.Capabilities.Drop, "ALL") {
				t.Errorf("%s: %s: %+v, %+v", name, key, pod.SecurityContext, container)
			}
			opens := pod.SecurityContext != nil && len(pod.SecurityContext.Sysctls) == 1 && pod.SecurityContext.Sysctls[0].Name == "net.ipv4.ip_unprivileged_port_start"
			if key == "Deployment wts-deployment" && !opens {
				t.Errorf("%s: nothing lets the service open port 80", name)
			}
		}
	}
	over := parse(t, "{podSecurityContext: {runAsUser: 7, fsGroup: null}, securityContext: {readOnlyRootFilesystem: false}}", values(t)["gen3"])
	pod := find(t, render(t, over, nil)).Object.Spec.Template.Spec
	if *pod.SecurityContext.RunAsUser != 7 || pod.SecurityContext.FSGroup != nil || !*pod.SecurityContext.RunAsNonRoot || *pod.Containers[0].SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("the values are not laid over: %+v, %+v", pod.SecurityContext, pod.Containers[0].SecurityContext)
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

func TestPoliciesWithGen3sValuesAreSwitchedOn(t *testing.T) {
	const network, admission = "NetworkPolicy wts-deployment", "ValidatingAdmissionPolicy commons-wts-deployment-pod-user"
	for text, want := range map[string]bool{
		"{}": false,
		"{networkPolicy: {enabled: true}, admissionPolicy: {enabled: true}, gen3: {namespaces: [jupyter]}}": true,
	} {
		t.Run(text, func(t *testing.T) {
			objects := render(t, parse(t, text, values(t)["gen3"]), nil)
			_, first := objects[network]
			policy, second := objects[admission].(*admissionv1.ValidatingAdmissionPolicy)
			if first != want || second != want {
				t.Errorf("got %t and %t", first, second)
			}
			if second && policy.Spec.Variables[0].Expression != `["system:serviceaccount:commons:hatchery-service-account"]` {
				t.Errorf("controllers: %s", policy.Spec.Variables[0].Expression)
			}
		})
	}
}

// The pods are scaled before they reach the 80 % of their limit below which the service keeps its memory.
func TestTheMemoryTargetAndTheLimitAgree(t *testing.T) {
	const own, gen3 = "own-full", "gen3-production"
	for _, test := range []struct{ base, values, want string }{
		{own, "{}", "300Mi"},
		{own, "{resources: {limits: {memory: 1Gi}}, autoscaling: {averageMemoryValue: 716Mi}}", "716Mi"},
		{own, "{resources: {limits: {memory: 1Gi}}, autoscaling: {averageMemoryValue: 718Mi}}", "Give at most 716Mi"},
		{own, "{resources: {limits: {memory: 1.5G}}, autoscaling: {averageMemoryValue: 1100M}}", "Give at most 1001Mi"},
		{own, "{autoscaling: {averageMemoryValue: 500Mi}}", "Give at most 358Mi"},
		{own, "{resources: {limits: {memory: 1000000000}}, autoscaling: {averageMemoryValue: 700000000}}", "700000000"},
		{own, "{resources: {limits: {memory: 1000000000}}, autoscaling: {averageMemoryValue: 700000001}}", "Give at most 667Mi"},
		{own, "{resources: {limits: null}, autoscaling: {averageMemoryValue: 4Gi}}", "4Gi"},
		{gen3, "{}", "358Mi"}, // gen3-helm asks for 500Mi
		{gen3, "{global: {autoscaling: {averageMemoryValue: 200Mi}}}", "200Mi"},
	} {
		t.Run(test.values, func(t *testing.T) {
			over := parse(t, "{keyringSecret: k}", parse(t, test.values, values(t)[test.base]))
			if test.base == gen3 {
				over = parse(t, "{secrets: {encryption_key: k}, postgres: {password: p}}", parse(t, test.values, values(t)[test.base]))
			}
			rendered, err := renderText(t, over, nil)
			got := fmt.Sprint(rendered["wts/templates/scaling.yaml"], err)
			if !strings.Contains(got, "name: memory, target: {type: AverageValue, averageValue: "+test.want+"}") && !strings.Contains(got, test.want+",") {
				t.Errorf("want %s in\n%s", test.want, got)
			}
		})
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	loaded, err := loader.Load(chartPath)
	if err != nil {
		t.Fatal(err)
	}
	for want, values := range map[string]map[string]any{
		"config.url is missing":                     {"networkPolicy": map[string]any{"allowNoIngress": true}},
		"databaseSecret is missing":                 {"networkPolicy": map[string]any{"allowNoIngress": true}, "config": map[string]any{"url": "https://wts.example.org"}},
		"networkPolicy.ingressNamespace is missing": {"config": map[string]any{"url": "https://wts.example.org"}, "databaseSecret": "d", "keyringSecret": "k"},
	} {
		t.Run(want, func(t *testing.T) {
			all, err := util.ToRenderValues(loaded, values, common.ReleaseOptions{Name: "w", Namespace: "n"}, common.DefaultCapabilities)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := engine.Render(loaded, all); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	if _, err := util.ToRenderValues(loaded, map[string]any{"confg": 1}, common.ReleaseOptions{}, common.DefaultCapabilities); err == nil {
		t.Error("a value that is misspelt is accepted")
	}
}

// The plain manifests, one by one, and what kustomize builds of them.
func TestPlainManifests(t *testing.T) {
	files, err := filepath.Glob(root + "/deploy/kubernetes/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("got %v, %v; want len(files) >= 7", files, err)
	}
	for _, file := range append(files, root+"/examples/workspace/workspace.yaml") {
		if base := filepath.Base(file); base == "kustomization.yaml" || base == "wts.yaml" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if objects := decode(t, file, string(text)); len(objects) == 0 {
			t.Errorf("%s holds nothing", file)
		}
	}
	objects := kustomize(t)
	deployment, ok := objects["Deployment wts in wts"].(*appsv1.Deployment)
	if !ok || deployment.Spec.Template.Spec.Containers[0].Image != "wts:0.1.0" || !strings.HasPrefix(deployment.Spec.Template.Spec.Volumes[1].ConfigMap.Name, "wts-") {
		t.Errorf("built: %v", slices.Sorted(maps.Keys(objects)))
	}
}

// kustomize is what kustomize builds of the plain manifests.
func kustomize(t *testing.T) map[string]any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root+"/deploy/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, "kustomize", string(text))
}
