package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier/dataset"
)

// sample is a row that only a token opens.
type sample struct {
	ID      string `json:"sample"`
	Disease string `json:"disease"`
}

// portal has the data: made up, and the same for each dataset that has a name here.
type portal struct {
	datasets map[string][]sample
	log      *slog.Logger
}

// newHandler is everything behind the listener.
func newHandler(ctx context.Context, credentials []byte, log *slog.Logger) (http.Handler, error) {
	rules, err := dataset.Parse(ctx, credentials)
	if err != nil {
		return nil, err
	}
	guard, err := dataset.New(rules)
	if err != nil {
		return nil, err
	}
	p := &portal{log: log, datasets: map[string][]sample{
		"ds0": {{"S1", "AML"}, {"S2", "AML"}, {"S3", "ALL"}},
		"ds1": {{"T1", "MB"}},
	}}
	mux := http.NewServeMux()
	mux.Handle("POST /jwt-status", guard.Status())
	mux.Handle("/termdb", guard.Middleware(http.HandlerFunc(p.counts)))
	mux.Handle("/termdb/matrix", guard.Middleware(http.HandlerFunc(p.matrix)))
	mux.HandleFunc("GET /genomes", p.genomes)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusNotFound, map[string]string{"error": "there is nothing here; see the README"})
	})
	return across(rules, mux), nil
}

// genomes is open: it names the datasets, and nothing that is in them.
func (p *portal) genomes(w http.ResponseWriter, _ *http.Request) {
	names := make([]string, 0, len(p.datasets))
	for name := range p.datasets {
		names = append(names, name)
	}
	slices.Sort(names)
	answer(w, http.StatusOK, map[string]any{"genomes": map[string]any{"hg38": map[string]any{"datasets": names}}})
}

// samples are those of the dataset that the guard let the request see. What else the request says of itself is not read.
func (p *portal) samples(w http.ResponseWriter, r *http.Request) ([]sample, *dataset.Access) {
	access, ok := dataset.FromContext(r.Context())
	if !ok { // a route that was put outside the guard must not serve
		answer(w, http.StatusForbidden, map[string]string{"error": "this route is not guarded; tell its operator"})
		return nil, nil
	}
	found, known := p.datasets[access.Label]
	if !known {
		answer(w, http.StatusNotFound, map[string]string{"error": "there is no such dataset"})
		return nil, nil
	}
	return found, access
}

// counts is aggregated data: how many samples have which disease.
func (p *portal) counts(w http.ResponseWriter, r *http.Request) {
	found, access := p.samples(w, r)
	if access == nil {
		return
	}
	counts := map[string]int{}
	for _, one := range found {
		counts[one.Disease]++
	}
	answer(w, http.StatusOK, map[string]any{"dslabel": access.Label, "counts": counts})
}

// matrix is the samples themselves. The log says who saw them.
func (p *portal) matrix(w http.ResponseWriter, r *http.Request) {
	found, access := p.samples(w, r)
	if access == nil {
		return
	}
	p.log.InfoContext(r.Context(), "samples were read", slog.String("dataset", access.Label), slog.String("by", access.Email), slog.String("embedder", access.Embedder))
	answer(w, http.StatusOK, map[string]any{"dslabel": access.Label, "samples": found, "clientAuthResult": access.ClientAuthResult})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "private, no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone
}

// across lets the scripts of the embedders' pages ask (the Fetch standard's CORS protocol), with the headers that the
// rules name: the token travels in one of them, and no cookie does.
func across(rules []dataset.Rule, next http.Handler) http.Handler {
	headers, embedders := []string{"Authorization", "Content-Type", dataset.DefaultHeader}, []string{}
	for _, rule := range rules {
		embedders = append(embedders, rule.Embedder)
		if rule.Header != "" && !slices.Contains(headers, rule.Header) {
			headers = append(headers, rule.Header)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		from, err := url.Parse(origin)
		w.Header().Add("Vary", "Origin")
		if err == nil && from.Host != "" && (slices.Contains(embedders, from.Hostname()) || slices.Contains(embedders, dataset.Any)) {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Headers", strings.Join(headers, ", "))
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
