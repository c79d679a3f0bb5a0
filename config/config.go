// Package config reads the configuration: one YAML file, the environment over it, secrets from
// files. It composes what each package asks for, and reports every fault at once.
package config

import (
	"cmp"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/publisher"
	"github.com/workspace-token-service/wts/pkg/server"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/store/gen3"
	"github.com/workspace-token-service/wts/pkg/telemetry"
)

// Config is the whole configuration. The packages' own types say what each setting means.
type Config struct {
	Server    server.Config              `config:",squash"`
	Authn     authn.Config               `config:",squash"`
	Broker    broker.Config              `config:",squash"`
	Database  store.Config               `config:"database"`
	Issuer    issuer.Config              `config:"issuer"`
	Log       telemetry.LogConfig        `config:"log"`
	Kube      kube.Config                `config:"kubernetes"`
	Providers map[string]provider.Config `config:"providers"`
	Audiences map[string]issuer.Audience `config:"audiences"`
	// Notices are sent before API tokens end.
	Notices apitoken.WebhookConfig `config:"notices"`
	// Publisher says whose CI jobs may act for resources.
	Publisher publisher.Config `config:",squash"`
	// Grants says which programs people may let act for them.
	Grants grant.Config `config:",squash"`
	// Audit says how long what was done is kept in the database.
	Audit audit.Config `config:"audit"`
	// Admins are the users, by name, who may manage the API tokens of every resource.
	Admins []string `config:"admins"`
	// AdminGroups are groups, by the default provider's groups_claim, whose members may do the same.
	AdminGroups []string `config:"admin_groups"`
	// KeyringFile names the file of the keys that seal secrets at rest.
	KeyringFile string `config:"keyring_file"`
	// SealFormat is the form in which secrets at rest are sealed: 1, XChaCha20-Poly1305, or 2, AES-256-GCM with a key
	// for each, which FIPS 140-3 approves. Both are opened. Default 1, as releases before open it alone; in FIPS
	// 140-3 mode always 2.
	SealFormat int `config:"seal_format"`
	// WorkersFile names a YAML file of workers: peer address to user name.
	WorkersFile string `config:"workers_file"`
	// RideThroughMax is how long the caches go on while nothing is heard of changes. Default 15 min.
	RideThroughMax time.Duration `config:"ride_through_max"`
	// DrainDelay is how long the service goes on after it was told to stop, while /readyz answers 503, so
	// that whatever balances the load sends nothing more. Default 5 s in Kubernetes, else 0.
	DrainDelay time.Duration `config:"drain_delay"`
	// StopTimeout is how long refreshes under way are waited for after it was told to stop, DrainDelay
	// included. It should be longer than DrainDelay and the longest refresh_timeout together, and shorter
	// than the time after which the process is killed. Default 70 s.
	StopTimeout time.Duration `config:"stop_timeout"`

	// Aggregate says what /aggregate may ask of the commons that a user has connected.
	Aggregate aggregate.Config `config:"aggregate"`
	// Gen3 is the table of Gen3's Python service, where its database was taken over.
	Gen3 gen3.Config `config:"gen3"`

	// Keys is what KeyringFile holds; without one, what follows from Gen3's encryption key.
	Keys *keyring.Keyring `config:"-"`
	// Sources says what was read from where, in a deployment of the Python service.
	Sources []string `config:"-"`
	// Warnings are what an operator should hear of, and what does not keep the service from starting.
	Warnings []string `config:"-"`
}

// EnvPrefix begins the variables that override the file: WTS_DATABASE__URL is database.url.
const EnvPrefix = "WTS_"

// DefaultFile is the file that is read where none is named.
const DefaultFile = "wts.yaml"

