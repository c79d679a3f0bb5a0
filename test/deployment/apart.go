package deployment

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/network"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// place is where the provider and the database are.
type place struct {
	provider providertest.Options
	database pgtest.Options
}

// apart is their place in a network of the test's own. wts talks to a provider on another machine over TLS
// alone, so this one has a certificate, which this process and those that it starts trust.
func apart(t testing.TB) place {
	t.Helper()
	certificate, text, err := selfSigned(network.Provider)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "provider.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", path)
	return place{
		provider: providertest.Options{Address: network.Provider + ":0", Certificate: certificate},
		database: pgtest.Options{Host: network.Database, Clock: true},
	}
}

// selfSigned makes a certificate for an address.
func selfSigned(address string) (certificate *tls.Certificate, text []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(address)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// browserTo is a browser's transport that reaches a public address where it really is.
func browserTo(public, address string) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, wanted string) (net.Conn, error) {
		if wanted == public {
			wanted = address
		}
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, wanted)
	}
	return transport
}
