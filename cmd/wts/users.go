package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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
		listUsersCommand(file),
		&cobra.Command{
			Use: "show <username>", Short: "Show what is known of a user, and of those who had the name before", Args: cobra.ExactArgs(1),
			ValidArgsFunction: completeUser(file),
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
			Use: name + " <username>", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: completeUser(file),
			RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
				err := db.Users.SetDisabled(cmd.Context(), args[0], disabled)
				if errors.Is(err, authn.ErrUnknown) {
					return fmt.Errorf("no user is called %q", args[0])
				}
				if err != nil {
					return err
				}
				return errors.Join(audited(cmd, loaded, db, audit.Event{Action: action, Username: args[0]}),
					say(cmd, map[string]any{"username": args[0], "disabled": disabled}, "%s", said(args[0], disabled, loaded.RideThroughMax)))
			}),
		})
	}
	return users
}

func renameCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "rename <username> <name>", Short: "Let a user be called otherwise, until their next login",
		Long: "Lets a user be called otherwise. Their connections, tokens and sessions are kept. From now on pods whose annotation has the new name are theirs, and pods with the former name have no user. At their next login the provider's claim has the word again: rename is for the time between, when a username was changed at the provider and the pods have the new one already.",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeUser(file),
		RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
			switch err := db.Users.Rename(cmd.Context(), args[0], args[1]); {
			case errors.Is(err, authn.ErrUnknown):
				return fmt.Errorf("no user is called %q", args[0])
			case errors.Is(err, store.ErrTaken):
				return fmt.Errorf("another user is called %q", args[1])
			case err != nil:
				return err
			}
			return errors.Join(audited(cmd, loaded, db, audit.Event{Action: audit.RenameUser, Username: args[1]}), say(cmd, map[string]string{"former_username": args[0], "username": args[1]},
				"%s is called %s now, until the provider says otherwise at a login. Pods with the former name have no user.", args[0], args[1]))
		}),
	}
}

func endSessionsCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "end-sessions <username>", Short: "End all sessions of a user, on every replica within 5 s", Args: cobra.ExactArgs(1), ValidArgsFunction: completeUser(file),
		RunE: withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
			user, err := findUser(cmd, db, args[0])
			if err != nil {
				return err
			}
			ended, err := db.Sessions.EndSessions(cmd.Context(), user.ID, nil)
			if err != nil {
				return err
			}
			return errors.Join(audited(cmd, loaded, db, audit.Event{Action: audit.EndSession, UserID: user.ID, Username: args[0]}),
				say(cmd, map[string]any{"username": args[0], "ended": len(ended)}, "%d sessions of %s were ended. Their connections and API tokens go on.", len(ended), args[0]))
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
func stateOf(one *authn.Account) string {
	switch {
	case !one.SetAsideAt.IsZero():
		return "set aside"
	case !one.DisabledAt.IsZero():
		return "disabled"
	}
	return "active"
}

// userLine is a user as commands print them, without a secret.
type userLine struct {
	ID          string        `json:"id"`
	Username    string        `json:"username"`
	State       string        `json:"state"`
	Issuer      string        `json:"issuer"`
	Subject     string        `json:"subject"`
	Groups      []string      `json:"groups"`
	CreatedAt   time.Time     `json:"created_at"`
	DisabledAt  time.Time     `json:"disabled_at,omitzero"`
	SetAsideAt  time.Time     `json:"set_aside_at,omitzero"`
	SeenAt      time.Time     `json:"seen_at,omitzero"`
	Connections int           `json:"connections"`
	Tokens      int           `json:"tokens"`
	Sessions    int           `json:"sessions"`
	Open        []sessionLine `json:"open_sessions,omitempty"`
}

