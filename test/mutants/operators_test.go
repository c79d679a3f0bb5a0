//go:build mutants

package mutants

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// edit is one change of a file's text.
type edit struct {
	file       string // its path in the module
	function   string // in which it is
	line       int
	start, end int // offsets of what is replaced
	before     string
	after      string
}

// title names an edit by what it does and not by its line, so that it is still known when other lines change.
func (e edit) title() string {
	after := e.after
	if after == "" {
		after = "nothing"
	}
	return fmt.Sprintf("%s %s: %s => %s", e.file, e.function, oneLine(e.before), oneLine(after))
}

// oneLine shortens a text to a line without backquotes, as it stands in survivors.md.
func oneLine(text string) string {
	text = strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "`", "'")
	if len(text) > 160 {
		text = text[:160] + " ..."
	}
	return text
}

// edits are all the changes that the operators know of in a file, in the order of its text.
func edits(root, file string) ([]edit, error) {
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	positions := token.NewFileSet()
	tree, err := parser.ParseFile(positions, file, source, 0)
	if err != nil {
		return nil, err
	}
	f := &finder{file: file, source: string(source), positions: positions}
	for _, declaration := range tree.Decls {
		f.function = "constants"
		if function, ok := declaration.(*ast.FuncDecl); ok {
			f.function = function.Name.Name
			if function.Recv != nil {
				f.function = strings.TrimPrefix(f.text(function.Recv.List[0].Type), "*") + "." + f.function
			}
		}
		ast.Inspect(declaration, f.visit)
	}
	return f.found, nil
}

// finder walks a file.
type finder struct {
	file, source, function string
	positions              *token.FileSet
	waits                  map[ast.Node]bool // statements of a select, which are no statements of their own
	found                  []edit
}

func (f *finder) text(node ast.Node) string {
	return f.source[f.positions.Position(node.Pos()).Offset:f.positions.Position(node.End()).Offset]
}

func (f *finder) replace(node ast.Node, after string) { f.between(node.Pos(), node.End(), after) }

func (f *finder) between(from, to token.Pos, after string) {
	start, end := f.positions.Position(from), f.positions.Position(to)
	f.found = append(f.found, edit{
		file: f.file, function: f.function, line: start.Line, start: start.Offset, end: end.Offset,
		before: f.source[start.Offset:end.Offset], after: after,
	})
}

func (f *finder) visit(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.ImportSpec, *ast.StructType, *ast.InterfaceType:
		return false
	case *ast.IfStmt:
		f.negate(node.Cond)
	case *ast.ForStmt:
		if node.Cond != nil {
			f.negate(node.Cond)
		}
	case *ast.BinaryExpr:
		f.operator(node)
		return !f.duration(node)
	case *ast.SelectorExpr:
		f.duration(node)
	case *ast.SwitchStmt:
		f.cases(node)
	case *ast.CommClause:
		if f.waits == nil {
			f.waits = map[ast.Node]bool{}
		}
		f.waits[node.Comm] = true
	case *ast.ExprStmt, *ast.IncDecStmt, *ast.DeferStmt:
		if !f.waits[node] {
			f.replace(node, "")
		}
	case *ast.AssignStmt:
		if node.Tok != token.DEFINE && !f.waits[node] {
			f.replace(node, "")
		}
	case *ast.ReturnStmt:
		f.results(node)
	}
	return true
}

// negate turns a condition round. Where that is == for != the operator does it.
func (f *finder) negate(condition ast.Expr) {
	if comparison, ok := condition.(*ast.BinaryExpr); ok && (comparison.Op == token.EQL || comparison.Op == token.NEQ) {
		return
	}
	f.replace(condition, "!("+f.text(condition)+")")
}

// operators and what takes their place.
var operators = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LAND: token.LOR, token.LOR: token.LAND, token.ADD: token.SUB, token.SUB: token.ADD,
}