// Load reads the file, puts the environment over it, reads the files that it names, and validates
// all of it. The error joins every fault that was found. In a deployment of Gen3's Python service the
// file may be missing: what the deployment says stands below it.
func Load(path string, environ []string) (Config, error) {
	deployed := readGen3(environ)
	config, err := load(path, environ, deployed)
	if err != nil {
		return Config{}, err
	}
	if slices.ContainsFunc(environ, func(variable string) bool { return strings.HasPrefix(variable, "KUBERNETES_SERVICE_HOST=") }) && config.DrainDelay == 0 {
		config.DrainDelay = drainDelay
	}
	config, faults := config.complete(filepath.Dir(path))
	for id, fault := range deployed.clientless {
		if one := config.Providers[id]; one.ClientID == "" || one.ClientSecret == "" {
			deployed.faults = append(deployed.faults, fault)
		}
	}
	listening := errors.Join(config.checkListeners()...)
	encrypting, warnings := config.checkTLS()
	config.Warnings = slices.Concat(deployed.warnings, checkEnvironment(environ), config.checkModes(filepath.Dir(path)), warnings, config.CheckCallbacks(), config.checkForm(fips140.Enabled()))
	return config, errors.Join(errors.Join(deployed.faults...), faults, config.validate(), listening, errors.Join(encrypting...))
}

// LoadForDatabase is Load for a command that needs the database and the keys, and may run where the
// providers' secrets are not.
func LoadForDatabase(path string, environ []string) (Config, error) {
	config, err := load(path, environ, readGen3(environ))
	if err != nil {
		return Config{}, err
	}
	for id, one := range config.Providers {
		one.ClientSecretFile = ""
		config.Providers[id] = one
	}
	for id, one := range config.Audiences {
		if one.SigningSecretFile != "" {
			one.SigningSecret = "in a file that is not read here"
		}
		one.SecretFile, one.SigningSecretFile = "", ""
		config.Audiences[id] = one
	}
	config.WorkersFile, config.Notices = "", apitoken.WebhookConfig{}
	config, faults := config.complete(filepath.Dir(path))
	return config, errors.Join(faults, config.Database.Validate(), config.Log.Validate())
}

func load(path string, environ []string, deployed *deployment) (Config, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultFile && len(deployed.tree) > 0 {
		text, err = nil, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("the configuration cannot be read (`wts init` writes one): %w", err)
	}
	var tree map[string]any
	var document yaml.Node
	if err := errors.Join(yaml.Unmarshal(text, &tree), yaml.Unmarshal(text, &document)); err != nil {
		first, _, _ := strings.Cut(strings.ReplaceAll(err.Error(), "yaml: unmarshal errors:\n  ", "yaml: "), "\n")
		return Config{}, fmt.Errorf("%s is not YAML: %s", path, first)
	}
	if faults := unknownSettings(&document, reflect.TypeFor[Config](), ""); len(faults) > 0 {
		return Config{}, errors.Join(faults...)
	}
	tree = merge(deployed.tree, tree)
	overlay(tree, environ)
	config, err := decode(tree)
	config.Sources = deployed.said
	return config, err
}

