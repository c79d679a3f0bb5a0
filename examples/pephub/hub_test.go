package main

import (
	"bytes"
	"compress/zlib"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type object = map[string]any

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// authority signs tokens of the profile pephub as wts does, and lists those with the number 7 as revoked.
type authority struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(object{"issuer": a.URL, "jwks_uri": a.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		point := must(a.key.PublicKey.Bytes())
		_ = json.NewEncoder(w).Encode(object{"keys": []object{{"kty": "EC", "crv": "P-256", "kid": "ec", "x": encode(point[1:33]), "y": encode(point[33:])}}})
	})
	mux.HandleFunc("/status/0", func(w http.ResponseWriter, _ *http.Request) {
		var packed bytes.Buffer
		writer := zlib.NewWriter(&packed)
		must(writer.Write([]byte{1 << 7}))
		must(0, writer.Close())
		fmt.Fprint(w, a.sign(object{"typ": "statuslist+jwt"}, object{
			"sub": a.URL + "/status/0", "iat": time.Now().Unix(), "status_list": object{"bits": 1, "lst": encode(packed.Bytes())},
		}))
	})
	mux.HandleFunc("/auth/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Host"))
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func join(header, claims object) string {
	return encode(must(json.Marshal(header))) + "." + encode(must(json.Marshal(claims)))
}

func (a *authority) sign(header, claims object) string {
	head := object{"alg": "ES256", "kid": "ec", "typ": "pephub+jwt"}
	maps.Copy(head, header)
	input := join(head, claims)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
	must(0, err)
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + encode(signature)
}

func (a *authority) claims(login string, changes object) object {
	all := object{
		"iss": a.URL, "sub": "u1", "audience": "pephub", "login": login, "id": 7, "name": login, "orgs": []string{"databio"},
		"iat": time.Now().Unix(), "exp": time.Now().Unix() + 60, "jti": rand.Text(),
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

// token is alice's, of the organisation databio.
func (a *authority) token(changes object) string { return a.sign(nil, a.claims("alice", changes)) }

func (a *authority) expired() string { return a.token(object{"exp": time.Now().Unix() - 1}) }

func (a *authority) revoked() string {
	return a.token(object{"status": object{"status_list": object{"idx": 7, "uri": a.URL + "/status/0"}}})
}

// server is a hub with a public and a private project of databio's.
func server(t *testing.T, a *authority, chosen options) http.Handler {
	t.Helper()
	chosen.wts, chosen.audience = a.URL, "pephub"
	handler := must(newHandler(t.Context(), slog.New(slog.DiscardHandler), chosen))
	push(t, handler, a, "open", false)
	push(t, handler, a, "closed", true)
	return handler
}

func push(t *testing.T, handler http.Handler, a *authority, name string, private bool) {
	t.Helper()
	body := object{"pep_dict": object{"config": object{"name": name, "description": "of " + name}, "sample_list": []object{{"sample_name": "s1"}}}, "is_private": private, "overwrite": true}
	if got := ask(handler, http.MethodPost, "/api/v1/namespaces/databio/projects/json", a.token(nil), body); got.Code != http.StatusAccepted {
		t.Fatalf("pushing %s: %d %s", name, got.Code, got.Body)
	}
}

// ask sends a request as PEPHubClient does: the token as it is.
func ask(handler http.Handler, method, target, authorization string, body any) *httptest.ResponseRecorder {
	var text io.Reader
	if body != nil {
		text = bytes.NewReader(must(json.Marshal(body)))
	}
	request := httptest.NewRequest(method, target, text)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	return got
}

func detail(t *testing.T, got *httptest.ResponseRecorder) string {
	t.Helper()
	var said struct{ Detail string }
	if err := json.Unmarshal(got.Body.Bytes(), &said); err != nil || got.Code >= 400 && said.Detail == "" {
		t.Errorf("%d %s: want a JSON object with a detail", got.Code, got.Body)
	}
	return said.Detail
}

const (
	openPath   = "/api/v1/projects/databio/open"
	closedPath = "/api/v1/projects/databio/closed"
	noPath     = "/api/v1/projects/databio/none"
)

// Deletion, and every change, asks who calls, also of what everybody may read.
func TestLesson15DeletionIsGuarded(t *testing.T) {
	a := newAuthority(t)
	stranger := a.sign(nil, a.claims("eve", object{"orgs": []string{"others"}}))
	for name, row := range map[string]struct {
		token                     string
		open, closed, none, after int
	}{
		"anonymous":                {"", 401, 404, 404, 200},
		"neither owner nor member": {stranger, 403, 404, 404, 200},
		"expired":                  {a.expired(), 401, 404, 404, 200},
		"revoked":                  {a.revoked(), 401, 401, 401, 200},
		"garbage":                  {"garbage", 401, 404, 404, 200},
		"member":                   {a.token(nil), 202, 202, 404, 404},
		"owner":                    {a.sign(nil, a.claims("DataBio", object{"orgs": nil})), 202, 202, 404, 404},
		"member, as a bearer":      {"Bearer " + a.token(nil), 202, 202, 404, 404},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodPatch, http.MethodDelete} {
				handler := server(t, a, options{})
				for path, want := range map[string]int{openPath: row.open, closedPath: row.closed, noPath: row.none} {
					got := ask(handler, method, path, row.token, object{"description": "changed"})
					if detail(t, got); got.Code != want {
						t.Errorf("%s %s: %d %s, want %d", method, path, got.Code, got.Body, want)
					}
				}
				want := row.after
				if method == http.MethodPatch {
					want = 200
				}
				got := ask(handler, http.MethodGet, openPath, "", nil)
				if got.Code != want || method == http.MethodPatch && strings.Contains(got.Body.String(), `"description":"changed"`) != (row.open == 202) {
					t.Errorf("after %s: %d %s, want %d", method, got.Code, got.Body, want)
				}
			}
		})
	}
}

