package web_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/web"
)

func newSite(t *testing.T, config web.Config) *web.Site {
	t.Helper()
	site, err := web.New(config, "/wts")
	if err != nil {
		t.Fatal(err)
	}
	return site
}

func render(t *testing.T, frame web.Frame, content web.Content) string {
	t.Helper()
	var page strings.Builder
	if err := newSite(t, web.Config{SupportURL: "https://help.example.org"}).Write(&page, frame, content); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

const hostile = `"><script>alert(1)</script>`

// fill puts a value into every field of a view, so that each branch of its template has something to show.
func fill(value reflect.Value) {
	switch value.Kind() { //nolint:exhaustive // views have fields of these kinds
	case reflect.String:
		value.SetString(hostile)
	case reflect.Bool:
		value.SetBool(true)
	case reflect.Int, reflect.Int64:
		value.SetInt(2)
	case reflect.Pointer:
		value.Set(reflect.New(value.Type().Elem()))
		fill(value.Elem())
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 2, 2))
		fill(value.Index(0))
		fill(value.Index(1))
	case reflect.Struct:
		if value.Type() == reflect.TypeFor[time.Time]() {
			value.Set(reflect.ValueOf(time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)))
			return
		}
		for i := range value.NumField() {
			if value.Field(i).CanSet() {
				fill(value.Field(i))
			}
		}
	}
}

// views are all of them, empty.
func views() map[string]web.Content {
	return map[string]web.Content{
		"message": &web.Message{}, "sign in": &web.SignIn{}, "connections": &web.Connections{}, "tokens": &web.Tokens{}, "new token": &web.NewToken{}, "resources": &web.Resources{},
		"resource": &web.Resource{}, "sessions": &web.Sessions{}, "consent": &web.Consent{}, "device": &web.Device{}, "activity": &web.Activity{}, "not me": &web.NotMe{},
		"admin": &web.Admin{}, "integrations": &web.Integrations{}, "integration": &web.Integration{}, "docs": &web.Docs{},
	}
}

// script is the one that every page has.
var script = regexp.MustCompile(`<script src="/wts/static/wts\.[0-9a-f]{12}\.js" defer></script>`)

func TestPagesEscapeWhatTheyShow(t *testing.T) {
	for name, content := range views() {
		t.Run(name, func(t *testing.T) {
			fill(reflect.ValueOf(content).Elem())
			frame := web.Frame{Person: hostile, Admin: true, Notice: &web.Notice{Text: hostile}}
			page := render(t, frame, content)
			rest := script.ReplaceAllString(page, "")
			if strings.Contains(rest, "<script") || !strings.Contains(rest, "&lt;script&gt;") {
				t.Errorf("%s:\n%s", name, page)
			}
			if rest == page || strings.Contains(page, "style=") || strings.Contains(page, "onclick") {
				t.Errorf("%s needs what its policy forbids, or forgets where it lives:\n%s", name, page)
			}
			if count := strings.Count(page, "<h1"); count != 1 {
				t.Errorf("%s has %d titles, want 1", name, count)
			}
		})
	}
}

// Each view also stands with nothing in it, and without anybody.
func TestEmptyPages(t *testing.T) {
	for name, content := range views() {
		t.Run(name, func(t *testing.T) {
			if page := render(t, web.Frame{}, content); strings.Contains(page, "Log out") || strings.Contains(page, "<nav aria-label=\"Views\"") {
				t.Errorf("%s is for who is signed in:\n%s", name, page)
			}
		})
	}
}

func TestTheFrame(t *testing.T) {
	page := render(t, web.Frame{Person: "alice", Notice: &web.Notice{Text: "It is done."}}, web.Tokens{})
	for _, want := range []string{
		"<title>API tokens · Workspace tokens</title>", `<a href="/wts/tokens" aria-current="page">Tokens</a>`, `<a href="/wts/">Connections</a>`, `role="status"`, "It is done.",
		`action="/wts/oauth2/logout"`, `href="https://help.example.org"`, `rel="icon" href="/wts/static/mark.`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in:\n%s", want, page)
		}
	}
	if strings.Contains(page, "/admin") {
		t.Error("the view of admins is listed for everybody")
	}
	if page := render(t, web.Frame{Person: "root", Admin: true}, web.Admin{}); !strings.Contains(page, `<a href="/wts/admin" aria-current="page">Admin</a>`) {
		t.Errorf("an admin does not find their view:\n%s", page)
	}
}

