package chart

import (
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common/util"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// parse reads values that a test writes as YAML, and lays them over others.
func parse(t *testing.T, text string, over map[string]any) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return util.CoalesceTables(values, over)
}

func TestTheNetworkPolicyLocksNothingOutByMistake(t *testing.T) {
	const own = "{config: {url: 'https://wts.example.org'}, databaseSecret: d, keyringSecret: k, workspaces: {namespaces: [work]}, "
	const gen3 = "{gen3: {enabled: true, namespaces: [jupyter]}, secrets: {encryption_key: k}, networkPolicy: {enabled: true"
	for values, want := range map[string]string{
		own + "}": "networkPolicy.ingressNamespace is missing",
		own + "networkPolicy: {ingressNamespace: i}}":                                                                      "The network policy admits to the service:\n  the workspaces in work\n  the ingress in i\nand to the metrics:\n  nothing.",
		own + "networkPolicy: {from: [{podSelector: {}}]}}":                                                                "the workspaces in work\n  [{\"podSelector\":{}}]\nand",
		own + "networkPolicy: {allowNoIngress: true}}":                                                                     "and no browser",
		own + "networkPolicy: {enabled: false}}":                                                                           "There is no network policy",
		own + "networkPolicy: {ingressNamespace: i}, metrics: {serviceMonitor: {enabled: true}}}":                          "networkPolicy.monitoringNamespace is missing",
		own + "networkPolicy: {ingressNamespace: i, monitoringNamespace: m}, metrics: {serviceMonitor: {enabled: true}}}":  "Prometheus in m",
		own + "networkPolicy: {ingressNamespace: i, allowNoMonitoring: true}, metrics: {serviceMonitor: {enabled: true}}}": "nothing. Set networkPolicy.monitoringNamespace",
		gen3 + "}}": "the workspaces in jupyter\n  the pods of commons\nand",
		strings.Replace(gen3, "jupyter", "", 1) + "}}": "gen3.namespaces is missing",
	} {
		t.Run(values, func(t *testing.T) {
			rendered, err := renderText(t, parse(t, values, nil), nil)
			said := rendered["wts/templates/NOTES.txt"]
			if err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, want) {
				t.Errorf("want %s in\n%s", want, said)
			}
		})
	}
}

// What is not named is not admitted.
func TestTheNetworkPolicyAdmitsWhatIsNamed(t *testing.T) {
	policy, ok := render(t, values(t)["own-full"], nil)["NetworkPolicy gen3-wts"].(*networkingv1.NetworkPolicy)
	if !ok || len(policy.Spec.Ingress) != 2 {
		t.Fatalf("got %+v; want ok, len(policy.Spec.Ingress) 2", policy)
	}
	for i, want := range []string{"workspaces batch ingress 192.0.2.0/24 pods", "monitoring pods"} {
		t.Run(want, func(t *testing.T) {
			var admitted []string
			for _, peer := range policy.Spec.Ingress[i].From {
				switch {
				case peer.NamespaceSelector != nil:
					admitted = append(admitted, peer.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"])
				case peer.IPBlock != nil:
					admitted = append(admitted, peer.IPBlock.CIDR)
				case len(peer.PodSelector.MatchLabels) > 0:
					admitted = append(admitted, "pods")
				}
			}
			if got := strings.Join(admitted, " "); got != want {
				t.Errorf("rule %d admits %s, want %s", i, got, want)
			}
		})
	}
}
