//go:build mutants

package mutants

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seed  = flag.Uint64("mutants.seed", 1, "which mutants are drawn")
	count = flag.Int("mutants.count", 300, "how many")
	want  = flag.Float64("mutants.want", 90, "how many of a hundred have to be killed")
)

// drawnFrom are the files of the refresh engine.
var drawnFrom = []string{
	"pkg/broker/rules.go", "pkg/broker/judge.go", "pkg/broker/engine.go", "pkg/broker/flight.go", "pkg/broker/refresh.go", "pkg/broker/settle.go",
	"pkg/broker/lease.go", "pkg/broker/sweep.go", "pkg/broker/spool.go", "pkg/broker/waiting.go", "pkg/broker/failover.go", "pkg/broker/kept.go", "pkg/broker/clock.go",
	"pkg/store/swap.go", "pkg/store/orphan.go", "pkg/store/connection.go", "pkg/store/failover.go",
}

// draw puts all edits of the files into the order of the seed, or those alone that are asked for. The same edit
// of two operators counts once.
func draw(root string) ([]edit, error) {
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return nil, err
	}
	var all []edit
	seen := map[string]bool{}
	for _, file := range drawnFrom {
		found, err := edits(root, file)
		if err != nil {
			return nil, err
		}
		for _, one := range found {
			key := fmt.Sprint(one.file, one.start, one.end, one.after)
			if !seen[key] {
				seen[key] = true
				all = append(all, one)
			}
		}
	}
	rand.New(rand.NewPCG(*seed, 300)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return slices.DeleteFunc(all, func(e edit) bool { return !wanted.MatchString(e.title()) }), nil
}

func (e edit) mutant(root string) (mutant, error) {
	source, err := os.ReadFile(filepath.Join(root, e.file))
	if err != nil {
		return mutant{}, err
	}
	text := string(source[:e.start]) + e.after + string(source[e.end:])
	return mutant{name: fmt.Sprintf("%s:%d", e.file, e.line), file: e.file, files: map[string]string{e.file: text}}, nil
}

// diff is the edit as a diff of whole lines.
func (e edit) diff(root string) string {
	source, err := os.ReadFile(filepath.Join(root, e.file))
	if err != nil {
		return err.Error()
	}
	from := bytes.LastIndexByte(source[:e.start], '\n') + 1
	to := len(source)
	if more := bytes.IndexByte(source[e.end:], '\n'); more >= 0 {
		to = e.end + more
	}
	lines := func(mark, text string) string { return mark + strings.ReplaceAll(text, "\n", "\n"+mark) + "\n" }
	return lines("\t-", string(source[from:to])) + lines("\t+", string(source[from:e.start])+e.after+string(source[e.end:to]))
}

// pool hands out edits until as many compile as are wanted. The ones that are tried are the first of the
// order that compile, however many are tried at once.
type pool struct {
	mu      sync.Mutex
	changed *sync.Cond
	edits   []edit
	wanted  int
	open    int // handed out, and it is not known yet whether they compile
	good    int // compile
	bad     int
}

func (p *pool) next() (edit, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.open > 0 && p.good+p.open >= p.wanted && p.good < p.wanted {
		p.changed.Wait()
	}
	if p.good+p.open >= p.wanted || len(p.edits) == 0 {
		return edit{}, false
	}
	one := p.edits[0]
	p.edits, p.open = p.edits[1:], p.open+1
	return one, true
}

func (p *pool) compiled(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	if err == nil {
		p.good++
	} else {
		p.bad++
	}
	p.changed.Broadcast()
}

// equivalentLine is a line of survivors.md.
var equivalentLine = regexp.MustCompile("(?m)^\\* `([^`]+)`: \\S")

// TestDrawn wants nine of ten mutants killed that the seed draws. Those that survivors.md calls equivalent
// do not count.
func TestDrawn(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	judged, err := os.ReadFile("survivors.md")
	if err != nil {
		t.Fatal(err)
	}
	equivalent := map[string]bool{}
	for _, line := range equivalentLine.FindAllStringSubmatch(string(judged), -1) {
		equivalent[line[1]] = true
	}
	order, err := draw(root)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("seed %d: %d mutants of %d that are known\n", *seed, *count, len(order))
	b, began := newBench(t, false), time.Now()
	p := &pool{edits: order, wanted: *count}
	p.changed = sync.NewCond(&p.mu)
	type drawn struct {
		edit
		verdict
	}
	var mu sync.Mutex
	var survivors []drawn
	var slowest time.Duration
	killed, known := 0, 0
	var running sync.WaitGroup
	for range *workers {
		running.Go(func() {
			for one, more := p.next(); more; one, more = p.next() {
				m, err := one.mutant(root)
				if err != nil {
					t.Error(err)
					return
				}
				v, err := b.try(t.Context(), m, p.compiled)
				if errors.Is(err, errNoCompile) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				slowest = max(slowest, v.took)
				switch {
				case v.by != "":
					killed++
				case equivalent[one.title()]:
					known++
				default:
					survivors = append(survivors, drawn{one, v})
				}
				fmt.Printf("%s  %s\n", v, one.title())
				mu.Unlock()
			}
		})
	}
	running.Wait()
	slices.SortFunc(survivors, func(a, b drawn) int { return strings.Compare(a.name, b.name) })
	fmt.Printf("\nsurvivors:\n")
	for _, one := range survivors {
		fmt.Printf("\n%s\n* `%s`\n%s", one.verdict, one.title(), one.diff(root))
	}
	tried := killed + known + len(survivors)
	percent := func(part, of int) float64 { return 100 * float64(part) / float64(max(of, 1)) }
	fmt.Printf("\nseed %d: %d mutants in %s (slowest %s; %d more did not compile): %d killed, %d survived, %d survived that survivors.md calls equivalent\n",
		*seed, tried, time.Since(began).Round(time.Second), slowest.Round(time.Second), p.bad, killed, len(survivors), known)
	fmt.Printf("%.1f %% of all are killed, %.1f %% of those that are not equivalent\n", percent(killed, tried), percent(killed, tried-known))
	if percent(killed, tried-known) < *want {
		t.Errorf("%.1f %% are killed, want at least %.0f %%", percent(killed, tried-known), *want)
	}
}
