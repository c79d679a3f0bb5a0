package system

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

var execFor = flag.Duration("system.exec", 25*time.Second, "for how long wts exec supplies a program")

// envReader makes the test's binary the program that wts exec runs: for as long as it says.
const envReader = "WTS_TEST_READER"

// whatWasRead is what that program says in the end.
type whatWasRead struct {
	Reads, Tokens int
	Bad           []string // reads of what is no valid token
	File          string
}

// readTokens reads the token again and again, as a program does that asks a service all the time.
func readTokens(howLong string) int {
	length, err := time.ParseDuration(howLong)
	if err != nil {
		return 2
	}
	seen, said := map[string]bool{}, whatWasRead{File: os.Getenv("BEARER_TOKEN_FILE")}
	for began := time.Now(); time.Since(began) < length; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(said.File)
		token := strings.TrimSuffix(string(text), "\n")
		if left := lifeLeft(token); err != nil || left <= 0 || len(token) == len(text) {
			said.Bad = append(said.Bad, fmt.Sprintf("after %s: %d bytes, valid for %s, %v", time.Since(began), len(text), left, err))
		}
		said.Reads++
		seen[token] = true
	}
	said.Tokens = len(seen)
	_ = json.NewEncoder(os.Stdout).Encode(said)
	return 0
}

// startWithPerson is a cluster at which alice has logged in, in a browser and on a machine without one.
func startWithPerson(t *testing.T) (*cluster, *instance.Person) {
	t.Helper()
	c := startCluster(t, pgtest.Database(t))
	c.ready(t)
	browser := providertest.Browser()
	c.logIn(t, browser)
	alice := instance.NewPerson(t)
	alice.LogIn(t, c.url, browser)
	return c, alice
}

// A person without a browser logs in, and runs a program with a token that stays valid through a crash of the service.
// The program never reads a token that has ended, or a part of one.
func TestAProgramWithATokenThatStaysValid(t *testing.T) {
	c, alice := startWithPerson(t)

	var out, said bytes.Buffer
	running := alice.Command("exec", "--audience", "storage", "--expires", "10s", "--", os.Args[0])
	running.Env = append(running.Env, envReader+"="+execFor.String(), "BEARER_TOKEN=stale")
	running.Stdout, running.Stderr = &out, &said
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(*execFor / 3)
	c.one.Kill()
	time.Sleep(500 * time.Millisecond)
	c.one.Restart(t)
	if err := running.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	var got whatWasRead
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if least := int(*execFor/(15*time.Second)) + 1; got.Tokens < least || got.Reads < 1000 {
		t.Errorf("%d reads saw %d tokens, want %d or more", got.Reads, got.Tokens, least)
	}
	for _, bad := range got.Bad[:min(len(got.Bad), 5)] {
		t.Errorf("a read of no valid token, %s", bad)
	}
	if filepath.Base(got.File) != fmt.Sprintf("bt_u%d", os.Getuid()) {
		t.Errorf("the token is in %s, want where programs look for it", got.File)
	}
	if _, err := os.Stat(got.File); err == nil {
		t.Error("the file is left after the program")
	}
	t.Logf("%d reads in %s saw %d tokens, %d of them none that is valid", got.Reads, *execFor, got.Tokens, len(got.Bad))
}

