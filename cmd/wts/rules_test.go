package main

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	ruleRow  = regexp.MustCompile(`(?m)^\| ([A-F][0-9]+) \| (.+) \| (.+) \|$`)
	named    = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	issued   = regexp.MustCompile(`issue [0-9]+`)
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// unshown are the rules of a page that name neither a test that exists nor an issue.
func unshown(page string, tests []string) (rules, missing []string) {
	for _, row := range ruleRow.FindAllStringSubmatch(page, -1) {
		rules = append(rules, row[1])
		names := named.FindAllStringSubmatch(row[3], -1)
		if len(names) == 0 && !issued.MatchString(row[3]) {
			missing = append(missing, row[1]+" names neither a test nor an issue")
		}
		for _, name := range names {
			if !slices.Contains(tests, name[1]) {
				missing = append(missing, row[1]+" names "+name[1]+", which does not exist")
			}
		}
	}
	return rules, missing
}

// Each rule of docs/security.md is shown by a test, or is an issue's.
func TestEachSecurityRuleIsShown(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests []string
	err = fs.WalkDir(os.DirFS("../.."), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile("../../" + name)
		for _, found := range declared.FindAllSubmatch(text, -1) {
			tests = append(tests, string(found[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, missing := unshown(string(page), tests)
	if len(rules) < 60 {
		t.Errorf("%d rules were read; is a row no row any more?", len(rules))
	}
	for _, one := range missing {
		t.Error(one)
	}
	// The test itself can fail.
	if _, missing := unshown("| A1 | says nothing | to be shown |\n| A2 | says more | `TestThatIsNowhere` |\n", tests); len(missing) != 2 {
		t.Errorf("of two rules that are not shown it finds %v", missing)
	}
}
