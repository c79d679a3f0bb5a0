package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/pkg/server"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// The demo's hosts. Cookies do not tell ports apart, so that each provider is a host of its own; the
// worker calls from an address of its own, or the browser would be taken for it.
const (
	demoHost     = "localhost"
	demoLoopback = "127.0.0.1"
	demoSecond   = "127.0.0.3"
	demoWorker   = "127.0.0.2"
	demoAudience = "sample-service"
	demoExpires  = 600 // seconds
)

var errNotDemo = errors.New("a step of the demo failed")

func demoCommand() *cobra.Command {
	var options demoOptions
	command := &cobra.Command{
		Use: "demo", Short: "Run the whole service with providers, a worker and a resource service, on this machine",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), cmd.OutOrStdout(), options) },
	}
	flags := command.Flags()
	flags.BoolVar(&options.once, "once", false, "run the story by itself, print each step, and fail if one fails")
	flags.StringVar(&options.dir, "dir", "", "where to keep the database and the keys (default: a folder of its own in the temporary one)")
	flags.IntVar(&options.port, "port", 8080, "the first of four ports; 0 picks free ones")
	flags.BoolVar(&options.verbose, "verbose", false, "show the service's log")
	return command
}

type demoOptions struct {
	once, verbose bool
	dir           string
	port          int
}

func runDemo(ctx context.Context, out io.Writer, options demoOptions) error {
	d, err := startDemo(ctx, out, options)
	if err != nil {
		return err
	}
	defer d.close()
	if options.once {
		return d.tell(ctx)
	}
	d.explain()
	return d.work(ctx)
}

// demo is everything that runs.
type demo struct {
	out           io.Writer
	url           string // of the service
	resource      string // of the resource service
	first, second *providertest.Server
	worker        *http.Client
	closers       []func() error
	stopped       chan error
}

func (d *demo) close() {
	for at := len(d.closers) - 1; at >= 0; at-- {
		_ = d.closers[at]() // it ends with the process in any case
	}
}

func startDemo(ctx context.Context, out io.Writer, options demoOptions) (_ *demo, err error) {
	d := &demo{out: out, stopped: make(chan error, 1)}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if options.dir == "" {
		if options.dir, err = os.MkdirTemp("", "wts-demo-"); err != nil {
			return nil, fmt.Errorf("a folder for the demo: %w", err)
		}
		d.closers = append(d.closers, func() error { return os.RemoveAll(options.dir) })
	}
	ports, err := demoPorts(options.port)
	if err != nil {
		return nil, err
	}
	d.url = "http://" + net.JoinHostPort(demoHost, strconv.Itoa(ports[0]))
	if err := d.startProviders(ports); err != nil {
		return nil, err
	}
	if err := d.startService(ctx, options, ports[0]); err != nil {
		return nil, err
	}
	if err := d.startResource(ctx, ports[3]); err != nil {
		return nil, err
	}
	d.worker = clientAt(demoWorker)
	return d, nil
}

