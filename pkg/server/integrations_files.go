package server

import (
	"bytes"
	_ "embed" // the files that ProteinPaint and portals load
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// What stands in the configuration of a ProteinPaint server and in the page of a portal follows from ours. It is
// generated, so that it is complete: ProteinPaint gives data without a token to an embedder that its configuration does
// not name, and to a dataset without dsnames it lets nobody in.

//go:embed proteinpaint/snippet.js
var snippet string

//go:embed proteinpaint/processor.mjs
var processor string

// advisedSession is what is advised for features.maxSessionAge, in milliseconds: for as long a person keeps what they
// were given after they were refused here.
const advisedSession = 3_600_000

// credential is an entry of ProteinPaint's dsCredentials for one embedder.
type credential struct {
	Type       string          `json:"type"`
	Secret     string          `json:"secret,omitempty"`
	Datasets   []issuer.Cohort `json:"dsnames,omitempty"`
	HeaderKey  string          `json:"headerKey,omitempty"`
	LooseCheck bool            `json:"looseIpCheck,omitempty"`
	Check      string          `json:"ipCheck,omitempty"`
}

// block is what ProteinPaint's serverconfig.json has to have.
type block struct {
	Credentials map[string]map[string]map[string]credential `json:"dsCredentials"` // dataset, route, embedder
	Features    map[string]int64                            `json:"features"`
}

// blockOf makes the block of an integration. Its error is that of a public key which cannot be had yet.
func (i *integrations) blockOf(id string, of issuer.Integration) (block, error) {
	entry := credential{Type: "jwt", Secret: "<the secret shown when it was made>", Datasets: of.Cohorts, LooseCheck: of.IP == issuer.IPLoose}
	switch {
	case i.issuer.Algorithm(id) != issuer.HS256:
		keys, err := i.issuer.PublicKeys(id)
		if err != nil {
			return block{}, err
		}
		entry.Secret = keys[0]
	case !i.issuer.OwnKeys(id):
		entry.Secret = "<the signing_secret of the audience " + id + ">"
	}
	if of.IP == issuer.IPNone {
		entry.Check = of.IP
	}
	if of.HeaderKey != issuer.HeaderKey {
		entry.HeaderKey = of.HeaderKey
	}
	embedders := map[string]credential{"*": {Type: "forbidden"}}
	for _, host := range of.Embedders {
		embedders[host] = entry
	}
	return block{map[string]map[string]map[string]credential{of.Dataset: {of.Route: embedders}}, map[string]int64{"maxSessionAge": advisedSession}}, nil
}

// indented is a value as people read it, and put it into a file.
func indented(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("rendering a file: %w", err)
	}
	return text.Bytes(), nil
}

// serverConfig answers GET of the block.
func (i *integrations) serverConfig(x *exchange) error {
	made, err := i.blockOf(i.of(x))
	if err != nil {
		return err
	}
	text, err := indented(made)
	if err != nil {
		return err
	}
	x.Data(http.StatusOK, "application/json", text)
	return nil
}

// publicKey answers GET of the key that ProteinPaint's configuration holds, and with ?keys=all of all that count: the one
// that signs, the next one, and those whose tokens may be valid.
func (i *integrations) publicKey(x *exchange) error {
	id, _ := i.of(x)
	keys, err := i.issuer.PublicKeys(id)
	switch {
	case errors.Is(err, issuer.ErrNotOwn):
		return errNoPublicKey
	case err != nil:
		return err
	}
	if all, _ := x.param("keys"); all != "all" {
		keys = keys[:1]
	}
	x.Header("Cache-Control", "public, max-age=10")
	x.Data(http.StatusOK, "application/x-pem-file", []byte(strings.Join(keys, "")))
	return nil
}

// snippet answers GET of the function that a portal's page gives to ProteinPaint.
func (i *integrations) snippet(x *exchange) error {
	id, _ := i.of(x)
	return script(x, snippetOf(x, id))
}

// snippetOf is the function for one integration.
func snippetOf(x *exchange, id string) string {
	return strings.NewReplacer("__TOKEN_URL__", literal(addressOf(x, id, "token"))).Replace(snippet)
}

// processor answers GET of the module that a ProteinPaint server loads. It holds public keys alone.
func (i *integrations) processor(x *exchange) error {
	id, _ := i.of(x)
	keys, err := i.issuer.PublicKeys(id)
	if err != nil && !errors.Is(err, issuer.ErrNotOwn) {
		return err
	}
	return script(x, strings.NewReplacer(
		"__ALGORITHM__", literal(i.issuer.Algorithm(id)), "__KEYS_URL__", literal(addressOf(x, id, "pubkey.pem?keys=all")), "__PUBLIC_KEYS__", literal(strings.Join(keys, "")),
	).Replace(processor))
}

// script answers with a script, which any page may load: it holds nothing of any person.
func script(x *exchange, text string) error {
	x.Header("Cache-Control", "public, max-age=60")
	x.Header("Cross-Origin-Resource-Policy", "cross-origin")
	x.Data(http.StatusOK, "text/javascript; charset=utf-8", []byte(text))
	return nil
}

// literal is a text as a script has it: JSON, in which nothing ends a script early.
func literal(text string) string {
	made, _ := json.Marshal(text) // of a string alone
	return string(made)
}
