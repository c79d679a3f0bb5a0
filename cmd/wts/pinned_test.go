package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unpinnedKnown are what a file fetches and that has no digest, each with the reason.
var unpinnedKnown = map[string]string{
	"deploy/image/Dockerfile golang:1.26.8-bookworm":                                   "a full version; its digest could not be looked up, for want of a way to the registry",
	"deploy/compose/compose.yaml postgres:16.15-alpine":                                "a full version; its digest could not be looked up, for want of a way to the registry",
	"examples/workspace/Dockerfile golang:1.26.8-bookworm":                             "the same release as the image of wts is built with",
	"examples/workspace/workspace.yaml workspace":                                      "what the Dockerfile beside it builds",
	"deploy/kubernetes/sample-workspace.yaml quay.io/jupyter/base-notebook:2025-03-14": "a full version of a sample, which operators replace by their own image",
	"helm/wts/values.yaml postgres:16.15-alpine":                                       "a full version; operators set their own",
	"test/vulnerabilities-unknown https://vuln.go.dev/index/db.json":                   "what is known of vulnerabilities has to be the newest",
}

var (
	goCommand  = regexp.MustCompile(`(?:\bgo|\$\(GO\)) +(?:get|install|run) +(.*)`)
	remotePath = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+/`)
	goVersion  = regexp.MustCompile(`@(v[0-9]+\.[0-9]+\.[0-9]+|\$\{?[a-z_]+\}?)`)
	floating   = regexp.MustCompile(`@(latest|main|master|HEAD)\b`)
	npmCommand = regexp.MustCompile(`\bnpm +(?:install|i|add|exec) +(.*)`)
	npxCommand = regexp.MustCompile(`\bnpx +(?:-\S+ +)*(\S+)`) // what follows are the words of the program
	pipCommand = regexp.MustCompile(`\bpip3? +install +(.*)`)
	exact      = regexp.MustCompile(`@[0-9]+\.[0-9]+\.[0-9]+`)
	fetched    = regexp.MustCompile(`\b(?:curl|wget|ADD|git +clone)\b.*?(https://[^ "'\\]+)`)
	image      = regexp.MustCompile(`(?:^FROM +|[iI]mage: *"?|docker (?:pull|run)(?: -\S+)* )([^ "]+)`)
	action     = regexp.MustCompile(`\buses: *(\S+)`)
	commit     = regexp.MustCompile(`@[0-9a-f]{40}$`)
	digest     = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)
)

// unpinned names what a file fetches without saying which version. What apt installs is not looked at: its
// releases are pinned by the machine's or the image's own.
func unpinned(name, text string) (found []string) {
	if path.Base(name) == "package.json" {
		return unpinnedPackages(text)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "{{- /*") {
			continue
		}
		for _, here := range unpinnedIn(line) {
			if unpinnedKnown[name+" "+here] == "" {
				found = append(found, here)
			}
		}
	}
	return found
}

func unpinnedIn(line string) (found []string) {
	words := func(command *regexp.Regexp, wanted func(word string) bool) {
		if match := command.FindStringSubmatch(line); match != nil {
			for _, word := range strings.Fields(match[1]) {
				if word = strings.Trim(word, `"'`); !strings.HasPrefix(word, "-") && wanted(word) {
					found = append(found, word)
				}
			}
		}
	}
	words(goCommand, func(word string) bool { return remotePath.MatchString(word) && !goVersion.MatchString(word) })
	words(npmCommand, func(word string) bool { return !exact.MatchString(word) })
	words(npxCommand, func(word string) bool { return !exact.MatchString(word) })
	words(pipCommand, func(word string) bool { return !strings.Contains(word, "==") })
	words(fetched, func(string) bool { return true })
	words(action, func(word string) bool { return !commit.MatchString(word) })
	words(image, func(word string) bool {
		// Ours, one that is chosen by a value, a map or a stage, and nothing at all.
		return word != "wts" && word != "scratch" && !strings.ContainsAny(word[:1], "{$#") && !digest.MatchString(word)
	})
	if match := floating.FindString(line); match != "" && len(found) == 0 {
		found = append(found, line)
	}
	return found
}

func unpinnedPackages(text string) (found []string) {
	var all struct{ Dependencies, DevDependencies map[string]string }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return []string{err.Error()}
	}
	for _, dependencies := range []map[string]string{all.Dependencies, all.DevDependencies} {
		for name, version := range dependencies {
			if !exact.MatchString("@"+version) || strings.ContainsAny(version, "^~*x<>| ") {
				found = append(found, fmt.Sprintf("%s %s", name, version))
			}
		}
	}
	return found
}

// What the build, the tests and the images fetch has a version: else a machine that starts today gets what
// was published today (as `make test-kube` did, when Kubernetes 1.37.2 was).
func TestWhatIsFetchedHasAVersion(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	checked := map[string]bool{}
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "node_modules", "docs", "rootfs", "bin", ".demo", "testdata", "mutants"}, entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if slices.Contains([]string{".go", ".md", ".sum", ".sql", ".html", ".css", ".db"}, path.Ext(name)) || entry.Name() == "package-lock.json" {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		checked[name] = true
		for _, what := range unpinned(name, string(text)) {
			t.Errorf("%s fetches %s without a version", name, what)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Makefile", "test/kube/build", "test/ready", "deploy/image/Dockerfile", "test/e2e/provider/package.json", ".ci/run"} {
		t.Run(name, func(t *testing.T) {
			if !checked[name] {
				t.Errorf("%s was not read", name)
			}
		})
	}
}

// Each line that fetches something without a version is found, and its pinned form is not.
func TestAMissingVersionIsFound(t *testing.T) {
	for _, row := range []struct{ name, missing, pinned string }{
		{"build", "\tgo get -tool k8s.io/kubernetes/cmd/kube-apiserver >&2", "\tgo get -tool \"k8s.io/kubernetes/cmd/kube-apiserver@$kubernetes\" >&2"},
		{"Makefile", "\tgo install mvdan.cc/gofumpt@latest", "\tgo install mvdan.cc/gofumpt@v0.9.1"},
		{"Makefile", "\t$(GO) run golang.org/x/vuln/cmd/govulncheck ./...", "\t$(GO) run ./test/pgtest/withpostgres"},
		{"run", "npx eslint .", "npx eslint@9.1.0"},
		{"run", "npx --yes eslint", "npx --yes eslint@9.1.0 . | tee x"},
		{"run", "npm install oidc-provider@9", "npm ci --no-audit"},
		{"run", "pip install requests", "pip install requests==2.32.3"},
		{"run", "curl -fsSL https://get.example.org/install.sh | sh", "curl -s localhost:8080"},
		{"run", "git clone https://github.com/uc-cdis/workspace-token-service", "git status"},
		{"deploy/image/Dockerfile", "FROM golang:1.26-bookworm AS build", "FROM golang:1.26.8-bookworm AS build"},
		{"Dockerfile", "FROM debian", "FROM debian@sha256:" + strings.Repeat("0", 64)},
		{"values.yaml", "  image: quay.io/jupyter/base-notebook", "  image: wts"},
		{"check.yaml", "- uses: actions/checkout@v4", "- uses: actions/checkout@" + strings.Repeat("0", 40)},
		{"package.json", `{"dependencies": {"jose": "^6.2.17"}}`, `{"dependencies": {"jose": "6.2.17"}}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if found := unpinned(row.name, row.missing); len(found) == 0 {
				t.Errorf("not found: %s", row.missing)
			}
			if found := unpinned(row.name, row.pinned); len(found) > 0 {
				t.Errorf("%s: %v is taken to have no version", row.pinned, found)
			}
		})
	}
}
