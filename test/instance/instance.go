// Package instance runs real wts processes for tests that need them: several replicas, kills,
// signals, restarts.
package instance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/test/network"
)

// build makes the binary once for each test process, with the race detector where the test has it.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wts-instance-")
	if err != nil {
		return "", fmt.Errorf("a folder for the binary: %w", err)
	}
	path := filepath.Join(dir, "wts")
	args := []string{"build", "-tags", "nomsgpack", "-o", path}
	if Race {
		args = append(args, "-race")
	}
	command := exec.Command("go", append(args, "github.com/workspace-token-service/wts/cmd/wts")...)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building wts: %w\n%s", err, output)
	}
	return path, nil
})

// BinaryOf builds wts of an older commit of this repository, in a folder that goes with the test, and returns its path.
// The test is skipped where the history does not reach back to the commit, as in a shallow clone.
func BinaryOf(t testing.TB, commit string) string {
	t.Helper()
	dir := t.TempDir()
	unpack := exec.Command("sh", "-c", `git archive "$1" | tar -x -C "$2"`, "sh", commit, dir)
	unpack.Dir = rootOf(t)
	if output, err := unpack.CombinedOutput(); err != nil || len(output) > 0 {
		t.Skipf("the history has no commit %s: %v %s", commit, err, output)
	}
	path := filepath.Join(dir, "wts")
	command := exec.Command("go", "build", "-tags", "nomsgpack", "-o", path, "./cmd/wts")
	command.Dir = dir
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building wts of %s: %v\n%s", commit, err, output)
	}
	return path
}

// rootOf is the repository's folder.
func rootOf(t testing.TB) string {
	t.Helper()
	output, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Skipf("this is no repository: %v", err)
	}
	return strings.TrimSpace(string(output))
}

var built atomic.Bool

// Binary builds wts and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	built.Store(true)
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Main runs a package's tests and deletes the binary that they built. Call it from TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	if built.Load() {
		if path, err := build(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
	return code
}

// FreePort is a port of the loopback address, free as of now.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Port is FreePort for a TestMain. It is below those that a kernel gives to connections, which otherwise may take
// it before it is listened on, or between an end and a start: a caller that tries to reach it among them. It is above
// those that a browser refuses, of which 10080 is the last (the Fetch standard's bad ports).
func Port() (int, error) {
	var err error
	for range 100 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 11_000+rand.IntN(20_000))); err == nil {
			return listener.Addr().(*net.TCPAddr).Port, listener.Close()
		}
	}
	return 0, err
}

