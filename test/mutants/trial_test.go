//go:build mutants

package mutants

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/pgtest"
)

// mutant is the project with one bug in it.
type mutant struct {
	name  string
	file  string            // the file with the bug, or the first of them
	files map[string]string // the files that differ: their texts, by their paths in the module
}

// stage is some of a package's tests. The stages are in the order in which most bugs are found soonest.
type stage struct {
	folder  string
	flags   []string
	changed []string // the folders whose files these tests depend on
	tags    string
	inside  bool // without the tests in a package of their own, which need more and take longer to compile
	torture bool
}

const (
	providerFolder = "pkg/provider"
	brokerFolder   = "pkg/broker"
	storeFolder    = "pkg/store"
	tortureFolder  = "test/torture"
)

var stages = []stage{
	{folder: providerFolder, changed: []string{providerFolder}},
	{folder: brokerFolder, flags: []string{"-test.skip=^TestSimulation"}, changed: []string{brokerFolder}, inside: true},
	// The simulation has a database and a provider of its own. What looks for planted bugs is left out: it
	// is a test of the simulation.
	{folder: brokerFolder, flags: []string{"-test.run=^TestSimulation$"}, changed: []string{brokerFolder}, inside: true},
	{folder: storeFolder, flags: []string{"-test.run=^TestConformance$"}, changed: []string{brokerFolder, storeFolder}},
	{folder: brokerFolder, flags: []string{"-test.skip=^TestSimulation"}, changed: []string{providerFolder, brokerFolder, storeFolder}},
	{folder: storeFolder, flags: []string{"-test.skip=^(TestConformance|TestACommitThatArrivesLate)$"}, changed: []string{brokerFolder, storeFolder}},
	{folder: storeFolder, flags: []string{"-test.run=^TestACommitThatArrivesLate$"}, changed: []string{storeFolder}}, // takes 47 s
	{folder: tortureFolder, flags: []string{"-test.run=^TestTorture$"}, changed: []string{providerFolder, brokerFolder, storeFolder}, tags: " torture", torture: true},
}

func (s stage) String() string {
	name := s.folder
	if s.inside {
		name += " (inside)"
	}
	return strings.Join(append([]string{name}, s.flags...), " ")
}

// binary names what the stage compiles; several stages may share it.
func (s stage) binary() string {
	name := filepath.Base(s.folder)
	if s.inside {
		name += "-inside"
	}
	return name
}

// bench tries mutants, one after the other or several at once.
type bench struct {
	root    string // of the module
	dir     string // for files that go with the run
	server  string // PostgreSQL's URL
	torture bool
	limits  map[string]func() (time.Duration, error) // how long a stage may take with a bug
}

// newBench starts PostgreSQL.
func newBench(t *testing.T, torture bool) *bench {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{root: root, dir: t.TempDir(), server: os.Getenv(pgtest.EnvServer), torture: torture, limits: map[string]func() (time.Duration, error){}}
	if b.server == "" {
		cluster, err := pgtest.Start()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cluster.Remove() })
		b.server = cluster.URL
	}
	for _, one := range stages {
		b.limits[one.String()] = sync.OnceValues(func() (time.Duration, error) { return b.measure(t.Context(), one) })
	}
	return b
}

// measure runs a stage without a bug, when it is about to run with one for the first time. It has to pass; with
// a bug it gets five times as long and 15 s more.
func (b *bench) measure(ctx context.Context, s stage) (limit time.Duration, err error) {
	dir, err := os.MkdirTemp(b.dir, "sound-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary, err := b.compile(ctx, mutant{name: "without a bug"}, s, dir)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if failed := b.run(ctx, binary, s, 10*time.Minute); failed != nil {
		return 0, fmt.Errorf("%s: fails without a bug, in %s:\n%s", s, failed.test, failed.output)
	}
	took := time.Since(began)
	limit = 5*took + 15*time.Second
	fmt.Printf("without a bug: %6.1f s, with one at most %4.0f s: %s\n", took.Seconds(), limit.Seconds(), s)
	return limit, nil
}

// verdict is what became of a mutant.
type verdict struct {
	mutant
	by   string // the first test that failed; empty where the mutant survived
	once string // a test that failed, and passed when it was run again by itself
	took time.Duration
}

func (v verdict) String() string {
	text := fmt.Sprintf("%6.1f s  %s: ", v.took.Seconds(), v.name)
	if v.by != "" {
		return text + "killed by " + v.by
	}
	if v.once != "" {
		return text + "SURVIVED (" + v.once + " failed once, and passed when it was run again)"
	}
	return text + "SURVIVED"
}

// errNoCompile: the mutant is no program.
var errNoCompile = errors.New("does not compile")

