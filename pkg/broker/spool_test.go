package broker

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
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

// SE13: other users can put what they like into a shared folder. Nothing of it is followed, waited for or
// made, and the spool lies in a folder that is ours alone.
func TestASpoolInAFolderOfEverybodys(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	if err := os.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	one := opened(t, dir, "one")
	defer one.close(false)
	if one.dir == dir {
		t.Fatalf("the spool lies in %s, where others may write", dir)
	}
	if info, err := os.Lstat(one.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its folder has mode %v, %v; want 700", info.Mode(), err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := syscall.Mkfifo(filepath.Join(one.dir, "pipe.tag.spool"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(one.dir, "link.tag.spool")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(one.dir, "folder.tag.spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan []string, 1)
	go func() {
		done <- one.replay(t.Context(), keys, func(context.Context, spooled) error { return nil })
	}()
	select {
	case gone := <-done:
		if len(gone) > 0 {
			t.Errorf("processes were found in them: %v", gone)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it waits for a pipe")
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("a link's target was made")
	}
}

func TestASpoolFolderThatIsNotOurs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can give a folder away; the link is tested anyway")
	} else {
		theirs := t.TempDir()
		if err := os.Mkdir(filepath.Join(theirs, "wts-0"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "wts-0"} {
			if err := os.Chown(filepath.Join(theirs, name), 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := newSpool(theirs, "tag", "r"); err == nil {
			t.Errorf("%s is used, which belongs to another user", s.dir)
		}
	}
	link, dir := filepath.Join(t.TempDir(), "link"), t.TempDir()
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if s, err := newSpool(link, "tag", "r"); err == nil && s.dir == link {
		t.Error("a link is used as if it were the folder")
	}
}

// PR4: deployments that share a folder leave each other's files alone, those of the dead too.
func TestDeploymentsThatShareAFolder(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	theirs, err := newSpool(dir, "theirs", "their-replica")
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.add(keys, spooledOne); err != nil {
		t.Fatal(err)
	}
	_ = theirs.file.Close() // the process dies
	ours := opened(t, dir, "ours")
	defer ours.close(false)
	offered := 0
	gone := ours.replay(t.Context(), keys, func(context.Context, spooled) error { offered++; return ErrSuperseded })
	if len(gone) != 0 || offered != 0 {
		t.Errorf("%v is gone, and %d records of another database were offered to ours", gone, offered)
	}
	if _, err := os.Stat(theirs.path); err != nil {
		t.Errorf("their file: %v", err)
	}
}

// EN3b: a process that ends with refreshes under way leaves a notice of death, which the next one finds.
func TestAProcessThatEndsWithFlightsOpen(t *testing.T) {
	for open, want := range map[bool]int{true: 1, false: 0} {
		dir, keys := t.TempDir(), spoolKeys(t)
		opened(t, dir, "one").close(open)
		next := opened(t, dir, "two")
		gone := next.replay(t.Context(), keys, func(context.Context, spooled) error { return nil })
		if len(gone) != want {
			t.Errorf("open flights %t: %v is known to be gone, want %d", open, gone, want)
		}
		next.close(false)
	}
}

// A full disk: the record that could not be written whole does not swallow the next one.
func TestARecordThatIsTornDoesNotSwallowTheNext(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	one := opened(t, dir, "one")
	if err := one.add(keys, spooledOne); err != nil {
		t.Fatal(err)
	}
	whole := one.size
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	short := limit
	short.Cur = uint64(whole) + 40
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &short); err != nil {
		t.Fatal(err)
	}
	failed := one.add(keys, spooledOne)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if failed == nil {
		t.Fatal("a record was acknowledged that did not fit")
	}
	if err := one.add(keys, spooledOne); err != nil {
		t.Fatal(err)
	}
	one.done() // two are open still
	if info, err := os.Stat(one.path); err != nil || info.Size() != 2*whole {
		t.Errorf("the file has %d bytes while records are open, want %d", info.Size(), 2*whole)
	}
	_ = one.file.Close()
	offered := 0
	next := opened(t, dir, "two")
	defer next.close(false)
	if next.replay(t.Context(), keys, func(context.Context, spooled) error { offered++; return nil }); offered != 2 {
		t.Errorf("%d records are offered, want 2", offered)
	}
}
