// Package shape measures the house: how long its functions are, how wide its types, how much of it is explained and
// tested. `make shape` prints what it finds.
//
// The definitions. Code is what is neither blank nor a comment, of Go files. Production is api, cmd, config, pkg and
// web without tests and without machinery. Machinery is what tests are made of: test/, and packages whose names end
// in test. A chain counts arrows between packages of this module. A function is as long as from its first line to its
// last, both counted. The fields of a struct are counted that hold another package's type, of this module.
package shape

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/workspace-token-service/wts/"

	maxChain       = 5
	maxFunction    = 80 // lines
	maxFunctionP95 = 34
	maxMethods     = 20 // of a type in pkg
	maxFields      = 10 // of other packages' types, of a type in pkg
	maxInterface   = 5  // methods
	minComments    = 0.15
	minTests       = 1.2
)

// tree is what is measured of a tree.
type tree struct {
	root    string
	files   *token.FileSet
	imports map[string]map[string]bool

	functions  []length
	methods    map[string]int // by package and type
	fields     map[string]int
	interfaces map[string]int

	production, tests, pkg, comments int // lines
}

type length struct {
	name  string
	lines int
}

func TestShape(t *testing.T) {
	h := &tree{
		root: "../..", files: token.NewFileSet(), imports: map[string]map[string]bool{},
		methods: map[string]int{}, fields: map[string]int{}, interfaces: map[string]int{},
	}
	if err := fs.WalkDir(os.DirFS(h.root), ".", h.visit); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(h.functions, func(a, b length) int { return a.lines - b.lines })
	if len(h.functions) < 500 {
		t.Fatalf("%d functions were read: the tree is elsewhere", len(h.functions))
	}
	longest := h.functions[len(h.functions)-1]
	p95 := h.functions[len(h.functions)*95/100].lines
	chain := h.chain()
	comments, tests := ratio(h.comments, h.pkg), ratio(h.tests, h.production)
	fmt.Printf("functions          %d, of a median of %d lines, 95 %% of at most %d, the longest of %d (%s)\n",
		len(h.functions), h.functions[len(h.functions)/2].lines, p95, longest.lines, longest.name)
	fmt.Printf("longest chain      %d (%s)\n", len(chain)-1, strings.Join(chain, " > "))
	fmt.Printf("methods of a type  %s\n", widest(h.methods))
	fmt.Printf("fields of others   %s\n", widest(h.fields))
	fmt.Printf("interfaces         %s\n", widest(h.interfaces))
	fmt.Printf("comments in pkg    %.2f lines for each of code\n", comments)
	fmt.Printf("tests              %.2f lines for each of production (%d to %d)\n", tests, h.tests, h.production)

	most := func(what string, found, wanted int) {
		if found > wanted {
			t.Errorf("%s: %d, want at most %d", what, found, wanted)
		}
	}
	most("the longest chain", len(chain)-1, maxChain)
	most("the lines of "+longest.name, longest.lines, maxFunction)
	most("the lines of 95 % of the functions", p95, maxFunctionP95)
	for what, table := range map[string]struct {
		found map[string]int
		most  int
	}{"methods": {h.methods, maxMethods}, "fields of other packages' types": {h.fields, maxFields}, "methods of the interface": {h.interfaces, maxInterface}} {
		for name, found := range table.found {
			most(what+" of "+name, found, table.most)
		}
	}
	if comments < minComments {
		t.Errorf("comments: %.3f lines for each of code in pkg, want at least %.2f", comments, minComments)
	}
	if tests < minTests {
		t.Errorf("tests: %.3f lines for each of production, want at least %.2f", tests, minTests)
	}
}

func ratio(a, b int) float64 { return float64(a) / float64(max(b, 1)) }

// widest names the three largest of a table.
func widest(table map[string]int) string {
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if table[a] != table[b] {
			return table[b] - table[a]
		}
		return strings.Compare(a, b)
	})
	var all []string
	for _, name := range names[:min(3, len(names))] {
		all = append(all, fmt.Sprintf("%d %s", table[name], name))
	}
	return strings.Join(all, ", ")
}

