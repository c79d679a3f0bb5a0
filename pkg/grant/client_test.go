package grant

import (
	"net/url"
	"strings"
	"testing"
)

// A redirect URI is one that is registered, to the letter; of a loopback address but for the port (RFC 8252 7.3).
func TestRedirects(t *testing.T) {
	client := Client{RedirectURIs: []string{"https://a.example.org/back", "http://127.0.0.1/back", "http://[::1]:1/back?x=1", "org.example.app:/back", "http://localhost:8000/back"}}
	for text, want := range map[string]bool{
		"https://a.example.org/back": true, "http://127.0.0.1/back": true, "http://127.0.0.1:80/back": true, "http://127.0.0.1:65535/back": true,
		"http://[::1]:9/back?x=1": true, "org.example.app:/back": true, "http://localhost:8000/back": true,
		"": false, "https://a.example.org/back/": false, "https://a.example.org/back?": false, "https://a.example.org:443/back": false, "HTTPS://a.example.org/back": false,
		"https://A.example.org/back": false, "https://a.example.org/back#": false, "https://a.example.org/x/../back": false, "https://a.example.org/%62ack": false,
		"http://127.0.0.2/back": false, "http://127.0.0.1/Back": false, "http://127.0.0.1/back/": false, "https://127.0.0.1/back": false, "http://127.0.0.1/%62ack": false,
		"http://127.0.0.1:x/back": false, "http://127.0.0.1@evil.example.org/back": false, "http://evil.example.org:80@127.0.0.1/back": false,
		`http://127.0.0.1:1\@evil.example.org/back`: false, "http://127.0.0.1:1/back#@evil.example.org": false, "http://127.1/back": false, "http://2130706433/back": false,
		"http://[::1]:9/back": false, "http://[::1]:9/back?x=2": false, "http://localhost:8001/back": false, "http://127.0.0.1.evil.example.org/back": false,
		"org.example.app:/back2": false, "org.example.other:/back": false, "javascript:alert(1)": false, "http://127.0.0.1:8000//evil.example.org/back": false,
	} {
		t.Run(text, func(t *testing.T) {
			if got := client.redirects(text); got != want {
				t.Errorf("got %t, want %t", got, want)
			}
		})
	}
}

// Whatever address is let through leads to where one that is registered leads: another port of this machine at most.
func FuzzRedirects(f *testing.F) {
	registered := []string{"https://a.example.org/back", "http://127.0.0.1/back"}
	client := Client{RedirectURIs: registered}
	for _, seed := range append(registered, "http://127.0.0.1:8000/back", `http://127.0.0.1\@evil/back`, "http://127.0.0.1:1/back?", "https://a.example.org/back#x") {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !client.redirects(text) || text == registered[0] {
			return
		}
		parsed, err := url.Parse(text)
		if err != nil || parsed.Hostname() != "127.0.0.1" || parsed.Scheme != "http" || parsed.User != nil || parsed.EscapedPath() != "/back" || parsed.RawQuery != "" || strings.ContainsAny(text, "\\#@ \t\n") {
			t.Errorf("%q is let through, which leads elsewhere", text)
		}
	})
}

// A user code is read however a person types it.
func TestUserCodes(t *testing.T) {
	for range 100 {
		code := newUserCode()
		plain := plainUserCode(code)
		if len(code) != 9 || code[4] != '-' || len(plain) != 8 {
			t.Fatalf("got %q, want eight letters with a hyphen between", code)
		}
		for _, typed := range []string{strings.ToLower(code), " " + code[:4] + " " + code[5:] + "\n", plain} {
			if plainUserCode(typed) != plain {
				t.Errorf("%q is not read as %q", typed, code)
			}
		}
	}
}

// A refresh token is taken apart as it was put together, and nothing else is.
func TestParse(t *testing.T) {
	whole := prefix + strings.Repeat("A", partSize) + strings.Repeat("B", partSize)
	login, secret, ok := parse(whole)
	if !ok || login != loginDigest(strings.Repeat("A", partSize)) || secret != digestOf(strings.Repeat("B", partSize)) || login == digestOf(strings.Repeat("A", partSize)) {
		t.Errorf("got %v %v %t", login, secret, ok)
	}
	for _, text := range []string{"", prefix, whole[1:], whole + "C", whole[:len(whole)-1], strings.ToUpper(whole)} {
		if _, _, ok := parse(text); ok {
			t.Errorf("%q is accepted as one", text)
		}
	}
}

// What is served at /auth names its audience, and addresses that no program of the person's machine can take.
func TestAuthConfig(t *testing.T) {
	for name, row := range map[string]struct {
		config AuthConfig
		want   string // in the fault; empty for none
	}{
		"nothing":               {AuthConfig{}, ""},
		"a hub":                 {AuthConfig{Audience: "hub", RedirectURIs: []string{"https://hub.example.org/back", "http://localhost:8000/back"}, Origins: []string{"https://hub.example.org"}}, ""},
		"no audience":           {AuthConfig{RedirectURIs: []string{"https://hub.example.org/back"}}, "auth.audience: is missing"},
		"a name alone":          {AuthConfig{Name: "The hub"}, "auth.audience: is missing"},
		"an unknown audience":   {AuthConfig{Audience: "other"}, `auth.audiences[0]: "other" is not among audiences`},
		"http elsewhere":        {AuthConfig{Audience: "hub", RedirectURIs: []string{"http://hub.example.org/back"}}, "auth.redirect_uris[0]"},
		"a scheme of its own":   {AuthConfig{Audience: "hub", RedirectURIs: []string{"org.example.app:/back"}}, "auth.redirect_uris[0]: want https"},
		"an origin with a path": {AuthConfig{Audience: "hub", Origins: []string{"https://hub.example.org/x"}}, "auth.origins[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Config{Auth: row.config}.Validate(func(id string) bool { return id == "hub" })
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
