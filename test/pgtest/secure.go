package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"
)

// secure writes a certificate and a password for the cluster, puts both into its URL, and returns what initdb is to
// know of them.
func (c *Cluster) secure() ([]string, error) {
	password := rand.Text()
	certificate, key, err := selfSigned(c.options.Host)
	err = errors.Join(err, c.own("tls.crt", certificate), c.own("tls.key", key), c.own("password", []byte(password)))
	if err != nil {
		return nil, fmt.Errorf("securing the cluster: %w", err)
	}
	c.URL = (&url.URL{
		Scheme: "postgres", User: url.UserPassword("wts", password), Host: net.JoinHostPort(c.options.Host, strconv.Itoa(c.port)), Path: "/postgres",
		RawQuery: url.Values{"sslmode": {"verify-full"}, "sslrootcert": {c.dir + "/tls.crt"}}.Encode(),
	}).String()
	return []string{"-A", "scram-sha-256", "--pwfile", c.dir + "/password"}, nil
}

// own writes a file that PostgreSQL's user alone may read.
func (c *Cluster) own(name string, text []byte) error {
	if err := os.WriteFile(c.dir+"/"+name, text, 0o600); err != nil {
		return err
	}
	owner, err := unprivileged()
	if err != nil || owner == nil {
		return err
	}
	return os.Chown(c.dir+"/"+name, int(owner.Uid), int(owner.Gid))
}

func selfSigned(host string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "wts test"}, IPAddresses: []net.IP{net.ParseIP(host)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}
