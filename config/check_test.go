package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

// certificate writes a pair that ends then, and returns the paths.
func certificate(t *testing.T, dir, name string, ends time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: ends.Add(-24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: text}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// The offline mistakes that check-config called good, and how each is said now.
func TestMistakesThatWereCalledGood(t *testing.T) {
	dir := t.TempDir()
	good, goodKey := certificate(t, dir, "good", time.Now().Add(90*24*time.Hour))
	expired, expiredKey := certificate(t, dir, "expired", time.Now().Add(-time.Hour))
	_, otherKey := certificate(t, dir, "other", time.Now().Add(90*24*time.Hour))
	if err := os.WriteFile(filepath.Join(dir, "open-secret"), []byte("s"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "open-secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change  func(text string) string
		environ []string
		fault   string
		warning string
	}{
		"a port that is none":          {change: with("listen: [\":99999\"]"), fault: `listen[0]: is ":99999", whose port`},
		"an address without a port":    {change: with("listen: [localhost]"), fault: `listen[0]: is "localhost", want an address with a port`},
		"one address twice":            {change: with("listen: [\":8080\"]\nmetrics_listen: \":8080\""), fault: "metrics_listen: is \":8080\", as listen[0] is"},
		"a key of another certificate": {change: encrypted(good, otherKey), fault: "private key does not match"},
		"files that are not there":     {change: encrypted(filepath.Join(dir, "none"), goodKey), fault: "no such file"},
		"TLS, and a public http URL":   {change: encrypted(good, goodKey), fault: "url: is \"http://localhost:8080\", and tls is configured"},
		"an expired certificate": {change: func(s string) string {
			return strings.Replace(encrypted(expired, expiredKey)(s), "http://", "https://", 1)
		}, warning: "tls.cert_file: the certificate ends on"},
		"a secret that everyone reads": {change: func(s string) string {
			return strings.Replace(s, "client_secret: s", "client_secret_file: "+filepath.Join(dir, "open-secret"), 1)
		}, warning: "can be read by every user"},
		"a variable of no setting":      {environ: []string{"WTS_DATABSE__URL=x"}, warning: "WTS_DATABSE__URL: is ignored, since there is no setting databse; did you mean database?"},
		"a variable with one underline": {environ: []string{"WTS_DATABASE_URL=x"}, warning: "WTS_DATABASE__URL sets database.url"},
		"Kubernetes' own variables":     {environ: []string{"WTS_SERVICE_HOST=x", "WTS_PORT=tcp://1.2.3.4:80"}},
		"a misspelt setting":            {change: with("databse: {url: x}"), fault: "databse: line 6: unknown setting; did you mean database?"},
		"a misspelt one of a provider":  {change: func(s string) string { return strings.Replace(s, "issuer:", "isuer:", 1) }, fault: "providers.main.isuer: line 5: unknown setting; did you mean issuer?"},
		"a form of seals that is none":  {change: with("seal_format: 3"), fault: "seal_format: there is no form 3, want 1 or 2"},
		"spool_wait below the timeout":  {change: with("spool_wait: 1m"), fault: "spool_wait: is 1m0s, want more than providers.main.refresh_timeout (1m0s) and 5s together"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			text := "url: http://localhost:8080\ndatabase: {url: \"sqlite:wts.db\"}\nkeyring_file: wts-keyring\nproviders:\n  main: {issuer: \"https://op.example\", client_id: wts, client_secret: s}\n"
			if row.change != nil {
				text = row.change(text)
			}
			loaded, err := config.Load(write(t, keyed(t, folder), "wts.yaml", text), row.environ)
			if row.fault == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if row.fault != "" && (err == nil || !strings.Contains(err.Error(), row.fault)) {
				t.Errorf("got %v, want a fault with %q", err, row.fault)
			}
			warnings := strings.Join(loaded.Warnings, "\n")
			if row.warning == "" && row.fault == "" && warnings != "" || !strings.Contains(warnings, row.warning) {
				t.Errorf("the warnings are %q, want %q", warnings, row.warning)
			}
		})
	}
}

func with(line string) func(string) string {
	return func(text string) string { return text + line + "\n" }
}

func encrypted(cert, key string) func(string) string {
	return with("tls: {cert_file: " + cert + ", key_file: " + key + "}")
}

// The spool lies where the configuration's folder says, and its name follows the database's place
// alone.
func TestWhereTheSpoolIs(t *testing.T) {
	folder := t.TempDir()
	load := func(database, spool string) config.Config {
		t.Helper()
		text := "url: http://localhost:8080\ndatabase: {url: \"" + database + "\"}\nkeyring_file: wts-keyring\nproviders:\n  main: {issuer: \"https://op.example\", client_id: wts, client_secret: s}\n" + spool
		loaded, err := config.Load(write(t, keyed(t, folder), "wts.yaml", text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return loaded
	}
	if got := load("sqlite:wts.db", "spool_dir: spool-a\n").Broker.SpoolDir; got != filepath.Join(folder, "spool-a") {
		t.Errorf("a relative spool_dir is %s, want it below %s", got, folder)
	}
	if got := load("sqlite:wts.db", "spool_dir: \"off\"\n").Broker.SpoolDir; got != "" {
		t.Errorf("off is %q", got)
	}
	one := load("postgres://wts:one@db:5432/wts", "").Broker
	for name, row := range map[string]struct {
		database string
		same     bool
	}{
		"another password": {"postgres://wts:two@db:5432/wts", true},
		"another user":     {"postgres://temporary:two@db:5432/wts?application_name=x", true},
		"another database": {"postgres://wts:one@db:5432/other", false},
		"another host":     {"postgres://wts:one@db2:5432/wts", false},
		"another port":     {"postgres://wts:one@db:5433/wts", false},
	} {
		t.Run(name, func(t *testing.T) {
			other := load(row.database, "").Broker
			if (other.SpoolDir == one.SpoolDir) != row.same || (other.SpoolTag == one.SpoolTag) != row.same {
				t.Errorf("the spool is %s beside %s, want the same: %t", other.SpoolDir, one.SpoolDir, row.same)
			}
		})
	}
}

// keyed puts a key file into a folder.
func keyed(t *testing.T, dir string) string {
	t.Helper()
	write(t, dir, "wts-keyring", keyring.Generate(time.Now()))
	return dir
}
