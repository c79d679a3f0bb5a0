// Command datasets is the back end of a small data portal, in the place of ProteinPaint: pages of other sites embed its
// datasets, and show for each request a token that wts minted with the profile proteinpaint, or signed for an audience.
// It is an example to read and to copy from: its data is made up.
//
// It owns the data. What opens it is pkg/verifier/dataset's, by rules in the shape of ProteinPaint's dsCredentials.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := run(ctx, log, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Error("the portal ends", slog.String("error", err.Error()))
		os.Exit(1)
	}
}

// run serves until the context ends.
func run(ctx context.Context, log *slog.Logger, args []string) error {
	flags := flag.NewFlagSet("datasets", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8092", "where to listen")
	file := flags.String("credentials", "credentials.json", "the rules, in the shape of dsCredentials")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is not expected; the flags are --listen and --credentials", flags.Arg(0))
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("--credentials: %w", err)
	}
	handler, err := newHandler(ctx, text, log)
	if err != nil {
		return fmt.Errorf("--credentials %s: %w", *file, err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	log.Info("the portal listens", slog.String("at", "http://"+listener.Addr().String()))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(patience)
}
