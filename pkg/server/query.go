package server

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// param returns the first value of a query parameter. It reads the query as it stands, without the
// map of all parameters that url.ParseQuery makes for each request. A value that is badly escaped
// is taken as it is: no parameter of ours is then valid, and its handler says so.
func (x *exchange) param(name string) (value string, present bool) {
	return paramOf(x.Request.URL.RawQuery, name)
}

// paramOf reads one parameter, the first of its name.
func paramOf(query, name string) (value string, present bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if unescaped(key) == name {
			return unescaped(value), true
		}
	}
	return "", false
}

// unescaped is a part of a query as it was meant; one that is badly escaped stays as it is.
func unescaped(text string) string {
	if strings.ContainsAny(text, "%+") {
		if clear, err := url.QueryUnescape(text); err == nil {
			text = clear
		}
	}
	if strings.IndexByte(text, 0) < 0 && utf8.ValidString(text) {
		return text
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD") // no database takes these for text
}

// localPath accepts a path of this very origin to send a browser to, and nothing that a browser
// could take for another host (RFC 9700 4.11): browsers read "\" as "/", drop tabs and line breaks,
// and unescape before they look.
func localPath(text string) bool {
	if len(text) > maxRedirect || !strings.HasPrefix(text, "/") {
		return false
	}
	for range 3 { // as often as a proxy or a page may unescape it on the way
		if hostile(text) {
			return false
		}
		path, _, _ := strings.Cut(text, "?")
		clear, err := url.PathUnescape(path)
		if err != nil {
			return false
		}
		if clear == path {
			break
		}
		text = clear
	}
	parsed, err := url.Parse(text)
	return err == nil && parsed.Scheme == "" && parsed.Host == "" && parsed.User == nil
}

const maxRedirect = 4096 // bytes (Gen3 contract 1.4); it travels in cookies

// escapedPath is a local path as it may stand in a Location (RFC 9110 10.2.2): blanks and what is not
// ASCII are escaped.
func escapedPath(path string) string {
	var escaped strings.Builder
	for i := range len(path) {
		if octet := path[i]; octet <= ' ' || octet >= 0x7f || strings.IndexByte("\"<>^`{|}", octet) >= 0 {
			fmt.Fprintf(&escaped, "%%%02X", octet)
		} else {
			escaped.WriteByte(octet)
		}
	}
	return escaped.String()
}

// cut shortens input that an answer or a log repeats (rule F2).
func cut(text string) string {
	const most = 64 // bytes
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func withName(text, name string) string { return strings.ReplaceAll(text, "%s", name) }

// hostile tells a path that a browser may take for another host, or that holds what no path does.
func hostile(text string) bool {
	for i := range len(text) {
		if text[i] < 0x20 || text[i] == 0x7f || text[i] == '\\' {
			return true
		}
	}
	return strings.HasPrefix(text, "//")
}
