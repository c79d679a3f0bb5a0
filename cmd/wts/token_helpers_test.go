package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/api"
)

// Git asks its helpers about every server that wants a password; the token goes to those that were
// named, over https. The git is a real one.
func TestTheTokenGoesToNamedGitServersAlone(t *testing.T) {
	dir := t.TempDir()
	file, program := filepath.Join(dir, "token"), filepath.Join(dir, "wts")
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp":4102444800}`))
	if err := os.WriteFile(file, []byte("e30."+claims+".c2ln\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("go", "build", "-tags", "nomsgpack", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for name, row := range map[string]struct {
		wanted string // what git wants a credential for
		good   bool
	}{
		"the named server":                {"protocol=https\nhost=git.example.org\n", true},
		"the same, in capitals":           {"protocol=https\nhost=GIT.example.org\n", true},
		"a second one, with a port":       {"protocol=https\nhost=mirror.example.org:8443\npath=x.git\n", true},
		"another server":                  {"protocol=https\nhost=evil.example\n", false},
		"another port":                    {"protocol=https\nhost=git.example.org:444\n", false},
		"a name that ends like it":        {"protocol=https\nhost=evil-git.example.org\n", false},
		"without encryption":              {"protocol=http\nhost=git.example.org\n", false},
		"the user's name for another one": {"protocol=https\nhost=evil.example\nusername=git.example.org\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			helper := "!" + program + " token --file " + file + " --format git-credential --host git.example.org --host mirror.example.org:8443"
			git := exec.Command("git", "-c", "credential.helper=", "-c", "credential.helper="+helper, "credential", "fill")
			git.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "SSH_ASKPASS=true", "GIT_CONFIG_NOSYSTEM=1", "HOME="+dir)
			git.Stdin = strings.NewReader(row.wanted + "\n")
			output, _ := git.CombinedOutput() // where no helper answers, git fails or asks in vain
			if given := strings.Contains(string(output), "password=e30."); given != row.good {
				t.Errorf("git has:\n%s", output)
			}
		})
	}
}