// NewKeyring writes a key file and returns its path.
func NewKeyring(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wts-keyring")
	if err := os.WriteFile(path, []byte(keyring.Generate(time.Now())), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Instance is a running wts.
type Instance struct {
	// Address is what it listens on, a host and a port.
	Address string
	args    []string // that name the configuration
	env     []string // nil for that of the tests
	first   []string // that of the first start, once RestartIn changed it
	host    *network.Host
	binary  string
	log     *os.File
	process *exec.Cmd
	done    chan struct{}
}

// Start runs `wts serve` with a configuration on a port, until the test ends.
func Start(t testing.TB, port int, config string) *Instance {
	t.Helper()
	return StartOn(t, nil, localAddress(port), config)
}

func localAddress(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// StartOn is Start on a host of a network of the test's own, at an address that is the host's.
func StartOn(t testing.TB, host *network.Host, address, config string) *Instance {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wts.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, &Instance{Address: address, host: host, args: []string{"-c", path}})
}

// StartDeployed runs `wts serve` with an environment and no file, as Gen3's service is deployed, on a
// port, until the test ends.
func StartDeployed(t testing.TB, port int, env []string) *Instance {
	t.Helper()
	address := localAddress(port)
	return start(t, &Instance{Address: address, env: slices.Concat(env, []string{"WTS_LISTEN=" + address})})
}

// StartOlder is Start with a binary of BinaryOf.
func StartOlder(t testing.TB, binary, address, config string) *Instance {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wts.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, &Instance{Address: address, binary: binary, args: []string{"-c", path}})
}

func start(t testing.TB, i *Instance) *Instance {
	t.Helper()
	if i.binary == "" {
		i.binary = Binary(t)
	}
	var err error
	if i.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	i.Restart(t)
	t.Cleanup(func() {
		i.Kill()
		_ = i.log.Close()
		if t.Failed() {
			// Requests that were served, or are to be tried again, say little of a failure, and fill pages.
			log := strings.Join(slices.DeleteFunc(strings.SplitAfter(i.Log(), "\n"), func(line string) bool {
				return strings.Contains(line, `"msg":"request"`) && (strings.Contains(line, `"status":200`) || strings.Contains(line, `"status":503`))
			}), "")
			t.Logf("the end of the log of %s:\n%s", i.Address, log[max(0, len(log)-20_000):])
		}
	})
	return i
}

// Restart starts the process that was stopped or killed.
func (i *Instance) Restart(t testing.TB) {
	t.Helper()
	command := exec.Command(i.binary, append([]string{"serve"}, i.args...)...)
	command.Stderr, command.Env = i.log, i.env
	err := i.host.Within(func() error {
		// A connection that some client opened may have taken the port for its own end.
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			listener, err := net.Listen("tcp", i.Address)
			if err == nil {
				_ = listener.Close()
				break
			}
		}
		return command.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	i.process, i.done = command, make(chan struct{})
	go func(done chan struct{}) { _ = command.Wait(); close(done) }(i.done)
}

// RestartIn starts the process anew with variables put over the environment that it had at first.
func (i *Instance) RestartIn(t testing.TB, variables ...string) {
	t.Helper()
	if i.first == nil {
		i.first = i.env
		if i.env == nil {
			i.first = os.Environ()
		}
	}
	i.Terminate()
	i.env = slices.Concat(i.first, variables)
	i.Restart(t)
}

// AwaitReady waits until it can serve.
func (i *Instance) AwaitReady(t testing.TB) {
	t.Helper()
	i.AwaitStatus(t, "/readyz", http.StatusOK)
}

// AwaitStatus waits until a path answers with a status.
func (i *Instance) AwaitStatus(t testing.TB, path string, status int) {
	t.Helper()
	got := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + i.Address + path)
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if got = response.StatusCode; got == status {
			return
		}
	}
	t.Fatalf("%s%s answered %d for 20 s, want %d; its log:\n%s", i.Address, path, got, status, i.Log())
}

// Run runs another command of the same binary with the same configuration.
func (i *Instance) Run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, i.binary, append(args, i.args...)...)
	command.Env = i.env
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("wts %v: %v\n%s", args, err, output)
	}
	return string(output)
}

// Terminate asks it to stop, and returns how long it took and its exit code.
func (i *Instance) Terminate() (took time.Duration, code int) {
	began := time.Now()
	_ = i.process.Process.Signal(syscall.SIGTERM)
	<-i.done
	return time.Since(began), i.process.ProcessState.ExitCode()
}

// Pause stops it for a while, as a machine that hangs does, and lets it go on as if nothing had been.
func (i *Instance) Pause(how time.Duration) {
	_ = i.process.Process.Signal(syscall.SIGSTOP)
	time.Sleep(how)
	_ = i.process.Process.Signal(syscall.SIGCONT)
}

// Kill ends it at once, as SIGKILL does.
func (i *Instance) Kill() {
	_ = i.process.Process.Kill()
	<-i.done
}

// Log is what it wrote so far.
func (i *Instance) Log() string {
	text, err := os.ReadFile(i.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// LogFile is where it writes that.
func (i *Instance) LogFile() string { return i.log.Name() }

// PID is its process' id.
func (i *Instance) PID() int { return i.process.Process.Pid }
