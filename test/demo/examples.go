package main

import (
	"archive/zip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The four systems whose needs wts serves are small services of examples/, as processes of their own. The demo's page
// has the lines to type for each, and the story types them.

const (
	demoPortalSecret = "not-a-secret-of-the-portal-in-a-demo"
	demoPlugin       = "sample_plugin"
)

// system is one of the four, as the page shows it.
type system struct {
	Title, About, Guide string
	// Open is what a person opens, with Link's words; empty for nothing.
	Open, Link string
	// By hand is what they do before the lines can be typed; empty for nothing.
	First string
	Lines []line
}

// line is what one types, and a part of what comes of it. What a line keeps in a variable, later ones of its system use.
type line struct{ Type, Says string }

// systems are the four, at the addresses at hand.
func (d *demo) systems() []system {
	local := strings.Replace(d.url, demoHost, demoLoopback, 1)
	token := func(audience string) string {
		return fmt.Sprintf(`TOKEN=$(curl -s --interface %s '%s/token/?audience=%s' | cut -d'"' -f4)`, demoWorker, local, audience)
	}
	return []system{
		{
			Title: "A workspace", About: "A notebook or a batch job of alice's, which has no browser: it asks for a token, and calls a resource service with it.",
			Guide: "docs/workspace.md",
			Lines: []line{
				{fmt.Sprintf(`curl -s --interface %s '%s/token/?expires=600'`, demoWorker, local), `"expires_in":600`},
				{fmt.Sprintf(`curl -s --interface %s '%s/token/?idp=commons'`, demoWorker, local), `"token":`},
				{token(demoAudience), ""},
				{fmt.Sprintf(`curl -s -H "Authorization: Bearer $TOKEN" %s`, d.resource), "hello alice"},
			},
		},
		{
			Title: "A program that is no worker", About: "A notebook elsewhere, which proves itself by an API token of alice's. It is examples/workspace, without its sidecar.",
			Guide: "docs/workspace.md", Open: d.url + "/tokens/new?audience=wts", Link: "Make a token for the audience wts, with the scope token",
			First: fmt.Sprintf("umask 077; printf %%s wtsp_... > %s   # the token that the page has shown", d.proof),
			Lines: []line{
				{fmt.Sprintf(`WTS_URL=%s WTS_PROOF_FILE=%s %s --audience %s %s`, d.url, d.proof, d.notebook, demoAudience, d.resource), "hello alice"},
			},
		},
		{
			Title: "PEPhub", About: "Projects in namespaces, private and public. People log in by wts; PEPHubClient works unchanged.",
			Guide: "docs/pephub.md", Open: d.hub + "/", Link: "Log in at the hub",
			Lines: []line{
				{token("hub"), ""},
				{fmt.Sprintf(`curl -s -H "Authorization: $TOKEN" -H 'Content-Type: application/json' -d '{"pep_dict": {"config": {"name": "demo", "pep_version": "2.1.0"}, "sample_list": [{"sample_name": "s1"}], "subsample_list": []}, "tag": "default", "is_private": true, "overwrite": true}' -o /dev/null -w '%%{http_code}\n' %s/api/v1/namespaces/alice/projects/json`, d.hub), "202"},
				{fmt.Sprintf(`curl -s -H "Authorization: $TOKEN" '%s/api/v1/projects/alice/demo?raw=true&tag=default'`, d.hub), `sample_name`},
				{fmt.Sprintf(`curl -s -o /dev/null -w '%%{http_code}\n' '%s/api/v1/projects/alice/demo?raw=true&tag=default'   # without a token`, d.hub), "404"},
				{fmt.Sprintf(`curl -s -X POST %s/auth/device/init   # what phc login begins with: export PEPHUB_BASE_URL=%[1]s/`, d.hub), "auth_url"},
			},
		},
		{
			Title: "ProteinPaint", About: "A dataset that portals embed. The back end takes a token of five minutes for this dataset alone.",
			Guide: "docs/proteinpaint.md", Open: d.url + "/integrations", Link: "The integration, as its admin sees it",
			Lines: []line{
				{token("portal"), ""},
				{fmt.Sprintf(`curl -s -H "x-ds-access-token: $TOKEN" -H 'Content-Type: application/json' -d '{"dslabel": "ds0", "embedder": "localhost", "route": "termdb"}' %s/jwt-status`, d.datasets), `"ok"`},
				{fmt.Sprintf(`curl -s -H 'Content-Type: application/json' -d '{"dslabel": "ds0", "embedder": "elsewhere.example", "route": "termdb"}' -o /dev/null -w '%%{http_code}\n' %s/jwt-status   # a site that is not listed`, d.datasets), "40"},
			},
		},
		{
			Title: "A plugin site", About: "Uploads by a token that belongs to the plugin, and goes on when its maker leaves.",
			Guide: "docs/plugins.md", Open: d.url + "/resources/plugins/" + demoPlugin + "/new", Link: "Make a token for the plugin, with the scope upload",
			First: "export TOKEN=wtsr_...   # the token that the page has shown",
			Lines: []line{
				{fmt.Sprintf(`curl -s -H "Authorization: Bearer $TOKEN" -F package=@%s %s/plugins/api/%s/version/add/`, d.archive, d.plugins, demoPlugin), `"success":true`},
				{fmt.Sprintf(`curl -s -H "Authorization: Bearer $TOKEN" %s/plugins/%s/latest/json`, d.plugins, demoPlugin), `validation_status`},
			},
		},
	}
}

// startExamples runs the services, and waits until they answer.
func (d *demo) startExamples(ctx context.Context, options options, ports [demoCount]int) error {
	at := func(port int) string { return net.JoinHostPort(demoLoopback, strconv.Itoa(port)) }
	public := func(port int) string { return "http://" + net.JoinHostPort(demoHost, strconv.Itoa(port)) }
	d.hub, d.datasets, d.plugins = public(ports[5]), public(ports[6]), public(ports[7])
	d.archive, d.proof, d.notebook = filepath.Join(options.dir, demoPlugin+".zip"), filepath.Join(options.dir, "proof"), filepath.Join(options.examples, "workspace")
	credentials, secretFile := filepath.Join(options.dir, "credentials.json"), filepath.Join(options.dir, "plugins-secret")
	err := errors.Join(
		os.WriteFile(credentials, fmt.Appendf(nil, demoCredentials, demoPortalSecret), 0o600),
		os.WriteFile(secretFile, []byte(demoSecret), 0o600), writePlugin(d.archive),
	)
	if err != nil {
		return fmt.Errorf("the demo's folder: %w", err)
	}
	for name, arguments := range map[string][]string{
		"pephub":   {"--listen", at(ports[5]), "--wts", d.url, "--audience", "hub", "--forward-auth", d.url},
		"datasets": {"--listen", at(ports[6]), "--credentials", credentials},
		"plugins":  {"--listen", at(ports[7]), "--wts", d.url, "--audience", "plugins", "--secret-file", secretFile, "--plugin", demoPlugin + "=alice"},
	} {
		if err := d.startExample(filepath.Join(options.examples, name), arguments); err != nil {
			return err
		}
	}
	for _, address := range []string{d.hub, d.datasets, d.plugins} {
		if err := await(ctx, address+"/"); err != nil {
			return err
		}
	}
	return d.startPage(ports[4])
}

// demoCredentials are the rules of the portal's back end, in the shape of dsCredentials.
const demoCredentials = `{"ds0": {"termdb": {
  "localhost": {"type": "jwt", "secret": %q, "dsnames": [{"id": "ds0", "label": "Sample"}], "looseIpCheck": true},
  "*": {"type": "forbidden"}
}}}
`

// startExample runs a program until the demo ends.
func (d *demo) startExample(program string, arguments []string) error {
	command := exec.Command(program, arguments...)
	if err := command.Start(); err != nil {
		return fmt.Errorf("an example (make builds them into bin/examples): %w", err)
	}
	d.closers = append(d.closers, func() error {
		_ = command.Process.Signal(syscall.SIGTERM)
		return command.Wait()
	})
	return nil
}

// await waits until an address answers anything.
func await(ctx context.Context, address string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := call(ctx, http.DefaultClient, address, "")
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %s does not answer (choose other ports with --port)", errNotDemo, address)
		}
	}
}

