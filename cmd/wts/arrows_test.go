package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/workspace-token-service/wts/"

// arrows says which package may import which of ours: the table of docs/architecture.md. cmd wires
// everything and config composes every Config; test is for tests alone.
var arrows = map[string][]string{
	"pkg/grant":                 {"pkg/issuer"},
	"pkg/login":                 {"api", "pkg/unverified"},
	"pkg/publisher":             {"pkg/issuer", "pkg/unverified", "pkg/verifier"},
	"pkg/server":                {"pkg/apitoken", "pkg/grant", "pkg/publisher", "pkg/authn", "pkg/broker", "pkg/issuer", "pkg/aggregate", "pkg/audit", "pkg/keyring", "pkg/provider", "pkg/verifier/namespace", "api", "web"},
	"pkg/store":                 {"pkg/apitoken", "pkg/audit", "pkg/grant", "pkg/publisher", "pkg/authn", "pkg/broker", "pkg/issuer", "pkg/keyring", "pkg/provider", "pkg/secret", "pkg/store/gen3"},
	"pkg/store/gen3":            {"pkg/keyring", "pkg/secret"},
	"pkg/store/storetest":       {"pkg/apitoken", "pkg/grant", "pkg/publisher", "pkg/authn", "pkg/broker", "pkg/issuer", "pkg/provider", "pkg/secret"},
	"pkg/kube":                  {"pkg/authn", "pkg/unverified"},
	"pkg/kube/kubetest":         {},
	"pkg/authn":                 {"pkg/unverified", "pkg/verifier"},
	"pkg/broker":                {"pkg/provider", "pkg/keyring", "pkg/secret"},
	"pkg/provider":              {"pkg/secret", "pkg/unverified"},
	"pkg/provider/providertest": {},
	"pkg/issuer":                {"pkg/secret"},
	"pkg/apitoken":              {"pkg/issuer", "pkg/secret", "pkg/unverified"},
	"pkg/aggregate":             {},
	"pkg/audit":                 {},
	"pkg/keyring":               {},
	"pkg/secret":                {},
	"pkg/unverified":            {},
	"pkg/verifier":              {},
	"pkg/verifier/dataset":      {"pkg/verifier"},
	"pkg/verifier/ginverifier":  {"pkg/verifier"},
	"pkg/verifier/namespace":    {},
	"pkg/verifier/verifiertest": {},
	"pkg/telemetry":             {},
	"examples/datasets":         {"pkg/verifier/dataset"},
	"examples/pephub":           {"pkg/verifier", "pkg/verifier/namespace"},
	"web":                       {},
	"api":                       {"pkg/unverified"},
	"examples/plugins":          {"pkg/verifier"},
	"examples/workspace":        {"api"},
}

// frameworks may be imported by these packages and no others.
var frameworks = map[string][]string{
	"github.com/gin-gonic/gin":         {"pkg/server", "pkg/verifier/ginverifier"},
	"gorm.io/":                         {"pkg/store", "pkg/store/gen3"},
	"k8s.io/":                          {"pkg/kube", "pkg/kube/kubetest"},
	"github.com/lestrrat-go/jwx/":      {"pkg/issuer", "pkg/verifier"},
	"github.com/coreos/go-oidc/":       {"pkg/provider"},
	"github.com/zitadel/oidc/":         {"pkg/provider/providertest"},
	"github.com/prometheus/":           {"pkg/telemetry"},
	"github.com/go-viper/mapstructure": {"config"},
	"github.com/go-json-experiment/":   {"pkg/kube"},
}

func TestImportsFollowTheArrows(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	checked, used := 0, map[string]bool{}
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git" || name == "tools") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		checked++
		for _, line := range file.Imports {
			checkArrow(t, used, path.Dir(name), strings.Trim(line.Path.Value, `"`))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 40 {
		t.Errorf("%d files were read: the tree is elsewhere", checked)
	}
	for _, table := range []map[string][]string{arrows, frameworks} {
		for from, all := range table {
			for _, to := range all {
				if !used[from+" "+to] {
					t.Errorf("%s and %s: no import needs this line of the tables", from, to)
				}
			}
		}
	}
}

// checkArrow refuses an import that no line of the tables allows, and marks the line that does.
func checkArrow(t *testing.T, used map[string]bool, from, to string) {
	t.Helper()
	for framework, homes := range frameworks {
		if !strings.HasPrefix(to, framework) {
			continue
		}
		used[framework+" "+from] = true
		if !slices.Contains(homes, from) {
			t.Errorf("%s imports %s, which lives in %v only", from, to, homes)
		}
	}
	target, ours := strings.CutPrefix(to, module)
	if !ours || strings.HasPrefix(from, "test/") || from == "cmd/wts" {
		return
	}
	if strings.HasPrefix(target, "test/") || strings.HasPrefix(target, "cmd/") || target == "config" {
		t.Errorf("%s imports %s, which nobody may", from, target)
		return
	}
	if from == "config" {
		return
	}
	allowed, known := arrows[from]
	if !known {
		t.Errorf("%s is not in the table of arrows", from)
	}
	used[from+" "+target] = true
	if !slices.Contains(allowed, target) {
		t.Errorf("%s imports %s: no such arrow", from, target)
	}
}
