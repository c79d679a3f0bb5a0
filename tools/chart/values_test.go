package chart

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
)

// bases are values, by mode, from which TestEveryValueCounts sets out. A value has to count from one of
// them at least: most count only where something else is switched on.
var bases = map[string][]string{
	"own": {
		`{}`,
		`{image: {tag: v1}, replicaCount: 4, serviceAccount: {create: false, name: mine}, networkPolicy: {ingressNamespace: "", from: [], allowNoIngress: true, monitoringNamespace: "", metricsFrom: [], allowNoMonitoring: true}}`,
		`{autoscaling: {enabled: false}, ingress: {enabled: true}, httpRoute: {enabled: true, parentRefs: [{name: public}]}, podDisruptionBudget: {enabled: true}}`,
	},
	"gen3": {
		`{}`,
		`{image: {repository: registry.example.org/wts}, gen3: {namespaces: [jupyter]}, networkPolicy: {enabled: true, allowNoMonitoring: true}, admissionPolicy: {enabled: true},
		  metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}}, global: {minAvailable: null, autoscaling: {enabled: false}}, service: {httpPort: null}}`,
		`{commonLabels: {team: auth}, autoscaling: {enabled: true}, secrets: {encryption_key: null}, encpryption_key: pinned, service: {targetPort: null}}`,
		`{global: {externalSecrets: {deploy: true}, autoscaling: {enabled: false}}, replicaCount: 5}`,
	},
}

// baseValues lays a base over the fullest values of its mode, with every secret pinned: nothing that is
// rendered may differ by chance.
func baseValues(t *testing.T, mode, base string) map[string]any {
	t.Helper()
	full, pinned := "own-full", `{keyringSecret: wts-keyring}`
	if mode == "gen3" {
		full, pinned = "gen3-production", `{gen3: {enabled: true}, secrets: {encryption_key: k}, postgres: {password: p}}`
	}
	return parse(t, base, parse(t, pinned, values(t)[full]))
}

// Each value that the schema accepts changes what is rendered, or is refused, or stands in the list of
// gen3-helm's values that have no effect.
func TestEveryValueCounts(t *testing.T) {
	schema, ignored := readSchema(t), ignoredValues(t)
	for mode, bases := range bases {
		t.Run(mode, func(t *testing.T) {
			pending := schema.leaves(t, mode)
			if len(pending) < 60 {
				t.Fatalf("only %d values", len(pending))
			}
			delete(pending, "gen3.enabled") // chooses the mode: TestSchemaAndTemplatesAgreeOnTheMode
			maps.DeleteFunc(pending, func(path string, _ node) bool { return mode == "gen3" && slices.Contains(ignored, path) })
			for _, base := range bases {
				before, err := renderText(t, baseValues(t, mode, base), nil)
				if err != nil {
					t.Fatalf("%s: %v", base, err)
				}
				delete(before, notes)
				for path, leaf := range pending {
					if counts(t, mode, base, path, leaf, before) {
						delete(pending, path)
					}
				}
			}
			for _, path := range slices.Sorted(maps.Keys(pending)) {
				t.Errorf("%s is accepted and changes nothing: use it, refuse it in values.schema.json, or (of gen3-helm's) list it in files/gen3-ignored.txt", path)
			}
		})
	}
}

const notes = "wts/templates/NOTES.txt"

// counts reports whether a value other than the base's changes the rendering. A value that cannot be
// changed is refused, and every other has to be accepted.
func counts(t *testing.T, mode, base, path string, leaf node, before map[string]string) bool {
	t.Helper()
	_, fixed := leaf["const"]
	for _, other := range leaf.others(t, path) {
		values := baseValues(t, mode, base)
		if reflect.DeepEqual(get(values, path), other) {
			continue
		}
		set(values, path, other)
		after, err := renderText(t, values, nil)
		refusal := err != nil && strings.Contains(err.Error(), "values don't meet the specifications")
		switch {
		case fixed:
			if !refusal {
				t.Errorf("%s: %v is not refused: %v", path, other, err)
			}
			return true
		case refusal:
			t.Errorf("%s: its schema gives %v, and refuses it: %v", path, other, err)
			return true
		case err != nil && strings.Contains(err.Error(), "execution error at"): // of `fail`
			return true
		case err != nil:
			t.Errorf("%s: %v: %v", path, other, err)
			return true
		}
		delete(after, notes)
		if !cmp.Equal(before, after) {
			return true
		}
	}
	return false
}

