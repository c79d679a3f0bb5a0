package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// reader reads the files that a configuration names, and gathers what is wrong with them.
type reader struct {
	dir    string
	faults []error
}

const maxFile = 1 << 20 // bytes

func (r *reader) read(setting, name string) (string, bool) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(r.dir, name)
	}
	info, err := os.Stat(name)
	if err == nil && info.Size() > maxFile {
		err = errors.New("the file is larger than 1 MiB")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("%s: %w", setting, err))
		return "", false
	}
	return string(text), true
}

// secret reads a secret from a file, without the line break that editors leave at its end.
func (r *reader) secret(setting, name string, into *secret.Text) {
	if name == "" {
		return
	}
	if text, ok := r.read(setting, name); ok {
		*into = secret.Text(strings.TrimRight(text, "\r\n"))
		if *into == "" {
			r.faults = append(r.faults, fmt.Errorf("%s: %s is empty", setting, name))
		}
	}
}

func (r *reader) keyring(name string, gen3 secret.Text) *keyring.Keyring {
	if name == "" && gen3 != "" {
		return r.derived(gen3)
	}
	if name == "" {
		r.faults = append(r.faults, errors.New("keyring_file: is missing: without keys nothing can be kept; `wts init` writes a key file"))
		return nil
	}
	text, ok := r.read("keyring_file", name)
	if !ok {
		return nil
	}
	keys, err := keyring.Parse(text)
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("keyring_file: %s: %w", name, err))
	}
	return keys
}

// derived are the keys of a deployment that has one secret for everything.
func (r *reader) derived(gen3 secret.Text) *keyring.Keyring {
	fernet, err := keyring.NewFernet(string(gen3))
	if err != nil {
		return nil // the database's part of the configuration says so
	}
	text, err := fernet.KeyFile()
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("gen3.encryption_key: %w", err))
		return nil
	}
	keys, err := keyring.Parse(text)
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("gen3.encryption_key: %w", err))
	}
	return keys
}

func (r *reader) workers(name string) map[string]string {
	if name == "" {
		return nil
	}
	text, ok := r.read("workers_file", name)
	if !ok {
		return nil
	}
	workers := map[string]string{}
	if err := yaml.Unmarshal([]byte(text), &workers); err != nil {
		r.faults = append(r.faults, fmt.Errorf("workers_file: %s: want lines like `10.0.0.7: alice`: %w", name, err))
	}
	return workers
}

// relative makes the path of an SQLite file relative to the configuration's folder.
func relative(dir string, url secret.Text) secret.Text {
	path, ok := strings.CutPrefix(string(url), "sqlite:")
	if !ok || path == "" || filepath.IsAbs(path) {
		return url
	}
	return secret.Text("sqlite:" + filepath.Join(dir, path))
}

// plain words what mapstructure found, a line for each fault.
func plain(err error) error {
	var faults []error
	for _, text := range Faults(err) {
		if text = strings.TrimSpace(text); text == "" || strings.HasPrefix(text, "decoding failed due to") {
			continue
		}
		text = strings.TrimPrefix(text, "'config.Config' ")
		faults = append(faults, errors.New(strings.Replace(text, "has invalid keys:", "unknown setting:", 1)))
	}
	return errors.Join(faults...)
}