// writePlugin writes a plugin to upload: a folder of its name with a file that describes it.
func writePlugin(name string) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(file)
	defer func() { err = errors.Join(err, archive.Close(), file.Close()) }()
	text, err := archive.Create(demoPlugin + "/metadata.txt")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(text, "[general]\nname=Sample plugin\nversion=1.0.%d\ndescription=Of the demo\nabout=Of the demo\nqgisMinimumVersion=3.0\nauthor=alice\nemail=alice@example.org\n", time.Now().Unix())
	return err
}

//go:embed page.html
var pageText string

// startPage serves the page that shows the four.
func (d *demo) startPage(port int) error {
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("the page: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(demoLoopback, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("the page: %w (choose other ports with --port)", err)
	}
	d.page = "http://" + net.JoinHostPort(demoHost, strconv.Itoa(port)) + "/"
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, map[string]any{"URL": d.url, "Password": demoPassword, "Systems": d.systems()})
	})}
	go func() { _ = server.Serve(listener) }()
	d.closers = append(d.closers, server.Close)
	return nil
}

// typeLines types the lines of a system in one shell, and wants each to say what the page promises.
func (d *demo) typeLines(ctx context.Context, one system, environment ...string) (string, error) {
	for i := range one.Lines {
		if one.Lines[i].Says == "" {
			continue
		}
		var script strings.Builder
		for j, before := range one.Lines[:i+1] {
			if j == i || before.Says == "" { // variables that were set before
				fmt.Fprintln(&script, before.Type)
			}
		}
		command := exec.CommandContext(ctx, "sh", "-c", script.String())
		command.Env = append(os.Environ(), environment...)
		said, err := command.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%w: %s\nsays %s: %w", errNotDemo, one.Lines[i].Type, said, err)
		}
		if !strings.Contains(string(said), one.Lines[i].Says) {
			return "", fmt.Errorf("%w: %s\nsays %s, want %s in it", errNotDemo, one.Lines[i].Type, said, one.Lines[i].Says)
		}
	}
	return fmt.Sprintf("%d lines, as the page has them", len(one.Lines)), nil
}
