package dataset_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/dataset"
	"github.com/workspace-token-service/wts/pkg/verifier/verifiertest"
)

type object = map[string]any

const (
	first  = "the first secret, of 32 bytes and more"
	second = "the second secret, of 32 bytes and more"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func encode(value any) string {
	return base64.RawURLEncoding.EncodeToString(must(json.Marshal(value)))
}

// sign signs by the algorithm that belongs to the key; the header may say another one.
func sign(header, claims object, key any) string {
	input := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	switch key := key.(type) {
	case string:
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	case *rsa.PrivateKey:
		signature = must(rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:]))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		must(0, err)
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	case ed25519.PrivateKey:
		signature = ed25519.Sign(key, []byte(input))
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// portal is a token of a portal for ds0; changes take the place of its claims, and nil takes one out.
func portal(changes object) string {
	return sign(object{"alg": "HS256", "typ": "JWT"}, claims(changes), first)
}

func claims(changes object) object {
	all := object{"datasets": []string{"ds0"}, "email": "alice@example.org", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 300, "clientAuthResult": object{"role": "admin"}}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

func pemOf(key crypto.PublicKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))}))
}

// guardOf serves data behind the rules: what the handler says is who it sees.
func guardOf(t *testing.T, rules string, options ...dataset.Option) http.Handler {
	t.Helper()
	read, err := dataset.Parse(t.Context(), []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	guard, err := dataset.New(read, options...)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /jwt-status", guard.Status())
	mux.Handle("/", guard.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		access, _ := dataset.FromContext(r.Context())
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %t %q %s %s", access.Label, access.Embedder, access.Route, access.Open, access.Email, access.ClientAuthResult, body)
	})))
	return mux
}

// get asks for data; the headers are pairs.
func get(handler http.Handler, target string, headers ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder
}

const header = dataset.DefaultHeader

func rules(credential string) string {
	return `{"ds0": {"*": {"portal.example.org": ` + credential + `}}}`
}

const shared = `{"type": "jwt", "secret": "` + first + `", "looseIpCheck": true}`

const data = "/termdb/matrix?dslabel=ds0&embedder=portal.example.org"

func TestAGoodToken(t *testing.T) {
	handler := guardOf(t, rules(`{"type": "jwt", "secrets": ["`+first+`", "`+second+`"], "ipCheck": "loose"}`))
	token := portal(nil)
	for name, headers := range map[string][]string{
		"in its header":          {header, token},
		"a bearer":               {"Authorization", "Bearer " + token},
		"a bearer in base64":     {"Authorization", "bearer " + base64.StdEncoding.EncodeToString([]byte(token))},
		"the same without =":     {"Authorization", "Bearer " + base64.RawStdEncoding.EncodeToString([]byte(token))},
		"the same in base64url":  {"Authorization", "Bearer " + base64.URLEncoding.EncodeToString([]byte(token))},
		"by the secret to come":  {header, sign(object{"alg": "HS256"}, claims(nil), second)},
		"with more datasets":     {header, portal(object{"datasets": []string{"ds1", "ds0"}})},
		"with an address":        {header, portal(object{"ip": "192.0.2.1"})},
		"for this very embedder": {header, portal(object{"dslabel": "ds0", "embedder": "portal.example.org"})},
	} {
		t.Run(name, func(t *testing.T) {
			got := get(handler, data, headers...)
			if want := `ds0 portal.example.org /** false "alice@example.org" {"role":"admin"} `; got.Code != 200 || got.Body.String() != want {
				t.Errorf("%d %s, want 200 %s", got.Code, got.Body, want)
			}
		})
	}
}

