package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
discovery). The program reads the file each time that it needs a token. Where another wts exec has that file already, it
is one of this program's own.

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
	// A signal that is handed on ends the program as it likes: until then its token is kept valid.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	get, err := options.getter(ctx)
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
	file, release, err := discovered(token.Value + "\n")
	if err != nil {
		return err
	}
	defer release()
	environment := slices.DeleteFunc(os.Environ(), func(line string) bool { // the one would be read in the place of the file
		return strings.HasPrefix(line, "BEARER_TOKEN=") || strings.HasPrefix(line, "BEARER_TOKEN_FILE=")
	})
	environment = append(environment, "BEARER_TOKEN_FILE="+file)
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
			return login.Replace(file, token.Value+"\n")
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

// discovered puts a token where programs look for one by themselves (WLCG Bearer Token Discovery 1.0), or into a file of
// this process alone, where another wts exec has that place, or another user does. What is returned deletes it.
func discovered(text string) (file string, release func(), err error) {
	dir := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), sharedDir)
	lock := flock.New(filepath.Join(dir, ".wts_u"+strconv.Itoa(os.Getuid())), flock.SetPermissions(0o600))
	if free, err := lock.TryLock(); err == nil && free {
		file = filepath.Join(dir, "bt_u"+strconv.Itoa(os.Getuid()))
		if err := login.Replace(file, text); err == nil {
			return file, func() {
				_ = os.Remove(file) // one that another program deleted is gone as well
				_ = lock.Unlock()
			}, nil
		}
		_ = lock.Unlock() // nothing depends on it
	}
	if dir, err = os.MkdirTemp("", "wts-"); err != nil { // of mode 0700
		return "", nil, fmt.Errorf("no place for the token: %w", err)
	}
	file = filepath.Join(dir, "token")
	return file, func() { _ = os.RemoveAll(dir) }, login.Replace(file, text)
}

// runProgram runs a program to its end, which signals may hasten.
func runProgram(cmd *cobra.Command, program string, args, environment []string) error {
	// The program has what wts was given, so that a terminal stays one.
	run := exec.Command(program, args[1:]...) //nolint:noctx // it ends by the signals that it is sent, not by a kill
	run.Args[0], run.Env = args[0], environment
	run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, handedOn...)
	defer signal.Stop(signals)
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