func (h *tree) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if entry.IsDir() {
		if slices.Contains([]string{".git", "node_modules", "testdata", "tools", "docs", "helm", "deploy"}, entry.Name()) {
			return fs.SkipDir
		}
		return nil
	}
	if path.Ext(name) != ".go" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(h.root, name))
	if err != nil {
		return err
	}
	code, comments := lines(text)
	folder := path.Dir(name)
	if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "test/") || strings.HasSuffix(folder, "test") {
		h.tests += code
		return nil
	}
	h.production += code
	parsed, err := parser.ParseFile(h.files, name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "pkg/") {
		h.pkg, h.comments = h.pkg+code, h.comments+comments
	}
	h.read(folder, parsed)
	return nil
}

// lines counts those that hold code, and those that hold nothing but a comment.
func lines(text []byte) (code, comments int) {
	var s scanner.Scanner
	files := token.NewFileSet()
	file := files.AddFile("", -1, len(text))
	s.Init(file, text, nil, scanner.ScanComments)
	coded, commented := map[int]bool{}, map[int]bool{}
	for {
		position, kind, literal := s.Scan()
		if kind == token.EOF {
			break
		}
		if kind == token.SEMICOLON && literal == "\n" {
			continue
		}
		first := file.Line(position)
		for line := first; line <= first+strings.Count(literal, "\n"); line++ {
			if kind == token.COMMENT {
				commented[line] = true
			} else {
				coded[line] = true
			}
		}
	}
	for line := range commented {
		if !coded[line] {
			comments++
		}
	}
	return len(coded), comments
}

func (h *tree) read(folder string, file *ast.File) {
	names := map[string]bool{} // by which the file knows other packages of this module
	for _, line := range file.Imports {
		target, ours := strings.CutPrefix(strings.Trim(line.Path.Value, `"`), module)
		if !ours {
			continue
		}
		if h.imports[folder] == nil {
			h.imports[folder] = map[string]bool{}
		}
		h.imports[folder][target] = true
		names[path.Base(target)] = true
	}
	inPkg := strings.HasPrefix(folder, "pkg/")
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			first, last := h.files.Position(d.Pos()), h.files.Position(d.End())
			h.functions = append(h.functions, length{folder + "." + d.Name.Name + ":" + strconv.Itoa(first.Line), last.Line - first.Line + 1})
			if d.Recv != nil && inPkg {
				h.methods[folder+"."+receiver(d.Recv.List[0].Type)]++
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if named, ok := spec.(*ast.TypeSpec); ok {
					h.readType(folder+"."+named.Name.Name, named.Type, names, inPkg)
				}
			}
		}
	}
}

func (h *tree) readType(name string, of ast.Expr, names map[string]bool, inPkg bool) {
	switch kind := of.(type) {
	case *ast.InterfaceType:
		h.interfaces[name] = kind.Methods.NumFields()
	case *ast.StructType:
		for _, field := range kind.Fields.List {
			if inPkg && foreign(field.Type, names) {
				h.fields[name] += max(len(field.Names), 1)
			}
		}
	}
}

func receiver(of ast.Expr) string {
	switch kind := of.(type) {
	case *ast.StarExpr:
		return receiver(kind.X)
	case *ast.IndexExpr:
		return receiver(kind.X)
	case *ast.Ident:
		return kind.Name
	}
	return "?"
}

// foreign tells a type of another package.
func foreign(of ast.Expr, names map[string]bool) (found bool) {
	ast.Inspect(of, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if from, ok := selector.X.(*ast.Ident); ok && names[from.Name] {
				found = true
			}
		}
		return !found
	})
	return found
}

// chain is the longest chain of packages that import one another.
func (h *tree) chain() (longest []string) {
	known := map[string][]string{}
	var from func(name string) []string
	from = func(name string) []string {
		if found, ok := known[name]; ok {
			return found
		}
		var best []string
		for target := range h.imports[name] {
			if below := from(target); len(below) > len(best) {
				best = below
			}
		}
		known[name] = append([]string{name}, best...)
		return known[name]
	}
	for name := range h.imports {
		if found := from(name); len(found) > len(longest) {
			longest = found
		}
	}
	return longest
}