// An embedder that no rule names sees nothing, nor does a dataset or a route that no rule names.
func TestLesson20OtherEmbeddersAreRefused(t *testing.T) {
	handler := guardOf(t, `{
		"ds0": {"termdb": {"portal.example.org": `+shared+`}, "/burden/**": {"*": `+shared+`}, "/shut": {"portal.example.org": {"type": "forbidden"}}},
		"#off": {"*": {"*": `+shared+`}},
		"*": {"*": {"catch.example.org": `+shared+`}}}`)
	token := portal(object{"datasets": []string{"ds0", "ds1", "#off", "*", ""}})
	for target, want := range map[string]int{
		data:                                     200,
		"/burden/x?dslabel=ds0&embedder=anybody": 200,
		"/burden?dslabel=ds0":                    200,
		"/other?dslabel=ds1&embedder=catch.example.org":                   200,
		"/termdb?dslabel=ds0&embedder=evil.example.org":                   403,
		"/termdb?dslabel=ds0":                                             403,
		"/termdb?dslabel=ds0&embedder=":                                   403,
		"/termdb?dslabel=ds0&embedder=*":                                  403,
		"/termdb?dslabel=ds0&embedder=PORTAL.example.org":                 403,
		"/termdb?dslabel=ds0&embedder=portal.example.org.evil":            403,
		"/termdb?dslabel=ds0&embedder=catch.example.org":                  403,
		"/termdbx?dslabel=ds0&embedder=portal.example.org":                403,
		"/shut?dslabel=ds0&embedder=portal.example.org":                   403,
		"/other?dslabel=ds0&embedder=portal.example.org":                  403,
		"/other?dslabel=%23off&embedder=x":                                403,
		"/other?dslabel=*&embedder=catch.example.org":                     403,
		"/other?embedder=catch.example.org":                               403,
		"/other":                                                          403,
		"/other?dslabel=ds1&embedder=x":                                   403,
		"/termdb?dslabel=ds0&embedder=portal.example.org&embedder=x":      400,
		"/termdb?dslabel=ds1&embedder=portal.example.org&dslabel=ds0":     400,
		"/burden/../termdb?dslabel=ds0&embedder=portal.example.org":       400,
		"/burden%2fx?dslabel=ds0&embedder=portal.example.org":             400,
		"/termdb?dslabel=ds0&embedder=portal.example.org;embedder=broken": 400,
	} {
		t.Run(target, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			request.URL.Path, request.URL.RawPath = "", ""
			at, query, _ := strings.Cut(target, "?")
			request.URL.Path, request.URL.RawQuery = strings.Replace(at, "%2f", "/", 1), query
			if strings.Contains(at, "%2f") {
				request.URL.RawPath = at
			}
			for _, sent := range []string{token, ""} {
				request.Header.Set(header, sent)
				got := httptest.NewRecorder()
				direct(t, handler).ServeHTTP(got, request)
				if status := want; got.Code != status && (sent != "" || got.Code != 401 || status != 200) {
					t.Errorf("with a token of %d bytes: %d %s, want %d", len(sent), got.Code, got.Body, status)
				}
			}
		})
	}
}

// direct is the handler behind the multiplexer, which would clean a path before the guard sees it.
func direct(t *testing.T, handler http.Handler) http.Handler {
	t.Helper()
	behind, _ := handler.(*http.ServeMux).Handler(httptest.NewRequest(http.MethodGet, "/x", nil))
	return behind
}

// A token has to say which datasets it opens: none is not all of them.
func TestLesson21ATokenWithoutDatasetsOpensNothing(t *testing.T) {
	plain := guardOf(t, rules(shared))
	cohorts := guardOf(t, rules(`{"type": "jwt", "secret": "`+first+`", "dsnames": [{"id": "a", "label": "A"}, {"id": "b", "label": "B"}], "ipCheck": "loose"}`))
	for name, row := range map[string]struct {
		handler  http.Handler
		datasets any
		want     int
	}{
		"the label":                  {plain, []string{"ds0"}, 200},
		"none":                       {plain, nil, 403},
		"an empty list":              {plain, []string{}, 403},
		"another":                    {plain, []string{"ds1"}, 403},
		"the label in capitals":      {plain, []string{"DS0"}, 403},
		"an asterisk":                {plain, []string{"*"}, 403},
		"nothing named":              {plain, []string{""}, 403},
		"a text":                     {plain, "ds0", 401},
		"of cohorts, all":            {cohorts, []string{"b", "a", "c"}, 200},
		"of cohorts, the label":      {cohorts, []string{"ds0"}, 200},
		"of cohorts, one is missing": {cohorts, []string{"a"}, 403},
		"of cohorts, none":           {cohorts, nil, 403},
		"of cohorts, an empty list":  {cohorts, []string{}, 403},
		"of cohorts, their label":    {cohorts, []string{"A", "B"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			if got := get(row.handler, data, header, portal(object{"datasets": row.datasets})); got.Code != row.want {
				t.Errorf("%d %s, want %d", got.Code, got.Body, row.want)
			}
		})
	}
	if got := get(plain, data, header, portal(object{"dslabel": "ds1"})); got.Code != 403 {
		t.Errorf("a session of another dataset: %d, want 403", got.Code)
	}
}

