package system

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/test/instance"
)

// git and curl get a token by themselves, for the server that was named; another server that asks for one gets nothing.
func TestProgramsGetTheirTokens(t *testing.T) {
	c, alice := startWithPerson(t)
	v := c.verifies(t, c.one)

	origin := filepath.Join(t.TempDir(), "work.git")
	for _, script := range []string{
		"git init -q --bare " + origin,
		"git init -q x && cd x && git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m first && git push -q " + origin + " HEAD:refs/heads/main",
		"git --git-dir=" + origin + " symbolic-ref HEAD refs/heads/main",
	} {
		command := exec.Command("sh", "-c", script)
		command.Dir = filepath.Dir(origin)
		if said, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, said)
		}
	}
	found, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(found)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(origin), "GIT_HTTP_EXPORT_ALL=1"},
	}
	files := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the file") })
	repositories, elsewhere, served := instance.Guard(t, v, backend), instance.Guard(t, v, backend), instance.Guard(t, v, files)

	clone := func(t *testing.T, from *instance.Guarded) (string, error) {
		t.Helper()
		helper := "!" + alice.Binary + " token --url " + c.url + " --audience storage --format git-credential --host " + repositories.Host
		command := exec.Command("git", "-c", "credential.helper=", "-c", "credential.helper="+helper, "clone", "-q", from.URL+"/work.git", filepath.Join(t.TempDir(), "clone"))
		command.Env = append(alice.Env, "GIT_SSL_CAINFO="+from.Authority, "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "SSH_ASKPASS=true", "GIT_CONFIG_NOSYSTEM=1")
		said, err := command.CombinedOutput()
		return string(said), err
	}
	t.Run("git", func(t *testing.T) {
		if said, err := clone(t, repositories); err != nil || len(repositories.Asked()) == 0 {
			t.Errorf("the clone: %v\n%s", err, said)
		}
		if said, err := clone(t, elsewhere); err == nil || strings.Contains(strings.Join(elsewhere.Asked(), ""), ".") {
			t.Errorf("from another server: %v, it got %q\n%s", err, elsewhere.Asked(), said)
		}
	})
	t.Run("curl", func(t *testing.T) {
		away := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if sent := r.Header.Get("Authorization"); sent != "" {
				t.Errorf("a server that curl is sent on to got %d bytes of authorization", len(sent))
			}
			fmt.Fprint(w, "elsewhere")
		}))
		defer away.Close()
		for name, row := range map[string]struct {
			next http.Handler
			want string
		}{"a file": {files, "the file"}, "sent on": {http.RedirectHandler(away.URL, http.StatusFound), "elsewhere"}} {
			from := instance.Guard(t, v, row.next)
			command := alice.Command("token", "--audience", "storage", "--format", "curl")
			config, err := command.Output()
			if err != nil {
				t.Fatal(err)
			}
			curl := exec.Command("curl", "-sSL", "-k", "-K", "-", from.URL)
			curl.Stdin = bytes.NewReader(config)
			if out, err := curl.CombinedOutput(); err != nil || string(out) != row.want {
				t.Errorf("%s: %v %s; want %q", name, err, out, row.want)
			}
		}
	})
	t.Run("curl, by wts exec", func(t *testing.T) {
		running := alice.Command("exec", "--audience", "storage", "--", "sh", "-c", `curl -sS --cacert "`+served.Authority+`" -H "Authorization: Bearer $(cat "$BEARER_TOKEN_FILE")" `+served.URL)
		if out, err := running.CombinedOutput(); err != nil || string(out) != "the file" {
			t.Errorf("%v %s", err, out)
		}
	})
}
