package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// explain says what to open and what to type.
func (d *demo) explain() {
	fmt.Fprintf(d.out, `
wts is running, with two identity providers, a worker of alice's, a resource service, and the small
services of examples/ in the place of PEPhub, ProteinPaint and a plugin site.

  1. Open       %[1]s/
     log in as  alice, with the password %[2]s
  2. On the page: connect the second provider, make an API token (Tokens), see what was done (Activity).
  3. Open       %[5]s
     which has the lines to type for each of the four systems.
  4. Watch here: the worker asks for a token every five seconds,
     and the resource service verifies it by the published keys.

  By hand, as the worker:     curl --interface %[3]s '%[4]s/token/?expires=600'
  a provider's own token:     curl --interface %[3]s '%[4]s/token/?idp=commons'
  the keys that verify ours:  curl %[4]s/.well-known/jwks.json
  Stop with Ctrl-C.

`, d.url, demoPassword, demoWorker, strings.Replace(d.url, demoHost, demoLoopback, 1), d.page)
}

// work is the sample worker: it asks for a token and uses it, again and again.
func (d *demo) work(ctx context.Context) error {
	said := ""
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		line := d.useToken(ctx)
		if line != said && ctx.Err() == nil {
			fmt.Fprintln(d.out, "worker:", line)
		}
		said = line
		select {
		case <-ctx.Done():
			fmt.Fprintln(d.out, "bye")
			return nil
		case err := <-d.stopped:
			d.stopped <- nil
			return err
		case <-tick.C:
		}
	}
}

func (d *demo) useToken(ctx context.Context) string {
	token, err := d.workersToken(ctx, fmt.Sprintf("/token/?expires=%d", demoExpires))
	if err != nil {
		return err.Error()
	}
	status, text, err := d.askResource(ctx, token.Token)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("a token for %d s; the resource service says %d, %s", token.ExpiresIn, status, text)
}

// handedOut is the answer of /token.
type handedOut struct {
	Token     string `json:"token"`
	ExpiresIn int64  `json:"expires_in"`
	Message   string `json:"message"`
}

func (d *demo) workersToken(ctx context.Context, path string) (handedOut, error) {
	var answer handedOut
	status, body, err := call(ctx, d.worker, d.url+path, "")
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return answer, fmt.Errorf("%s answered %d with something that is no JSON", path, status)
	}
	if status != http.StatusOK {
		return answer, fmt.Errorf("%d, %s", status, answer.Message)
	}
	return answer, nil
}

func (d *demo) askResource(ctx context.Context, token string) (int, string, error) {
	status, body, err := call(ctx, http.DefaultClient, d.resource, token)
	return status, strings.TrimSpace(body), err
}

func call(ctx context.Context, client *http.Client, address, bearer string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, "", fmt.Errorf("calling: %w", err)
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("calling: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, "", fmt.Errorf("reading an answer: %w", err)
	}
	return response.StatusCode, string(body), nil
}

// storyStep is a step of the story.
type storyStep struct {
	name string
	run  func() (string, error)
}

