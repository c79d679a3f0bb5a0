package keyring_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/keyring"
)

var home = keyring.Place{Table: "connections", Owner: "u1", Part: "github", Column: "refresh_token"}

func generated(t *testing.T) (*keyring.Keyring, string) {
	t.Helper()
	text := keyring.Generate(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	ring, err := keyring.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return ring, text
}

func TestASecretOpensOnlyWhereItWasSealed(t *testing.T) {
	ring, _ := generated(t)
	sealed := ring.Seal([]byte("rt-1"), home)
	if bytes.Contains(sealed, []byte("rt-1")) {
		t.Fatal("the secret stands in the envelope in clear")
	}
	moved := func(change func(*keyring.Place)) keyring.Place {
		place := home
		change(&place)
		return place
	}
	for name, place := range map[string]keyring.Place{
		"another table":    moved(func(p *keyring.Place) { p.Table = "sessions" }),
		"another user":     moved(func(p *keyring.Place) { p.Owner = "u2" }),
		"another provider": moved(func(p *keyring.Place) { p.Part = "gitlab" }),
		"another column":   moved(func(p *keyring.Place) { p.Column = "access_token" }),
		"a shifted border": moved(func(p *keyring.Place) { p.Owner, p.Part = "u1g", "ithub" }),
	} {
		if _, err := ring.Open(sealed, place); !errors.Is(err, keyring.ErrTampered) {
			t.Errorf("%s: got %v, want ErrTampered", name, err)
		}
	}
	opened, err := ring.Open(sealed, home)
	if err != nil || string(opened) != "rt-1" {
		t.Errorf("at home: got %q, %v", opened, err)
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	ring, _ := generated(t)
	sealed := ring.Seal([]byte("secret"), home)
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := ring.Open(changed, home); err == nil {
			t.Errorf("byte %d changed, and it opened", i)
		}
	}
	for n := range sealed {
		if _, err := ring.Open(sealed[:n], home); err == nil {
			t.Errorf("cut to %d bytes, and it opened", n)
		}
	}
}

func TestTheFirstKeySealsAndEveryKeyOpens(t *testing.T) {
	old, text := generated(t)
	sealed := old.Seal([]byte("from long ago"), home)

	_, newer := generated(t)
	var newLine string
	for line := range strings.Lines(newer) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "digest") {
			newLine = line
		}
	}
	both, err := keyring.Parse(newLine + text)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := both.Open(sealed, home); err != nil || string(opened) != "from long ago" {
		t.Errorf("the old key: got %q, %v", opened, err)
	}
	if _, err := old.Open(both.Seal([]byte("x"), home), home); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("the new key seals: got %v, want ErrUnknownKey from the ring without it", err)
	}
	if diff := cmp.Diff(old.Digest("t"), both.Digest("t")); diff != "" {
		t.Errorf("the digest moved with the sealing key: %s", diff)
	}
}

func TestAKeyFileWithAFault(t *testing.T) {
	_, text := generated(t)
	var key, digest string
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "digest"):
			digest = line
		case !strings.HasPrefix(line, "#"):
			key = line
		}
	}
	for name, row := range map[string]struct{ text, want string }{
		"empty":              {"", `no line "digest"`},
		"no sealing key":     {digest, "wts init"},
		"no digest":          {key, `no line "digest"`},
		"a key too short":    {"k AAAA\n" + digest, "line 1: the key is not 32 bytes"},
		"not base64":         {digest + "k !!!\n", "line 2: the key is not 32 bytes"},
		"three words":        {"k a b\n", "line 1: want a name and a key"},
		"one name twice":     {key + key + digest, "line 2: a second key"},
		"a line with no end": {strings.Repeat("x", 1<<17), "reading the keys"},
	} {
		_, err := keyring.Parse(row.text)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, row.want)
		}
		if err != nil && strings.Contains(err.Error(), "!!!") {
			t.Errorf("%s: the error shows what stands in the file", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	ring, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		f.Fatal(err)
	}
	sealed := ring.Seal([]byte("secret"), home)
	f.Add(sealed)
	f.Add([]byte{})
	f.Add(sealed[:33])
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if opened, err := ring.Open(envelope, home); err == nil && !bytes.Equal(envelope, sealed) {
			t.Fatalf("a forged envelope opened to %q", opened)
		}
	})
}
