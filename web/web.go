// Package web is what a person sees: a page for their connections, and a small page where
// something went wrong. Templates and a stylesheet, no script.
package web

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"time"
)

//go:embed *.html
var files embed.FS

//go:embed wts.css
var stylesheet string

var templates = template.Must(template.ParseFS(files, "*.html"))

// Stylesheet is served at /static/wts.css.
func Stylesheet() string { return stylesheet }

// Policy is the Content-Security-Policy of every page: our stylesheet, our forms, nothing else.
const Policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

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

func render(w io.Writer, name, base string, content any) error {
	if err := templates.ExecuteTemplate(w, name, struct {
		Base    string
		Content any
	}{base, content}); err != nil {
		return fmt.Errorf("rendering %s: %w", name, err)
	}
	return nil
}
