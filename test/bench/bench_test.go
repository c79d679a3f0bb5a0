package bench

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

const (
	envBareGin  = "WTS_BENCH_BARE_GIN"  // the address that a child of this process serves
	envBarePage = "WTS_BENCH_BARE_PAGE" // what a child of this process serves a page by
	envMemory   = "WTS_BENCH_MEMORY"    // how many tokens a child of this process holds
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envBareGin) != "":
		serveBareGin(os.Getenv(envBareGin))
	case os.Getenv(envBarePage) != "":
		serveBarePage(os.Getenv(envBarePage))
	case os.Getenv(envMemory) != "":
		holdTokens(os.Getenv(envMemory))
	default:
		os.Exit(instance.Main(m))
	}
}

// serveBareGin answers as many bytes as a token of ours has, from memory, and does nothing else.
func serveBareGin(address string) {
	gin.SetMode(gin.ReleaseMode)
	engine, body := gin.New(), []byte(`{"token":"`+strings.Repeat("a", 900)+"\"}\n")
	engine.GET("/token/", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", body) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, engine))
	os.Exit(1)
}

// child runs this program once more, as something else.
func child(b *testing.B, environment string) *exec.Cmd {
	b.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), environment)
	command.Stderr = os.Stderr
	b.Cleanup(func() {
		if command.Process != nil {
			_ = command.Process.Kill()
			_ = command.Wait()
		}
	})
	return command
}

// target is a process that is asked.
type target struct {
	address string
	pid     int
	load    *load
}

func newBareGin(b *testing.B) *target {
	b.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(instance.FreePort(b)))
	command := child(b, envBareGin+"="+address)
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	awaitListening(b, address)
	return &target{address: address, pid: command.Process.Pid}
}

// awaitListening waits until a process serves an address.
func awaitListening(b *testing.B, address string) {
	b.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			return
		}
	}
	b.Fatalf("nothing listens at %s", address)
}

// ticks is the processor time of a process, in hundredths of a second; of the whole machine for "".
func ticks(pid string) (used float64) {
	fields := statOf(filepath.Join("/proc", pid, "stat"))
	switch {
	case pid == "":
		// User, nice, system and steal. Interrupts are of the network, which is this machine's own.
		return sumOf(fields[1:4]) + sumOf(fields[8:9])
	case len(fields) < 14: // it has ended
		return 0
	}
	return sumOf(fields[12:14]) // user and system, after the name
}

// statOf are the fields of the first line of a stat file of the kernel's, from the end of the name on; of none for a
// process that has ended.
func statOf(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.Fields(line[max(0, strings.LastIndexByte(line, ')')):])
}

func sumOf(fields []string) (sum float64) {
	for _, field := range fields {
		value, _ := strconv.ParseFloat(field, 64) // the kernel writes numbers
		sum += value
	}
	return sum
}

// ours is the processor time of what belongs to the measurement: this process, wts and its database.
func ours() (used float64) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		switch strings.TrimSpace(string(text)) {
		case "wts", "postgres", filepath.Base(os.Args[0]):
			used += ticks(filepath.Base(filepath.Dir(name)))
		}
	}
	return used
}

// window is what a target did in a second.
type window struct {
	rate, cpu float64 // requests a second, ticks a request
	latencies []time.Duration
	foreign   bool // something else used more than a tenth of the machine
}

// measure asks a target for a second.
func measure(b *testing.B, of *target) window {
	b.Helper()
	pid := strconv.Itoa(of.pid)
	machine, mine, its, began := ticks(""), ours(), ticks(pid), time.Now()
	latencies := of.load.run(b, time.Second)
	took := time.Since(began).Seconds()
	machine, mine, its = ticks("")-machine, ours()-mine, ticks(pid)-its
	return window{
		rate: float64(len(latencies)) / took, cpu: its / float64(max(1, len(latencies))), latencies: latencies,
		foreign: machine-mine > 0.1*took*100*float64(cores()),
	}
}

// rounds measures the targets in turn, the order rotated, until each has seven undisturbed rounds, and
// returns the medians over rounds of what compare makes of one.
func rounds(b *testing.B, targets []*target, compare func(round []window) []float64) (medians []float64) {
	b.Helper()
	var all [][]float64
	for turn := 0; len(all) < 7; turn++ {
		if turn == 40 {
			b.Fatalf("the machine is busy with something else: %d of %d rounds were undisturbed", len(all), turn)
		}
		round, disturbed := make([]window, len(targets)), false
		for step := range targets {
			at := (turn + step) % len(targets)
			round[at] = measure(b, targets[at])
			disturbed = disturbed || round[at].foreign
		}
		if !disturbed {
			all = append(all, compare(round))
		}
	}
	for column := range all[0] {
		var values []float64
		for _, row := range all {
			values = append(values, row[column])
		}
		medians = append(medians, paired.Median(values))
	}
	return medians
}
