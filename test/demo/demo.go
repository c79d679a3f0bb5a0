// Command demo runs the whole of wts on one machine: the service, as a process of its own, two identity providers, a
// worker, a resource service and the services of examples. `make run` starts it, and `make demo` has it tell its story by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/test/instance"
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

var (
	errNotDemo = errors.New("a step of the demo failed")
	errEnded   = errors.New("the service ended")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:gocritic // the process ends: nobody listens for signals any more
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	var options options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.StringVar(&options.wts, "wts", "bin/wts", "the service's binary")
	flags.BoolVar(&options.once, "once", false, "run the story by itself, print each step, and fail if one fails")
	flags.StringVar(&options.dir, "dir", "", "where to keep the configuration, the database and the keys (default: a folder of its own in the temporary one)")
	flags.StringVar(&options.examples, "examples", "bin/examples", "the folder of the examples' binaries")
	flags.IntVar(&options.port, "port", 8080, "the first of eight ports; 0 picks free ones")
	flags.BoolVar(&options.verbose, "verbose", false, "show the service's log")
	if err := flags.Parse(args); err != nil {
		return err
	}
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

type options struct {
	once, verbose bool
	wts, dir      string
	examples      string
	port          int
}

// demo is everything that runs.
type demo struct {
	out           io.Writer
	url           string // of the service
	resource      string // of the resource service
	page          string // of the demo itself
	hub, datasets string // of the examples
	plugins       string
	archive       string // the file of a plugin
	proof         string // the file of an API token, by which a program proves itself
	notebook      string // the program
	first, second *providertest.Server
	worker        *http.Client
	closers       []func() error
	stopped       chan error
}

func (d *demo) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		_ = d.closers[i]() // it ends with the process in any case
	}
}

func startDemo(ctx context.Context, out io.Writer, options options) (_ *demo, err error) {
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
	if err := d.startService(ctx, options, ports); err != nil {
		return nil, err
	}
	if err := d.startResource(ctx, ports[3]); err != nil {
		return nil, err
	}
	if err := d.startExamples(ctx, options, ports); err != nil {
		return nil, err
	}
	d.worker = instance.WorkerAt(demoWorker)
	return d, nil
}

// demoCount is how many ports the demo has: of wts, two providers, a resource service, the page and three examples.
const demoCount = 8

// demoPorts are ports in a row, or free ones.
func demoPorts(first int) (ports [demoCount]int, err error) {
	for i := range ports {
		if first != 0 {
			ports[i] = first + i
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(demoLoopback, "0"))
		if err != nil {
			return ports, fmt.Errorf("a free port: %w", err)
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

const (
	demoClient   = "wts-demo"
	demoSecret   = "not-a-secret-in-a-demo"
	demoPassword = "demo"
)

func (d *demo) startProviders(ports [demoCount]int) (err error) {
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

// settings are the service's. Everything else is as it is by default.
var settings = template.Must(template.New("wts.yaml").Parse(`url: {{.URL}}
listen: ["{{.Listen}}"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: wts-keyring
seal_format: 2
workers_file: workers.yaml
ride_through_max: 1m
log: {format: text}
default_audience: {{.Audience}}
page: {title: Example Commons, support_url: "mailto:help@example.org"}
admins: [alice]
audiences:
  {{.Audience}}:
    scopes: [data:read, data:write]
    api_tokens: {personal: true, resource: true}
  wts: # for programs that are no worker, as examples/workspace on one machine
    scopes: [token]
    api_tokens: {personal: true}
  plugins: # for examples/plugins
    profile: resource
    algorithm: ES256
    scopes: [upload, read, approve]
    secret: {{.Secret}}
    access: [{everyone: true, scopes: [upload, read]}, {users: [alice]}]
    api_tokens: {resource: true, jwt: true, endless: true}
  hub: {profile: pephub, algorithm: ES256, api_tokens: {personal: true, jwt: true, max_lifetime: 720h}}
  portal:
    profile: proteinpaint
    signing_secret: {{.PortalSecret}}
    integration:
      dataset: ds0
      cohorts: [{id: ds0, label: Sample}]
      embedders: [localhost]
      origins: ["{{.Datasets}}"]
      instance_url: {{.Datasets}}
      roles: [{everyone: true, result: {role: user}}]
auth: {audience: hub, name: The hub, redirect_uris: ["{{.Hub}}/callback"], origins: ["{{.Hub}}"]}
default_provider: university
providers:
  university: {name: Example University, issuer: "{{.First}}", client_id: {{.Client}}, client_secret: {{.Secret}}, username_claim: preferred_username}
  commons: {name: Example Data Commons, issuer: "{{.Second}}", client_id: {{.Client}}, client_secret: {{.Secret}}, username_claim: preferred_username}
`))

// startService runs the service as an operator does: a configuration, a key file, and `wts serve`.
func (d *demo) startService(ctx context.Context, options options, ports [demoCount]int) error {
	public := func(port int) string { return "http://" + net.JoinHostPort(demoHost, strconv.Itoa(port)) }
	var text strings.Builder
	err := settings.Execute(&text, map[string]string{
		"URL": d.url, "Listen": net.JoinHostPort(demoLoopback, strconv.Itoa(ports[0])), "Audience": demoAudience,
		"Hub": public(ports[5]), "Datasets": public(ports[6]), "PortalSecret": demoPortalSecret,
		"First": d.first.Issuer, "Second": d.second.Issuer, "Client": demoClient, "Secret": demoSecret,
	})
	err = errors.Join(err, os.MkdirAll(options.dir, 0o700))
	config := filepath.Join(options.dir, "wts.yaml")
	for name, content := range map[string]string{"wts.yaml": text.String(), "workers.yaml": demoWorker + ": alice\n"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(options.dir, name), []byte(content), 0o600))
	}
	if err = errors.Join(err, writeKeys(filepath.Join(options.dir, "wts-keyring"))); err != nil {
		return fmt.Errorf("the demo's folder: %w", err)
	}
	service := exec.Command(options.wts, "serve", "-c", config)
	var log strings.Builder
	if service.Stderr = &log; options.verbose {
		service.Stderr = d.out
	}
	if err := service.Start(); err != nil {
		return fmt.Errorf("starting the service: %w", err)
	}
	go func() { d.stopped <- service.Wait() }()
	d.closers = append(d.closers, func() error { _ = service.Process.Signal(syscall.SIGTERM); return <-d.stopped })
	for {
		if status, _, err := call(ctx, http.DefaultClient, d.url+"/readyz", ""); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case err := <-d.stopped:
			d.stopped <- nil
			return fmt.Errorf("%w (choose other ports with --port)\n%s", errors.Join(errEnded, err), log.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// writeKeys writes a key file where there is none: a database that was kept needs its keys.
func writeKeys(name string) error {
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return os.WriteFile(name, []byte(keyring.Generate(time.Now())), 0o600)
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
	resource := &http.Server{Handler: tokens.Middleware(greet), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = resource.Serve(listener) }()
	d.closers = append(d.closers, resource.Close)
	return nil
}
