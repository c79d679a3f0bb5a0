package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What a comment cites is in this repository: a document, a rule or a step of one, a section of the Gen3 contract,
// a decision. Everything else that is cited is public, as an RFC is.
func TestReferencesResolve(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found := newReferences(t, root)
	comments := 0
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", "rootfs", ".demo"}, entry.Name()) {
			return fs.SkipDir
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, group := range parsed.Comments {
			comments++
			for _, broken := range found.unresolved(path.Dir(name), strings.Join(strings.Fields(group.Text()), " ")) {
				t.Errorf("%s:%d cites %s, which is not in this repository", name, files.Position(group.Pos()).Line, broken)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if comments < 1000 {
		t.Errorf("%d comments were read: the tree is elsewhere", comments)
	}
}

// references are the documents, and what can be cited of them.
type references struct {
	root                                   string
	security, kubernetes, engine, contract string
}

func newReferences(t *testing.T, root string) references {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return references{root, read("security.md"), read("kubernetes.md"), read("refresh-engine.md"), read("gen3-contract.md")}
}

var (
	citedDocument = regexp.MustCompile(`[A-Za-z0-9_/-]+\.md\b`)
	citedSecurity = regexp.MustCompile(`(?:[Ss]ecurity\.md|\b[Rr]ules?) ([A-F][0-9]+(?:(?:, | and | to )[A-F][0-9]+)*)`)
	citedPods     = regexp.MustCompile(`[Kk]ubernetes\.md rules? ([0-9]+(?:(?:, | and | to )[0-9]+)*)`)
	citedStep     = regexp.MustCompile(`[Rr]efresh-engine\.md steps? ([0-9]+(?:(?:, | and | to )[0-9]+)*)`)
	citedPromise  = regexp.MustCompile(`[Rr]efresh-engine\.md promise ([0-9]+)`)
	citedContract = regexp.MustCompile(`[Cc]ontract(?:\.md)? \(?([0-9](?:\.[0-9])?(?:(?:, | and )[0-9](?:\.[0-9])?)*)`)
	citedDecision = regexp.MustCompile(`\bdecisions? 0*([0-9]+)`)
	citedHeading  = regexp.MustCompile(`([A-Za-z0-9_/-]+\.md\)?), "([^"]+)"`)
	citedFinding  = regexp.MustCompile(`\b(?:SE|EN|PR|G3-|HO-|OP-)[A-Z]?[0-9]+\b|[Mm]ust be shown`)
	listed        = regexp.MustCompile(`, | and | to `)
)

// unresolved names what a comment of a folder cites and what is not there.
func (r references) unresolved(folder, comment string) (broken []string) {
	check := func(pattern *regexp.Regexp, there func(cited string) bool) {
		for _, match := range pattern.FindAllStringSubmatch(comment, -1) {
			for _, cited := range listed.Split(match[len(match)-1], -1) {
				if !there(cited) {
					broken = append(broken, match[0])
				}
			}
		}
	}
	row := func(document string) func(string) bool {
		return func(cited string) bool { return strings.Contains(document, "\n| "+cited+" |") }
	}
	check(citedDocument, func(name string) bool {
		lower := strings.ToLower(name[:1]) + name[1:]
		return r.exists(name) || r.exists(path.Join("docs", lower)) || r.exists(path.Join(folder, name))
	})
	check(citedSecurity, row(r.security))
	check(citedPods, row(r.kubernetes))
	check(citedStep, row(r.engine))
	check(citedPromise, func(number string) bool { return strings.Contains(r.engine, "\n"+number+". **") })
	check(citedContract, func(section string) bool {
		return strings.Contains(r.contract, "\n## "+section+". ") || strings.Contains(r.contract, "\n### "+section+" ")
	})
	check(citedDecision, func(number string) bool {
		files, err := filepath.Glob(filepath.Join(r.root, "docs", "decisions", "0*"+number+"-*.md"))
		return err == nil && len(files) == 1
	})
	for _, match := range citedHeading.FindAllStringSubmatch(comment, -1) {
		name := strings.TrimSuffix(match[1], ")")
		text, err := os.ReadFile(filepath.Join(r.root, "docs", strings.ToLower(path.Base(name)[:1])+path.Base(name)[1:]))
		if err == nil && !regexp.MustCompile(`(?m)^#+ .*`+regexp.QuoteMeta(match[2])).Match(text) {
			broken = append(broken, match[0])
		}
	}
	check(citedFinding, func(string) bool { return false })
	return broken
}

func (r references) exists(name string) bool {
	_, err := os.Stat(filepath.Join(r.root, name))
	return err == nil
}

func TestReferencesFindsThem(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found := newReferences(t, root)
	for comment, want := range map[string]int{
		"it ends (refresh-engine.md step 8)":              0,
		"it ends (refresh-engine.md steps 8 and 99)":      1,
		"rule A4, and security.md E1, E2":                 0,
		"rule A99":                                        1,
		`refresh-engine.md, "Stopping"`:                   0,
		`(refresh-engine.md, "Going on")`:                 1,
		"Kubernetes.md rule 1; gen3-contract.md 1.2":      0,
		"kubernetes.md rules 2 to 50":                     1,
		"the Gen3 contract (1.0), contract 7":             1,
		"see nowhere.md":                                  1,
		"decision 6, and decision 77":                     1,
		"EN3: what must be shown 4":                       2,
		"ES256 of RFC 9068 2, and architecture.md's plan": 0,
	} {
		t.Run(comment, func(t *testing.T) {
			if got := found.unresolved("cmd/wts", comment); len(got) != want {
				t.Errorf("%q, want %d of them", got, want)
			}
		})
	}
}