// A refusal is 401 or 403 with its reason as JSON, at the status route too, and never 200.
func TestLesson22ARefusalHasItsStatus(t *testing.T) {
	handler := guardOf(t, rules(`{"type": "jwt", "looseIpCheck": true, "secret": "`+first+`", "ipCheck": "strict"}`))
	here := "192.0.2.1" // of httptest's requests
	for name, row := range map[string]struct {
		token, embedder string
		want            int
	}{
		"good":                       {portal(object{"ip": here}), "portal.example.org", 200},
		"no token":                   {"", "portal.example.org", 401},
		"garbage":                    {"garbage", "portal.example.org", 401},
		"base64 of nothing":          {base64.StdEncoding.EncodeToString([]byte("..")), "portal.example.org", 401},
		"expired":                    {portal(object{"ip": here, "exp": time.Now().Unix() - 1}), "portal.example.org", 401},
		"without an end":             {portal(object{"ip": here, "exp": nil}), "portal.example.org", 401},
		"not yet":                    {portal(object{"ip": here, "nbf": time.Now().Unix() + 200}), "portal.example.org", 401},
		"of another secret":          {sign(object{"alg": "HS256"}, claims(object{"ip": here}), second), "portal.example.org", 401},
		"without an address":         {portal(nil), "portal.example.org", 401},
		"of another address":         {portal(object{"ip": "192.0.2.2"}), "portal.example.org", 401},
		"an address in words":        {portal(object{"ip": "home"}), "portal.example.org", 401},
		"claims of another kind":     {portal(object{"ip": here, "email": 7}), "portal.example.org", 401},
		"of another dataset":         {portal(object{"ip": here, "datasets": []string{"ds1"}}), "portal.example.org", 403},
		"for an embedder not listed": {portal(object{"ip": here}), "evil.example.org", 403},
	} {
		t.Run(name, func(t *testing.T) {
			body := string(must(json.Marshal(object{"dslabel": "ds0", "embedder": row.embedder, "route": "*"})))
			for _, target := range []string{"/jwt-status", "/termdb"} {
				request := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
				request.Header.Set(header, row.token)
				got := httptest.NewRecorder()
				handler.ServeHTTP(got, request)
				var refusal struct{ Error string }
				if got.Code != row.want || row.want != 200 && (json.Unmarshal(got.Body.Bytes(), &refusal) != nil || refusal.Error == "") {
					t.Errorf("%s: %d %s, want %d with an error", target, got.Code, got.Body, row.want)
				}
				if row.token != "" && strings.Contains(refusal.Error, row.token) {
					t.Errorf("%s: the error repeats the token", target)
				}
				if (got.Header().Get("WWW-Authenticate") != "") != (row.want == 401) || got.Header().Get("Cache-Control") != "no-store" && target == "/jwt-status" {
					t.Errorf("%s: headers %v", target, got.Header())
				}
			}
		})
	}
}

