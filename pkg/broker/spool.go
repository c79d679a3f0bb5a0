package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// spooler keeps successors that the database did not take.
type spooler interface {
	add(keys *keyring.Keyring, record spooled) error
	done()
	// replay offers the records of processes that are gone, and returns the replicas that they were.
	replay(ctx context.Context, keys *keyring.Keyring, offer func(context.Context, spooled) error) (gone []string)
	// close gives the spool up, and keeps its file as a notice of death where flights are still open.
	close(open bool)
}

// spool keeps successors that the database did not take, sealed, in a file of this process's own under a
// lock. A process that gets a free lock on a file, this one or one after it, offers its records again.
// Files are named by replica and database, so that deployments which share a folder leave each other's
// alone.
type spool struct {
	dir    string // empty where there is none
	suffix string
	path   string

	mu     sync.Mutex
	file   *os.File // holds the lock
	size   int64    // of what was written whole
	open   int      // records that are not stored yet
	closed bool
}

const (
	spoolSuffix  = ".spool"
	maxSpooled   = 1 << 20 // bytes of one record
	spoolPlaceOf = "spool"
)

func spoolPlace() keyring.Place { return keyring.Place{Table: spoolPlaceOf, Column: "record"} }

// newSpool opens this process's file. Without a folder that can be written there is no spool: what the
// database does not take is kept in memory alone. The tag names the database.
func newSpool(dir, tag, replica string) (*spool, error) {
	if dir == "" {
		return &spool{}, nil
	}
	own, err := ownFolder(dir)
	if err != nil {
		return &spool{}, fmt.Errorf("spool_dir: %w", err)
	}
	suffix := spoolSuffix
	if tag != "" {
		suffix = "." + tag + spoolSuffix
	}
	path := filepath.Join(own, replica+suffix)
	for range 10 {
		file, err := openLocked(path, os.O_CREATE|os.O_APPEND)
		switch {
		case err == nil:
			return &spool{dir: own, suffix: suffix, path: path, file: file}, nil
		case !errors.Is(err, errTaken) && !errors.Is(err, errGone):
			return &spool{}, fmt.Errorf("spool_dir: %w", err)
		}
		// Between the making of the file and the lock on it another process took it for one left behind.
		time.Sleep(10 * time.Millisecond)
	}
	return &spool{}, errors.New("spool_dir: the file is taken away by another process")
}

var (
	errTaken = errors.New("another process holds the file")
	errGone  = errors.New("the file was deleted")
)

// ownFolder makes the folder, and makes sure that no other user can put files into the one that is used:
// a folder that others may write to, as a Kubernetes emptyDir, gets one of our own below it.
func ownFolder(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := checkOwn(dir); err == nil {
		return dir, nil
	}
	below := filepath.Join(dir, fmt.Sprintf("wts-%d", os.Getuid()))
	if err := os.Mkdir(below, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return below, checkOwn(below)
}

// checkOwn wants a folder, no link to one, that belongs to this user and that no other may write to.
func checkOwn(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case ok && int(owner.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to user %d, and this process runs as %d", dir, owner.Uid, os.Getuid())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others (mode %o)", dir, info.Mode().Perm())
	}
	return nil
}

