package main

import (
	"embed"
	"html/template"
	"net/http"
	"net/url"
)

//go:embed page.html page.js
var files embed.FS

// page is what a person sees: the public projects, and after a login their own private ones.
type page struct {
	shelf *shelf
	login string // where wts is for the browser; empty where this host hands /auth/ on
}

func (p *page) routes(mux *http.ServeMux) {
	view := template.Must(template.ParseFS(files, "page.html"))
	show := func(w http.ResponseWriter, _ *http.Request) {
		connect := "'self'"
		if at, err := url.Parse(p.login); err == nil && at.Host != "" {
			connect += " " + at.Scheme + "://" + at.Host
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; connect-src "+connect+"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Referrer-Policy", "no-referrer") // the address of a login's way back holds its code
		w.Header().Set("Cache-Control", "no-store")
		public := p.shelf.list(func(p *project) bool { return !p.Private })
		_ = view.Execute(w, map[string]any{"Login": p.login, "Projects": public}) // the browser is gone
	}
	mux.HandleFunc("GET /{$}", show)
	mux.HandleFunc("GET /callback", show)
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "page.js") })
}
