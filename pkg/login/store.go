package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
)

// A login is known by a file of the person's, of mode 0600: which services there are, and as whom. Its secrets are in the
// system's keyring where there is one, else in that file. Programs that run at the same time take turns, since a refresh
// token that is used twice ends its login.

// Store is where logins are kept on this machine. It is safe for use by several processes at once.
type Store struct {
	dir  string
	ring ring
}

// NewStore is the person's own: wts below the folder of their configuration ($XDG_CONFIG_HOME, else ~/.config, on Linux).
// It fails where there is no such folder, as in a container without a home.
func NewStore() (*Store, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("no place to keep a login: %w", err)
	}
	return &Store{filepath.Join(dir, "wts"), systemRing{}}, nil
}

// kept is the file.
type kept struct {
	// Current is the service that is meant where none is named: that of the last login.
	Current string               `json:"current"`
	Logins  map[string]keptLogin `json:"logins"` // by the service's URL
}

// keptLogin is a login in the file.
type keptLogin struct {
	Login
	// Secrets are nil where the keyring has them.
	Secrets *Secrets `json:"secrets,omitempty"`
}

// file is where logins are kept; the lock is a file beside it, which stays when that one is replaced.
func (s *Store) file() string { return filepath.Join(s.dir, "login.json") }

// locked runs while no other process changes what is kept.
func (s *Store) locked(ctx context.Context, run func() error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("no place to keep a login: %w", err)
	}
	lock := flock.New(filepath.Join(s.dir, "login.lock"), flock.SetPermissions(0o600))
	got, err := lock.TryLockContext(ctx, 20*time.Millisecond)
	if err != nil || !got {
		return fmt.Errorf("waiting for another wts of yours: %w", err)
	}
	defer lock.Unlock() //nolint:errcheck // it ends with the process at the latest
	return run()
}

// read reads the file; there may be none.
func (s *Store) read() (kept, error) {
	found := kept{Logins: map[string]keptLogin{}}
	text, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		return found, fmt.Errorf("what is kept of your logins cannot be read; delete it and log in again: %w", err)
	}
	return found, nil
}

// write replaces the file as a whole.
func (s *Store) write(changed kept) error {
	text, err := json.MarshalIndent(changed, "", "  ")
	if err == nil {
		err = Replace(s.file(), string(text)+"\n")
	}
	if err != nil {
		return fmt.Errorf("the login cannot be kept: %w", err)
	}
	return nil
}

// Current is the service of the last login. The error is ErrNone where there is none.
func (s *Store) Current() (string, error) {
	found, err := s.read()
	if err == nil && found.Current == "" {
		err = ErrNone
	}
	return found.Current, err
}

// Services are those for which a login is kept.
func (s *Store) Services() ([]string, error) {
	found, err := s.read()
	return slices.Sorted(maps.Keys(found.Logins)), err
}

// Find is the login that is kept for a service. The error is ErrNone where there is none.
func (s *Store) Find(address string) (Login, error) {
	found, err := s.read()
	if err != nil {
		return Login{}, err
	}
	one, is := found.Logins[address]
	if !is {
		return Login{}, ErrNone
	}
	one.URL = address
	if one.Secrets != nil {
		one.Login.Secrets = *one.Secrets
		return one.Login, nil
	}
	one.Login.Secrets, err = s.ring.get(address)
	return one.Login, err
}

// InKeyring tells whether the system's keyring has the login of a service.
func (s *Store) InKeyring(address string) bool {
	found, _ := s.read()
	one, is := found.Logins[address]
	return is && one.Secrets == nil
}

// Keep keeps a login in the place of what was kept for its service, which is the current one then. It tells whether the
// system's keyring has it.
func (s *Store) Keep(ctx context.Context, login Login) (inKeyring bool, err error) {
	err = s.locked(ctx, func() error {
		found, err := s.read()
		if err != nil {
			return err
		}
		found.Current = login.URL
		inKeyring, err = s.put(found, login, true)
		return err
	})
	return inKeyring, err
}

// put keeps a login's secrets, in the keyring where that is wanted and it takes them.
func (s *Store) put(found kept, login Login, ring bool) (inKeyring bool, err error) {
	inKeyring = ring && s.ring.set(login.URL, login.Secrets) == nil
	line := keptLogin{Login: login}
	if !inKeyring {
		line.Secrets = &login.Secrets
	}
	found.Logins[login.URL] = line
	return inKeyring, s.write(found)
}

// Forget deletes what is kept for a service, here alone: the login goes on at the service until it is ended there.
func (s *Store) Forget(ctx context.Context, address string) error {
	return s.locked(ctx, func() error { return s.forget(address) })
}

// forget is Forget for one who has the lock. Another service is the current one then, if there is any.
func (s *Store) forget(address string) error {
	found, err := s.read()
	if err != nil {
		return err
	}
	if one, is := found.Logins[address]; is && one.Secrets == nil {
		s.ring.delete(address)
	}
	delete(found.Logins, address)
	if found.Current == address {
		found.Current = ""
		for _, other := range slices.Sorted(maps.Keys(found.Logins)) {
			found.Current = other
		}
	}
	return s.write(found)
}

// fresh is how much of an access token's life has to be left.
const fresh = 30 * time.Second

// Token is an access token for wts itself, of the login that is kept for a service: the one at hand, or a new one. The
// errors are ErrNone, ErrEnded, after which nothing is kept any more, *api.Error, and those of the network.
func (s *Store) Token(ctx context.Context, address string) (token string, err error) {
	err = s.locked(ctx, func() error {
		login, err := s.Find(address)
		if err != nil {
			return err
		}
		if time.Until(login.Secrets.ExpiresAt) > fresh {
			token = login.Secrets.AccessToken
			return nil
		}
		service, err := Discover(ctx, address)
		if err != nil {
			return err
		}
		login.Secrets, err = service.refresh(ctx, login)
		if errors.Is(err, ErrEnded) {
			return errors.Join(err, s.forget(address))
		}
		if err != nil {
			return err
		}
		found, err := s.read()
		if err != nil {
			return err
		}
		token = login.Secrets.AccessToken
		_, err = s.put(found, login, found.Logins[address].Secrets == nil)
		return err
	})
	return token, err
}
