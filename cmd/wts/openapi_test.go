package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
)

// contract is api/openapi.yaml, by which every exchange of the suite is held.
type contract struct {
	document *openapi3.T
	paths    []contractPath // those without parameters first
}

type contractPath struct {
	pattern *regexp.Regexp
	item    *openapi3.PathItem
}

// theContract is read once.
var theContract = sync.OnceValues(func() (*contract, error) {
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		return nil, err
	}
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	c := &contract{document: document}
	parameter := regexp.MustCompile(`\\{(\w+)\\}`)
	names := slices.Collect(maps.Keys(document.Paths.Map()))
	slices.SortFunc(names, func(a, b string) int { return strings.Count(a, "{") - strings.Count(b, "{") })
	for _, name := range names {
		pattern := parameter.ReplaceAllStringFunc(regexp.QuoteMeta(name), func(one string) string {
			if one == `\{endpoint\}` {
				return ".+"
			}
			return "[^/]+"
		})
		c.paths = append(c.paths, contractPath{regexp.MustCompile("^" + pattern + "/?$"), document.Paths.Value(name)})
	}
	return c, nil
})

var repeated = regexp.MustCompile(`/{2,}`)

// operation is what the contract says of a request; nil where it says nothing.
func (c *contract) operation(method, path string) *openapi3.Operation {
	path, _, _ = strings.Cut(path, "?")
	path = repeated.ReplaceAllString(path, "/") // the edge takes doubled slashes for one, as Flask did
	for _, one := range c.paths {
		if one.pattern.MatchString(path) {
			if operation := one.item.GetOperation(method); operation != nil {
				return operation
			}
		}
	}
	return nil
}

// breach says in what an exchange is not as the contract has it. Routes that are not there, and methods that a route has
// not, are nothing that it speaks of.
func (c *contract) breach(method, path, sent string, got answer) error {
	if method == http.MethodHead || method == http.MethodOptions {
		return nil
	}
	operation := c.operation(method, path)
	if operation == nil {
		if got.status == http.StatusNotFound || got.status == http.StatusMethodNotAllowed {
			return nil
		}
		return errors.New("the contract has no such operation")
	}
	response := operation.Responses.Value(strconv.Itoa(got.status))
	if response == nil {
		response = operation.Responses.Value(strconv.Itoa(got.status/100) + "XX")
	}
	if response == nil && got.status >= 400 {
		response = operation.Responses.Default()
	}
	if response == nil {
		return fmt.Errorf("the contract has no answer %d", got.status)
	}
	kind, _, _ := mime.ParseMediaType(got.header.Get("Content-Type"))
	if len(response.Value.Content) == 0 {
		if got.body != "" && got.status != http.StatusFound && got.status != http.StatusSeeOther {
			return fmt.Errorf("the contract has no body of %d", got.status)
		}
		return nil
	}
	media := response.Value.Content[kind]
	if media == nil {
		return fmt.Errorf("the contract has no %q of %d", kind, got.status)
	}
	if strings.HasSuffix(kind, "json") && media.Schema != nil {
		var value any
		if err := json.Unmarshal([]byte(got.body), &value); err != nil {
			return fmt.Errorf("the body is no JSON: %w", err)
		}
		if err := media.Schema.Value.VisitJSON(value); err != nil {
			return fmt.Errorf("the body of %d: %w", got.status, err)
		}
	}
	return c.breachOfRequest(operation, sent, got)
}

// breachOfRequest tells a body that was accepted and that the contract does not allow.
func (c *contract) breachOfRequest(operation *openapi3.Operation, sent string, got answer) error {
	if got.status >= 300 || operation.RequestBody == nil || !strings.HasPrefix(sent, "{") {
		return nil
	}
	media := operation.RequestBody.Value.Content["application/json"]
	if media == nil {
		return nil
	}
	var value any
	if err := json.Unmarshal([]byte(sent), &value); err != nil {
		return fmt.Errorf("what was sent and accepted is no JSON: %w", err)
	}
	return media.Schema.Value.VisitJSON(value)
}

// hold fails a test whose exchange is not as the contract has it.
func hold(t *testing.T, method, path, sent string, got answer) {
	t.Helper()
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.breach(method, path, sent, got); err != nil {
		t.Errorf("%s %s, which api/openapi.yaml does not have: %v\n%d %s", method, path, err, got.status, got.body)
	}
}