func (f *finder) operator(expression *ast.BinaryExpr) {
	if other, ok := operators[expression.Op]; ok {
		f.replace(expression, f.text(expression.X)+" "+other.String()+" "+f.text(expression.Y))
	}
}

// duration doubles and zeroes a constant like 5 * time.Second.
func (f *finder) duration(node ast.Expr) bool {
	text := f.text(node)
	unit := text
	if product, ok := node.(*ast.BinaryExpr); ok {
		if _, literal := product.X.(*ast.BasicLit); product.Op != token.MUL || !literal {
			return false
		}
		unit = f.text(product.Y)
	}
	switch unit {
	case "time.Millisecond", "time.Second", "time.Minute", "time.Hour":
		f.replace(node, "2*"+text)
		f.replace(node, "0*"+text)
		return true
	}
	return false
}

// cases takes away what a case does, one of its conditions, or the case.
func (f *finder) cases(choice *ast.SwitchStmt) {
	for _, each := range choice.Body.List {
		clause := each.(*ast.CaseClause)
		if len(clause.Body) > 0 {
			f.between(clause.Body[0].Pos(), clause.Body[len(clause.Body)-1].End(), "")
		}
		if len(clause.List) > 0 {
			f.replace(clause, "")
		}
		for i, condition := range clause.List {
			if choice.Tag == nil {
				f.negate(condition)
			}
			switch {
			case i > 0:
				f.between(clause.List[i-1].End(), condition.End(), "")
			case len(clause.List) > 1:
				f.between(condition.Pos(), clause.List[1].Pos(), "")
			}
		}
	}
}

// results turns a truth into its opposite, and an error into none.
func (f *finder) results(end *ast.ReturnStmt) {
	for i, result := range end.Results {
		switch result := result.(type) {
		case *ast.Ident:
			switch result.Name {
			case "true":
				f.replace(result, "false")
				continue
			case "false":
				f.replace(result, "true")
				continue
			case "nil":
				continue
			}
		case *ast.BinaryExpr, *ast.UnaryExpr:
			f.negate(result)
			continue
		}
		if i == len(end.Results)-1 {
			f.replace(result, "nil")
		}
	}
}

// Each operator does what its name says.
func TestOperators(t *testing.T) {
	dir := t.TempDir()
	source := `package p
const life = 3 * time.Second
func (e *engine) f(a int) (bool, error) {
	if a < 1 && ok {
		e.b = a + 1
		e.call()
	}
	switch {
	case a == 2, a == 3:
		return true, err
	}
	select {
	case <-e.done:
	}
	return a > 1, nil
}
`
	if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := edits(dir, "p.go")
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]bool{}
	for _, one := range found {
		titles[strings.TrimPrefix(one.title(), "p.go ")] = true
	}
	for _, want := range []string{
		"constants: 3 * time.Second => 2*3 * time.Second", "constants: 3 * time.Second => 0*3 * time.Second",
		"engine.f: a < 1 && ok => !(a < 1 && ok)", "engine.f: a < 1 && ok => a < 1 || ok", "engine.f: a < 1 => a <= 1",
		"engine.f: e.b = a + 1 => nothing", "engine.f: a + 1 => a - 1", "engine.f: e.call() => nothing",
		"engine.f: return true, err => nothing", "engine.f: case a == 2, a == 3: return true, err => nothing",
		"engine.f: a == 2 => a != 2", "engine.f: a == 2, => nothing", "engine.f: , a == 3 => nothing",
		"engine.f: a == 3 => a != 3",
		"engine.f: true => false", "engine.f: err => nil", "engine.f: a > 1 => !(a > 1)", "engine.f: a > 1 => a >= 1",
	} {
		t.Run(want, func(t *testing.T) {
			if !titles[want] {
				t.Errorf("no %s", want)
			}
			delete(titles, want)
		})
	}
	for title := range titles {
		t.Errorf("unexpected: %s", title)
	}
}
