package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/login"
)

// execOptions are the flags of `wts exec`.
type execOptions struct {
	tokenSource
	env bool
}

func execCommand() *cobra.Command {
	var options execOptions
	command := &cobra.Command{
		Use: "exec [flags] -- command [arguments]", Short: "Run a program with a token that stays valid", Args: cobra.MinimumNArgs(1),
		Long: `Runs a program, and keeps a token valid for as long as it runs: in the file that BEARER_TOKEN_FILE names, which is
$XDG_RUNTIME_DIR/bt_u$UID, else /tmp/bt_u$UID, where programs of the grid look for it by themselves (WLCG bearer token
discovery). The program reads the file each time that it needs a token. Where another wts exec has that file already, or
another program keeps its token there, it is a file for this program alone.

It ends with the program's exit code, and hands on the signals that it gets.`,
		Example: "  wts exec --audience storage -- rclone copy results: ./results\n  wts exec --url http://wts.wts -- python3 job.py",
		RunE:    func(cmd *cobra.Command, args []string) error { return runExec(cmd, &options, args) },
	}
	options.flags(command)
	command.Flags().BoolVar(&options.env, "env", false, "also set BEARER_TOKEN, for programs that read no file; that token ends while the program runs")
	command.Flags().SetInterspersed(false)
	return command
}

// exitedError is how a program ended that was run: its exit code is that of wts.
type exitedError struct{ code int }

func (e exitedError) Error() string {
	return fmt.Sprintf("the program ended with exit code %d", e.code)
}

func runExec(cmd *cobra.Command, options *execOptions, args []string) error {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return usagef("%w", err)
	}
	get, err := options.getter(cmd.Context())
	if err != nil {
		return err
	}
	token, err := getWithin(cmd.Context(), options.wait, get)
	if err == nil {
		err = oneLine(token)
	}
	if err != nil {
		return err
	}
	// A signal that is handed on ends the program as it likes: until then its token is kept valid.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	if get, err = options.getter(ctx); err != nil {
		return err
	}
	file, err := discovered(token.Value + "\n")
	if err != nil {
		return err
	}
	defer file.release()
	environment := slices.DeleteFunc(os.Environ(), func(line string) bool { // the one would be read in the place of the file
		return strings.HasPrefix(line, "BEARER_TOKEN=") || strings.HasPrefix(line, "BEARER_TOKEN_FILE=")
	})
	environment = append(environment, "BEARER_TOKEN_FILE="+file.path)
	if options.env {
		environment = append(environment, "BEARER_TOKEN="+token.Value)
		fmt.Fprintf(cmd.ErrOrStderr(), "wts: BEARER_TOKEN ends at %s and is not replaced; a program that runs for longer reads BEARER_TOKEN_FILE\n", stamp(endOf(token)))
	}
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		_ = watchToken(ctx, log, after(token, get), func(token api.Token) error {
			if err := oneLine(token); err != nil {
				return err
			}
			return file.put(token.Value + "\n")
		})
	}()
	err = runProgram(cmd, program, args, environment)
	cancel()
	<-kept
	return err
}

// after begins with a token that was got already.
func after(first api.Token, get func(context.Context) (api.Token, error)) func(context.Context) (api.Token, error) {
	return func(ctx context.Context) (api.Token, error) {
		if first.Value == "" {
			return get(ctx)
		}
		token := first
		first = api.Token{}
		return token, nil
	}
}

// tokenFile is where a program finds its token.
type tokenFile struct {
	path string
	dir  string       // of this process alone; empty for the place where tokens are discovered
	lock *flock.Flock // of that place; it holds the digests of what wts put there
}

// discovered puts a token where programs look for one by themselves (WLCG Bearer Token Discovery 1.0); into a file of
// this process alone where another wts exec has that place, another program has a token there, or another user does.
func discovered(text string) (*tokenFile, error) {
	dir, user := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), sharedDir), strconv.Itoa(os.Getuid())
	file := &tokenFile{path: filepath.Join(dir, "bt_u"+user), lock: flock.New(filepath.Join(dir, ".wts_u"+user), flock.SetPermissions(0o600))}
	if free, err := file.lock.TryLock(); err == nil && free {
		if file.own() && file.put(text) == nil {
			return file, nil
		}
		_ = file.lock.Unlock() // nothing depends on it
	}
	dir, err := os.MkdirTemp("", "wts-") // of mode 0700
	if err != nil {
		return nil, fmt.Errorf("no place for the token: %w", err)
	}
	file = &tokenFile{path: filepath.Join(dir, "token"), dir: dir}
	if err := file.put(text); err != nil {
		file.release()
		return nil, err
	}
	return file, nil
}

// own tells that the file is not there, or is what wts put there, which may have been killed since.
func (f *tokenFile) own() bool {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && slices.Contains(f.noted(), digestOf(text))
}

// noted are the digests of the last two tokens that wts put there: one that was killed may have put the one before.
func (f *tokenFile) noted() []string {
	text, err := os.ReadFile(f.lock.Path())
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(string(text), "\n")
}

// put replaces the token. The note comes first: what is not noted counts as another program's.
func (f *tokenFile) put(text string) error {
	if f.dir == "" {
		noted := append([]string{digestOf([]byte(text))}, f.noted()...)
		if err := os.WriteFile(f.lock.Path(), []byte(strings.Join(noted[:min(2, len(noted))], "\n")), 0o600); err != nil {
			return fmt.Errorf("no place for the token: %w", err)
		}
	}
	return login.Replace(f.path, text)
}

func digestOf(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// release deletes the token, unless another program has put its own there.
func (f *tokenFile) release() {
	if f.dir != "" {
		_ = os.RemoveAll(f.dir)
		return
	}
	if f.own() {
		_ = os.Remove(f.path)
	}
	_ = f.lock.Unlock() // it ends with the process at the latest
}

// runProgram runs a program to its end, which signals may hasten.
func runProgram(cmd *cobra.Command, program string, args, environment []string) error {
	// The program has what wts was given, so that a terminal stays one.
	run := exec.Command(program, args[1:]...) //nolint:noctx,gosec // it ends by the signals that it is sent, and is what its person wants run
	run.Args[0], run.Env = args[0], environment
	run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, heeded(slices.Clone(handedOn)...)...)
	defer signal.Stop(signals)
	if err := cmd.Context().Err(); err != nil { // one came before it could be handed on
		return err
	}
	if err := run.Start(); err != nil {
		return fmt.Errorf("running %s: %w", args[0], err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case got := <-signals:
				if !fromTerminal(got) {
					_ = run.Process.Signal(got) // it may have ended
				}
			}
		}
	}()
	var exited *exec.ExitError
	switch err := run.Wait(); {
	case errors.As(err, &exited):
		return exitedError{codeOf(exited.ProcessState)}
	case err != nil:
		return fmt.Errorf("running %s: %w", args[0], err)
	}
	return nil
}
