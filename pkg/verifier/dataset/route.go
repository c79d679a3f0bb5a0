package dataset

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// termdb is the route whose aggregated data may be open.
const termdb = "termdb"

// pattern is a route of a rule: a word for a path and all below it, or a glob.
type pattern struct {
	text     string
	segments []string // of a glob; nil for a word
}

// newPattern reads a route. Any is every path. A glob begins with a slash; in it "**" is any number of segments, and the
// rest is that of path.Match. What else globs of shells have is refused: it would match something else than it says.
func newPattern(text string) (pattern, error) {
	if text == Any {
		text = "/**"
	}
	word := strings.TrimPrefix(text, "/")
	switch {
	case word == "":
		return pattern{}, errors.New(`a route is empty; "*" is for all`)
	case strings.ContainsAny(text, "{}()!+@"):
		return pattern{}, fmt.Errorf("the route %q has braces, parentheses or a negation; name each route", text)
	case !strings.ContainsAny(text, "/*?["):
		return pattern{text: text}, nil
	case !strings.HasPrefix(text, "/"):
		return pattern{}, fmt.Errorf("the route %q is neither a word nor does it begin with a slash", text)
	}
	// A segment that path.Match cannot read is found here, so that matching has no error that could let a request in.
	segments := strings.Split(word, "/")
	for _, segment := range segments {
		if _, err := path.Match(segment, ""); err != nil || segment != "**" && strings.Contains(segment, "**") {
			return pattern{}, fmt.Errorf("the route %q is no glob: %q", text, segment)
		}
	}
	return pattern{text, segments}, nil
}

// named tells whether a text is this route's.
func (p pattern) named(text string) bool {
	other, err := newPattern(text)
	return err == nil && other.text == p.text
}

// rank puts words first, and every path last.
func (p pattern) rank() int {
	switch {
	case p.segments == nil:
		return 0
	case p.text == "/**":
		return 2
	}
	return 1
}

// matches tells whether a path is of the route. A word does not match what only begins like it: /termdbx is no part of
// termdb, and is refused where no other rule names it.
func (p pattern) matches(name string) bool {
	name = strings.TrimPrefix(name, "/")
	if p.segments == nil {
		return name == p.text || strings.HasPrefix(name, p.text+"/")
	}
	return matchSegments(p.segments, strings.Split(name, "/"))
}

// matchSegments goes back to the last "**" only, so that no path takes more steps than segments times segments.
func matchSegments(glob, name []string) bool {
	at, star, from := 0, -1, 0
	for i := 0; i < len(name); {
		if at < len(glob) && glob[at] == "**" {
			star, from, at = at, i, at+1
			continue
		}
		if at < len(glob) {
			if same, err := path.Match(glob[at], name[i]); same && err == nil {
				at, i = at+1, i+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		at, i = star+1, from
	}
	for at < len(glob) && glob[at] == "**" {
		at++
	}
	return at == len(glob)
}

// needed tells whether a request has to show a token: on the route termdb, aggregated data may be open.
func (c *Credential) needed(route pattern, name, wanted string) bool {
	// Open is what a rule says is open: without a list of what is protected, all of it is.
	if route.text != termdb || len(c.Protected) == 0 {
		return true
	}
	for _, text := range append([]string{"matrix"}, c.Protected...) {
		protected, err := newPattern(text)
		switch {
		case err != nil: // which New refuses
			return true
		case protected.segments == nil && (wanted == text || slices.Contains(strings.Split(name, "/"), text)):
			return true
		case protected.segments != nil && protected.matches(name):
			return true
		}
	}
	return false
}
