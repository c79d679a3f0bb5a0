package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zalando/go-keyring"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/login"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// terminal is a person's own machine: what is kept there is in a folder of the test, and the system has no keyring.
func terminal(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, value := range map[string]string{
		"HOME": dir, "XDG_CONFIG_HOME": filepath.Join(dir, "config"), "XDG_RUNTIME_DIR": dir, "DISPLAY": "", "WAYLAND_DISPLAY": "", "SSH_CONNECTION": "", "WTS_URL": "",
	} {
		t.Setenv(name, value)
	}
	_ = os.Unsetenv("WTS_URL") // which the test puts back afterwards
	keyring.MockInitWithError(errors.New("no keyring here"))
	return dir
}

// apart runs a command, and keeps what it prints apart from what it says beside that.
func apart(ctx context.Context, said *syncBuffer, args ...string) (out string, err error) {
	var printed bytes.Buffer
	command := newCommand()
	command.SetOut(&printed)
	command.SetErr(said)
	command.SetArgs(args)
	err = command.ExecuteContext(ctx)
	return printed.String(), err
}

// printed runs a command that has to work, and reads its JSON.
func printed[T any](t *testing.T, args ...string) (value T) {
	t.Helper()
	var said syncBuffer
	out, err := apart(t.Context(), &said, append(args, "--output", "json")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &value)
	}
	if err != nil {
		t.Fatalf("wts %s: %v\n%s%s", strings.Join(args, " "), err, out, said.String())
	}
	return value
}

var addressIn = regexp.MustCompile(`http\S+`)

// logInTerminal has a person log in by a code, and allow it in their browser.
func (r *replica) logInTerminal(t *testing.T, browser *http.Client) loggedIn {
	t.Helper()
	var said syncBuffer
	var out string
	var err error
	var waiting sync.WaitGroup
	waiting.Go(func() {
		out, err = apart(t.Context(), &said, "login", r.url, "--device", "--output", "json")
	})
	var complete string
	eventually(t, "a code is shown", func() bool {
		_, rest, found := strings.Cut(said.String(), "or open ")
		complete = addressIn.FindString(rest)
		return found && strings.Contains(rest, "good until")
	})
	asked := r.call(t, browser, http.MethodGet, strings.TrimPrefix(complete, r.url), page...)
	if !strings.Contains(asked.body, "the wts command") {
		t.Errorf("the page does not say who asks: %s", asked.body)
	}
	r.decide(t, browser, asked, "allow")
	waiting.Wait()
	var made loggedIn
	if err != nil || json.Unmarshal([]byte(out), &made) != nil {
		t.Fatalf("wts login: %v\n%s%s", err, out, said.String())
	}
	return made
}

// A person logs in on a machine without a browser, and acts as themselves there: who they are, what they have connected,
// their API tokens, and tokens for services, until they log out.
func TestAPersonInATerminal(t *testing.T) {
	dir := terminal(t)
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	made := r.logInTerminal(t, alice)
	if diff := cmp.Diff([]any{r.url, "alice", []string{"api", "api:create", "api:read", "token"}, false}, []any{made.URL, made.Username, made.Scopes, made.Keyring}); diff != "" {
		t.Errorf("the login (-want +got):\n%s", diff)
	}
	file := filepath.Join(dir, "config", "wts", "login.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the login is kept with %v, %v; want 0600", info, err)
	}

	who := printed[loggedIn](t, "whoami")
	if who.Username != "alice" || who.ID != r.idOf(t, "alice") || who.URL != r.url {
		t.Errorf("got %+v", who)
	}
	connections := map[string]string{}
	for _, one := range printed[[]api.Connection](t, "connections") {
		connections[one.Provider] = one.State
	}
	if diff := cmp.Diff(map[string]string{"first": "connected", "second": "not_connected"}, connections); diff != "" {
		t.Errorf("the connections (-want +got):\n%s", diff)
	}

	token := printed[tokenLine](t, "token", "--audience", "files", "--scope", "read", "--expires", "60")
	var claims map[string]any
	if err := unverified.Claims(token.Token, &claims); err != nil || claims["preferred_username"] != "alice" || claims["aud"] != "files" || time.Until(token.ExpiresAt) > time.Minute {
		t.Errorf("got %v until %s, %v", claims, token.ExpiresAt, err)
	}

	laptop := printed[api.APIToken](t, "tokens", "create", "laptop", "--audience", "wts", "--scope", "token", "--expires", "24h", "--description", "mine")
	if !apitoken.Looks(laptop.Token) || laptop.Description != "mine" || time.Until(*laptop.ExpiresAt).Round(time.Hour) != 24*time.Hour {
		t.Errorf("got %+v", laptop)
	}
	rotated := printed[api.APIToken](t, "tokens", "rotate", laptop.ID, "--overlap", "0")
	if rotated.ID != laptop.ID || rotated.Token == laptop.Token || rotated.Token == "" || rotated.OldValueUntil != nil {
		t.Errorf("got %+v", rotated)
	}
	printed[api.APIToken](t, "tokens", "create", "second", "--audience", "wts", "--scope", "token")
	if ended := printed[api.APIToken](t, "tokens", "revoke", laptop.ID); ended.State != "revoked" {
		t.Errorf("got %+v", ended)
	}
	names := func(args ...string) (all []string) {
		for _, one := range printed[[]api.APIToken](t, append([]string{"tokens", "list"}, args...)...) {
			all = append(all, one.Name+" "+one.State+one.Token)
		}
		return all
	}
	for name, row := range map[string]struct {
		args, want []string
	}{
		"all": {nil, []string{"second active", "laptop revoked"}}, "active": {[]string{"--state", "active"}, []string{"second active"}},
		"one": {[]string{"--limit", "1"}, []string{"second active"}}, "unused": {[]string{"--unused-days", "1"}, nil},
	} {
		if diff := cmp.Diff(row.want, names(row.args...)); diff != "" {
			t.Errorf("tokens, %s (-want +got):\n%s", name, diff)
		}
	}

	if out, err := run(t, "logout"); err != nil || !strings.Contains(out, "Logged out") {
		t.Errorf("logout: %v %s", err, out)
	}
	if _, err := run(t, "whoami"); exitCode(err) != exitLogin || !strings.Contains(fmt.Sprint(err), "wts login") {
		t.Errorf("whoami after logout: %v", err)
	}
	if kept, _ := os.ReadFile(file); strings.Contains(string(kept), "wtsl_") {
		t.Errorf("after logout there is kept:\n%s", kept)
	}
	listed := r.call(t, alice, http.MethodGet, "/api/v1/sessions")
	if strings.Contains(listed.body, "wts-cli") {
		t.Errorf("the login goes on after logout: %s", listed.body)
	}
}

