package main

import (
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/store"
)

// A shell completes names as it completes files: what cannot be read, because the database is away or the configuration
// is not good, completes nothing and says nothing.

type completion = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// mostCompleted bounds the names that a shell is offered.
const mostCompleted = 100

// completing offers the words that begin as what was typed.
func completing(find func(cmd *cobra.Command, args []string, begun string) []string) completion {
	return func(cmd *cobra.Command, args []string, begun string) (found []string, _ cobra.ShellCompDirective) {
		for _, word := range find(cmd, args, begun) {
			name, _, _ := strings.Cut(word, "\t")
			if strings.HasPrefix(name, begun) && !slices.Contains(args, name) && cell(name) == name {
				found = append(found, word)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// inDatabase finds names in the database.
func inDatabase(file *string, find func(cmd *cobra.Command, db *store.Store, args []string, begun string) []string) completion {
	return completing(func(cmd *cobra.Command, args []string, begun string) (found []string) {
		quiet := &cobra.Command{}
		quiet.SetContext(cmd.Context())
		quiet.SetOut(io.Discard)
		quiet.SetErr(io.Discard)
		_ = withStore(file, func(quiet *cobra.Command, args []string, _ config.Config, db *store.Store) error {
			found = find(quiet, db, args, begun)
			return nil
		})(quiet, args)
		return found
	})
}

// completeUser completes the name of a user, as the first word.
func completeUser(file *string) completion {
	return inDatabase(file, func(cmd *cobra.Command, db *store.Store, args []string, begun string) (names []string) {
		if len(args) > 0 {
			return nil
		}
		found, _ := db.Users.Search(cmd.Context(), begun, mostCompleted)
		for i := range found {
			names = append(names, found[i].Username)
		}
		return slices.Compact(names)
	})
}

// completeConnection completes the name of a user, and then one of the providers that they have connected.
func completeConnection(file *string) completion {
	users := completeUser(file)
	providers := inDatabase(file, func(cmd *cobra.Command, db *store.Store, args []string, _ string) (ids []string) {
		if len(args) != 1 {
			return nil
		}
		found, _ := db.Connections.List(cmd.Context(), store.ConnectionFilter{Username: args[0]})
		for i := range found {
			ids = append(ids, found[i].Provider)
		}
		return ids
	})
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return users(cmd, args, begun)
		}
		return providers(cmd, args, begun)
	}
}

// completeProvider completes the id of a provider that is configured.
func completeProvider(file *string) completion {
	return inConfiguration(file, func(loaded config.Config) []string { return slices.Collect(maps.Keys(loaded.Providers)) })
}

// completeAudience completes an audience that has a key of its own.
func completeAudience(file *string) completion {
	audiences := inConfiguration(file, func(loaded config.Config) []string { return slices.Collect(maps.Keys(loaded.Audiences)) })
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return audiences(cmd, args, begun)
	}
}

func inConfiguration(file *string, find func(config.Config) []string) completion {
	return completing(func(*cobra.Command, []string, string) []string {
		loaded, err := config.LoadForDatabase(*file, os.Environ())
		if err != nil {
			return nil
		}
		return slices.Sorted(slices.Values(find(loaded)))
	})
}
