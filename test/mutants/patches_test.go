//go:build mutants

package mutants

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var (
	only    = flag.String("mutants.only", "", "a regular expression of the patches' names, or of what a drawn mutant changes; all of them without")
	hurt    = flag.Bool("mutants.torture", true, "try what survives against the torture too")
	workers = flag.Int("mutants.workers", 2, "how many mutants are tried at once")
)

var patched = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)$`)

// apply applies a patch to copies of the files.
func apply(root, patch, dir string) (mutant, error) {
	m := mutant{name: strings.TrimSuffix(filepath.Base(patch), ".patch"), files: map[string]string{}}
	text, err := os.ReadFile(patch)
	if err != nil {
		return m, err
	}
	before := map[string]string{}
	for _, path := range patched.FindAllStringSubmatch(string(text), -1) {
		source, err := os.ReadFile(filepath.Join(root, path[1]))
		if err != nil {
			return m, err
		}
		if m.file == "" {
			m.file = path[1]
		}
		copied := filepath.Join(dir, path[1])
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			return m, err
		}
		if err := os.WriteFile(copied, source, 0o600); err != nil {
			return m, err
		}
		before[path[1]] = string(source)
	}
	command := exec.Command("git", "apply", patch)
	command.Dir, command.Env = dir, append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if output, err := command.CombinedOutput(); err != nil {
		return m, fmt.Errorf("%s does not apply: %w\n%s", filepath.Base(patch), err, output)
	}
	for path, source := range before {
		changed, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return m, err
		}
		if string(changed) == source {
			return m, fmt.Errorf("%s does not change %s", filepath.Base(patch), path)
		}
		m.files[path] = string(changed)
	}
	return m, nil
}

// Every bug that is kept as a patch is found by a test.
func TestPatches(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(root, "test", "mutants", "*.patch"))
	if err != nil {
		t.Fatal(err)
	}
	var all []mutant
	for _, path := range paths {
		if !wanted.MatchString(filepath.Base(path)) {
			continue
		}
		m, err := apply(root, path, t.TempDir())
		if err != nil {
			t.Error(err)
			continue
		}
		all = append(all, m)
	}
	if t.Failed() {
		t.Fatal("a patch that does not apply is to be written again for the code as it is")
	}
	b := newBench(t, *hurt)
	verdicts, next := make([]verdict, len(all)), make(chan int)
	var running sync.WaitGroup
	for range *workers {
		running.Go(func() {
			for i := range next {
				var err error
				if verdicts[i], err = b.try(t.Context(), all[i], func(error) {}); err != nil {
					t.Error(err)
				}
				fmt.Println(verdicts[i])
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	running.Wait()
	table(verdicts)
	for _, v := range verdicts {
		if v.name != "" && v.by == "" {
			t.Errorf("%s: no test finds it", v.name)
		}
	}
}

// table prints what became of the mutants.
func table(verdicts []verdict) {
	width, killed := 0, 0
	for _, v := range verdicts {
		width = max(width, len(v.name))
	}
	fmt.Println()
	for _, v := range verdicts {
		by := "SURVIVED"
		if v.by != "" {
			by = v.by
			killed++
		}
		fmt.Printf("%-*s  %6.1f s  %s\n", width, v.name, v.took.Seconds(), by)
	}
	fmt.Printf("\n%d of %d killed\n", killed, len(verdicts))
}
