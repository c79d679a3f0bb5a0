package login

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/zalando/go-keyring"
)

// ring keeps secrets by a service's URL.
type ring interface {
	get(address string) (Secrets, error)
	set(address string, secrets Secrets) error
	delete(address string)
}

// systemRing is the keyring of the system: the Secret Service on Linux, the Keychain on macOS.
type systemRing struct{}

// ringPatience is how long the system may take, which may ask its person for a password.
const ringPatience = time.Minute

var errRing = errors.New("the system's keyring does not answer")

// patiently gives up waiting for a keyring whose prompt no person sees.
func patiently[T any](ask func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := ask()
		done <- outcome{value, err}
	}()
	select {
	case got := <-done:
		return got.value, got.err
	case <-time.After(ringPatience):
		var none T
		return none, errRing
	}
}

// get implements ring. The error is ErrNone where the keyring has none, as after its person deleted it there.
func (systemRing) get(address string) (secrets Secrets, err error) {
	text, err := patiently(func() (string, error) { return keyring.Get("wts", address) })
	if errors.Is(err, keyring.ErrNotFound) {
		return secrets, ErrNone
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &secrets)
	}
	if err != nil {
		return secrets, fmt.Errorf("the system's keyring: %w", err)
	}
	return secrets, nil
}

// set implements ring.
func (systemRing) set(address string, secrets Secrets) error {
	text, err := json.Marshal(secrets) //nolint:gosec // it goes into the keyring
	if err != nil {
		return fmt.Errorf("the system's keyring: %w", err)
	}
	_, err = patiently(func() (struct{}, error) { return struct{}{}, keyring.Set("wts", address, string(text)) })
	return err
}

// delete implements ring.
func (systemRing) delete(address string) {
	_, _ = patiently(func() (struct{}, error) { return struct{}{}, keyring.Delete("wts", address) }) // one that is ended opens nothing
}
