package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Other users can put what they like into a shared folder. Nothing of it is followed, waited for or
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

// Deployments that share a folder leave each other's files alone, those of the dead too.
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

// A process that ends with refreshes under way leaves a notice of death, which the next one finds.
func TestAProcessThatEndsWithFlightsOpen(t *testing.T) {
	for open, want := range map[bool]int{true: 1, false: 0} {
		t.Run(fmt.Sprint(open), func(t *testing.T) {
			dir, keys := t.TempDir(), spoolKeys(t)
			one := opened(t, dir, "one")
			one.close(open)
			one.close(false) // once more changes nothing
			next := opened(t, dir, "two")
			gone := next.replay(t.Context(), keys, func(context.Context, spooled) error { return nil })
			if len(gone) != want {
				t.Errorf("open flights %t: %v is known to be gone, want %d", open, gone, want)
			}
			next.close(false)
		})
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

// numbered is a record with a successor of its own.
func numbered(successor string) spooled {
	record := spooledOne
	record.Refresh = successor
	return record
}

// What is read of the file of a process that is gone: every record that is whole, in their order; a damaged one
// says nothing of the next, and what could not be stored stays.
func TestWhatIsReadOfASpoolFile(t *testing.T) {
	away := errors.New("the database is away")
	for name, line := range map[string]struct {
		records int
		change  func(text []byte, size int) []byte // size: of a record
		refuse  map[string]error                   // by successor
		want    []string                           // what is offered
		gone    bool
	}{
		"all of it":                     {records: 3, want: []string{"0", "1", "2"}, gone: true},
		"nothing":                       {gone: true},
		"one is superseded":             {records: 3, refuse: map[string]error{"1": ErrSuperseded}, want: []string{"0", "1", "2"}, gone: true},
		"the second is not stored":      {records: 3, refuse: map[string]error{"1": away}, want: []string{"0", "1"}},
		"the last is cut off":           {records: 2, change: func(text []byte, _ int) []byte { return text[:len(text)-1] }, want: []string{"0"}, gone: true},
		"the last's length is cut off":  {records: 2, change: func(text []byte, size int) []byte { return text[:size+2] }, want: []string{"0"}, gone: true},
		"the first is damaged":          {records: 2, change: func(text []byte, size int) []byte { text[size-1] ^= 1; return text }, want: []string{"1"}, gone: true},
		"a length that cannot be":       {records: 2, change: func(text []byte, size int) []byte { text[size] = 0xff; return text }, want: []string{"0"}},
		"a length of just too much":     {records: 1, change: func([]byte, int) []byte { return append([]byte{0, 0x10, 0, 1}, make([]byte, maxSpooled+1)...) }},
		"a length of as much as may be": {records: 1, change: func([]byte, int) []byte { return append([]byte{0, 0x10, 0, 0}, make([]byte, maxSpooled)...) }, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, keys := t.TempDir(), spoolKeys(t)
			one := opened(t, dir, "one")
			size := 0
			for i := range line.records {
				if err := one.add(keys, numbered(fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					size = int(one.size)
				}
			}
			path := one.path
			_ = one.file.Close()
			if line.change != nil {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, line.change(text, size), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			next := opened(t, dir, "two")
			defer next.close(false)
			var offered []string
			gone := next.replay(t.Context(), keys, func(_ context.Context, record spooled) error {
				offered = append(offered, record.Refresh)
				return line.refuse[record.Refresh]
			})
			if diff := cmp.Diff(line.want, offered); diff != "" {
				t.Errorf("what is offered (-want +got):\n%s", diff)
			}
			_, missing := os.Stat(path)
			if line.gone != (len(gone) == 1 && gone[0] == "one") || line.gone != errors.Is(missing, os.ErrNotExist) {
				t.Errorf("gone: %v, and the file: %v; want it gone: %t", gone, missing, line.gone)
			}
		})
	}
}

// A spool that has records open keeps its file, gives it up when it is told to, and takes nothing after that.
func TestASpoolThatIsGivenUp(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	one := opened(t, dir, "one")
	for _, successor := range []string{"a", "b"} {
		if err := one.add(keys, numbered(successor)); err != nil {
			t.Fatal(err)
		}
	}
	one.done()
	next := opened(t, dir, "two")
	defer next.close(false)
	nothing := func(context.Context, spooled) error { t.Error("a record is offered"); return nil }
	if gone := next.replay(t.Context(), keys, nothing); len(gone) > 0 || len(one.replay(t.Context(), keys, nothing)) > 0 {
		t.Error("a process that lives is found to be gone")
	}
	one.close(false)
	if err := one.add(keys, numbered("c")); err == nil {
		t.Error("a record is taken after the end")
	}
	one.done()
	one.close(false)
	offered := 0
	if gone := next.replay(t.Context(), keys, func(context.Context, spooled) error { offered++; return nil }); len(gone) != 1 || offered != 2 {
		t.Errorf("%v is gone and left %d records, want one and both", gone, offered)
	}
}

// A record that is too big is refused. It counts as open until it is stored, as every record does.
func TestARecordThatIsTooBig(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	one := opened(t, dir, "one")
	text, err := json.Marshal(numbered("x"))
	if err != nil {
		t.Fatal(err)
	}
	room := maxSpooled - len(keys.Seal(text, spoolPlace())) + 1
	if err := one.add(keys, numbered(strings.Repeat("x", room+1))); err == nil {
		t.Error("it is taken")
	}
	if err := one.add(keys, numbered(strings.Repeat("x", room))); err != nil {
		t.Fatalf("the biggest: %v", err)
	}
	one.done()
	if info, err := os.Stat(one.path); err != nil || info.Size() == 0 {
		t.Errorf("the file is emptied while a record is open: %v", err)
	}
	one.done()
	if info, err := os.Stat(one.path); err != nil || info.Size() != 0 || one.size != 0 {
		t.Errorf("the file has %d bytes when all is stored, %v", info.Size(), err)
	}
	if err := one.add(keys, numbered("b")); err != nil {
		t.Fatal(err)
	}
	one.close(false)
	if _, err := os.Stat(one.path); err != nil {
		t.Errorf("the file goes with a record open: %v", err)
	}
}

// Files that are another's to read are left alone: of no process, and of deployments with another database.
func TestFilesThatAreNoSpools(t *testing.T) {
	dir, keys := t.TempDir(), spoolKeys(t)
	for _, name := range []string{"a.b.tag.spool", "a.spool", "a.other.spool", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one := opened(t, dir, "one")
	defer one.close(false)
	if gone := one.replay(t.Context(), keys, func(context.Context, spooled) error { return nil }); len(gone) > 0 {
		t.Errorf("%v is found to be gone", gone)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 5 {
		t.Errorf("left: %v, %v", left, err)
	}
	bare, err := newSpool(t.TempDir(), "", "one")
	if err != nil || filepath.Base(bare.path) != "one.spool" {
		t.Errorf("without a tag it is %s, %v", bare.path, err)
	}
	bare.close(false)
}

// One process holds a spool's file, and another that wants the same file waits a moment for it.
func TestAFileThatIsHeld(t *testing.T) {
	dir := t.TempDir()
	one := opened(t, dir, "one")
	if info, err := os.Stat(one.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v; want 600", info.Mode(), err)
	}
	if _, err := newSpool(dir, "tag", "one"); err == nil {
		t.Error("two have one file")
	}
	if _, err := openLocked(one.path, 0); !errors.Is(err, errTaken) {
		t.Errorf("got %v, want errTaken", err)
	}
	released := time.AfterFunc(30*time.Millisecond, func() { one.close(false) })
	defer released.Stop()
	again, err := newSpool(dir, "tag", "one")
	if err != nil {
		t.Errorf("released meanwhile: %v", err)
	}
	again.close(false)
	if folder, err := openLocked(dir, 0); err == nil {
		_ = folder.Close()
		t.Error("a folder is opened as a file")
	}
}

// A folder that others may write to, and in which none can be made below: there is no spool, least of all in the
// folder in which the process runs.
func TestAFolderInWhichNoneCanBeMade(t *testing.T) {
	dir := t.TempDir()
	for most := 4092; len(dir) < most; { // a path has at most 4095 bytes
		dir = filepath.Join(dir, strings.Repeat("x", min(200, most-len(dir)-1)))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s, err := newSpool(dir, "tag", "one")
	if err == nil || s.file != nil {
		t.Errorf("got %v and a file %q, want an error and none", err, s.path)
		s.close(false)
	}
}
