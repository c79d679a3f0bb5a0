package main

import (
	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
)

// alembicCommand is the program under the name of the Python service's migration tool: deployments
// run `alembic upgrade head` of the same image before they start it (Gen3 contract 2.1).
func alembicCommand() *cobra.Command {
	file := config.DefaultFile
	root := &cobra.Command{
		Use: "alembic", Short: "Stands in for the migration tool of Gen3's Python service",
		Version: "wts", SilenceUsage: true, SilenceErrors: true,
	}
	upgrade := &cobra.Command{Use: "upgrade", Short: "Bring the database up to date"}
	migrate := migrateCommand(&file)
	migrate.Use = "head"
	upgrade.AddCommand(migrate)
	root.AddCommand(upgrade)
	return root
}
