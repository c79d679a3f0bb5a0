package dataset_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/pkg/verifier"
	"github.com/workspace-token-service/wts/pkg/verifier/dataset"
)

func TestTheAddressOfTheClient(t *testing.T) {
	for name, row := range map[string]struct {
		check, token, client string
		want                 int
	}{
		"loose, none":                     {"loose", "", "192.0.2.1", 200},
		"nothing said, none":              {"", "", "192.0.2.1", 401},
		"nothing said, another network":   {"", "2001:db8::2", "2001:db8::1", 401},
		"loose, the same":                 {"loose", "192.0.2.1", "192.0.2.1", 200},
		"loose, mapped into IPv6":         {"loose", "192.0.2.1", "::ffff:192.0.2.1", 200},
		"loose, another":                  {"loose", "192.0.2.2", "192.0.2.1", 401},
		"loose, of the other family":      {"loose", "192.0.2.2", "2001:db8::1", 200},
		"loose, IPv6 of the same network": {"loose", "2001:db8::2", "2001:db8::1", 200},
		"loose, IPv6 of another network":  {"loose", "2001:db8:0:1::1", "2001:db8::1", 401},
		"loose, client not known":         {"loose", "192.0.2.1", "", 401},
		"strict, none":                    {"strict", "", "192.0.2.1", 401},
		"strict, the same":                {"strict", "2001:db8::1", "2001:db8::1", 200},
		"strict, the same network":        {"strict", "2001:db8::2", "2001:db8::1", 401},
		"strict, of the other family":     {"strict", "192.0.2.2", "2001:db8::1", 401},
		"none, another":                   {"none", "192.0.2.2", "192.0.2.1", 200},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := netip.ParseAddr(row.client)
			handler := guardOf(t, rules(`{"type": "jwt", "secret": "`+first+`", "ipCheck": "`+row.check+`"}`),
				dataset.WithClientIP(func(*http.Request) netip.Addr { return client }))
			changes := object{"ip": row.token}
			if row.token == "" {
				changes["ip"] = nil
			}
			if got := get(handler, data, header, portal(changes)); got.Code != row.want {
				t.Errorf("%d %s, want %d", got.Code, got.Body, row.want)
			}
		})
	}
}

// Rules that say nothing of addresses are strict, as ProteinPaint reads them: who moves theirs opens nothing by it.
func TestAddressesAreComparedUnlessToldOtherwise(t *testing.T) {
	handler := guardOf(t, rules(`{"type": "jwt", "secret": "`+first+`"}`))
	for name, row := range map[string]struct {
		address any
		want    int
	}{"none": {nil, 401}, "another": {"192.0.2.2", 401}, "of the other family": {"2001:db8::1", 401}, "the client's": {"192.0.2.1", 200}} {
		if got := get(handler, data, header, portal(object{"ip": row.address})); got.Code != row.want {
			t.Errorf("%s: %d %s, want %d", name, got.Code, got.Body, row.want)
		}
	}
}

