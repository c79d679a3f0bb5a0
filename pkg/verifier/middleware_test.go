package verifier_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/ginverifier"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
)

// services are a handler behind the middleware, of net/http and of gin: both answer the same.
func services(v *verifier.Verifier) map[string]http.Handler {
	says := func(w http.ResponseWriter, claims *verifier.Claims) { fmt.Fprintf(w, "hello %s", claims.Username) }
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(ginverifier.Middleware(v))
	router.GET("/", ginverifier.RequireScope("read"), func(c *gin.Context) { says(c.Writer, ginverifier.Claims(c)) })
	return map[string]http.Handler{
		"net/http": v.Middleware(verifier.RequireScope("read")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			claims, _ := verifier.FromContext(r.Context())
			says(w, claims)
		}))),
		"gin": router,
	}
}

func TestChallenges(t *testing.T) {
	issuer := verifiertest.Start(t)
	v, err := verifier.New(t.Context(), issuer.URL, "files", verifier.WithRealm(`the "files"`), verifier.WithResourceMetadata("https://files.example.org/.well-known/oauth-protected-resource"))
	if err != nil {
		t.Fatal(err)
	}
	const named = `Bearer realm="the 'files'", resource_metadata="https://files.example.org/.well-known/oauth-protected-resource"`
	for name, row := range map[string]struct {
		authorization, challenge, says string
		status                         int
	}{
		"a good token":     {authorization: "Bearer " + issuer.Mint("files", "alice", map[string]any{"scope": "read write"}), status: 200, says: "hello alice"},
		"the scheme small": {authorization: "bearer " + issuer.Mint("files", "alice", map[string]any{"scope": "read"}), status: 200, says: "hello alice"},
		"none":             {status: 401, challenge: named},
		"another scheme":   {authorization: "Basic YTpi", status: 401, challenge: named},
		"another audience": {authorization: "Bearer " + issuer.Mint("other", "alice", nil), status: 401, challenge: named + `, error="invalid_token", error_description="for another audience"`},
		"expired":          {authorization: "Bearer " + issuer.Mint("files", "alice", map[string]any{"exp": time.Now().Unix() - 1}), status: 401, challenge: named + `, error="invalid_token", error_description="expired"`},
		"without an end":   {authorization: "Bearer " + issuer.Mint("files", "alice", map[string]any{"exp": nil}), status: 401, challenge: named + `, error="invalid_token"`},
		"another scope":    {authorization: "Bearer " + issuer.Mint("files", "alice", map[string]any{"scope": "write"}), status: 403, challenge: named + `, scope="read", error="insufficient_scope"`},
	} {
		for framework, service := range services(v) {
			t.Run(framework+"/"+name, func(t *testing.T) {
				request := httptest.NewRequest(http.MethodGet, "/", nil)
				if row.authorization != "" {
					request.Header.Set("Authorization", row.authorization)
				}
				got := httptest.NewRecorder()
				service.ServeHTTP(got, request)
				if challenge := got.Header().Get("WWW-Authenticate"); got.Code != row.status || !strings.HasPrefix(challenge, row.challenge) || row.challenge == "" && challenge != "" || !strings.Contains(got.Body.String(), row.says) {
					t.Errorf("got %d %q %s; want %d %q %s", got.Code, challenge, got.Body, row.status, row.challenge, row.says)
				}
			})
		}
	}
}

// RFC 9728.
func TestMetadataOfTheResource(t *testing.T) {
	issuer := verifiertest.Start(t)
	v, err := verifier.New(t.Context(), issuer.URL, "files")
	if err != nil {
		t.Fatal(err)
	}
	got := httptest.NewRecorder()
	v.Metadata("https://files.example.org", "read", "write").ServeHTTP(got, httptest.NewRequest(http.MethodGet, verifier.MetadataPath, nil))
	var said map[string]any
	if err := json.Unmarshal(got.Body.Bytes(), &said); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"resource": "https://files.example.org", "authorization_servers": []any{issuer.URL}, "scopes_supported": []any{"read", "write"}, "bearer_methods_supported": []any{"header"},
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Error(diff)
	}
}

