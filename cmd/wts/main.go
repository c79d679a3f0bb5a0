// Wts is a workspace token service: it keeps each user's refresh tokens, sealed, and hands workers
// short-lived access tokens.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), heeded(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)...)
	defer stop()
	command := newCommand()
	if filepath.Base(os.Args[0]) == "alembic" {
		command = alembicCommand()
	}
	if err := command.ExecuteContext(ctx); err != nil {
		if !errors.As(err, &exitedError{}) { // the program has said what there is to say
			fmt.Fprintln(os.Stderr, "wts:", plain(advised(err).Error()))
		}
		stop()
		os.Exit(exitCode(err))
	}
}

// heeded leaves out the signals that this process was started to ignore, as nohup has it do.
func heeded(signals ...os.Signal) []os.Signal { return slices.DeleteFunc(signals, signal.Ignored) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "wts",
		Short: "A workspace token service",
		Long: `wts keeps each user's refresh tokens, sealed, and hands workers short-lived access tokens.

Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 a person has to log in, to connect a
provider, or to be let in; 4 the service, a provider or the database does not answer: try again.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.Version, _ = buildVersion()
	file := root.PersistentFlags().StringP("config", "c", configFile(), "the configuration file (or WTS_CONFIG)")
	root.AddCommand(
		serveCommand(file), initCommand(), checkConfigCommand(file), migrateCommand(file),
		keysCommand(file), usersCommand(file), auditCommand(file), connectionsCommand(file), healthCommand(file), versionCommand(),
		loginCommand(), logoutCommand(), whoamiCommand(), tokenCommand(), tokensCommand(), execCommand(), manCommand(),
	)
	withOutput(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usagef("%w; see: %s --help", err, cmd.CommandPath()) })
	strict(root)
	return root
}
