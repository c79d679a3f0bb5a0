package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/api"
)

// A list goes on through its pages, and no further than its reader does.
func TestListsHavePages(t *testing.T) {
	var asked []string
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		if r.URL.Query().Get("after") == "" {
			fmt.Fprint(w, `{"tokens":[{"id":"a"},{"id":"b"}],"next":"b"}`)
			return
		}
		fmt.Fprint(w, `{"tokens":[{"id":"c"}]}`)
	})
	var ids []string
	for one, err := range client.ListTokens(t.Context(), api.Tokens{Audience: "plugins", Resource: "my plugin"}, api.TokenFilter{State: "active", UnusedDays: 3}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, one.ID)
	}
	const path = "/api/v1/resources/plugins/my%20plugin/tokens?"
	if diff := cmp.Diff([][]string{{"a", "b", "c"}, {path + "state=active&unused_days=3", path + "after=b&state=active&unused_days=3"}}, [][]string{ids, asked}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	asked = nil
	for range client.ListTokens(t.Context(), api.Tokens{}, api.TokenFilter{}) {
		break
	}
	if diff := cmp.Diff([]string{"/api/v1/tokens?"}, asked); diff != "" {
		t.Errorf("a reader that stops (-want +got):\n%s", diff)
	}
}

// What is sent, as the service reads it: a life that is not named, one, and none at all.
func TestWhatIsSent(t *testing.T) {
	life, none, hour := int64(60), api.NoEnd, time.Hour
	var sent string
	client := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = r.Method + " " + r.URL.Path + " " + string(body)
	})
	for want, call := range map[string]func() error{
		`POST /api/v1/tokens {"name":"x"}`: func() error {
			_, err := client.CreateToken(t.Context(), api.Tokens{}, api.NewToken{Name: "x"})
			return err
		},
		`POST /api/v1/tokens {"audience":"wts","name":"x","scopes":["token"],"expires_in":60}`: func() error {
			_, err := client.CreateToken(t.Context(), api.Tokens{}, api.NewToken{Audience: "wts", Name: "x", Scopes: []string{"token"}, ExpiresIn: &life})
			return err
		},
		`POST /api/v1/resources/a/b/tokens {"name":"x","expires_in":null}`: func() error {
			_, err := client.CreateToken(t.Context(), api.Tokens{Audience: "a", Resource: "b"}, api.NewToken{Name: "x", ExpiresIn: &none})
			return err
		},
		`POST /api/v1/tokens/id/rotate {}`: func() error {
			_, err := client.RotateToken(t.Context(), api.Tokens{}, "id", nil)
			return err
		},
		`POST /api/v1/tokens/id/rotate {"overlap":3600}`: func() error {
			_, err := client.RotateToken(t.Context(), api.Tokens{}, "id", &hour)
			return err
		},
		`DELETE /api/v1/tokens/id `: func() error { _, err := client.RevokeToken(t.Context(), api.Tokens{}, "id"); return err },
	} {
		t.Run(want, func(t *testing.T) {
			if err := call(); err == nil || sent != want {
				t.Errorf("sent %q, %v; want %q, and an error since the answer is empty", sent, err, want)
			}
		})
	}
}

// Each shape of error is read, with what its person does next.
func TestErrorsOfEachShape(t *testing.T) {
	for name, row := range map[string]struct {
		body string
		want api.Error
	}{
		"Gen3's":        {`{"message":"log in","code":"not_connected","request_id":"r","connect_url":"https://x"}`, api.Error{Message: "log in", Code: "not_connected", RequestID: "r", ConnectURL: "https://x"}},
		"of expires":    {`{"error":"expires: want a number","code":"expires","request_id":"r"}`, api.Error{Message: "expires: want a number", Code: "expires", RequestID: "r"}},
		"OAuth's":       {`{"error":"invalid_grant","error_description":"it ended","code":"grant","request_id":"r"}`, api.Error{Message: "it ended", Code: "grant", RequestID: "r"}},
		"a problem":     {`{"title":"Forbidden","detail":"log in again","code":"step_up","request_id":"r","status":403}`, api.Error{Message: "log in again", Code: "step_up", RequestID: "r"}},
		"a proxy's":     {`<html>`, api.Error{Message: "Forbidden"}},
		"nothing to it": {``, api.Error{Message: "Forbidden"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, row.body)
			})
			_, err := client.User(t.Context())
			row.want.Status = http.StatusForbidden
			var got *api.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(row.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if text, err := json.Marshal(api.NewToken{Name: "x"}); err != nil || string(text) != `{"name":"x"}` {
		t.Errorf("got %s, %v", text, err)
	}
}
