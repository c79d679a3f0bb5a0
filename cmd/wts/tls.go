package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/workspace-token-service/wts/pkg/server"
)

// certificates serves the certificate of two files, and reads them again when they change: who issues
// certificates replaces them without a restart.
type certificates struct {
	config server.TLSConfig

	mu      sync.Mutex
	current *tls.Certificate
	of      time.Time // the files' newest change
	looked  time.Time
}

// lookEvery is how often the files are looked at.
const lookEvery = 10 * time.Second

// encrypt puts TLS around listeners, where the configuration names a certificate (security.md F6).
func (c *certificates) encrypt(listeners []net.Listener) ([]net.Listener, error) {
	if c.config.CertFile == "" {
		return listeners, nil
	}
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	encrypted := make([]net.Listener, 0, len(listeners))
	for _, plain := range listeners {
		encrypted = append(encrypted, tls.NewListener(plain, &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"},
		}))
	}
	return encrypted, nil
}

// get returns the certificate. One that cannot be read leaves the one before in its place.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && time.Since(c.looked) < lookEvery {
		return c.current, nil
	}
	c.looked = time.Now()
	newest, err := c.changed()
	if c.current != nil && (err != nil || !newest.After(c.of)) {
		return c.current, nil
	}
	fresh, err := tls.LoadX509KeyPair(c.config.CertFile, c.config.KeyFile)
	switch {
	case err == nil:
		c.current, c.of = &fresh, newest
	case c.current == nil:
		return nil, fmt.Errorf("tls: the certificate cannot be read: %w", err)
	}
	return c.current, nil
}

// expires is when the certificate that is served expires; zero where there is none.
func (c *certificates) expires() time.Time {
	if c.config.CertFile == "" {
		return time.Time{}
	}
	current, err := c.get(nil)
	if err != nil || current.Leaf == nil {
		return time.Time{}
	}
	return current.Leaf.NotAfter
}

func (c *certificates) changed() (newest time.Time, err error) {
	for _, name := range []string{c.config.CertFile, c.config.KeyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return time.Time{}, fmt.Errorf("tls: %w", err)
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest, nil
}