// git 2.41 and later forget the token when it has expired.
func TestGitIsToldWhenTheTokenExpires(t *testing.T) {
	for name, token := range map[string]api.Token{
		"as wts said":       {Value: "opaque", ExpiresAt: time.Unix(4102444800, 0)},
		"as the JWT states": {Value: "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":4102444800}`)) + ".c2ln"},
	} {
		t.Run(name, func(t *testing.T) {
			if text := gitCredential(token, request{}); !strings.HasSuffix(text, "\npassword_expiry_utc=4102444800\n") {
				t.Errorf("got %q; want it to end with password_expiry_utc=4102444800", text)
			}
		})
	}
	if text := gitCredential(api.Token{Value: "opaque"}, request{}); text != "username=oauth2\npassword=opaque\n" {
		t.Errorf("not known: %q", text)
	}
}

// A token with a line break is no line of a protocol that is read line by line.
func TestATokenWithALineBreakIsNotPrinted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x\nhost=evil.example\nquit=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"token", "env", "exec-credential"} {
		t.Run(format, func(t *testing.T) {
			if out, err := run(t, "token", "--file", file, "--format", format); err == nil || strings.Contains(out, "evil") {
				t.Errorf(`got %q, %v; want an error, and nothing of the token`, out, err)
			}
		})
	}
}

// docker and pip ask their helpers in other ways than git; what they get, and what another server gets, is as with git.
func TestTheTokenGoesToNamedServersAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("opaque\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const docker, pip = "docker-credential", "keyring"
	const none = "credentials not found in native keychain\n" // by which docker goes on without
	given := func(server string) string {
		return `{"Secret":"opaque","ServerURL":"` + server + `","Username":"oauth2"}` + "\n"
	}
	for name, row := range map[string]struct {
		format, input string
		args          []string
		want          string // on the standard output
		code          int
	}{
		"docker, the named one":         {docker, "registry.example.org\n", []string{"get"}, given("registry.example.org"), 0},
		"docker, with a scheme":         {docker, "https://registry.example.org", []string{"get"}, given("https://registry.example.org"), 0},
		"docker, with a path":           {docker, "https://registry.example.org/v1/", []string{"get"}, given("https://registry.example.org/v1/"), 0},
		"docker, a port":                {docker, "mirror.example.org:5000", []string{"get"}, given("mirror.example.org:5000"), 0},
		"docker, another one":           {docker, "evil.example.org", []string{"get"}, none, 1},
		"docker, another port":          {docker, "registry.example.org:5000", []string{"get"}, none, 1},
		"docker, a name before":         {docker, "registry.example.org@evil.example.org", []string{"get"}, none, 1},
		"docker, a path of the name":    {docker, "https://evil.example.org/registry.example.org", []string{"get"}, none, 1},
		"docker, not encrypted":         {docker, "http://registry.example.org", []string{"get"}, none, 1},
		"docker, nothing":               {docker, "", []string{"get"}, none, 1},
		"docker stores":                 {docker, `{"ServerURL":"registry.example.org","Secret":"x"}`, []string{"store"}, "", 0},
		"docker erases":                 {docker, "registry.example.org", []string{"erase"}, "", 0},
		"docker lists":                  {docker, "", []string{"list"}, "{}\n", 0},
		"docker, without a word":        {docker, "registry.example.org", nil, "", 2},
		"pip, the named one":            {pip, "", []string{"get", "https://registry.example.org/simple/", "oauth2"}, "opaque\n", 0},
		"pip, by its name":              {pip, "", []string{"get", "registry.example.org", "oauth2"}, "", 1},
		"pip, another one":              {pip, "", []string{"get", "https://evil.example.org/simple/", "oauth2"}, "", 1},
		"pip, not encrypted":            {pip, "", []string{"get", "http://registry.example.org/simple/", "oauth2"}, "", 1},
		"pip stores":                    {pip, "", []string{"set", "registry.example.org", "oauth2"}, "", 1},
		"a word that no format takes":   {"token", "", []string{"get"}, "", 2},
		"git, without a word":           {"git-credential", "protocol=https\nhost=registry.example.org\n", nil, "", 2},
		"git stores":                    {"git-credential", "protocol=https\nhost=registry.example.org\n", []string{"store"}, "", 0},
		"git, an operation of tomorrow": {"git-credential", "", []string{"renew"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out, said bytes.Buffer
			command := newCommand()
			command.SetIn(strings.NewReader(row.input))
			command.SetOut(&out)
			command.SetErr(&said)
			args := []string{"token", "--file", file, "--format", row.format, "--host", "registry.example.org", "--host", "mirror.example.org:5000"}
			command.SetArgs(append(args, row.args...))
			err := command.ExecuteContext(t.Context())
			if exitCode(err) != row.code || out.String() != row.want {
				t.Errorf("exit code %d, %v, %q; want %d, %q", exitCode(err), err, out.String(), row.code, row.want)
			}
		})
	}
	for _, more := range [][]string{{"--format", "env"}, {"--format", pip, "--host", "registry.example.org", "get", "https://registry.example.org", "oauth2"}, {"--out", file + ".json"}} {
		if out, err := run(t, append([]string{"token", "--file", file, "--output", "json"}, more...)...); exitCode(err) != exitUsage || strings.Contains(out, "opaque") {
			t.Errorf("--output beside %v: %v %s", more, err, out)
		}
	}
	for _, format := range []string{docker, pip, "git-credential"} {
		if out, err := run(t, "token", "--file", file, "--format", format, "get", "registry.example.org", "oauth2"); exitCode(err) != exitUsage || strings.Contains(out, "opaque") {
			t.Errorf("%s without --host: %v %s", format, err, out)
		}
	}
}
