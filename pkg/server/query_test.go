package server

import (
	"net/url"
	"strings"
	"testing"
)

// Security.md A7.
func TestWhereABrowserMayBeSent(t *testing.T) {
	for text, want := range map[string]bool{
		"/":                                true,
		"/workspace":                       true,
		"/a/b?c=d&e=/f":                    true,
		"/oauth2/authorization_url?idp=x":  true,
		"/a%20b":                           true,
		"/search?q=100%25":                 true,
		"/back?to=https://example.org":     true,
		"/a:b":                             true,
		"":                                 false,
		"workspace":                        false,
		"//evil.com":                       false,
		"//evil.com/x":                     false,
		"///evil.com":                      false,
		"/\\evil.com":                      false,
		"\\/evil.com":                      false,
		"\\\\evil.com":                     false,
		"/%2f%2fevil.com":                  false,
		"/%2fevil.com":                     false,
		"/%252fevil.com":                   false,
		"/%5cevil.com":                     false,
		"/\tevil":                          false,
		"\t//evil.com":                     false,
		"/\n/evil.com":                     false,
		"/%09/evil.com":                    false,
		" //evil.com":                      false,
		"https://evil.com":                 false,
		"HTTPS:evil.com":                   false,
		"javascript:alert(1)":              false,
		"data:text/html,x":                 false,
		"https://wts.example.org@evil.com": false,
		"/%zz":                             false,
		"/a\x00b":                          false,
		"/" + strings.Repeat("a", 4000):    true,
		"/" + strings.Repeat("a", 4096):    false,
	} {
		t.Run(text, func(t *testing.T) {
			if got := localPath(text); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Whatever is accepted, a browser resolves it to the same origin. Browsers read "\" as "/" and drop
// tabs and line breaks; net/url does neither, so the fuzzer does.
func FuzzLocalPath(f *testing.F) {
	for _, seed := range []string{"/a", "//evil.com", "/\\evil.com", "/%2f%2fevil.com", "/%5c%5cevil.com", "/\t/evil.com", "https://evil.com"} {
		f.Add(seed)
	}
	base, _ := url.Parse("https://wts.example.org/oauth2/authorize")
	f.Fuzz(func(t *testing.T, text string) {
		if !localPath(text) {
			return
		}
		for range 3 {
			read := strings.NewReplacer("\\", "/", "\t", "", "\n", "", "\r", "").Replace(strings.TrimSpace(text))
			target, err := base.Parse(read)
			if err != nil || target.Host != base.Host || target.Scheme != base.Scheme || strings.HasPrefix(read, "//") {
				t.Fatalf("%q is accepted, and leads to %v, %v", text, target, err)
			}
			if text, err = url.PathUnescape(text); err != nil {
				return
			}
			if strings.Contains(text, "?") {
				return
			}
		}
	})
}

func TestParametersAreReadAsNetURLReadsThem(t *testing.T) {
	for _, query := range []string{"", "a=b", "a=b&a=c", "x=y&a=b", "a", "a=", "a=%20b", "a=b+c", "%61=b", "a=b=c", "&&a=b", "a=%zz", "b=a", "A=b"} {
		t.Run(query, func(t *testing.T) {
			values, _ := url.ParseQuery(query)
			want, has := values.Get("a"), values.Has("a")
			if query == "a=%zz" {
				want, has = "%zz", true // net/url drops it; we keep it, so that its handler refuses it
			}
			if got, present := paramOf(query, "a"); got != want || present != has {
				t.Errorf("got %q %v, want %q %v", got, present, want, has)
			}
		})
	}
}
