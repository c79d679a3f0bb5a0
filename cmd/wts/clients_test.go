package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// The one-file client for Python, run by Python: what docs/kubernetes.md tells people to copy works.
func TestThePythonClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is not here; the package python3 has it (test/ready installs it)")
	}
	r := startReplica(t, func(c *config.Config) { c.Authn.Workers["127.0.0.1"] = "bob" })
	r.logIn(t, providertest.Browser(), "/oauth2/authorization_url", "bob")
	script := func(env ...string) (string, error) {
		command := exec.Command(python, "-c", "import wts_token, sys\ntry: print(wts_token.get(*sys.argv[1:]))\nexcept wts_token.TokenError as e: print('error', e.status, e)")
		command.Dir = "../../docs/clients"
		command.Env = append([]string{"PYTHONDONTWRITEBYTECODE=1", "PATH=" + os.Getenv("PATH")}, env...)
		if len(env) > 1 { // for an audience
			command.Args, command.Env = append(command.Args, "storage"), command.Env[:len(command.Env)-1]
		}
		out, err := command.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := script("BEARER_TOKEN_FILE=" + file); err != nil || out != "from-the-file" {
		t.Errorf("from a file: %q, %v", out, err)
	}
	if out, err := script("BEARER_TOKEN_FILE=" + file + ".none"); err != nil || !strings.HasPrefix(out, "error 0 neither") {
		t.Errorf("from nowhere: %q, %v", out, err)
	}
	if out, err := script("WTS_URL="+r.url, "audience"); err != nil || strings.Count(out, ".") != 2 {
		t.Errorf("asking: %q, %v", out, err)
	}
	if err := r.store.Users.SetDisabled(t.Context(), "bob", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service's words reach it", func() bool {
		out, err := script("WTS_URL="+r.url, "audience")
		return err == nil && strings.HasPrefix(out, "error 403 You don't have access")
	})
}
