// Package web is what a person sees: a page for their connections, and a small page where
// something went wrong. Templates and a stylesheet, no script.
package web

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

//go:embed *.html
var files embed.FS

//go:embed wts.css
var stylesheet string

var templates = template.Must(template.New("").Funcs(template.FuncMap{"prose": prose}).ParseFS(files, "*.html"))

// Stylesheet is served at /static/wts.css.
func Stylesheet() string { return stylesheet }

// Policy is the Content-Security-Policy of every page: our stylesheet, our forms, nothing else.
const Policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// PolicyOf is the policy of a page: Policy, and where its form leads on to another site, that too, since browsers take
// the redirect that answers a form for its target.
func PolicyOf(content Content) string {
	if asks, ok := content.(Consent); ok && asks.Target != "" {
		return strings.Replace(Policy, "form-action 'self'", "form-action 'self' "+asks.Target, 1)
	}
	return Policy
}

// Content is a page's content. Base is the path under which the service lives.
type Content interface {
	Render(w io.Writer, base string) error
}

// Message is a page that says one thing, and the way on.
type Message struct {
	Title, Text string
	RequestID   string // for an operator who is asked for help
	Steps       []Step // the ways on, the best one first
}

// Step is a way on: a link, or a button that posts. The address is a path of this host.
type Step struct {
	Label, Address string
	Post           bool
}

// Render implements Content.
func (m Message) Render(w io.Writer, base string) error { return render(w, "message.html", base, m) }

// Home is the page of a person's connections; Username is empty while nobody is signed in.
type Home struct {
	Username  string
	Providers []Provider
}

// Provider is one line of it.
type Provider struct {
	ID, Name              string
	Default               bool
	Connected, LoginAgain bool
	Ends                  time.Time // zero: it states no end
}

// Render implements Content.
func (h Home) Render(w io.Writer, base string) error { return render(w, "home.html", base, h) }

// Consent is the page that asks whether a program may act for a person.
type Consent struct {
	Client, Username string
	// Site is where the browser is sent back to, and Target the same as the policy of a page says it; Address and Agent are those of a program that shows a code instead.
	Site, Target               string
	Code, Address, Agent, Here string // of a program that shows a code instead; Here is the person's own address
	Own                        bool   // it asks for tokens of wts itself, whose scopes have words
	Audience                   string
	Scopes                     []string
	Lasting                    bool // it goes on without the person
	Action                     string
	Fields                     []Field // what the form sends again
}

// Words say what a scope of wts itself lets a program do; empty for others.
func (c Consent) Words(scope string) string {
	if provider, ok := strings.CutPrefix(scope, "provider:"); ok && c.Own {
		return "get your access tokens of " + provider
	}
	if !c.Own {
		return ""
	}
	return map[string]string{
		"token": "get tokens that wts makes for you", "api:read": "see your API tokens, resources and sessions", "api": "change and end your API tokens, resources and sessions",
		"api:create": "make API tokens in your name, which go on when the program itself was ended",
	}[scope]
}

// Elsewhere tells a program that asks from another address than the person's.
func (c Consent) Elsewhere() bool { return c.Address != c.Here }

// Field is a field of a form that is not shown.
type Field struct{ Name, Value string }

// Render implements Content.
func (c Consent) Render(w io.Writer, base string) error { return render(w, "consent.html", base, c) }

// Device is the page on which a person types the code that a program shows. Unknown: no program shows that one.
type Device struct{ Unknown bool }

// Render implements Content.
func (d Device) Render(w io.Writer, base string) error { return render(w, "device.html", base, d) }

func render(w io.Writer, name, base string, content any) error {
	if err := templates.ExecuteTemplate(w, name, struct {
		Base    string
		Content any
	}{base, content}); err != nil {
		return fmt.Errorf("rendering %s: %w", name, err)
	}
	return nil
}
