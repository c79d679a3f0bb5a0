package chart

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// A pod that is told to stop serves on for drain_delay: by then the readiness probe must have failed, the
// refreshes under way must have the longest refresh_timeout, and the pod must not have been killed.
func TestRollingUpdatesRefuseNoRequest(t *testing.T) {
	for name, deployment := range deployments(t) {
		t.Run(name, func(t *testing.T) {
			drain, stop := stopping(t, deployment)
			pod := deployment.Object.Spec.Template.Spec
			probe := pod.Containers[0].ReadinessProbe
			if noticed := time.Duration(probe.PeriodSeconds*probe.FailureThreshold) * time.Second; probe.HTTPGet.Path != "/readyz" || noticed == 0 || noticed >= drain {
				t.Errorf("readiness asks %s and fails after %s; the pod serves on for %s", probe.HTTPGet.Path, noticed, drain)
			}
			grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
			if stop < drain+time.Minute || stop >= grace {
				t.Errorf("stop_timeout is %s: want %s at least, and less than the %s after which the pod is killed", stop, drain+time.Minute, grace)
			}
			if pod.Containers[0].StartupProbe == nil || pod.Containers[0].Lifecycle != nil {
				t.Error("want a startup probe, and no hook beside drain_delay")
			}
			rolling := deployment.Object.Spec.Strategy.RollingUpdate
			if rolling == nil || rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() < 1 {
				t.Errorf("a rolling update may take pods away first: %+v", rolling)
			}
		})
	}
}

// shipped is a Deployment, and its configuration where that is a file.
type shipped struct {
	Object *appsv1.Deployment
	config string
}

// deployments are all that are shipped: of the chart, by the values it is tried with, and the plain one.
func deployments(t *testing.T) map[string]shipped {
	t.Helper()
	all := map[string]shipped{"kustomize": find(t, kustomize(t))}
	for name, values := range values(t) {
		all[name] = find(t, render(t, values, nil))
	}
	return all
}

func find(t *testing.T, objects map[string]any) (found shipped) {
	t.Helper()
	for _, object := range objects {
		switch object := object.(type) {
		case *appsv1.Deployment:
			found.Object = object
		case *corev1.ConfigMap:
			found.config = object.Data["wts.yaml"]
		}
	}
	if found.Object == nil {
		t.Fatal("no Deployment")
	}
	return found
}

// stopping reads drain_delay and stop_timeout, from the file or over it from the environment.
func stopping(t *testing.T, deployment shipped) (drain, stop time.Duration) {
	t.Helper()
	settings := map[string]any{}
	if err := yaml.Unmarshal([]byte(deployment.config), &settings); err != nil {
		t.Fatal(err)
	}
	for _, variable := range deployment.Object.Spec.Template.Spec.Containers[0].Env {
		if name, ours := strings.CutPrefix(variable.Name, "WTS_"); ours {
			settings[strings.ToLower(name)] = variable.Value
		}
	}
	for name, into := range map[string]*time.Duration{"drain_delay": &drain, "stop_timeout": &stop} {
		text, _ := settings[name].(string)
		parsed, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		*into = parsed
	}
	return drain, stop
}
