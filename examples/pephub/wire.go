package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"regexp"
)

// maxBodyBytes bounds a project.
const maxBodyBytes = 10 << 20

// name is what a namespace, a project or a tag may be called.
var name = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// pep is a project as clients send it. Each of its parts has had several names over the versions of PEPHubClient.
type pep struct {
	Config, Samples, Subsamples json.RawMessage
}

// UnmarshalJSON takes the name that is there.
func (p *pep) UnmarshalJSON(text []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	first := func(names ...string) json.RawMessage {
		for _, name := range names {
			if value := all[name]; value != nil && !bytes.Equal(value, []byte("null")) {
				return value
			}
		}
		return nil
	}
	p.Config, p.Samples = first("config", "_config"), first("samples", "sample_list", "_sample_dict", "_samples")
	p.Subsamples = first("subsamples", "subsample_list", "_subsample_list", "_subsamples")
	return nil
}

// submission is the body of a push, and of a change.
type submission struct {
	Pep         *pep    `json:"pep_dict"`
	Name        *string `json:"name"`
	Description *string `json:"description"`
	Tag         *string `json:"tag"`
	Private     *bool   `json:"is_private"`
	Overwrite   bool    `json:"overwrite"`
	Schema      *string `json:"pep_schema"`
}

// read reads a body, which is JSON whatever its header says: not every client says so.
func read(w http.ResponseWriter, r *http.Request) (submission, error) {
	var sent submission
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return sent, &refusal{http.StatusRequestEntityTooLarge, "The project is larger than 10 MiB."}
	case err != nil || json.Unmarshal(text, &sent) != nil:
		return sent, &refusal{http.StatusUnprocessableEntity, "The body is not the JSON of a project; want pep_dict with config and samples."}
	}
	return sent, nil
}

// apply puts what was sent into a project.
func (s submission) apply(p *project) error {
	if s.Pep != nil {
		if err := s.Pep.apply(p); err != nil {
			return err
		}
	}
	if s.Private != nil {
		p.Private = *s.Private
	}
	if s.Schema != nil {
		p.Schema = *s.Schema
	}
	config := maps.Clone(p.Config)
	if config == nil {
		config = map[string]any{}
	}
	for field, into := range map[string]struct {
		sent *string
		kept *string
	}{"name": {s.Name, &p.Name}, "description": {s.Description, &p.Description}} {
		text, _ := config[field].(string)
		switch {
		case into.sent != nil && *into.sent != "":
			*into.kept = *into.sent
		case s.Pep != nil && text != "":
			*into.kept = text
		}
	}
	if s.Tag != nil && *s.Tag != "" {
		p.Tag = *s.Tag
	}
	for what, text := range map[string]string{"namespace": p.Namespace, "name": p.Name, "tag": p.Tag} {
		if !name.MatchString(text) {
			return &refusal{http.StatusUnprocessableEntity, "The " + what + " is missing, or holds more than letters, digits and . _ -"}
		}
	}
	at := keyOf(p.Namespace, p.Name, p.Tag)
	p.Namespace, p.Name, p.Tag = at.namespace, at.name, at.tag
	config["name"], config["description"] = p.Name, p.Description
	p.Config = config
	return nil
}

// apply takes the parts that were sent. They are read into values of their own: what a project holds may be shared.
func (p *pep) apply(into *project) error {
	var fresh project
	for _, part := range []struct {
		sent json.RawMessage
		read any
		take func()
	}{
		{sent: p.Config, read: &fresh.Config, take: func() { into.Config = fresh.Config }},
		{sent: p.Samples, read: &fresh.Samples, take: func() { into.Samples = fresh.Samples }},
		{sent: p.Subsamples, read: &fresh.Subsamples, take: func() { into.Subsamples = fresh.Subsamples }},
	} {
		if part.sent == nil {
			continue
		}
		if json.Unmarshal(part.sent, part.read) != nil {
			return &refusal{http.StatusUnprocessableEntity, "pep_dict: want config as an object, samples and subsamples as lists of rows."}
		}
		part.take()
	}
	return nil
}

// raw is a project as clients read it, with its parts under the names of all their versions.
func (p *project) raw() map[string]any {
	samples := p.Samples
	if samples == nil {
		samples = []map[string]any{}
	}
	return map[string]any{
		"config": p.Config, "_config": p.Config, "samples": samples, "_sample_dict": samples,
		"subsamples": p.Subsamples, "_subsample_list": p.Subsamples,
	}
}

// annotation is a project without its samples.
func (p *project) annotation() map[string]any {
	text, err := json.Marshal([]any{p.Config, p.Samples, p.Subsamples})
	if err != nil {
		text = nil // what was read from JSON always marshals
	}
	digest := sha256.Sum256(text)
	return map[string]any{
		"namespace": p.Namespace, "name": p.Name, "tag": p.Tag, "is_private": p.Private, "description": p.Description,
		"number_of_samples": len(p.Samples), "submission_date": p.Submitted, "last_update_date": p.Updated,
		"digest": hex.EncodeToString(digest[:16]), "pep_schema": p.Schema, "pop": false, "stars_number": 0, "forked_from": nil,
	}
}