func TestAssets(t *testing.T) {
	site := newSite(t, web.Config{Colour: "#7a1f5c"})
	total := 0
	for _, path := range []string{site.Style, site.Script, site.Mark} {
		t.Run(path, func(t *testing.T) {
			w := httptest.NewRecorder()
			name := strings.TrimPrefix(path, "/static/")
			if !site.Asset(w, name) || w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
				t.Fatalf("%s: %v", path, w.Header())
			}
			total += w.Body.Len()
			if strings.Contains(w.Body.String(), "$accent") || strings.Contains(w.Body.String(), "$pale") {
				t.Errorf("%s has a colour left open", path)
			}
			parts := strings.Split(name, ".")
			other := httptest.NewRecorder()
			if !site.Asset(other, parts[0]+".000000000000."+parts[2]) || other.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("that of another release is kept: %v", other.Header())
			}
		})
	}
	if total >= 40<<10 {
		t.Errorf("style, script and mark are %d bytes, want less than 40 kB", total)
	}
	t.Logf("style, script and mark: %d bytes", total)
	for _, name := range []string{"", "wts.css", "wts.x.html", "../wts.x.css", "a.b.c.d"} {
		if site.Asset(httptest.NewRecorder(), name) {
			t.Errorf("%q is an asset", name)
		}
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	png := "\x89PNG\r\n\x1a\n" + strings.Repeat("x", 100)
	tests := map[string]struct {
		config web.Config
		want   string // of the fault; empty for none
	}{
		"nothing":            {config: web.Config{}},
		"all of it":          {config: web.Config{Title: "Example Commons", LogoFile: file("logo.png", png), SupportURL: "mailto:help@example.org", Colour: "#7A1F5C"}},
		"an SVG":             {config: web.Config{LogoFile: file("logo.svg", `<svg xmlns="http://www.w3.org/2000/svg"></svg>`)}},
		"a long title":       {config: web.Config{Title: strings.Repeat("x", 61)}, want: "page.title: has 61 bytes"},
		"a script":           {config: web.Config{SupportURL: "javascript:alert(1)"}, want: "page.support_url"},
		"a name of a colour": {config: web.Config{Colour: "red"}, want: `page.colour: is "red"`},
		"a light colour":     {config: web.Config{Colour: "#ffcc00"}, want: "page.colour: #ffcc00 has a contrast of 1.5"},
		"no file":            {config: web.Config{LogoFile: filepath.Join(dir, "none.png")}, want: "page.logo_file"},
		"no picture":         {config: web.Config{LogoFile: file("logo.html", "<html><script></script></html>")}, want: "is no SVG, PNG, JPEG or WebP"},
		"a large picture":    {config: web.Config{LogoFile: file("large.png", png+strings.Repeat("x", 100<<10))}, want: "want at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.config.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A logo may be anything that an SVG holds: opened by itself it runs nothing.
func TestALogoIsAPicture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logo.svg")
	if err := os.WriteFile(path, []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`), 0o600); err != nil {
		t.Fatal(err)
	}
	site := newSite(t, web.Config{LogoFile: path})
	w := httptest.NewRecorder()
	if !site.Asset(w, strings.TrimPrefix(site.Mark, "/static/")) || !strings.HasPrefix(site.Mark, "/static/logo.") {
		t.Fatalf("%s is no asset", site.Mark)
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "sandbox") || strings.Contains(policy, "script-src") || w.Code != http.StatusOK {
		t.Errorf("its policy is %q", policy)
	}
}

// The accent of dark pages can be read, whatever the operator's colour is.
func TestDarkAccent(t *testing.T) {
	for _, colour := range []string{"#000000", "#1f5fd1", "#7a1f5c", "#00502f", "#5b2a00"} {
		t.Run(colour, func(t *testing.T) {
			if got := web.Contrast(web.Lighten(colour), "#181b22"); got < 7 {
				t.Errorf("%s becomes %s, whose contrast is %.1f, want at least 7", colour, web.Lighten(colour), got)
			}
		})
	}
}

func TestChart(t *testing.T) {
	today := time.Date(2027, 1, 2, 3, 0, 0, 0, time.UTC)
	bars, from, most := web.Chart([]int64{0, 1, 400}, today)
	if from != "31 December" || most != "2 January" || len(bars) != 3 {
		t.Fatalf("from %q, most on %q, %d bars", from, most, len(bars))
	}
	if bars[0].Height != 0 || bars[1].Height != 2 || bars[2].Height != 80 || !bars[2].Most || bars[1].Most {
		t.Errorf("the bars are %+v; want none, one that can be seen, and the highest", bars)
	}
	if _, _, most := web.Chart(make([]int64, 30), today); most != "" {
		t.Errorf("of thirty empty days %q had most", most)
	}
}

func TestDeeds(t *testing.T) {
	tests := map[string]struct {
		deed                   web.Deed
		what, of, who, outcome string
	}{
		"a pod's":       {web.Deed{Action: "handout", Provider: "Example", Actor: "pod jupyter/alice-7f 81-2"}, "Token for", "Example", "workspace alice-7f", "given"},
		"a token's":     {web.Deed{Action: "mint", Audience: "pephub", Actor: "token X", TokenName: "lab"}, "Token for", "pephub", "API token “lab”", "given"},
		"a new token":   {web.Deed{Action: "create token", Audience: "pephub", Actor: "session 12", TokenName: "lab"}, "API token made", "“lab”", "you, in a browser", "done"},
		"a program's":   {web.Deed{Action: "mint", Audience: "wts", Actor: "login 12", Client: "wts-cli"}, "Token for", "wts", "program wts-cli", "given"},
		"refused":       {web.Deed{Action: "handout", Provider: "Example", Actor: "worker 10.0.0.7", Reason: "no"}, "Token for", "Example", "workspace at 10.0.0.7", "refused"},
		"not made":      {web.Deed{Action: "create token", Audience: "pephub", Actor: "session 12", Reason: "no"}, "Make an API token for", "pephub", "you, in a browser", "refused"},
		"an unknown":    {web.Deed{Action: "something new", Actor: "admin root"}, "something new", "", "admin root", "done"},
		"of a resource": {web.Deed{Action: "revoke token", Audience: "plugins", Resource: "atlas"}, "API token revoked", "atlas", "a browser", "done"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if d := test.deed; d.What() != test.what || d.Of() != test.of || d.Who() != test.who || d.Outcome() != test.outcome {
				t.Errorf("got %q %q by %q: %q; want %q %q by %q: %q", d.What(), d.Of(), d.Who(), d.Outcome(), test.what, test.of, test.who, test.outcome)
			}
		})
	}
}

func TestInitials(t *testing.T) {
	for name, want := range map[string]string{"Example University": "EU", "ORCID": "OR", "Example Data Commons": "EC", "x": "X", "": "", "Élan vital": "ÉV"} {
		t.Run(name, func(t *testing.T) {
			if got := (web.Card{Name: name}).Initials(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