// The contract that the suite holds exchanges to would notice.
func TestTheContractNotices(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.document.Validate(t.Context()); err != nil {
		t.Errorf("it is not valid: %v", err)
	}
	ok := func(kind, body string) answer {
		return answer{200, http.Header{"Content-Type": {kind}}, body}
	}
	for name, row := range map[string]struct {
		method, path, sent string
		got                answer
		breach             bool
	}{
		"a token":                   {"GET", "/token?expires=6", "", ok("application/json", `{"token": "x", "token_type": "Bearer"}`), false},
		"with slashes":              {"GET", "//token//", "", ok("application/json", `{"token": "x", "token_type": "Bearer"}`), false},
		"a member too many":         {"GET", "/token", "", ok("application/json", `{"token": "x", "token_type": "Bearer", "refresh_token": "y"}`), true},
		"a member too few":          {"GET", "/token", "", ok("application/json", `{"token_type": "Bearer"}`), true},
		"a member of another type":  {"GET", "/token", "", ok("application/json", `{"token": 7, "token_type": "Bearer"}`), true},
		"another type":              {"GET", "/token", "", ok("text/plain", "x"), true},
		"a status":                  {"GET", "/token", "", answer{202, http.Header{}, ""}, true},
		"a route":                   {"GET", "/api/v2/tokens", "", ok("application/json", `{}`), true},
		"a route that is not there": {"GET", "/api/v2/tokens", "", answer{404, http.Header{}, ""}, false},
		"a method":                  {"PUT", "/token", "", ok("application/json", `{}`), true},
		"a body that was accepted":  {"POST", "/api/v1/tokens/x/rotate", `{"overlap": "long"}`, ok("application/json", `{}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.breach(row.method, row.path, row.sent, row.got); (err != nil) != row.breach {
				t.Errorf("got %v, want a breach: %t", err, row.breach)
			}
		})
	}
}

// Every route of the server stands in the contract, and nothing else does.
func TestEveryRouteIsInTheContract(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	r := startReplica(t)
	served := map[string]bool{}
	for _, route := range r.server.Routes() {
		method, path, _ := strings.Cut(route, " ")
		if method == http.MethodHead || method == http.MethodOptions {
			continue // of every GET
		}
		if path != "/" {
			path = strings.TrimSuffix(path, "/")
		}
		path = regexp.MustCompile(`[:*](\w+)`).ReplaceAllString(path, "{$1}")
		served[method+" "+path] = true
	}
	said := map[string]bool{}
	for path, item := range c.document.Paths.Map() {
		for method := range item.Operations() {
			said[method+" "+path] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(said)), slices.Sorted(maps.Keys(served))); diff != "" {
		t.Errorf("the contract and the routes differ (-contract +routes):\n%s", diff)
	}
}

// The reference page shows every operation, and no link of it leads nowhere.
func TestTheReferencePage(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	r := startReplica(t)
	page := r.call(t, nil, http.MethodGet, "/docs", "Accept", "text/html")
	if file := r.call(t, nil, http.MethodGet, "/openapi.yaml"); page.status != http.StatusOK || file.status != http.StatusOK || !strings.HasPrefix(file.body, "openapi: 3.1.0") {
		t.Fatalf("got %d and %d, want the page and the document", page.status, file.status)
	}
	for path, item := range c.document.Paths.Map() {
		for method, one := range item.Operations() {
			if !strings.Contains(page.body, `<section id="`+one.OperationID+`">`) || !strings.Contains(page.body, "<code>"+method+" "+path+"</code>") {
				t.Errorf("%s %s (%s) is not on the page", method, path, one.OperationID)
			}
		}
	}
	links := regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(page.body, -1)
	if len(links) < 100 {
		t.Errorf("the page has %d links, want one for each operation and type", len(links))
	}
	for _, link := range links {
		if !strings.Contains(page.body, `id="`+link[1]+`"`) {
			t.Errorf("a link leads to %q, which is nowhere", link[1])
		}
	}
	if strings.Contains(page.body, "<script>") || strings.Contains(page.body, "`") {
		t.Error("the page has a script, or a backquote that is not code")
	}
}