// A session that ProteinPaint gave for one route opens no other, and a word that is protected protects what is below it.
func TestSessionsAndWordsOfARoute(t *testing.T) {
	handler := guardOf(t, `{"ds0": {"termdb": {"*": `+shared+`}, "*": {"*": `+shared+`}}}`)
	for route, want := range map[string]map[string]int{"/termdb": {"termdb": 200, "burden": 403, "*": 403}, "/other": {"termdb": 403, "*": 200, "/**": 200}} {
		for session, status := range want {
			token := portal(object{"dslabel": "ds0", "embedder": "portal.example.org", "route": session})
			if got := get(handler, route+"?dslabel=ds0&embedder=portal.example.org", header, token); got.Code != status {
				t.Errorf("%s with a session for %s: %d %s, want %d", route, session, got.Code, got.Body, status)
			}
		}
	}
	handler = guardOf(t, `{"ds0": {"termdb": {"*": {"type": "jwt", "secret": "`+first+`", "protectedRoutes": ["samples"]}}}}`)
	for path, want := range map[string]int{"/termdb/summary": 200, "/termdb/matrix": 401, "/termdb/matrix/7": 401, "/termdb/a/samples/7": 401, "/termdb/samplesize": 200} {
		if got := get(handler, path+"?dslabel=ds0&embedder=x"); got.Code != want {
			t.Errorf("%s without a token: %d, want %d", path, got.Code, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	for route, paths := range map[string]map[string]bool{
		"*":            {"/": true, "/a": true, "/a/b/": true},
		"termdb":       {"/termdb": true, "/termdb/": true, "/termdb/a/b": true, "/termdbx": false, "/x/termdb": false, "/": false},
		"/termdb/*":    {"/termdb/a": true, "/termdb/a/": true, "/termdb/a/b": false, "/termdb": false},
		"/termdb/**":   {"/termdb/a/b": true, "/termdb": true, "/termdbx": false},
		"/**/samples":  {"/samples": true, "/a/b/samples": true, "/a/samples/b": false},
		"/a/**/b/**/c": {"/a/b/c": true, "/a/x/b/y/z/c": true, "/a/c": false, "/a/b/c/d": false},
		"/t?rmdb":      {"/termdb": true, "/termdb/x": false, "/tt/rmdb": false},
		"/[a-c]":       {"/b": true, "/d": false},
	} {
		handler := guardOf(t, `{"*": {"`+route+`": {"*": `+shared+`}}}`)
		for path, want := range paths {
			t.Run(route+" "+path, func(t *testing.T) {
				if got := get(handler, path+"?dslabel=ds0&embedder=x", header, portal(nil)); (got.Code == 200) != want {
					t.Errorf("%d %s, want it let in: %t", got.Code, got.Body, want)
				}
			})
		}
	}
	// A path that is long costs no more than its length, whatever the glob.
	handler := guardOf(t, `{"*": {"/`+strings.Repeat("**/a/", 20)+`z": {"*": `+shared+`}}}`)
	request := httptest.NewRequest(http.MethodGet, "/"+strings.Repeat("a/", 4000)+"?dslabel=ds0", nil)
	got := httptest.NewRecorder()
	handler.ServeHTTP(got, request)
	if got.Code != 403 {
		t.Errorf("%d, want 403", got.Code)
	}
}

// The first route that fits decides, and every route comes last, wherever it stands.
func TestTheOrderOfRoutes(t *testing.T) {
	handler := guardOf(t, `{"ds0": {"*": {"*": {"type": "forbidden"}}, "/a/*": {"*": `+shared+`}, "/a/b": {"*": {"type": "forbidden"}}, "c": {"*": {"type": "forbidden"}, "x": `+shared+`}}}`)
	for path, want := range map[string]int{"/a/b": 200, "/b": 403, "/c": 200, "/c/d": 200} {
		t.Run(path, func(t *testing.T) {
			if got := get(handler, path+"?dslabel=ds0&embedder=x", header, portal(nil)); got.Code != want {
				t.Errorf("%d %s, want %d", got.Code, got.Body, want)
			}
		})
	}
	if got := get(handler, "/c?dslabel=ds0&embedder=y", header, portal(nil)); got.Code != 403 {
		t.Errorf("an embedder that only * names: %d, want 403", got.Code)
	}
}

func TestRulesWithoutMeaning(t *testing.T) {
	for name, row := range map[string]struct{ text, says string }{
		"no object":            {`[]`, "not a JSON object"},
		"no rules":             {`{"#ds0": {}}`, "no rules"},
		"a label twice":        {`{"ds0": {}, "ds0": {}}`, "stands twice"},
		"an embedder twice":    {`{"ds0": {"*": {"*": ` + shared + `}, "/**": {"*": ` + shared + `}}}`, "two rules"},
		"a label glob":         {`{"ds*": {"*": {"*": ` + shared + `}}}`, "exact"},
		"an empty label":       {`{"": {"*": {"*": ` + shared + `}}}`, "empty"},
		"an empty embedder":    {`{"ds0": {"*": {"": ` + shared + `}}}`, "empty"},
		"a route with braces":  {`{"ds0": {"/{a,b}": {"*": ` + shared + `}}}`, "braces"},
		"a negated route":      {`{"ds0": {"!/a": {"*": ` + shared + `}}}`, "negation"},
		"a broken route":       {`{"ds0": {"/[": {"*": ` + shared + `}}}`, "no glob"},
		"a route with a***":    {`{"ds0": {"/a**": {"*": ` + shared + `}}}`, "no glob"},
		"a route without /":    {`{"ds0": {"a/*": {"*": ` + shared + `}}}`, "slash"},
		"a header number":      {`{"ds0": {"headerKey": 1}}`, "headerKey"},
		"the older shape":      {`{"ds0": {"type": "jwt", "looseIpCheck": true, "embedders": {}}}`, "older shape"},
		"an unknown type":      {rules(`{"type": "open"}`), `"open", want jwt, wts or forbidden`},
		"an unknown member":    {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "dsname": []}`), "dsname"},
		"a member twice":       {rules(`{"type": "forbidden", "type": "jwt"}`), "stands twice"},
		"a credential in text": {rules(`"secret"`), "not a JSON object"},
		"no secret":            {rules(`{"type": "jwt"}`), "the type forbidden"},
		"a short secret":       {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "abc123"}`), "at least 32"},
		"a broken PEM":         {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "-----BEGIN PUBLIC KEY-----"}`), "no PEM"},
		"a secret as a key":    {rules(`{"type": "jwt", "looseIpCheck": true, "publicKeys": ["` + first + `"]}`), "no PEM"},
		"no issuer":            {rules(`{"type": "wts", "audience": "portal"}`), "issuer"},
		"an unknown IP check":  {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "ipCheck": "lax"}`), `"lax"`},
		"an empty id":          {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "dsnames": [{"label": "A"}]}`), "id of a dataset"},
		"protected elsewhere":  {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "protectedRoutes": ["a"]}`), "only the route termdb"},
		"a protected glob":     {`{"ds0": {"termdb": {"*": {"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "protectedRoutes": ["/["]}}}}`, "no glob"},
		"the bearer's header":  {rules(`{"type": "jwt", "looseIpCheck": true, "secret": "` + first + `", "headerKey": "authorization"}`), "bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			read, err := dataset.Parse(t.Context(), []byte(row.text))
			if err == nil {
				_, err = dataset.New(read)
			}
			if err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), first) {
				t.Errorf("%v, want an error that says %q", err, row.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{rules(shared), `{"*":{"headerKey":"x","termdb":{"*":{"type":"forbidden"}}}}`, `{"#":1}`, `{`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := dataset.Parse(t.Context(), text)
		if err == nil {
			_, _ = dataset.New(read)
		}
	})
}

