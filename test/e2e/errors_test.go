//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Whatever fails on the way through a provider has a page of its own: what happened, one way on that keeps the provider
// and the way back, and no word of the API. It can be loaded again, and that repeats nothing.
func TestErrorsInABrowser(t *testing.T) {
	t.Parallel()
	e := &errorPages{newHouse(t, plan{more: "rate_limits: {change: 0.2}\n"}), startBrowser(t), screenshots(t)}
	for name, test := range map[string]func(*testing.T){
		"declined": e.declined, "declined when connecting": e.declinedConnecting, "cookies lost": e.cookiesLost, "opened again": e.openedAgain, "another browser's": e.anotherBrowsers,
		"not answering": e.notAnswering, "not answering while connected": e.notAnsweringConnected, "not registered": e.notRegistered,
		"no discovery": e.noDiscovery, "unknown client": e.unknownClient, "no refresh token": e.noRefreshToken,
		"another account": e.anotherAccount, "disabled": e.disabled, "a link from another site": e.fromAnotherSite,
		"no such page": e.noSuchPage, "no such method": e.noSuchMethod, "too many": e.tooMany,
	} {
		t.Run(name, test)
	}
}

type errorPages struct {
	*house
	browser *browser
	shots   string
}

const tookTooLong = "This sign-in took too long, or was opened twice"

// ofPrograms are words of the API and of HTTP, which say nothing to a person.
var ofPrograms = regexp.MustCompile(`(?i)\b(4\d\d|5\d\d|HTTP|forbidden|unauthorized|conflict|bad request|not found|state did not match|invalid_\w+|access_denied|client_id|idp|code grant|You don't have access to this resource|Authentication Error)\b`)

// fails checks a page of an error, and loads it again.
func (e *errorPages) fails(p *person, title, primary string) shownPage {
	p.t.Helper()
	shown := p.at(title)
	if !slices.Equal(shown.Primary, []string{primary}) {
		p.t.Errorf("%q has the filled buttons %q, want %q alone", title, shown.Primary, primary)
	}
	if found := ofPrograms.FindAllString(shown.Text, -1); len(found) > 0 {
		p.t.Errorf("%q speaks as programs do: %q in\n%s", title, found, shown.Text)
	}
	asked := e.first.requests() + e.second.requests()
	p.reload()
	if again := p.at(title); !slices.Equal(again.Buttons, shown.Buttons) {
		p.t.Errorf("loaded again, the page has the buttons %q, want %q", again.Buttons, shown.Buttons)
	}
	if again := e.first.requests() + e.second.requests(); again != asked {
		p.t.Errorf("loading the page again led to %d requests at the providers", again-asked)
	}
	p.look(e.shots, "error-"+regexp.MustCompile(`\W+`).ReplaceAllString(p.t.Name()[strings.Index(p.t.Name(), "/")+1:], "-"))
	return shown
}

// visitor is a person who has not signed in, on the way to a page.
func (e *errorPages) visitor(t *testing.T, redirect string) *person {
	t.Helper()
	p := e.browser.person(t, "visitor", way{})
	p.open(e.public + "/oauth2/authorization_url?redirect=" + redirect)
	return p
}

// member is a person who has signed in.
func (e *errorPages) member(t *testing.T, name string) *person {
	t.Helper()
	p := e.browser.person(t, name, way{})
	e.signIn(p, name)
	return p
}

// arrives checks that a person is where they wanted to be.
func (e *errorPages) arrives(p *person, path string) {
	p.t.Helper()
	if shown := p.page(); shown.URL != e.public+path {
		p.t.Errorf("the way ended at %s, want %s:\n%s", shown.URL, path, shown.Text)
	}
}

func (e *errorPages) declined(t *testing.T) {
	p := e.visitor(t, "/tokens")
	p.declines()
	e.fails(p, "You declined at "+university, "Try again")
	p.follow("Try again")
	p.signInAs("declining")
	e.arrives(p, "/tokens")
}

