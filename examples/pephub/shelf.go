package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// maxProjects bounds what is kept in memory.
const maxProjects = 10_000

var (
	errExists = errors.New("it exists already")
	errFull   = errors.New("the hub is full")
)

// key is where a project stands. Its names are in the form in which they are compared.
type key struct{ namespace, name, tag string }

func keyOf(space, name, tag string) key {
	return key{namespace.Key(space), namespace.Key(name), cmp.Or(tag, "default")}
}

// String is PEPhub's registry path.
func (k key) String() string { return k.namespace + "/" + k.name + ":" + k.tag }

// project is a table of samples with what belongs to it.
type project struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Tag         string            `json:"tag"`
	Private     bool              `json:"is_private"`
	Description string            `json:"description"`
	Schema      string            `json:"pep_schema"`
	Config      map[string]any    `json:"config"`
	Samples     []map[string]any  `json:"samples"`
	Subsamples  []json.RawMessage `json:"subsamples"`
	Submitted   time.Time         `json:"submission_date"`
	Updated     time.Time         `json:"last_update_date"`
}

func (p *project) key() key { return key{p.Namespace, p.Name, p.Tag} }

// visibility is the table's word; a project that is not there is missing.
func (p *project) visibility() namespace.Visibility {
	switch {
	case p == nil:
		return namespace.Missing
	case p.Private:
		return namespace.Private
	}
	return namespace.Public
}

// shelf keeps projects. A project that it handed out is not changed any more: a change puts another one in its place.
type shelf struct {
	file     string // empty: in memory alone
	mu       sync.RWMutex
	projects map[key]*project
}

// openShelf reads the file, where one is named and exists.
func openShelf(file string) (*shelf, error) {
	s := &shelf{file: file, projects: map[key]*project{}}
	if file == "" {
		return s, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--projects: %w", err)
	}
	var all []*project
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("--projects: %s is not a list of projects: %w", file, err)
	}
	for _, one := range all {
		if one == nil {
			return nil, fmt.Errorf("--projects: %s holds a null in the place of a project; take it out", file)
		}
		at := keyOf(one.Namespace, one.Name, one.Tag)
		one.Namespace, one.Name, one.Tag = at.namespace, at.name, at.tag
		s.projects[at] = one
	}
	return s, nil
}

// get returns a project, or nil.
func (s *shelf) get(at key) *project {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.projects[at]
}

// list returns the projects that a filter takes, in the order of their names.
func (s *shelf) list(takes func(*project) bool) []*project {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*project
	for _, one := range s.projects {
		if takes(one) {
			found = append(found, one)
		}
	}
	slices.SortFunc(found, func(a, b *project) int { return cmp.Compare(a.key().String(), b.key().String()) })
	return found
}

// change puts what decide returns in the place of what is there: nil takes it away, another key moves it. decide runs
// while nothing else changes, so that it judges what it changes. What cannot be written to the file has not happened.
func (s *shelf) change(at key, decide func(present *project) (*project, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	present := s.projects[at]
	next, err := decide(present)
	if err != nil {
		return err
	}
	if next != nil && next.key() != at && s.projects[next.key()] != nil {
		return errExists
	}
	if next != nil && present == nil && len(s.projects) >= maxProjects {
		return errFull
	}
	delete(s.projects, at)
	if next != nil {
		s.projects[next.key()] = next
	}
	if err := s.write(); err != nil {
		if next != nil {
			delete(s.projects, next.key())
		}
		if present != nil {
			s.projects[at] = present
		}
		return err
	}
	return nil
}

// write writes the file beside the old one and moves it there, so that it is never half of one.
func (s *shelf) write() error {
	if s.file == "" {
		return nil
	}
	all := make([]*project, 0, len(s.projects))
	for _, one := range s.projects {
		all = append(all, one)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("writing projects: %w", err)
	}
	next, err := os.CreateTemp(filepath.Dir(s.file), filepath.Base(s.file)+".*")
	if err != nil {
		return fmt.Errorf("writing projects: %w", err)
	}
	defer os.Remove(next.Name()) //nolint:errcheck // it is gone where it was moved
	_, err = next.Write(text)
	if err := errors.Join(err, next.Close()); err != nil {
		return fmt.Errorf("writing projects: %w", err)
	}
	return os.Rename(next.Name(), s.file)
}
