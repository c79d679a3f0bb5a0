package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

// processName names a process for the audit: the host, which is the pod's name in Kubernetes, and its number there.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + " " + strconv.Itoa(os.Getpid())
}

// audited writes what an operator did, on the log and in the database.
func audited(cmd *cobra.Command, loaded config.Config, db *store.Store, event audit.Event) error {
	log, flush := telemetry.NewLog(loaded.Log, cmd.ErrOrStderr())
	defer flush()
	event.Proof, event.Actor = "operator", operator()
	audit.Write(cmd.Context(), log, event)
	if loaded.Audit.LogOnly {
		return nil
	}
	trail := audit.NewTrail(db.Audit, operator(), time.Now)
	trail.Add(event, "", "")
	return trail.Flush(cmd.Context())
}

func auditCommand(file *string) *cobra.Command {
	command := &cobra.Command{Use: "audit", Short: "See who got which token, and verify that nothing was altered"}
	command.AddCommand(queryCommand(file), verifyCommand(file))
	return command
}

// errNoTime is what a time has to look like.
var errNoTime = errors.New("want a time like 2026-11-28T09:00:00Z, or how long ago it was, like 24h")

// readTime reads a time, or how long ago it was; the zero time where there is none.
func readTime(text string) (at time.Time, err error) {
	if text == "" {
		return at, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	if at, err = time.Parse(time.RFC3339, text); err != nil {
		return at, errNoTime
	}
	return at, nil
}

func queryCommand(file *string) *cobra.Command {
	var filter audit.Filter
	var since, until, action string
	command := &cobra.Command{
		Use: "query", Short: "Show what was done, the newest first", Args: cobra.NoArgs,
		RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
			var wrong, bad error
			filter.Since, wrong = readTime(since)
			filter.Until, bad = readTime(until)
			if err := errors.Join(wrong, bad); err != nil {
				return usagef("--since, --until: %w", err)
			}
			filter.Action = audit.Action(action)
			found, err := db.Audit.Find(cmd.Context(), filter)
			if err != nil {
				return err
			}
			lines := []map[string]any{}
			for i := range found {
				lines = append(lines, lineOfEntry(&found[i]))
			}
			return show(cmd, lines, func(out io.Writer) { entriesAsTable(out, found) })
		}),
	}
	flags := command.Flags()
	flags.StringVar(&filter.Username, "user", "", "what was done by or for a user, by what they were called then")
	flags.StringVar(&action, "action", "", "one kind, like login, mint or \"revoke token\"")
	flags.StringVar(&filter.Token, "token", "", "about one token, by its id")
	flags.StringVar(&filter.Actor, "by", "", "by one actor, as it stands in BY")
	flags.BoolVar(&filter.Refused, "refused", false, "what was refused alone")
	flags.StringVar(&since, "since", "", "from a time on, or from so long ago")
	flags.StringVar(&until, "until", "", "before a time, or before so long ago")
	flags.IntVar(&filter.Limit, "limit", 100, "how many at most")
	return command
}

// entriesAsTable prints entries for people.
func entriesAsTable(out io.Writer, found []audit.Entry) {
	row(out, "AT", "TIMES", "ACTION", "OUTCOME", "USER", "BY", "FROM", "ABOUT", "TOKEN", "REASON")
	for i := range found {
		one := &found[i]
		about := strings.Join(strings.Fields(one.Provider+" "+one.Audience+" "+one.Resource+" "+one.Client), " ")
		row(out, one.At, one.Times, string(one.Action), outcomeOf(one), one.Username, one.Actor, one.Peer, about, one.Token, one.Reason)
	}
}

// outcomeOf is how an entry ended, as the log says it.
func outcomeOf(one *audit.Entry) string {
	if one.Reason != "" {
		return "refused"
	}
	return "done"
}

// lineOfEntry is an entry with the names that the log has.
func lineOfEntry(one *audit.Entry) map[string]any {
	line := map[string]any{
		"time": one.At.UTC(), "times": one.Times, "chain": one.Chain, "seq": one.Seq, "request": one.Request, "peer": one.Peer,
	}
	for _, attr := range one.Attrs(nil) {
		line[attr.Key] = attr.Value.Any()
	}
	return line
}

func verifyCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Say whether any entry was altered, removed or moved", Args: cobra.NoArgs,
		Long: "Goes through every entry of the audit in the database. Each has the digest of the one before it in its own, and the end of each process's chain is sealed with the keyring: who alters the database without that key cannot hide it. The exit code is 1 where something was found.",
		RunE: withStore(file, func(cmd *cobra.Command, _ []string, _ config.Config, db *store.Store) error {
			how := progress(cmd.ErrOrStderr())
			found, err := audit.Verify(cmd.Context(), db.Audit, func(entries int64) { how("%d entries were read so far", entries) })
			if err != nil {
				return err
			}
			faults := append([]string{}, found.Faults...)
			err = show(cmd, map[string]any{"entries": found.Entries, "chains": found.Chains, "faults": faults}, func(out io.Writer) {
				for _, fault := range faults {
					fmt.Fprintln(out, fault)
				}
				if len(faults) == 0 {
					fmt.Fprintf(out, "%d entries in %d chains are as they were written.\n", found.Entries, found.Chains)
				}
			})
			if err == nil && len(faults) > 0 {
				return fmt.Errorf("%d of %d chains are not as they were written", len(faults), found.Chains)
			}
			return err
		}),
	}
}