// The list names values that exist and have no effect, and none besides; the notes name those that are set.
func TestIgnoredValuesHaveNoEffect(t *testing.T) {
	schema := readSchema(t)
	for _, path := range ignoredValues(t) {
		leaf, known := schema.leaves(t, "gen3")[path]
		if !known {
			t.Errorf("%s is in the list, and not in the schema", path)
			continue
		}
		if _, known := schema.leaves(t, "own")[path]; known && !strings.Contains(path, "ameOverride") {
			t.Errorf("%s is accepted in our own mode too", path)
		}
		for _, base := range bases["gen3"] {
			before, err := renderText(t, baseValues(t, "gen3", base), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range leaf.others(t, path) {
				values := baseValues(t, "gen3", base)
				set(values, path, other)
				after, err := renderText(t, values, nil)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				if other != false && !strings.Contains(after[notes], " "+path+" ") {
					t.Errorf("%s is set to %v, and the notes do not say that it has no effect", path, other)
				}
				delete(after, notes)
				delete(before, notes)
				if !cmp.Equal(before, after) {
					t.Errorf("%s is in the list and has an effect", path)
				}
			}
		}
	}
}

// A misspelt value is refused wherever the schema knows the names.
func TestUnknownValuesAreRefused(t *testing.T) {
	schema := readSchema(t)
	for mode := range bases {
		t.Run(mode, func(t *testing.T) {
			tried := 0
			for _, path := range schema.objects(mode) {
				for _, base := range bases[mode][:1] {
					values := baseValues(t, mode, base)
					name := strings.Trim(path+".misspelt", ".")
					set(values, name, "x")
					tried++
					if _, err := renderText(t, values, nil); err == nil || !strings.Contains(err.Error(), "'misspelt' not allowed") {
						t.Errorf("%s: got %v", name, err)
					}
				}
			}
			if tried < 10 {
				t.Errorf("only %d", tried)
			}
		})
	}
	for _, text := range []string{"{config: {databse: {}}}", "{oidc_client_id: x}", "{service: {typ: NodePort}}", "{autoscaling: {enable: true}}", "{externalSecrets: {}}", "{workspaces: {peerAddress: maybe}}"} {
		t.Run(text, func(t *testing.T) {
			if _, err := renderText(t, parse(t, text, baseValues(t, "own", "{}")), nil); err == nil || !strings.Contains(err.Error(), "values don't meet") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The schema's `if` and the templates' wts.gen3 see the same mode: what the one mode alone accepts renders
// its objects.
func TestSchemaAndTemplatesAgreeOnTheMode(t *testing.T) {
	for text, gen3 := range map[string]bool{
		"{gen3: {enabled: true}, oidc_job_enabled: true}":                        true,
		"{gen3: {enabled: auto}, oidc_job_enabled: false, metricsEnabled: true}": true,
		"{postgres: {password: p}, metricsEnabled: true}":                        true,
		"{config: {url: 'https://x'}, oidc_job_enabled: true}":                   false,
		"{gen3: {enabled: false}, oidc_job_enabled: true}":                       false,
	} {
		t.Run(text, func(t *testing.T) {
			rendered, err := renderText(t, parse(t, text, map[string]any{"secrets": map[string]any{"encryption_key": "k"}}), nil)
			if gen3 && (err != nil || !strings.Contains(rendered["wts/templates/gen3.yaml"], "wts-deployment")) {
				t.Errorf(`got %v; want not gen3, or no error, strings.Contains(rendered["wts/templates/gen3.yaml"], "wts-deployment")`, err)
			}
			if !gen3 && (err == nil || !strings.Contains(err.Error(), "'oidc_job_enabled'")) {
				t.Errorf("want it refused, got %v", err)
			}
		})
	}
}

// The settings that the schema knows are those of the service.
func TestConfigKnowsTheServicesSettings(t *testing.T) {
	schema := readSchema(t)
	want := settings(t, "config", "Config")
	got := slices.Sorted(maps.Keys(schema.properties("own", "config")))
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("$defs.config of values.schema.json and config.Config differ:\n%s", diff)
	}
}

// settings reads the names of a Go struct's settings, through the structs that are squashed into it.
func settings(t *testing.T, folder, name string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(folder, err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != name {
				return true
			}
			for _, field := range spec.Type.(*ast.StructType).Fields.List {
				if field.Tag == nil {
					continue
				}
				tag, _ := strconv.Unquote(field.Tag.Value)
				setting, options, _ := strings.Cut(reflect.StructTag(tag).Get("config"), ",")
				if selector, squashed := field.Type.(*ast.SelectorExpr); squashed && options == "squash" {
					names = append(names, settings(t, "pkg/"+selector.X.(*ast.Ident).Name, selector.Sel.Name)...)
				} else if setting != "-" && setting != "" {
					names = append(names, setting)
				}
			}
			return false
		})
	}
	return names
}

// Host and path of an Ingress or a route are those of the URL; the service itself has no prefix.
func TestWaysInFollowTheURL(t *testing.T) {
	const on = "config: {url: 'https://wts.example.org:8443/wts/'}, httpRoute: {enabled: true, parentRefs: [{name: public}]}"
	over := parse(t, "{ingress: {enabled: false}, "+on+"}", values(t)["own-full"])
	route, _ := render(t, over, nil)["HTTPRoute gen3-wts"].(*httpRoute)
	if route == nil || !slices.Equal(route.Spec.Hostnames, []string{"wts.example.org"}) || route.Spec.Rules[0].Matches[0].Path.Value != "/wts" ||
		route.Spec.Rules[0].Filters[0].URLRewrite.Path.ReplacePrefixMatch != "/" || route.Spec.Rules[0].BackendRefs[0].Port != 80 {
		t.Errorf(`got %+v; want route != nil, slices.Equal(route.Spec.Hostnames, []string{"wts.example.org"}), route.Spec.Rules[0].Matches[0].Path.Value "/wts", route.Spec.Rules[0].Filters[0].URLRewrite.Path.ReplacePrefixMatch "/", route.Spec.Rules[0].BackendRefs[0].Port 80`, route)
	}
	if _, err := renderText(t, parse(t, "{keyringSecret: k, ingress: {enabled: true}, "+on+"}", values(t)["own-full"]), nil); err == nil || !strings.Contains(err.Error(), "config.url has the path /wts") {
		t.Errorf("an Ingress that the service does not understand: %v", err)
	}
	ingress, _ := render(t, values(t)["own-full"], nil)["Ingress gen3-wts"].(*networkingv1.Ingress)
	if ingress == nil || ingress.Spec.Rules[0].Host != "wts.example.org" || ingress.Spec.TLS[0].SecretName != "wts-tls" {
		t.Errorf(`got %+v; want ingress != nil, ingress.Spec.Rules[0].Host "wts.example.org", ingress.Spec.TLS[0].SecretName "wts-tls"`, ingress)
	}
}

func TestImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for text, want := range map[string]string{
		"{}": "wts:0.1.0",
		"{image: {repository: registry.example.org/wts, tag: v2}}": "registry.example.org/wts:v2",
		"{image: {digest: '" + digest + "'}}":                      "wts:0.1.0@" + digest,
		"{global: {imageRegistry: registry.example.org}}":          "registry.example.org/wts:0.1.0",
	} {
		t.Run(text, func(t *testing.T) {
			for _, name := range []string{"own", "gen3"} {
				t.Run(name, func(t *testing.T) {
					over := parse(t, text, values(t)[name])
					if got := find(t, render(t, over, nil)).Object.Spec.Template.Spec.Containers[0].Image; got != want {
						t.Errorf("%s: got %s, want %s", text, got, want)
					}
				})
			}
		})
	}
}

// node is a JSON schema.
type node map[string]any

func readSchema(t *testing.T) node {
	t.Helper()
	text, err := os.ReadFile(chartPath + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema node
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

func (n node) follow(v any) node {
	found, _ := v.(map[string]any)
	if reference, there := found["$ref"].(string); there {
		return n.follow(n["$defs"].(map[string]any)[strings.TrimPrefix(reference, "#/$defs/")])
	}
	return found
}

func (n node) properties(mode, path string) map[string]any {
	at := n.follow(map[string]any{"$ref": "#/$defs/" + mode})
	for name := range strings.SplitSeq(path, ".") {
		if name != "" {
			at = n.follow(at["properties"].(map[string]any)[name])
		}
	}
	properties, _ := at["properties"].(map[string]any)
	return properties
}

// objects lists the values whose members the schema names, the whole among them.
func (n node) objects(mode string) (paths []string) {
	var walk func(path string)
	walk = func(path string) {
		properties := n.properties(mode, path)
		if properties == nil || path == "global" {
			return
		}
		paths = append(paths, path)
		for name := range properties {
			walk(strings.Trim(path+"."+name, "."))
		}
	}
	walk("")
	return paths
}

// leaves are the values that can be set, by their path.
func (n node) leaves(t *testing.T, mode string) map[string]node {
	t.Helper()
	leaves := map[string]node{}
	for _, path := range append(n.objects(mode), "global") {
		for name, schema := range n.properties(mode, path) {
			if leaf := n.follow(schema); leaf["properties"] == nil {
				leaves[strings.Trim(path+"."+name, ".")] = leaf
			}
		}
	}
	return leaves
}

// others are values that the schema gives or that follow from its type.
func (n node) others(t *testing.T, path string) (others []any) {
	t.Helper()
	if examples, there := n["examples"].([]any); there {
		return examples
	}
	if choice, there := n["enum"].([]any); there {
		return choice
	}
	if fixed, there := n["const"]; there {
		switch fixed.(type) {
		case bool:
			return []any{fixed != true}
		case string:
			return []any{"changed"}
		case []any:
			return []any{[]any{"/changed"}}
		default:
			return []any{map[string]any{"changed": "yes"}}
		}
	}
	switch fmt.Sprint(n["type"]) {
	case "boolean", "[boolean null]":
		return []any{true, false}
	case "integer", "[integer null]":
		return []any{float64(17), float64(18)}
	case "string", "[string null]":
		return []any{"changed"}
	}
	t.Errorf("%s has no example in values.schema.json: %v", path, n)
	return nil
}

func get(values map[string]any, path string) any {
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return values[first]
	}
	inner, _ := values[first].(map[string]any)
	return get(inner, rest)
}

func set(values map[string]any, path string, value any) {
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		values[first] = value
		return
	}
	inner, ok := values[first].(map[string]any)
	if !ok {
		inner = map[string]any{}
		values[first] = inner
	}
	set(inner, rest, value)
}

func ignoredValues(t *testing.T) (paths []string) {
	t.Helper()
	text, err := os.ReadFile(chartPath + "/files/gen3-ignored.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			paths = append(paths, line)
		}
	}
	return paths
}
