package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// hub answers what PEPHubClient asks.
type hub struct {
	shelf   *shelf
	doorman *doorman
	log     *slog.Logger
	now     func() time.Time
}

func (h *hub) routes(mux *http.ServeMux) {
	for route, handle := range map[string]func(http.ResponseWriter, *http.Request, visitor) error{
		"GET /api/v1/projects/{namespace}/{name}":           h.pull,
		"PATCH /api/v1/projects/{namespace}/{name}":         h.edit,
		"DELETE /api/v1/projects/{namespace}/{name}":        h.remove,
		"GET /api/v1/namespaces/{namespace}/projects":       h.search,
		"POST /api/v1/namespaces/{namespace}/projects/json": h.push,
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r, h.doorman.visitor(r)); err != nil {
				h.refuse(w, err)
			}
		})
	}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "Not Found") })
}

// refuse answers an error, in the one shape that clients read.
func (h *hub) refuse(w http.ResponseWriter, err error) {
	var said *refusal
	switch {
	case errors.As(err, &said):
	case errors.Is(err, errExists):
		said = &refusal{http.StatusConflict, "The project exists already. Set overwrite to put another one in its place."}
	case errors.Is(err, errFull):
		said = &refusal{http.StatusInsufficientStorage, "The hub is full; delete a project first."}
	default: // the disk
		h.log.Error("a project could not be kept", slog.String("error", err.Error()))
		said = &refusal{http.StatusServiceUnavailable, "The project could not be kept; try again in a moment."}
	}
	switch said.status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	fail(w, said.status, said.detail)
}

func fail(w http.ResponseWriter, status int, detail string) {
	answer(w, status, map[string]string{"detail": detail})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "private, no-cache")
	w.Header().Set("Vary", "Authorization")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone
}

// at is the project of a request.
func at(r *http.Request) key {
	return keyOf(r.PathValue("namespace"), r.PathValue("name"), r.URL.Query().Get("tag"))
}

func (h *hub) pull(w http.ResponseWriter, r *http.Request, who visitor) error {
	found := h.shelf.get(at(r))
	if err := who.may(namespace.Read, at(r), found.visibility()); err != nil {
		return err
	}
	body := found.raw()
	if raw, err := strconv.ParseBool(r.URL.Query().Get("raw")); err != nil || !raw {
		maps.Copy(body, found.annotation())
	}
	answer(w, http.StatusOK, body)
	return nil
}

func (h *hub) push(w http.ResponseWriter, r *http.Request, who visitor) error {
	space := r.PathValue("namespace")
	if err := who.may(namespace.Submit, keyOf(space, "", ""), namespace.Missing); err != nil {
		return err
	}
	sent, err := read(w, r)
	if err != nil {
		return err
	}
	if sent.Pep == nil || sent.Pep.Samples == nil {
		return &refusal{http.StatusUnprocessableEntity, "pep_dict with config and samples is missing."}
	}
	now := h.now().UTC()
	next := &project{Namespace: space, Tag: "default", Schema: "pep/2.1.0", Submitted: now, Updated: now}
	if err := sent.apply(next); err != nil {
		return err
	}
	err = h.shelf.change(next.key(), func(present *project) (*project, error) {
		if present == nil {
			return next, nil
		}
		if !sent.Overwrite {
			return nil, errExists
		}
		next.Submitted = present.Submitted
		return next, nil
	})
	if err != nil {
		return err
	}
	answer(w, http.StatusAccepted, map[string]string{
		"namespace": next.Namespace, "name": next.Name, "tag": next.Tag, "registry_path": next.key().String(),
	})
	return nil
}

func (h *hub) edit(w http.ResponseWriter, r *http.Request, who visitor) error {
	// Who may not edit is refused before a body is read, and again when it is changed: between the two it may have been.
	if err := who.may(namespace.Edit, at(r), h.shelf.get(at(r)).visibility()); err != nil {
		return err
	}
	sent, err := read(w, r)
	if err != nil {
		return err
	}
	var next project
	err = h.shelf.change(at(r), func(present *project) (*project, error) {
		if err := who.may(namespace.Edit, at(r), present.visibility()); err != nil {
			return nil, err
		}
		next = *present
		next.Updated = h.now().UTC()
		return &next, sent.apply(&next)
	})
	if err != nil {
		return err
	}
	answer(w, http.StatusAccepted, map[string]string{"message": "PEP updated", "registry": next.key().String()})
	return nil
}

func (h *hub) remove(w http.ResponseWriter, r *http.Request, who visitor) error {
	err := h.shelf.change(at(r), func(present *project) (*project, error) {
		return nil, who.may(namespace.Delete, at(r), present.visibility())
	})
	if err != nil {
		return err
	}
	answer(w, http.StatusAccepted, map[string]string{"message": "PEP deleted", "registry": at(r).String()})
	return nil
}

// search lists the projects of a namespace that the caller may read: a private one is not counted for others.
func (h *hub) search(w http.ResponseWriter, r *http.Request, who visitor) error {
	if errors.Is(who.flaw, verifier.ErrRevoked) {
		return who.refuse(namespace.Authenticate, "")
	}
	query := r.URL.Query()
	limit, offset, err := window(query)
	if err != nil {
		return err
	}
	space, words := namespace.Key(r.PathValue("namespace")), strings.ToLower(query.Get("q"))
	found := h.shelf.list(func(p *project) bool {
		return p.Namespace == space && who.may(namespace.Read, p.key(), p.visibility()) == nil &&
			(query.Get("tag") == "" || query.Get("tag") == p.Tag) &&
			(strings.Contains(p.Name, words) || strings.Contains(strings.ToLower(p.Description), words))
	})
	rows := []map[string]any{}
	for _, one := range slices.Clip(found[min(offset, len(found)):min(offset+limit, len(found))]) {
		rows = append(rows, one.annotation())
	}
	answer(w, http.StatusOK, map[string]any{ // items is what PEPHubClient called them before 0.2
		"count": len(found), "limit": limit, "offset": offset, "results": rows, "items": rows, "can_edit": who.Owns(space),
	})
	return nil
}

// window reads which rows are wanted. Filters that the hub does not have are refused: without them it would say more.
func window(query url.Values) (limit, offset int, err error) {
	limit = 10
	for name, into := range map[string]*int{"limit": &limit, "offset": &offset} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		number, err := strconv.Atoi(text)
		if err != nil || number < 0 || number > 1_000_000 {
			return 0, 0, &refusal{http.StatusUnprocessableEntity, name + " is not a number from 0 to 1000000."}
		}
		*into = number
	}
	if query.Get("filter_by") != "" {
		return 0, 0, &refusal{http.StatusUnprocessableEntity, "filter_by is not known here; leave it out."}
	}
	return min(limit, 1000), offset, nil
}
