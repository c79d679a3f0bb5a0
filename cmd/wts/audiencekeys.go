package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

// audienceKeyCommands make and replace the key of one audience's own (docs/pephub.md, docs/tokens.md).
func audienceKeyCommands(file *string) []*cobra.Command {
	// change runs one change of an audience's key, and audits it.
	change := func(action audit.Action, do func(*issuer.Issuer, context.Context, string) (issuer.AudienceKey, error), told func(*cobra.Command, issuer.AudienceKey) error) func(*cobra.Command, []string) error {
		return withStore(file, func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error {
			log, flush := telemetry.NewLog(loaded.Log, cmd.ErrOrStderr())
			defer flush()
			trail := audit.NewTrail(db.Audit, operator(), time.Now)
			key, err := do(issuer.New(loaded.Issuer, db.SigningKeys, time.Now), cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("audiences.%s: %w", args[0], err)
			}
			event := audit.Event{Action: action, Proof: "operator", Actor: operator(), Audience: args[0], Token: key.ID}
			audit.Write(cmd.Context(), log, event)
			trail.Add(event, "", "")
			return errors.Join(told(cmd, key), trail.Flush(cmd.Context()))
		})
	}
	return []*cobra.Command{
		{
			Use: "make <audience>", ValidArgsFunction: completeAudience(file), Short: "Make the next key of an audience's own, and show it", Args: cobra.ExactArgs(1),
			Long: "Makes the key with which tokens for one audience are signed whose service reads no key set: a secret that it shares with wts (HS256), shown here and never again, or a public key for its configuration. The first one signs at once; a next one signs from `wts keys activate` on, when the service knows it.",
			RunE: change(audit.MakeAudienceKey, (*issuer.Issuer).MakeAudienceKey, func(cmd *cobra.Command, key issuer.AudienceKey) error {
				made := lineOfKey(&key)
				if made.Secret = string(key.Secret); made.Secret == "" {
					made.PEM = key.PEM()
				}
				if key.State() == issuer.Next {
					fmt.Fprintf(cmd.ErrOrStderr(), "It does not sign yet. Give it to the service, then run: wts keys activate %s\n", key.Audience)
				}
				return show(cmd, made, func(out io.Writer) { fmt.Fprintln(out, strings.TrimSuffix(made.Secret+made.PEM, "\n")) })
			}),
		},
		{
			Use: "activate <audience>", ValidArgsFunction: completeAudience(file), Short: "Let the next key of an audience sign", Args: cobra.ExactArgs(1),
			Long: "Lets the key sign that `wts keys make` made, once the audience's service knows it. The one before it signs no more.",
			RunE: change(audit.ActivateAudienceKey, func(keys *issuer.Issuer, ctx context.Context, audience string) (issuer.AudienceKey, error) {
				return keys.ActivateAudienceKey(ctx, audience, "")
			}, func(cmd *cobra.Command, key issuer.AudienceKey) error {
				return say(cmd, lineOfKey(&key), "The key %s signs the tokens for %s from now on, on every replica within seconds.", key.ID, key.Audience)
			}),
		},
		{
			Use: "drop <audience>", ValidArgsFunction: completeAudience(file), Short: "Drop the next key of an audience, which has not signed", Args: cobra.ExactArgs(1),
			Long: "Drops the key that `wts keys make` made and that was not activated.",
			RunE: change(audit.DropAudienceKey, (*issuer.Issuer).DropAudienceKey, func(cmd *cobra.Command, key issuer.AudienceKey) error {
				return say(cmd, lineOfKey(&key), "The key %s is gone.", key.ID)
			}),
		},
	}
}
