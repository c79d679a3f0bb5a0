// Withpostgres runs a command with a throwaway PostgreSQL beside it, whose URL the command finds in
// WTS_TEST_POSTGRES. Where that is set already, the command just runs.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/workspace-token-service/wts/test/pgtest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			os.Exit(failed.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "withpostgres:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want a command")
	}
	command := exec.Command(args[0], args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	if os.Getenv(pgtest.EnvServer) == "" {
		cluster, err := pgtest.Start()
		if err != nil {
			return err
		}
		defer func() { _ = cluster.Remove() }()
		command.Env = append(os.Environ(), pgtest.EnvServer+"="+cluster.URL)
	}
	return command.Run()
}
