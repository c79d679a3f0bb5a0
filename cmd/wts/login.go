package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cli/browser"
	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/login"
)

// person is the service that a person's commands ask, as the person who is logged in there.
type person struct{ url string }

// flags are those of each of them.
func (p *person) flags(command *cobra.Command) {
	command.Flags().StringVar(&p.url, "url", os.Getenv("WTS_URL"), "the service's address (or WTS_URL); that of the last login where none is named")
	_ = command.RegisterFlagCompletionFunc("url", completing(func(*cobra.Command, []string, string) []string {
		logins, err := login.NewStore()
		if err != nil {
			return nil
		}
		services, _ := logins.Services()
		return services
	}))
}

// find is what is kept, and the address that is meant.
func (p *person) find() (logins *login.Store, address string, err error) {
	if logins, err = login.NewStore(); err != nil {
		return nil, "", err
	}
	if p.url == "" {
		address, err = logins.Current()
		if errors.Is(err, login.ErrNone) {
			return nil, "", fmt.Errorf("%w; run: wts login https://wts.example.org", err)
		}
		return logins, address, err
	}
	if address, err = login.Address(p.url); err != nil {
		return nil, "", usagef("--url: %w", err)
	}
	return logins, address, nil
}

// client asks as the person who is logged in.
func (p *person) client(ctx context.Context) (*api.Client, error) {
	logins, address, err := p.find()
	if err != nil {
		return nil, err
	}
	if _, err := logins.Find(address); errors.Is(err, login.ErrNone) {
		return nil, fmt.Errorf("%w at %s; run: wts login %s", err, address, address)
	}
	return &api.Client{URL: address, Proof: proofOf(ctx, logins, address)}, nil
}

// proofOf is the access token of a login, a new one where that is due.
func proofOf(ctx context.Context, logins *login.Store, address string) func() (string, error) {
	return func() (string, error) {
		token, err := logins.Token(ctx, address)
		if errors.Is(err, login.ErrEnded) || errors.Is(err, login.ErrNone) {
			return "", fmt.Errorf("%w; run: wts login %s", err, address)
		}
		return token, err
	}
}

// loggedIn is what is said of a login.
type loggedIn struct {
	URL      string    `json:"url"`
	ID       string    `json:"id,omitempty"`
	Username string    `json:"username"`
	Scopes   []string  `json:"scopes"`
	Since    time.Time `json:"since"`
	Keyring  bool      `json:"keyring"` // the system's keyring has it, and no file
}

func loginCommand() *cobra.Command {
	var who person
	var scopes []string
	device := false
	command := &cobra.Command{
		Use: "login [url]", Short: "Log in at a wts service, as yourself", Args: cobra.MaximumNArgs(1),
		Long: `Logs in at a service, so that the other commands act as you: in the browser of this machine where there is one, else
by a code that you type in a browser elsewhere. The login is kept in the system's keyring where there is one, else in a
file that you alone may read. It goes on for 30 days from each use, and for 90 at most; wts logout ends it, and so does
the page Sessions of the service.

It asks for what the service lets a login do, but for the access tokens of your providers: name those that you want
with --scope, as in --scope token,provider:github.`,
		Example: "  wts login https://wts.example.org\n  wts login --device https://wts.example.org",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				who.url = args[0]
			}
			if who.url == "" {
				return usagef("which service? As in: wts login https://wts.example.org")
			}
			logins, address, err := who.find()
			if err != nil {
				return err
			}
			return logIn(cmd, logins, address, scopes, device)
		},
	}
	who.flags(command)
	command.Flags().StringSliceVar(&scopes, "scope", nil, "what the login may do, in the place of what is usual")
	command.Flags().BoolVar(&device, "device", false, "show a code, also where there is a browser")
	return command
}

func logIn(cmd *cobra.Command, logins *login.Store, address string, scopes []string, device bool) error {
	ctx := cmd.Context()
	service, err := login.Discover(ctx, address)
	if err != nil {
		return err
	}
	if len(scopes) == 0 {
		scopes = service.Usual()
	}
	var made login.Login
	err = errNoBrowser
	if !device && hasBrowser() {
		made, err = service.ByBrowser(ctx, scopes, openBrowser(cmd.ErrOrStderr()))
	}
	if errors.Is(err, errNoBrowser) {
		made, err = service.ByDevice(ctx, scopes, func(code login.Code) {
			fmt.Fprintf(cmd.ErrOrStderr(), "Open %s in a browser and type the code\n\n    %s\n\nor open %s\nThe code is good until %s.\n",
				cell(code.Address), cell(code.UserCode), cell(code.Complete), code.ExpiresAt.Local().Format("15:04"))
		})
	}
	if err != nil {
		return err
	}
	former, _ := logins.Find(address)
	inKeyring, err := logins.Keep(ctx, made)
	if err != nil {
		return err
	}
	if former.Secrets.RefreshToken != "" {
		_ = service.End(ctx, former) // it ends by itself, a month from now
	}
	kept := "a file that you alone may read"
	if inKeyring {
		kept = "the system's keyring"
	}
	said := loggedIn{URL: address, Username: made.Username, Scopes: made.Scopes, Since: made.Began, Keyring: inKeyring}
	return say(cmd, said, "Logged in at %s as %s. The login is kept in %s.", address, cell(made.Username), kept)
}

