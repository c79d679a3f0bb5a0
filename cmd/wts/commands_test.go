package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := newCommand()
	command.SetOut(&out)
	command.SetErr(&out)
	command.SetArgs(args)
	err := command.ExecuteContext(t.Context())
	return out.String(), err
}

func TestInitCheckMigrateAndKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	file := filepath.Join(dir, "wts.yaml")
	if out, err := run(t, "init", dir); err != nil || !strings.Contains(out, "check-config") {
		t.Fatalf("init: %v\n%s", err, out)
	}
	if info, err := os.Stat(filepath.Join(dir, "wts-keyring")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", info.Mode(), err)
	}
	keys, _ := os.ReadFile(filepath.Join(dir, "wts-keyring"))
	if _, err := run(t, "init", dir); err == nil || !strings.Contains(err.Error(), "not overwritten") {
		t.Errorf("init again: %v", err)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "wts-keyring")); !bytes.Equal(keys, again) {
		t.Error("init changed the keys")
	}

	out, err := run(t, "check-config", "-c", file)
	if err == nil || !strings.Contains(out, "providers.main.client_secret_file: ") || !strings.HasSuffix(err.Error(), "1 fault") {
		t.Errorf("a secret is missing: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "main-client-secret"), []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "check-config", "-c", file); err != nil || !strings.Contains(out, "http://localhost:8080/oauth2/authorize") {
		t.Errorf("check-config: %v\n%s", err, out)
	}

	if out, err := run(t, "migrate", "-c", file); err != nil || !strings.Contains(out, "up to date") {
		t.Errorf("migrate: %v\n%s", err, out)
	}
	// The first makes the very first key, which signs at once; the second names its successor.
	for range 2 {
		if out, err := run(t, "keys", "rotate", "-c", file); err != nil || !strings.Contains(out, "sign from") || !strings.Contains(out, `"audit":"add key"`) || !strings.Contains(out, `"proof":"operator"`) {
			t.Errorf("keys rotate: %v\n%s", err, out)
		}
	}
	if _, err := run(t, "keys", "rotate", "-c", file); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("keys rotate again: %v", err)
	}
	if out, err := run(t, "keys", "list", "-c", file); err != nil || !strings.Contains(out, "ES256") || !strings.Contains(out, "seals in form 2, and opens") {
		t.Errorf("keys list: %v\n%s", err, out)
	}
	// Two keys, where the audits of the two commands end, and how many there are.
	if out, err := run(t, "keys", "reencrypt", "-c", file); err != nil || out != "0 secrets were sealed again, 5 were already sealed so.\n" {
		t.Errorf("keys reencrypt: %v\n%s", err, out)
	}
	t.Setenv("WTS_SEAL_FORMAT", "1")
	if out, err := run(t, "keys", "reencrypt", "-c", file); err != nil || out != "5 secrets were sealed again, 0 were already sealed so.\n" {
		t.Errorf("keys reencrypt, back: %v\n%s", err, out)
	}
	wrong := filepath.Join(dir, "wrong-keyring")
	if err := os.WriteFile(wrong, []byte(keyring.Generate(time.Now())), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WTS_KEYRING_FILE", wrong)
	if out, err := run(t, "keys", "reencrypt", "-c", file); err == nil || !strings.Contains(err.Error(), "5 secrets do not open with this keyring") {
		t.Errorf("keys reencrypt, with other keys: %v\n%s", err, out)
	}
	t.Setenv("WTS_KEYRING_FILE", "wts-keyring")
	if _, err := run(t, "users", "disable", "nobody", "-c", file); err == nil || !strings.Contains(err.Error(), `no user is called "nobody"`) {
		t.Errorf("users disable: %v", err)
	}
	if out, err := run(t, "version"); err != nil || !strings.HasPrefix(out, "wts ") {
		t.Errorf("version: %v %s", err, out)
	}
	if _, err := run(t, "serve", "-c", filepath.Join(dir, "nowhere.yaml")); err == nil || !strings.Contains(err.Error(), "wts init") {
		t.Errorf("serve without a configuration: %v", err)
	}
}

func TestTheFormsOfAToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("a'b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args []string
		want string
	}{
		"the token":  {nil, "a'b\n"},
		"a shell":    {[]string{"--format", "env"}, "export BEARER_TOKEN='a'\\''b'\n"},
		"git stores": {[]string{"store", "--format", "git-credential"}, ""},
		"kubectl":    {[]string{"--format", "exec-credential"}, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"a'b"}}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, append([]string{"token", "--file", file}, row.args...)...)
			if err != nil || out != row.want {
				t.Errorf("got %q, %v; want %q", out, err, row.want)
			}
		})
	}
	for want, args := range map[string][]string{
		"--host is missing": {"token", "--file", file, "get", "--format", "git-credential"},
		"--format is":       {"token", "--file", file, "--format", "magic"},
		"needs --out":       {"token", "--file", file, "--watch"},
		"--url is missing":  {"token"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Setenv("WTS_URL", "")
			if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v", args, err)
			}
		})
	}
}

// A build outside a git repository says which version it is, as it was told.
func TestVersionOfABuildWithoutARepository(t *testing.T) {
	program := filepath.Join(t.TempDir(), "wts")
	flags := exec.Command("make", "-s", "-n", "-C", "../..", "build", "VERSION=v1.2.3", "COMMIT=c0ffee")
	line, err := flags.Output()
	if err != nil {
		t.Fatal(err)
	}
	command := strings.Replace(strings.TrimSpace(string(line)), "-o bin/wts ./cmd/wts", "-buildvcs=false -o "+program+" .", 1)
	if output, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, output)
	}
	output, err := exec.Command(program, "version").Output()
	if err != nil || !strings.HasPrefix(string(output), "wts v1.2.3 c0ffee\n") || !strings.Contains(string(output), "FIPS 140-3 mode off") {
		t.Errorf("it says %q, %v", output, err)
	}
	inMode := exec.Command(program, "version")
	inMode.Env = append(os.Environ(), "GODEBUG=fips140=on")
	if output, err = inMode.Output(); err != nil || !strings.Contains(string(output), "FIPS 140-3 mode on") {
		t.Errorf("in FIPS mode it says %q, %v", output, err)
	}
	// Rows of form 1 do not open in the mode: check-config says what to do.
	dir := filepath.Join(t.TempDir(), "new")
	for _, args := range [][]string{{"init", dir}, {"migrate", "-c", dir + "/wts.yaml"}} {
		if output, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, output)
		}
	}
	if err := os.WriteFile(dir+"/main-client-secret", []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := exec.Command(program, "check-config", "-c", dir+"/wts.yaml")
	check.Env = append(os.Environ(), "GODEBUG=fips140=on", "WTS_SEAL_FORMAT=1")
	if output, err := check.CombinedOutput(); err != nil || !strings.Contains(string(output), "seal_format: is not 2, and FIPS 140-3 mode") {
		t.Errorf("check-config in FIPS mode: %v\n%s", err, output)
	}
}

// Rule F10: where the vulnerabilities could not be checked, a change lands with a loud word, and no release is
// made. Where they were, and some were found, neither.
func TestAReleaseWantsTheVulnerabilityDatabase(t *testing.T) {
	there := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer there.Close()
	for name, row := range map[string]struct {
		database, release string
		good, loud        bool
	}{
		"a change, and no database":      {database: "http://127.0.0.1:1/db", good: true, loud: true},
		"a release, and no database":     {database: "http://127.0.0.1:1/db", release: "1", loud: true},
		"a change with vulnerabilities":  {database: there.URL},
		"a release with vulnerabilities": {database: there.URL, release: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command("../../test/vulnerabilities-unknown")
			command.Env = append(os.Environ(), "VULNERABILITIES="+row.database, "RELEASE="+row.release)
			output, err := command.CombinedOutput()
			if (err == nil) != row.good || strings.Contains(string(output), "WERE NOT CHECKED") != row.loud {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
	for _, target := range []string{"release", "release VERSION=v1.2.3"} {
		t.Run(target, func(t *testing.T) {
			output, err := exec.Command("make", append([]string{"-n", "-C", "../.."}, strings.Fields(target)...)...).CombinedOutput()
			if err != nil || !strings.Contains(string(output), "RELEASE=1") {
				t.Errorf("make %s checks nothing: %v\n%s", target, err, output)
			}
		})
	}
}