// complete reads the files that the configuration names and fills in what follows from the rest. Paths
// are relative to the configuration's folder.
func (c Config) complete(dir string) (Config, error) {
	files := &reader{dir: dir}
	files.secret("database.url_file", c.Database.URLFile, &c.Database.URL)
	files.secret("database.direct_url_file", c.Database.DirectURLFile, &c.Database.DirectURL)
	files.secret("gen3.encryption_key_file", c.Gen3.EncryptionKeyFile, &c.Gen3.EncryptionKey)
	for _, id := range slices.Sorted(maps.Keys(c.Providers)) {
		one := c.Providers[id]
		files.secret("providers."+id+".client_secret_file", one.ClientSecretFile, &one.ClientSecret)
		c.Providers[id] = one
	}
	files.secret("notices.secret_file", c.Notices.SecretFile, &c.Notices.Secret)
	for _, id := range slices.Sorted(maps.Keys(c.Audiences)) {
		one := c.Audiences[id]
		files.secret("audiences."+id+".secret_file", one.SecretFile, &one.Secret)
		files.secret("audiences."+id+".signing_secret_file", one.SigningSecretFile, &one.SigningSecret)
		c.Audiences[id] = one
	}
	if c.Broker.DefaultProvider == "" && len(c.Providers) == 1 {
		for id := range c.Providers {
			c.Broker.DefaultProvider = id
		}
	}
	c.Server, c.Audit = c.Server.WithDefaults(), c.Audit.WithDefaults()
	c.Issuer.URL, c.Issuer.Audiences = c.Server.URL, c.withOwn()
	if c.RideThroughMax == 0 {
		c.RideThroughMax = 15 * time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = stopTimeout
	}
	c.Broker.RideThroughMax = c.RideThroughMax
	c.Database.URL = relative(dir, c.Database.URL)
	c.Broker = withSpool(c.Broker, dir, string(c.Database.URL))
	for _, name := range []*string{&c.Server.TLS.CertFile, &c.Server.TLS.KeyFile, &c.Server.Page.LogoFile} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	c.Authn.Workers = files.workers(c.WorkersFile)
	c.Gen3.DefaultProvider, c.Gen3.Providers = c.Broker.DefaultProvider, map[string]bool{}
	for id, one := range c.Providers {
		c.Gen3.Providers[id] = one.WithDefaults(id).NeverRotates()
	}
	c.Database.Gen3 = c.Gen3
	c.Keys = files.keyring(c.KeyringFile, c.Gen3.EncryptionKey)
	if c.Keys != nil && c.SealFormat != 0 {
		if keys, err := c.Keys.WithForm(c.SealFormat); err != nil {
			files.faults = append(files.faults, fmt.Errorf("seal_format: %w", err))
		} else {
			c.Keys = keys
		}
	}
	return c, errors.Join(files.faults...)
}

const (
	drainDelay  = 5 * time.Second
	stopTimeout = 70 * time.Second
)

// withSpool completes where the spool is: relative to the configuration's folder, with a folder of the
// database's own where none is configured, and with file names of the database's own in any.
func withSpool(chosen broker.Config, dir, databaseURL string) broker.Config {
	sum := sha256.Sum256([]byte(store.Place(databaseURL)))
	chosen.SpoolTag = hex.EncodeToString(sum[:6])
	switch {
	case chosen.SpoolDir == "off":
		chosen.SpoolDir = ""
	case chosen.SpoolDir == "":
		chosen.SpoolDir = filepath.Join(os.TempDir(), fmt.Sprintf("wts-spool-%d-%s", os.Getuid(), chosen.SpoolTag))
	case !filepath.IsAbs(chosen.SpoolDir):
		chosen.SpoolDir = filepath.Join(dir, chosen.SpoolDir)
	}
	return chosen
}

// checkSpoolWait wants a silent replica to be waited for longer than any answer of a provider is: until
// then the token that it presented may still be worked on.
func (c Config) checkSpoolWait() error {
	wait := cmp.Or(c.Broker.SpoolWait, 2*time.Minute)
	for _, id := range slices.Sorted(maps.Keys(c.Providers)) {
		if timeout := c.Providers[id].WithDefaults(id).RefreshTimeout; wait <= timeout+spoolSlack {
			return fmt.Errorf("spool_wait: is %s, want more than providers.%s.refresh_timeout (%s) and %s together", wait, id, timeout, spoolSlack)
		}
	}
	return nil
}

const spoolSlack = 5 * time.Second