// RFC 7662: the issuer says of a token that only it can read whether it is good, and is asked seldom.
func TestIntrospection(t *testing.T) {
	issuer := verifiertest.Start(t)
	var asked atomic.Int32
	var answer atomic.Value
	answer.Store(`{"active": false}`)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		id, secret, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.FormValue("token") == "" || id != "files" || secret != "s%2Bcret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if text := answer.Load().(string); text != "" {
			fmt.Fprint(w, text)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(endpoint.Close)
	var ahead atomic.Int64
	clock := verifier.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	v, err := verifier.New(t.Context(), issuer.URL, "files", verifier.WithIntrospection(endpoint.URL, "files", "s+cret"), clock)
	if err != nil {
		t.Fatal(err)
	}
	active := fmt.Sprintf(`{"active": true, "sub": "u1", "aud": "files", "scope": "read", "username": "alice", "exp": %d}`, time.Now().Add(time.Hour).Unix())
	for _, step := range []struct {
		name, token, answer string
		want                error
		asked               int32
	}{
		{name: "a token that is active", token: "wtsp_1", answer: active, asked: 1},
		{name: "the same again", token: "wtsp_1", answer: `{"active": false}`},
		{name: "one that is not", token: "wtsp_2", answer: `{"active": false}`, want: verifier.ErrInactive, asked: 1},
		{name: "the same again", token: "wtsp_2", answer: active, want: verifier.ErrInactive},
		{name: "for another audience", token: "wtsp_3", answer: `{"active": true, "aud": "other"}`, want: verifier.ErrAudience, asked: 1},
		{name: "for no audience", token: "wtsp_4", answer: `{"active": true}`, want: verifier.ErrAudience, asked: 1},
		{name: "expired", token: "wtsp_5", answer: `{"active": true, "aud": "files", "exp": 1}`, want: verifier.ErrExpired, asked: 1},
		{name: "the issuer is in trouble", token: "wtsp_6", answer: "", want: verifier.ErrUnavailable, asked: 1},
		{name: "and is asked again", token: "wtsp_6", answer: active, asked: 1},
		{name: "no JSON", token: "wtsp_7", answer: "<html>", want: verifier.ErrUnavailable, asked: 1},
		{name: "a JWT asks nobody", token: issuer.Mint("files", "alice", map[string]any{"scope": "read"}), answer: ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			answer.Store(step.answer)
			before := asked.Load()
			claims, err := v.Verify(t.Context(), step.token)
			if !errors.Is(err, step.want) || asked.Load()-before != step.asked {
				t.Fatalf("got %v after %d questions; want %v after %d", err, asked.Load()-before, step.want, step.asked)
			}
			if err == nil && (claims.Username != "alice" || !claims.HasScopes("read")) {
				t.Errorf("got %+v, want alice with read", claims)
			}
		})
	}
	t.Run("revoked, ten seconds later", func(t *testing.T) {
		answer.Store(`{"active": false}`)
		ahead.Store(int64(11 * time.Second))
		if _, err := v.Verify(t.Context(), "wtsp_1"); !errors.Is(err, verifier.ErrInactive) {
			t.Errorf("got %v, want ErrInactive", err)
		}
	})
}

func ExampleVerifier_Middleware() {
	v, err := verifier.New(nil, "https://wts.example.org", "files") //nolint:staticcheck // an example that fetches nothing
	if err != nil {
		fmt.Println(err)
		return
	}
	files := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verifier.FromContext(r.Context())
		fmt.Fprintln(w, "files of", claims.Username)
	})
	http.Handle("/files/", v.Middleware(verifier.RequireScope("read")(files)))
	// Output:
}

func ExampleVerifier_Metadata() {
	v, err := verifier.New(nil, "https://wts.example.org", "files") //nolint:staticcheck // an example that fetches nothing
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := httptest.NewRecorder()
	v.Metadata("https://files.example.org", "read").ServeHTTP(answer, httptest.NewRequest(http.MethodGet, verifier.MetadataPath, nil))
	fmt.Println(answer.Body)
	// Output:
	// {"resource":"https://files.example.org","authorization_servers":["https://wts.example.org"],"scopes_supported":["read"],"bearer_methods_supported":["header"]}
}
