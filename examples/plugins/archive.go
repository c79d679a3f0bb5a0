package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

const (
	maxArchive  = 25 << 20 // bytes of a zip
	maxMetadata = 64 << 10
	maxEntries  = 10_000
)

var (
	isPackage = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`).MatchString
	isVersion = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`).MatchString
)

// faults are what is wrong with an upload, by field: all of it, so that one run of CI shows all.
type faults map[string][]string

func (f faults) add(field, format string, values ...any) {
	f[field] = append(f[field], fmt.Sprintf(format, values...))
}

// metadata is what a plugin says of itself in metadata.txt.
type metadata map[string]string

// readArchive reads a plugin's zip: everything is in one folder, which is called as the package, and metadata.txt
// there has at least a name and a version.
func readArchive(name string, archive []byte) (metadata, faults) {
	found := faults{}
	opened, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil || len(opened.File) == 0 || len(opened.File) > maxEntries {
		found.add("package", "it is no zip; send the plugin's folder, zipped")
		return nil, found
	}
	var said metadata
	for _, file := range opened.File {
		entry := file.Name
		first, _, _ := strings.Cut(entry, "/")
		switch {
		case strings.Contains(entry, `\`) || path.IsAbs(entry) || path.Clean(entry) != strings.TrimSuffix(entry, "/"):
			found.add("package", "%.80q: an entry's name leads out of the folder, or is not in its plain form", entry)
			return nil, found
		case first != name:
			found.add("package", "%.80q: want one folder in the zip, with the name of the package, %s", entry, name)
			return nil, found
		case entry == name+"/metadata.txt":
			if said, err = readMetadata(file); err != nil {
				found.add("metadata.txt", "%s", err)
				return nil, found
			}
		}
	}
	if said == nil {
		found.add("metadata.txt", "%s/metadata.txt is missing", name)
		return nil, found
	}
	if said["name"] == "" {
		found.add("name", "metadata.txt has no name=")
	}
	if !isVersion(said["version"]) {
		found.add("version", "metadata.txt has no version= of letters, digits, dot, plus, underscore and hyphen")
	}
	return said, found
}

// errMetadata: metadata.txt is larger than one is, or cannot be unpacked.
var errMetadata = errors.New("it cannot be unpacked, or is larger than 64 KiB")

// readMetadata reads lines of name=value; a line that is indented goes on with the value before it.
func readMetadata(file *zip.File) (metadata, error) {
	opened, err := file.Open()
	if err != nil {
		return nil, errMetadata
	}
	defer opened.Close()
	text, err := io.ReadAll(io.LimitReader(opened, maxMetadata+1))
	if err != nil || len(text) > maxMetadata {
		return nil, errMetadata
	}
	said, last := metadata{}, ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxMetadata+1)
	for lines.Scan() {
		line := lines.Text()
		key, value, isPair := strings.Cut(line, "=")
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "["):
		case last != "" && (line[0] == ' ' || line[0] == '\t'):
			said[last] += "\n" + strings.TrimSpace(line)
		case isPair:
			last = strings.TrimSpace(key)
			said[last] = strings.TrimSpace(value)
		}
	}
	return said, lines.Err()
}
