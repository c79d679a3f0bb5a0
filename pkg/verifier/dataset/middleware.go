package dataset

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

type contextKey struct{}

// FromContext returns what the request may see, inside Middleware.
func FromContext(ctx context.Context) (*Access, bool) {
	access, ok := ctx.Value(contextKey{}).(*Access)
	return access, ok
}

// Middleware lets requests through that the rules allow. It refuses the others with 401, where another token may help,
// or 403, where none does, as {"error": "..."}; with 503 while the keys of an issuer cannot be had.
func (g *Guard) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		access, err := g.judge(r)
		if err != nil {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, access)))
	})
}

// Status answers POST /jwt-status, where the page of a portal asks whether its token is good: dslabel, embedder and
// route in the body, the token in its header. The answer hands the token back as jwt, for the page to send as a bearer:
// there is no session behind it, so that any replica takes it, for as long as the token lives.
func (g *Guard) Status() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		access, token, err := g.status(r)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, http.StatusOK, struct {
			Status string          `json:"status"`
			JWT    string          `json:"jwt"`
			Route  string          `json:"route"`
			Result json.RawMessage `json:"clientAuthResult,omitempty"`
		}{"ok", token, access.Route, access.ClientAuthResult})
	})
}

// status judges the token for the route that is named, by its rule's own name or by a path; termdb where none is.
func (g *Guard) status(r *http.Request) (*Access, string, error) {
	asked, err := ask(r)
	if err != nil {
		return nil, "", err
	}
	wanted, err := newPattern(cmp.Or(asked.route, termdb))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrRequest, err)
	}
	credential, route, err := g.find(asked, func(known pattern) bool {
		return known.text == wanted.text || known.matches(wanted.text)
	})
	if err != nil {
		return nil, "", err
	}
	access, err := g.admit(r, asked, credential, route)
	return access, presented(r, credential.Header), err
}

// refuse answers with the status of an error. It is never 200: a page that reads the status alone is told as well.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusForbidden
	switch {
	case errors.Is(err, verifier.ErrUnavailable):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "5")
		err = verifier.ErrUnavailable // without the addresses that the cause names
	case errors.Is(err, ErrRequest):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNoToken), errors.Is(err, ErrToken):
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110 11.6.1
	}
	answer(w, status, map[string]string{"error": err.Error()})
}

// answer writes JSON that no cache keeps: it was for this token.
func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
