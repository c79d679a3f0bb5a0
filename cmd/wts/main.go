// Wts is a workspace token service: it keeps each user's refresh tokens, sealed, and hands workers
// short-lived access tokens.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	command := newCommand()
	if filepath.Base(os.Args[0]) == "alembic" {
		command = alembicCommand()
	}
	if err := command.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "wts:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "wts",
		Short:         "A workspace token service",
		Long:          "wts keeps each user's refresh tokens, sealed, and hands workers short-lived access tokens.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	file := root.PersistentFlags().StringP("config", "c", config.DefaultFile, "the configuration file")
	root.AddCommand(
		serveCommand(file), initCommand(), checkConfigCommand(file), migrateCommand(file),
		keysCommand(file), usersCommand(file), auditCommand(file), connectionsCommand(file), tokenCommand(), versionCommand(),
	)
	return root
}
