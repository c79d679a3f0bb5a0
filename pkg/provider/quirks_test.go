package provider_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// tokenEndpoint is a provider that has nothing but a token endpoint, which answers as it is told.
func tokenEndpoint(t *testing.T, change func(*provider.Config), answer http.HandlerFunc) *provider.Provider {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	config := provider.Config{AuthURL: server.URL + "/auth", TokenURL: server.URL + "/token", ClientID: "wts", ClientSecret: "s", RefreshTimeout: 2 * time.Second, Scopes: []string{"openid", "api"}}
	if change != nil {
		change(&config)
	}
	return provider.New("quirky", config, "https://wts.example.org/oauth2/authorize")
}

// Every line of the table of quirks, with the provider's own answer.
func TestQuirks(t *testing.T) {
	const kind, js = "Content-Type", "application/json"
	plain := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(kind, contentType)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, row := range map[string]struct {
		quirks string
		answer http.HandlerFunc
		want   provider.Outcome // empty: it succeeds
		life   time.Duration
	}{
		"GitHub's 200 with bad_refresh_token":               {"github", plain(200, js, `{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired."}`), provider.Refused, 0},
		"the same without naming it":                        {"", plain(200, js, `{"error":"bad_refresh_token"}`), provider.Refused, 0},
		"GitHub's incorrect_client_credentials":             {"github", plain(200, js, `{"error":"incorrect_client_credentials"}`), provider.Misconfigured, 0},
		"Gitea's unauthorized_client for a revoked token":   {"gitea", plain(400, js, `{"error":"unauthorized_client","error_description":"token was already used"}`), provider.Refused, 0},
		"unauthorized_client from anybody else":             {"", plain(400, js, `{"error":"unauthorized_client"}`), provider.Misconfigured, 0},
		"Hydra's invalid_client while its database is down": {"hydra", plain(401, js, `{"error":"invalid_client"}`), provider.Unexpected, 0},
		"invalid_client from anybody else":                  {"", plain(401, js, `{"error":"invalid_client"}`), provider.Misconfigured, 0},
		"a verdict in a 500 is none":                        {"gitea", plain(500, js, `{"error":"unauthorized_client"}`), provider.Unknown, 0},
		"no id_token":                                       {"", plain(200, js, `{"access_token":"a","token_type":"Bearer","expires_in":60}`), "", time.Minute},
		"expires_in as a string":                            {"", plain(200, js, `{"access_token":"a","token_type":"Bearer","expires_in":"60"}`), "", time.Minute},
		"expires_in absent":                                 {"", plain(200, js, `{"access_token":"a","refresh_token":"r","token_type":"Bearer"}`), "", 5 * time.Minute},
		"a form":                                            {"", plain(200, "application/x-www-form-urlencoded", "access_token=a&refresh_token=r&expires_in=60&token_type=bearer"), "", time.Minute},
		"HTML from a firewall, refusing":                    {"", plain(403, "text/html", "<html>blocked"), provider.Unexpected, 0},
		"HTML from a firewall, all right":                   {"", plain(200, "text/html", "<html>log in to the network"), provider.Unexpected, 0},
		"JSON that is cut off":                              {"", plain(200, js, `{"access_token":"a","refresh_to`), provider.Unknown, 0},
		"an answer without a token":                         {"", plain(200, js, `{}`), provider.Unknown, 0},
		"invalid_scope":                                     {"", plain(400, js, `{"error":"invalid_scope"}`), provider.Misconfigured, 0},
		"unsupported_grant_type":                            {"", plain(400, js, `{"error":"unsupported_grant_type"}`), provider.Misconfigured, 0},
		"invalid_grant":                                     {"", plain(400, js, `{"error":"invalid_grant"}`), provider.Refused, 0},
		"a 429":                                             {"", plain(429, js, `{"error":"invalid_grant"}`), provider.Throttled, 0},
		"a 502":                                             {"", plain(502, "text/html", "<html>bad gateway"), provider.Unknown, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := tokenEndpoint(t, func(c *provider.Config) { c.Quirks = row.quirks }, row.answer)
			before := time.Now()
			tokens, err := p.Refresh(t.Context(), "canary-rt", "", nil)
			var failure *provider.Error
			switch errors.As(err, &failure); {
			case row.want == "" && err != nil:
				t.Error(err)
			case row.want != "" && (failure == nil || failure.Outcome != row.want):
				t.Errorf("got %v, want %s", err, row.want)
			case row.want == "" && (tokens.AccessToken != "a" || tokens.AccessExpiresAt.Sub(before).Round(time.Second) != row.life):
				t.Errorf("%s, for %s", string(tokens.AccessToken), tokens.AccessExpiresAt.Sub(before))
			case err != nil && strings.Contains(err.Error(), "canary"):
				t.Errorf("the token is in the error: %v", err)
			}
		})
	}
}

