package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/store"
)

func usersCommand(file *string) *cobra.Command {
	users := &cobra.Command{Use: "users", Short: "Who uses the service; refuse users, and let them in again"}
	users.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List all users, with how much they have", Args: cobra.NoArgs,
			RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
				all, err := db.Users.List(cmd.Context(), "")
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "USER\tSTATE\tCONNECTIONS\tTOKENS\tSESSIONS\tSEEN\tSINCE\tID")
				for _, one := range all {
					fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", one.Username, stateOf(one), one.Connections, one.Tokens, one.Sessions, stamp(one.SeenAt), stamp(one.CreatedAt), one.ID)
				}
				return table.Flush()
			}),
		},
		&cobra.Command{
			Use: "show <username>", Short: "Show what is known of a user, and of those who had the name before", Args: cobra.ExactArgs(1),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, _ config.Config, db *store.Store) error {
				return showUser(cmd, db, args[0])
			}),
		},
		renameCommand(file),
		endSessionsCommand(file),
	)
	for name, action := range map[string]audit.Action{"disable": audit.DisableUser, "enable": audit.EnableUser} {
		disabled := action == audit.DisableUser
		short := "Deny a user everything, on every replica that reaches the database within 5 s; their connections are kept"
		if !disabled {
			short = "Let a user in again"
		}
		users.AddCommand(&cobra.Command{
			Use: name + " <username>", Short: short, Args: cobra.ExactArgs(1),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
				err := db.Users.SetDisabled(cmd.Context(), args[0], disabled)
				if errors.Is(err, authn.ErrUnknown) {
					return fmt.Errorf("no user is called %q", args[0])
				}
				if err != nil {
					return err
				}
				fmt.Fprint(cmd.OutOrStdout(), said(args[0], disabled, loaded.RideThroughMax))
				return audited(cmd, loaded, db, audit.Event{Action: action, Username: args[0]})
			}),
		})
	}
	return users
}

func renameCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "rename <username> <name>", Short: "Let a user be called otherwise, until their next login",
		Long: "Lets a user be called otherwise. Their connections, tokens and sessions are kept. From now on pods whose annotation has the new name are theirs, and pods with the former name have no user. At their next login the provider's claim has the word again: rename is for the time between, when a username was changed at the provider and the pods have the new one already.",
		Args: cobra.ExactArgs(2),
		RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
			switch err := db.Users.Rename(cmd.Context(), args[0], args[1]); {
			case errors.Is(err, authn.ErrUnknown):
				return fmt.Errorf("no user is called %q", args[0])
			case errors.Is(err, store.ErrTaken):
				return fmt.Errorf("another user is called %q", args[1])
			case err != nil:
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is called %s now, until the provider says otherwise at a login. Pods with the former name have no user.\n", args[0], args[1])
			return audited(cmd, loaded, db, audit.Event{Action: audit.RenameUser, Username: args[1]})
		}),
	}
}

func endSessionsCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "end-sessions <username>", Short: "End all sessions of a user, on every replica within 5 s", Args: cobra.ExactArgs(1),
		RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
			user, err := findUser(cmd, db, args[0])
			if err != nil {
				return err
			}
			ended, err := db.Sessions.EndSessions(cmd.Context(), user.ID, nil)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d sessions of %s were ended. Their connections and API tokens go on.\n", len(ended), args[0])
			return audited(cmd, loaded, db, audit.Event{Action: audit.EndSession, UserID: user.ID, Username: args[0]})
		}),
	}
}

// findUser is the user who has a name now.
func findUser(cmd *cobra.Command, db *store.Store, username string) (authn.User, error) {
	user, err := db.Users.UserByName(cmd.Context(), username)
	if errors.Is(err, authn.ErrUnknown) || err == nil && user.ID == "" {
		return user, fmt.Errorf("no user is called %q", username)
	}
	return user, err
}

// stateOf says in one word what a user may do.
func stateOf(one authn.Account) string {
	switch {
	case !one.SetAsideAt.IsZero():
		return "set aside"
	case !one.DisabledAt.IsZero():
		return "disabled"
	}
	return "active"
}

// showUser prints what is known of a user, without a secret.
func showUser(cmd *cobra.Command, db *store.Store, username string) error {
	all, err := db.Users.List(cmd.Context(), username)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("no user is or was called %q", username)
	}
	out := cmd.OutOrStdout()
	for i, one := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, line := range [][2]string{
			{"user", one.Username},
			{"id", one.ID},
			{"state", stateOf(one)},
			{"issuer", one.Issuer},
			{"subject", one.Subject},
			{"groups", dash(strings.Join(one.Groups, ", "))},
			{"since", stamp(one.CreatedAt)},
			{"disabled", stamp(one.DisabledAt)},
			{"set aside", stamp(one.SetAsideAt)},
			{"seen", stamp(one.SeenAt)},
			{"connections", fmt.Sprint(one.Connections)},
			{"API tokens", fmt.Sprint(one.Tokens)},
			{"sessions", fmt.Sprint(one.Sessions)},
		} {
			fmt.Fprintf(table, "%s\t%s\n", line[0], line[1])
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if err := showSessions(cmd, out, db, one.ID); err != nil {
			return err
		}
	}
	return nil
}

// showSessions prints where a user is logged in.
func showSessions(cmd *cobra.Command, out io.Writer, db *store.Store, userID string) error {
	sessions, err := db.Sessions.SessionsOf(cmd.Context(), userID)
	if err != nil || len(sessions) == 0 {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nSESSION BEGAN\tSEEN\tENDS\tADDRESS\tBROWSER")
	for _, one := range sessions {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", stamp(one.CreatedAt), stamp(one.SeenAt), stamp(one.EndsAt), dash(one.Address), dash(one.Agent))
	}
	return table.Flush()
}

// said tells an operator what has been done, and what holds for a replica that cannot hear of it.
func said(username string, disabled bool, rideThrough time.Duration) string {
	if !disabled {
		return fmt.Sprintf("%s may use the service again.\n", username)
	}
	return fmt.Sprintf("%s is refused within 5 s by every replica that reaches the database. One that is cut off from it goes on with what it knows for ride_through_max (%s); stop it if that is too long.\n", username, rideThrough)
}
