package gen3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/instance"
)

// initContainer is what deployments of the Python service run before they start it, letter for letter
// (Gen3 contract 2.1).
const initContainer = `if hash alembic 2>/dev/null || poetry run alembic --version >/dev/null 2>&1; then
  echo "Running DB migration"
  cd /wts
  # Managing virtual environments via poetry instead of python since the AL base image update, but retaining backwards compatibility
  poetry run alembic upgrade head || alembic upgrade head
else
  echo "Alembic not installed - not running DB migration"
fi`

// buildTree builds the tree of the image and puts in what a container would have mounted.
func buildTree(t *testing.T, d *deployment) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "rootfs")
	build := exec.CommandContext(t.Context(), "deploy/image/rootfs", tree)
	build.Dir = "../.."
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the tree: %v\n%s", err, output)
	}
	d.write(t, filepath.Join(tree, "var/www/wts/appcreds.json"))
	null := filepath.Join(tree, "dev/null")
	if err := errors.Join(os.WriteFile(null, nil, 0o600), os.Chmod(null, 0o666)); err != nil {
		t.Fatal(err)
	}
	return tree
}

// inTree runs a program of the tree with nothing else in reach, as a user of that id. Whoever is not
// root becomes it in a name space of their own, to be allowed to.
func inTree(ctx context.Context, tree string, id uint32, env []string, program string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, args...)
	command.Dir, command.Path = "/", program
	command.Env = append(env, "PATH=/usr/local/bin:/bin")
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: tree, Credential: &syscall.Credential{Uid: id, Gid: id}}
	if os.Geteuid() != 0 {
		command.SysProcAttr.Credential = nil
		command.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return command
}

func TestTheInitContainersLine(t *testing.T) {
	d := newDeployment(t, 1, instance.FreePort(t))
	tree := buildTree(t, d)
	for _, revision := range []string{"", "before alembic", "a38a346e6ded", "27833deaf81f", "3417aec47fe2"} {
		t.Run("revision "+revision, func(t *testing.T) {
			d := newDeployment(t, 1, instance.FreePort(t))
			d.write(t, filepath.Join(tree, "var/www/wts/appcreds.json"))
			if revision != "" {
				migrateAsPython(t, d.database, revision)
			}
			// The init container has neither the client's id nor its secret.
			var env []string
			for _, variable := range d.gen3Env(t) {
				if !strings.HasPrefix(variable, "OIDC_") {
					env = append(env, variable)
				}
			}
			env = append(env, "SECRET_CONFIG=/var/www/wts/appcreds.json")
			for _, when := range []string{"first", "second"} { // every new pod runs it again
				output, err := inTree(t.Context(), tree, 1000, env, "/bin/sh", "-c", initContainer).CombinedOutput()
				if err != nil || !strings.Contains(string(output), "Running DB migration") || !strings.Contains(string(output), "up to date") {
					t.Fatalf("the %s time: %v\n%s", when, err, output)
				}
			}
			want := revision
			switch revision {
			case "":
				want = "3417aec47fe2"
			case "before alembic":
				want = ""
			}
			stamped := ""
			if want != "" {
				stamped = strings.Join(sql(t, d.database, "SELECT version_num FROM alembic_version"), ",")
			}
			if stamped != want {
				t.Errorf("the database is stamped %q, want %q", stamped, want)
			}
		})
	}
	t.Run("a database that is down", func(t *testing.T) {
		env := []string{"SECRET_CONFIG=/var/www/wts/appcreds.json", fmt.Sprintf("SQLALCHEMY_DATABASE_URI=postgresql://a:b@127.0.0.1:%d/c", instance.FreePort(t))}
		if output, err := inTree(t.Context(), tree, 1000, env, "/bin/sh", "-c", initContainer).CombinedOutput(); err == nil || strings.Contains(string(output), ":b@") {
			t.Errorf("%v\n%s", err, output)
		}
	})
}

// The image's service as the pod runs it: no arguments but the image's own, no root, probed by the
// kubelet within a second.
func TestTheImageServes(t *testing.T) {
	port := instance.FreePort(t)
	d := newDeployment(t, 1, port)
	tree := buildTree(t, d)
	output := &strings.Builder{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Port 80 is another's here, perhaps; ports below 1024 are what counts, and that they may fail.
	env := append(d.gen3Env(t), "SECRET_CONFIG=/var/www/wts/appcreds.json", "WTS_METRICS_LISTEN=off", fmt.Sprintf("WTS_LISTEN=127.0.0.9:80,127.0.0.1:%d", port))
	serve := inTree(ctx, tree, 1000, env, "/usr/local/bin/wts", "serve")
	serve.Stdout, serve.Stderr = output, output
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = serve.Wait() }()
	probe := &http.Client{Timeout: time.Second}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := probe.Get(fmt.Sprintf("http://127.0.0.1:%d/_status", port))
		if err == nil {
			body, _ := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK && string(body) == "Healthy" {
				break
			}
		}
		if time.Now().After(deadline) {
			cancel()
			_ = serve.Wait()
			t.Fatalf("not healthy within 20 s: %v\n%s", err, output)
		}
	}
	// With the capability of the file, port 80 is served as well; without it, it is said and passed over.
	response, err := probe.Get("http://127.0.0.9:80/_status")
	if err == nil {
		_ = response.Body.Close()
	}
	cancel()
	_ = serve.Wait()
	if passed := strings.Contains(output.String(), "an address is passed over"); passed == (err == nil) {
		t.Errorf("port 80: %v; it said:\n%s", err, output)
	}
	t.Logf("port 80 without root: %v", err == nil)
}
