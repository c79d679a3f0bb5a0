package config_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider"
)

const gen3Key = "c2l4dGVlbi1ieXRlcy1zaWdudGVlbi1ieXRlcy1lbmM="

// deployed is the environment of a pod of the Python service, its appcreds.json written out.
func deployed(t *testing.T, change map[string]any, env ...string) []string {
	t.Helper()
	creds := map[string]any{
		"wts_base_url": "https://commons.example.org/wts/", "encryption_key": gen3Key, "secret_key": "s", "fence_base_url": "https://commons.example.org/user/",
		"oidc_client_id": "json-id", "oidc_client_secret": "json-secret", "external_oidc": nil,
		"sqlalchemy_database_uri": "postgresql://wts:pw@db.example.org:5432/wts_db",
	}
	for name, value := range change {
		if value == "(absent)" {
			delete(creds, name)
			continue
		}
		creds[name] = value
	}
	text, err := json.Marshal(creds)
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"SECRET_CONFIG=" + write(t, t.TempDir(), "appcreds.json", string(text)), "AUTH_PLUGINS=k8s"}, env...)
}

func TestADeploymentOfThePythonService(t *testing.T) {
	loaded, err := config.Load(config.DefaultFile, deployed(t, map[string]any{"aggregate_endpoint_allowlist": []string{"/authz/mapping"}}, "KUBERNETES_SERVICE_HOST=10.0.0.1", "WTS_SERVICE_HOST=10.0.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Server.URL != "https://commons.example.org/wts" || strings.Join(loaded.Server.Listen, " ") != ":80 :8000" || !loaded.Kube.Enabled {
		t.Errorf(`got %+v, %+v; want loaded.Server.URL "https://commons.example.org/wts", strings.Join(loaded.Server.Listen, " ") ":80 :8000", loaded.Kube.Enabled`, loaded.Server, loaded.Kube)
	}
	fence := loaded.Providers["default"].WithDefaults("default")
	if fence.Type != provider.TypeFence || fence.Issuer != "https://commons.example.org/user" || fence.BaseURL != "https://commons.example.org" ||
		fence.UsernameClaim != "context.user.name" || !fence.NeverRotates() || strings.Join(fence.Scopes, " ") != "openid data user" {
		t.Errorf(`got %+v; want fence.Type provider.TypeFence, fence.Issuer "https://commons.example.org/user", fence.BaseURL "https://commons.example.org", fence.UsernameClaim "context.user.name", fence.NeverRotates(), strings.Join(fence.Scopes, " ") "openid data user"`, fence)
	}
	if loaded.Broker.DefaultProvider != "default" || !loaded.Database.Gen3.Providers["default"] || string(loaded.Database.Gen3.EncryptionKey) != gen3Key || loaded.Keys == nil {
		t.Errorf(`got %+v; want loaded.Broker.DefaultProvider "default", loaded.Database.Gen3.Providers["default"], string(loaded.Database.Gen3.EncryptionKey) gen3Key, loaded.Keys != nil`, loaded.Database.Gen3)
	}
	if strings.Join(loaded.Aggregate.Endpoints, " ") != "/authz/mapping" {
		t.Errorf(`got %+v; want strings.Join(loaded.Aggregate.Endpoints, " ") "/authz/mapping"`, loaded.Aggregate)
	}
	said := strings.Join(loaded.Sources, "\n")
	for _, want := range []string{"url = https://commons.example.org/wts, from wts_base_url in ", "database.url = postgres://wts:(set)@db.example.org:5432/wts_db, from sqlalchemy_database_uri in ", "providers.default = Fence at https://commons.example.org/user"} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(said, want) {
				t.Errorf("it does not say %q:\n%s", want, said)
			}
		})
	}
	for _, secret := range []string{"json-secret", gen3Key, "pw@", ":pw"} {
		t.Run(secret, func(t *testing.T) {
			if strings.Contains(said, secret) {
				t.Errorf("it says %q", secret)
			}
		})
	}
}

