package keyring_test

import (
	"bytes"
	"crypto/fips140"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// inEachForm runs a test with a keyring that seals in each form.
func inEachForm(t *testing.T, test func(t *testing.T, ring *keyring.Keyring)) {
	t.Helper()
	ring, _ := generated(t)
	for _, form := range []int{keyring.Form1, keyring.Form2} {
		t.Run(fmt.Sprint("form ", form), func(t *testing.T) {
			in, err := ring.WithForm(form)
			if err != nil {
				t.Fatal(err)
			}
			test(t, in)
		})
	}
}

func TestASecretOpensOnlyWhereItWasSealed(t *testing.T) { inEachForm(t, opensOnlyAtHome) }

func opensOnlyAtHome(t *testing.T, ring *keyring.Keyring) {
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

func TestEveryChangedByteIsNoticed(t *testing.T) { inEachForm(t, noticesEveryChange) }

func noticesEveryChange(t *testing.T, ring *keyring.Keyring) {
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
		t.Run(name, func(t *testing.T) {
			_, err := keyring.Parse(row.text)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
			if err != nil && strings.Contains(err.Error(), "!!!") {
				t.Error("the error shows what stands in the file")
			}
		})
	}
}

// A keyring opens both forms, whichever it seals in: replicas that seal in the one and in the other run side by
// side during a change, and back.
func TestBothFormsOpen(t *testing.T) {
	first, _ := generated(t)
	second, err := first.WithForm(keyring.Form2)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ seals, opens *keyring.Keyring }{"forward": {first, second}, "back": {second, first}} {
		t.Run(name, func(t *testing.T) {
			sealed := row.seals.Seal([]byte("rt"), home)
			if opened, err := row.opens.Open(sealed, home); err != nil || string(opened) != "rt" {
				t.Errorf(`got %q, %v; want "rt"`, opened, err)
			}
			if !row.opens.Holds(sealed[:keyring.HeadLength]) {
				t.Error("it says that it does not open it")
			}
		})
	}
	if _, err := first.WithForm(3); err == nil {
		t.Error("a form that there is not")
	}
	// A form of a later version is kept, as what another key has sealed is.
	later := first.Seal([]byte("rt"), home)
	later[0] = 3
	if _, err := first.Open(later, home); !errors.Is(err, keyring.ErrUnknownKey) || first.Holds(later[:keyring.HeadLength]) {
		t.Errorf("a later form: %v", err)
	}
}

// Rule D8: what was sealed for the place before does not open there, and a cookie's key is not a row's.
func TestAnOlderSecretOfThePlaceDoesNotOpen(t *testing.T) {
	first, _ := generated(t)
	ring, err := first.WithForm(keyring.Form2)
	if err != nil {
		t.Fatal(err)
	}
	at := func(counter int64) keyring.Place { place := home; place.Counter = counter; return place }
	older := ring.Seal([]byte("rt-1"), at(1))
	if _, err := ring.Open(older, at(2)); !errors.Is(err, keyring.ErrTampered) {
		t.Errorf("the older one opens: %v", err)
	}
	if opened, err := ring.Open(older, at(1)); err != nil || string(opened) != "rt-1" {
		t.Errorf(`got %q, %v; want "rt-1"`, opened, err)
	}
	one, other := ring.Seal([]byte("x"), home), ring.Seal([]byte("x"), home)
	if bytes.Equal(one[keyring.HeadLength:keyring.HeadLength+32], other[keyring.HeadLength:keyring.HeadLength+32]) {
		t.Error("two secrets have one key")
	}
}

// firstVersions is an envelope that the first version of this package has sealed, with a key of 32 bytes of 1.
const firstVersions = "0195b4522816897a9666078aaa12833c089aacb37b5aa2419516ebb1c3df45ac7341e4ae6f00cabaaad8e34c6deea9f8f7514be202"

func TestTheFirstVersionsEnvelopeOpens(t *testing.T) {
	raw := bytes.Repeat([]byte{1}, 32)
	ring, err := keyring.New(raw, keyring.NamedKey{Name: "k", Key: raw})
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := hex.DecodeString(firstVersions)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := ring.Open(envelope, home); err != nil || string(opened) != "rt-1" {
		t.Errorf(`got %q, %v; want "rt-1"`, opened, err)
	}
}

// In FIPS mode the keyring seals in the form that is approved, and keeps what it does not open. The mode is a
// process's, so that this test runs itself in another.
func TestFormsInFIPSMode(t *testing.T) {
	if !fips140.Enabled() {
		again := exec.Command(os.Args[0], "-test.run=^TestFormsInFIPSMode$", "-test.v")
		again.Env = append(os.Environ(), "GODEBUG=fips140=only")
		if output, err := again.CombinedOutput(); err != nil || !strings.Contains(string(output), "in FIPS mode") {
			t.Errorf("%v\n%s", err, output)
		}
		return
	}
	t.Log("in FIPS mode")
	raw := bytes.Repeat([]byte{1}, 32)
	ring, err := keyring.New(raw, keyring.NamedKey{Name: "k", Key: raw})
	if err != nil {
		t.Fatal(err)
	}
	if ring, err = ring.WithForm(keyring.Form1); err != nil {
		t.Fatal(err)
	}
	sealed := ring.Seal([]byte("rt"), home)
	if opened, err := ring.Open(sealed, home); err != nil || string(opened) != "rt" || sealed[0] != keyring.Form2 {
		t.Errorf("form %d, %q, %v", sealed[0], opened, err)
	}
	envelope, _ := hex.DecodeString(firstVersions)
	if _, err := ring.Open(envelope, home); !errors.Is(err, keyring.ErrUnknownKey) || ring.Holds(envelope[:keyring.HeadLength]) {
		t.Errorf("the first version's envelope: %v; want it kept, as another key's is", err)
	}
}

func FuzzOpen(f *testing.F) {
	ring, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		f.Fatal(err)
	}
	second, err := ring.WithForm(keyring.Form2)
	if err != nil {
		f.Fatal(err)
	}
	sealed, other := ring.Seal([]byte("secret"), home), second.Seal([]byte("secret"), home)
	f.Add(sealed)
	f.Add(other)
	f.Add([]byte{})
	f.Add(sealed[:33])
	f.Add(other[:41])
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if opened, err := ring.Open(envelope, home); err == nil && !bytes.Equal(envelope, sealed) && !bytes.Equal(envelope, other) {
			t.Fatalf("a forged envelope opened to %q", opened)
		}
	})
}
