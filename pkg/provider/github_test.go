package provider_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// answers is a GitHub that says what it is told to, by path.
type answers map[string]func(w http.ResponseWriter)

func replies(status int, body string, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// What GitHub's API answers, and what it means for a login.
func TestWhatGitHubAnswers(t *testing.T) {
	const user, orgs = "/api/v3/user", "/api/v3/user/orgs"
	good := replies(200, `{"id": 7, "login": "Alice", "email": "a@example.org"}`)
	soon := fmt.Sprint(time.Now().Add(time.Hour / 2).Unix())
	tests := map[string]struct {
		answers answers
		groups  []string
		outcome provider.Outcome // of the failure; empty for none
		pause   bool
	}{
		"a person":                   {answers: answers{user: good, orgs: replies(200, `[{"login": "Lab"}]`)}, groups: []string{"lab"}},
		"in none":                    {answers: answers{user: good, orgs: replies(200, `[]`)}, groups: []string{}},
		"may not see organisations":  {answers: answers{user: good, orgs: replies(403, `{}`)}},
		"a next page elsewhere":      {answers: answers{user: good, orgs: replies(200, `[{"login": "Lab"}]`, "Link", `<https://evil.example/orgs>; rel="next"`)}, groups: []string{"lab"}},
		"pages without end":          {answers: answers{user: good, orgs: replies(200, `[{"login": "Lab"}]`, "Link", `<BASE/api/v3/user/orgs>; rel="next"`)}, groups: slices.Repeat([]string{"lab"}, 10)},
		"organisations, no JSON":     {answers: answers{user: good, orgs: replies(200, `<html>`)}, outcome: provider.Untrusted},
		"organisations, too large":   {answers: answers{user: good, orgs: replies(200, `[{"login": "`+strings.Repeat("a", 1<<20)+`"}]`)}, outcome: provider.Untrusted},
		"a page of fifty":            {answers: answers{user: good, orgs: replies(200, "["+strings.TrimSuffix(strings.Repeat(`{"login": "lab", "description": "`+strings.Repeat("d", 1100)+`"},`, 50), ",")+"]")}, groups: slices.Repeat([]string{"lab"}, 50)},
		"a token that was revoked":   {answers: answers{user: replies(401, `{}`)}, outcome: provider.Refused},
		"revoked meanwhile":          {answers: answers{user: good, orgs: replies(401, `{}`)}, outcome: provider.Refused},
		"the rate is used up":        {answers: answers{user: replies(403, `{}`, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", soon)}, outcome: provider.Throttled, pause: true},
		"too many, by Retry-After":   {answers: answers{user: replies(429, `{}`, "Retry-After", "60")}, outcome: provider.Throttled, pause: true},
		"too many, for the second":   {answers: answers{user: good, orgs: replies(403, `{}`, "Retry-After", "60")}, outcome: provider.Throttled, pause: true},
		"an outage":                  {answers: answers{user: replies(502, `<html>`)}, outcome: provider.Unknown},
		"no JSON":                    {answers: answers{user: replies(200, `<html>`)}, outcome: provider.Untrusted},
		"no id":                      {answers: answers{user: replies(200, `{"login": "alice"}`)}, outcome: provider.Untrusted},
		"a login that is none":       {answers: answers{user: replies(200, `{"id": 7, "login": "al\u0000ice"}`)}, outcome: provider.Untrusted},
		"a document of a megabyte":   {answers: answers{user: replies(200, `{"id": 7, "login": "`+strings.Repeat("a", 1<<20)+`"}`)}, outcome: provider.Untrusted},
		"another number than before": {answers: answers{user: replies(200, `{"id": 8, "login": "alice"}`), orgs: replies(200, `[]`)}, outcome: provider.Untrusted},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			base := ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer gho_x" || r.Header.Get("User-Agent") == "" {
					t.Errorf("asked with %v", r.Header)
				}
				recorded := httptest.NewRecorder()
				test.answers[r.URL.Path](recorded)
				for name, values := range recorded.Header() {
					w.Header().Set(name, strings.ReplaceAll(values[0], "BASE", base))
				}
				w.WriteHeader(recorded.Code)
				_, _ = w.Write(recorded.Body.Bytes())
			}))
			defer server.Close()
			base = server.URL
			p := provider.New("github", provider.Config{Type: provider.TypeGitHub, BaseURL: server.URL, ClientID: "wts", ClientSecret: "s"}, "https://wts/oauth2/authorize")
			said, err := p.About(t.Context(), "gho_x", "7")
			groups := said.Groups
			var failure *provider.Error
			switch {
			case test.outcome == "" && err != nil:
				t.Fatal(err)
			case test.outcome != "" && (!errors.As(err, &failure) || failure.Outcome != test.outcome || (failure.RetryAfter > 0) != test.pause):
				t.Fatalf("got %v, want the outcome %s", err, test.outcome)
			case test.outcome != "":
				return
			}
			want := test.groups
			if want == nil {
				want = []string{}
			}
			if diff := cmp.Diff(want, groups); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// What an operator writes of GitHub.
func TestConfigurationOfGitHub(t *testing.T) {
	good := provider.Config{Type: provider.TypeGitHub, ClientID: "c", ClientSecret: "s"}
	full := good.WithDefaults("github")
	if err := errors.Join(good.Validate(), full.Validate()); err != nil || full.Issuer != "https://github.com" || full.UsernameClaim != "login" || full.ClientAuth != provider.AuthPost || full.Unsigned() || !full.Identifies() {
		t.Errorf("%v, %+v", err, full)
	}
	address, err := provider.New("github", good, "https://wts/oauth2/authorize").LoginURL(t.Context(), provider.Login{State: "s", Nonce: "n", Verifier: strings.Repeat("v", 43)})
	if err != nil || !strings.HasPrefix(address, "https://github.com/login/oauth/authorize?") || strings.Contains(address, "nonce") || !strings.Contains(address, "code_challenge_method=S256") || !strings.Contains(address, "scope=read%3Aorg") {
		t.Errorf("%v, %s", err, address)
	}
	own := good
	own.AuthURL, own.TokenURL = "https://x/a", "https://x/t"
	if err := own.Validate(); err == nil || !strings.Contains(err.Error(), "base_url") {
		t.Errorf("endpoints of its own: %v", err)
	}
}
