package main

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
)

const idToken = "urn:ietf:params:oauth:token-type:id_token"

// job is the token of a CI job, as GitHub Actions signs them.
func job(ci *verifiertest.Issuer, audience string, changes map[string]any) string {
	claims := map[string]any{
		"iss": ci.URL, "aud": audience, "sub": "repo:octo/app:ref:refs/heads/main", "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
		"repository": "octo/app", "repository_id": "74", "run_attempt": 1, "job_workflow_ref": "octo/app/.github/workflows/release.yml@refs/heads/main",
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return ci.Sign(map[string]any{"alg": "ES256", "typ": "JWT", "kid": "verifiertest"}, claims)
}

// A CI job exchanges its own token for one of a resource, where a maintainer has named it; no secret is stored in CI.
func TestTrustedPublishers(t *testing.T) {
	ci, stranger := verifiertest.Start(t), verifiertest.Start(t)
	r := startReplica(t, withOAuth, func(c *config.Config) { c.Publisher.Issuers, c.Admins = []string{ci.URL}, nil })
	alice, mallory := r.signedIn(t, "alice"), r.signedIn(t, "bob")
	r.putResource(t, "plugin", "alice")
	r.putResource(t, "other", "bob")
	const path = "/api/v1/resources/sites/plugin/publishers"
	body := func(subject, more string) string {
		return fmt.Sprintf(`{"name": "releases", "issuer": %q, "subject": %q, "scopes": ["upload"]%s}`, ci.URL, subject, more)
	}
	claims := `, "claims": {"repository_id": "74", "run_attempt": "1", "job_workflow_ref": "octo/app/.github/workflows/release.yml@refs/heads/main"}`
	made := decoded[map[string]any](t, r.sendJSON(t, alice, http.MethodPost, path, body("repo:octo/app:ref:refs/heads/main", claims)), 201)
	for name, row := range map[string]struct {
		browser *http.Client
		body    string
		status  int
		says    string
	}{
		"somebody else's resource":        {mallory, body("repo:mallory/app:ref:refs/heads/main", ""), 404, ""},
		"a wildcard too many":             {alice, body("repo:octo/*:ref:refs/heads/*", ""), 400, "more than one asterisk"},
		"a wildcard for every repository": {alice, body("repo:octo/*:ref:refs/heads/main", ""), 400, "before its last colon"},
		"a wildcard for every event":      {alice, body("repo:octo/app:*", ""), 400, "right behind its last colon"},
		"an issuer that is not trusted":   {alice, strings.Replace(body("repo:octo/app:ref:refs/heads/main", ""), ci.URL, stranger.URL, 1), 400, "not one that the operator trusts"},
		"a claim that is judged already":  {alice, body("a", `, "claims": {"aud": "x"}`), 400, "judged already"},
		"a wildcard in a claim":           {alice, body("a", `, "claims": {"ref": "refs/heads/*"}`), 400, "asterisk"},
		"a scope that is none":            {alice, strings.Replace(body("a", ""), "upload", "root", 1), 403, ""},
		"no name":                         {alice, strings.Replace(body("a", ""), "releases", "", 1), 400, "name"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.sendJSON(t, row.browser, http.MethodPost, path, row.body); got.status != row.status || !strings.Contains(got.body, row.says) {
				t.Errorf("got %d %s; want %d, %s", got.status, got.body, row.status, row.says)
			}
		})
	}
	exchange := func(token string, pairs ...string) answer {
		t.Helper()
		pairs = append([]string{"grant_type", exchangeGrant, "subject_token", token, "subject_token_type", idToken}, pairs...)
		return r.form(t, "/oauth2/token", pairs...)
	}
	ours := []string{"audience", "sites", "resource", "plugin"}
	t.Run("the right repository and branch", func(t *testing.T) {
		v, err := verifier.New(t.Context(), r.url, "sites")
		if err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"plugin", r.url + "/api/v1/resources/sites/plugin"} {
			got := decoded[map[string]any](t, exchange(job(ci, r.url, nil), "audience", "sites", "resource", resource), 200)
			claims, err := v.Verify(t.Context(), got["access_token"].(string))
			if err != nil || claims.Subject != "resource:plugin" || claims.Resource != "plugin" || !claims.HasScopes("upload") || claims.ClientID != "trusted_publisher" || got["expires_in"] != 600.0 {
				t.Errorf("got %+v, %v; want ten minutes of upload for the plugin", claims, err)
			}
		}
		if got := decoded[map[string]any](t, exchange(job(ci, r.url, nil), append(ours, "expires", "86400")...), 200); got["expires_in"] != 900.0 {
			t.Errorf("got %v, want a quarter of an hour at most", got["expires_in"])
		}
	})
	valid := job(ci, r.url, nil)
	if got := exchange(valid, ours...); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	at := func(after time.Duration) int64 { return time.Now().Add(after).Unix() }
	for name, row := range map[string]struct {
		token string
		pairs []string
		says  string
	}{
		"a replayed jti": {valid, ours, "exchanged already"},
		"a fork":         {job(ci, r.url, map[string]any{"sub": "repo:mallory/app:ref:refs/heads/main", "repository_id": "666"}), ours, "no trusted publisher"},
		"a repository of the name that came later": {job(ci, r.url, map[string]any{"repository_id": "75"}), ours, "no trusted publisher"},
		"another branch":                {job(ci, r.url, map[string]any{"sub": "repo:octo/app:ref:refs/heads/feature"}), ours, "no trusted publisher"},
		"a pull request":                {job(ci, r.url, map[string]any{"sub": "repo:octo/app:pull_request"}), ours, "no trusted publisher"},
		"another workflow":              {job(ci, r.url, map[string]any{"job_workflow_ref": "octo/app/.github/workflows/test.yml@refs/heads/main"}), ours, "no trusted publisher"},
		"a claim that is missing":       {job(ci, r.url, map[string]any{"job_workflow_ref": nil}), ours, "no trusted publisher"},
		"a claim of another kind":       {job(ci, r.url, map[string]any{"repository_id": []string{"74"}}), ours, "no trusted publisher"},
		"another issuer":                {job(stranger, r.url, nil), ours, "not one that the operator trusts"},
		"another issuer's key":          {job(stranger, r.url, map[string]any{"iss": ci.URL}), ours, ""},
		"an expired token":              {job(ci, r.url, map[string]any{"exp": at(-time.Second)}), ours, "expired"},
		"a wrong audience":              {job(ci, "https://pypi.org", nil), ours, "another audience"},
		"two audiences":                 {job(ci, "", map[string]any{"aud": []string{r.url, "https://pypi.org"}}), ours, "other services"},
		"no jti":                        {job(ci, r.url, map[string]any{"jti": nil}), ours, "no jti"},
		"a token of two days":           {job(ci, r.url, map[string]any{"exp": at(48 * time.Hour)}), ours, "more than a day"},
		"a token from the future":       {job(ci, r.url, map[string]any{"iat": at(time.Hour)}), ours, ""},
		"another resource":              {job(ci, r.url, nil), []string{"audience", "sites", "resource", "other"}, "no trusted publisher"},
		"a resource that is none":       {job(ci, r.url, nil), []string{"audience", "sites", "resource", "none"}, "no trusted publisher"},
		"an audience without resources": {job(ci, r.url, nil), []string{"audience", "storage", "resource", "plugin"}, "audience is not registered"},
		"no resource":                   {job(ci, r.url, nil), []string{"audience", "sites"}, "resource"},
		"more than its scopes":          {job(ci, r.url, nil), append(ours, "scope", "upload root"), "no trusted publisher"},
		"an API token":                  {"wtsp_x", ours, "no JWT"},
		"nothing":                       {"", ours, "subject_token is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := exchange(row.token, row.pairs...); got.status != 400 || !strings.Contains(got.body, row.says) || strings.Contains(got.body, "access_token\"") {
				t.Errorf("got %d %s; want 400, %s", got.status, got.body, row.says)
			}
		})
	}
	t.Run("a job's token is no proof anywhere else", func(t *testing.T) {
		for _, kind := range []string{accessToken, "urn:ietf:params:oauth:token-type:jwt"} {
			got := r.form(t, "/oauth2/token", "grant_type", exchangeGrant, "subject_token", job(ci, r.url, nil), "subject_token_type", kind, "audience", "storage")
			if got.status != 400 {
				t.Errorf("as %s: got %d %s; want 400", kind, got.status, got.body)
			}
		}
		if got := r.call(t, nil, http.MethodGet, "/token?audience=storage", bearerOf(job(ci, r.url, nil))...); got.status == 200 {
			t.Errorf("at /token: got %d", got.status)
		}
	})
	t.Run("as its maintainers see it", func(t *testing.T) {
		shown := decoded[struct {
			Publishers []map[string]any
			Issuers    []string
		}](t, r.sendJSON(t, alice, http.MethodGet, path, ""), 200)
		if len(shown.Publishers) != 1 || shown.Publishers[0]["last_used_at"] == nil || shown.Publishers[0]["id"] != made["id"] || fmt.Sprint(shown.Issuers) != "["+ci.URL+"]" {
			t.Errorf("got %+v; want one that was used, and the issuers", shown)
		}
		if got := r.sendJSON(t, mallory, http.MethodGet, path, ""); got.status != 404 {
			t.Errorf("another user: got %d %s; want 404", got.status, got.body)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		at := path + "/" + fmt.Sprint(made["id"])
		if got := r.sendJSON(t, mallory, http.MethodDelete, at, ""); got.status != 404 {
			t.Errorf("by another user: got %d %s; want 404", got.status, got.body)
		}
		if got := r.sendJSON(t, alice, http.MethodDelete, at, ""); got.status != 204 {
			t.Errorf("got %d %s; want 204", got.status, got.body)
		}
		if got := exchange(job(ci, r.url, nil), ours...); got.status != 400 {
			t.Errorf("a job afterwards: got %d %s; want 400", got.status, got.body)
		}
	})
	if log := r.log.String(); !strings.Contains(log, `"proof":"trusted_publisher"`) || !strings.Contains(log, fmt.Sprint(made["id"])+" repo:octo/app:ref:refs/heads/main") {
		t.Error("the audit does not say which job got a token, and by which publisher")
	}
}