// wts exec is to its caller what the program is: exit code, signals, standard input, and nothing of a token on its command
// line or in its environment unless that is wanted.
func TestExecIsTheProgram(t *testing.T) {
	_, alice := startWithPerson(t)
	shell := func(script string, flags ...string) *exec.Cmd {
		return alice.Command(append(append([]string{"exec", "--audience", "storage"}, flags...), "--", "sh", "-c", script)...)
	}
	for name, row := range map[string]struct {
		script, input, want string
		flags               []string
		code                int
	}{
		"its exit code":          {"exit 7", "", "", nil, 7},
		"a signal that ended it": {"kill -TERM $$", "", "", nil, 128 + int(syscall.SIGTERM)},
		"its input":              {"tr a-z A-Z", "hello", "HELLO", nil, 0},
		"no token beside":        {`echo "${BEARER_TOKEN-none}"; stat -c %a "$BEARER_TOKEN_FILE"`, "", "none\n600\n", nil, 0},
		"one in the environment": {`test "$BEARER_TOKEN" = "$(cat "$BEARER_TOKEN_FILE")" && echo same`, "", "same\n", []string{"--env"}, 0},
		"a second one meanwhile": {alice.Binary + ` exec --audience storage -- sh -c 'test "$BEARER_TOKEN_FILE" != "'$BEARER_TOKEN_FILE'" && test -s "$BEARER_TOKEN_FILE" && echo another'; test -s "$BEARER_TOKEN_FILE" && echo still`, "", "another\nstill\n", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out, said bytes.Buffer
			running := shell(row.script, row.flags...)
			running.Stdin, running.Stdout, running.Stderr = strings.NewReader(row.input), &out, &said
			_ = running.Run()
			if got := running.ProcessState.ExitCode(); got != row.code || out.String() != row.want || (len(row.flags) > 0) != strings.Contains(said.String(), "is not replaced") {
				t.Errorf("exit code %d, %q, %q; want %d, %q", got, out.String(), said.String(), row.code, row.want)
			}
		})
	}
	t.Run("signals", func(t *testing.T) {
		var out instance.Buffer
		running := shell(`trap 'echo got it; exit 3' TERM; echo waiting; while :; do sleep 0.1; done`)
		running.Stdout = &out
		if err := running.Start(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); !strings.Contains(out.String(), "waiting") && time.Since(began) < 20*time.Second; {
			time.Sleep(10 * time.Millisecond)
		}
		_ = running.Process.Signal(syscall.SIGTERM)
		_ = running.Wait()
		if got := running.ProcessState.ExitCode(); got != 3 || out.String() != "waiting\ngot it\n" {
			t.Errorf("exit code %d, %q", got, out.String())
		}
	})
	t.Run("another program's token", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, fmt.Sprintf("bt_u%d", os.Getuid()))
		if err := os.WriteFile(file, []byte("theirs\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			running := shell(`test "$BEARER_TOKEN_FILE" != "` + file + `" && test -s "$BEARER_TOKEN_FILE" && echo another`)
			running.Env = append(running.Env, "XDG_RUNTIME_DIR="+dir)
			if out, err := running.CombinedOutput(); err != nil || string(out) != "another\n" {
				t.Errorf("%v %s", err, out)
			}
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "theirs\n" {
			t.Errorf("afterwards there is %q, %v", text, err)
		}
	})
	t.Run("what a wts exec left that was killed", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, fmt.Sprintf("bt_u%d", os.Getuid()))
		var out instance.Buffer
		killed := shell("echo waiting; sleep 60")
		killed.Env, killed.Stdout = append(killed.Env, "XDG_RUNTIME_DIR="+dir), &out
		killed.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := killed.Start(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); !strings.Contains(out.String(), "waiting") && time.Since(began) < 20*time.Second; {
			time.Sleep(10 * time.Millisecond)
		}
		_ = syscall.Kill(-killed.Process.Pid, syscall.SIGKILL)
		_ = killed.Wait()
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("nothing is left: %v", err)
		}
		again := shell(`echo "$BEARER_TOKEN_FILE"`)
		again.Env = append(again.Env, "XDG_RUNTIME_DIR="+dir)
		if out, err := again.CombinedOutput(); err != nil || string(out) != file+"\n" {
			t.Errorf("%v %s; want %s", err, out, file)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("it is left after the second one")
		}
	})
	t.Run("a hangup that is ignored", func(t *testing.T) {
		running := alice.Command()
		running.Path, running.Args = "/bin/sh", []string{"sh", "-c", `trap "" HUP; exec ` + alice.Binary + ` exec --audience storage -- sh -c 'kill -HUP $PPID $$; sleep 1; echo goes on'`}
		if out, err := running.CombinedOutput(); err != nil || string(out) != "goes on\n" {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("told to stop while it waits for the login", func(t *testing.T) {
		var home string
		for _, variable := range alice.Env {
			if dir, found := strings.CutPrefix(variable, "XDG_CONFIG_HOME="); found {
				home = dir
			}
		}
		lock := flock.New(filepath.Join(home, "wts", "login.lock"))
		if err := lock.Lock(); err != nil {
			t.Fatal(err)
		}
		defer lock.Unlock()
		running := shell("echo ran")
		if err := running.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		_ = running.Process.Signal(syscall.SIGTERM)
		_ = running.Wait()
		if took := time.Since(began); took > 5*time.Second || running.ProcessState.ExitCode() == 0 {
			t.Errorf("it ended with %d after %s", running.ProcessState.ExitCode(), took)
		}
	})
	for name, row := range map[string]struct {
		args []string
		code int
	}{"no program": {[]string{"exec", "--audience", "storage", "--", "no-such-program"}, 2}, "nothing to run": {[]string{"exec"}, 2}, "an audience that is none": {[]string{"exec", "--audience", "none", "--", "true"}, 1}} {
		t.Run(name, func(t *testing.T) {
			running := alice.Command(row.args...)
			said, _ := running.CombinedOutput()
			if got := running.ProcessState.ExitCode(); got != row.code {
				t.Errorf("exit code %d, %s; want %d", got, said, row.code)
			}
		})
	}
}
