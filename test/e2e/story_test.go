//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// People do all that the pages offer: with script, by keyboard alone, and without script.
func TestTheStoryInABrowser(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	browser := startBrowser(t)
	for name, how := range map[string]way{"with script": {}, "by keyboard alone": {Keyboard: true}, "without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			id := strings.Fields(name)[0] + strings.Fields(name)[1] // other people each time
			s := &story{h, t, how, id, browser.person(t, "alice", how)}
			t.Run("connect", s.connects)
			t.Run("a token", s.makesAToken)
			t.Run("a resource", s.sharesAResource)
			t.Run("a program", s.letsAProgramIn)
			t.Run("sessions", s.endsAnotherSession)
			t.Run("disabled", s.isDisabled)
			s.on(t).calm()
		})
	}
}

// story is one way through the pages.
type story struct {
	*house
	t     *testing.T
	how   way
	id    string
	alice *person
}

// on is the person in a part of the story.
func (s *story) on(t *testing.T) *person { s.alice.t = t; return s.alice }

func (s *story) connects(t *testing.T) {
	alice := s.on(t)
	s.signIn(alice, "alice"+s.id)
	alice.follow("Connect " + commons)
	alice.signInAs("alice@commons" + s.id)
	alice.at("Connections")
	alice.told(commons + " is connected as alice@commons" + s.id)
	alice.reload()
	if notices := alice.page().Notices; len(notices) > 0 {
		t.Errorf("after reload there are the notices %q, want none", notices)
	}
	if s.how.Keyboard {
		s.escapes(alice)
	}
}

// escapes checks that Escape leaves a question, and that the person is then where they were.
func (s *story) escapes(p *person) {
	p.t.Helper()
	p.do("tap", with{"role": "summary", "name": "Disconnect", "within": commons}, nil)
	p.do("see", with{"role": "button", "name": "Disconnect " + commons}, nil)
	var focused string
	p.do("key", with{"key": "Escape"}, &focused)
	if !strings.HasPrefix(focused, "Disconnect") || slices.Contains(p.page().Buttons, "Cancel") {
		p.t.Errorf("after Escape the focus is at %q, and there are the buttons %q", focused, p.page().Buttons)
	}
}

// fillsIn makes a token in the form that is open, and returns its value, which is shown once.
func (s *story) fillsIn(p *person, name string) (value string) {
	p.t.Helper()
	p.fill("Name", name)
	p.choose("radio", "service")
	p.choose("checkbox", "read")
	p.press("Create token")
	value = p.page().Value
	if value == "" {
		p.t.Fatalf("no value is shown:\n%s", p.page().Text)
	}
	p.reads("Copy it now")
	if copies := slices.Contains(p.page().Buttons, "Copy"); copies == s.how.NoScript {
		p.t.Errorf("a button to copy is shown: %t, which needs a script", copies)
	}
	p.reload()
	if again := p.page(); strings.Contains(again.Text, value) || again.Value != "" {
		p.t.Errorf("after reload the value is still shown")
	}
	return value
}

func (s *story) makesAToken(t *testing.T) {
	alice := s.on(t)
	alice.follow("Tokens")
	alice.at("API tokens") // with the form, as long as there is no token
	first := s.fillsIn(alice, "ci")
	alice.at("API tokens")
	alice.reads("never")
	s.works(t, first, true)
	s.until(alice, "last used", func() bool { return !strings.Contains(alice.page().Text, "never") })

	alice.confirm("ci", "Rotate", "Rotate “ci”")
	second := alice.page().Value
	if second == "" || second == first {
		t.Fatalf("rotating shows %q", second)
	}
	s.works(t, second, true)
	s.works(t, first, true) // for its overlap
	alice.confirm("ci", "Revoke", "Revoke “ci”")
	alice.told("revoked")
	s.works(t, second, false)
	s.works(t, first, false)
}

// works checks that a token is accepted, or refused.
func (s *story) works(t *testing.T, token string, want bool) {
	t.Helper()
	status := s.use(t, token)
	if want && status != http.StatusOK || !want && status != http.StatusUnauthorized {
		t.Errorf("the token gets %d, want it accepted: %t", status, want)
	}
}

// until reloads the page until it shows something.
func (s *story) until(p *person, what string, shown func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !shown(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is not shown after 20 s:\n%s", what, p.page().Text)
		}
		p.reload()
	}
}