// What is private is for others as if it were not there: in every answer, to the letter.
func TestLesson16PrivateIsNotFound(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	stranger := a.sign(nil, a.claims("eve", object{"orgs": []string{}}))
	for who, token := range map[string]string{"anonymous": "", "a stranger": stranger, "expired": a.expired(), "garbage": "garbage", "revoked": a.revoked()} {
		t.Run(who, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
				private, missing := ask(handler, method, closedPath, token, object{}), ask(handler, method, noPath, token, object{})
				want := 404
				if who == "revoked" {
					want = 401
				}
				same := strings.ReplaceAll(private.Body.String(), "closed", "none") == missing.Body.String()
				if private.Code != want || missing.Code != want || !same {
					t.Errorf("%s: %d %s and %d %s, want the same %d", method, private.Code, private.Body, missing.Code, missing.Body, want)
				}
			}
			if got := ask(handler, http.MethodGet, "/api/v1/namespaces/databio/projects", token, nil); strings.Contains(got.Body.String(), "closed") || who != "revoked" && !strings.Contains(got.Body.String(), `"count":1`) {
				t.Errorf("the list: %s", got.Body)
			}
			if got := ask(handler, http.MethodGet, "/", token, nil); strings.Contains(got.Body.String(), "closed") || !strings.Contains(got.Body.String(), "databio/open:default") {
				t.Errorf("the page: %s", got.Body)
			}
		})
	}
	for who, token := range map[string]string{"a member": a.token(nil), "the owner": a.sign(nil, a.claims("databio", nil))} {
		t.Run(who, func(t *testing.T) {
			for _, path := range []string{closedPath, "/api/v1/projects/DATABIO/Closed"} {
				if got := ask(handler, http.MethodGet, path, token, nil); got.Code != 200 {
					t.Errorf("%s: %d %s", path, got.Code, got.Body)
				}
			}
			if got := ask(handler, http.MethodGet, "/api/v1/namespaces/databio/projects", token, nil); !strings.Contains(got.Body.String(), `"count":2`) {
				t.Errorf("the list: %s", got.Body)
			}
		})
	}
}

