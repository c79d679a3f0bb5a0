package provider

import (
	"context"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

// providerKeys are a provider's published keys. They tell a token that does not verify from keys that
// cannot be had, which go-oidc words alike: the one is the token's fault, the other an outage.
type providerKeys struct {
	*oidc.RemoteKeySet
	address string
}

type (
	keysUnreachable    bool
	keysUnreachableKey struct{}
)

// VerifySignature implements oidc.KeySet.
func (k *providerKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.RemoteKeySet.VerifySignature(ctx, token)
	if unreachable, ok := ctx.Value(keysUnreachableKey{}).(*keysUnreachable); ok && err != nil && strings.HasPrefix(err.Error(), "fetching keys") {
		*unreachable = true
	}
	return payload, err
}

// keysAt keeps the keys that are at hand for as long as the provider does not move them.
func (p *Provider) keysAt(address string) *providerKeys {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys == nil || p.keys.address != address {
		reader := *p.reader
		reader.Transport = soundKeys{reader.Transport}
		remote := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), &reader), address)
		p.keys = &providerKeys{RemoteKeySet: remote, address: address}
	}
	return p.keys
}
