package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Why an upload does not come to be.
var (
	errNoPlugin  = errors.New("there is no such plugin")
	errNoVersion = errors.New("the plugin has no such version")
	errTwice     = errors.New("the plugin has this version already")
	errApproved  = errors.New("You cannot edit an approved version, please create a new version instead.") //nolint:staticcheck // the words of the interface
)

// version is one version of a plugin, as it is kept and as it is shown.
type version struct {
	ID         int       `json:"version_id"`
	Version    string    `json:"version"`
	Name       string    `json:"name"`
	About      string    `json:"description,omitempty"`
	UploadedAt time.Time `json:"uploaded_at"`
	// UploadedBy says by what, as "token of the releases": a token outlives its maker, so that no user is named.
	UploadedBy string `json:"uploaded_by"`
	Approved   bool   `json:"approved"`
	// Status is what the checks came to. The public does not see it.
	Status string `json:"validation_status,omitempty"`
}

// passed is the status of what an upload's checks found nothing in; what has faults is refused, and is no version.
const passed = "validated"

// shelf holds the plugins: in memory, and where there is a folder in that too. Its methods hand out copies.
type shelf struct {
	dir     string
	mu      sync.Mutex
	last    int                  // version id
	plugins map[string][]version // by package, the oldest first
}

// openShelf reads what the folder has; an empty one is no folder.
func openShelf(dir string) (*shelf, error) {
	s := &shelf{dir: dir, plugins: map[string][]version{}}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	text, err := os.ReadFile(s.index())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s.plugins)
	}
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	for _, versions := range s.plugins {
		for _, one := range versions {
			s.last = max(s.last, one.ID)
		}
	}
	return s, nil
}

func (s *shelf) index() string { return filepath.Join(s.dir, "plugins.json") }

// add makes a plugin without a version, where there is none of the name.
func (s *shelf) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.plugins[name]; !known {
		s.plugins[name] = []version{}
	}
}

// names are all packages, in order.
func (s *shelf) names() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.plugins {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// versions are those of a plugin, the oldest first.
func (s *shelf) versions(name string) ([]version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, known := s.plugins[name]
	if !known {
		return nil, errNoPlugin
	}
	return slices.Clone(found), nil
}

// find is one version of a plugin; an empty number is the one that was uploaded last.
func (s *shelf) find(name, number string) (version, error) {
	all, err := s.versions(name)
	if err != nil {
		return version{}, err
	}
	for _, one := range slices.Backward(all) {
		if number == "" || one.Version == number {
			return one, nil
		}
	}
	return version{}, errNoVersion
}

// put adds an upload; with a number it takes the place of that version, which must not be approved.
func (s *shelf) put(name, replaces string, fresh version, archive []byte) (version, error) {
	fresh.Status = passed
	return s.change(name, archive, func(all []version) ([]version, version, error) {
		place := indexOf(all, replaces)
		if replaces != "" && place < 0 {
			return nil, fresh, errNoVersion
		}
		if place >= 0 && all[place].Approved {
			return nil, fresh, errApproved
		}
		if same := indexOf(all, fresh.Version); same >= 0 && same != place {
			return nil, fresh, errTwice
		}
		if place >= 0 {
			fresh.ID = all[place].ID
			all[place] = fresh
			return all, fresh, nil
		}
		fresh.ID = s.last + 1
		return append(all, fresh), fresh, nil
	})
}

// approve marks a version as one that was looked at: what it holds stays from then on.
func (s *shelf) approve(name, number string) (version, error) {
	return s.change(name, nil, func(all []version) ([]version, version, error) {
		place := indexOf(all, number)
		if place < 0 {
			return nil, version{}, errNoVersion
		}
		all[place].Approved = true
		return all, all[place], nil
	})
}

func indexOf(all []version, number string) int {
	return slices.IndexFunc(all, func(one version) bool { return one.Version == number })
}

// change changes a copy of a plugin's versions, and keeps it once it is in the folder.
func (s *shelf) change(name string, archive []byte, edit func([]version) ([]version, version, error)) (version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.plugins[name]
	if !known {
		return version{}, errNoPlugin
	}
	after, changed, err := edit(slices.Clone(before))
	if err != nil {
		return version{}, err
	}
	s.plugins[name] = after
	if err := s.save(name, changed, archive); err != nil {
		s.plugins[name] = before
		return version{}, err
	}
	s.last = max(s.last, changed.ID)
	return changed, nil
}

// save writes an archive and the index into the folder, each whole or not at all.
func (s *shelf) save(name string, changed version, archive []byte) error {
	if s.dir == "" {
		return nil
	}
	index, err := json.MarshalIndent(s.plugins, "", " ")
	if err != nil {
		return err
	}
	files := map[string][]byte{s.index(): index}
	if archive != nil {
		files[filepath.Join(s.dir, fmt.Sprintf("%s.%d.zip", name, changed.ID))] = archive
	}
	for file, text := range files {
		if err := os.WriteFile(file+".new", text, 0o600); err != nil {
			return fmt.Errorf("--dir: %w", err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return fmt.Errorf("--dir: %w", err)
		}
	}
	return nil
}