func (e *errorPages) declinedConnecting(t *testing.T) {
	p := e.member(t, "hesitant")
	p.open(e.public + "/oauth2/authorization_url?idp=second&redirect=/sessions")
	p.declines()
	e.fails(p, "You declined at "+commons, "Try again")
	p.follow("Back")
	e.arrives(p, "/sessions")
	p.do("back", with{}, nil)
	p.follow("Try again")
	p.signInAs("hesitant")
	e.arrives(p, "/sessions")
}

func (e *errorPages) cookiesLost(t *testing.T) {
	p := e.visitor(t, "/sessions")
	p.forget("localhost")
	p.signInAs("forgetful")
	e.fails(p, tookTooLong, "Start again")
	p.follow("Start again")
	p.signInAs("forgetful")
	p.at("Connections") // the way back was lost with the cookie
}

func (e *errorPages) openedAgain(t *testing.T) {
	p := e.visitor(t, "/tokens")
	p.signInAs("twice")
	e.arrives(p, "/tokens")
	callback := p.requested("/oauth2/authorize?")
	p.open(callback[len(callback)-1])
	e.fails(p, tookTooLong, "Start again")
	p.follow("Start again")
	p.signInAs("twice")
	e.arrives(p, "/tokens")
}

func (e *errorPages) anotherBrowsers(t *testing.T) {
	victim, other := e.visitor(t, "/tokens"), e.browser.person(t, "other", way{})
	victim.do("hold", with{"text": "/oauth2/authorize?"}, nil)
	victim.signInAs("attacker")
	callback := victim.requested("/oauth2/authorize?")
	other.open(callback[len(callback)-1])
	e.fails(other, tookTooLong, "Start again")
	other.open(e.public + "/")
	other.at("Sign in")
}

func (e *errorPages) notAnswering(t *testing.T) {
	for _, how := range []string{"503", "gone"} {
		t.Run(how, func(t *testing.T) {
			p := e.visitor(t, "/tokens")
			e.first.answer(how, "/token")
			defer e.first.answer("")
			p.signInAs("patient")
			e.fails(p, university+" is not answering", "Try again")
			e.first.answer("")
			p.follow("Try again")
			p.signInAs("patient")
			e.arrives(p, "/tokens")
		})
	}
}

// A person who is connected already reads how long their work goes on.
func (e *errorPages) notAnsweringConnected(t *testing.T) {
	p := e.member(t, "steady")
	p.follow("Connect " + commons)
	p.signInAs("steady")
	p.at("Connections")
	p.open(e.public + "/oauth2/authorization_url?idp=second&redirect=/tokens")
	e.second.answer("503", "/token")
	defer e.second.answer("")
	p.signInAs("steady")
	if shown := e.fails(p, commons+" is not answering", "Try again"); !regexp.MustCompile(`running goes on until \d\d:\d\d`).MatchString(shown.Text) {
		t.Errorf("the page does not say until when work goes on:\n%s", shown.Text)
	}
	e.second.answer("")
	p.follow("Try again")
	p.signInAs("steady")
	e.arrives(p, "/tokens")
}

// That wts is not registered with its redirect URI is told by the provider, which sends no one back.
func (e *errorPages) notRegistered(t *testing.T) {
	p := e.member(t, "curator")
	p.follow("Connect Example Museum")
	p.reads("redirect_uri")
	p.do("back", with{}, nil)
	p.at("Connections")
}

func (e *errorPages) noDiscovery(t *testing.T) {
	p := e.member(t, "stargazer")
	p.follow("Connect Example Observatory")
	e.fails(p, "Example Observatory is not answering", "Try again")
	p.follow("Try again")
	p.at("Example Observatory is not answering")
	p.follow("Back")
	p.at("Connections")
}

func (e *errorPages) unknownClient(t *testing.T) {
	p := e.member(t, "archivist")
	p.follow("Connect Example Archive")
	p.signInAs("archivist")
	e.fails(p, "Example Archive does not know this service", "Tell your operator")
	if leads := p.leads("Tell your operator"); !strings.HasPrefix(leads, "https://help.example.org/wts") {
		t.Errorf("the button leads to %s", leads)
	}
}

