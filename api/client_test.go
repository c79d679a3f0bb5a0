package api_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/workspace-token-service/wts/api"
)

func serve(t *testing.T, handler http.HandlerFunc) *api.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &api.Client{URL: server.URL + "/"}
}

func TestWhatIsAskedAndAnswered(t *testing.T) {
	jwt := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":4102444800}`)) + ".x"
	for name, row := range map[string]struct {
		want  api.Request
		query string
		body  string
		ends  time.Time
		token string
	}{
		"for an audience":      {api.Request{Audience: "storage", Scopes: []string{"read", "write"}, Expires: 10 * time.Minute}, "audience=storage&expires=600&scope=read+write", `{"token":"t","expires_in":600}`, time.Now().Add(10 * time.Minute), "t"},
		"a provider's, a JWT":  {api.Request{IDP: "github"}, "idp=github", `{"token":"` + jwt + `"}`, time.Unix(4102444800, 0), jwt},
		"a provider's, opaque": {api.Request{}, "", `{"token":"opaque"}`, time.Time{}, "opaque"},
		"less than a second":   {api.Request{Expires: time.Millisecond}, "expires=1", `{"token":"t"}`, time.Time{}, "t"},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/token" || r.URL.RawQuery != row.query {
					t.Errorf("asked %s", r.URL)
				}
				fmt.Fprint(w, row.body)
			})
			got, err := client.Token(t.Context(), row.want)
			if err != nil || got.Value != row.token || got.ExpiresAt.Sub(row.ends).Abs() > 2*time.Second {
				t.Errorf("got %+v, %v; want %s, until %s", got, err, row.token, row.ends)
			}
		})
	}
}

func TestWhatGoesWrong(t *testing.T) {
	for name, row := range map[string]struct {
		status    int
		body      string
		message   string
		temporary bool
	}{
		"not logged in":  {status: 403, body: `{"message":"please login again"}`, message: "please login again"},
		"a bad expires":  {status: 400, body: `{"error":"expires has to be an integer"}`, message: "expires has to be an integer"},
		"an outage":      {status: 503, body: `{"message":"later"}`, message: "later", temporary: true},
		"a proxy's page": {status: 502, body: "<html>", message: "Bad Gateway", temporary: true},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(row.status)
				fmt.Fprint(w, row.body)
			})
			_, err := client.Token(t.Context(), api.Request{})
			var failed *api.Error
			if !errors.As(err, &failed) || failed.Status != row.status || failed.Message != row.message || failed.Temporary() != row.temporary || failed.RetryAfter != 7*time.Second {
				t.Errorf("got %+v; want an api.Error of status %d, %q, temporary: %t, to be tried after 7 s", err, row.status, row.message, row.temporary)
			}
		})
	}
	client := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":""}`) })
	if _, err := client.Token(t.Context(), api.Request{}); err == nil {
		t.Error("an empty token is no error")
	}
}

func TestAProofIsReadEachTimeAndTokensAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proof")
	var proofs []string
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		proofs = append(proofs, r.Header.Get("Authorization"))
		fmt.Fprintf(w, `{"token":"t%d","expires_in":%d}`, len(proofs), []int{5, 600}[min(len(proofs)-1, 1)])
	})
	client.Proof = api.ProofFile(file)
	source := client.TokenSource(t.Context(), api.Request{Audience: "a"})
	if _, err := source.Token(); err == nil {
		t.Error("without a proof there is no error")
	}
	var last *oauth2.Token
	for i, proof := range []string{"one\n", "two\n", "three\n"} {
		if err := os.WriteFile(file, []byte(proof), 0o600); err != nil {
			t.Fatal(err)
		}
		token, err := source.Token()
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		last = token
	}
	// The first lives for less than oauth2 thinks is enough; the second is kept.
	if len(proofs) != 2 || proofs[0] != "Bearer one" || proofs[1] != "Bearer two" || last.AccessToken != "t2" {
		t.Errorf("asked with %v, and kept %s", proofs, last.AccessToken)
	}
}