// FuzzRequest shows that no request is let in without a token, and that none makes the guard fail.
func FuzzRequest(f *testing.F) {
	read := must(dataset.Parse(f.Context(), []byte(`{"ds0": {"*": {"a": `+shared+`}}, "*": {"/x/**/y": {"*": `+shared+`}}}`)))
	handler := must(dataset.New(read)).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	f.Add("/termdb", "dslabel=ds0&embedder=a", `{"for":"matrix"}`, "Bearer a.b.c")
	f.Add("/x/y", "dslabel=b", ``, "Bearer YS5iLmM=")
	f.Fuzz(func(t *testing.T, path, query, body, authorization string) {
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		request.URL.Path, request.URL.RawQuery = path, query
		request.Header.Set("Authorization", authorization)
		got := httptest.NewRecorder()
		handler.ServeHTTP(got, request)
		if got.Code < 400 || got.Code >= 500 {
			t.Fatalf("%d", got.Code)
		}
	})
}

// What introspection says of an opaque token may lack an end, and then it opens nothing.
func TestAnOpaqueTokenWithoutAnEnd(t *testing.T) {
	for said, want := range map[string]int{`"exp": 99999999999, `: 200, ``: 401} {
		issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"active": true, ` + said + `"aud": "portal", "datasets": ["ds0"]}`))
		}))
		t.Cleanup(issuer.Close)
		tokens := must(verifier.New(t.Context(), issuer.URL, "portal", verifier.WithIntrospection(issuer.URL, "portal", "secret")))
		guard := must(dataset.New([]dataset.Rule{{Label: "ds0", Route: dataset.Any, Embedder: dataset.Any, Credential: dataset.Credential{Tokens: tokens}}}))
		handler := guard.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		if got := get(handler, data, header, "wtsp_opaque"); got.Code != want {
			t.Errorf("%q: %d %s, want %d", said, got.Code, got.Body, want)
		}
	}
}

// The block that wts writes for an integration, as it stands, and rules of Go's own, which are loose where they say nothing.
func TestTheBlockOfAServerConfig(t *testing.T) {
	handler := guardOf(t, `{"dsCredentials": `+rules(shared)+`, "features": {"maxSessionAge": 600000}}`)
	if got := get(handler, data, header, portal(nil)); got.Code != 200 {
		t.Errorf("%d %s, want 200", got.Code, got.Body)
	}
	tokens := must(verifier.NewPinned([]verifier.Key{must(verifier.SecretKey(first))}))
	guard := must(dataset.New([]dataset.Rule{{Label: "ds0", Route: dataset.Any, Embedder: dataset.Any, Credential: dataset.Credential{Tokens: tokens}}}))
	own := guard.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for ip, want := range map[any]int{nil: 200, "192.0.2.1": 200, "192.0.2.2": 401} {
		if got := get(own, data, header, portal(object{"ip": ip})); got.Code != want {
			t.Errorf("%v: %d %s, want %d", ip, got.Code, got.Body, want)
		}
	}
}