func TestWhereTheDatabaseIs(t *testing.T) {
	parts := func(password string) []string {
		return []string{"PGHOST=db", "PGUSER=u", "PGPASSWORD=" + password, "PGDB=d", "SQLALCHEMY_DATABASE_URI=postgresql://u:" + password + "@db:5432/d"}
	}
	creds := write(t, t.TempDir(), "dbcreds.json", `{"db_host": "db", "db_username": "u", "db_password": "p%41/@:?#[ é", "db_database": "d"}`)
	for name, row := range map[string]struct {
		change map[string]any
		env    []string
		want   string
	}{
		"an unescaped password":              {change: map[string]any{"sqlalchemy_database_uri": "(absent)"}, env: parts("p%41/@:?#[ é"), want: "postgres://u:p%2541%2F%40%3A%3F%23%5B%20%C3%A9@db:5432/d"},
		"the same, without its parts":        {change: map[string]any{"sqlalchemy_database_uri": "postgresql://u:p/@:?#w@db:5432/d"}, want: "postgres://u:p%2F%40%3A%3F%23w@db:5432/d"},
		"an escaped password":                {change: map[string]any{"sqlalchemy_database_uri": "postgresql://u:p%40w@db:5432/d"}, want: "postgres://u:p%40w@db:5432/d"},
		"a driver, a query and another port": {change: map[string]any{"sqlalchemy_database_uri": "postgresql+psycopg2://u:p@db:6432/d?sslmode=require"}, want: "postgres://u:p@db:6432/d?sslmode=require"},
		"no port":                            {change: map[string]any{"sqlalchemy_database_uri": "postgres://u:p@db/d"}, want: "postgres://u:p@db:5432/d"},
		"parts of another database":          {change: map[string]any{"sqlalchemy_database_uri": "postgresql://u:p@db:5432/d"}, env: []string{"PGHOST=elsewhere", "PGUSER=x", "PGPASSWORD=y", "PGDB=z"}, want: "postgres://u:p@db:5432/d"},
		"a file of credentials wins":         {env: []string{"POSTGRES_CREDS_FILE=" + creds}, want: "postgres://u:p%2541%2F%40%3A%3F%23%5B%20%C3%A9@db:5432/d"},
	} {
		t.Run(name, func(t *testing.T) {
			loaded, err := config.Load(config.DefaultFile, deployed(t, row.change, row.env...))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(loaded.Database.URL); got != row.want {
				t.Errorf("got %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestProvidersOfADeployment(t *testing.T) {
	option := func(name string, params map[string]string) map[string]any {
		return map[string]any{"name": name, "params": params}
	}
	loaded, err := config.Load(config.DefaultFile, deployed(t, map[string]any{
		"external_oidc": []any{
			map[string]any{"base_url": "https://other.example.org/", "oidc_client_id": "other-id", "oidc_client_secret": "other-secret", "redirect_uri": "https://parent.example.org/back", "login_options": map[string]any{
				"b-option": option("B", map[string]string{"idp": "fence", "shib_idp": "urn:x"}), "a-option": option("A", nil),
			}},
			map[string]any{"base_url": "https://login.example.org/base/", "login_options": map[string]any{
				"keycloak": option("Keycloak", map[string]string{"idp": "keycloak", "auth_url": "auth/realms/x/auth", "token_url": "/token", "id_token_username": "preferred_username"}),
				"newer":    option("Newer", map[string]string{"auth_url": "a", "token_url": "t", "id_token_username_field": "sub", "id_token_username": "email", "scope": "openid offline_access"}),
			}},
		},
	}, "OIDC_CLIENT_ID=env-id", "OIDC_CLIENT_SECRET=env-secret"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]provider.Config{}
	for id, one := range loaded.Providers {
		got[id] = one
	}
	want := map[string]provider.Config{
		"default":  {Type: "fence", Name: "fence", Issuer: "https://commons.example.org/user", ClientID: "json-id", ClientSecret: "json-secret"},
		"a-option": {Type: "fence", Name: "A", BaseURL: "https://other.example.org/", RedirectURI: "https://parent.example.org/back", Position: 1, Callback: "shared", ClientID: "other-id", ClientSecret: "other-secret", LoginParams: map[string]string{}},
		"b-option": {Type: "fence", Name: "B", BaseURL: "https://other.example.org/", RedirectURI: "https://parent.example.org/back", Position: 2, Callback: "shared", ClientID: "other-id", ClientSecret: "other-secret", LoginParams: map[string]string{"idp": "fence", "shib_idp": "urn:x"}},
		"keycloak": {Name: "Keycloak", BaseURL: "https://login.example.org/base/", AuthURL: "https://login.example.org/base/auth/realms/x/auth", TokenURL: "https://login.example.org/token", Position: 3, Callback: "shared", ClientID: "env-id", ClientSecret: "env-secret", Scopes: []string{"openid", "data", "user"}, UsernameClaim: "preferred_username"},
		"newer":    {Name: "Newer", BaseURL: "https://login.example.org/base/", AuthURL: "https://login.example.org/base/a", TokenURL: "https://login.example.org/base/t", Position: 4, Callback: "shared", ClientID: "env-id", ClientSecret: "env-secret", Scopes: []string{"openid", "offline_access"}, UsernameClaim: "sub"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if issuer := got["a-option"].WithDefaults("a-option").Issuer; issuer != "https://other.example.org/user" {
		t.Errorf("the issuer of a Fence: %s", issuer)
	}
	if gen3 := loaded.Database.Gen3.Providers; !gen3["a-option"] || gen3["keycloak"] {
		t.Errorf("known not to rotate: %v", gen3)
	}
}

// What Python would send as it stands must not keep the service from starting.
func TestOddLoginParameters(t *testing.T) {
	loaded, err := config.Load(config.DefaultFile, deployed(t, map[string]any{"external_oidc": []any{map[string]any{
		"base_url": "https://other.example.org", "login_options": map[string]any{"odd": map[string]any{"name": "Odd", "params": map[string]any{
			"scope": "openid user", "state": "mine", "max_age": 300, "flag": true, "nothing": nil, "idp": "x",
		}}}, "oidc_client_id": "id", "oidc_client_secret": "s",
	}}}))
	if err != nil {
		t.Fatal(err)
	}
	odd := loaded.Providers["odd"]
	if diff := cmp.Diff(map[string]string{"max_age": "300", "flag": "true", "idp": "x"}, odd.LoginParams); diff != "" || strings.Join(odd.Scopes, " ") != "openid user" {
		t.Errorf(`got %s %v; want no diff, strings.Join(odd.Scopes, " ") "openid user"`, diff, odd.Scopes)
	}
	if !strings.Contains(strings.Join(loaded.Sources, "\n"), "the parameter state is passed over") {
		t.Error("what is passed over goes unsaid")
	}
}

func TestFaultsOfADeployment(t *testing.T) {
	for name, row := range map[string]struct {
		change map[string]any
		env    []string
		want   string
	}{
		"nothing about the client":           {change: map[string]any{"oidc_client_id": "(absent)"}, want: "OIDC_CLIENT_ID: is missing (of provider default: neither oidc_client_id in SECRET_CONFIG nor OIDC_CLIENT_ID in the environment)"},
		"an empty value hides the variable":  {change: map[string]any{"oidc_client_id": ""}, env: []string{"OIDC_CLIENT_ID=x"}, want: "is empty, which hides the environment's"},
		"a null hides the variable":          {change: map[string]any{"oidc_client_secret": nil}, env: []string{"OIDC_CLIENT_SECRET=x"}, want: "OIDC_CLIENT_SECRET: is missing"},
		"no public address":                  {change: map[string]any{"wts_base_url": ""}, want: "WTS_BASE_URL: is missing"},
		"no Fence":                           {change: map[string]any{"fence_base_url": "(absent)"}, want: "FENCE_BASE_URL: is missing"},
		"no encryption key":                  {change: map[string]any{"encryption_key": "(absent)"}, want: "ENCRYPTION_KEY: is missing"},
		"an encryption key that is none":     {change: map[string]any{"encryption_key": "canary"}, want: "gen3.encryption_key: a Fernet key is 32 bytes in base64"},
		"no database":                        {change: map[string]any{"sqlalchemy_database_uri": "(absent)"}, want: "POSTGRES_CREDS_FILE or SQLALCHEMY_DATABASE_URI: is missing"},
		"a database of another kind":         {change: map[string]any{"sqlalchemy_database_uri": "mysql://u:canary@h/d"}, want: "SQLALCHEMY_DATABASE_URI: is not like postgresql://"},
		"a file of credentials that is gone": {env: []string{"POSTGRES_CREDS_FILE=/nowhere/dbcreds.json"}, want: "POSTGRES_CREDS_FILE: open /nowhere/dbcreds.json"},
		"an external one without base_url":   {change: map[string]any{"external_oidc": []any{map[string]any{"login_options": map[string]any{}}}}, want: "external_oidc[0].base_url: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.DefaultFile, deployed(t, row.change, row.env...))
			if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v\nwant %s", err, row.want)
			}
		})
	}
	if _, err := config.Load(config.DefaultFile, []string{"SECRET_CONFIG=" + write(t, t.TempDir(), "appcreds.json", `{"a": "canary`)}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if _, err := config.Load(config.DefaultFile, []string{"SECRET_CONFIG=/nowhere/appcreds.json"}); err == nil || !strings.Contains(err.Error(), "SECRET_CONFIG: open /nowhere") {
		t.Errorf("got %v", err)
	}
}

// The database's commands run where the provider's client is not known, and our own file lies over all.
func TestTheDatabasesPartAlone(t *testing.T) {
	env := deployed(t, map[string]any{"oidc_client_id": "(absent)", "oidc_client_secret": "(absent)"})
	loaded, err := config.LoadForDatabase(config.DefaultFile, env)
	if err != nil || loaded.Keys == nil || !loaded.Database.Gen3.Providers["default"] {
		t.Errorf(`got %+v, %v; want loaded.Keys != nil, loaded.Database.Gen3.Providers["default"]`, loaded.Database.Gen3, err)
	}
	file := write(t, t.TempDir(), "wts.yaml", "gen3: {mirror: false}\naudiences: {storage: {}}\nproviders: {default: {client_id: ours, client_secret: s}}\n")
	loaded, err = config.Load(file, append(env, "WTS_LISTEN=127.0.0.1:1"))
	if err != nil || *loaded.Gen3.Mirror || loaded.Providers["default"].ClientID != "ours" || loaded.Server.Listen[0] != "127.0.0.1:1" || len(loaded.Audiences) != 1 {
		t.Errorf(`got %+v, %v; want not *loaded.Gen3.Mirror, loaded.Providers["default"].ClientID "ours", loaded.Server.Listen[0] "127.0.0.1:1", len(loaded.Audiences) 1`, loaded, err)
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "other.yaml"), env); err == nil {
		t.Error("a file that was named and is missing")
	}
}

// What the Python service starts with, wts starts with.
func TestADeploymentThatPythonStartsWith(t *testing.T) {
	loaded, err := config.Load(config.DefaultFile, deployed(t, map[string]any{
		"aggregate_endpoint_allowlist": []any{"authz/mapping", "/user/user/", "", "/a b"},
		"external_oidc": []any{map[string]any{"base_url": "https://other.example.org", "login_options": map[string]any{
			"with blank": map[string]any{"name": "B"}, "with/slash": map[string]any{"name": "S"},
		}}},
	}, "OIDC_CLIENT_ID=env-id", "OIDC_CLIENT_SECRET=env-secret"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/authz/mapping", "/user/user"}, loaded.Aggregate.Endpoints); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{`[0]: "authz/mapping" lacks the slash`, `[2]: "" is not a path`, `[3]: "/a b" is not a path`, `"with blank"`, `"with/slash"`} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(strings.Join(loaded.Warnings, "\n"), want) {
				t.Errorf("no warning has %s:\n%s", want, strings.Join(loaded.Warnings, "\n"))
			}
		})
	}
}