// In the browser of the machine: the code comes back to a port of a loopback address, and what else comes there changes
// nothing.
func TestALoginInTheBrowserOfTheMachine(t *testing.T) {
	for name, row := range map[string]struct {
		decision string
		want     int
	}{"allowed": {"allow", 0}, "denied": {"deny", exitLogin}} {
		t.Run(name, func(t *testing.T) {
			dir := terminal(t)
			r := startReplica(t, withClients)
			alice := r.signedIn(t, "alice")
			opened := filepath.Join(dir, "opened")
			for _, opener := range []string{"xdg-open", "open"} { // of Linux, and of macOS
				if err := os.WriteFile(filepath.Join(dir, opener), []byte("#!/bin/sh\nprintf %s \"$1\" > "+opened+".new && mv "+opened+".new "+opened+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			t.Setenv("DISPLAY", ":0")
			var said syncBuffer
			var out string
			var err error
			var waiting sync.WaitGroup
			waiting.Go(func() { out, err = apart(t.Context(), &said, "login", "--url", r.url, "--scope", "api:read") })
			var address []byte
			eventually(t, "a browser is opened", func() bool { address, _ = os.ReadFile(opened); return len(address) > 0 })

			sent, wrong := url.Parse(string(address))
			if wrong != nil {
				t.Fatal(wrong)
			}
			back := sent.Query().Get("redirect_uri")
			for _, hostile := range []string{"", "?code=stolen", "?code=stolen&state=guessed&iss=" + r.url, "?code=stolen&state=" + sent.Query().Get("state") + "&iss=https://evil.example.org"} {
				if got := r.through(t, back, nil, http.MethodGet, hostile); got.status != http.StatusBadRequest {
					t.Errorf("%q at the port that waits: %d, want 400", hostile, got.status)
				}
			}
			asked := r.call(t, alice, http.MethodGet, strings.TrimPrefix(string(address), r.url), page...)
			answered := r.decide(t, alice, asked, row.decision)
			got := r.through(t, answered.header.Get("Location"), nil, http.MethodGet, "")
			if got.status != http.StatusOK || !strings.Contains(got.body, "Go on in the terminal") {
				t.Errorf("back in the browser: %d %s", got.status, got.body)
			}
			waiting.Wait()
			if exitCode(err) != row.want || (row.want == 0) != strings.Contains(out, "as alice") {
				t.Errorf("got %v %q %q", err, out, said.String())
			}
			if row.want == 0 {
				if _, err := run(t, "tokens", "create", "x", "--audience", "wts"); exitCode(err) != exitLogin {
					t.Errorf("beyond its scopes: %v", err)
				}
			}
		})
	}
}

// A login that ended is said to have ended, once, and is not kept any more; an outage ends none.
func TestALoginThatEnded(t *testing.T) {
	whole, dir := t, terminal(t)
	r := startReplica(t, withClients)
	alice := r.signedIn(t, "alice")
	r.logInTerminal(t, alice)
	store := filepath.Join(dir, "config", "wts", "login.json")
	expire := func() { // of the access token at hand
		t.Helper()
		text, err := os.ReadFile(store)
		if err != nil {
			t.Fatal(err)
		}
		expired := regexp.MustCompile(`"expires_at": "[^"]*"`).ReplaceAllString(string(text), `"expires_at": "2020-01-01T00:00:00Z"`)
		if err := os.WriteFile(store, []byte(expired), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refreshOf := func() string {
		text, _ := os.ReadFile(store)
		return regexp.MustCompile(`wtsl_\w+`).FindString(string(text))
	}

	t.Run("refreshed by many at once", func(t *testing.T) {
		before := refreshOf()
		expire()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := run(t, "whoami"); err != nil {
					t.Errorf("whoami: %v", err)
				}
			})
		}
		all.Wait()
		if after := refreshOf(); after == "" || after == before {
			t.Errorf("the refresh token is %q, want another one than before", after)
		}
	})
	t.Run("an outage", func(t *testing.T) {
		expire()
		before := refreshOf()
		logins, err := login.NewStore()
		if err != nil {
			t.Fatal(err)
		}
		away := strings.Replace(r.url, "localhost", "127.0.0.1", 1) // the service calls itself otherwise
		if _, err := login.Discover(t.Context(), away); err == nil || !strings.Contains(err.Error(), r.url) {
			t.Errorf("by another name: %v", err)
		}
		r.stop()
		<-r.ended
		if _, err := run(t, "whoami"); exitCode(err) != exitOutage {
			t.Errorf("the service is away: %v", err)
		}
		if found, err := logins.Find(r.url); err != nil || found.Secrets.RefreshToken != before {
			t.Errorf("after an outage: %+v, %v", found, err)
		}
		if _, err := run(t, "logout"); exitCode(err) != exitOutage || !strings.Contains(err.Error(), "--here") {
			t.Errorf("logout: %v", err)
		}
		r.start(whole, r.config)
	})
	t.Run("ended by its person", func(t *testing.T) {
		expire()
		r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions", "")
		for _, want := range []string{"has ended", "not logged in"} {
			if _, err := run(t, "whoami", "--url", r.url); exitCode(err) != exitLogin || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	})
}

// Where the system has a keyring, no file holds a secret.
func TestALoginInTheKeyring(t *testing.T) {
	dir := terminal(t)
	keyring.MockInit()
	r := startReplica(t, withClients)
	if made := r.logInTerminal(t, r.signedIn(t, "alice")); !made.Keyring {
		t.Errorf("got %+v", made)
	}
	if who := printed[loggedIn](t, "whoami"); who.Username != "alice" || !who.Keyring {
		t.Errorf("got %+v", who)
	}
	_ = filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		text, _ := os.ReadFile(name)
		if strings.Contains(string(text), "wtsl_") || strings.Contains(string(text), "eyJ") {
			t.Errorf("%s holds a secret", name)
		}
		return err
	})
	if out, err := run(t, "logout", "--here"); err != nil || !strings.Contains(out, "Sessions") {
		t.Errorf("logout: %v %s", err, out)
	}
	if _, err := keyring.Get("wts", r.url); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("after logout the keyring says %v", err)
	}
}

