package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/store"
)

func connectionsCommand(file *string) *cobra.Command {
	connections := &cobra.Command{Use: "connections", Short: "What users have connected, without a secret, and how to end it"}
	connections.AddCommand(
		&cobra.Command{
			Use: "list [username]", Short: "List a user's connections, or everybody's", Args: cobra.MaximumNArgs(1),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) error {
				username := ""
				if len(args) == 1 {
					username = args[0]
				}
				listed, err := db.Connections.List(cmd.Context(), username)
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "USER\tPROVIDER\tPHASE\tREASON\tACCESS UNTIL\tGRANT UNTIL\tCONNECTED")
				for _, one := range listed {
					phase, reason := string(one.Phase), one.Reason
					if one.Ailing {
						phase, reason = "ailing", one.Failure+" since "+stamp(one.FailingSince)
					}
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", one.Username, one.Provider, phase, dash(reason), stamp(one.AccessExpiresAt), stamp(one.RefreshExpiresAt), stamp(one.ConnectedAt))
				}
				return table.Flush()
			}),
		},
		&cobra.Command{
			Use: "show <username> <provider>", Short: "Show all that may be known of a connection", Args: cobra.ExactArgs(2),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) error {
				one, err := findConnection(cmd, db, args[0], args[1])
				if err != nil {
					return err
				}
				show(cmd.OutOrStdout(), one)
				return nil
			}),
		},
		&cobra.Command{
			Use: "disconnect <username> <provider>", Short: "End a connection, on every replica within seconds, and have its token revoked", Args: cobra.ExactArgs(2),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
				one, err := findConnection(cmd, db, args[0], args[1])
				if err != nil {
					return err
				}
				if err := db.Connections.Disconnect(cmd.Context(), one.UserID, one.Provider); err != nil && !errors.Is(err, broker.ErrNotConnected) {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Disconnected. Every replica that reaches the database refuses %s within 5 s; the provider is told where it has a revocation endpoint.\n", one.Username)
				return audited(cmd, loaded, db, audit.Event{Action: audit.Disconnect, UserID: one.UserID, Username: one.Username, Provider: one.Provider})
			}),
		},
	)
	return connections
}

func findConnection(cmd *cobra.Command, db *store.Store, username, providerID string) (store.Listed, error) {
	listed, err := db.Connections.List(cmd.Context(), username)
	if err != nil {
		return store.Listed{}, err
	}
	for _, one := range listed {
		if one.Provider == providerID {
			return one, nil
		}
	}
	return store.Listed{}, fmt.Errorf("%q has not connected %q; `wts connections list %s` lists what there is", username, providerID, username)
}

func show(out io.Writer, one store.Listed) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"user", one.Username + " (" + one.UserID + ")"},
		{"provider", one.Provider},
		{"account there", one.Subject},
		{"phase", string(one.Phase)},
		{"reason", dash(one.Reason)},
		{"version", fmt.Sprint(one.Version)},
		{"refresh tokens rotate", one.Rotates},
		{"connected", stamp(one.ConnectedAt)},
		{"changed", stamp(one.UpdatedAt)},
		{"access token until", stamp(one.AccessExpiresAt)},
		{"grant until", stamp(one.RefreshExpiresAt)},
		{"presented since", stamp(one.PresentedAt)},
		{"presented by", dash(one.Replica)},
		{"not before", stamp(one.NextAttemptAt)},
		{"the provider answers", dash(one.Failure)},
		{"since", stamp(one.FailingSince)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], line[1])
	}
	_ = table.Flush() // to a terminal or a pipe; who reads it sees that it ends
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}
