package broker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
)

func spoolKeys(t *testing.T) *keyring.Keyring {
	t.Helper()
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func opened(t *testing.T, dir, replica string) *spool {
	t.Helper()
	s, err := newSpool(dir, "tag", replica)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var spooledOne = recordOf("u", "main", Commit{
	Flight: "f", Presented: []byte("digest"), Version: 7, Token: "canary-parent",
	Tokens: provider.Tokens{RefreshToken: "canary-successor", AccessToken: "canary-access", IssuedAt: time.Unix(1700000000, 0).UTC(), AccessExpiresAt: time.Unix(1700000060, 0).UTC()},
})

func TestTheSpoolOfAProcessThatIsGone(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	first := opened(t, dir, "first")
	if err := first.add(keys, spooledOne); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(first.path)
	if err != nil || strings.Contains(string(text), "canary") {
		t.Fatalf("a token is in clear: %v", err)
	}
	second := opened(t, dir, "second")
	offered := 0
	take := func(err error) func(context.Context, spooled) error {
		return func(_ context.Context, record spooled) error {
			offered++
			commit := record.commit(keys.Digest)
			if diff := cmp.Diff(spooledOne, record); diff != "" || commit.Token != "canary-parent" || commit.Tokens.RefreshToken != "canary-successor" || len(commit.Successor) == 0 {
				t.Errorf("another record: %s", diff)
			}
			return err
		}
	}
	if gone := second.replay(t.Context(), keys, take(nil)); len(gone) != 0 || offered != 0 {
		t.Errorf("a living process' spool was read: %v", gone)
	}
	_ = first.file.Close() // as the kernel does for a process that dies
	if gone := second.replay(t.Context(), keys, take(errors.New("the database is away"))); len(gone) != 0 || offered != 1 {
		t.Errorf("not stored, and given up: %v", gone)
	}
	if gone := second.replay(t.Context(), spoolKeys(t), take(nil)); len(gone) != 0 || offered != 1 {
		t.Errorf("another keyring's: %v", gone)
	}
	// A record that was cut off was never acknowledged.
	if err := os.WriteFile(first.path, append(text, text[:len(text)-3]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if gone := second.replay(t.Context(), keys, take(ErrSuperseded)); len(gone) != 1 || gone[0] != "first" || offered != 2 {
		t.Errorf("%v after %d", gone, offered)
	}
	if _, err := os.Stat(first.path); err == nil {
		t.Error("the file is still there")
	}
	if gone := second.replay(t.Context(), keys, take(nil)); len(gone) != 0 || offered != 2 {
		t.Errorf("once more: %v", gone)
	}
}

func TestASpoolThatIsEmptyGoes(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	one := opened(t, dir, "one")
	if err := one.add(keys, spooledOne); err != nil {
		t.Fatal(err)
	}
	one.done()
	if info, err := os.Stat(one.path); err != nil || info.Size() != 0 {
		t.Errorf("all is stored: %v, %v", info, err)
	}
	one.close(false)
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestWithoutAFolderThereIsNoSpool(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a-file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newSpool(filepath.Join(file, "below"), "tag", "r")
	if err == nil {
		t.Error("nothing is said")
	}
	if err := s.add(spoolKeys(t), spooledOne); err != nil { // memory has it
		t.Error(err)
	}
	s.done()
	s.close(false)
}
