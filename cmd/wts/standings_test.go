package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/api"
)

// A person sees at /api/v1 who they are and what they have connected, in a browser and by a program, and ends it there.
func TestOwnConnections(t *testing.T) {
	r := startReplica(t, withMoreClients)
	alice := r.signedIn(t, "alice")
	r.logIn(t, alice, "/oauth2/authorization_url?idp=second", "alice")
	list := func() map[string]api.Connection {
		t.Helper()
		all := map[string]api.Connection{}
		for _, one := range decoded[struct{ Connections []api.Connection }](t, r.call(t, alice, http.MethodGet, "/api/v1/connections"), http.StatusOK).Connections {
			all[one.Provider] = one
		}
		return all
	}
	got := list()
	first, second := got["first"], got["second"]
	said := []any{first.State, first.Default, first.Name, first.ConnectedAt != nil && time.Since(*first.ConnectedAt) < time.Minute, second.State, second.Default, second.Account, first.ConnectURL}
	if diff := cmp.Diff([]any{"connected", true, "The first", true, "connected", false, "alice", r.url + "/oauth2/authorization_url?idp=first"}, said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	user := decoded[api.User](t, r.call(t, alice, http.MethodGet, "/api/v1/user"), http.StatusOK)
	if user != (api.User{ID: r.idOf(t, "alice"), Username: "alice"}) {
		t.Errorf("got %+v", user)
	}

	reads, changes := r.letIn(t, alice, "short", "api:read"), r.letIn(t, alice, "short", "api")
	for name, row := range map[string]struct {
		method, path string
		headers      []string
		want         int
	}{
		"no person":                {http.MethodGet, "/api/v1/connections", nil, http.StatusForbidden},
		"no person, the user":      {http.MethodGet, "/api/v1/user", nil, http.StatusForbidden},
		"a program that reads":     {http.MethodGet, "/api/v1/connections", bearerOf(reads.AccessToken), http.StatusOK},
		"it ends none":             {http.MethodDelete, "/api/v1/connections/second", bearerOf(reads.AccessToken), http.StatusForbidden},
		"a provider that is none":  {http.MethodDelete, "/api/v1/connections/third", bearerOf(changes.AccessToken), http.StatusBadRequest},
		"a page of another site":   {http.MethodDelete, "/api/v1/connections/second", append(bearerOf(changes.AccessToken), "Origin", "https://evil.example.org"), http.StatusForbidden},
		"a worker by its address":  {http.MethodGet, "/api/v1/connections", []string{"Authorization", ""}, http.StatusForbidden},
		"one who has not asked":    {http.MethodDelete, "/api/v1/connections/second", nil, http.StatusForbidden},
		"a program without scopes": {http.MethodGet, "/api/v1/user", bearerOf(r.letIn(t, alice, "short", "").AccessToken), http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.sendJSON(t, nil, row.method, row.path, "", row.headers...); got.status != row.want {
				t.Errorf("got %d %s, want %d", got.status, got.body, row.want)
			}
		})
	}
	if got := list(); got["second"].State != "connected" {
		t.Errorf("after what was refused: %+v", got["second"])
	}
	for range 2 { // once more changes nothing
		if got := r.sendJSON(t, nil, http.MethodDelete, "/api/v1/connections/second", "", bearerOf(changes.AccessToken)...); got.status != http.StatusNoContent {
			t.Errorf("got %d %s, want 204", got.status, got.body)
		}
	}
	if got := list()["second"]; got.State != "not_connected" || got.Account != "" || got.ConnectedAt != nil {
		t.Errorf("after its end: %+v", got)
	}
	if !strings.Contains(r.log.String(), `"audit":"disconnect"`) {
		t.Error("the audit has no line of it")
	}
	scopes := decoded[struct {
		Scopes []string `json:"scopes_supported"`
	}](t, r.call(t, nil, http.MethodGet, "/.well-known/oauth-authorization-server"), http.StatusOK).Scopes
	if diff := cmp.Diff([]string{"token", "api", "api:create", "api:read", "provider:first", "provider:second"}, scopes); diff != "" {
		t.Errorf("scopes_supported (-want +got):\n%s", diff)
	}
}
