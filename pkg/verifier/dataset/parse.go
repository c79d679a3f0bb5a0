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
// type forbidden opens nothing. Without ipCheck and looseIpCheck one of type jwt is Strict, as it is at ProteinPaint.
// Labels that begin with "#" are comments. The options are those of the verifiers.
func Parse(ctx context.Context, text []byte, options ...verifier.Option) ([]Rule, error) {
	labels, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("dataset: the rules: %w", err)
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
	switch {
	case wire.IPCheck != "":
	case wire.Loose:
		credential.IPCheck = Loose
	case wire.Type == "jwt": // as ProteinPaint reads it, whose rules these may be
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

// keys are the keys of a credential of type jwt.
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
