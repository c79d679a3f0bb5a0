package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Bouncer puts pgbouncer in transaction mode before a server, as operators do, until the test ends, and
// returns the database's URL by way of it. Debian's has no named statements in that mode, and refuses
// start-up parameters that it does not know.
func Bouncer(t testing.TB, address string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; !exists(program) {
			t.Fatal("pgbouncer is not here: install the package pgbouncer")
		}
	}
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "wts-bouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	settings := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 500
`, parsed.Hostname(), parsed.Port(), parsed.User.Username(), port)
	path := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(path, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	owner, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-q", path)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	output, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait(); _ = output.Close() })
	parsed.Host = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := net.Dial("tcp", parsed.Host)
		if err == nil {
			_ = connection.Close()
			return parsed.String()
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(output.Name())
			t.Fatalf("pgbouncer does not listen: %v\n%s", err, text)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
