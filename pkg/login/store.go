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
	"syscall"
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

// lockPatience is how long one waits for another one, which refreshes: twice as long as that takes at most.
const lockPatience = 2 * patience

// locked runs while no other process changes what is kept.
func (s *Store) locked(ctx context.Context, run func() error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("no place to keep a login: %w", err)
	}
	lock := flock.New(filepath.Join(s.dir, "login.lock"), flock.SetPermissions(0o600))
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	got, err := lock.TryLockContext(waiting, 20*time.Millisecond)
	if err != nil || !got {
		return fmt.Errorf("another wts of yours has the login, and does not end: %w", err)
	}
	defer lock.Unlock() //nolint:errcheck // it ends with the process at the latest
	return run()
}

// read reads the file; there may be none.
func (s *Store) read() (kept, error) {
	found := kept{Logins: map[string]keptLogin{}}
	text, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) { // also another user's home
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

// maxGrowth is by how much the file grows at most when a login changes, in bytes.
const maxGrowth = 16 << 10

// place is where the file that is to be written has its room already.
func (s *Store) place(present kept) (*reserved, error) {
	text, err := json.MarshalIndent(present, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("the login cannot be kept: %w", err)
	}
	next, err := reserve(s.file(), len(text)+maxGrowth)
	if err != nil {
		return nil, fmt.Errorf("the login cannot be kept: %w", err)
	}
	return next, nil
}

// write replaces the file as a whole.
func write(next *reserved, changed kept) error {
	text, err := json.MarshalIndent(changed, "", "  ")
	if err == nil {
		err = next.put(string(text) + "\n")
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
		next, err := s.place(found)
		if err != nil {
			return err
		}
		found.Current = login.URL
		inKeyring = s.ring.set(login.URL, login.Secrets) == nil
		line := keptLogin{Login: login}
		if !inKeyring {
			line.Secrets = &login.Secrets
		}
		found.Logins[login.URL] = line
		return write(next, found)
	})
	return inKeyring, err
}

// renew keeps the secrets of a login that was refreshed where they were; in the file too where the keyring does not take
// them, so that they are not lost.
func (s *Store) renew(next *reserved, found kept, login Login) error {
	line := found.Logins[login.URL]
	if line.Secrets == nil && s.ring.set(login.URL, login.Secrets) == nil {
		next.drop()
		return nil
	}
	line.Secrets = &login.Secrets
	found.Logins[login.URL] = line
	return write(next, found)
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
	next, err := s.place(found)
	if err != nil {
		return err
	}
	delete(found.Logins, address)
	if found.Current == address {
		found.Current = ""
		for _, other := range slices.Sorted(maps.Keys(found.Logins)) {
			found.Current = other
		}
	}
	return write(next, found)
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
		token, err = s.refresh(ctx, login)
		return err
	})
	return token, err
}

// refresh trades the refresh token of a login. There is room for what comes of it before it is spent: what could not be
// kept would end the login at its next use.
func (s *Store) refresh(ctx context.Context, login Login) (token string, err error) {
	service, err := Discover(ctx, login.URL)
	if err != nil {
		return "", err
	}
	found, err := s.read()
	if err != nil {
		return "", err
	}
	next, err := s.place(found)
	if err != nil {
		return "", err
	}
	if login.Secrets, err = service.refresh(ctx, login); err != nil {
		next.drop()
		if errors.Is(err, ErrEnded) {
			err = errors.Join(err, s.forget(login.URL))
		}
		return "", err
	}
	return login.Secrets.AccessToken, s.renew(next, found, login)
}