// errNoBrowser: no browser could be opened.
var errNoBrowser = errors.New("no browser")

// hasBrowser tells a machine on whose screen a browser can be opened.
func hasBrowser() bool {
	switch {
	case os.Getenv("SSH_CONNECTION") != "":
		return false
	case slices.Contains([]string{"darwin", "windows"}, runtime.GOOS):
		return true
	}
	return os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// openBrowser opens an address, and says so.
func openBrowser(said io.Writer) func(string) error {
	return func(address string) error {
		fmt.Fprintf(said, "Go on in your browser. Where none opens: %s\n", cell(address))
		browser.Stdout, browser.Stderr = io.Discard, io.Discard
		if browser.OpenURL(address) != nil {
			return errNoBrowser
		}
		return nil
	}
}

func logoutCommand() *cobra.Command {
	var who person
	here := false
	command := &cobra.Command{
		Use: "logout", Short: "End your login at a service, and forget it here", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logins, address, err := who.find()
			if err != nil {
				return err
			}
			services, err := logins.Services()
			if err == nil && !slices.Contains(services, address) {
				return fmt.Errorf("%w at %s", login.ErrNone, address)
			}
			if err == nil && !here {
				err = endThere(cmd.Context(), logins, address)
			}
			if err != nil {
				return fmt.Errorf("the login goes on; wts logout --here forgets it on this machine alone: %w", err)
			}
			if err := logins.Forget(cmd.Context(), address); err != nil {
				return err
			}
			if here {
				return say(cmd, map[string]any{"url": address, "ended": false}, "Forgotten here. It goes on at %s until you end it there, under Sessions.", address)
			}
			return say(cmd, map[string]any{"url": address, "ended": true}, "Logged out at %s.", address)
		},
	}
	who.flags(command)
	command.Flags().BoolVar(&here, "here", false, "forget the login on this machine, without asking the service to end it")
	return command
}

// endThere ends a login at its service.
func endThere(ctx context.Context, logins *login.Store, address string) error {
	known, err := logins.Find(address)
	if err != nil {
		return err
	}
	service, err := login.Discover(ctx, address)
	if err != nil {
		return err
	}
	return service.End(ctx, known)
}

func whoamiCommand() *cobra.Command {
	var who person
	command := &cobra.Command{
		Use: "whoami", Short: "Show as whom you are logged in, and where", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := who.client(cmd.Context())
			if err != nil {
				return err
			}
			user, err := client.User(cmd.Context())
			if err != nil {
				return err
			}
			logins, address, err := who.find()
			if err != nil {
				return err
			}
			known, err := logins.Find(address)
			if err != nil {
				return err
			}
			said := loggedIn{URL: address, ID: user.ID, Username: user.Username, Scopes: known.Scopes, Since: known.Began, Keyring: logins.InKeyring(address)}
			return say(cmd, said, "%s at %s, since %s, for %s", cell(said.Username), said.URL, stamp(said.Since), cell(strings.Join(said.Scopes, " ")))
		},
	}
	who.flags(command)
	return command
}

func ownConnectionsCommand() *cobra.Command {
	var who person
	command := &cobra.Command{
		Use: "connections", Short: "Show what you have connected; operators list and end everybody's", Args: cobra.NoArgs,
		Long: "Shows how you are connected to each provider, and where to connect it. The commands below are those of operators, who have the service's configuration and database.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := who.client(cmd.Context())
			if err != nil {
				return err
			}
			all, err := client.Connections(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, all, func(out io.Writer) {
				row(out, "PROVIDER", "NAME", "STATE", "ACCOUNT", "CONNECTED", "ENDS", "CONNECT")
				for _, one := range all {
					connect := one.ConnectURL
					if one.State == "connected" {
						connect = ""
					}
					row(out, one.Provider, one.Name, one.State, one.Account, one.ConnectedAt, one.EndsAt, connect)
				}
			})
		},
	}
	who.flags(command)
	return command
}
