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
func (d *discovery) keysAt(address string) *providerKeys {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys == nil || d.keys.address != address {
		reader := *d.reader
		reader.Transport = soundKeys{reader.Transport}
		remote := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), &reader), address)
		d.keys = &providerKeys{RemoteKeySet: remote, address: address}
	}
	return d.keys
}
