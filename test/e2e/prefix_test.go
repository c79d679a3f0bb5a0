//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// revproxy is Gen3's: what is below /wts/ goes to wts without that, and the cookie access_token becomes the bearer. All
// else is the portal's. It returns the address of wts for browsers.
func revproxy(t *testing.T, port int, portal http.Handler) (public string) {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.URL.Path, r.Out.URL.RawPath = "/"+strings.TrimPrefix(strings.TrimPrefix(r.In.URL.Path, "/wts"), "/"), ""
		r.Out.Host = r.In.Host
		if cookie, err := r.In.Cookie("access_token"); err == nil && r.In.Header.Get("Authorization") == "" {
			r.Out.Header.Set("Authorization", "bearer "+cookie.Value)
		}
	}}
	mux := http.NewServeMux()
	mux.Handle("/wts/", proxy)
	mux.Handle("/", portal)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return fmt.Sprintf("http://localhost:%d/wts", listener.Addr().(*net.TCPAddr).Port)
}

// Behind a proxy that strips a prefix, people do the same, and every link, form and asset of each view stays below it.
func TestBelowAPrefixInABrowser(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{behind: func(t *testing.T, port int) string { return revproxy(t, port, http.NotFoundHandler()) }})
	browser := startBrowser(t)
	visitor := browser.person(t, "visitor", way{})
	visitor.open(h.public + "/tokens")
	visitor.at("Sign in")
	h.staysBelow(visitor)
	visitor.open(h.public + "/nothing")
	h.staysBelow(visitor)

	s := &story{h, t, way{}, "prefixed", browser.person(t, "alice", way{})}
	s.connects(t)
	s.makesAToken(t)
	s.sharesAResource(t)
	s.letsAProgramIn(t)
	root := browser.person(t, "root", way{})
	h.signIn(root, "root")
	for p, views := range map[*person][]string{
		s.alice: {"/", "/tokens", "/tokens/new", "/resources", "/resources/service/plugin-prefixed", "/activity", "/activity/not-me", "/sessions", "/device", "/docs", "/failed?error=401"},
		root:    {"/admin"},
	} {
		for _, view := range views {
			p.open(h.public + view)
			h.staysBelow(p)
		}
		p.calm()
	}
}

// staysBelow follows every link of a page.
func (h *house) staysBelow(p *person) {
	p.t.Helper()
	own, err := url.Parse(h.public)
	if err != nil {
		p.t.Fatal(err)
	}
	here := p.page().URL
	if !strings.HasPrefix(here, h.public+"/") {
		p.t.Errorf("the browser is at %s, which is not below %s", here, h.public)
	}
	logout := h.public + "/oauth2/logout" // which ends the session, also by GET
	for _, link := range p.links(logout, h.public+"/openapi.yaml", h.public+"/oauth2/authorization_url?idp=dark") {
		if !strings.HasPrefix(link.Written, own.Path+"/") && !strings.HasPrefix(link.Written, h.public+"/") {
			p.t.Errorf("%s refers to %s, which is not below %s", here, link.Written, own.Path)
		}
		if link.Status == http.StatusNotFound || !link.Form && link.Status >= 400 {
			p.t.Errorf("%s refers to %s, which answers %d", here, link.Written, link.Status)
		}
	}
}
