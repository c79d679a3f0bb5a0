//go:build clients

package clients

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/test/instance"
)

// unlocked begins a session with a keyring that is open (the Secret Service of GNOME), and returns the session's address.
func unlocked(t *testing.T, env []string) (address string) {
	t.Helper()
	bus := exec.Command("dbus-daemon", "--session", "--nofork", "--print-address")
	bus.Env = env
	out, err := bus.StdoutPipe()
	if err == nil {
		err = bus.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Process.Kill(); _ = bus.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = "DBUS_SESSION_BUS_ADDRESS=" + strings.TrimSpace(line)
	daemon := exec.Command("gnome-keyring-daemon", "--unlock", "--foreground", "--components=secrets")
	daemon.Env, daemon.Stdin = append(env, address), strings.NewReader("password\n")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	return address
}

// Where the system has a keyring, the login is in it, and in no file.
func TestTheSystemsKeyring(t *testing.T) {
	s := start(t, true)
	alice := instance.NewPerson(t)
	alice.Env = append(alice.Env, unlocked(t, alice.Env))
	alice.LogIn(t, s.url, s.browser)
	home := ""
	for _, variable := range alice.Env {
		if dir, found := strings.CutPrefix(variable, "XDG_CONFIG_HOME="); found {
			home = dir
		}
	}
	text, err := os.ReadFile(filepath.Join(home, "wts", "login.json"))
	if err != nil || strings.Contains(string(text), "wtsl_") || strings.Contains(string(text), "eyJ") {
		t.Errorf("the file holds a secret, or is not there: %v\n%s", err, text)
	}
	lookup := func() string {
		command := exec.Command("secret-tool", "lookup", "service", "wts", "username", s.url)
		command.Env = alice.Env
		out, _ := command.Output() // it fails where there is none
		return string(out)
	}
	if kept := lookup(); !strings.Contains(kept, "wtsl_") {
		t.Errorf("the keyring has %d bytes, want a refresh token in them", len(kept))
	}
	var who struct {
		Username string
		Keyring  bool
	}
	if out, err := alice.Command("whoami", "--output", "json").Output(); err != nil || json.Unmarshal(out, &who) != nil || who.Username != "alice" || !who.Keyring {
		t.Errorf("whoami: %v %s", err, out)
	}
	if out, err := alice.Command("logout").CombinedOutput(); err != nil {
		t.Errorf("logout: %v %s", err, out)
	}
	if kept := lookup(); kept != "" {
		t.Errorf("after logout the keyring has %d bytes", len(kept))
	}
}