// A token that has expired takes nothing away that an anonymous caller has, and is named where it is the reason.
func TestLesson17AnExpiredTokenReadsPublicData(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	for name, row := range map[string]struct {
		method, path, token string
		want                int
		detail              string
	}{
		"expired, public":            {http.MethodGet, openPath, a.expired(), 200, ""},
		"expired, the list":          {http.MethodGet, "/api/v1/namespaces/databio/projects", a.expired(), 200, ""},
		"expired, private":           {http.MethodGet, closedPath, a.expired(), 404, "Project databio/closed:default not found. JWT has expired"},
		"expired, a push":            {http.MethodPost, "/api/v1/namespaces/databio/projects/json", a.expired(), 401, "JWT has expired"},
		"expired, a change":          {http.MethodPatch, openPath, a.expired(), 401, "JWT has expired"},
		"unreadable, public":         {http.MethodGet, openPath, "a.b.c", 200, ""},
		"unreadable, private":        {http.MethodGet, closedPath, "a.b.c", 404, "Project databio/closed:default not found"},
		"unreadable, a push":         {http.MethodPost, "/api/v1/namespaces/databio/projects/json", "a.b.c", 401, "Invalid token. Log in again."},
		"revoked, public":            {http.MethodGet, openPath, a.revoked(), 401, "JWT has been revoked"},
		"revoked, private":           {http.MethodGet, closedPath, a.revoked(), 401, "JWT has been revoked"},
		"revoked, the list":          {http.MethodGet, "/api/v1/namespaces/databio/projects", a.revoked(), 401, "JWT has been revoked"},
		"revoked, a push":            {http.MethodPost, "/api/v1/namespaces/databio/projects/json", a.revoked(), 401, "JWT has been revoked"},
		"revoked, expired, a change": {http.MethodPatch, openPath, a.token(object{"exp": 1, "status": object{"status_list": object{"idx": 7, "uri": a.URL + "/status/0"}}}), 401, "JWT has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(handler, row.method, row.path, row.token, object{})
			if said := detail(t, got); got.Code != row.want || said != row.detail {
				t.Errorf("%d %s, want %d %q", got.Code, got.Body, row.want, row.detail)
			}
		})
	}
}

// Whatever is sent as a token, the answer is one that the table has: never an error of the hub's own.
func TestLesson18NoTokenIsAnInternalError(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	now := time.Now().Unix()
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	as := func(algorithm string, signature func(input string) []byte) string {
		input := join(object{"alg": algorithm, "kid": "ec", "typ": "pephub+jwt"}, a.claims("alice", nil))
		return input + "." + encode(signature(input))
	}
	good := a.token(nil)
	for name, row := range map[string]struct {
		token string
		good  bool
	}{
		"good":                   {good, true},
		"orgs missing":           {a.sign(nil, a.claims("databio", object{"orgs": nil})), true},
		"orgs null":              {a.sign(nil, a.claims("databio", object{"orgs": json.RawMessage("null")})), true},
		"an aud, the hub's":      {a.token(object{"aud": "pephub"}), true},
		"a clock ahead":          {a.token(object{"iat": now + 30, "nbf": now + 30}), true},
		"an aud, another's":      {a.token(object{"aud": "other"}), false},
		"another audience":       {a.token(object{"audience": "other"}), false},
		"no audience":            {a.token(object{"audience": nil}), false},
		"audience a number":      {a.token(object{"audience": 7}), false},
		"nbf ahead":              {a.token(object{"nbf": now + 3600, "exp": now + 7200}), false},
		"iat ahead":              {a.token(object{"iat": now + 3600, "exp": now + 7200}), false},
		"exp missing":            {a.token(object{"exp": nil}), false},
		"exp a text":             {a.token(object{"exp": "tomorrow"}), false},
		"orgs a text":            {a.token(object{"orgs": "databio"}), false},
		"orgs of numbers":        {a.token(object{"orgs": []int{7}}), false},
		"login missing":          {a.token(object{"login": nil}), false},
		"login a number":         {a.token(object{"login": 7}), false},
		"status a text":          {a.token(object{"status": "active"}), true},
		"status out of the list": {a.token(object{"status": object{"status_list": object{"idx": 9999, "uri": a.URL + "/status/0"}}}), false},
		"status elsewhere":       {a.token(object{"status": object{"status_list": object{"idx": 1, "uri": "https://evil.example.org/"}}}), false},
		"another issuer":         {a.token(object{"iss": "https://evil.example.org"}), false},
		"another type":           {a.sign(object{"typ": "at+jwt"}, a.claims("alice", nil)), false},
		"an unknown key":         {a.sign(object{"kid": "x"}, a.claims("alice", nil)), false},
		"no key":                 {a.sign(object{"kid": nil}, a.claims("alice", nil)), false},
		"crit":                   {a.sign(object{"crit": []string{"exp"}}, a.claims("alice", nil)), false},
		"HS256 by the public key": {as("HS256", func(input string) []byte {
			mac := hmac.New(sha256.New, must(a.key.PublicKey.Bytes()))
			mac.Write([]byte(input))
			return mac.Sum(nil)
		}), false},
		"RS256":                  {as("RS256", func(string) []byte { return make([]byte, rsaKey.Size()) }), false},
		"EdDSA":                  {as("EdDSA", func(input string) []byte { return ed25519.Sign(edKey, []byte(input)) }), false},
		"none":                   {as("none", func(string) []byte { return nil }), false},
		"no signature":           {as("ES256", func(string) []byte { return nil }), false},
		"claims that are a list": {encode([]byte(`{"alg":"ES256","kid":"ec","typ":"pephub+jwt"}`)) + "." + encode([]byte("[]")) + "." + encode(make([]byte, 64)), false},
		"garbage":                {"garbage", false},
		"dots":                   {"..", false},
		"Bearer alone":           {"Bearer", false},
		"Basic":                  {"Basic YTpi", false},
		"two tokens":             {good + " " + good, false},
		"letters of all kinds":   {"\u00e9\xff\x7f{}", false},
		"a long one":             {strings.Repeat("a", 100_000), false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, scheme := range []string{"", "Bearer ", "bearer  "} {
				want := map[string]int{"GET " + openPath: 200, "GET " + closedPath: 404, "PATCH " + openPath: 401, "PATCH " + closedPath: 404, "POST /api/v1/namespaces/databio/projects/json": 401}
				if row.good {
					want = map[string]int{"GET " + openPath: 200, "GET " + closedPath: 200, "PATCH " + openPath: 202, "PATCH " + closedPath: 202, "POST /api/v1/namespaces/databio/projects/json": 422}
				}
				for request, status := range want {
					method, path, _ := strings.Cut(request, " ")
					if got := ask(handler, method, path, scheme+row.token, object{}); got.Code != status {
						t.Errorf("%q %s: %d %s, want %d", scheme, request, got.Code, got.Body, status)
					}
				}
			}
		})
	}
}

