package main

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every lesson of docs/lessons.md has its test, and every such test its line there.
func TestLessonsAreHeld(t *testing.T) {
	text, err := os.ReadFile("../../docs/lessons.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`TestLesson\d\d[A-Za-z]+`)
	said := map[string]bool{}
	for _, found := range name.FindAllString(string(text), -1) {
		said[found] = true
	}
	if len(said) < 25 {
		t.Fatalf("%d lessons are numbered, want at least 25", len(said))
	}
	held := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (TestLesson\d\d[A-Za-z]+)\(t \*testing\.T\)`)
	err = fs.WalkDir(os.DirFS("../.."), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile("../../" + path)
		for _, found := range declared.FindAllStringSubmatch(string(text), -1) {
			held[found[1]] = true
			if !said[found[1]] {
				t.Errorf("%s: %s stands in no line of docs/lessons.md", path, found[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for one := range said {
		if !held[one] {
			t.Errorf("docs/lessons.md names %s, which is no test", one)
		}
	}
}
