package keyring

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

const digestName = "digest"

// fileHead explains the file to whoever opens it.
const fileHead = `# The keys that seal the secrets in wts's database. Keep this file as safe as a password, keep a
# copy of it away from the database, and never lose it: without it every user has to log in again.
#
# One key a line: a name, then 32 bytes in base64. The first key seals; every key opens. To change
# the key, put a new line above the others and keep the old ones. "digest" must never change.
`

// Generate writes the text of a new key file, with one sealing key that is named for the day.
func Generate(now time.Time) string {
	fresh := func() string {
		raw := make([]byte, keyBytes)
		rand.Read(raw)
		return base64.StdEncoding.EncodeToString(raw)
	}
	suffix := make([]byte, 2)
	rand.Read(suffix)
	name := now.UTC().Format("2006-01-02") + "-" + hex.EncodeToString(suffix)
	return fmt.Sprintf("%s%s %s\n%s %s\n", fileHead, name, fresh(), digestName, fresh())
}

// Parse reads the text of a key file. An error names the line and never shows what stands in it.
func Parse(text string) (*Keyring, error) {
	var digest []byte
	var keys []NamedKey
	names := map[string]bool{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: want a name and a key in base64", number)
		}
		raw, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil || len(raw) != keyBytes {
			return nil, fmt.Errorf("line %d: the key is not %d bytes in base64", number, keyBytes)
		}
		if names[fields[0]] {
			return nil, fmt.Errorf("line %d: a second key by the name of %q", number, fields[0])
		}
		names[fields[0]] = true
		if fields[0] == digestName {
			digest = raw
			continue
		}
		keys = append(keys, NamedKey{Name: fields[0], Key: raw})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the keys: %w", err)
	}
	if digest == nil {
		return nil, fmt.Errorf("no line %q: `wts init` writes a whole key file", digestName)
	}
	return New(digest, keys...)
}
