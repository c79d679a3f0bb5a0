package provider_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// What `wts check-config --online` finds out about a provider.
func TestProbe(t *testing.T) {
	for name, row := range map[string]struct {
		answer      http.HandlerFunc
		document    func(map[string]any)
		credentials bool
		good        []string // what is as it should be
		wrong       string   // a part of what is not
	}{
		"all is well":                {answer: says(400, `{"error":"invalid_grant"}`), credentials: true, good: []string{"discovery", "keys", "credentials"}},
		"the credentials are not":    {answer: says(401, `{"error":"invalid_client"}`), credentials: true, good: []string{"discovery", "keys"}, wrong: "client_auth"},
		"the provider does not tell": {answer: says(400, `{"error":"invalid_request"}`), credentials: true, good: []string{"discovery", "keys", "credentials"}},
		"credentials are not asked":  {answer: says(401, `{"error":"invalid_client"}`), good: []string{"discovery", "keys"}},
		"the keys are elsewhere":     {answer: says(400, `{"error":"invalid_grant"}`), document: func(d map[string]any) { d["jwks_uri"] = fmt.Sprint(d["issuer"], "/no-keys") }, credentials: true, good: []string{"discovery", "credentials"}, wrong: "/no-keys answered 404"},
		"the document is of another": {answer: says(400, `{"error":"invalid_grant"}`), document: func(d map[string]any) { d["issuer"] = "https://other.example" }, credentials: true, wrong: "https://other.example"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newScripted(t)
			r.answer(row.answer)
			r.document = row.document
			var good []string
			wrong := ""
			for _, one := range r.provider(func(c *provider.Config) { c.RefreshTimeout = 0 }).Probe(t.Context(), row.credentials) {
				if one.Err != nil {
					wrong += one.What + ": " + one.Err.Error()
					continue
				}
				good = append(good, one.What)
			}
			if strings.Join(good, " ") != strings.Join(row.good, " ") {
				t.Errorf("good: %v, want %v", good, row.good)
			}
			if (wrong == "") != (row.wrong == "") || !strings.Contains(wrong, row.wrong) {
				t.Errorf("wrong: %q, want %q", wrong, row.wrong)
			}
		})
	}
}
