package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const envMain = "WTS_TEST_MAIN" // has this program be wts, for the code that it ends with

// initialised is a configuration that `wts init` wrote, with the secret that it lacks.
func initialised(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := run(t, "init", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "main-client-secret"), []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "wts.yaml")
}

// wts runs the program as a script does, and returns what it ended with and what it said.
func wts(t *testing.T, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr strings.Builder
	command := exec.CommandContext(t.Context(), os.Args[0], args...)
	command.Env = append(os.Environ(), envMain+"=1")
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); command.ProcessState == nil {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// A script can tell by the exit code whether it is to be corrected, a person has to log in, or to try again.
func TestExitCodes(t *testing.T) {
	statuses := map[string]int{"/connect": 403, "/login": 401, "/away": 503, "/busy": 429, "/odd": 400}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("expires"); got != "600" {
			t.Errorf("asked for %q seconds, want 600", got)
		}
		w.WriteHeader(statuses[strings.TrimSuffix(r.URL.Path, "/token")])
	}))
	defer service.Close()
	encrypted := httptest.NewTLSServer(http.NotFoundHandler())
	defer encrypted.Close()
	t.Setenv("WTS_URL", "") // which puts it back afterwards
	_ = os.Unsetenv("WTS_URL")
	t.Setenv("WTS_LOG__LEVEL", "info")
	file := commandsFor(t, "postgres://wts:x@127.0.0.1:1/wts")
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	token := func(at string) []string { return []string{"token", "--url", at, "--expires", "600"} }
	for name, row := range map[string]struct {
		args []string
		want int
		says string
	}{
		"the version":                    {[]string{"--version"}, 0, ""},
		"help":                           {[]string{"keys", "--help"}, 0, ""},
		"no command":                     {nil, exitUsage, "wts needs a command"},
		"an unknown command":             {[]string{"nonsense"}, exitUsage, `"nonsense" is no command of wts; see: wts --help`},
		"one of a group":                 {[]string{"keys", "rotat"}, exitUsage, `"rotat" is no command of wts keys; did you mean rotate?`},
		"a group alone":                  {[]string{"users"}, exitUsage, "wts users needs a command"},
		"a word too many":                {[]string{"migrate", "now"}, exitUsage, "see: wts migrate --help"},
		"an unknown flag":                {[]string{"serve", "--bogus"}, exitUsage, "see: wts serve --help"},
		"a time that is none":            {[]string{"token", "--expires", "soon"}, exitUsage, "want seconds like 600, or a time like 10m"},
		"a time below nothing":           {[]string{"token", "--wait", "-1s"}, exitUsage, "want seconds"},
		"an address without a scheme":    {token("localhost:18620"), exitUsage, "want an address like http://wts.wts"},
		"no address":                     {[]string{"token"}, exitUsage, "--url is missing"},
		"a level that is none":           {[]string{"serve", "--log-level", "loud", "-c", file}, exitUsage, "log.level: is"},
		"no configuration":               {[]string{"keys", "list", "-c", nowhere}, exitFailed, "wts init"},
		"a file without a token":         {[]string{"token", "--file", nowhere}, exitFailed, "the token's file: open"},
		"a person who is to log in":      {token(service.URL + "/login"), exitLogin, "401"},
		"a person who is to connect":     {token(service.URL + "/connect"), exitLogin, "403"},
		"a service that is away":         {token(service.URL + "/away"), exitOutage, "503"},
		"a service that is busy":         {token(service.URL + "/busy"), exitOutage, "429"},
		"a question that it refuses":     {token(service.URL + "/odd"), exitFailed, "400"},
		"one of ten minutes":             {[]string{"token", "--url", service.URL + "/odd", "--expires", "10m"}, exitFailed, "400"},
		"no service":                     {token("http://127.0.0.1:1"), exitOutage, "connection refused"},
		"a certificate that is not good": {token(encrypted.URL), exitFailed, "certificate"},
		"a database that is away":        {[]string{"keys", "list", "-c", file}, exitOutage, "database"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, said := wts(t, row.args...)
			if code != row.want || !strings.Contains(said, row.says) {
				t.Errorf("exit code %d and %q, want %d and %q", code, said, row.want, row.says)
			}
		})
	}
}

// --check is for the startup probe of a workspace's sidecar: a token that has expired is none.
func TestATokenIsChecked(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	jwt := func(ends time.Time) string {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, ends.Unix()))
		return "eyJhbGciOiJub25lIn0." + claims + ".x\n"
	}
	for name, row := range map[string]struct {
		flag, file string
		says       string
	}{
		"one that lives":     {"--out", file("lives", jwt(time.Now().Add(time.Hour))), ""},
		"one without an end": {"--file", file("opaque", "opaque\n"), ""},
		"one that expired":   {"--out", file("dead", jwt(time.Now().Add(-time.Minute))), "expired at"},
		"an empty file":      {"--out", file("empty", "\n"), "is empty"},
		"no file":            {"--out", filepath.Join(dir, "none"), "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(t, "token", "--check", row.flag, row.file); row.says == "" && err != nil || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)) {
				t.Errorf("%v, want %q", err, row.says)
			}
		})
	}
}

// Health asks the service that a configuration describes: by TLS too, and where it passed over an address whose port it
// may not open, as the pods of Gen3's chart do.
func TestHealth(t *testing.T) {
	var status atomic.Int64
	ready := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(int(status.Load()))
	})
	plain, encrypted := httptest.NewServer(ready), httptest.NewTLSServer(ready)
	defer plain.Close()
	defer encrypted.Close()
	at := func(server *httptest.Server, host string) string {
		return strings.Replace(server.Listener.Addr().String(), "127.0.0.1", host, 1)
	}
	file := initialised(t)
	for name, row := range map[string]struct {
		listen, certificate string
		args                []string
		status, want        int
	}{
		"on every address":      {at(plain, "0.0.0.0"), "", nil, 200, 0},
		"on one":                {at(plain, "127.0.0.1"), "", nil, 200, 0},
		"by TLS":                {at(encrypted, ""), "named", nil, 200, 0},
		"one is passed over":    {":1," + at(plain, ""), "", nil, 200, 0},
		"not ready":             {at(plain, ""), "", nil, 503, exitOutage},
		"not there":             {":1", "", nil, 200, exitOutage},
		"elsewhere":             {":1", "", []string{"--url", plain.URL + "/"}, 200, 0},
		"elsewhere, no address": {":1", "", []string{"--url", "wts"}, 200, exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("WTS_LISTEN", row.listen)
			t.Setenv("WTS_TLS__CERT_FILE", row.certificate)
			status.Store(int64(row.status))
			out, err := run(t, append([]string{"health", "-c", file}, row.args...)...)
			if got := exitCode(err); got != row.want || (out == "ready\n") != (row.want == 0) {
				t.Errorf("exit code %d, %v, %q; want %d", got, err, out, row.want)
			}
		})
	}
}

// The configuration is found by WTS_CONFIG, unless -c names another.
func TestTheConfigurationIsNamedByTheEnvironment(t *testing.T) {
	file := initialised(t)
	t.Setenv("WTS_CONFIG", file)
	if out, err := run(t, "check-config"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := run(t, "check-config", "-c", file+"-other"); err == nil {
		t.Error("-c is not heeded")
	}
}
