package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Parse reads rules from JSON in the shape of ProteinPaint's dsCredentials:
//
//	{"<label>": {"headerKey": "...", "<route>": {"<embedder>": {"type": "jwt", "secret": "...", "dsnames": [{"id": "..."}]}}}}
//
// A credential of type jwt has a secret, or several secrets while one takes the place of another; a PEM among them, or
// in publicKeys, is a public key. One of type wts names an issuer and an audience, whose key set is followed. One of
// type forbidden opens nothing. Labels that begin with "#" are comments. A credential of type jwt that says nothing of the
// address is strict, as there. The block of a serverconfig.json that wts writes for an integration is read too: its
// dsCredentials count. The options are those of the verifiers.
func Parse(ctx context.Context, text []byte, options ...verifier.Option) ([]Rule, error) {
	labels, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("dataset: the rules: %w", err)
	}
	for _, one := range labels {
		if one.name != "dsCredentials" {
			continue
		}
		if labels, err = members(one.value); err != nil {
			return nil, fmt.Errorf("dataset: dsCredentials: %w", err)
		}
	}
	reading := reading{ctx, options}
	var rules []Rule
	var failures []error
	for _, label := range labels {
		if strings.HasPrefix(label.name, "#") {
			continue
		}
		some, err := reading.label(label)
		if err != nil {
			failures = append(failures, fmt.Errorf("dataset %q: %w", label.name, err))
		}
		rules = append(rules, some...)
	}
	return rules, errors.Join(failures...)
}

// reading is what verifiers are made with.
type reading struct {
	ctx     context.Context //nolint:containedctx // bounds the fetches of keys that verifiers make later
	options []verifier.Option
}

// label reads the routes of a dataset in the order in which they stand, since the first one that fits a request counts:
// a map would lose it. Beside the routes stands the header that holds where a credential names none.
func (p reading) label(label member) ([]Rule, error) {
	routes, err := members(label.value)
	if err != nil {
		return nil, err
	}
	var rules []Rule
	header := ""
	for _, route := range routes {
		switch route.name {
		case "headerKey":
			if json.Unmarshal(route.value, &header) != nil {
				return nil, errors.New("headerKey: want a text")
			}
			continue
		case "type", "embedders":
			return nil, fmt.Errorf("%s: this is the older shape; want routes, and embedders in them", route.name)
		}
		embedders, err := members(route.value)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", route.name, err)
		}
		for _, embedder := range embedders {
			credential, err := p.credential(embedder.value)
			if err != nil {
				return nil, fmt.Errorf("route %q, embedder %q: %w", route.name, embedder.name, err)
			}
			rules = append(rules, Rule{label.name, route.name, embedder.name, credential})
		}
	}
	for i := range rules {
		if rules[i].Header == "" {
			rules[i].Header = header
		}
	}
	return rules, nil
}

// wireCredential is a credential as it is written down.
type wireCredential struct {
	Type       string   `json:"type"`
	Secret     string   `json:"secret"`
	Secrets    []string `json:"secrets"`
	PublicKeys []string `json:"publicKeys"`
	Issuer     string   `json:"issuer"`
	Audience   string   `json:"audience"`
	HeaderKey  string   `json:"headerKey"`
	Names      []struct {
		ID    string `json:"id"`
		Label string `json:"label"`
	} `json:"dsnames"`
	Protected []string `json:"protectedRoutes"`
	IPCheck   IPCheck  `json:"ipCheck"`
	Loose     bool     `json:"looseIpCheck"`
	// What ProteinPaint reads and has no meaning here, since there are no sessions.
	DemoToken  any `json:"demoToken"`
	CookieMode any `json:"cookieMode"`
	MaxAge     any `json:"maxSessionAge"`
}

// credential reads what a request has to show. A member that is not known is an error: one that was misspelled would
// leave out what it restricts.
func (p reading) credential(text json.RawMessage) (Credential, error) {
	if _, err := members(text); err != nil {
		return Credential{}, err
	}
	var wire wireCredential
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wire); err != nil {
		var kind *json.UnmarshalTypeError // which would repeat the value, and that may be a secret
		if errors.As(err, &kind) {
			return Credential{}, fmt.Errorf("%s: want %s", kind.Field, kind.Type)
		}
		return Credential{}, fmt.Errorf("a member that is not known: %w", err)
	}
	credential := Credential{Header: wire.HeaderKey, Protected: wire.Protected, IPCheck: wire.IPCheck}
	switch { // without a word of it, the shape means strict; rules that are moved here are not to become looser
	case wire.IPCheck != "":
	case wire.Loose, wire.Type != "jwt":
		credential.IPCheck = Loose
	default:
		credential.IPCheck = Strict
	}
	for _, name := range wire.Names {
		credential.Datasets = append(credential.Datasets, name.ID)
	}
	var err error
	credential.Tokens, err = p.tokens(wire)
	return credential, err
}

// tokens makes what verifies, by the type.
func (p reading) tokens(wire wireCredential) (Tokens, error) {
	switch wire.Type {
	case "jwt":
		keys, err := wire.keys()
		if err != nil {
			return nil, err
		}
		pinned, err := verifier.NewPinned(keys, p.options...)
		if err != nil {
			return nil, fmt.Errorf("a secret, secrets or publicKeys are needed, or the type forbidden: %w", err)
		}
		return pinned, nil
	case "wts":
		of, err := verifier.New(p.ctx, wire.Issuer, wire.Audience, p.options...)
		if err != nil {
			return nil, fmt.Errorf("issuer and audience are needed: %w", err)
		}
		return of, nil
	case "forbidden":
		return nil, nil
	}
	return nil, fmt.Errorf("the type is %q, want jwt, wts or forbidden", wire.Type)
}

// keys are the keys of a credential of type jwt. In dsCredentials a PEM stands where a secret does; it is a public key
// here wherever it stands, and one that cannot be read is an error and no secret.
func (c wireCredential) keys() ([]verifier.Key, error) {
	var all []verifier.Key
	secrets := c.Secrets
	if c.Secret != "" {
		secrets = append([]string{c.Secret}, secrets...)
	}
	for _, text := range secrets {
		if strings.Contains(text, "-----BEGIN") {
			c.PublicKeys = append(c.PublicKeys, text)
			continue
		}
		key, err := verifier.SecretKey(text)
		if err != nil {
			return nil, err
		}
		all = append(all, key)
	}
	for _, text := range c.PublicKeys {
		keys, err := verifier.PublicKeys([]byte(text))
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}