// A login is kept with what is encrypted alone, and with services that are wts.
func TestWhereNoLoginIsMade(t *testing.T) {
	terminal(t)
	r := startReplica(t, withClients)
	for name, row := range map[string]struct {
		args []string
		want int
		says string
	}{
		"no service":         {nil, exitUsage, "which service"},
		"without encryption": {[]string{"http://wts.example.org"}, exitUsage, "not encrypted"},
		"no address":         {[]string{"wts.example.org"}, exitUsage, "want an address"},
		"with a name":        {[]string{"https://alice@wts.example.org"}, exitUsage, "want an address"},
		"another service":    {[]string{r.first.Issuer}, exitFailed, "is that the address of wts?"},
		"not there":          {[]string{"http://127.0.0.1:1"}, exitOutage, "refused"},
		"a strange scope":    {[]string{r.url, "--device", "--scope", "everything"}, exitFailed, "scope"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := run(t, append([]string{"login"}, row.args...)...); exitCode(err) != row.want || !strings.Contains(fmt.Sprint(err), row.says) {
				t.Errorf("exit code %d, %v %s; want %d and %q", exitCode(err), err, out, row.want, row.says)
			}
		})
	}
	proof := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(proof, []byte("wtsp_none"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("a proof of its own, beside a login that cannot be read", func(t *testing.T) {
		dir := terminal(t)
		if err := os.MkdirAll(filepath.Join(dir, "config", "wts"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config", "wts", "login.json"), []byte("{torn"), 0o600); err != nil {
			t.Fatal(err)
		}
		var refused *api.Error
		if _, err := run(t, "token", "--url", r.url, "--proof-file", proof); !errors.As(err, &refused) {
			t.Errorf("got %v, want what the service says of the proof", err)
		}
		if _, err := run(t, "token", "--proof-file", proof); exitCode(err) != exitUsage {
			t.Errorf("a proof without an address: %v", err)
		}
		if _, err := run(t, "whoami"); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("whoami: %v", err)
		}
	})
	t.Run("a home that is none", func(t *testing.T) {
		t.Setenv("XDG_CONFIG_HOME", "/dev/null")
		var refused *api.Error
		if _, err := run(t, "token", "--url", r.url); !errors.As(err, &refused) {
			t.Errorf("got %v, want what the service says of the address", err)
		}
	})
	if _, err := run(t, "tokens", "list", "--url", r.url); exitCode(err) != exitLogin {
		t.Errorf("not logged in: %v", err)
	}
}
