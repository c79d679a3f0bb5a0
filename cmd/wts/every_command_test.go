package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// leaves are the commands that do something, by their words.
func leaves(command *cobra.Command) map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	for _, one := range command.Commands() {
		for words, leaf := range leaves(one) {
			all[words] = leaf
		}
	}
	if command.RunE != nil || command.Run != nil {
		if words := strings.TrimPrefix(command.CommandPath(), "wts "); words != "wts" && !isGroup(command) {
			all[words] = command
		}
	}
	return all
}

// isGroup tells a command that only has others below it.
func isGroup(command *cobra.Command) bool {
	return command.HasSubCommands() && command.Flags().Lookup("output") == nil
}

// everyCommand is the whole tree, with what cobra adds to it.
func everyCommand() *cobra.Command {
	root := newCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// What each command prints is JSON and YAML where that is wanted, and its exit code says what went wrong. A command that
// is not in the table fails this test.
func TestEveryCommand(t *testing.T) {
	terminal(t)
	database := pgtest.Database(t)
	keys := keyring.Generate(time.Now())
	r := startReplica(t, withClients, func(c *config.Config) {
		c.Database.URL = secret.Text(database)
		var err error
		if c.Keys, err = keyring.Parse(keys); err != nil {
			t.Fatal(err)
		}
	})
	r.logInTerminal(t, r.signedIn(t, "alice"))
	r.signedIn(t, "bob")
	file := commandsFor(t, database)
	addHub(t, file)
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "wts-keyring"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WTS_GEN3__ENCRYPTION_KEY", "Zm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm8=")
	laptop := r.makeToken(t, r.signedIn(t, "alice"), `{"name":"laptop","audience":"wts","scopes":["token"]}`).ID
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")

	const (
		alone    = iota // it asks nothing and no person
		operator        // it asks the database
		person          // it asks a service, as a person
	)
	table := []struct {
		words string
		args  []string
		asks  int
		has   string // in its JSON
	}{
		{"version", nil, alone, `"version"`},
		{"init", []string{elsewhere}, alone, `"keyring"`},
		{"check-config", []string{"-c", file}, alone, `"redirect_uris"`},
		{"migrate", nil, operator, `"applied"`},
		{"keys list", nil, operator, `"signing_keys"`},
		{"keys derive", []string{"-c", file}, alone, `"key_file"`},
		{"keys reencrypt", nil, operator, `"sealed"`},
		{"keys rotate", nil, operator, `"signs_from"`},
		{"keys make", []string{"hub"}, operator, `"secret"`},
		{"keys make", []string{"hub"}, operator, `"next"`},
		{"keys activate", []string{"hub"}, operator, `"active"`},
		{"keys make", []string{"hub"}, operator, `"next"`},
		{"keys drop", []string{"hub"}, operator, `"id"`},
		{"users list", nil, operator, `"bob"`},
		{"users list", []string{"--state", "active", "--limit", "1", "--skip", "1"}, operator, `"bob"`},
		{"users show", []string{"bob"}, operator, `"open_sessions"`},
		{"users disable", []string{"bob"}, operator, `"disabled": true`},
		{"users enable", []string{"bob"}, operator, `"disabled": false`},
		{"users rename", []string{"bob", "rob"}, operator, `"former_username"`},
		{"users end-sessions", []string{"rob"}, operator, `"ended"`},
		{"connections list", []string{"rob", "--provider", "first", "--phase", "ready"}, operator, `"phase": "ready"`},
		{"connections show", []string{"rob", "first"}, operator, `"phase": "ready"`},
		{"connections disconnect", []string{"rob", "first"}, operator, `"disconnected"`},
		{"audit query", []string{"--limit", "5"}, operator, `"audit"`},
		{"audit verify", nil, operator, `"chains"`},
		{"health", []string{"--url", r.url}, alone, `"ready"`},
		{"whoami", nil, person, `"alice"`},
		{"connections", nil, person, `"connect_url"`},
		{"token", []string{"--audience", "files"}, person, `"expires_at"`},
		{"tokens list", nil, person, `"laptop"`},
		{"tokens create", []string{"another", "--audience", "wts", "--scope", "token"}, person, `"token"`},
		{"tokens rotate", []string{laptop}, person, `"token"`},
		{"tokens revoke", []string{laptop}, person, `"revoked"`},
		{"logout", nil, person, `"ended": true`},
	}
	// Those that print nothing of the kind, and the one that TestAPersonInATerminal runs.
	others := []string{"serve", "exec", "man", "login", "help", "completion bash", "completion zsh", "completion fish", "completion powershell"}

	for words, leaf := range leaves(everyCommand()) {
		listed := slices.Contains(others, words)
		for _, row := range table {
			listed = listed || row.words == words
		}
		if !listed {
			t.Errorf("wts %s is in no row of the table", words)
		}
		if wanted := leaf.Flags().Lookup("output") != nil; wanted == slices.Contains(silent, leaf.Name()) {
			t.Errorf("wts %s has --output: %t", words, wanted)
		}
		if code, _, said := wts(t, append(strings.Fields(words), "--no-such-flag")...); code != exitUsage && words != "help" || strings.HasPrefix(words, "completion") && code == 0 {
			t.Errorf("wts %s --no-such-flag ends with %d: %s", words, code, said)
		}
	}
	for _, row := range table {
		args := append(strings.Fields(row.words), row.args...)
		switch row.asks {
		case operator:
			args = append(args, "-c", file)
			t.Run(row.words+", the database is away", func(t *testing.T) {
				t.Setenv("WTS_DATABASE__URL", "postgres://wts:x@127.0.0.1:1/wts")
				if out, err := run(t, args...); exitCode(err) != exitOutage {
					t.Errorf("exit code %d, %v %s; want %d", exitCode(err), err, out, exitOutage)
				}
			})
		case person:
			t.Run(row.words+", not logged in", func(t *testing.T) {
				want := exitLogin
				if row.words == "token" { // which may be a worker's
					want = exitUsage
				}
				t.Setenv("XDG_CONFIG_HOME", t.TempDir())
				if out, err := run(t, args...); exitCode(err) != want {
					t.Errorf("exit code %d, %v %s; want %d", exitCode(err), err, out, want)
				}
			})
		}
		t.Run(row.words, func(t *testing.T) {
			var said syncBuffer
			out, err := apart(t.Context(), &said, append(args, "--output", "json")...)
			if err != nil || !json.Valid([]byte(out)) || !strings.Contains(out, row.has) {
				t.Errorf("%v\n%s%s\nwant JSON with %s", err, out, said.String(), row.has)
			}
			if row.words == "keys list" || row.words == "users show" || row.words == "tokens list" || row.words == "version" {
				var fromJSON, fromYAML any
				text, err := apart(t.Context(), &said, append(args, "-o", "yaml")...)
				if err == nil {
					err = yaml.Unmarshal([]byte(text), &fromYAML)
				}
				_ = json.Unmarshal([]byte(out), &fromJSON)
				if err != nil || fmt.Sprint(fromJSON) != fmt.Sprint(fromYAML) {
					t.Errorf("as YAML: %v\n%s\nwant what the JSON says:\n%s", err, text, out)
				}
			}
		})
	}
	if out, err := run(t, "users", "list", "--output", "xml", "-c", file); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "table, json, yaml") {
		t.Errorf("a form that there is not: %v %s", err, out)
	}
}

