//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a running Chromium, driven by provider/browser.mjs.
type browser struct {
	mu      sync.Mutex
	input   io.Writer
	answers *bufio.Reader
}

// startBrowser starts Chromium until the test ends.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium here: test/ready chromium")
	}
	command := exec.Command("node", "provider/browser.mjs", path)
	command.Stderr = t.Output()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // it closes Chromium when its input ends
		_ = input.Close()
		late := time.AfterFunc(20*time.Second, func() { _ = command.Process.Kill() })
		_ = command.Wait()
		late.Stop()
	})
	return &browser{input: input, answers: bufio.NewReader(output)}
}

// with are the arguments of a command.
type with map[string]any

// do sends a command, and reads what came of it.
func (b *browser) do(t *testing.T, command string, arguments with, into any) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	line := maps.Clone(arguments)
	line["op"] = command
	if err := json.NewEncoder(b.input).Encode(line); err != nil {
		t.Fatalf("the browser: %v", err)
	}
	text, err := b.answers.ReadBytes('\n')
	if err != nil {
		t.Fatalf("the browser has ended: %v", err)
	}
	var answer struct {
		Value json.RawMessage
		Error string
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("the browser answered %s: %v", text, err)
	}
	if answer.Error != "" {
		t.Fatalf("%s %v: %s", command, arguments, answer.Error)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(answer.Value, into); err != nil {
		t.Fatalf("the browser answered %s: %v", answer.Value, err)
	}
}

// person is a person with a browser of their own: cookies, one window.
type person struct {
	t       *testing.T
	browser *browser
	name    string
}

// way is how a person uses the pages.
type way struct {
	NoScript, Keyboard bool
}

// person opens a browser until the test ends.
func (b *browser) person(t *testing.T, name string, how way) *person {
	t.Helper()
	p := &person{t, b, t.Name() + "/" + name}
	p.do("person", with{"script": !how.NoScript, "keyboard": how.Keyboard}, nil)
	t.Cleanup(func() { b.do(t, "leave", with{"in": p.name}, nil) })
	return p
}

func (p *person) do(command string, arguments with, into any) {
	p.t.Helper()
	arguments = maps.Clone(arguments)
	arguments["in"] = p.name
	p.browser.do(p.t, command, arguments, into)
}

func (p *person) open(address string) { p.t.Helper(); p.do("go", with{"url": address}, nil) }

func (p *person) reload() { p.t.Helper(); p.do("reload", with{}, nil) }

// follow presses a link, and waits for the page behind it.
func (p *person) follow(name string) {
	p.t.Helper()
	p.do("press", with{"role": "link", "name": name}, nil)
}

// press presses a button, and waits for the page that follows.
func (p *person) press(name string) {
	p.t.Helper()
	p.do("press", with{"role": "button", "name": name}, nil)
}

// confirm opens the question behind a word, in the row or card that holds a text, and answers it.
func (p *person) confirm(row, word, button string) {
	p.t.Helper()
	target := with{"role": "summary", "name": word}
	if row != "" {
		target["within"] = row
	}
	p.do("tap", target, nil)
	p.press(button)
}

// confirmAt is confirm in what a selector finds.
func (p *person) confirmAt(selector, word, button string) {
	p.t.Helper()
	p.do("tap", with{"role": "summary", "name": word, "at": selector}, nil)
	p.press(button)
}

// rows are the texts of what a selector finds.
func (p *person) rows(selector string) (texts []string) {
	p.t.Helper()
	p.do("rows", with{"selector": selector}, &texts)
	return texts
}

func (p *person) fill(label, value string) {
	p.t.Helper()
	p.do("fill", with{"label": label, "value": value}, nil)
}

func (p *person) choose(role, name string) {
	p.t.Helper()
	p.do("choose", with{"role": role, "name": name}, nil)
}

// signInAs goes through the provider's own pages.
func (p *person) signInAs(account string) {
	p.t.Helper()
	p.do("signIn", with{"as": account}, nil)
}

// declines is a person who refuses at the provider.
func (p *person) declines() { p.t.Helper(); p.do("decline", with{}, nil) }

// leads is where a link leads.
func (p *person) leads(link string) (address string) {
	p.t.Helper()
	p.do("leads", with{"role": "link", "name": link}, &address)
	return address
}

// request is one that the browser has made. By is the page that needed it; empty for a page itself.
type request struct{ URL, By string }

// requested are the addresses that the browser has asked for, the last one at the end, that hold a text.
func (p *person) requested(text string) (found []string) {
	p.t.Helper()
	var all []request
	p.do("requests", with{}, &all)
	for _, one := range all {
		if strings.Contains(one.URL, text) {
			found = append(found, one.URL)
		}
	}
	return found
}

// forget drops the cookies of a host.
func (p *person) forget(host string) { p.t.Helper(); p.do("forget", with{"domain": host}, nil) }

// shownPage is what a person sees.
type shownPage struct {
	URL, Title, Heading, Text, Value string
	Headings                         int
	Primary, Buttons, Notices        []string
	Torn                             []string // words of buttons and the like that go on in the next line
	Width                            int
}

func (p *person) page() (shown shownPage) {
	p.t.Helper()
	p.do("page", with{}, &shown)
	return shown
}

// at checks the title of the page.
func (p *person) at(heading string) shownPage {
	p.t.Helper()
	shown := p.page()
	if shown.Heading != heading || shown.Headings != 1 {
		p.t.Fatalf("%s has the title %q, want %q; it says:\n%s", shown.URL, shown.Heading, heading, shown.Text)
	}
	return shown
}

// reads checks that the page says something.
func (p *person) reads(texts ...string) {
	p.t.Helper()
	shown := p.page()
	for _, text := range texts {
		if !strings.Contains(shown.Text, text) {
			p.t.Fatalf("%s does not say %q; it says:\n%s", shown.URL, text, shown.Text)
		}
	}
}

// told checks that a notice says something.
func (p *person) told(text string) {
	p.t.Helper()
	shown := p.page()
	if !strings.Contains(strings.Join(shown.Notices, "\n"), text) {
		p.t.Fatalf("%s has the notices %q, want one that says %q; it says:\n%s", shown.URL, shown.Notices, text, shown.Text)
	}
}

// calm checks that no page has complained: of a script, of the policy, of a focus that cannot be seen.
func (p *person) calm() {
	p.t.Helper()
	var complaints []string
	p.do("complaints", with{}, &complaints)
	for _, complaint := range complaints {
		p.t.Errorf("complaint: %s", complaint)
	}
}

// pageLink is an address that a page refers to, and what it answers.
type pageLink struct {
	Written, URL, Kind string
	Form               bool
	Status, Bytes      int
}

// links are those of the page to its own host, but for those that begin with what is known.
func (p *person) links(known ...string) (found []pageLink) {
	p.t.Helper()
	p.do("links", with{"known": append([]string{}, known...)}, &found)
	return found
}