// While wts is away, public data is read, and everything else is an outage and no refusal.
func TestWhileTheKeysAreAway(t *testing.T) {
	a := newAuthority(t)
	away := newAuthority(t)
	handler := must(newHandler(t.Context(), slog.New(slog.DiscardHandler), options{wts: away.URL, audience: "pephub", forward: away.URL}))
	away.Close()
	for request, want := range map[string]int{"GET " + closedPath: 503, "DELETE " + openPath: 503, "GET /api/v1/namespaces/databio/projects": 200, "POST /auth/token": 503} {
		t.Run(request, func(t *testing.T) {
			method, path, _ := strings.Cut(request, " ")
			got := ask(handler, method, path, a.token(object{"iss": away.URL}), object{})
			if detail(t, got); got.Code != want || want == 503 && got.Header().Get("Retry-After") == "" {
				t.Errorf("%d %s %v, want %d", got.Code, got.Body, got.Header(), want)
			}
		})
	}
}

// Every version of PEPHubClient names the parts of a project otherwise, and reads what it wrote.
func TestPushAndPull(t *testing.T) {
	a := newAuthority(t)
	rows := []any{map[string]any{"sample_name": "s1", "file": "a.txt"}}
	for name, parts := range map[string]object{
		"0.2 to 0.5": {"config": object{"name": "Mine", "description": "d", "pep_version": "2.1.0"}, "sample_list": rows, "subsample_list": []any{rows}},
		"by alias":   {"_config": object{"name": "mine", "description": "d", "pep_version": "2.1.0"}, "_sample_dict": rows, "_subsample_list": []any{rows}},
		"newer":      {"config": object{"name": "mine", "description": "d", "pep_version": "2.1.0"}, "samples": rows, "subsamples": []any{rows}},
	} {
		t.Run(name, func(t *testing.T) {
			handler := server(t, a, options{})
			body := object{"pep_dict": parts, "tag": nil, "is_private": false, "overwrite": false}
			const to = "/api/v1/namespaces/Alice/projects/json"
			for i, want := range []int{202, 409} {
				if got := ask(handler, http.MethodPost, to, a.token(nil), body); got.Code != want {
					t.Fatalf("push %d: %d %s, want %d", i, got.Code, got.Body, want)
				}
			}
			body["overwrite"], body["tag"] = true, "default"
			if got := ask(handler, http.MethodPost, to, a.token(nil), body); got.Code != 202 {
				t.Errorf("a push that overwrites: %d %s", got.Code, got.Body)
			}
			got := ask(handler, http.MethodGet, "/api/v1/projects/alice/mine?raw=true&tag=default", "", nil)
			var read struct {
				Old  object `json:"_config"`
				New  object `json:"config"`
				Rows []any  `json:"_sample_dict"`
				More []any  `json:"samples"`
				Subs []any  `json:"_subsample_list"`
				Subn []any  `json:"subsamples"`
			}
			if err := json.Unmarshal(got.Body.Bytes(), &read); err != nil || got.Code != 200 {
				t.Fatalf("%d %s", got.Code, got.Body)
			}
			for what, pair := range map[string][2]any{"config": {read.Old["pep_version"], "2.1.0"}, "name": {read.New["name"], "mine"}, "samples": {fmt.Sprint(read.Rows, read.More), fmt.Sprint(rows, rows)}, "subsamples": {fmt.Sprint(read.Subs, read.Subn), fmt.Sprint([]any{rows}, []any{rows})}} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
				}
			}
		})
	}
}

