package broker

import (
	"cmp"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/provider"
)

// catalog is the providers that are configured, by their ids.
type catalog struct {
	providers map[string]*provider.Provider
	byDefault string // the one that establishes who a user is
}

// Provider resolves the name that a request gives; empty, and "default", are the default provider.
func (c *catalog) Provider(name string) (id string, err error) {
	if name == "" || name == "default" {
		return c.byDefault, nil
	}
	if _, ok := c.providers[name]; !ok {
		return "", ErrProvider
	}
	return name, nil
}

// IsDefault tells whether the provider is the one that establishes who a user is.
func (c *catalog) IsDefault(id string) bool { return id == c.byDefault }

// NameOf is what a person calls a provider.
func (c *catalog) NameOf(id string) string { return c.providers[id].Config.Name }

// Revokes tells whether a provider, as far as it is known, can be told that a grant has ended.
func (c *catalog) Revokes(id string) bool { return c.providers[id].Revokes() }

// Listed is a provider as a person sees it.
type Listed struct {
	ID, Name string
	Default  bool
	// BaseURL is the commons that it belongs to, or where it is, as the operator wrote it.
	BaseURL string

	position int
}

// Providers lists the providers, the default one first.
func (c *catalog) Providers() []Listed {
	var all []Listed
	for id, upstream := range c.providers {
		all = append(all, Listed{
			ID: id, Name: upstream.Config.Name, Default: c.IsDefault(id), position: upstream.Config.Position,
			BaseURL: cmp.Or(upstream.Config.BaseURL, upstream.Config.Issuer, upstream.Config.AuthURL),
		})
	}
	slices.SortFunc(all, func(a, b Listed) int {
		switch {
		case a.Default:
			return -1
		case b.Default:
			return 1
		}
		return cmp.Or(cmp.Compare(a.position, b.position), strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return all
}

// callbackOf is whose callback a provider's logins come back to: its own, or empty for the shared one.
func (c *catalog) callbackOf(providerID string) string {
	if upstream, ok := c.providers[providerID]; ok && !c.IsDefault(providerID) && upstream.Config.OwnCallback() {
		return providerID
	}
	return ""
}

// issuersBeside are the issuers of the other providers, as far as they are known.
func (c *catalog) issuersBeside(providerID string) (issuers []string) {
	for id, other := range c.providers {
		if issuer := other.Issuer(); id != providerID && issuer != "" {
			issuers = append(issuers, issuer)
		}
	}
	return issuers
}