func (s *story) sharesAResource(t *testing.T) {
	alice := s.on(t)
	bob := s.another(t, "bob")
	s.signIn(bob, "bob"+s.id)
	s.resource(t, "plugin-"+s.id, "Plugin "+s.id, "alice"+s.id, "bob"+s.id)

	alice.follow("Resources")
	alice.at("Resources")
	alice.follow("Plugin " + s.id)
	alice.at("Plugin " + s.id)
	alice.follow("New token")
	value := s.fillsIn(alice, "publish")
	s.works(t, value, true)

	bob.follow("Resources")
	bob.follow("Plugin " + s.id)
	bob.reads("by alice" + s.id)
	bob.confirm("publish", "Revoke", "Revoke “publish”")
	bob.told("revoked")
	s.works(t, value, false)
	bob.calm()
}

// another is a person with a browser of their own.
func (s *story) another(t *testing.T, name string) *person {
	t.Helper()
	return s.alice.browser.person(t, name, s.how)
}

func (s *story) letsAProgramIn(t *testing.T) {
	alice := s.on(t)
	status, answer := s.post(t, "/oauth2/device_authorization", url.Values{"client_id": {"wts-cli"}, "scope": {"token"}})
	var waiting struct {
		Device   string `json:"device_code"`
		Complete string `json:"verification_uri_complete"`
		Code     string `json:"user_code"`
	}
	if err := json.Unmarshal([]byte(answer), &waiting); err != nil || status != http.StatusOK {
		t.Fatalf("beginning: %d %s", status, answer)
	}
	alice.open(s.public + "/device")
	alice.at("Connect a program")
	alice.fill("The code", waiting.Code)
	alice.press("Continue")
	alice.reads("Allow ", waiting.Code)
	alice.press("Allow")
	status, answer = s.post(t, "/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {waiting.Device}, "client_id": {"wts-cli"}})
	if status != http.StatusOK || !strings.Contains(answer, "access_token") {
		t.Errorf("after allowing it the program gets %d %s", status, answer)
	}
	alice.open(waiting.Complete) // it was answered
	if strings.HasPrefix(alice.page().Heading, "Allow") {
		t.Errorf("the code can be answered again")
	}
}

func (s *story) endsAnotherSession(t *testing.T) {
	alice := s.on(t)
	laptop := s.another(t, "laptop")
	s.signIn(laptop, "alice"+s.id)
	alice.open(s.public + "/")
	alice.follow("Sessions")
	alice.at("Sessions")
	alice.reads("This browser")
	var rows int
	for _, row := range alice.rows("article") {
		if !strings.Contains(row, "This browser") && !strings.Contains(row, "Program") {
			rows++
		}
	}
	if rows != 1 {
		t.Fatalf("%d other browsers are shown, want 1:\n%s", rows, alice.page().Text)
	}
	alice.confirmAt("article:not(:has-text('This browser')):not(:has-text('Program'))", "End", "End session")
	alice.told("ended")
	alice.at("Sessions")
	laptop.reload()
	laptop.at("Sign in")
}

func (s *story) isDisabled(t *testing.T) {
	alice := s.on(t)
	root := s.another(t, "root")
	s.signIn(root, "root")
	root.follow("Admin")
	root.at("Administration")
	root.fill("Name begins with", "alice"+s.id)
	root.press("Find")
	root.confirm("alice"+s.id, "Disable", "Disable alice"+s.id)
	root.told("alice" + s.id)

	alice.open(s.public + "/tokens")
	s.sayDisabled(alice)
	alice.press("Log out")
	alice.at("Sign in")
	alice.open(s.public + "/oauth2/authorization_url")
	alice.signInAs("alice" + s.id)
	s.sayDisabled(alice)
	root.fill("Name begins with", "alice"+s.id)
	root.press("Find")
	root.press("Enable alice" + s.id)
	root.told("alice" + s.id)
	root.calm()
	alice.forget("")
	s.signIn(alice, "alice"+s.id)
}

// sayDisabled checks that the page is the end of the way: it says so, and offers no other sign-in.
func (s *story) sayDisabled(p *person) {
	p.t.Helper()
	shown := p.at("Your account is disabled")
	for _, word := range []string{"Log in", "Sign in", "Continue with", "Start again", "Try again"} {
		if strings.Contains(strings.Join(shown.Buttons, "\n"), word) {
			p.t.Errorf("the page offers %q: %q", word, shown.Buttons)
		}
	}
	if settled := p.page(); settled.URL != shown.URL {
		p.t.Errorf("the page goes on to %s", settled.URL)
	}
}
