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
	"time"

	"github.com/gofrs/flock"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// spooler keeps successors that the database did not take.
type spooler interface {
	add(keys *keyring.Keyring, record spooled) error
	done()
	// replay offers the records of processes that are gone, and returns the replicas that they were.
	replay(ctx context.Context, keys *keyring.Keyring, commit func(Flight, spooled) error) (gone []string)
	close()
}

// spool keeps successors that the database did not take, sealed, in a file of this process' own under a
// lock. Whoever gets a free lock on a file, this process or one after it, offers its records again.
type spool struct {
	dir  string // empty where there is none
	path string
	lock *flock.Flock

	mu     sync.Mutex
	file   *os.File
	size   int64 // of what was written whole
	open   int   // records that are not stored yet
	closed bool
}

const (
	spoolSuffix  = ".spool"
	maxSpooled   = 1 << 20 // bytes of one record
	spoolPlaceOf = "spool"
)

func spoolPlace() keyring.Place { return keyring.Place{Table: spoolPlaceOf, Column: "record"} }

// newSpool opens this process' file. Without a folder that can be written there is no spool: what the
// database does not take is kept in memory alone.
func newSpool(dir, replica string) (*spool, error) {
	if dir == "" {
		return &spool{}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &spool{}, fmt.Errorf("spool_dir: %w", err)
	}
	path := filepath.Join(dir, replica+spoolSuffix)
	for range 10 {
		s := &spool{dir: dir, path: path, lock: flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))}
		locked, err := s.lock.TryLock()
		if err == nil && locked {
			s.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return &spool{}, fmt.Errorf("spool_dir: %w", err)
		}
		if s.file != nil {
			return s, nil
		}
		// Between the making of the file and the lock on it another process took it for one left behind, and
		// it is gone from the folder.
		_ = s.lock.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	return &spool{}, errors.New("spool_dir: the file is taken away by another process")
}

// spooled is a record, as it stands in the file.
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
}

func recordOf(flight Flight, tokens provider.Tokens) spooled {
	return spooled{
		Flight: flight.ID, UserID: flight.UserID, Provider: flight.Provider, Version: flight.Version, Digest: flight.Digest, Parent: string(flight.RefreshToken),
		Refresh: string(tokens.RefreshToken), Access: string(tokens.AccessToken), Issued: tokens.IssuedAt, Expires: tokens.AccessExpiresAt, Ends: tokens.RefreshExpiresAt,
	}
}

func (r spooled) flight() Flight {
	return Flight{ID: r.Flight, Digest: r.Digest, Connection: Connection{UserID: r.UserID, Provider: r.Provider, Version: r.Version, RefreshToken: secret.Text(r.Parent)}}
}

func (r spooled) tokens() provider.Tokens {
	return provider.Tokens{RefreshToken: secret.Text(r.Refresh), AccessToken: secret.Text(r.Access), IssuedAt: r.Issued, AccessExpiresAt: r.Expires, RefreshExpiresAt: r.Ends}
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

// close gives the file up: empty, it goes; else it is for the next process.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file == nil {
		return
	}
	_ = s.file.Close()
	s.file = nil
	if s.open == 0 {
		_ = os.Remove(s.path)
	}
	_ = s.lock.Unlock()
}

func (s *spool) replay(ctx context.Context, keys *keyring.Keyring, commit func(Flight, spooled) error) (gone []string) {
	if s.dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"+spoolSuffix))
	if err != nil {
		return nil
	}
	for _, path := range files {
		if path != s.path && ctx.Err() == nil && replayFile(path, keys, commit) {
			gone = append(gone, strings.TrimSuffix(filepath.Base(path), spoolSuffix))
		}
	}
	return gone
}

// replayFile deletes the file once every record that can be opened was stored. A record that is cut off
// was never acknowledged; one that another keyring sealed is left to it, and the file with it. It tells
// whether all is done: then the process is gone for good, and nothing more will come of it.
func replayFile(path string, keys *keyring.Keyring, commit func(Flight, spooled) error) (done bool) {
	lock := flock.New(path)
	if locked, err := lock.TryLock(); err != nil || !locked {
		return false
	}
	defer func() { _ = lock.Unlock() }()
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // it was only read
	for {
		record, err := nextRecord(file, keys)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if errors.Is(err, keyring.ErrTampered) {
			continue // a frame that is damaged says nothing of the next
		}
		if err != nil {
			return false
		}
		if err := commit(record.flight(), record); err != nil && !errors.Is(err, ErrSuperseded) {
			return false
		}
	}
	return os.Remove(path) == nil
}

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

// keepOffering offers a successor to the database until it takes it, or another has taken its place.
func (b *Broker) keepOffering(flight Flight, tokens provider.Tokens) {
	if err := b.spool.add(b.keys, recordOf(flight, tokens)); err != nil {
		b.observer.SpoolFailed(err)
	}
	b.background(func(ctx context.Context) {
		for wait := 100 * time.Millisecond; ; wait = min(wait*2, 2*time.Second) {
			select {
			case <-ctx.Done():
				return // the spool has it
			case <-time.After(wait):
			}
			err := b.commitWithin(ctx, flight, tokens)
			if err == nil || errors.Is(err, ErrSuperseded) {
				b.spool.done()
				b.aloft.remove(flight.ID)
				if err != nil {
					b.Forget(flight.UserID, flight.Provider)
				}
				return
			}
		}
	})
}
