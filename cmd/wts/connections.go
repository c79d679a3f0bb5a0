package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/store"
)

// connectionsCommand is a person's own list, and below it what operators do to everybody's.
func connectionsCommand(file *string) *cobra.Command {
	connections := ownConnectionsCommand()
	connections.AddCommand(
		listCommand(file),
		&cobra.Command{
			Use: "show <username> <provider>", Short: "Show all that may be known of a connection, as an operator", Args: cobra.ExactArgs(2),
			ValidArgsFunction: completeConnection(file),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) error {
				one, err := findConnection(cmd, db, args[0], args[1])
				if err != nil {
					return err
				}
				line := lineOfConnection(&one)
				return show(cmd, line, func(out io.Writer) { showConnection(out, &one) })
			}),
		},
		&cobra.Command{
			Use: "disconnect <username> <provider>", Short: "End a connection, on every replica within seconds, and have its token revoked", Args: cobra.ExactArgs(2),
			ValidArgsFunction: completeConnection(file),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
				one, err := findConnection(cmd, db, args[0], args[1])
				if err != nil {
					return err
				}
				if err := db.Connections.Disconnect(cmd.Context(), one.UserID, one.Provider); err != nil && !errors.Is(err, broker.ErrNotConnected) {
					return err
				}
				return errors.Join(audited(cmd, loaded, db, audit.Event{Action: audit.Disconnect, UserID: one.UserID, Username: one.Username, Provider: one.Provider}),
					say(cmd, map[string]string{"username": one.Username, "provider": one.Provider, "state": string(broker.Disconnected)},
						"Disconnected. Every replica that reaches the database refuses %s within 5 s; the provider is told where it has a revocation endpoint.", one.Username))
			}),
		},
	)
	return connections
}

// phases are those by which a list can be narrowed.
var phases = []string{string(broker.Ready), string(broker.Refreshing), string(broker.Suspect), string(broker.Broken), store.Ailing}

func listCommand(file *string) *cobra.Command {
	var ending string
	var filter store.ConnectionFilter
	command := &cobra.Command{
		Use: "list [username]", Short: "List a user's connections, or everybody's, as an operator", Args: cobra.MaximumNArgs(1),
		Long:              "Lists connections, and until when their grants are good: after that their users have to log in again. An end that the provider did not state is expected where it ended other grants at the same age.",
		ValidArgsFunction: completeUser(file),
		RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) (err error) {
			if filter.Within, err = readDays(ending); err != nil {
				return usagef("--ending: %w", err)
			}
			if filter.Phase != "" && !slices.Contains(phases, filter.Phase) {
				return usagef("--phase: got %q, want one of %s", filter.Phase, strings.Join(phases, ", "))
			}
			if err := checkPage(filter.Page); err != nil {
				return err
			}
			if len(args) == 1 {
				filter.Username = args[0]
			}
			listed, err := db.Connections.List(cmd.Context(), filter)
			if err != nil {
				return err
			}
			lines := []connectionLine{}
			for i := range listed {
				lines = append(lines, lineOfConnection(&listed[i]))
			}
			more(cmd, filter.Page, len(listed))
			return show(cmd, lines, func(out io.Writer) { connectionsAsTable(out, listed) })
		}),
	}
	flags := command.Flags()
	flags.StringVar(&ending, "ending", "", "only what is good and ends within a time, like 7d or 36h, the first to end at the top")
	flags.StringVar(&filter.Provider, "provider", "", "only those of one provider")
	flags.StringVar(&filter.Phase, "phase", "", "only those in one phase: "+strings.Join(phases, ", "))
	choices(command, "phase", phases...)
	_ = command.RegisterFlagCompletionFunc("provider", completeProvider(file))
	pageFlags(command, &filter.Page)
	return command
}

// pageFlags are those of a list.
func pageFlags(command *cobra.Command, page *store.Page) {
	command.Flags().IntVar(&page.Limit, "limit", 1000, "how many at most")
	command.Flags().IntVar(&page.Skip, "skip", 0, "how many to leave out at the top, which other pages had")
}

func checkPage(page store.Page) error {
	switch {
	case page.Limit < 1 || page.Limit > store.MaxListed:
		return usagef("--limit: got %d, want 1 to %d", page.Limit, store.MaxListed)
	case page.Skip < 0:
		return usagef("--skip: got %d, want 0 or more", page.Skip)
	}
	return nil
}

// more says that a list may go on.
func more(cmd *cobra.Command, page store.Page, got int) {
	if got == page.Limit {
		fmt.Fprintf(cmd.ErrOrStderr(), "There may be more: --skip %d\n", page.Skip+got)
	}
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
func connectionsAsTable(out io.Writer, listed []store.Listed) {
	row(out, "USER", "PROVIDER", "PHASE", "REASON", "ACCESS UNTIL", "GRANT UNTIL", "CONNECTED")
	for i := range listed {
		one := &listed[i]
		phase, reason := string(one.Phase), one.Reason
		if one.Ailing {
			phase, reason = store.Ailing, one.Failure+" since "+stamp(one.FailingSince)
		}
		row(out, one.Username, one.Provider, phase, reason, one.AccessExpiresAt, grantUntil(one), one.ConnectedAt)
	}
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

// connectionLine is a connection for programs.
type connectionLine struct {
	Username        string    `json:"username"`
	UserID          string    `json:"user_id"`
	Provider        string    `json:"provider"`
	Subject         string    `json:"subject"`
	Phase           string    `json:"phase"`
	Reason          string    `json:"reason,omitempty"`
	Ailing          bool      `json:"ailing"`
	Failure         string    `json:"failure,omitempty"`
	FailingSince    time.Time `json:"failing_since,omitzero"`
	ConnectedAt     time.Time `json:"connected_at"`
	ChangedAt       time.Time `json:"changed_at"`
	AccessExpiresAt time.Time `json:"access_expires_at,omitzero"`
	EndsAt          time.Time `json:"ends_at,omitzero"`
	Expected        bool      `json:"expected"`
}

func lineOfConnection(one *store.Listed) connectionLine {
	return connectionLine{
		one.Username, one.UserID, one.Provider, one.Subject, string(one.Phase), one.Reason, one.Ailing, one.Failure, seconds(one.FailingSince),
		seconds(one.ConnectedAt), seconds(one.UpdatedAt), seconds(one.AccessExpiresAt), seconds(one.Ends), one.Expected,
	}
}

func findConnection(cmd *cobra.Command, db *store.Store, username, providerID string) (store.Listed, error) {
	listed, err := db.Connections.List(cmd.Context(), store.ConnectionFilter{Username: username})
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

func showConnection(out io.Writer, one *store.Listed) {
	for _, line := range [][2]any{
		{"user", one.Username + " (" + one.UserID + ")"},
		{"provider", one.Provider},
		{"account there", one.Subject},
		{"phase", string(one.Phase)},
		{"reason", one.Reason},
		{"version", one.Version},
		{"refresh tokens rotate", one.Rotates},
		{"connected", one.ConnectedAt},
		{"changed", one.UpdatedAt},
		{"access token until", one.AccessExpiresAt},
		{"grant until", grantUntil(one)},
		{"presented since", one.PresentedAt},
		{"presented by", one.Replica},
		{"not before", one.NextAttemptAt},
		{"the provider answers", one.Failure},
		{"since", one.FailingSince},
	} {
		row(out, line[0], line[1])
	}
}
