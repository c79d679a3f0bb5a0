package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

type claimsKey struct{}

// FromContext returns the claims of the request's token, inside Middleware.
func FromContext(ctx context.Context) (*Claims, bool) {
	claims, ok := ctx.Value(claimsKey{}).(*Claims)
	return claims, ok
}

// Middleware lets requests with a good bearer token through (RFC 6750): 401 without one, 503 while
// the issuer's keys cannot be had.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := Bearer(r)
		if !ok {
			refuse(w, http.StatusUnauthorized, "", "a bearer token is needed")
			return
		}
		claims, err := v.Verify(r.Context(), token)
		switch {
		case errors.Is(err, ErrUnavailable):
			w.Header().Set("Retry-After", "5")
			refuse(w, http.StatusServiceUnavailable, "temporarily_unavailable", ErrUnavailable.Error())
		case err != nil:
			refuse(w, http.StatusUnauthorized, "invalid_token", err.Error())
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimsKey{}, claims)))
		}
	})
}

// RequireScope lets only tokens through that hold every one of the scopes; it goes inside
// Middleware. Others get 403 insufficient_scope (RFC 6750 3.1).
func RequireScope(names ...string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if claims, ok := FromContext(r.Context()); !ok || !claims.HasScopes(names...) {
				refuse(w, http.StatusForbidden, "insufficient_scope", "the token lacks the scope "+strings.Join(names, " "))
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Bearer returns the token of a request's Authorization header, whose scheme may be in any case
// (RFC 9110 11.1).
func Bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

// refuse answers with a challenge (RFC 6750 3) and the reason as JSON. An outage is no challenge: another token would not
// help.
func refuse(w http.ResponseWriter, status int, code, reason string) {
	challenge := "Bearer"
	if code != "" {
		challenge += ` error="` + code + `", error_description="` + strings.ReplaceAll(reason, `"`, "'") + `"`
	}
	if status != http.StatusServiceUnavailable {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": reason})
}
