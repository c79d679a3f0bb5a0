// Package pgtest runs a real PostgreSQL for tests: a throwaway cluster in a temporary folder, on a
// free port of the loopback address, gone when the tests are.
//
// WTS_TEST_POSTGRES names a server to use instead, as a URL whose user may create databases. `make
// test` starts one cluster for all packages that way; a package tested by itself starts its own.
package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// EnvServer names the variable that holds the URL of a server to use.
const EnvServer = "WTS_TEST_POSTGRES"

// Cluster is a PostgreSQL of ours.
type Cluster struct {
	// URL is that of the database "postgres".
	URL     string
	options Options
	dir     string
	port    int
	clock   []string // what makes PostgreSQL follow the file that StepClock writes
	offset  time.Duration
	run     func(name string, args ...string) *exec.Cmd
}

// Options say what is different from a cluster on the loopback address.
type Options struct {
	// Host is the address to listen on, where every host may connect: one of a network of the test's own.
	Host string
	// Clock has the cluster's clock follow StepClock.
	Clock bool
	// Secure wants TLS and a password by SCRAM-SHA-256 of everybody; they are in the URL.
	Secure bool
}

// PID is the process of a cluster that runs: the one that has started the others.
func (c *Cluster) PID() (int, error) {
	text, err := os.ReadFile(c.dir + "/data/postmaster.pid")
	if err != nil {
		return 0, fmt.Errorf("finding the server's process: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(first)
}

// Start makes and starts a cluster on the loopback address.
func Start() (*Cluster, error) { return StartWith(Options{}) }

// StartWith makes and starts a cluster. PostgreSQL refuses to run as root, so that root runs it as the
// user "postgres", which its package makes, or as "nobody".
func StartWith(options Options) (*Cluster, error) {
	c, err := empty(options)
	if err != nil {
		return nil, err
	}
	login := []string{"-A", "trust"}
	if options.Secure {
		if login, err = c.secure(); err != nil {
			return nil, err
		}
	}
	if output, err := c.run("initdb", append(login, "-D", c.dir+"/data", "-U", "wts", "-E", "UTF8", "--no-locale", "-N")...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	if c.options.Host != loopback {
		if err := c.letIn(); err != nil {
			return nil, err
		}
	}
	if options.Clock {
		if err := c.fakeClock(); err != nil {
			return nil, err
		}
	}
	return c, c.Start()
}

// empty is a cluster without data.
func empty(options Options) (*Cluster, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "wts-postgres-")
	if err != nil {
		return nil, fmt.Errorf("a folder for the cluster: %w", err)
	}
	owner, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, fmt.Errorf("handing over the cluster's folder: %w", err)
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	options.Host = cmp.Or(options.Host, loopback)
	c := &Cluster{
		options: options, dir: dir, port: port,
		URL: fmt.Sprintf("postgres://wts@%s/postgres?sslmode=disable", net.JoinHostPort(options.Host, strconv.Itoa(port))),
		run: func(name string, args ...string) *exec.Cmd {
			command := exec.Command(filepath.Join(programs, name), args...)
			command.Dir = dir
			command.Env = []string{"PATH=" + programs + ":/usr/bin:/bin", "LC_ALL=C", "HOME=" + dir}
			command.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
			return command
		},
	}
	return c, nil
}

const loopback = "127.0.0.1"

// letIn lets every host connect.
func (c *Cluster) letIn() error {
	file, err := os.OpenFile(c.dir+"/data/pg_hba.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("letting other hosts in: %w", err)
	}
	_, err = file.WriteString("host all all all trust\n")
	return errors.Join(err, file.Close())
}

// Start starts a cluster that was stopped, on the port that it had.
func (c *Cluster) Start() error {
	options := fmt.Sprintf("-c listen_addresses=%s -c port=%d -c unix_socket_directories=%s -c fsync=off -c max_connections=300", c.options.Host, c.port, c.dir)
	if c.options.Secure {
		options += fmt.Sprintf(" -c ssl=on -c ssl_cert_file=%s/tls.crt -c ssl_key_file=%s/tls.key", c.dir, c.dir)
	}
	start := c.run("pg_ctl", "-D", c.dir+"/data", "-l", c.dir+"/log", "-w", "-o", options, "start")
	start.Env = append(start.Env, c.clock...)
	if output, err := start.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(c.dir + "/log")
		return fmt.Errorf("pg_ctl start: %w\n%s\n%s", err, output, log)
	}
	return nil
}

// Stop stops it at once, cutting every connection, as a crash of its machine would.
func (c *Cluster) Stop() error {
	if output, err := c.run("pg_ctl", "-D", c.dir+"/data", "-m", "immediate", "-w", "stop").CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl stop: %w\n%s", err, output)
	}
	return nil
}

// Remove stops the cluster, running or not, and deletes its folder.
func (c *Cluster) Remove() error {
	_ = c.Stop() // it may be stopped
	return os.RemoveAll(c.dir)
}

// findPrograms finds the folder of PostgreSQL's server programs, which Debian keeps off the PATH.
func findPrograms() (string, error) {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.Sort(candidates)
	slices.Reverse(candidates)
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(real), "pg_ctl")); err == nil {
			return filepath.Dir(real), nil
		}
	}
	return "", errors.New("PostgreSQL's server programs are not here: install the package postgresql (15 or newer), or set " + EnvServer + " to the URL of a server")
}

// unprivileged is whom root runs PostgreSQL as; nil for whoever is not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return 0, fmt.Errorf("a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

var (
	shared      = sync.OnceValues(Start)
	sharedUsed  atomic.Bool
	databaseSeq atomic.Int64
)

// Main runs a package's tests and removes the cluster that they started, if they did. Call it from
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	Cleanup()
	os.Exit(code)
}

// Cleanup removes the cluster that Database started, if it did.
func Cleanup() {
	if !sharedUsed.Load() {
		return
	}
	if cluster, err := shared(); err == nil {
		_ = cluster.Remove()
	}
}

// Database makes an empty database for one test and returns its URL.
func Database(t testing.TB) string {
	t.Helper()
	server := os.Getenv(EnvServer)
	if server == "" {
		sharedUsed.Store(true)
		cluster, err := shared()
		if err != nil {
			t.Fatal(err)
		}
		server = cluster.URL
	}
	name := fmt.Sprintf("wts_test_%d_%d", os.Getpid(), databaseSeq.Add(1))
	execute(t, server, "CREATE DATABASE "+name)
	t.Cleanup(func() { execute(t, server, "DROP DATABASE "+name+" WITH (FORCE)") })
	return with(t, server, name)
}

func with(t testing.TB, server, database string) string {
	t.Helper()
	parsed, err := url.Parse(server)
	if err != nil || !strings.HasPrefix(parsed.Scheme, "postgres") {
		t.Fatalf("%s is not a URL like postgres://user@host:5432/postgres", EnvServer)
	}
	parsed.Path = "/" + database
	return parsed.String()
}

func execute(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer connection.Close(ctx)
	if _, err := connection.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
