package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// site answers the requests.
type site struct {
	log    *slog.Logger
	wts    *authority
	tokens *verifier.Verifier
	shelf  *shelf
	page   *template.Template
}

//go:embed page.html
var pageText string

func newSite(ctx context.Context, wts *authority, shelf *shelf) (*site, error) {
	tokens, err := newVerifier(ctx, wts)
	if err != nil {
		return nil, err
	}
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, err
	}
	return &site{log: wts.log, wts: wts, tokens: tokens, shelf: shelf, page: page}, nil
}

// routes are the paths of the QGIS project's site, as its clients call them. To another method than a route's the mux
// answers 405 (RFC 9110 15.5.6), so that a GET of an upload's path is that.
func (s *site) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("POST /plugins/api/{package}/version/add/{$}", s.upload)
	mux.HandleFunc("POST /plugins/api/{package}/version/{version}/update/{$}", s.upload)
	mux.HandleFunc("POST /plugins/api/{package}/version/{version}/approve/{$}", s.approve)
	mux.HandleFunc("GET /plugins/{package}/json", s.showPlugin)
	mux.HandleFunc("GET /plugins/{package}/latest/json", s.showVersion)
	mux.HandleFunc("GET /plugins/{package}/version/{version}/json", s.showVersion)
	return mux
}

// index is the page for people: what there is, and what to type.
func (s *site) index(w http.ResponseWriter, r *http.Request) {
	names := s.shelf.names()
	example := "my_plugin"
	if len(names) > 0 {
		example = names[0]
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	err := s.page.Execute(w, map[string]any{"Plugins": names, "Example": example, "Site": "http://" + r.Host, "WTS": s.wts.url, "Audience": s.wts.audience})
	if err != nil {
		s.log.Error("the page", "error", err.Error())
	}
}

// failure is the body of an answer that is not good.
type failure struct {
	Success bool   `json:"success"`
	Error   string `json:"error"`
	Errors  faults `json:"errors,omitempty"`
}

// refuse answers an error: the one table from errors to statuses.
func (s *site) refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errApproved): // the interface has another body for this one
		answer(w, http.StatusUnauthorized, map[string]string{"detail": errApproved.Error()})
		return
	case errors.Is(err, errToken):
		status = http.StatusForbidden
	case errors.Is(err, errNoPlugin), errors.Is(err, errNoVersion):
		status = http.StatusNotFound
	case errors.Is(err, errAway):
		w.Header().Set("Retry-After", "5")
		status = http.StatusServiceUnavailable
	default:
		s.log.Error("a request failed", "error", err.Error())
		err = errors.New("the site failed; try again, and tell its operator if it stays so")
	}
	answer(w, status, failure{Error: err.Error()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // to a client that has gone, perhaps
}

// showPlugin answers with all versions of a plugin.
func (s *site) showPlugin(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("package")
	all, err := s.shelf.versions(name)
	if err != nil {
		s.refuse(w, err)
		return
	}
	more := s.seesMore(r, name)
	for i := range all {
		all[i] = shownTo(more, all[i])
	}
	answer(w, http.StatusOK, map[string]any{"package_name": name, "plugin_id": name, "versions": all})
}

// showVersion answers with one version, or the latest.
func (s *site) showVersion(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("package")
	found, err := s.shelf.find(name, r.PathValue("version"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	answer(w, http.StatusOK, shownTo(s.seesMore(r, name), found))
}

// shownTo is a version as the public sees it, or one who sees more.
func shownTo(more bool, one version) version {
	if !more {
		one.Status = ""
	}
	return one
}