// openLocked opens a regular file under a lock that ends with the process. It follows no link and does
// not wait, for a pipe or for the lock.
func openLocked(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flags, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil && syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		err = errTaken
	}
	if err == nil {
		if now, gone := os.Lstat(path); gone != nil || !os.SameFile(now, info) {
			err = errGone
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// spooled is a record, as it stands in the file. Its times are the database's.
type spooled struct {
	Flight   string    `json:"flight"`
	UserID   string    `json:"user"`
	Provider string    `json:"provider"`
	Version  int64     `json:"version"`
	Digest   []byte    `json:"digest"` // of the token that was presented
	Parent   string    `json:"parent"` // that token
	Refresh  string    `json:"refresh,omitempty"`
	Access   string    `json:"access"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	Ends     time.Time `json:"ends"`
	Tell     bool      `json:"tell,omitempty"`
	Broken   string    `json:"broken,omitempty"`
}

// recordOf is a commit as it stands in the file, and commit the other way round.
func recordOf(userID, providerID string, commit Commit) spooled {
	tokens := commit.Tokens
	return spooled{
		Flight: commit.Flight, UserID: userID, Provider: providerID, Version: commit.Version, Digest: commit.Presented, Parent: string(commit.Token),
		Refresh: string(tokens.RefreshToken), Access: string(tokens.AccessToken), Issued: tokens.IssuedAt, Expires: tokens.AccessExpiresAt, Ends: tokens.RefreshExpiresAt,
		Tell: commit.Tell, Broken: commit.Broken,
	}
}

// commit is the record as the result of its flight, as if it came from the provider now.
func (r spooled) commit(digest func(token string) []byte) Commit {
	commit := Commit{
		Flight: r.Flight, Version: r.Version, Presented: r.Digest, Token: secret.Text(r.Parent), Tell: r.Tell, Broken: r.Broken,
		Tokens: provider.Tokens{
			RefreshToken: secret.Text(r.Refresh), AccessToken: secret.Text(r.Access), IssuedAt: r.Issued, AccessExpiresAt: r.Expires, RefreshExpiresAt: r.Ends,
		},
	}
	if r.Refresh != "" {
		commit.Successor = digest(r.Refresh)
	}
	return commit
}

// add writes a record down. It is durable when this returns nil.
func (s *spool) add(keys *keyring.Keyring, record spooled) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	if s.closed {
		return errors.New("spooling: this process has given its spool up")
	}
	if s.file == nil {
		return nil
	}
	sealed := keys.Seal(text, spoolPlace())
	if len(sealed) > maxSpooled {
		return errors.New("spooling: a token of more than a mebibyte")
	}
	framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...) //nolint:gosec // at most maxSpooled
	_, err = s.file.Write(framed)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil { // what was written in part would swallow the next one
		return errors.Join(fmt.Errorf("spooling: %w", err), s.file.Truncate(s.size))
	}
	s.size += int64(len(framed))
	return nil
}

// done notes that a record was stored. The file is emptied when all of them were.
func (s *spool) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open--; s.open == 0 && s.file != nil {
		if s.file.Truncate(0) == nil { // else a record too much is offered again, and found stored
			s.size = 0
		}
	}
}

// close gives the file up. An empty one goes, unless flights are still open: a free lock then tells the
// next process at once that this one is gone.
func (s *spool) close(open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file == nil {
		return
	}
	if s.open == 0 && !open {
		_ = os.Remove(s.path)
	}
	_ = s.file.Close()
	s.file = nil
}

// replay offers the records that stand in the folder to the database, and names the processes that are gone.
func (s *spool) replay(ctx context.Context, keys *keyring.Keyring, offer func(context.Context, spooled) error) (gone []string) {
	if s.dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"+s.suffix))
	if err != nil {
		return nil
	}
	for _, path := range files {
		replica := strings.TrimSuffix(filepath.Base(path), s.suffix)
		if path != s.path && !strings.Contains(replica, ".") && s.replayFile(ctx, path, keys, offer) {
			gone = append(gone, replica)
		}
	}
	return gone
}

// replayFile tells whether the file's process is gone and all of its records are dealt with. A record
// that another keyring sealed, and those behind it, stay for a process that has it.
func (s *spool) replayFile(ctx context.Context, path string, keys *keyring.Keyring, offer func(context.Context, spooled) error) bool {
	file, err := openLocked(path, 0)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // it was only read
	for {
		record, err := nextRecord(file, keys)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // what was cut off was never acknowledged
		}
		if errors.Is(err, keyring.ErrTampered) {
			continue // a damaged frame says nothing of the next
		}
		if err != nil {
			return false
		}
		if err := offer(ctx, record); err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
	}
	return os.Remove(path) == nil
}

// nextRecord reads one record: its length in four bytes, and that many sealed ones. One that a crash cut short ends
// the file; its token was never served, since serving comes after the record is durable.
func nextRecord(from io.Reader, keys *keyring.Keyring) (record spooled, err error) {
	var length uint32
	if err := binary.Read(from, binary.BigEndian, &length); err != nil {
		return record, err
	}
	if length > maxSpooled {
		return record, errors.New("the spool file is no spool file")
	}
	sealed := make([]byte, length)
	if _, err := io.ReadFull(from, sealed); err != nil {
		return record, err
	}
	text, err := keys.Open(sealed, spoolPlace())
	if err != nil {
		return record, err
	}
	return record, json.Unmarshal(text, &record)
}