// The kind of the key says by which algorithm a token is verified; the token does not.
func TestLesson23AlgorithmsFollowTheKey(t *testing.T) {
	rsaKey, ecKey := must(rsa.GenerateKey(rand.Reader, 2048)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	edPublic, edKey, _ := ed25519.GenerateKey(rand.Reader)
	rsaPEM, ecPEM := pemOf(rsaKey.Public()), pemOf(ecKey.Public())
	guard := func(members object) http.Handler {
		members["type"], members["looseIpCheck"] = "jwt", true
		return guardOf(t, rules(string(must(json.Marshal(members)))))
	}
	secret, ofRSA, ofEC := guard(object{"secret": first}), guard(object{"secret": rsaPEM}), guard(object{"publicKeys": []string{ecPEM}})
	both := guard(object{"secrets": []string{first, rsaPEM + ecPEM}})
	issuer := verifiertest.Start(t)
	wts := guardOf(t, rules(`{"type": "wts", "issuer": "`+issuer.URL+`", "audience": "portal"}`))
	for name, row := range map[string]struct {
		handler   http.Handler
		algorithm string
		key       any
		want      int
	}{
		"HS256 by the secret":         {secret, "HS256", first, 200},
		"RS256 by an RSA key":         {ofRSA, "RS256", rsaKey, 200},
		"ES256 by a P-256 key":        {ofEC, "ES256", ecKey, 200},
		"of several kinds, a secret":  {both, "HS256", first, 200},
		"of several kinds, RS256":     {both, "RS256", rsaKey, 200},
		"of several kinds, ES256":     {both, "ES256", ecKey, 200},
		"HS256 by the RSA PEM":        {ofRSA, "HS256", rsaPEM, 401},
		"HS256 by its trimmed PEM":    {ofRSA, "HS256", strings.TrimSpace(rsaPEM), 401},
		"HS256 by the EC PEM":         {ofEC, "HS256", ecPEM, 401},
		"of several kinds, the PEM":   {both, "HS256", rsaPEM + ecPEM, 401},
		"none":                        {secret, "none", "", 401},
		"none by a public key":        {ofEC, "none", "", 401},
		"HS512 named":                 {secret, "HS512", first, 401},
		"PS256 named":                 {ofRSA, "PS256", rsaKey, 401},
		"EdDSA":                       {ofEC, "EdDSA", edKey, 401},
		"ES256 by another key":        {ofEC, "ES256", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), 401},
		"a secret's token at a wts's": {wts, "HS256", first, 401},
	} {
		t.Run(name, func(t *testing.T) {
			if got := get(row.handler, data, header, sign(object{"alg": row.algorithm, "typ": "JWT"}, claims(nil), row.key)); got.Code != row.want {
				t.Errorf("%d %s, want %d", got.Code, got.Body, row.want)
			}
		})
	}
	if got := get(wts, data, "Authorization", "Bearer "+issuer.Mint("portal", "u1", object{"datasets": []string{"ds0"}})); got.Code != 200 {
		t.Errorf("a token of wts: %d %s", got.Code, got.Body)
	}
	if got := get(wts, data, header, issuer.Mint("other", "u1", object{"datasets": []string{"ds0"}})); got.Code != 401 {
		t.Errorf("a token of wts for another audience: %d", got.Code)
	}
	if _, err := dataset.Parse(t.Context(), []byte(rules(string(must(json.Marshal(object{"type": "jwt", "looseIpCheck": true, "secret": pemOf(edPublic)})))))); err == nil {
		t.Error("an Ed25519 key is pinned")
	}
}

func TestAnIssuerThatIsAway(t *testing.T) {
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	handler := guardOf(t, rules(`{"type": "wts", "issuer": "`+away.URL+`", "audience": "portal"}`))
	token := verifiertest.Start(t).Mint("portal", "u1", object{"datasets": []string{"ds0"}})
	if got := get(handler, data, header, token); got.Code != 503 || got.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v, want 503 with Retry-After", got.Code, got.Header())
	}
}

// Aggregated data of a termdb may be open to its embedder, while what is listed needs a token.
func TestProtectedRoutes(t *testing.T) {
	handler := guardOf(t, `{"ds0": {"termdb": {"portal.example.org": {"type": "jwt", "looseIpCheck": true, "secret": "`+first+`", "protectedRoutes": ["scatter", "/termdb/samples/**"]}}}}`)
	for target, want := range map[string]int{
		"/termdb/barsql": 200, "/termdb": 200, "/termdb?for=barchart": 200,
		"/termdb?for=matrix": 401, "/termdb/matrix": 401, "/termdb?for=scatter": 401, "/termdb/scatter": 401, "/termdb/scatter/": 401,
		"/termdb/samples/x/y": 401, "/termdb/samples": 401, "/termdb/samples/": 401, "/genomes": 403,
	} {
		t.Run(target, func(t *testing.T) {
			with := target + "?"
			if strings.Contains(target, "?") {
				with = target + "&"
			}
			got := get(handler, with+"dslabel=ds0&embedder=portal.example.org")
			if got.Code != want || want == 200 && !strings.Contains(got.Body.String(), "termdb true") {
				t.Errorf("%d %s, want %d", got.Code, got.Body, want)
			}
			if got := get(handler, with+"dslabel=ds0&embedder=evil.example.org"); got.Code != 403 {
				t.Errorf("for another embedder: %d, want 403", got.Code)
			}
		})
	}
	request := httptest.NewRequest(http.MethodPost, "/termdb", strings.NewReader(`{"for":"matrix","dslabel":"ds0","embedder":"portal.example.org"}`))
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	if got.Code != 401 {
		t.Errorf("a matrix that the body asks for: %d, want 401", got.Code)
	}
}