func (e *errorPages) noRefreshToken(t *testing.T) {
	p := e.member(t, "reader")
	p.open(e.public + "/oauth2/authorization_url?idp=fleeting&redirect=/tokens")
	p.signInAs("reader")
	title := p.page().Heading
	if !regexp.MustCompile(`^Signed in, but only until \d\d:\d\d( \S+)?$`).MatchString(title) {
		t.Errorf("got the title %q", title)
	}
	e.fails(p, title, "Tell your operator")
	p.follow("Continue")
	e.arrives(p, "/tokens")
}

func (e *errorPages) anotherAccount(t *testing.T) {
	p := e.member(t, "janus")
	p.follow("Connect " + commons)
	p.signInAs("janus-one")
	p.at("Connections")
	p.forget("127.0.0.3")
	p.open(e.public + "/oauth2/authorization_url?idp=second&redirect=/tokens")
	p.signInAs("janus-two")
	e.fails(p, "You are connected as janus-one, and signed in there as janus-two", "Keep janus-one")
	p.follow("Keep janus-one")
	e.arrives(p, "/tokens")
	p.do("back", with{}, nil)
	p.press("Disconnect janus-one and connect janus-two")
	p.signInAs("janus-two")
	e.arrives(p, "/tokens")
	p.follow("Connections")
	p.reads("janus-two")
}

func (e *errorPages) disabled(t *testing.T) {
	p := e.member(t, "gone")
	p.forget("localhost")
	p.open(e.public + "/oauth2/authorization_url?redirect=/tokens")
	e.Run(t, "users", "disable", "gone")
	p.signInAs("gone")
	shown := e.fails(p, "Your account is disabled", "Tell your operator")
	if want := []string{"Tell your operator", "Log out", "Copy for support"}; !slices.Equal(shown.Buttons, want) {
		t.Errorf("got the buttons %q, want %q", shown.Buttons, want)
	}
}

func (e *errorPages) fromAnotherSite(t *testing.T) {
	address := e.public + "/oauth2/authorization_url?idp=second&redirect=/tokens"
	listener, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<!doctype html><title>a site</title><a href="` + address + `">free data</a> <img alt="" src="` + address + `"><iframe src="` + address + `"></iframe>`))
	}))
	_ = site.Listener.Close()
	site.Listener = listener
	site.Start()
	defer site.Close()

	p := e.member(t, "curious")
	asked := e.second.requests()
	p.open(site.URL)
	if now := e.second.requests(); now != asked {
		t.Errorf("pictures and frames of another site led to %d requests at the provider", now-asked)
	}
	p.follow("free data")
	e.fails(p, "Connect "+commons+"?", "Connect")
	if now := e.second.requests(); now != asked {
		t.Errorf("the link of another site led to %d requests at the provider", now-asked)
	}
	p.follow("Cancel")
	p.at("Connections")
	p.do("back", with{}, nil)
	p.follow("Connect")
	p.signInAs("curious")
	e.arrives(p, "/tokens")
}

func (e *errorPages) noSuchPage(t *testing.T) {
	p := e.browser.person(t, "lost", way{})
	p.open(e.public + "/nothing")
	e.fails(p, "There is no page here", "Home")
	p.follow("Home")
	p.at("Sign in")
}

func (e *errorPages) noSuchMethod(t *testing.T) {
	p := e.browser.person(t, "lost", way{})
	p.open(e.public + "/tokens/revoke")
	e.fails(p, p.page().Heading, "Home")
	p.follow("Home")
	p.at("Sign in")
}

func (e *errorPages) tooMany(t *testing.T) {
	p := e.member(t, "hasty")
	for range 5 {
		p.open(e.public + "/tokens/new")
		p.fill("Name", "ci")
		p.choose("radio", "service")
		p.choose("checkbox", "read")
		p.press("Create token")
		if p.page().Heading != "API tokens" {
			break
		}
	}
	shown := p.at("Too many changes at once")
	if !slices.Equal(shown.Primary, []string{"Back"}) || ofPrograms.MatchString(shown.Text) {
		t.Errorf("got %q: %s", shown.Primary, shown.Text)
	}
	p.look(e.shots, "error-too-many")
	p.follow("Back")
	e.arrives(p, "/tokens")
}
