// Command plugins is a small site of plugins, as the QGIS project has one, whose uploads are by tokens of wts: a
// maintainer makes a token for a plugin on a page of wts, a CI job uploads with it, and every maintainer sees it and
// revokes it. It is an example to read and to copy from: it keeps its plugins in memory, or in a folder.
//
// It owns what an upload has to be and what becomes of it. Who may upload is what wts says: package verifier of
// pkg/verifier judges the tokens, and the site compares the resource that a token is for with the plugin at hand.
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
		log.Error("the site of plugins ends", slog.String("error", err.Error()))
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	listen, wts, audience, secretFile, dir string
	plugins                                owned
}

// owned are the plugins that exist, by package, each with who maintains it. A plugin may have no version yet: the first
// upload is by a token too.
type owned map[string][]string

// String implements flag.Value.
func (o owned) String() string { return "" }

// Set implements flag.Value: a package, and usernames with commas between.
func (o owned) Set(text string) error {
	name, people, _ := strings.Cut(text, "=")
	if !isPackage(name) {
		return fmt.Errorf("%q is no package; want letters, digits, underscore and hyphen, as in my_plugin=alice,bob", name)
	}
	o[name] = strings.FieldsFunc(people, func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}

func parse(args []string) (options, error) {
	chosen := options{plugins: owned{}}
	flags := flag.NewFlagSet("plugins", flag.ContinueOnError)
	flags.StringVar(&chosen.listen, "listen", "127.0.0.1:8090", "where to listen")
	flags.StringVar(&chosen.wts, "wts", "http://localhost:8080", "the URL of wts, as its tokens say it")
	flags.StringVar(&chosen.audience, "audience", "plugins", "the site's name at wts, in audiences")
	flags.StringVar(&chosen.secretFile, "secret-file", "plugins-secret", "a file with the audience's secret, the secret_file of wts")
	flags.StringVar(&chosen.dir, "dir", "", "keep plugins in this folder; without it they are in memory")
	flags.Var(chosen.plugins, "plugin", "a plugin and the usernames of who maintains it, as my_plugin=alice,bob; repeatable")
	if err := flags.Parse(args); err != nil {
		return chosen, err
	}
	if flags.NArg() > 0 {
		return chosen, fmt.Errorf("%q is not expected; the flags are --listen, --wts, --audience, --secret-file, --dir and --plugin", flags.Arg(0))
	}
	return chosen, nil
}

// run serves until the context ends.
func run(ctx context.Context, log *slog.Logger, args []string) error {
	chosen, err := parse(args)
	if err != nil {
		return err
	}
	secret, err := os.ReadFile(chosen.secretFile)
	if err != nil {
		return fmt.Errorf("--secret-file: %w; write there the secret that audiences.%s.secret_file of wts has", err, chosen.audience)
	}
	client := &authority{url: strings.TrimRight(chosen.wts, "/"), audience: chosen.audience, secret: strings.TrimSpace(string(secret)), log: log}
	shelf, err := openShelf(chosen.dir)
	if err != nil {
		return err
	}
	for name := range chosen.plugins {
		shelf.add(name)
	}
	site, err := newSite(ctx, client, shelf)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", chosen.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	log.Info("the site of plugins listens", slog.String("at", "http://"+listener.Addr().String()), slog.String("wts", client.url))
	go client.registerAll(ctx, chosen.plugins)
	return serve(ctx, listener, site.routes())
}

// serve serves until the context ends, and lets the requests under way finish.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
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
