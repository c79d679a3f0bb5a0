package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
)

// tokensCommand is about API tokens: a person's own, or those of a resource that they maintain.
func tokensCommand() *cobra.Command {
	tokens := &cobra.Command{
		Use: "tokens", Short: "List, make, rotate and revoke your API tokens",
		Long: "Your API tokens, or with --resource those of a resource that you maintain. To make or rotate one takes a login of the last hour.",
	}
	tokens.AddCommand(listTokensCommand(), createTokenCommand(), rotateTokenCommand(), revokeTokenCommand())
	return tokens
}

// tokensOf are the person, and whose tokens are meant.
type tokensOf struct {
	person
	resource string
}

func (o *tokensOf) flags(command *cobra.Command) {
	o.person.flags(command)
	command.Flags().StringVar(&o.resource, "resource", "", "those of a resource, by its audience and id, as in plugins/my-plugin")
}

// open is a client, and whose tokens are meant.
func (o *tokensOf) open(cmd *cobra.Command) (*api.Client, api.Tokens, error) {
	var of api.Tokens
	if o.resource != "" {
		of.Audience, of.Resource, _ = strings.Cut(o.resource, "/")
		if of.Audience == "" || of.Resource == "" {
			return nil, of, usagef("--resource: got %q, want an audience and an id, as in plugins/my-plugin", o.resource)
		}
	}
	client, err := o.client(cmd.Context())
	return client, of, err
}

// complete completes the id of a token, with its name beside it.
func (o *tokensOf) complete() completion {
	return completing(func(cmd *cobra.Command, args []string, _ string) (ids []string) {
		client, of, err := o.open(cmd)
		if err != nil || len(args) > 0 {
			return nil
		}
		for one, err := range client.ListTokens(cmd.Context(), of, api.TokenFilter{State: "active"}) {
			if err != nil || len(ids) == mostCompleted {
				break
			}
			ids = append(ids, one.ID+"\t"+cell(one.Name))
		}
		return ids
	})
}

var tokenStates = []string{"active", "expired", "revoked"}

func listTokensCommand() *cobra.Command {
	var of tokensOf
	var filter api.TokenFilter
	limit := 0
	command := &cobra.Command{
		Use: "list", Short: "List API tokens, the newest first; expired and revoked ones too", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case filter.State != "" && !slices.Contains(tokenStates, filter.State):
				return usagef("--state: got %q, want one of %s", filter.State, strings.Join(tokenStates, ", "))
			case filter.UnusedDays < 0:
				return usagef("--unused-days: got %d, want 0 or more", filter.UnusedDays)
			case limit < 0:
				return usagef("--limit: got %d, want 0 or more", limit)
			}
			client, whose, err := of.open(cmd)
			if err != nil {
				return err
			}
			all := []api.APIToken{}
			for one, err := range client.ListTokens(cmd.Context(), whose, filter) {
				if err != nil {
					return err
				}
				if all = append(all, one); len(all) == limit {
					break
				}
			}
			return show(cmd, all, func(out io.Writer) {
				row(out, "ID", "NAME", "STATE", "AUDIENCE", "SCOPES", "EXPIRES", "LAST USED", "HINT")
				for i := range all {
					one := &all[i]
					row(out, one.ID, one.Name, one.State, one.Audience, one.Scopes, one.ExpiresAt, one.LastUsedAt, one.Hint)
				}
			})
		},
	}
	of.flags(command)
	command.Flags().StringVar(&filter.State, "state", "", "only those in one state: "+strings.Join(tokenStates, ", "))
	choices(command, "state", tokenStates...)
	command.Flags().IntVar(&filter.UnusedDays, "unused-days", 0, "only those that were not used for so many days")
	command.Flags().IntVar(&limit, "limit", 0, "how many at most; 0 is all of them")
	return command
}

func createTokenCommand() *cobra.Command {
	var of tokensOf
	var wanted api.NewToken
	var life time.Duration
	endless := false
	command := &cobra.Command{
		Use: "create <name>", Short: "Make an API token, and print its value, which is shown this once", Args: cobra.ExactArgs(1),
		Example: "  wts tokens create laptop --audience wts --scope token --expires 720h\n  wts tokens create releases --resource plugins/my-plugin --scope upload",
		RunE: func(cmd *cobra.Command, args []string) error {
			if endless && cmd.Flags().Changed("expires") {
				return usagef("--endless and --expires: want one of them")
			}
			client, whose, err := of.open(cmd)
			if err != nil {
				return err
			}
			wanted.Name = args[0]
			switch seconds := int64(life / time.Second); {
			case endless:
				seconds = api.NoEnd
				wanted.ExpiresIn = &seconds
			case cmd.Flags().Changed("expires"):
				wanted.ExpiresIn = &seconds
			}
			made, err := client.CreateToken(cmd.Context(), whose, wanted)
			if err != nil {
				return err
			}
			return showMade(cmd, &made)
		},
	}
	of.flags(command)
	flags := command.Flags()
	flags.StringVar(&wanted.Audience, "audience", "", "the service that it is for")
	flags.StringSliceVar(&wanted.Scopes, "scope", nil, "what it may do there")
	flags.StringSliceVar(&wanted.Networks, "network", nil, "from where it is accepted, as in 192.0.2.0/24")
	flags.StringVar(&wanted.Description, "description", "", "what it is for, in words")
	flags.StringVar(&wanted.Format, "format", "", "opaque, or jwt where the audience allows it")
	choices(command, "format", "opaque", "jwt")
	flags.Var((*span)(&life), "expires", "its life, in seconds or like 720h; the audience's default where it is not named")
	flags.BoolVar(&endless, "endless", false, "it has no end, where the audience allows that of a resource's")
	return command
}

// showMade prints a token's value alone, so that a script can take it; what else there is to say goes beside it.
func showMade(cmd *cobra.Command, made *api.APIToken) error {
	ends := "without an end"
	if made.ExpiresAt != nil {
		ends = "good until " + stamp(*made.ExpiresAt)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s is %s. Its value is shown this once.\n", cell(made.ID), ends)
	return say(cmd, made, "%s", cell(made.Token))
}

func rotateTokenCommand() *cobra.Command {
	var of tokensOf
	var overlap time.Duration
	command := &cobra.Command{
		Use: "rotate <id>", Short: "Give an API token another value, and print it", Args: cobra.ExactArgs(1), ValidArgsFunction: of.complete(),
		Long: "Gives a token another value. The former one is accepted for a day more, or for as long as --overlap says: 0 ends it at once.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, whose, err := of.open(cmd)
			if err != nil {
				return err
			}
			var named *time.Duration
			if cmd.Flags().Changed("overlap") {
				named = &overlap
			}
			made, err := client.RotateToken(cmd.Context(), whose, args[0], named)
			if err != nil {
				return err
			}
			return showMade(cmd, &made)
		},
	}
	of.flags(command)
	command.Flags().Var((*span)(&overlap), "overlap", "how long the former value is accepted, in seconds or like 24h")
	return command
}

func revokeTokenCommand() *cobra.Command {
	var of tokensOf
	command := &cobra.Command{
		Use: "revoke <id>", Short: "Revoke an API token", Args: cobra.ExactArgs(1), ValidArgsFunction: of.complete(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, whose, err := of.open(cmd)
			if err != nil {
				return err
			}
			ended, err := client.RevokeToken(cmd.Context(), whose, args[0])
			if err != nil {
				return err
			}
			return say(cmd, &ended, "%s (%s) is revoked.", cell(ended.ID), cell(ended.Name))
		},
	}
	of.flags(command)
	return command
}
