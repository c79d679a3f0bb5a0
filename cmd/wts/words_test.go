package main

import (
	"go/ast"
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
	"unicode/utf8"
)

// maxColumns is how wide a line of a document may be; tables, code, and links longer than that excepted.
const maxColumns = 120

// Documents, help, log lines and messages are plain: they use none of the words of test/words.txt, and documents
// keep to a width.
func TestWords(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(root, "test", "words.txt"))
	if err != nil {
		t.Fatal(err)
	}
	words := wordsOf(string(list))
	documents, programs := 0, 0
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", "rootfs", "bin", ".demo"}, entry.Name()) {
			return fs.SkipDir
		}
		document := path.Ext(name) == ".md" || name == "config/example.yaml" || name == "helm/wts/values.yaml" || path.Base(name) == "NOTES.txt"
		program := path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "test/") && !strings.HasPrefix(name, "tools/") && !strings.Contains(name, "test/")
		if entry.IsDir() || !document && !program {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if program {
			programs++
			return stringsOf(name, text, func(line int, said string) {
				if word := words.FindString(said); word != "" {
					t.Errorf("%s:%d says %q in %q", name, line, word, said)
				}
			})
		}
		documents++
		checkDocument(t, words, name, string(text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if documents < 15 || programs < 100 {
		t.Errorf("%d documents and %d programs were read: the tree is elsewhere", documents, programs)
	}
}

// wordsOf makes one expression of the list: a word a line, what to write instead behind an arrow.
func wordsOf(list string) *regexp.Regexp {
	var all []string
	for line := range strings.Lines(list) {
		if word, _, _ := strings.Cut(line, "->"); !strings.HasPrefix(word, "#") && strings.TrimSpace(word) != "" {
			all = append(all, strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(word)), " ", `\s+`))
		}
	}
	return regexp.MustCompile(`(?i)\b(` + strings.Join(all, "|") + `)\b`)
}

func checkDocument(t *testing.T, words *regexp.Regexp, name, text string) {
	t.Helper()
	code, number := false, 0
	for line := range strings.Lines(text) {
		line, number = strings.TrimRight(line, "\n"), number+1
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
		}
		if code {
			continue
		}
		if word := words.FindString(line); word != "" {
			t.Errorf("%s:%d says %q", name, number, word)
		}
		// A span of code or a link may be longer than a line, and cannot be broken; a line of test/mutants/survivors.md is parsed.
		if path.Ext(name) == ".md" && name != "test/mutants/survivors.md" && utf8.RuneCountInString(line) > maxColumns && !strings.HasPrefix(strings.TrimSpace(line), "|") && strings.Count(line, " ") > strings.Count(line, "`") && !longSpan.MatchString(line) {
			t.Errorf("%s:%d has %d columns, want at most %d", name, number, utf8.RuneCountInString(line), maxColumns)
		}
	}
}

// longSpan is a line that a span of code or a link alone makes too long.
var longSpan = regexp.MustCompile("^\\W*(`[^`]{80,}`|\\[[^]]*\\]\\([^)]{80,}\\))\\S*$")

// stringsOf tells each string of a program that reads as words.
func stringsOf(name string, text []byte, told func(line int, said string)) error {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, text, 0)
	if err != nil {
		return err
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING && strings.Contains(literal.Value, " ") {
			told(files.Position(literal.Pos()).Line, literal.Value)
		}
		return true
	})
	return nil
}

func TestWordsFindsThem(t *testing.T) {
	words := wordsOf("# a list\nmend -> fix\nshut out -> disable\n")
	for text, want := range map[string]bool{
		"the user can mend it": true, "Shut  out": true, "an amendment": false, "what is shut": false,
	} {
		t.Run(text, func(t *testing.T) {
			if got := words.MatchString(text); got != want {
				t.Errorf("%t, want %t", got, want)
			}
		})
	}
}
