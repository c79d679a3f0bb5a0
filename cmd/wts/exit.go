package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/login"
)

// Exit codes of every command, so that a script can tell what to do.
const (
	exitFailed = 1 // anything else
	exitUsage  = 2 // the command line is wrong
	exitLogin  = 3 // a person has to log in, to connect a provider, or to be let in
	exitOutage = 4 // the service, a provider or the database does not answer: try again
)

// errUsage marks what is wrong with a command line.
var errUsage = errors.New("usage")

// usageError is a fault of a command line. Its text is that fault alone.
type usageError struct{ error }

// Is has it be errUsage.
func (usageError) Is(target error) bool { return target == errUsage }

// Unwrap gives the fault.
func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode is what the process ends with after an error; 0 without one.
func exitCode(err error) int {
	var answered *api.Error
	var untrusted *tls.CertificateVerificationError
	var exited exitedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exited):
		return exited.code
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, login.ErrNone), errors.Is(err, login.ErrEnded), errors.Is(err, login.ErrDenied), errors.Is(err, login.ErrTooLate):
		return exitLogin
	case errors.As(err, &answered) && answered.Temporary():
		return exitOutage
	case errors.As(err, &answered) && (answered.Status == http.StatusUnauthorized || answered.Status == http.StatusForbidden):
		return exitLogin
	case errors.As(err, &answered), errors.As(err, &untrusted):
		return exitFailed
	case unanswered(err):
		return exitOutage
	}
	return exitFailed
}

// advised adds to an error what its reader does next.
func advised(err error) error {
	var answered *api.Error
	switch {
	case !errors.As(err, &answered):
		return err
	case answered.Code == "step_up":
		return fmt.Errorf("%w; run: wts login", err)
	case answered.Code == "token_scope":
		return fmt.Errorf("%w; log in with more, as in: wts login --scope api,api:create,api:read,token,provider:github", err)
	case answered.ConnectURL != "":
		return fmt.Errorf("%w; in a browser: %s", err, cell(answered.ConnectURL))
	}
	return err
}

// unanswered tells an error of the network, and a deadline that passed.
func unanswered(err error) bool {
	var connection *net.OpError
	var name *net.DNSError
	var asked *url.Error
	return errors.As(err, &connection) || errors.As(err, &name) || errors.As(err, &asked) || errors.Is(err, context.DeadlineExceeded)
}

// strict has every command refuse what it does not know. Cobra prints help for a word that is no command of a group, and
// ends with 0, which a script takes for success.
func strict(command *cobra.Command) {
	for _, one := range command.Commands() {
		strict(one)
	}
	if command.HasSubCommands() && !command.Runnable() {
		command.Args, command.RunE = cobra.ArbitraryArgs, group
	}
	if check := command.Args; check != nil {
		command.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%w; see: %s --help", err, cmd.CommandPath())
			}
			return nil
		}
	}
}

// group is what a command does that has only other commands below it.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(cmd.ErrOrStderr())
		_ = cmd.Help() // to a terminal; the error says what is missing
		return usagef("%s needs a command", cmd.CommandPath())
	}
	text := fmt.Sprintf("%q is no command of %s", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("%s; did you mean %s?", text, strings.Join(near, " or "))
	}
	return usagef("%s; see: %s --help", text, cmd.CommandPath())
}
