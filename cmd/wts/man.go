package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes what --help says as pages for man(1).
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man [folder]", Short: "Write the manual pages of all commands", Args: cobra.MaximumNArgs(1),
		Example: "  wts man ~/.local/share/man/man1",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // manual pages are for everyone
				return fmt.Errorf("the folder: %w", err)
			}
			version, _ := buildVersion()
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages each time
			header := &doc.GenManHeader{Title: "WTS", Section: "1", Source: "wts " + version, Manual: "wts", Date: &time.Time{}}
			if err := doc.GenManTree(root, header, dir); err != nil {
				return fmt.Errorf("the manual pages: %w", err)
			}
			return nil
		},
	}
}
