package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// uploaded is the answer to an upload.
type uploaded struct {
	Success  bool   `json:"success"`
	Message  string `json:"message"`
	Version  string `json:"version"`
	PluginID string `json:"plugin_id"`
	ID       int    `json:"version_id"`
	Status   string `json:"validation_status"`
	Approved bool   `json:"approved"`
	ScanURL  string `json:"scan_url"`
	Approval string `json:"approval_message"`
	By       string `json:"uploaded_by"`
}

// upload adds a version, or with one in its path replaces that. It asks who uploads before it reads what: without a good
// token not a byte of a body is kept. What a client goes on to send is read to its end, though: one whose connection is
// closed meanwhile would report that, and not the answer.
func (s *site) upload(w http.ResponseWriter, r *http.Request) {
	name, replaces := r.PathValue("package"), r.PathValue("version")
	r.Body = http.MaxBytesReader(w, r.Body, maxArchive+1<<20)
	defer func() { _, _ = io.Copy(io.Discard, r.Body) }()
	if _, err := s.shelf.versions(name); err != nil {
		s.refuse(w, err)
		return
	}
	by, err := s.mayUpload(r, name)
	if err != nil {
		s.refuse(w, err)
		return
	}
	archive, err := readPackage(r)
	if err != nil {
		answer(w, http.StatusBadRequest, failure{Error: "The upload is not valid", Errors: faults{"package": {err.Error()}}})
		return
	}
	said, found := readArchive(name, archive)
	if len(found) > 0 {
		answer(w, http.StatusBadRequest, failure{Error: "The plugin is not valid", Errors: found})
		return
	}
	fresh := version{Version: said["version"], Name: said["name"], About: said["description"], UploadedAt: time.Now().UTC().Truncate(time.Second), UploadedBy: by}
	fresh, err = s.shelf.put(name, replaces, fresh, archive)
	switch {
	case errors.Is(err, errTwice):
		answer(w, http.StatusBadRequest, failure{Error: "The plugin is not valid", Errors: faults{"version": {fmt.Sprintf("the version %s is there already; raise version= in metadata.txt", said["version"])}}})
		return
	case err != nil:
		s.refuse(w, err)
		return
	}
	s.log.Info("a version was uploaded", "plugin", name, "version", fresh.Version, "by", by)
	answer(w, http.StatusCreated, uploaded{
		Success: true, Message: "The version was uploaded", Version: fresh.Version, PluginID: name, ID: fresh.ID, Status: fresh.Status,
		ScanURL: "/plugins/" + name + "/version/" + fresh.Version + "/json", Approval: "It is published once the staff has approved it", By: by,
	})
}

// errNoPackage: the form holds no file where one is wanted.
var errNoPackage = errors.New("it is missing; send multipart/form-data with the zip in the field package")

// readPackage reads the field package of a form (RFC 7578).
func readPackage(r *http.Request) ([]byte, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, errNoPackage
	}
	for {
		part, err := parts.NextPart()
		if err != nil {
			return nil, errNoPackage
		}
		if part.FormName() != "package" || part.FileName() == "" {
			continue
		}
		archive, err := io.ReadAll(io.LimitReader(part, maxArchive+1))
		switch {
		case err != nil:
			return nil, errors.New("it is cut off; send it again")
		case len(archive) > maxArchive:
			return nil, fmt.Errorf("it is larger than %d MiB; leave out what the plugin does not need", maxArchive>>20)
		}
		return archive, nil
	}
}

// approve marks a version as approved, by a person of the staff.
func (s *site) approve(w http.ResponseWriter, r *http.Request) {
	if err := s.mayApprove(r); err != nil {
		s.refuse(w, err)
		return
	}
	approved, err := s.shelf.approve(r.PathValue("package"), r.PathValue("version"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	answer(w, http.StatusOK, approved)
}
