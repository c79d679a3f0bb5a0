package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/workspace-token-service/wts/pkg/keyring"
)

// checkListeners wants addresses that a process can listen on, each once.
func (c Config) checkListeners() (faults []error) {
	seen := map[string]string{}
	addresses := map[string]string{}
	for i, address := range c.Server.Listen {
		addresses[fmt.Sprintf("listen[%d]", i)] = address
	}
	if c.Server.MetricsListen != "off" {
		addresses["metrics_listen"] = c.Server.MetricsListen
	}
	for _, name := range sortedKeys(addresses) {
		address := addresses[name]
		_, port, err := net.SplitHostPort(address)
		number, bad := strconv.Atoi(port)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: is %q, want an address with a port, like :8080 or 127.0.0.1:8080", name, address))
		case bad != nil || number < 0 || number > 65535:
			faults = append(faults, fmt.Errorf("%s: is %q, whose port is not a number from 0 to 65535", name, address))
		case seen[address] != "" && number != 0:
			faults = append(faults, fmt.Errorf("%s: is %q, as %s is", name, address, seen[address]))
		}
		seen[address] = name
	}
	return faults
}

// checkTLS wants a certificate that belongs to its key, and says when it ends.
func (c Config) checkTLS() (faults []error, warnings []string) {
	files := c.Server.TLS
	if files.CertFile == "" || files.KeyFile == "" {
		return nil, nil
	}
	if strings.HasPrefix(c.Server.URL, "http://") {
		faults = append(faults, fmt.Errorf("url: is %q, and tls is configured: browsers would be sent to plain http; want https", c.Server.URL))
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return append(faults, fmt.Errorf("tls: %w", err)), nil
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return append(faults, fmt.Errorf("tls.cert_file: %w", err)), nil
	}
	if left := time.Until(leaf.NotAfter); left < 14*24*time.Hour {
		warnings = append(warnings, fmt.Sprintf("tls.cert_file: the certificate ends on %s", leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	return faults, warnings
}

// checkForm warns where the mode of the process overrules what is configured.
func (c Config) checkForm(fips bool) []string {
	if !fips || c.SealFormat == keyring.Form2 {
		return nil
	}
	return []string{"seal_format: is not 2, and FIPS 140-3 mode seals and opens form 2 alone: without the mode, set it to 2 on every replica and run `wts keys reencrypt`; then begin the mode"}
}

// checkModes warns of secrets that every user of the machine can read.
func (c Config) checkModes(dir string) (warnings []string) {
	names := map[string]string{"keyring_file": c.KeyringFile, "database.url_file": c.Database.URLFile, "tls.key_file": c.Server.TLS.KeyFile}
	for id, one := range c.Providers {
		names["providers."+id+".client_secret_file"] = one.ClientSecretFile
	}
	for _, setting := range sortedKeys(names) {
		name := names[setting]
		if name != "" && !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if info, err := os.Stat(name); name != "" && err == nil && info.Mode().Perm()&0o004 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s: %s can be read by every user of this machine (mode %o); chmod o-rwx it", setting, name, info.Mode().Perm()))
		}
	}
	return warnings
}

// checkEnvironment warns of variables that look like settings and are none.
func checkEnvironment(environ []string) (warnings []string) {
	known := settings(reflect.TypeFor[Config]())
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours {
			continue
		}
		first, _, nested := strings.Cut(strings.ToLower(rest), "__")
		switch {
		case slices.Contains(known, first):
		case nested:
			warnings = append(warnings, fmt.Sprintf("%s: is ignored, since there is no setting %s%s", name, first, didYouMean(first, known)))
		default:
			for _, setting := range known {
				if below, ok := strings.CutPrefix(first, setting+"_"); ok {
					warnings = append(warnings, fmt.Sprintf("%s: is ignored; %s%s__%s sets %s.%s", name, EnvPrefix, strings.ToUpper(setting), strings.ToUpper(below), setting, below))
				}
			}
		}
	}
	return warnings
}

// unknownSettings finds the keys of the file that are no settings, each with its line and what was probably
// meant.
func unknownSettings(node *yaml.Node, of reflect.Type, path string) (faults []error) {
	switch {
	case node.Kind == yaml.DocumentNode && len(node.Content) > 0:
		return unknownSettings(node.Content[0], of, path)
	case node.Kind == yaml.AliasNode:
		return unknownSettings(node.Alias, of, path)
	case of.Kind() == reflect.Pointer:
		return unknownSettings(node, of.Elem(), path)
	case of.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for i, one := range node.Content {
			faults = append(faults, unknownSettings(one, of.Elem(), fmt.Sprintf("%s[%d]", path, i))...)
		}
	case of.Kind() == reflect.Map && node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			faults = append(faults, unknownSettings(node.Content[i+1], of.Elem(), below(path, node.Content[i].Value))...)
		}
	case of.Kind() == reflect.Struct && node.Kind == yaml.MappingNode:
		fields := fieldsOf(of)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			field, known := fields[key.Value]
			switch {
			case known:
				faults = append(faults, unknownSettings(node.Content[i+1], field, below(path, key.Value))...)
			case key.Value != "<<":
				names := slices.Collect(maps.Keys(fields))
				slices.Sort(names)
				faults = append(faults, fmt.Errorf("%s: line %d: unknown setting%s", below(path, key.Value), key.Line, didYouMean(key.Value, names)))
			}
		}
	}
	return faults
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf are a type's settings by name.
func fieldsOf(of reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for field := range of.Fields() {
		switch tag := field.Tag.Get("config"); tag {
		case ",squash":
			maps.Copy(fields, fieldsOf(field.Type))
		case "-", "":
		default:
			fields[tag] = field.Type
		}
	}
	return fields
}

func sortedKeys(of map[string]string) []string {
	var names []string
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// didYouMean suggests the nearest of the known names, if one is near.
func didYouMean(name string, known []string) string {
	best, distance := "", 3
	for _, one := range known {
		if d := editDistance(name, one); d < distance {
			best, distance = one, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// editDistance is how many letters have to be put in, left out or changed (Levenshtein).
func editDistance(one, other string) int {
	row := make([]int, len(other)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(one) {
		diagonal := row[0]
		row[0] = i + 1
		for k := range len(other) {
			cost := 1
			if one[i] == other[k] {
				cost = 0
			}
			diagonal, row[k+1] = row[k+1], min(row[k+1]+1, row[k]+1, diagonal+cost)
		}
	}
	return row[len(other)]
}

// ErrFaults is how many faults a configuration has, for the end of a list of them.
func ErrFaults(count int) error {
	if count == 1 {
		return errors.New("1 fault")
	}
	return fmt.Errorf("%d faults", count)
}