// validateAudiences tells what of the audiences does not go with the providers.
func (c Config) validateAudiences(fault func(format string, args ...any)) {
	groups := c.Providers[c.Broker.DefaultProvider].GroupsClaim != ""
	for _, id := range slices.Sorted(maps.Keys(c.Audiences)) {
		if _, both := c.Providers[id]; both {
			fault("audiences.%s: is a provider's name too; at /oauth2/token one name means one thing", id)
		}
		grouped := slices.ContainsFunc(c.Audiences[id].Access, func(rule issuer.Access) bool { return len(rule.Groups) > 0 })
		if id == c.Grants.Auth.Audience && c.Audiences[id].Profile != issuer.ProfilePEPhub {
			fault("auth.audience: audiences.%s has not the profile %s, whose tokens its clients read", id, issuer.ProfilePEPhub)
		}
		if of := c.Audiences[id].Integration; of != nil && !groups && slices.ContainsFunc(of.Roles, func(role issuer.Role) bool { return len(role.Groups) > 0 }) {
			fault("audiences.%s.integration.roles: name groups, and providers.%s.groups_claim is missing, which says where they stand", id, c.Broker.DefaultProvider)
		}
		if grouped && !groups {
			fault("audiences.%s.access: names groups, and providers.%s.groups_claim is missing, which says where they stand", id, c.Broker.DefaultProvider)
		}
	}
	if len(c.AdminGroups) > 0 && !groups {
		fault("admin_groups: providers.%s.groups_claim is missing, which says where groups stand", c.Broker.DefaultProvider)
	}
}

// withOwn are the audiences, with the one for wts itself: as it is written, or with all that a person's own program may
// want. A provider that has its name takes it.
func (c Config) withOwn() map[string]issuer.Audience {
	_, written := c.Audiences[issuer.OwnAudience]
	if _, taken := c.Providers[issuer.OwnAudience]; written || taken {
		return c.Audiences
	}
	all := map[string]issuer.Audience{issuer.OwnAudience: issuer.Own(slices.Sorted(maps.Keys(c.Providers)))}
	maps.Copy(all, c.Audiences)
	return all
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Providers) == 0 {
		fault("providers: there is none; a provider is where people log in")
	} else if _, ok := c.Providers[c.Broker.DefaultProvider]; !ok {
		fault("default_provider: is %q, want one of %s", c.Broker.DefaultProvider, strings.Join(slices.Sorted(maps.Keys(c.Providers)), ", "))
	}
	for _, id := range slices.Sorted(maps.Keys(c.Providers)) {
		if id == "" || id == defaultID && c.Broker.DefaultProvider != defaultID || c.Providers[id].OwnCallback() && strings.ContainsAny(id, "/ \t\n") {
			fault("providers.%s: is no id that a URL can carry, or is the word that stands for the default provider", id)
		}
		if id == c.Broker.DefaultProvider && !c.Providers[id].Identifies() {
			fault("providers.%s.scopes: lack openid, without which no login says who the person is", id)
		}
		for _, text := range Faults(c.Providers[id].Validate()) {
			fault("providers.%s.%s", id, text)
		}
	}
	if c.Server.DefaultAudience != "" {
		if _, ok := c.Audiences[c.Server.DefaultAudience]; !ok {
			fault("default_audience: %q is not one of the audiences", c.Server.DefaultAudience)
		}
	}
	c.validateAudiences(fault)
	if c.Broker.ClaimsMaxAge < 0 {
		fault("claims_max_age: must not be negative")
	}
	if c.RideThroughMax < 0 {
		fault("ride_through_max: must not be negative")
	}
	if c.Broker.FailoverWindow < 0 {
		fault("failover_window: must not be negative; it is how long a change is kept that a failover of the database may lose")
	}
	if c.DrainDelay < 0 || c.StopTimeout < 0 {
		fault("drain_delay, stop_timeout: must not be negative")
	}
	if err := c.checkSpoolWait(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(append(faults, c.Server.Validate(), c.Authn.Validate(), c.Database.Validate(), c.Issuer.Validate(), c.Kube.Validate(), c.Log.Validate(), c.Aggregate.Validate(), c.Notices.Validate(), c.Publisher.Validate(), c.Audit.Validate(), c.Grants.Validate(func(id string) bool { _, known := c.Issuer.Audiences[id]; return known }))...)
}

// Faults are the single faults that an error of Load joins, a line each.
func Faults(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}
