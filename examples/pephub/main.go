// Command pephub is a small hub of sample tables (PEPs) in namespaces, for clients of PEPhub: PEPHubClient pulls, pushes
// and searches here, with tokens that wts signs with the profile pephub. It is an example to read and to copy from: it
// keeps its projects in memory, and in a file where one is named.
//
// It owns the projects. Who calls is what pkg/verifier says, and what they may do is pkg/verifier/namespace's table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := run(ctx, log, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Error("the hub ends", slog.String("error", err.Error()))
		os.Exit(1)
	}
}

// options are the flags. Each may be given in the environment, as PEPHUB_FORWARD_AUTH for --forward-auth.
type options struct{ listen, wts, audience, projects, forward string }

// parse reads the environment, and then the flags, which count more.
func parse(args []string, getenv func(string) string) (options, error) {
	var chosen options
	flags := flag.NewFlagSet("pephub", flag.ContinueOnError)
	flags.StringVar(&chosen.listen, "listen", "127.0.0.1:8091", "where to listen")
	flags.StringVar(&chosen.wts, "wts", "http://localhost:8080", "the URL of wts, as its tokens say it")
	flags.StringVar(&chosen.audience, "audience", "pephub", "the hub's name at wts, in audiences")
	flags.StringVar(&chosen.projects, "projects", "", "keep projects in this JSON file; without it they are in memory")
	flags.StringVar(&chosen.forward, "forward-auth", "", "hand /auth/ on to wts at this address, so that one host serves both")
	var failures []error
	flags.VisitAll(func(known *flag.Flag) {
		name := "PEPHUB_" + strings.ToUpper(strings.ReplaceAll(known.Name, "-", "_"))
		if value := getenv(name); value != "" {
			failures = append(failures, flags.Set(known.Name, value))
		}
	})
	failures = append(failures, flags.Parse(args))
	if flags.NArg() > 0 {
		failures = append(failures, fmt.Errorf("%q is not expected; pephub --help lists the flags", flags.Arg(0)))
	}
	return chosen, errors.Join(failures...)
}

// run serves until the context ends.
func run(ctx context.Context, log *slog.Logger, args []string) error {
	chosen, err := parse(args, os.Getenv)
	if err != nil {
		return err
	}
	handler, err := newHandler(ctx, log, chosen)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", chosen.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	log.Info("the hub listens", slog.String("at", "http://"+listener.Addr().String()), slog.String("wts", chosen.wts))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 2 * time.Minute}
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

// newHandler is everything behind the listener.
func newHandler(ctx context.Context, log *slog.Logger, chosen options) (http.Handler, error) {
	shelf, err := openShelf(chosen.projects)
	if err != nil {
		return nil, err
	}
	doorman, err := newDoorman(ctx, chosen.wts, chosen.audience)
	if err != nil {
		return nil, err
	}
	login := strings.TrimRight(chosen.wts, "/")
	mux := http.NewServeMux()
	if chosen.forward != "" {
		target, err := url.Parse(chosen.forward)
		if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
			return nil, errors.New("--forward-auth: want an address such as http://127.0.0.1:8080")
		}
		mux.Handle("/auth/", forward(target, log))
		login = ""
	}
	hub := &hub{shelf: shelf, doorman: doorman, log: log, now: time.Now}
	hub.routes(mux)
	page := &page{shelf: shelf, login: login}
	page.routes(mux)
	return mux, nil
}

// forward hands requests on to wts, and tells it whose they are: wts believes that of the proxies that it is configured
// to trust, and of no others.
func forward(target *url.URL, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			log.Warn("wts does not answer", slog.String("error", err.Error()))
			w.Header().Set("Retry-After", "5")
			fail(w, http.StatusServiceUnavailable, "wts does not answer; try again in a moment")
		},
	}
}
