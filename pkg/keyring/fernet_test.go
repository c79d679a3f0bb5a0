package keyring

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

const fernetTestKey = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="

func TestFernetOpensWhatItSealed(t *testing.T) {
	key, err := NewFernet(fernetTestKey)
	if err != nil {
		t.Fatal(err)
	}
	for length := range 50 {
		secret := strings.Repeat("x", length)
		sealed := key.Seal(secret, time.Now())
		if got, err := key.Open(sealed); err != nil || got != secret {
			t.Fatalf("%d bytes: %q, %v", length, got, err)
		}
		if again := key.Seal(secret, time.Now()); again == sealed {
			t.Fatal("the same IV twice")
		}
	}
}

// The token of the specification's verify.json: "hello", sealed in 1985.
func TestFernetOpensTheSpecificationsToken(t *testing.T) {
	key, err := NewFernet(fernetTestKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.Open("gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==")
	if err != nil || got != "hello" {
		t.Errorf(`got %q, %v; want got "hello"`, got, err)
	}
}

func TestFernetKeysAsDeployed(t *testing.T) {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = 0xfb // all of + and /
	}
	for name, text := range map[string]string{
		"URL alphabet":      base64.URLEncoding.EncodeToString(raw),
		"standard alphabet": base64.StdEncoding.EncodeToString(raw),
		"line breaks":       base64.StdEncoding.EncodeToString(raw)[:20] + "\n " + base64.StdEncoding.EncodeToString(raw)[20:] + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewFernet(text); err != nil {
				t.Errorf("got %v; want no error", err)
			}
		})
	}
	for name, text := range map[string]string{
		"empty": "", "no padding": base64.RawURLEncoding.EncodeToString(raw), "31 bytes": base64.URLEncoding.EncodeToString(raw[:31]), "no base64": strings.Repeat("!", 44),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewFernet(text); err == nil || strings.Contains(err.Error(), text) && text != "" {
				t.Errorf("got %v; want an error, not strings.Contains(err.Error(), text), or no text", err)
			}
		})
	}
}

func TestFernetRefusesWhatWasChanged(t *testing.T) {
	key, _ := NewFernet(fernetTestKey)
	other, _ := NewFernet(base64.URLEncoding.EncodeToString(make([]byte, 32)))
	sealed := key.Seal("a refresh token", time.Now())
	if _, err := other.Open(sealed); !errors.Is(err, ErrTampered) {
		t.Errorf("another key: %v", err)
	}
	raw, _ := base64.URLEncoding.DecodeString(sealed)
	for i := range raw {
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1
		if _, err := key.Open(base64.URLEncoding.EncodeToString(changed)); !errors.Is(err, ErrTampered) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := key.Open(base64.URLEncoding.EncodeToString(raw[:i])); !errors.Is(err, ErrTampered) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func FuzzFernetOpen(f *testing.F) {
	key, err := NewFernet(fernetTestKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key.Seal("a refresh token", time.Unix(1700000000, 0)))
	f.Add("gAAAAA==")
	f.Fuzz(func(t *testing.T, value string) {
		if secret, err := key.Open(value); err == nil && len(secret) > len(value) {
			t.Errorf("%d bytes out of %d", len(secret), len(value))
		}
	})
}

func TestKeysDerivedFromAFernetKey(t *testing.T) {
	ring := func(text string) *Keyring {
		t.Helper()
		key, err := NewFernet(text)
		if err != nil {
			t.Fatal(err)
		}
		file, err := key.KeyFile()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	place := Place{Table: "t", Owner: "o", Column: "c"}
	first, same := ring(fernetTestKey), ring(strings.ReplaceAll(fernetTestKey, "_", "/"))
	if got, err := same.Open(first.Seal([]byte("s"), place), place); err != nil || string(got) != "s" {
		t.Errorf("two replicas with one key: %q, %v", got, err)
	}
	if string(first.Digest("s")) != string(same.Digest("s")) {
		t.Error("two replicas make two digests")
	}
	other := ring(base64.URLEncoding.EncodeToString(make([]byte, 32)))
	if _, err := other.Open(first.Seal([]byte("s"), place), place); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("another key: %v", err)
	}
}
