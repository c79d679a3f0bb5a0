package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// folder holds what the example names.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "wts-keyring", keyring.Generate(time.Now()))
	write(t, dir, "main-client-secret", "s3cret\n")
	write(t, dir, "workers.yaml", "10.0.0.7: alice\n\"fd00::7\": bob\n")
	return dir
}

// setting is a setting that stands commented out.
var setting = regexp.MustCompile(`^( *)# ([a-z_]+: )`)

func TestTheExampleIsGood(t *testing.T) {
	dir := folder(t)
	loaded, err := config.Load(write(t, dir, "wts.yaml", config.Example()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.Providers["main"]; string(got.ClientSecret) != "s3cret" || got.UsernameClaim != "email" {
		t.Errorf("the provider: %+v", got)
	}
	if got := string(loaded.Database.URL); got != "sqlite:"+filepath.Join(dir, "wts.db") {
		t.Errorf("the database: %s", got)
	}
	if loaded.Audiences["my-service"].MaxLifetime != time.Hour || loaded.Issuer.URL != "http://localhost:8080" {
		t.Errorf("the audience: %+v", loaded.Audiences)
	}
	// What stands commented out in it is good as well.
	var all strings.Builder
	for line := range strings.Lines(config.Example()) {
		all.WriteString(setting.ReplaceAllString(line, "$1$2"))
	}
	certificate(t, dir, "tls", time.Now().Add(90*24*time.Hour))
	encrypted := strings.Replace(all.String(), "url: http://", "url: https://", 1)
	loaded, err = config.Load(write(t, dir, "all.yaml", encrypted), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, all.String())
	}
	if loaded.Keys.Form() != keyring.Form2 || loaded.Authn.Workers["10.0.0.7"] != "alice" || loaded.Server.DefaultAudience != "my-service" || loaded.RideThroughMax != 15*time.Minute ||
		loaded.Authn.Bearer.Audiences[0] != "wts" || loaded.Providers["main"].LoginParams["hd"] != "example.org" {
		t.Errorf("with everything: %+v", loaded)
	}
	of := loaded.Issuer.Audiences["clinical"].Integration
	if of == nil || of.Cohorts[0].Label != "Trial 1" || of.Roles[0].Result["role"] != "admin" || !of.Roles[1].Everyone {
		t.Errorf("the integration: %+v", of)
	}
}

func TestTheEnvironmentWins(t *testing.T) {
	dir := folder(t)
	path := write(t, dir, "wts.yaml", config.Example())
	loaded, err := config.Load(path, []string{
		"WTS_DATABASE__URL=postgres://u:p@h:5432/d",
		"WTS_PROVIDERS__MAIN__CLIENT_SECRET_FILE=",
		"WTS_PROVIDERS__MAIN__CLIENT_SECRET=from-the-environment",
		"WTS_PROVIDERS__MAIN__SCOPES=openid,email",
		"WTS_AUDIENCES__MY_SERVICE__MAX_LIFETIME=30m",
		"WTS_LISTEN=:80,:8000",
		"WTS_ISSUER__JWKS_MAX_AGE=1m",
		"WTS_SERVICE_HOST=10.0.0.1", "WTS_PORT=tcp://10.0.0.1:80", "WTS_TEST_POSTGRES=x", // Kubernetes' and others
		"PATH=/bin", "nonsense",
	})
	if err != nil {
		t.Fatal(err)
	}
	main := loaded.Providers["main"]
	if string(loaded.Database.URL) != "postgres://u:p@h:5432/d" || string(main.ClientSecret) != "from-the-environment" || len(main.Scopes) != 2 ||
		loaded.Audiences["my-service"].MaxLifetime != 30*time.Minute || len(loaded.Server.Listen) != 2 || loaded.Issuer.JWKSMaxAge != time.Minute {
		t.Errorf("got %+v", loaded)
	}
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	dir := folder(t)
	err := load(t, dir, `
url: ftp://x
database: {url: mysql://x}
keyring_file: nowhere
default_provider: other
default_audience: nobody
ride_through_max: -1s
trusted_proxies: [everyone]
log: {level: loud, format: xml}
providers:
  main: {issuer: "http://login.example.org", client_auth: magic}
  default: {issuer: "https://a", client_id: c, client_secret: s}
audiences:
  a: {algorithm: HS256}
  main: {}
admin_groups: [keepers]
audit: {retention: 1h}
auth: {audience: a}
clients:
  pod: {redirect_uris: ["https://p.example.org/"], audiences: [a]}
  web: {redirect_uris: ["https://p.example.org/*", "http://p.example.org/", "/back", "https://p.example.org/#x", "app:/back", "org.example.app:/back"], origins: ["https://p.example.org/", "*"], audiences: [none]}
  quiet: {redirect_uris: ["http://127.0.0.1/back"], skip_consent: true, audiences: [a]}
  empty: {audiences: [a, wts]}
`)
	for _, want := range []string{
		"url: must be https", "database.url: must begin with", "keyring_file: ", "default_provider: is \"other\"", "default_audience: \"nobody\"",
		"ride_through_max", "trusted_proxies[0]", "log.level", "log.format", "providers.main.issuer: must be https", "providers.main.client_id",
		"providers.main.client_secret", "providers.main.client_auth", "providers.default: ", "audiences.a.algorithm", "audiences.main: is a provider's name too",
		"admin_groups: providers.other.groups_claim is missing", "audit.retention", "clients.pod: the name is taken", "clients.web.redirect_uris[0]: has a name, a wildcard",
		"clients.web.redirect_uris[1]: want https", "clients.web.redirect_uris[2]: is no absolute URL", "clients.web.redirect_uris[3]: has a fragment",
		"clients.web.redirect_uris[4]: a scheme of one's own", "clients.web.origins[0]: want an origin", "clients.web.origins[1]: want an origin", "clients.web.audiences[0]: \"none\"",
		"clients.quiet.skip_consent", "clients.empty: has neither", "auth.audience: audiences.a has not the profile pephub",
	} {
		t.Run(want, func(t *testing.T) {
			if strings.Contains(err, "clients.web.redirect_uris[5]") || strings.Contains(err, "clients.empty.audiences") {
				t.Errorf("a good one is refused:\n%s", err)
			}
			if !strings.Contains(err, "\n"+want) && !strings.HasPrefix(err, want) {
				t.Errorf("no line that begins with %q in:\n%s", want, err)
			}
		})
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	dir := folder(t)
	for name, row := range map[string]struct{ text, want string }{
		"an unknown setting":          {"databse: {url: x}\n", "databse: line 1: unknown setting; did you mean database?"},
		"an unknown nested setting":   {"database: {uri: x}\n", "database.uri: line 1: unknown setting; did you mean url?"},
		"a word for a number":         {"database: {max_connections: many}\n", "'database.max_connections'"},
		"a duration without a unit":   {"ride_through_max: soon\n", "'ride_through_max'"},
		"a duration that is a number": {"session: {idle: 3600}\n", "like 90s, 10m or 12h"},
		"a list for a text":           {"url: [a]\n", "'url'"},
		"no YAML":                     {"a: [\n", "is not YAML"},
		"one key twice":               {"url: a\nurl: b\n", "is not YAML"},
		"an empty file":               {"", "url: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := load(t, dir, row.text); !strings.Contains(err, row.want) {
				t.Errorf("no %q in:\n%s", row.want, err)
			}
		})
	}
	if _, err := config.Load(filepath.Join(dir, "nowhere.yaml"), nil); err == nil || !strings.Contains(err.Error(), "wts init") {
		t.Errorf("no file: %v", err)
	}
}