// try runs the tests against a mutant, up to the first that fails twice. The function compiled is called
// once it is known whether the mutant compiles.
func (b *bench) try(ctx context.Context, m mutant, compiled func(err error)) (verdict, error) {
	began := time.Now()
	dir, err := os.MkdirTemp(b.dir, "mutant-")
	if err != nil {
		return verdict{}, err
	}
	defer os.RemoveAll(dir)
	result, binaries, first := verdict{mutant: m}, map[string]string{}, true
	for _, stage := range b.stagesOf(m) {
		if binaries[stage.binary()] == "" {
			binaries[stage.binary()], err = b.compile(ctx, m, stage, dir)
			if first {
				compiled(err)
			}
			if err != nil {
				return verdict{}, err
			}
			first = false
		}
		limit, err := b.limits[stage.String()]()
		if err != nil {
			return verdict{}, err
		}
		failed := b.run(ctx, binaries[stage.binary()], stage, limit)
		if failed != nil && !failed.late {
			again := stage
			again.flags = []string{"-test.run=^" + regexp.QuoteMeta(strings.Split(failed.test, "/")[0]) + "$"}
			if confirmed := b.run(ctx, binaries[stage.binary()], again, limit); confirmed == nil {
				result.once, failed = failed.test, nil
			}
		}
		if failed != nil {
			result.by, result.took = failed.test, time.Since(began)
			if failed.late {
				result.by += " (by timeout)"
			}
			return result, nil
		}
	}
	result.took = time.Since(began)
	return result, ctx.Err()
}

// stagesOf are the stages that may find a mutant. A bug of the store is found soonest by its own tests.
func (b *bench) stagesOf(m mutant) []stage {
	changed := filepath.ToSlash(filepath.Dir(m.file))
	own := slices.DeleteFunc(slices.Clone(stages), func(s stage) bool { return !slices.Contains(s.changed, changed) || s.torture && !b.torture })
	if changed == storeFolder {
		slices.SortStableFunc(own, func(a, b stage) int { return cmp.Compare(foreign(a), foreign(b)) })
	}
	return own
}

func foreign(s stage) int {
	switch s.folder {
	case storeFolder:
		return 0
	case brokerFolder:
		return 1
	default:
		return 2
	}
}

// overlay writes down the files that differ, and which files of the module they stand for: the module itself
// stays as it is. An empty path leaves a file out.
func (b *bench) overlay(m mutant, s stage, dir string) (path string, err error) {
	replace := map[string]string{}
	for path, text := range m.files {
		copied := filepath.Join(dir, strings.ReplaceAll(path, "/", "-"))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(b.root, path)] = copied
	}
	tests, err := filepath.Glob(filepath.Join(b.root, s.folder, "*_test.go"))
	if err != nil {
		return "", err
	}
	for _, test := range tests {
		source, err := os.ReadFile(test)
		if err != nil {
			return "", err
		}
		if s.inside && outside.Match(source) {
			replace[test] = ""
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, s.binary()+".json")
	return path, os.WriteFile(path, text, 0o600)
}

var outside = regexp.MustCompile(`(?m)^package \w+_test$`)

// environment is that of the commands. The torture builds wts by itself: the overlay reaches it by way of
// GOFLAGS.
func (b *bench) environment(overlay string) []string {
	return append(os.Environ(), "CGO_ENABLED=0", pgtest.EnvServer+"="+b.server, "GOFLAGS=-overlay="+overlay)
}

func (b *bench) compile(ctx context.Context, m mutant, s stage, dir string) (binary string, err error) {
	overlay, err := b.overlay(m, s, dir)
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, s.binary())
	command := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "nomsgpack"+s.tags, "-ldflags", "-s -w", "-o", binary, "./"+s.folder)
	command.Dir, command.Env = b.root, b.environment(overlay)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", m.name, errNoCompile, output)
	}
	return binary, nil
}

// failure is a run of tests that failed.
type failure struct {
	test   string
	late   bool // it took too long
	output string
}

func (b *bench) run(ctx context.Context, binary string, s stage, limit time.Duration) *failure {
	ctx, cancel := context.WithTimeout(ctx, limit+20*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, binary, append([]string{"-test.failfast", "-test.v", "-test.timeout=" + limit.String()}, s.flags...)...)
	command.Dir, command.Env = filepath.Join(b.root, s.folder), b.environment(binary+".json")
	command.WaitDelay = 5 * time.Second
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if command.Run() == nil {
		return nil
	}
	return failureOf(output.String(), ctx.Err() != nil)
}

var (
	failLine    = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	runLine     = regexp.MustCompile(`(?m)^=== RUN +(\S+)`)
	runningLine = regexp.MustCompile(`(?m)^\t(Test\S+) \(`)
)

// failureOf finds the first test that failed: the deepest subtest that is named after it. A test that made
// the process panic is the last that began.
func failureOf(output string, late bool) *failure {
	failed := &failure{test: "an end before any test", late: late, output: output[max(0, len(output)-20_000):]}
	if begun := runLine.FindAllStringSubmatch(output, -1); len(begun) > 0 {
		failed.test = begun[len(begun)-1][1]
	}
	if strings.Contains(output, "panic: test timed out after") {
		failed.late = true
		if running := runningLine.FindStringSubmatch(output); running != nil {
			failed.test = running[1]
		}
		return failed
	}
	if names := failLine.FindAllStringSubmatch(output, -1); len(names) > 0 {
		failed.test = names[0][1]
		for _, name := range names {
			if strings.HasPrefix(name[1], failed.test+"/") {
				failed.test = name[1]
			}
		}
	}
	return failed
}
