package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/login"
)

// tokenOptions are the flags of `wts token`.
type tokenOptions struct {
	tokenSource
	file, out, format string
	hosts             []string // that may have the token, of a credential helper
	watch, check      bool
}

func tokenCommand() *cobra.Command {
	var options tokenOptions
	command := &cobra.Command{
		Use:   "token",
		Short: "Get a token, once or for as long as a workspace lasts",
		Long: `Gets a token as a worker does, and prints it, or writes it to a file that is replaced whole, mode 0600.

With --watch it goes on: the file always holds a token that is valid, through restarts of the service and
outages of a provider. That is what a workspace's sidecar runs; a notebook reads the file
(BEARER_TOKEN_FILE) and needs no code for it.

With a --format that is a program's own it is a credential helper for that program, for the servers that
--host names.`,
		Example: `  a sidecar:       wts token --watch --url http://wts.wts --proof-file /var/run/secrets/wts/proof --out /var/run/wts/token
  its probe:       wts token --check --out /var/run/wts/token
  an init step:    wts token --wait 2m --url http://wts.wts --out /var/run/wts/token
  a shell:         eval "$(wts token --format env)"
  curl:            wts token --format curl | curl -K - https://files.example.org/
  git:             git -c credential.helper= -c credential.helper='!wts token --format git-credential --host git.example.org' clone https://git.example.org/x
  kubectl:         exec: {command: wts, args: [token, --audience, cluster, --format, exec-credential]}
  ProteinPaint:    wts token --audience clinical --format proteinpaint-bearer --url https://wts.example.org --proof-file api-token`,
		Args: cobra.MaximumNArgs(3), // what git, docker and pip ask their helpers
		RunE: func(cmd *cobra.Command, args []string) error { return runToken(cmd, &options, args) },
	}
	options.flags(command)
	flags := command.Flags()
	flags.StringVar(&options.file, "file", "", "read the token from this file instead of asking for one")
	flags.StringVar(&options.out, "out", "", "write to this file instead of printing")
	flags.StringVar(&options.format, "format", formatToken, strings.Join(formatNames, ", "))
	choices(command, "format", formatNames...)
	flags.StringSliceVar(&options.hosts, "host", nil, "a server that may have the token, as in its address; for credential helpers, repeatable")
	flags.BoolVar(&options.watch, "watch", false, "keep the file fresh until told to stop")
	flags.BoolVar(&options.check, "check", false, "tell whether the file of --out or --file holds a token that is valid, for a startup probe")
	return command
}

func runToken(cmd *cobra.Command, options *tokenOptions, args []string) error {
	form, ok := formats[options.format]
	switch {
	case !ok:
		return usagef("--format is %q, want one of %s", options.format, strings.Join(formatNames, ", "))
	case form.read == nil && len(args) > 0:
		return usagef("%q is nothing that --format %s takes", args[0], options.format)
	case cmd.Flags().Changed("output") && (cmd.Flags().Changed("format") || options.out != ""):
		return usagef("--output is a form of its own: want it without --format and --out")
	case options.watch && options.out == "":
		return usagef("--watch needs --out")
	case options.check && options.out+options.file == "":
		return usagef("--check needs --out or --file")
	case options.check:
		return checkToken(cmp.Or(options.out, options.file))
	}
	var wanted request
	if form.read != nil {
		asked, mayHave, reply, err := options.helps(form.read, args, cmd.InOrStdin())
		if err != nil || !mayHave {
			fmt.Fprint(cmd.OutOrStdout(), reply)
			return err
		}
		wanted = asked
	}
	get, err := options.getter(cmd.Context())
	if err != nil {
		return err
	}
	if options.watch {
		log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
		return watchToken(cmd.Context(), log, get, func(token api.Token) error {
			if err := oneLine(token); err != nil {
				return err
			}
			return login.Replace(options.out, form.render(token, wanted))
		})
	}
	token, err := getWithin(cmd.Context(), options.wait, get)
	if err == nil {
		err = oneLine(token)
	}
	if err != nil {
		return err
	}
	text := form.render(token, wanted)
	if options.out != "" {
		return login.Replace(options.out, text)
	}
	return show(cmd, tokenLine{token.Value, seconds(endOf(token))}, func(out io.Writer) { _, _ = io.WriteString(out, text) })
}

// tokenLine is a token for programs.
type tokenLine struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// getter reads the token that another one keeps valid, or asks the service.
func (o *tokenOptions) getter(ctx context.Context) (func(context.Context) (api.Token, error), error) {
	if o.file == "" {
		return o.tokenSource.getter(ctx)
	}
	return func(context.Context) (api.Token, error) {
		text, err := tokenIn(o.file)
		return api.Token{Value: text}, err
	}, nil
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
			switch left := time.Until(ends); {
			case left > 0:
				wait = min(wait, max(left/8, firstRetry/4))
			case left > -time.Minute: // what reads it has a dead one: the service is most likely about to be back
				wait = min(wait, 2*time.Second)
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
