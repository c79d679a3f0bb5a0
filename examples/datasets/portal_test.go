package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
)

type object = map[string]any

const secret = "a secret of the portal's, of 32 bytes and more"

// sign is a token as wts mints it for a portal.
func sign(t *testing.T, claims object) string {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(text)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func portalToken(t *testing.T) string {
	t.Helper()
	return sign(t, object{"datasets": []string{"ds0"}, "email": "alice@example.org", "exp": time.Now().Unix() + 60, "clientAuthResult": object{"role": "admin"}})
}

func newPortal(t *testing.T, credentials string, log *slog.Logger) http.Handler {
	t.Helper()
	handler, err := newHandler(t.Context(), []byte(credentials), log)
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

const credentials = `{
	"ds0": {"termdb": {"portal.example.org": {"type": "jwt", "secret": "` + secret + `", "looseIpCheck": true, "protectedRoutes": ["/termdb/matrix"]}}},
	"*": {"*": {"*": {"type": "forbidden"}}}}`

func ask(handler http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	return got
}

// A page of the portal asks whether its token is good, and then for data with what it was handed back.
func TestThePageOfAPortal(t *testing.T) {
	var logged strings.Builder
	handler := newPortal(t, credentials, slog.New(slog.NewTextHandler(&logged, nil)))
	got := ask(handler, http.MethodPost, "/jwt-status", `{"dslabel":"ds0","embedder":"portal.example.org","route":"termdb"}`, "x-ds-access-token", portalToken(t))
	var status struct{ Status, JWT string }
	if json.Unmarshal(got.Body.Bytes(), &status) != nil || got.Code != 200 || status.Status != "ok" {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	bearer := "Bearer " + base64.StdEncoding.EncodeToString([]byte(status.JWT)) // as ProteinPaint's client sends it
	got = ask(handler, http.MethodPost, "/termdb/matrix", `{"dslabel":"ds0","embedder":"portal.example.org","for":"matrix"}`, "Authorization", bearer)
	if got.Code != 200 || !strings.Contains(got.Body.String(), "S1") || !strings.Contains(got.Body.String(), `"role":"admin"`) {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if !strings.Contains(logged.String(), "alice@example.org") || strings.Contains(logged.String(), status.JWT) {
		t.Errorf("the log says %s", &logged)
	}
}

func TestWhatIsOpenAndWhatIsNot(t *testing.T) {
	handler := newPortal(t, credentials, slog.New(slog.DiscardHandler))
	const from = "dslabel=ds0&embedder=portal.example.org"
	for target, want := range map[string][2]int{ // without a token, and with one
		"/genomes":                   {200, 200},
		"/termdb?" + from:            {200, 200},
		"/termdb/matrix?" + from:     {401, 200},
		"/termdb?for=matrix&" + from: {401, 200},
		"/termdb/matrix?dslabel=ds0&embedder=evil.example.org":    {403, 403},
		"/termdb?dslabel=ds0&embedder=evil.example.org":           {403, 403},
		"/termdb?dslabel=ds0":                                     {403, 403},
		"/termdb/matrix?dslabel=ds1&embedder=portal.example.org":  {403, 403},
		"/termdb/matrix?dslabel=none&embedder=portal.example.org": {403, 403},
		"/termdb": {403, 403},
		"/other":  {404, 404},
	} {
		t.Run(target, func(t *testing.T) {
			for i, headers := range [][]string{nil, {"X-Ds-Access-Token", portalToken(t)}} {
				got := ask(handler, http.MethodGet, target, "", headers...)
				if got.Code != want[i] || !json.Valid(got.Body.Bytes()) || want[i] != 200 && strings.Contains(got.Body.String(), "S1") {
					t.Errorf("%d %s, want %d", got.Code, got.Body, want[i])
				}
			}
		})
	}
}

// Tokens that wts signs for an audience, by its published keys, in the place of a secret.
func TestTokensOfWTS(t *testing.T) {
	issuer := verifiertest.Start(t)
	handler := newPortal(t, `{"ds1": {"*": {"portal.example.org": {"type": "wts", "issuer": "`+issuer.URL+`", "audience": "portal"}}}}`, slog.New(slog.DiscardHandler))
	const target = "/termdb/matrix?dslabel=ds1&embedder=portal.example.org"
	for want, token := range map[int]string{
		200: issuer.Mint("portal", "u1", object{"datasets": []string{"ds1"}}), 403: issuer.Mint("portal", "u1", nil), 401: issuer.Mint("other", "u1", object{"datasets": []string{"ds1"}}),
	} {
		if got := ask(handler, http.MethodGet, target, "", "Authorization", "Bearer "+token); got.Code != want {
			t.Errorf("%d %s, want %d", got.Code, got.Body, want)
		}
	}
}

func TestScriptsOfEmbeddersMayAsk(t *testing.T) {
	only := `{"ds0": {"headerKey": "X-Auth-Token", "termdb": {"portal.example.org": {"type": "forbidden"}}}}`
	handler := newPortal(t, only, slog.New(slog.DiscardHandler))
	for origin, allowed := range map[string]bool{"https://portal.example.org": true, "https://portal.example.org:8443": true, "https://evil.example.org": false, "https://portal.example.org.evil": false, "null": false, "": false} {
		t.Run(origin, func(t *testing.T) {
			got := ask(handler, http.MethodOptions, "/termdb", "", "Origin", origin, "Access-Control-Request-Method", "POST")
			if said := got.Header().Get("Access-Control-Allow-Origin"); got.Code != 204 || (said == origin && said != "") != allowed || strings.Contains(got.Header().Get("Access-Control-Allow-Headers"), "X-Auth-Token") != allowed {
				t.Errorf("%d %v", got.Code, got.Header())
			}
		})
	}
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	for _, text := range []string{`{}`, `{"ds0": {"*": {"*": {"type": "jwt", "secret": "short"}}}}`, `[`} {
		if _, err := newHandler(t.Context(), []byte(text), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}