// addHub adds an audience that has a key of its own to a configuration.
func addHub(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(text), "\naudiences:\n", "\naudiences:\n  hub: {profile: pephub}\n", 1)
	if more == string(text) {
		t.Fatal("the configuration that init writes has no audiences")
	}
	if err := os.WriteFile(file, []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What others wrote moves no cursor of a terminal, and breaks no line of a table.
func TestCells(t *testing.T) {
	for text, want := range map[string]string{"": "-", "plain": "plain", "a\x1b[2Jb": "a\uFFFD[2Jb", "two\nlines\t": "two\uFFFDlines\uFFFD", "Ümläut ✓": "Ümläut ✓", "left\u202eright": "left\uFFFDright"} {
		if got := cell(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// What is long says how far it is, and what is short says nothing.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		how := progress(&out)
		for i := range 100 {
			how("%d", i)
			time.Sleep(100 * time.Millisecond)
		}
		if diff := cmp.Diff("30\n60\n90\n", out.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// What a service says is printed as it is for people, and moves no cursor.
func TestErrorsMoveNoCursor(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"no \u001b]0;owned\u0007 entry"}`)
	}))
	defer service.Close()
	terminal(t)
	if code, _, said := wts(t, "token", "--url", service.URL); code != exitLogin || strings.ContainsAny(said, "\x1b\a") || !strings.Contains(said, "entry") {
		t.Errorf("exit code %d, %q", code, said)
	}
	if got := plain("two\nlines\n\nand \x1b[31mred"); got != "two\nlines\n\nand \uFFFD[31mred" {
		t.Errorf("got %q", got)
	}
}

// A proof goes to the service that was named, and not where that sends it on to.
func TestAProofIsNotSentOn(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another service was asked, with %d bytes of authorization", len(r.Header.Get("Authorization")))
	}))
	defer other.Close()
	service := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer service.Close()
	proof := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(proof, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	terminal(t)
	if out, err := run(t, "token", "--url", service.URL, "--proof-file", proof); exitCode(err) != exitFailed {
		t.Errorf("%v %s", err, out)
	}
}

// A token that has ended is asked for often at first, for what reads it has no other; and rarely where there never was one.
func TestHowOftenATokenIsAskedFor(t *testing.T) {
	for name, row := range map[string]struct {
		first       bool // there was one, of ten seconds
		least, most int  // questions in the 30 s from when it ended
	}{"one that has ended": {true, 15, 40}, "one that never was": {false, 2, 6}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, asked := time.Now(), 0
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				first := row.first
				_ = watchToken(ctx, slog.New(slog.DiscardHandler), func(context.Context) (api.Token, error) {
					if first {
						first = false
						return api.Token{Value: "t", ExpiresAt: began.Add(10 * time.Second)}, nil
					}
					if time.Since(began) > 10*time.Second {
						asked++
					}
					return api.Token{}, errors.New("the service is away")
				}, func(api.Token) error { return nil })
				if asked < row.least || asked > row.most {
					t.Errorf("asked %d times in 30 s, want %d to %d", asked, row.least, row.most)
				}
			})
		})
	}
}

// Help, manual page and completion are there for every command, and say the same.
func TestEveryCommandIsDescribed(t *testing.T) {
	dir := t.TempDir()
	if out, err := run(t, "man", dir); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for words, leaf := range leaves(everyCommand()) {
		if leaf.Short == "" || strings.HasSuffix(leaf.Short, ".") {
			t.Errorf("wts %s: %q is no short description", words, leaf.Short)
		}
		if strings.HasPrefix(words, "completion") || words == "help" { // cobra's own
			continue
		}
		page, err := os.ReadFile(filepath.Join(dir, "wts-"+strings.ReplaceAll(words, " ", "-")+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		help := leaf.UsageString()
		leaf.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Usage == "" || strings.HasSuffix(flag.Usage, ".") {
				t.Errorf("wts %s --%s: %q is no description", words, flag.Name, flag.Usage)
			}
			if !strings.Contains(help, "--"+flag.Name) || !strings.Contains(strings.ReplaceAll(string(page), `\-`, "-"), "--"+flag.Name) {
				t.Errorf("wts %s: help or manual lack --%s", words, flag.Name)
			}
		})
		code, out, said := wts(t, append(append([]string{"__complete"}, strings.Fields(words)...), "--")...)
		if code != 0 || leaf.Flags().Lookup("output") != nil && !strings.Contains(out, "--output") {
			t.Errorf("wts %s is completed with %d %s%s", words, code, out, said)
		}
	}
}

// A shell completes the names that there are: of commands, users, providers, audiences, tokens and forms.
func TestNamesAreCompleted(t *testing.T) {
	terminal(t)
	database := pgtest.Database(t)
	r := startReplica(t, withClients, func(c *config.Config) { c.Database.URL = secret.Text(database) })
	r.logInTerminal(t, r.signedIn(t, "alice"))
	r.signedIn(t, "bob")
	file := commandsFor(t, database)
	addHub(t, file)
	laptop := r.makeToken(t, r.signedIn(t, "alice"), `{"name":"laptop","audience":"wts","scopes":["token"]}`).ID
	for name, row := range map[string]struct {
		args []string
		want []string
	}{
		"commands":      {[]string{"tok"}, []string{"token", "tokens"}},
		"users":         {[]string{"users", "show", "a"}, []string{"alice"}},
		"no more users": {[]string{"users", "show", "alice", ""}, nil},
		"connections":   {[]string{"connections", "disconnect", "alice", ""}, []string{"first"}},
		"providers":     {[]string{"connections", "list", "--provider", ""}, []string{"main"}},
		"audiences":     {[]string{"keys", "make", "h"}, []string{"hub"}},
		"forms":         {[]string{"users", "list", "--output", ""}, []string{"table", "json", "yaml"}},
		"formats":       {[]string{"token", "--format", "git"}, []string{"git-credential"}},
		"tokens":        {[]string{"tokens", "revoke", ""}, []string{laptop}},
		"services":      {[]string{"whoami", "--url", ""}, []string{r.url}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"__complete"}, row.args...)
			if len(row.args) > 1 {
				args = append([]string{"__complete", "-c", file}, row.args...)
			}
			code, out, said := wts(t, args...)
			var got []string
			for line := range strings.Lines(out) {
				if word, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); word != "" && !strings.HasPrefix(word, ":") {
					got = append(got, word)
				}
			}
			if diff := cmp.Diff(row.want, got); code != 0 || diff != "" {
				t.Errorf("%d (-want +got):\n%s%s", code, diff, said)
			}
		})
	}
}
