package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The chart's rules are those of the plain manifests.
func TestTheAlertsOfChartAndManifestsAgree(t *testing.T) {
	chart, _ := render(t, values(t)["own-full"], nil)["PrometheusRule gen3-wts"].(*prometheusRule)
	if chart == nil {
		t.Fatal("the chart makes no PrometheusRule")
	}
	if diff := cmp.Diff(plainAlerts(t).Spec, chart.Spec); diff != "" {
		t.Errorf("deploy/kubernetes/alerts.yaml and helm/wts/files/alerts.yaml differ:\n%s", diff)
	}
	gen3 := render(t, parse(t, "metrics: {prometheusRule: {enabled: true}}", values(t)["gen3"]), nil)
	if _, made := gen3["PrometheusRule wts-deployment"]; !made {
		t.Error("with Gen3's values there is no PrometheusRule")
	}
}

func plainAlerts(t *testing.T) *prometheusRule {
	t.Helper()
	text, err := os.ReadFile(root + "/deploy/kubernetes/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rule, _ := decode(t, "alerts.yaml", string(text))["PrometheusRule wts in wts"].(*prometheusRule)
	if rule == nil || len(rule.Spec.Groups) != 1 {
		t.Fatal("no rules")
	}
	return rule
}

// An operator finds out what an alert means: in the alert and in a section of docs/operations.md.
func TestEachAlertHasARunbook(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for section := range strings.SplitSeq(string(text), "\n## ") {
		name, body, _ := strings.Cut(section, "\n")
		sections[name] = strings.TrimSpace(body)
	}
	delete(sections, strings.SplitN(string(text), "\n", 2)[0]) // the title
	for _, rule := range plainAlerts(t).Spec.Groups[0].Rules {
		if rule.Annotations["summary"] == "" || rule.Annotations["runbook"] == "" || strings.Contains(rule.Annotations["runbook"], "\n") {
			t.Errorf("%s: want a summary, and a runbook of one line", rule.Alert)
		}
		if want := "docs/operations.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %s, want %s", rule.Alert, rule.Annotations["runbook_url"], want)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
			t.Errorf("%s: severity %q", rule.Alert, rule.Labels["severity"])
		}
		if len(sections[rule.Alert]) < 80 {
			t.Errorf("%s has no section in docs/operations.md", rule.Alert)
		}
		delete(sections, rule.Alert)
	}
	for name := range sections {
		t.Errorf("docs/operations.md: there is no alert %s", name)
	}
}

// An alert on a metric that does not exist never fires.
func TestAlertsUseMetricsThatExist(t *testing.T) {
	var known []string
	for _, folder := range []string{"/pkg/telemetry", "/cmd/wts"} {
		files, err := filepath.Glob(root + folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range regexp.MustCompile(`"(wts_[a-z_]+)"`).FindAllStringSubmatch(string(text), -1) {
				known = append(known, found[1])
			}
		}
	}
	for _, rule := range plainAlerts(t).Spec.Groups[0].Rules {
		names := regexp.MustCompile(`wts_[a-z_]+`).FindAllString(rule.Expr, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric", rule.Alert)
		}
		for _, name := range names {
			if !slices.Contains(known, name) && !slices.Contains(known, strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")) {
				t.Errorf("%s: there is no metric %s", rule.Alert, name)
			}
		}
	}
}