func TestBodies(t *testing.T) {
	handler := guardOf(t, rules(shared))
	for body, want := range map[string]int{
		`{"dslabel":"ds0","embedder":"portal.example.org"}`:                              200,
		` {"dslabel":"ds0","embedder":"portal.example.org","filter":{"a":[1,{"b":2}]}} `: 200,
		`{"dslabel":"ds0","embedder":"portal.example.org","dslabel":"ds1"}`:              400,
		`{"dslabel":"ds0","embedder":"portal.example.org","DSLABEL":"ds1"}`:              400,
		`{"DSLABEL":"ds0","embedder":"portal.example.org"}`:                              400,
		`{"dslabel":["ds0"],"embedder":"portal.example.org"}`:                            400,
		`{"dslabel":"ds0","embedder":"portal.example.org"}{}`:                            400,
		`[]`:               400,
		`dslabel=ds0`:      400,
		`{"dslabel":"ds0"`: 400,
		``:                 403,
		`{}`:               403,
		`{"x":"` + strings.Repeat("x", 1<<20) + `"}`: 400,
	} {
		t.Run(body[:min(len(body), 60)], func(t *testing.T) {
			request := httptest.NewRequest(http.MethodPost, "/termdb", strings.NewReader(body))
			request.Header.Set(header, portal(nil))
			got := httptest.NewRecorder()
			handler.ServeHTTP(got, request)
			if got.Code != want || want == 200 && !strings.HasSuffix(got.Body.String(), body) {
				t.Errorf("%d %s, want %d and the body for the handler", got.Code, got.Body, want)
			}
		})
	}
	// The query and the body are one request.
	request := httptest.NewRequest(http.MethodPost, "/termdb?dslabel=ds1", strings.NewReader(`{"dslabel":"ds0","embedder":"portal.example.org"}`))
	request.Header.Set(header, portal(nil))
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	if got.Code != 400 {
		t.Errorf("another dataset in the query: %d, want 400", got.Code)
	}
}

func TestStatus(t *testing.T) {
	handler := guardOf(t, `{"ds0": {"headerKey": "x-auth-token", "termdb": {"portal.example.org": `+shared+`}, "/burden/**": {"portal.example.org": {"type": "jwt", "looseIpCheck": true, "secret": "`+second+`"}}}}`)
	token := portal(nil)
	for route, want := range map[string]struct {
		status int
		route  string
	}{"": {200, "termdb"}, "termdb": {200, "termdb"}, "/termdb/matrix": {200, "termdb"}, "/burden/x": {401, ""}, "other": {403, ""}, "*": {403, ""}, "/**": {403, ""}, "{": {400, ""}} {
		t.Run(route, func(t *testing.T) {
			body := must(json.Marshal(object{"dslabel": "ds0", "embedder": "portal.example.org", "route": route}))
			request := httptest.NewRequest(http.MethodPost, "/jwt-status", strings.NewReader(string(body)))
			request.Header.Set("X-Auth-Token", token)
			got := httptest.NewRecorder()
			handler.ServeHTTP(got, request)
			var said struct {
				Status, JWT, Route string
				Result             object `json:"clientAuthResult"`
			}
			if json.Unmarshal(got.Body.Bytes(), &said) != nil || got.Code != want.status || said.Route != want.route {
				t.Fatalf("%d %s, want %d %s", got.Code, got.Body, want.status, want.route)
			}
			if want.status == 200 && (said.Status != "ok" || said.JWT != token || said.Result["role"] != "admin") {
				t.Errorf("%s", got.Body)
			}
		})
	}
}

func TestNothingOfASecretIsSaid(t *testing.T) {
	read := must(dataset.Parse(t.Context(), []byte(rules(shared))))
	guard := must(dataset.New(read))
	if printed := fmt.Sprintf("%v %+v %#v %v %+v", read, read, read, guard, guard); strings.Contains(printed, first) {
		t.Errorf("a secret is printed: %s", printed)
	}
	_, err := dataset.Parse(t.Context(), []byte(rules(`{"type": "jwt", "looseIpCheck": true, "secret": 1234567890123}`)))
	if err == nil || strings.Contains(err.Error(), "1234567890123") {
		t.Errorf("%v, want an error without the value", err)
	}
}

var _ dataset.Tokens = (*verifier.Pinned)(nil)