// sessionLine is where a user is logged in.
type sessionLine struct {
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`
	EndsAt    time.Time `json:"ends_at"`
	Address   string    `json:"address"`
	Agent     string    `json:"agent"`
}

func lineOfUser(one *authn.Account) userLine {
	return userLine{
		ID: one.ID, Username: one.Username, State: stateOf(one), Issuer: one.Issuer, Subject: one.Subject, Groups: append([]string{}, one.Groups...),
		CreatedAt: seconds(one.CreatedAt), DisabledAt: seconds(one.DisabledAt), SetAsideAt: seconds(one.SetAsideAt), SeenAt: seconds(one.SeenAt),
		Connections: one.Connections, Tokens: one.Tokens, Sessions: one.Sessions,
	}
}

// userStates are those by which a list can be narrowed.
var userStates = []string{"active", "disabled", "set aside"}

func listUsersCommand(file *string) *cobra.Command {
	var filter store.UserFilter
	command := &cobra.Command{
		Use: "list", Short: "List all users, with how much they have", Args: cobra.NoArgs,
		RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
			if filter.State != "" && !slices.Contains(userStates, filter.State) {
				return usagef("--state: got %q, want one of %s", filter.State, strings.Join(userStates, ", "))
			}
			if err := checkPage(filter.Page); err != nil {
				return err
			}
			all, err := db.Users.List(cmd.Context(), filter)
			if err != nil {
				return err
			}
			lines := []userLine{}
			for i := range all {
				lines = append(lines, lineOfUser(&all[i]))
			}
			more(cmd, filter.Page, len(all))
			return show(cmd, lines, func(out io.Writer) {
				row(out, "USER", "STATE", "CONNECTIONS", "TOKENS", "SESSIONS", "SEEN", "SINCE", "ID")
				for i := range lines {
					one := &lines[i]
					row(out, one.Username, one.State, one.Connections, one.Tokens, one.Sessions, one.SeenAt, one.CreatedAt, one.ID)
				}
			})
		}),
	}
	command.Flags().StringVar(&filter.State, "state", "", "only those in one state: "+strings.Join(userStates, ", "))
	choices(command, "state", userStates...)
	pageFlags(command, &filter.Page)
	return command
}

// showUser prints what is known of a user, and where they are logged in.
func showUser(cmd *cobra.Command, db *store.Store, username string) error {
	all, err := db.Users.List(cmd.Context(), store.UserFilter{Username: username})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("no user is or was called %q", username)
	}
	lines := []userLine{}
	for i := range all {
		line := lineOfUser(&all[i])
		sessions, err := db.Sessions.SessionsOf(cmd.Context(), line.ID)
		if err != nil {
			return err
		}
		for _, one := range sessions {
			line.Open = append(line.Open, sessionLine{seconds(one.CreatedAt), seconds(one.SeenAt), seconds(one.EndsAt), one.Address, one.Agent})
		}
		lines = append(lines, line)
	}
	return show(cmd, lines, func(out io.Writer) {
		for i := range lines {
			if i > 0 {
				fmt.Fprintln(out)
			}
			lines[i].table(out)
		}
	})
}

func (u *userLine) table(out io.Writer) {
	for _, line := range [][2]any{
		{"user", u.Username},
		{"id", u.ID},
		{"state", u.State},
		{"issuer", u.Issuer},
		{"subject", u.Subject},
		{"groups", strings.Join(u.Groups, ", ")},
		{"since", u.CreatedAt},
		{"disabled", u.DisabledAt},
		{"set aside", u.SetAsideAt},
		{"seen", u.SeenAt},
		{"connections", u.Connections},
		{"API tokens", u.Tokens},
		{"sessions", u.Sessions},
	} {
		row(out, line[0], line[1])
	}
	if len(u.Open) == 0 {
		return
	}
	fmt.Fprintln(out)
	row(out, "SESSION BEGAN", "SEEN", "ENDS", "ADDRESS", "BROWSER")
	for _, one := range u.Open {
		row(out, one.CreatedAt, one.SeenAt, one.EndsAt, one.Address, one.Agent)
	}
}

// said tells an operator what has been done, and what holds for a replica that cannot hear of it.
func said(username string, disabled bool, rideThrough time.Duration) string {
	if !disabled {
		return fmt.Sprintf("%s may use the service again.", username)
	}
	return fmt.Sprintf("%s is refused within 5 s by every replica that reaches the database. One that is cut off from it goes on with what it knows for ride_through_max (%s); stop it if that is too long.", username, rideThrough)
}
