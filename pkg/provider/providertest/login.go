package providertest

import (
	"context"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
)

var loginTemplate = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title>
<style>body{font:16px system-ui;max-width:22rem;margin:4rem auto;padding:0 1rem}label,input,button{display:block;width:100%;box-sizing:border-box}
input,button{font:inherit;padding:.5rem;margin:.2rem 0 1rem}.error{color:#a00}</style>
<h1>{{.Title}}</h1>{{with .Error}}<p class="error" role="alert">{{.}}</p>{{end}}
<form method="post" action="/login"><input type="hidden" name="request" value="{{.Request}}">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" autofocus required>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button></form></html>
`))

type loginPage struct {
	store  *storage
	title  string
	issuer string
	done   func(context.Context, string) string
}

func (p *loginPage) show(w http.ResponseWriter, r *http.Request) {
	p.render(w, http.StatusOK, r.URL.Query().Get("request"), "")
}

func (p *loginPage) submit(w http.ResponseWriter, r *http.Request) {
	id := r.PostFormValue("request")
	if err := p.store.logIn(id, r.PostFormValue("name"), r.PostFormValue("password")); err != nil {
		p.render(w, http.StatusForbidden, id, err.Error())
		return
	}
	http.Redirect(w, r, p.issuer+"/authorize/callback?id="+url.QueryEscape(id), http.StatusSeeOther)
}

func (p *loginPage) render(w http.ResponseWriter, status int, request, failure string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = loginTemplate.Execute(w, map[string]string{"Title": p.title, "Request": request, "Error": failure})
}

// Browser is a client that keeps cookies and follows redirects, and says that it navigates, as a
// browser does.
func Browser() *http.Client { return BrowserOver(http.DefaultTransport) }

// BrowserOver is a Browser on a network that only this transport reaches.
func BrowserOver(transport http.RoundTripper) *http.Client {
	jar, _ := cookiejar.New(nil) // fails for no options but ours, and there are none
	return &http.Client{Jar: jar, Transport: navigation{transport}}
}

type navigation struct{ next http.RoundTripper }

func (n navigation) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Sec-Fetch-Dest", "document")
	request.Header.Set("Sec-Fetch-Mode", "navigate")
	if request.Header.Get("Sec-Fetch-Site") == "" {
		request.Header.Set("Sec-Fetch-Site", "none") // the person typed the address
	}
	request.Header.Set("Accept", "text/html,*/*;q=0.8")
	return n.next.RoundTrip(request)
}

// Page is what a browser shows in the end.
type Page struct {
	Status int
	URL    *url.URL
	Header http.Header
	Body   string
}

// LogIn opens a URL in a browser, fills in the login page that it leads to, and returns the page
// that the browser ends at. It is how a person logs in, without the person.
func LogIn(ctx context.Context, browser *http.Client, address, name, password string) (Page, error) {
	page, err := Open(ctx, browser, address)
	if err != nil {
		return Page{}, err
	}
	id := page.URL.Query().Get("request")
	if id == "" || page.URL.Path != "/login" {
		return page, fmt.Errorf("%s led to %d %s, not to a login page", address, page.Status, page.URL.Path)
	}
	form := url.Values{"request": {id}, "name": {name}, "password": {password}}
	return fetch(ctx, browser, http.MethodPost, page.URL.Scheme+"://"+page.URL.Host+"/login", form)
}

// Open opens a URL in a browser.
func Open(ctx context.Context, browser *http.Client, address string) (Page, error) {
	return fetch(ctx, browser, http.MethodGet, address, nil)
}

func fetch(ctx context.Context, browser *http.Client, method, address string, form url.Values) (Page, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return Page{}, fmt.Errorf("a browser's request: %w", err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := browser.Do(request)
	if err != nil {
		return Page{}, fmt.Errorf("a browser's request: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return Page{}, fmt.Errorf("reading a page: %w", err)
	}
	return Page{Status: response.StatusCode, URL: response.Request.URL, Header: response.Header, Body: string(body)}, nil
}
