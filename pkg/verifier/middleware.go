package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// known is what Middleware leaves in a request's context.
type known struct {
	claims   *Claims
	verifier *Verifier
}

type contextKey struct{}

// FromContext returns the claims of the request's token, inside Middleware.
func FromContext(ctx context.Context) (*Claims, bool) {
	found, ok := ctx.Value(contextKey{}).(known)
	return found.claims, ok
}

// Middleware lets requests with a good bearer token through (RFC 6750): 401 without one, 503 while
// the issuer's keys cannot be had.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if admitted, ok := v.Admit(w, r); ok {
			next.ServeHTTP(w, admitted)
		}
	})
}

// Admit is Middleware for other frameworks: it returns the request with the claims in its context, or answers the
// refusal and returns false.
func (v *Verifier) Admit(w http.ResponseWriter, r *http.Request) (admitted *http.Request, ok bool) {
	token, ok := Bearer(r)
	if !ok {
		v.refuse(w, http.StatusUnauthorized, "", "a bearer token is needed")
		return nil, false
	}
	claims, err := v.Verify(r.Context(), token)
	switch {
	case errors.Is(err, ErrUnavailable):
		w.Header().Set("Retry-After", "5")
		v.refuse(w, http.StatusServiceUnavailable, "temporarily_unavailable", ErrUnavailable.Error())
		return nil, false
	case err != nil:
		v.refuse(w, http.StatusUnauthorized, "invalid_token", err.Error())
		return nil, false
	}
	return r.WithContext(context.WithValue(r.Context(), contextKey{}, known{claims, v})), true
}

// RequireScope lets only tokens through that hold every one of the scopes; it goes inside
// Middleware. Others get 403 insufficient_scope, with the scopes in the challenge (RFC 6750 3.1).
func RequireScope(names ...string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if AdmitScope(w, r, names...) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// AdmitScope is RequireScope for other frameworks: it tells whether the request's token holds the scopes, or answers
// the refusal.
func AdmitScope(w http.ResponseWriter, r *http.Request, names ...string) bool {
	found, ok := r.Context().Value(contextKey{}).(known)
	if ok && found.claims.HasScopes(names...) {
		return true
	}
	if found.verifier == nil { // outside Middleware: a fault of the service, which must not let anybody in
		found.verifier = &Verifier{}
	}
	found.verifier.refuse(w, http.StatusForbidden, "insufficient_scope", "the token lacks the scope "+strings.Join(names, " "), names...)
	return false
}

// Bearer returns the token of a request's Authorization header, whose scheme may be in any case
// (RFC 9110 11.1).
func Bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

// refuse answers with a challenge (RFC 6750 3, RFC 9728 5.1) and the reason as JSON. An outage is no challenge: another
// token would not help.
func (v *Verifier) refuse(w http.ResponseWriter, status int, code, reason string, scopes ...string) {
	var parameters []string
	add := func(name, value string) {
		if value != "" {
			parameters = append(parameters, name+`="`+strings.NewReplacer(`"`, "'", `\`, "/").Replace(value)+`"`)
		}
	}
	add("realm", v.settings.realm)
	add("resource_metadata", v.settings.metadata)
	add("scope", strings.Join(scopes, " "))
	add("error", code)
	if code != "" {
		add("error_description", reason)
	}
	if status != http.StatusServiceUnavailable {
		w.Header().Set("WWW-Authenticate", strings.TrimSpace("Bearer "+strings.Join(parameters, ", ")))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": reason})
}

// MetadataPath is where a protected resource's metadata is looked for (RFC 9728 3).
const MetadataPath = "/.well-known/oauth-protected-resource"

// Metadata answers with the metadata of a protected resource: its own URL, who issues tokens for it, and its scopes
// (RFC 9728 2). Clients find by it where to ask.
func (v *Verifier) Metadata(resource string, scopes ...string) http.Handler {
	body, _ := json.Marshal(struct { // strings alone, which always marshal
		Resource string   `json:"resource"`
		Issuers  []string `json:"authorization_servers"`
		Scopes   []string `json:"scopes_supported,omitempty"`
		Methods  []string `json:"bearer_methods_supported"`
	}{resource, []string{v.issuer}, scopes, []string{"header"}})
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(append(body, '\n'))
	})
}