// tell runs the story by itself: what a person does in a browser is done over HTTP, as a browser
// would.
func (d *demo) tell(ctx context.Context) error {
	browser := providertest.Browser()
	var token handedOut
	steps := []storyStep{
		{"the worker is refused before anyone has logged in", func() (string, error) {
			_, err := d.workersToken(ctx, "/token/?expires=600")
			if err == nil {
				return "", fmt.Errorf("%w: it got a token", errNotDemo)
			}
			return err.Error(), nil
		}},
		{"alice logs in at the first provider", func() (string, error) {
			return d.logIn(ctx, browser, "/oauth2/authorization_url", `<span class="name">alice</span>`)
		}},
		{"alice connects the second provider", func() (string, error) {
			return d.logIn(ctx, browser, "/oauth2/authorization_url?idp=commons", "Example Data Commons is connected as alice")
		}},
		{"alice makes an API token on the page, and sees it once", func() (string, error) {
			return d.makeToken(ctx, browser)
		}},
		{"her worker asks /token/?expires=600", func() (string, error) {
			var err error
			token, err = d.workersToken(ctx, "/token/?expires=600")
			return fmt.Sprintf("a token of ours for %d s", token.ExpiresIn), expect(err, token.ExpiresIn == demoExpires, "another lifetime")
		}},
		{"her worker asks for the second provider's own token", func() (string, error) {
			upstream, err := d.workersToken(ctx, "/token/?idp=commons")
			return fmt.Sprintf("%d characters", len(upstream.Token)), expect(err, upstream.Token != "" && upstream.Token != token.Token, "no token, or ours")
		}},
		{"the resource service verifies the token by the published keys", func() (string, error) {
			return d.resourceSays(ctx, token.Token, http.StatusOK)
		}},
		{"it refuses one that was tampered with", func() (string, error) {
			parts := strings.Split(token.Token, ".")
			parts[1] = "A" + parts[1][1:]
			return d.resourceSays(ctx, strings.Join(parts, "."), http.StatusUnauthorized)
		}},
		{"it refuses one that has expired", func() (string, error) {
			short, err := d.workersToken(ctx, "/token/?expires=1")
			if err != nil {
				return "", err
			}
			time.Sleep(1100 * time.Millisecond)
			return d.resourceSays(ctx, short.Token, http.StatusUnauthorized)
		}},
	}
	for _, one := range d.systems() {
		steps = append(steps, storyStep{one.Title + ": the lines of the demo's page", func() (string, error) {
			switch {
			case one.First == "":
				return d.typeLines(ctx, one)
			case strings.Contains(one.First, "wtsr_"):
				value, err := d.pluginToken(ctx, browser)
				if err != nil {
					return "", err
				}
				return d.typeLines(ctx, one, "TOKEN="+value)
			}
			value, err := d.createToken(ctx, browser, "/tokens", url.Values{"name": {"notebook"}, "audience": {"wts"}, "scope": {"wts token"}, "expires": {"30"}})
			if err == nil {
				err = os.WriteFile(d.proof, []byte(value), 0o600)
			}
			if err != nil {
				return "", err
			}
			return d.typeLines(ctx, one)
		}})
	}
	for i, step := range steps {
		outcome, err := step.run()
		if err != nil {
			fmt.Fprintf(d.out, "%d. %s: FAILED: %v\n", i+1, step.name, err)
			return fmt.Errorf("%w: %s: %w", errNotDemo, step.name, err)
		}
		fmt.Fprintf(d.out, "%d. %s: %s\n", i+1, step.name, outcome)
	}
	fmt.Fprintln(d.out, "Every step went as it should.")
	return nil
}

func (d *demo) logIn(ctx context.Context, browser *http.Client, path, sees string) (string, error) {
	page, err := providertest.LogIn(ctx, browser, d.url+path, "alice", demoPassword)
	if err != nil {
		return "", err
	}
	return "her browser is back at " + page.URL.Path, expect(nil, page.Status == http.StatusOK && strings.Contains(page.Body, sees), "her page does not show it")
}

func (d *demo) resourceSays(ctx context.Context, token string, want int) (string, error) {
	status, text, err := d.askResource(ctx, token)
	return fmt.Sprintf("%d, %s", status, text), expect(err, status == want, fmt.Sprintf("it answered %d, %s", status, text))
}

func expect(err error, good bool, otherwise string) error {
	if err == nil && !good {
		return fmt.Errorf("%w: %s", errNotDemo, otherwise)
	}
	return err
}

// shownOnce is where the page has a token's value.
var shownOnce = regexp.MustCompile(`<code id="value">([^<]+)</code>`)

// makeToken makes an API token as the form of the page does, and uses it.
func (d *demo) makeToken(ctx context.Context, browser *http.Client) (string, error) {
	form := url.Values{"name": {"laptop"}, "audience": {demoAudience}, "scope": {demoAudience + " data:read"}, "expires": {"30"}}
	value, err := d.createToken(ctx, browser, "/tokens", form)
	if err != nil {
		return "", err
	}
	status, _, err := call(ctx, http.DefaultClient, d.url+"/api/v1/tokens/self", value)
	return fmt.Sprintf("%d characters, and wts says %d to it", len(value), status), expect(err, status == http.StatusOK, "another status")
}

// pluginToken makes a token of the plugin, as its maintainer does on the page.
func (d *demo) pluginToken(ctx context.Context, browser *http.Client) (string, error) {
	form := url.Values{"name": {"ci"}, "audience": {"plugins"}, "scope": {"plugins upload"}, "expires": {"30"}}
	return d.createToken(ctx, browser, "/resources/plugins/"+demoPlugin+"/tokens", form)
}

// createToken sends the form of a page, and returns the value that the page after it shows.
func (d *demo) createToken(ctx context.Context, browser *http.Client, path string, form url.Values) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("a request: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := browser.Do(request) // follows to the page that shows the token
	if err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading the page: %w", err)
	}
	shown := shownOnce.FindSubmatch(page)
	if shown == nil {
		return "", fmt.Errorf("%w: the page shows no token", errNotDemo)
	}
	return string(shown[1]), nil
}
