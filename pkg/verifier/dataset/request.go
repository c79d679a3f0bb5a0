package dataset

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// maxBodyBytes bounds what is read before it is known who asks.
const maxBodyBytes = 1 << 20

// asked is what a request says that it is about.
type asked struct {
	label, embedder, route string
	wanted                 string // its "for"
}

// ask reads what a request is about, from its query and from the JSON object that is its body, which the handler may
// read again. The two may not differ, and no name may stand twice: the handler could read the other one.
func ask(r *http.Request) (asked, error) {
	// A path with dots, or with a slash that is encoded, may be another one for the guard than for the handler.
	if path.Clean("/"+r.URL.Path) != strings.TrimSuffix("/"+strings.TrimPrefix(r.URL.Path, "/"), "/") && r.URL.Path != "/" || strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") {
		return asked{}, fmt.Errorf("%w: the path is not in its shortest form", ErrRequest)
	}
	// URL.Query would pass over what it cannot read, and a handler that reads the query otherwise would not.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return asked{}, fmt.Errorf("%w: the query cannot be read", ErrRequest)
	}
	body, err := bodyOf(r)
	if err != nil {
		return asked{}, err
	}
	var found asked
	for name, into := range map[string]*string{"dslabel": &found.label, "embedder": &found.embedder, "route": &found.route, "for": &found.wanted} {
		if *into, err = said(name, query[name], body); err != nil {
			return asked{}, err
		}
	}
	return found, nil
}

// said is the one value of a name in the query and the body.
func said(name string, query []string, body []member) (string, error) {
	for _, in := range body {
		if !strings.EqualFold(in.name, name) {
			continue
		}
		var text string
		// A handler in Go reads DSLABEL as dslabel, and one in JavaScript does not.
		if in.name != name || json.Unmarshal(in.value, &text) != nil {
			return "", fmt.Errorf("%w: %s is to be one text, named in lower case", ErrRequest, name)
		}
		query = append(query[:len(query):len(query)], text)
	}
	for _, value := range query {
		if value != query[0] {
			return "", fmt.Errorf("%w: %s is said twice", ErrRequest, name)
		}
	}
	if len(query) == 0 {
		return "", nil
	}
	return query[0], nil
}

// bodyOf reads the body, and puts it back. Whatever its Content-Type says it is read as JSON, since a handler may do so
// too: a body of another kind is refused, as what it says could not be compared with the query.
func bodyOf(r *http.Request) ([]member, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	if err != nil || len(text) > maxBodyBytes {
		return nil, fmt.Errorf("%w: the body is cut off, or longer than %d bytes", ErrRequest, maxBodyBytes)
	}
	r.Body = io.NopCloser(bytes.NewReader(text))
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	body, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the body is to be one JSON object: %w", ErrRequest, err)
	}
	return body, nil
}

// member is a member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads a JSON object in its order. A name that stands twice is refused, in another case too, as encoding/json
// would take one for the other (RFC 8259 4).
func members(text []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var all []member
	for decoder.More() {
		name, err := decoder.Token()
		text, ok := name.(string)
		var value json.RawMessage
		if err != nil || !ok || decoder.Decode(&value) != nil {
			return nil, errors.New("not JSON")
		}
		for _, other := range all {
			if strings.EqualFold(other.name, text) {
				return nil, errors.New("a member stands twice")
			}
		}
		all = append(all, member{text, value})
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON object")
	}
	return all, nil
}

// presented is the token of a request: in the header of the rule, or as a bearer, which is the JWT or, as ProteinPaint's
// clients send it, its base64.
func presented(r *http.Request, header string) string {
	if token := strings.TrimSpace(r.Header.Get(header)); token != "" {
		return token
	}
	bearer, _ := verifier.Bearer(r)
	if strings.Contains(bearer, ".") {
		return bearer
	}
	plain := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(bearer), "=")
	decoded, err := base64.RawStdEncoding.DecodeString(plain)
	if err != nil {
		return bearer // which is no token, and is told so
	}
	return string(decoded)
}

// peer is the address of the connection.
func peer(r *http.Request) netip.Addr {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return address.Addr()
}
