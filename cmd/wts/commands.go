package main

import (
	"cmp"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

func serveCommand(file *string) *cobra.Command {
	var level string
	command := &cobra.Command{
		Use: "serve", Short: "Serve, until told to stop", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Load(*file, os.Environ())
			if err != nil {
				return err
			}
			loaded.Log.Level = cmp.Or(level, loaded.Log.Level)
			if err := loaded.Log.Validate(); err != nil {
				return usagef("--log-level: %w", err)
			}
			limitMemory(memlimit.FromCgroup)
			defer slacken()()
			log, flush := telemetry.NewLog(loaded.Log, cmd.ErrOrStderr())
			defer flush()
			wired, err := newService(cmd.Context(), loaded, log)
			if err != nil {
				return err
			}
			return wired.run(cmd.Context(), nil)
		},
	}
	command.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error, in the place of log.level")
	return command
}

// slacken lets the collector run at half as much slack as usual over a ballast that is never touched, and
// so takes no memory: rarely where little is held, and without a hundred megabytes of garbage beside a hundred
// of tokens. GOGC has the last word. It returns what ends it.
func slacken() func() {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	debug.SetGCPercent(50)
	ballast := make([]byte, 16<<20)
	return func() { runtime.KeepAlive(ballast) }
}

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init [folder]", Short: "Write a commented configuration and a key file", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("the folder: %w", err)
			}
			keys := filepath.Join(dir, "wts-keyring")
			file := filepath.Join(dir, "wts.yaml")
			for _, name := range []string{keys, file} {
				if _, err := os.Lstat(name); err == nil {
					return fmt.Errorf("%s is there already, and is not overwritten", name)
				}
			}
			if err := writeNew(keys, keyring.Generate(time.Now()), 0o600); err != nil {
				return err
			}
			if err := writeNew(file, config.Example(), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Wrote %s and %s.\nKeep a copy of the key file away from the database. Edit the configuration, then: wts check-config -c %s && wts serve -c %s\n", file, keys, file, file)
			return nil
		},
	}
}

func writeNew(name, text string, mode os.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err = io.WriteString(file, text)
	return errors.Join(err, file.Close())
}

func checkConfigCommand(file *string) *cobra.Command {
	online := false
	command := &cobra.Command{
		Use: "check-config", Short: "Say everything that is wrong with the configuration", Args: cobra.NoArgs,
		Long: "Reads the configuration and says everything that is wrong with it. With --online it also tries what can be tried without a person: each provider's discovery document, keys and client credentials, the database, and the clocks.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Load(*file, os.Environ())
			faults := config.Faults(err)
			for _, source := range loaded.Sources {
				fmt.Fprintln(cmd.OutOrStdout(), source)
			}
			for id, one := range loaded.Providers {
				if one.Unsigned() {
					fmt.Fprintf(cmd.OutOrStdout(), "WARNING: providers.%s has no issuer: where it publishes no discovery document at its base_url, its id_tokens are taken without their signature\n", id)
				}
			}
			for _, warning := range loaded.Warnings {
				fmt.Fprintln(cmd.OutOrStdout(), "WARNING:", warning)
			}
			for _, fault := range faults {
				fmt.Fprintln(cmd.OutOrStdout(), fault)
			}
			if len(faults) > 0 {
				return config.ErrFaults(len(faults))
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The configuration is good. Register these redirect URIs:")
			for _, id := range slices.Sorted(maps.Keys(loaded.Providers)) {
				fmt.Fprintf(cmd.OutOrStdout(), "  %s: %s\n", id, cmp.Or(loaded.Providers[id].RedirectURI, loaded.CallbackURL(id)))
			}
			if online {
				return checkOnline(cmd.Context(), cmd.OutOrStdout(), loaded)
			}
			return nil
		},
	}
	command.Flags().BoolVar(&online, "online", false, "also try the providers, the database and the clocks")
	return command
}

// withStore runs an operator's command on the database.
func withStore(file *string, run func(cmd *cobra.Command, args []string, loaded config.Config, db *store.Store) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		loaded, err := config.LoadForDatabase(*file, os.Environ())
		if err != nil {
			return err
		}
		log, flush := telemetry.NewLog(loaded.Log, cmd.ErrOrStderr())
		defer flush()
		db, err := store.Open(loaded.Database, loaded.Keys, log)
		if err != nil {
			return err
		}
		defer db.Close()
		return run(cmd, args, loaded, db)
	}
}

func migrateCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the database up to date", Args: cobra.NoArgs,
		RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
			applied, err := db.Migrate(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The database is up to date; %d migrations were applied.\n", applied)
			if db.Gen3 == nil {
				return nil
			}
			imported, err := db.Gen3.Import(cmd.Context())
			if err != nil {
				return err
			}
			if imported != (store.Gen3Import{}) {
				fmt.Fprintf(cmd.OutOrStdout(), "Of the Python service's table: %d connections were taken over, %d cannot be opened with this encryption_key, %d are of providers that are not configured.\n",
					imported.Imported, imported.Unreadable, imported.Ignored)
			}
			return nil
		}),
	}
}

func keysCommand(file *string) *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "The keys that sign tokens, and those that seal secrets"}
	keys.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List them", Args: cobra.NoArgs,
			RunE: withStore(file, func(cmd *cobra.Command, _ []string, loaded config.Config, db *store.Store) error {
				return listKeys(cmd.Context(), cmd.OutOrStdout(), loaded, db)
			}),
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
				fmt.Fprint(cmd.OutOrStdout(), text)
				return nil
			},
		},
		&cobra.Command{
			Use: "reencrypt", Short: "Seal every secret at rest again with the first key, in the form of seal_format", Args: cobra.NoArgs,
			Long: "Seals again every token and signing key in the database that is not sealed with the keyring's first key in the form that seal_format names, beside replicas that serve. Run it when every replica has the key and knows the form; run it again where it was interrupted. What this keyring does not open is kept, and the command fails.",
			RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
				done, err := db.Reencrypt(cmd.Context())
				fmt.Fprintf(cmd.OutOrStdout(), "%d secrets were sealed again, %d were already sealed so.\n", done.Sealed, done.Current)
				if err != nil {
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
				fmt.Fprintf(cmd.OutOrStdout(), "The next keys are published, and sign from %s on.\n", from.UTC().Format(time.RFC3339))
				return nil
			}),
		},
	)
	keys.AddCommand(audienceKeyCommands(file)...)
	return keys
}

func listKeys(ctx context.Context, out io.Writer, loaded config.Config, db *store.Store) error {
	all := issuer.New(loaded.Issuer, db.SigningKeys, time.Now)
	keys, now, err := all.Keys(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SIGNING KEY\tALGORITHM\tSTATE\tSIGNS FROM\tPUBLISHED UNTIL\tPRIVATE HALF")
	for _, key := range keys {
		until, private := "-", "opens"
		if !key.LeavesAt.IsZero() {
			until = key.LeavesAt.UTC().Format(time.RFC3339)
		}
		if key.Private == nil {
			private = "sealed by another keyring"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", key.ID, key.Algorithm, issuer.StateOf(key, keys, now), key.ActivatesAt.UTC().Format(time.RFC3339), until, private)
	}
	if err := listAudienceKeys(ctx, table, all); err != nil {
		return err
	}
	fmt.Fprintln(table, "\nSEALING KEY")
	for i, name := range loaded.Keys.Names() {
		use := "opens"
		if i == 0 {
			use = fmt.Sprintf("seals in form %d, and opens", loaded.Keys.Form())
		}
		fmt.Fprintf(table, "%s\t%s\n", name, use)
	}
	return table.Flush()
}

// memoryShare is how much of the container's memory the collector may let the process use before it works
// harder; the rest is for what is not the collector's, and for a moment's growth.
const memoryShare = 0.8

// limitMemory keeps the process below its container's limit, unless GOMEMLIMIT says something else.
func limitMemory(container memlimit.Provider) {
	_, _ = memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(memoryShare), memlimit.WithProvider(container)) // without a limit there is none to keep
}

// operator names who runs a command, for the audit: the user of this machine, and who became that user.
func operator() string {
	name, host := "unknown", "unknown"
	if current, err := user.Current(); err == nil {
		name = current.Username
	}
	if before := os.Getenv("SUDO_USER"); before != "" {
		name = before + " as " + name
	}
	if found, err := os.Hostname(); err == nil {
		host = found
	}
	return name + "@" + host
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version, commit := buildVersion()
			fmt.Fprintln(cmd.OutOrStdout(), "wts", version, commit)
			fmt.Fprintln(cmd.OutOrStdout(), "cryptographic module", fips140.Version()+", FIPS 140-3 mode", onOff(fips140.Enabled()))
			return nil
		},
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// linkedVersion and linkedCommit are set by the linker (make build VERSION=... COMMIT=...), for a build
// outside a git repository, of which the Go toolchain knows neither.
var linkedVersion, linkedCommit string

// buildVersion is what the linker was told, else what the Go toolchain stamped into the binary.
func buildVersion() (version, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			commit = setting.Value
		}
	}
	return cmp.Or(linkedVersion, info.Main.Version, "unknown"), cmp.Or(linkedCommit, commit)
}