func TestWhatIsNoProject(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	good := object{"config": object{"name": "x"}, "samples": []object{}}
	for name, row := range map[string]struct {
		method, path string
		body         any
		want         int
	}{
		"no parts":            {http.MethodPost, "alice", object{}, 422},
		"no samples":          {http.MethodPost, "alice", object{"pep_dict": object{"config": object{"name": "x"}}}, 422},
		"samples in columns":  {http.MethodPost, "alice", object{"pep_dict": object{"config": object{"name": "x"}, "samples": object{"a": object{"0": "b"}}}}, 422},
		"no name":             {http.MethodPost, "alice", object{"pep_dict": object{"config": object{}, "samples": []object{}}}, 422},
		"a path for a name":   {http.MethodPost, "alice", object{"pep_dict": good, "name": "../x"}, 422},
		"a list":              {http.MethodPost, "alice", []int{1}, 422},
		"another's namespace": {http.MethodPost, "eve", object{"pep_dict": good}, 403},
		"too large":           {http.MethodPost, "alice", strings.Repeat("x", 11<<20), 413},
		"good":                {http.MethodPost, "alice", object{"pep_dict": good}, 202},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(handler, row.method, "/api/v1/namespaces/"+row.path+"/projects/json", a.token(nil), row.body)
			if detail(t, got); got.Code != row.want {
				t.Errorf("%d %s, want %d", got.Code, got.Body, row.want)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	before := ask(handler, http.MethodGet, openPath, "", nil).Body.String()
	var row struct{ Config object }
	must(0, json.Unmarshal([]byte(before), &row))
	for i, step := range []struct {
		path string
		body object
		want int
	}{
		{openPath, object{"name": "closed"}, 409},
		{openPath, object{"name": "moved", "tag": "v2", "is_private": true}, 202},
		{"/api/v1/projects/databio/moved?tag=v2", object{"pep_dict": object{"config": object{"extra": 1}}}, 202},
	} {
		if got := ask(handler, http.MethodPatch, step.path, a.token(nil), step.body); got.Code != step.want {
			t.Fatalf("step %d: %d %s, want %d", i, got.Code, got.Body, step.want)
		}
	}
	if got := ask(handler, http.MethodGet, openPath, a.token(nil), nil); got.Code != 404 {
		t.Errorf("where it was: %d", got.Code)
	}
	if got := ask(handler, http.MethodGet, "/api/v1/projects/databio/moved?tag=v2", "", nil); got.Code != 404 {
		t.Errorf("now private, to anybody: %d", got.Code)
	}
	got := ask(handler, http.MethodGet, "/api/v1/projects/databio/moved?tag=v2", a.token(nil), nil)
	must(0, json.Unmarshal(got.Body.Bytes(), &row))
	if row.Config["name"] != "moved" || row.Config["extra"] != 1.0 || !strings.Contains(got.Body.String(), `"description":"of open"`) {
		t.Errorf("%s", got.Body)
	}
}

func TestSearch(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{})
	for query, want := range map[string]string{
		"?q=&limit=100&offset=0": "closed open 2", "?q=OP": "open 1", "?limit=1": "closed 2", "?limit=1&offset=1": "open 2", "?offset=9": "2",
		"?q=OF+CLOSED": "closed 1", "?tag=v2": "0", "?limit=0": "2", "?limit=x": "422", "?offset=-1": "422", "?filter_by=last_update_date": "422",
	} {
		t.Run(query, func(t *testing.T) {
			got := ask(handler, http.MethodGet, "/api/v1/namespaces/DataBio/projects"+query, a.token(nil), nil)
			var said struct {
				Count          int
				Results, Items []struct {
					Name     string
					Samples  int       `json:"number_of_samples"`
					Modified time.Time `json:"last_update_date"`
				}
			}
			must(0, json.Unmarshal(got.Body.Bytes(), &said))
			var words []string
			for _, one := range said.Results {
				words = append(words, one.Name)
				if one.Samples != 1 || one.Modified.IsZero() {
					t.Errorf("%+v", one)
				}
			}
			words = append(words, fmt.Sprint(said.Count))
			if got.Code != 200 {
				words = []string{fmt.Sprint(got.Code)}
			}
			if found := strings.Join(words, " "); found != want || len(said.Items) != len(said.Results) {
				t.Errorf("%s, want %s", found, want)
			}
		})
	}
}

// What was pushed is there after a restart, where a file is named.
func TestTheFile(t *testing.T) {
	a := newAuthority(t)
	chosen := options{wts: a.URL, audience: "pephub", projects: filepath.Join(t.TempDir(), "projects.json")}
	server(t, a, chosen)
	again := must(newHandler(t.Context(), slog.New(slog.DiscardHandler), chosen))
	if got := ask(again, http.MethodGet, closedPath, a.token(nil), nil); got.Code != 200 || !strings.Contains(got.Body.String(), "s1") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	chosen.projects = filepath.Join(t.TempDir(), "gone", "projects.json")
	broken := must(newHandler(t.Context(), slog.New(slog.DiscardHandler), chosen))
	body := object{"pep_dict": object{"config": object{"name": "x"}, "samples": []object{}}}
	if got := ask(broken, http.MethodPost, "/api/v1/namespaces/alice/projects/json", a.token(nil), body); got.Code != 503 {
		t.Errorf("a project that cannot be written: %d, want 503", got.Code)
	}
	if got := ask(broken, http.MethodGet, "/api/v1/projects/alice/x", a.token(nil), nil); got.Code != 404 {
		t.Errorf("it is there: %d, want 404", got.Code)
	}
}

func TestForwarding(t *testing.T) {
	a := newAuthority(t)
	handler := server(t, a, options{forward: a.URL})
	request := httptest.NewRequest(http.MethodPost, "http://hub.example.org/auth/device/init?x=y", nil)
	request.Header.Set("X-Forwarded-For", "203.0.113.9") // the client's own word does not count
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	if want := "POST /auth/device/init?x=y 192.0.2.1 hub.example.org"; got.Code != http.StatusTeapot || got.Body.String() != want {
		t.Errorf("%d %s, want %s", got.Code, got.Body, want)
	}
	if got := ask(server(t, a, options{}), http.MethodPost, "/auth/token", "", nil); got.Code != 404 {
		t.Errorf("without the flag: %d, want 404", got.Code)
	}
	for _, address := range []string{"wts:8080", "/auth", "ftp://wts", "://"} {
		if _, err := newHandler(t.Context(), slog.New(slog.DiscardHandler), options{wts: a.URL, audience: "pephub", forward: address}); err == nil {
			t.Errorf("%s is an address", address)
		}
	}
}

// The page may ask wts where it is elsewhere, and nobody else.
func TestThePage(t *testing.T) {
	a := newAuthority(t)
	for forward, login := range map[string]string{"": a.URL, a.URL: ""} {
		got := ask(server(t, a, options{forward: forward}), http.MethodGet, "/callback?code=x", "", nil)
		policy := got.Header().Get("Content-Security-Policy")
		if !strings.Contains(got.Body.String(), `data-login="`+login+`"`) || strings.Contains(policy, a.URL) != (login != "") || !strings.Contains(policy, "script-src 'self'") {
			t.Errorf("%s %s", policy, got.Body)
		}
	}
	got := ask(server(t, a, options{}), http.MethodGet, "/page.js", "", nil)
	if got.Code != 200 || !strings.Contains(got.Header().Get("Content-Type"), "javascript") || !strings.Contains(got.Body.String(), "/auth/login?") {
		t.Errorf("%d %s", got.Code, got.Header())
	}
}

func TestFlagsAndEnvironment(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"PEPHUB_WTS": "https://wts", "PEPHUB_FORWARD_AUTH": "http://wts:80"}[name]
	}
	if got := must(parse([]string{"--wts", "https://flag"}, env)); got.wts != "https://flag" || got.forward != "http://wts:80" || got.audience != "pephub" {
		t.Errorf("%+v", got)
	}
	if _, err := parse([]string{"extra"}, env); err == nil {
		t.Error("an argument is accepted")
	}
}
