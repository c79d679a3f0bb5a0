package login

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Replace puts a new file in the place of the old one: a reader sees the one or the other, and no other user may read
// either.
func Replace(path, text string) error {
	next, err := reserve(path, len(text))
	if err != nil {
		return err
	}
	return next.put(text)
}

// reserved is a file that can take the place of another one, with room on the disk for what it is to hold. What can be
// had once alone is asked for when there is a place for it.
type reserved struct {
	*os.File
	path string
}

// reserve makes room for a text of some size, in bytes.
func reserve(path string, size int) (*reserved, error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return nil, fmt.Errorf("writing: %w", err)
	}
	next := &reserved{file, path}
	if _, err = file.WriteAt(make([]byte, size), 0); err == nil {
		err = file.Sync()
	}
	if err != nil {
		next.drop()
		return nil, fmt.Errorf("writing: %w", err)
	}
	return next, nil
}

// put fills the file, and puts it in the other one's place.
func (r *reserved) put(text string) error {
	_, err := r.WriteAt([]byte(text), 0)
	err = errors.Join(err, r.Truncate(int64(len(text))), r.Sync(), r.Close())
	if err == nil {
		err = os.Rename(r.Name(), r.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing: %w", err), os.Remove(r.Name()))
	}
	return nil
}

// drop gives the room back.
func (r *reserved) drop() {
	_ = r.Close() // nothing of it is kept
	_ = os.Remove(r.Name())
}
