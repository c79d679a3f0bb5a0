package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/server"
)

// writeCertificate makes a self-signed certificate for localhost.
func writeCertificate(t *testing.T, dir, name string) server.TLSConfig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := server.TLSConfig{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	for path, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestTheServiceOverTLS(t *testing.T) {
	dir := t.TempDir()
	r := startReplica(t, func(c *config.Config) { c.Server.TLS = writeCertificate(t, dir, "first") })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	address := strings.Replace(r.url, "http://", "https://", 1)
	for old, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		t.Run(fmt.Sprint(old), func(t *testing.T) {
			connection, err := tls.Dial("tcp", strings.TrimPrefix(address, "https://"), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: old})
			if (err == nil) != want {
				t.Errorf("version %x: %v", old, err)
			}
			if err == nil {
				_ = connection.Close()
			}
		})
	}
	response, err := client.Get(address + "/healthz")
	if err != nil || response.TLS.PeerCertificates[0].Subject.CommonName != "first" {
		t.Fatalf(`got %v; want response.TLS.PeerCertificates[0].Subject.CommonName "first"`, err)
	}
	_ = response.Body.Close()
	if response.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no Strict-Transport-Security over TLS")
	}
	if response, err := http.Get(r.url + "/healthz"); err == nil && response.StatusCode == http.StatusOK {
		t.Error("it answers without TLS")
	}
}

func TestACertificateThatIsReplaced(t *testing.T) {
	dir := t.TempDir()
	served := &certificates{config: writeCertificate(t, dir, "first")}
	name := func() string {
		t.Helper()
		served.looked = time.Time{} // as if ten seconds were over
		current, err := served.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return current.Leaf.Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("got %s", got)
	}
	files := writeCertificate(t, dir, "second")
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(files.CertFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "second" {
		t.Errorf("replaced: %s", got)
	}
	if err := os.WriteFile(files.CertFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	later = later.Add(time.Second)
	if err := os.Chtimes(files.CertFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "second" {
		t.Errorf("rubbish: %s", got)
	}
	if _, err := (&certificates{config: server.TLSConfig{CertFile: "nowhere", KeyFile: "nowhere"}}).encrypt([]net.Listener{}); err == nil {
		t.Error("no certificate is no error")
	}
}