func TestEntraIsSentTheScope(t *testing.T) {
	var form url.Values
	p := tokenEndpoint(t, func(c *provider.Config) { c.Quirks = "entra" }, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		form = r.PostForm
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60}`)
	})
	if _, err := p.Refresh(t.Context(), "rt", "", nil); err != nil || form.Get("scope") != "openid api" || form.Get("refresh_token") != "rt" {
		t.Errorf(`got %v, %v; want form.Get("scope") "openid api", form.Get("refresh_token") "rt"`, form, err)
	}
}

// A change-over of the client's secret: one more request, in the same claim.
func TestASecondClientSecret(t *testing.T) {
	var posts atomic.Int32
	answer := func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if _, secret, _ := r.BasicAuth(); secret != "new" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60}`)
	}
	p := tokenEndpoint(t, func(c *provider.Config) { c.NextClientSecret = "new" }, answer)
	if _, err := p.Refresh(t.Context(), "rt", "", nil); err != nil || posts.Load() != 2 {
		t.Errorf("%v after %d posts", err, posts.Load())
	}
	p = tokenEndpoint(t, func(c *provider.Config) { c.NextClientSecret = "wrong-too" }, answer)
	var failure *provider.Error
	if _, err := p.Refresh(t.Context(), "rt", "", nil); !errors.As(err, &failure) || failure.Outcome != provider.Misconfigured || posts.Load() != 4 {
		t.Errorf("%v after %d posts", err, posts.Load())
	}
}

// The gate is asked before the first byte, and where it is shut nothing leaves.
func TestTheGate(t *testing.T) {
	var posts atomic.Int32
	p := tokenEndpoint(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		posts.Add(1) // a head without its body counts: it holds the client's secret
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60}`)
	})
	asked := 0
	if _, err := p.Refresh(t.Context(), "rt", "", func() bool { asked++; return true }); err != nil || asked != 1 || posts.Load() != 1 {
		t.Errorf("open: %v, asked %d times, %d posts", err, asked, posts.Load())
	}
	var failure *provider.Error
	if _, err := p.Refresh(t.Context(), "rt", "", func() bool { return false }); !errors.As(err, &failure) || failure.Outcome != provider.Unsent || posts.Load() != 1 {
		t.Errorf("shut: %v, %d posts", err, posts.Load())
	}
}

func TestRevocation(t *testing.T) {
	var form url.Values
	status := http.StatusOK
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("POST /user/oauth2/revoke", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		form = r.PostForm
		w.WriteHeader(status)
	})
	fence := provider.New("fence", provider.Config{Type: provider.TypeFence, BaseURL: server.URL, ClientID: "wts", ClientSecret: "s"}, "https://wts.example.org/x")
	for _, status = range []int{200, 204} {
		if err := fence.Revoke(t.Context(), "rt", nil); err != nil || form.Get("token") != "rt" {
			t.Errorf("%d: %v, %v", status, form, err)
		}
	}
	for _, status = range []int{400, 500, 429} {
		if err := fence.Revoke(t.Context(), "rt", nil); err == nil {
			t.Errorf("%d is taken for a success", status)
		}
	}
	if err := tokenEndpoint(t, nil, nil).Revoke(t.Context(), "rt", nil); !errors.Is(err, provider.ErrNoRevocation) {
		t.Errorf("a provider without such an endpoint: %v", err)
	}
}