func TestAFaultyFileShowsNoSecret(t *testing.T) {
	dir := folder(t)
	write(t, dir, "bad-keyring", "canary-key canary\n")
	write(t, dir, "empty-secret", "\n")
	err := load(t, dir, `
keyring_file: bad-keyring
database: {url: "canary://secret"}
providers: {main: {client_secret: canary-secret, client_secret_file: empty-secret}}
`)
	if strings.Contains(err, "canary") {
		t.Errorf("it shows a secret:\n%s", err)
	}
	if !strings.Contains(err, "empty-secret is empty") {
		t.Errorf("an empty file of a secret is no fault:\n%s", err)
	}
}

func load(t *testing.T, dir, text string) string {
	t.Helper()
	_, err := config.Load(write(t, dir, "faulty.yaml", text), nil)
	if err == nil {
		t.Fatalf("no fault in:\n%s", text)
	}
	return err.Error()
}

// The configurations that are shipped beside the example are good too, with what is put around them.
func TestShippedConfigurations(t *testing.T) {
	keys := write(t, t.TempDir(), "wts-keyring", keyring.Generate(time.Now()))
	text, err := os.ReadFile("../deploy/compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	var env []string
	for name, value := range compose.Services["wts"].Environment {
		if name == "WTS_KEYRING_FILE" {
			value = keys
		}
		env = append(env, name+"="+regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllString(value, "value"))
	}
	if loaded, err := config.Load("../deploy/compose/wts.yaml", env); err != nil || loaded.Providers["main"].ClientSecret != "value" {
		t.Errorf("compose: %v", err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"database/url": "postgres://wts:pw@db/wts", "keyring/wts-keyring": keyring.Generate(time.Now()), "clients/main-client/secret": "s"} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, dir, name, text)
		})
	}
	shipped, err := os.ReadFile("../deploy/kubernetes/wts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(write(t, dir, "wts.yaml", string(shipped)), nil); err != nil {
		t.Errorf("kubernetes: %v", err)
	}
}

// The audience for wts itself is there without being written, unless a provider has its name.
func TestTheAudienceForItself(t *testing.T) {
	dir := folder(t)
	const text = "url: https://wts.example.org\ndatabase: {url: 'sqlite:x'}\nkeyring_file: wts-keyring\nproviders:\n  %s: {issuer: 'https://login.example.org', client_id: c, client_secret: s}\n%s"
	for name, row := range map[string]struct {
		provider, more string
		want           []string
	}{
		"as it comes":             {"main", "", []string{"token", "api", "api:create", "api:read", "provider:main"}},
		"as it is written":        {"main", "audiences: {wts: {scopes: [token]}}", []string{"token"}},
		"a provider has the name": {"wts", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "own.yaml")
			if err := os.WriteFile(path, fmt.Appendf(nil, text, row.provider, row.more), 0o600); err != nil {
				t.Fatal(err)
			}
			loaded, err := config.LoadForDatabase(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded.Issuer.Audiences["wts"].Scopes; !slices.Equal(got, row.want) {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}
