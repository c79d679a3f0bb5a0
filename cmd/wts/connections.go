package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
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
		listCommand(file),
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

func listCommand(file *string) *cobra.Command {
	var ending, output string
	command := &cobra.Command{
		Use: "list [username]", Short: "List a user's connections, or everybody's", Args: cobra.MaximumNArgs(1),
		Long: "Lists connections, and until when their grants are good: after that their users have to log in again. An end that the provider did not state is expected where it ended other grants at the same age.",
		RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) error {
			if output != "text" && output != "json" {
				return usagef("--output: got %q, want text or json", output)
			}
			within, err := readDays(ending)
			if err != nil {
				return usagef("--ending: %w", err)
			}
			username := ""
			if len(args) == 1 {
				username = args[0]
			}
			list := db.Connections.List
			if within > 0 {
				list = func(ctx context.Context, username string) ([]store.Listed, error) {
					return db.Connections.Ending(ctx, username, within)
				}
			}
			listed, err := list(cmd.Context(), username)
			if err != nil {
				return err
			}
			if output == "json" {
				return connectionsAsJSON(cmd.OutOrStdout(), listed)
			}
			return connectionsAsTable(cmd.OutOrStdout(), listed)
		}),
	}
	command.Flags().StringVar(&ending, "ending", "", "only what is good and ends within a time, like 7d or 36h, the first to end at the top")
	command.Flags().StringVar(&output, "output", "text", "text, or json: one JSON object a line")
	return command
}

var errNoDays = errors.New("want a time like 7d, 36h or 1d12h")

// readDays reads a duration that may begin with days; 0 where it is empty.
func readDays(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	days, rest, found := strings.Cut(text, "d")
	if !found {
		days, rest = "0", text
	}
	count, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, errNoDays
	}
	left := time.Duration(0)
	if rest != "" {
		left, err = time.ParseDuration(rest)
	}
	whole := time.Duration(count)*24*time.Hour + left
	if err != nil || left < 0 || whole <= 0 {
		return 0, errNoDays
	}
	return whole, nil
}

// connectionsAsTable prints connections for people.
func connectionsAsTable(out io.Writer, listed []store.Listed) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "USER\tPROVIDER\tPHASE\tREASON\tACCESS UNTIL\tGRANT UNTIL\tCONNECTED")
	for i := range listed {
		one := &listed[i]
		phase, reason := string(one.Phase), one.Reason
		if one.Ailing {
			phase, reason = "ailing", one.Failure+" since "+stamp(one.FailingSince)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", one.Username, one.Provider, phase, dash(reason), stamp(one.AccessExpiresAt), grantUntil(one), stamp(one.ConnectedAt))
	}
	return table.Flush()
}

// grantUntil is when a grant ends, or ended.
func grantUntil(one *store.Listed) string {
	switch {
	case one.Ends.IsZero():
		return stamp(one.RefreshExpiresAt)
	case one.Expected:
		return stamp(one.Ends) + " (expected)"
	}
	return stamp(one.Ends)
}

// connectionsAsJSON prints connections for programs.
func connectionsAsJSON(out io.Writer, listed []store.Listed) error {
	encoder := json.NewEncoder(out)
	for i := range listed {
		one := &listed[i]
		line := struct {
			Username        string    `json:"username"`
			UserID          string    `json:"user_id"`
			Provider        string    `json:"provider"`
			Subject         string    `json:"subject"`
			Phase           string    `json:"phase"`
			Reason          string    `json:"reason,omitempty"`
			Ailing          bool      `json:"ailing"`
			ConnectedAt     time.Time `json:"connected_at"`
			AccessExpiresAt time.Time `json:"access_expires_at,omitzero"`
			EndsAt          time.Time `json:"ends_at,omitzero"`
			Expected        bool      `json:"expected"`
		}{
			one.Username, one.UserID, one.Provider, one.Subject, string(one.Phase), one.Reason, one.Ailing,
			seconds(one.ConnectedAt), seconds(one.AccessExpiresAt), seconds(one.Ends), one.Expected,
		}
		if err := encoder.Encode(line); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// seconds is a time as the wire has it.
func seconds(at time.Time) time.Time { return at.UTC().Truncate(time.Second) }

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
		{"grant until", grantUntil(&one)},
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
