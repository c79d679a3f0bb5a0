package main

import (
	"cmp"
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
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
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
			return say(cmd, map[string]string{"configuration": file, "keyring": keys},
				"Wrote %s and %s.\nKeep a copy of the key file away from the database. Edit the configuration, then: wts check-config -c %s && wts serve -c %s", file, keys, file, file)
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
			found := checked{Sources: append([]string{}, loaded.Sources...), Warnings: append([]string{}, loaded.Warnings...), Faults: append([]string{}, config.Faults(err)...), RedirectURIs: map[string]string{}}
			for _, id := range slices.Sorted(maps.Keys(loaded.Providers)) {
				if loaded.Providers[id].Unsigned() {
					found.Warnings = append(found.Warnings, fmt.Sprintf("providers.%s has no issuer: where it publishes no discovery document at its base_url, its id_tokens are taken without their signature", id))
				}
			}
			if len(found.Faults) == 0 {
				for id, one := range loaded.Providers {
					found.RedirectURIs[id] = cmp.Or(one.RedirectURI, loaded.CallbackURL(id))
				}
				if online {
					if found.Tried, err = tryOnline(cmd.Context(), loaded); err != nil {
						return err
					}
				}
			}
			if err := show(cmd, found, found.table); err != nil {
				return err
			}
			if count := found.count(); count > 0 {
				return config.ErrFaults(count)
			}
			return nil
		},
	}
	command.Flags().BoolVar(&online, "online", false, "also try the providers, the database and the clocks")
	return command
}

// checked is what is said of a configuration.
type checked struct {
	Sources  []string `json:"sources"` // of its settings
	Warnings []string `json:"warnings"`
	Faults   []string `json:"faults"`
	// RedirectURIs are those to register, by the provider.
	RedirectURIs map[string]string `json:"redirect_uris"`
	Tried        []tried           `json:"tried,omitempty"`
}

// count is how much is wrong.
func (c *checked) count() int {
	count := len(c.Faults)
	for _, one := range c.Tried {
		if one.Error != "" {
			count++
		}
	}
	return count
}

func (c *checked) table(out io.Writer) {
	for _, source := range c.Sources {
		fmt.Fprintln(out, source)
	}
	for _, warning := range c.Warnings {
		fmt.Fprintln(out, "WARNING:", warning)
	}
	for _, fault := range c.Faults {
		fmt.Fprintln(out, fault)
	}
	if len(c.Faults) > 0 {
		return
	}
	fmt.Fprintln(out, "The configuration is good. Register these redirect URIs:")
	for _, id := range slices.Sorted(maps.Keys(c.RedirectURIs)) {
		fmt.Fprintf(out, "  %s: %s\n", id, c.RedirectURIs[id])
	}
	for _, one := range c.Tried {
		if one.Error != "" {
			fmt.Fprintf(out, "%s: %s: %s\n", one.Where, one.What, one.Error)
			continue
		}
		fmt.Fprintf(out, "%s: %s: good: %s\n", one.Where, one.What, one.Said)
	}
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
			var done migrated
			var err error
			if done.Applied, err = db.Migrate(cmd.Context()); err != nil {
				return err
			}
			if db.Gen3 != nil {
				imported, err := db.Gen3.Import(cmd.Context())
				if err != nil {
					return err
				}
				done.Imported, done.Unreadable, done.Ignored = imported.Imported, imported.Unreadable, imported.Ignored
			}
			return show(cmd, done, done.table)
		}),
	}
}

// migrated is what was done to a database; but for the migrations it is about the connections of the Python service.
type migrated struct {
	Applied    int `json:"applied"`
	Imported   int `json:"imported"`
	Unreadable int `json:"unreadable"`
	Ignored    int `json:"ignored"`
}

func (m migrated) table(out io.Writer) {
	fmt.Fprintf(out, "The database is up to date; %d migrations were applied.\n", m.Applied)
	if m.Imported+m.Unreadable+m.Ignored > 0 {
		fmt.Fprintf(out, "Of the Python service's table: %d connections were taken over, %d cannot be opened with this encryption_key, %d are of providers that are not configured.\n",
			m.Imported, m.Unreadable, m.Ignored)
	}
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
			said := map[string]any{"version": version, "commit": commit, "cryptographic_module": fips140.Version(), "fips140": fips140.Enabled()}
			return say(cmd, said, "wts %s %s\ncryptographic module %s, FIPS 140-3 mode %s", version, commit, fips140.Version(), onOff(fips140.Enabled()))
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
