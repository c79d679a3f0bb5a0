package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
)

// tokenOptions are the flags of `wts token`.
type tokenOptions struct {
	url, proofFile, file string
	want                 api.Request
	out, format          string
	hosts                []string // that may have the token, of git's credentials
	watch, check         bool
	wait                 time.Duration
}

func tokenCommand() *cobra.Command {
	var options tokenOptions
	command := &cobra.Command{
		Use:   "token [get]",
		Short: "Get a token, once or for as long as a workspace lives",
		Long: `Gets a token as a worker does, and prints it, or writes it to a file that is replaced whole, mode 0600.

With --watch it goes on: the file always holds a token that lives, through restarts of the service and
outages of a provider. That is what a workspace's sidecar runs; a notebook reads the file
(BEARER_TOKEN_FILE) and needs no code for it.

  its probe:       wts token --check --out /var/run/wts/token
  a sidecar:       wts token --watch --url http://wts.wts --proof-file /var/run/secrets/wts/proof --out /var/run/wts/token
  an init step:    wts token --wait 2m --url http://wts.wts --out /var/run/wts/token
  git:             git config credential.https://git.example.org.helper '!wts token --file /var/run/wts/token --format git-credential --host git.example.org'
  kubectl:         exec: {command: wts, args: [token, --file, /var/run/wts/token, --format, exec-credential]}
  ProteinPaint:    wts token --audience clinical --format proteinpaint-bearer --url https://wts.example.org --proof-file api-token
  a shell:         eval "$(wts token --url http://wts.wts --format env)"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if options.format == formatGit && (len(args) == 0 || args[0] != "get") {
				return nil // git's store and erase: there is nothing to do
			}
			if options.format == formatGit {
				if mayHave, err := options.asked(cmd.InOrStdin()); err != nil || !mayHave {
					return err
				}
			}
			return runToken(cmd, options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.url, "url", os.Getenv("WTS_URL"), "the service's address (or WTS_URL)")
	flags.StringVar(&options.proofFile, "proof-file", "", "a projected service-account token; without it the address proves who calls")
	flags.StringVar(&options.file, "file", "", "read the token from this file instead of asking for one")
	flags.StringVar(&options.want.Audience, "audience", "", "want a token that wts signs for this audience")
	flags.StringVar(&options.want.IDP, "idp", "", "want this provider's own access token")
	flags.StringSliceVar(&options.want.Scopes, "scope", nil, "scopes of an audience's token")
	flags.StringSliceVar(&options.want.Datasets, "dataset", nil, "datasets of an integration that the token is to name; all of them where none is named")
	options.want.Expires = 10 * time.Minute
	flags.Var((*span)(&options.want.Expires), "expires", "the life that is wanted, in seconds or like 10m")
	flags.StringVar(&options.out, "out", "", "write to this file instead of printing")
	flags.StringVar(&options.format, "format", formatToken, "token, env, git-credential, exec-credential or proteinpaint-bearer")
	flags.StringSliceVar(&options.hosts, "host", nil, "a git server that may have the token, as in its address; for --format git-credential, repeatable")
	flags.BoolVar(&options.watch, "watch", false, "keep the file fresh until told to stop")
	flags.BoolVar(&options.check, "check", false, "tell whether the file of --out or --file holds a token that is valid, for a startup probe")
	flags.Var((*span)(&options.wait), "wait", "try again for so long, in seconds or like 2m, where the service is away, or the person has yet to log in")
	return command
}

// The forms in which a token is printed.
const (
	formatToken = "token"
	formatEnv   = "env"
	formatGit   = "git-credential"
	formatExec  = "exec-credential"
	formatPaint = "proteinpaint-bearer"
)

func runToken(cmd *cobra.Command, options tokenOptions) error {
	render, ok := formats[options.format]
	switch {
	case !ok:
		return usagef("--format is %q, want token, env, git-credential, exec-credential or proteinpaint-bearer", options.format)
	case options.watch && options.out == "":
		return usagef("--watch needs --out")
	case options.check && options.out+options.file == "":
		return usagef("--check needs --out or --file")
	case options.check:
		return checkToken(cmp.Or(options.out, options.file))
	case options.file == "" && options.url == "":
		return usagef("--url is missing (or WTS_URL): where is wts?")
	case options.file == "":
		if err := checkURL(options.url); err != nil {
			return err
		}
	}
	get := options.getter()
	if options.watch {
		log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
		return watchToken(cmd.Context(), log, get, func(token api.Token) error {
			if err := oneLine(token); err != nil {
				return err
			}
			return replaceFile(options.out, render(token))
		})
	}
	token, err := getWithin(cmd.Context(), options.wait, get)
	if err == nil {
		err = oneLine(token)
	}
	if err != nil {
		return err
	}
	if options.out != "" {
		return replaceFile(options.out, render(token))
	}
	_, err = io.WriteString(cmd.OutOrStdout(), render(token))
	return err
}

// span is a time that a flag takes in seconds, as HTTP does, or as Go writes durations.
type span time.Duration

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	length, err := time.ParseDuration(text)
	if seconds, plain := strconv.ParseUint(text, 10, 31); plain == nil {
		length, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || length < 0 {
		return errors.New("want seconds like 600, or a time like 10m")
	}
	*s = span(length)
	return nil
}

// String implements pflag.Value.
func (s *span) String() string { return time.Duration(*s).String() }

// Type implements pflag.Value.
func (s *span) Type() string { return "time" }

func (o tokenOptions) getter() func(context.Context) (api.Token, error) {
	if o.file != "" {
		return func(context.Context) (api.Token, error) {
			text, err := tokenIn(o.file)
			return api.Token{Value: text}, err
		}
	}
	client := &api.Client{URL: o.url}
	if o.proofFile != "" {
		client.Proof = api.ProofFile(o.proofFile)
	}
	return func(ctx context.Context) (api.Token, error) { return client.Token(ctx, o.want) }
}

// formats render a token: for a reader of a file, a shell, git (gitcredentials(7)), kubectl
// (client.authentication.k8s.io/v1), and the Authorization header of ProteinPaint, which wants base64 of the JWT.
var formats = map[string]func(api.Token) string{
	formatToken: func(token api.Token) string { return token.Value + "\n" },
	formatEnv: func(token api.Token) string {
		return "export BEARER_TOKEN='" + strings.ReplaceAll(token.Value, "'", `'\''`) + "'\n"
	},
	formatGit:   gitCredential,
	formatPaint: func(token api.Token) string { return base64.StdEncoding.EncodeToString([]byte(token.Value)) + "\n" },
	formatExec: func(token api.Token) string {
		status := map[string]string{"token": token.Value}
		if !token.ExpiresAt.IsZero() {
			status["expirationTimestamp"] = token.ExpiresAt.UTC().Format(time.RFC3339)
		}
		text, _ := json.Marshal(map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}) // strings
		return string(text) + "\n"
	},
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// getWithin tries again, for at most so long.
func getWithin(ctx context.Context, wait time.Duration, get func(context.Context) (api.Token, error)) (api.Token, error) {
	deadline := time.Now().Add(wait)
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		token, err := get(ctx)
		if err == nil || time.Now().Add(retry).After(deadline) {
			return token, err
		}
		if !sleep(ctx, retry) {
			return api.Token{}, err
		}
	}
}

// watchToken replaces the token when half of its life is over: what an outage finds is a token that
// lives as long again. Where getting one fails, the one that is there stays, and it is tried again: the
// oftener the less of its life is left.
func watchToken(ctx context.Context, log *slog.Logger, get func(context.Context) (api.Token, error), put func(api.Token) error) error {
	retry, ends := firstRetry, time.Time{}
	for ctx.Err() == nil {
		token, err := get(ctx)
		if err == nil {
			err = put(token)
		}
		if err != nil {
			wait := retry/2 + rand.N(retry/2)
			if left := time.Until(ends); left > 0 {
				wait = min(wait, max(left/8, firstRetry/4))
			}
			if ctx.Err() == nil {
				log.Warn("no fresh token, trying again", slog.String("error", err.Error()), slog.Duration("in", wait))
			}
			sleep(ctx, wait)
			retry = min(2*retry, lastRetry)
			continue
		}
		retry, ends = firstRetry, token.ExpiresAt
		life := time.Until(token.ExpiresAt)
		if token.ExpiresAt.IsZero() {
			life = time.Minute
		}
		log.Info("a fresh token", slog.Time("expires", token.ExpiresAt))
		sleepUntil(ctx, time.Now().Add(min(max(life/2, firstRetry), longestSleep)))
	}
	return nil
}

// longestSleep bounds how wrong this machine's clock can be about a token's life.
const longestSleep = 5 * time.Minute

// sleepUntil sleeps by the clock on the wall, which goes on while a machine is suspended.
func sleepUntil(ctx context.Context, end time.Time) {
	for end = end.Round(0); ; {
		left := end.Sub(time.Now().Round(0))
		if left <= 0 || !sleep(ctx, min(left, 10*time.Second)) {
			return
		}
	}
}

// sleep tells whether it slept to the end.
func sleep(ctx context.Context, wait time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// replaceFile puts a new file in the place of the old one: a reader sees the one or the other, and
// nobody else may read either.
func replaceFile(path, text string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("writing the token: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing the token: %w", err), os.Remove(file.Name()))
		}
	}()
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
