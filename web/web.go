// Package web is what a person sees: the views of what is theirs, and a page of its own for each way in which
// something goes wrong.
//
// It owns templates, words and looks, and is given what they show. It decides nothing: who sees what is the server's.
package web

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed views/*.html
var views embed.FS

// Policy is the Content-Security-Policy of every page: our own style, script, pictures and forms, nothing else.
const Policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// PolicyOf is the policy of a page: Policy, and where its form leads on to another site, that too, since browsers take
// the redirect that answers a form for its target.
func PolicyOf(content Content) string {
	if asks, ok := content.(Consent); ok && asks.Target != "" {
		return strings.Replace(Policy, "form-action 'self'", "form-action 'self' "+asks.Target, 1)
	}
	return Policy
}

// Content is what stands within the frame: one of this package's views.
type Content interface{ page() page }

// page is what the frame has to know of a view.
type page struct {
	file, title string
	view        string // of the list of views, the one that this is
	wide        bool
	refresh     string // where a browser goes on by itself
}

// Notice says on the next page what an action did.
type Notice struct {
	Text    string
	Warning bool
}

// Frame is what stands around every view.
type Frame struct {
	// Person is who is signed in; empty where there is no list of views.
	Person string
	Admin  bool
	Notice *Notice
}

// View is an entry of the list of views.
type View struct{ Name, Path string }

// The views, in their order.
const (
	ViewConnections = "Connections"
	ViewTokens      = "Tokens"
	ViewResources   = "Resources"
	ViewActivity    = "Activity"
	ViewSessions    = "Sessions"
	ViewAdmin       = "Admin"
)

var listed = []View{
	{ViewConnections, "/"}, {ViewTokens, "/tokens"}, {ViewResources, "/resources"}, {ViewActivity, "/activity"}, {ViewSessions, "/sessions"}, {ViewAdmin, "/admin"},
}

// Site renders pages. It is safe for concurrent use.
type Site struct {
	// Title is the organisation's name, and Support where people find help: a URL, empty where none is configured.
	Title, Support string
	// Style, Script, Mark and Icon are the paths of assets, below the path under which the service lives.
	Style, Script, Mark, Icon string

	base      string // the path under which the service lives, without a slash at its end
	assets    map[string]asset
	templates *template.Template
}

// New makes the pages of a service that lives under a path. The configuration has to be valid; its error is that of the
// logo's file.
func New(config Config, base string) (*Site, error) {
	site := &Site{
		Title: config.Title, Support: config.SupportURL, base: base, assets: map[string]asset{},
		templates: template.Must(template.New("").Funcs(template.FuncMap{"prose": prose, "stamp": stamp, "day": day, "hour": hour, "count": count}).ParseFS(views, "views/*.html")),
	}
	if site.Title == "" {
		site.Title = "Workspace tokens"
	}
	return site, site.load(config)
}

// Write writes a page: a view in its frame. The error is that of the writer, or of a template.
func (s *Site) Write(w io.Writer, frame Frame, content Content) error {
	of := content.page()
	shown := listed
	if !frame.Admin {
		shown = listed[:len(listed)-1]
	}
	if err := s.templates.ExecuteTemplate(w, of.file, struct {
		Base, Title, Refresh, View string
		Wide                       bool
		Site                       *Site
		Frame                      Frame
		Views                      []View
		Content                    Content
	}{s.base, of.title, of.refresh, of.view, of.wide, s, frame, shown, content}); err != nil {
		return fmt.Errorf("rendering %s: %w", of.file, err)
	}
	return nil
}

// Asset answers for a file of the pages by its name, with which a digest of its content goes: the browser may keep it
// for ever. Another digest is that of another release, whose page a browser got from another replica: it gets this
// one's, and does not keep it.
func (s *Site) Asset(w http.ResponseWriter, name string) bool {
	parts := strings.Split(name, ".")
	if len(parts) != 3 {
		return false
	}
	found, ok := s.assets[parts[0]+"."+parts[2]]
	if !ok {
		return false
	}
	header := w.Header()
	header.Set("Content-Type", found.kind)
	header.Set("Cache-Control", "no-store")
	if parts[1] == found.digest {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if strings.HasPrefix(found.kind, "image/svg") { // a logo is a picture, whatever else it holds
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	}
	_, _ = w.Write(found.content)
	return true
}

// count says how many there are of a thing.
func count(number int, thing string) string {
	if number == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(number) + " " + thing + "s"
}

// stamp shows a time with its zone. A script makes it relative, and keeps the whole for readers and on hover.
func stamp(at time.Time) template.HTML { return shown(at, "2 Jan 2006, 15:04 MST", "ago") }

// day shows the day of a time.
func day(at time.Time) template.HTML { return shown(at, "2 Jan 2006", "") }

// hour shows the time of a day; a script gives it in the person's own zone.
func hour(at time.Time) template.HTML { return shown(at, "15:04 MST", "hour") }

func shown(at time.Time, layout, as string) template.HTML {
	if at.IsZero() {
		return ""
	}
	at = at.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s" data-as="%s">%s</time>`, //nolint:gosec // of a time alone
		at.Format(time.RFC3339), at.Format("2 January 2006, 15:04:05 MST"), as, at.Format(layout)))
}