// demoPorts are four ports in a row, or four free ones.
func demoPorts(first int) (ports [4]int, err error) {
	for at := range ports {
		if first != 0 {
			ports[at] = first + at
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(demoLoopback, "0"))
		if err != nil {
			return ports, fmt.Errorf("a free port: %w", err)
		}
		defer listener.Close()
		ports[at] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

const (
	demoClient   = "wts-demo"
	demoSecret   = "not-a-secret-in-a-demo"
	demoPassword = "demo"
)

func (d *demo) startProviders(ports [4]int) (err error) {
	people := []providertest.User{
		{Name: "alice", Email: "alice@example.org", Password: demoPassword},
		{Name: "bob", Email: "bob@example.org", Password: demoPassword},
	}
	start := func(host string, port int, title, callback string) (*providertest.Server, error) {
		started, err := providertest.Start(providertest.Options{
			Address: net.JoinHostPort(host, strconv.Itoa(port)), Title: title, Users: people, AccessLife: time.Minute,
		})
		if err != nil {
			return nil, fmt.Errorf("%w (choose other ports with --port)", err)
		}
		started.Register(providertest.Client{ID: demoClient, Secret: demoSecret, RedirectURI: d.url + callback})
		d.closers = append(d.closers, started.Close)
		return started, nil
	}
	if d.first, err = start(demoLoopback, ports[1], "Example University", "/oauth2/authorize"); err != nil {
		return err
	}
	d.second, err = start(demoSecond, ports[2], "Example Data Commons", "/oauth2/authorize/commons")
	return err
}

func (d *demo) startService(ctx context.Context, options demoOptions, port int) error {
	keys, err := demoKeys(filepath.Join(options.dir, "wts-keyring"))
	if err != nil {
		return err
	}
	upstream := func(name, address string) provider.Config {
		return provider.Config{Name: name, Issuer: address, ClientID: demoClient, ClientSecret: demoSecret, UsernameClaim: "preferred_username"}
	}
	settings := config.Config{
		Server: server.Config{
			URL: d.url, Listen: []string{net.JoinHostPort(demoLoopback, strconv.Itoa(port))}, MetricsListen: "off", DefaultAudience: demoAudience,
		},
		Broker:   broker.Config{DefaultProvider: "university"},
		Database: store.Config{URL: secret.Text("sqlite:" + filepath.Join(options.dir, "wts.db"))},
		Providers: map[string]provider.Config{
			"university": upstream("Example University", d.first.Issuer),
			"commons":    upstream("Example Data Commons", d.second.Issuer),
		},
		Issuer:         issuer.Config{URL: d.url, Audiences: map[string]issuer.Audience{demoAudience: {}}},
		Keys:           keys,
		RideThroughMax: time.Minute,
	}
	settings.Authn.Workers = map[string]string{demoWorker: "alice"}
	log, flush := slog.New(slog.DiscardHandler), func() {}
	if options.verbose {
		log, flush = telemetry.NewLog(telemetry.LogConfig{Format: "text"}, d.out)
	}
	wired, err := newService(ctx, settings, log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ready := make(chan struct{})
	go func() { d.stopped <- wired.run(ctx, func([]net.Addr) { close(ready) }) }()
	d.closers = append(d.closers, func() error { stop(); defer flush(); return <-d.stopped })
	select {
	case <-ready:
	case err := <-d.stopped:
		d.stopped <- nil
		return fmt.Errorf("%w (choose other ports with --port)", err)
	}
	for {
		if _, _, _, err := wired.issuer.KeySet(); err == nil {
			return nil
		}
		select {
		case err := <-d.stopped:
			d.stopped <- nil
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// demoKeys reads the key file, made where there is none: a database that was kept needs its keys.
func demoKeys(name string) (*keyring.Keyring, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, fmt.Errorf("the demo's folder: %w", err)
		}
		text = []byte(keyring.Generate(time.Now()))
		err = writeNew(name, string(text), 0o600)
	}
	if err != nil {
		return nil, err
	}
	return keyring.Parse(string(text))
}

// startResource runs a resource service as anyone would write one: it imports pkg/verifier and
// knows nothing else of the token service than its address.
func (d *demo) startResource(ctx context.Context, port int) error {
	tokens, err := verifier.New(ctx, d.url, demoAudience)
	if err != nil {
		return err
	}
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verifier.FromContext(r.Context())
		fmt.Fprintf(w, "hello %s, your token ends at %s\n", claims.Username, claims.ExpiresAt.UTC().Format(time.TimeOnly))
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(demoLoopback, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("the resource service: %w (choose other ports with --port)", err)
	}
	d.resource = "http://" + listener.Addr().String()
	resource := &http.Server{Handler: tokens.Middleware(greet), ReadHeaderTimeout: readHeaderTimeout}
	go func() { _ = resource.Serve(listener) }()
	d.closers = append(d.closers, resource.Close)
	return nil
}

// clientAt calls from an address of this machine.
func clientAt(address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 5 * time.Second}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("the worker's call: %w", err)
		}
		return dialer.DialContext(ctx, network, net.JoinHostPort(demoLoopback, port))
	}}}
}
