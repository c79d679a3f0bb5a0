package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

func keysCommand(file *string) *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "The keys that sign tokens, and those that seal secrets"}
	keys.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List them", Args: cobra.NoArgs,
			RunE: withStore(file, listKeys),
		},
		&cobra.Command{
			Use: "derive", Short: "Print the key file that follows from Gen3's encryption_key", Args: cobra.NoArgs,
			Long: "Prints the key file that is used where only Gen3's encryption_key is configured, so that it can become a keyring_file of its own, with newer keys above the first.",
			RunE: func(cmd *cobra.Command, _ []string) error {
				loaded, err := config.LoadForDatabase(*file, os.Environ())
				if err != nil {
					return err
				}
				key, err := keyring.NewFernet(string(loaded.Gen3.EncryptionKey))
				if err != nil {
					return err
				}
				text, err := key.KeyFile()
				if err != nil {
					return err
				}
				return show(cmd, map[string]string{"key_file": text}, func(out io.Writer) { fmt.Fprint(out, text) })
			},
		},
		&cobra.Command{
			Use: "reencrypt", Short: "Seal every secret at rest again with the first key, in the form of seal_format", Args: cobra.NoArgs,
			Long: "Seals again every token and signing key in the database that is not sealed with the keyring's first key in the form that seal_format names, beside replicas that serve. Run it when every replica has the key and knows the form; run it again where it was interrupted. What this keyring does not open is kept, and the command fails.",
			RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
				how := progress(cmd.ErrOrStderr())
				done, err := db.Reencrypt(cmd.Context(), func(done store.Reencrypted) {
					how("%d secrets were sealed again so far, %d were already sealed so", done.Sealed, done.Current)
				})
				printed := say(cmd, map[string]int{"sealed": done.Sealed, "current": done.Current, "kept": done.Kept},
					"%d secrets were sealed again, %d were already sealed so.", done.Sealed, done.Current)
				if err := errors.Join(err, printed); err != nil {
					return err
				}
				if done.Kept > 0 {
					return fmt.Errorf("%d secrets do not open with this keyring and were left as they are: add the key that they are sealed with to the key file, and run this again", done.Kept)
				}
				return nil
			}),
		},
		&cobra.Command{
			Use: "rotate", Short: "Name successors for the signing keys", Args: cobra.NoArgs,
			Long: "Names a successor for each signing key. It is published at once and signs as soon as every verifier can have seen it (issuer.jwks_max_age); the old key stays published until the last token it signed has expired. No token is refused meanwhile.",
			RunE: withStore(file, func(cmd *cobra.Command, _ []string, loaded config.Config, db *store.Store) error {
				log, flush := telemetry.NewLog(loaded.Log, cmd.ErrOrStderr())
				defer flush()
				trail := audit.NewTrail(db.Audit, operator(), time.Now)
				keys := issuer.New(loaded.Issuer, db.SigningKeys, time.Now)
				keys.OnAdded(keyAdded(log, trail, audit.Event{Proof: "operator", Actor: operator()}))
				from, err := keys.Rotate(cmd.Context())
				if err := errors.Join(err, trail.Flush(cmd.Context())); err != nil {
					return err
				}
				return say(cmd, map[string]time.Time{"signs_from": seconds(from)}, "The next keys are published, and sign from %s on.", stamp(from))
			}),
		},
	)
	keys.AddCommand(audienceKeyCommands(file)...)
	return keys
}

// keyList is what is known of keys, without a secret.
type keyList struct {
	Signing   []signingKey   `json:"signing_keys"`
	Audiences []audienceLine `json:"audience_keys"`
	Sealing   []sealingKey   `json:"sealing_keys"` // the first one seals
}

type signingKey struct {
	ID             string    `json:"id"`
	Algorithm      string    `json:"algorithm"`
	State          string    `json:"state"`
	SignsFrom      time.Time `json:"signs_from"`
	PublishedUntil time.Time `json:"published_until,omitzero"`
	Opens          bool      `json:"opens"` // this keyring opens the private half
}

// audienceLine is the key of an audience's own, as commands print it.
type audienceLine struct {
	ID        string    `json:"id"`
	Audience  string    `json:"audience"`
	Algorithm string    `json:"algorithm"`
	State     string    `json:"state"`
	CreatedAt time.Time `json:"created_at"`
	// Secret and PEM are there where the key was made just now, one of them.
	Secret string `json:"secret,omitempty"`
	PEM    string `json:"pem,omitempty"`
}

type sealingKey struct {
	Name  string `json:"name"`
	Seals int    `json:"seals_in_form,omitempty"` // the form in which it seals; 0 where it opens alone
}

func listKeys(cmd *cobra.Command, _ []string, loaded config.Config, db *store.Store) error {
	found, err := keysOf(cmd.Context(), loaded, db)
	if err != nil {
		return err
	}
	return show(cmd, found, found.table)
}

func keysOf(ctx context.Context, loaded config.Config, db *store.Store) (keyList, error) {
	found := keyList{Signing: []signingKey{}, Audiences: []audienceLine{}, Sealing: []sealingKey{}}
	all := issuer.New(loaded.Issuer, db.SigningKeys, time.Now)
	keys, now, err := all.Keys(ctx)
	if err != nil {
		return found, err
	}
	for _, key := range keys {
		line := signingKey{ID: key.ID, Algorithm: key.Algorithm, State: string(issuer.StateOf(key, keys, now)), SignsFrom: seconds(key.ActivatesAt), Opens: key.Private != nil}
		if !key.LeavesAt.IsZero() {
			line.PublishedUntil = seconds(key.LeavesAt)
		}
		found.Signing = append(found.Signing, line)
	}
	for _, audience := range all.Audiences() {
		own, failed := all.AudienceKeys(ctx, audience)
		err = errors.Join(err, failed)
		for i := range own {
			found.Audiences = append(found.Audiences, lineOfKey(&own[i]))
		}
	}
	for i, name := range loaded.Keys.Names() {
		line := sealingKey{Name: name}
		if i == 0 {
			line.Seals = loaded.Keys.Form()
		}
		found.Sealing = append(found.Sealing, line)
	}
	return found, err
}

// lineOfKey shows a key without its secret.
func lineOfKey(key *issuer.AudienceKey) audienceLine {
	return audienceLine{ID: key.ID, Audience: key.Audience, Algorithm: key.Algorithm, State: string(key.State()), CreatedAt: seconds(key.CreatedAt)}
}

func (l *keyList) table(out io.Writer) {
	row(out, "SIGNING KEY", "ALGORITHM", "STATE", "SIGNS FROM", "PUBLISHED UNTIL", "PRIVATE HALF")
	for _, key := range l.Signing {
		private := "sealed by another keyring"
		if key.Opens {
			private = "opens"
		}
		row(out, key.ID, key.Algorithm, key.State, key.SignsFrom, key.PublishedUntil, private)
	}
	fmt.Fprintln(out)
	row(out, "KEY OF AN AUDIENCE", "ALGORITHM", "STATE", "MADE", "AUDIENCE")
	for i := range l.Audiences {
		key := &l.Audiences[i]
		row(out, key.ID, key.Algorithm, key.State, key.CreatedAt, key.Audience)
	}
	fmt.Fprintln(out, "\nSEALING KEY")
	for _, key := range l.Sealing {
		use := "opens"
		if key.Seals != 0 {
			use = fmt.Sprintf("seals in form %d, and opens", key.Seals)
		}
		row(out, key.Name, use)
	}
}
