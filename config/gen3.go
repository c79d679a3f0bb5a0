package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/provider"
)

// deployment reads the configuration of Gen3's Python service as it is deployed (Gen3 contract 2 and 3):
// SECRET_CONFIG names a JSON file, the environment stands behind it. What it finds becomes a tree in
// our own settings, over which our own file and WTS_ variables are laid.
type deployment struct {
	env    map[string]string
	path   string         // of the JSON file
	values map[string]any // what it holds
	tree   map[string]any
	// said is where each setting came from, for `wts check-config`; no secret is in it.
	said   []string
	faults []error
	// warnings are of what the Python service takes and this one does not.
	warnings []string
	// clientless are the providers whose client the deployment does not say; our own file may.
	clientless map[string]error
}

// isGen3 tells a deployment of the Python service by its environment.
func isGen3(env map[string]string) bool {
	return env["SECRET_CONFIG"] != "" || env["FENCE_BASE_URL"] != ""
}

func readGen3(environ []string) *deployment {
	g := &deployment{env: map[string]string{}, tree: map[string]any{}, clientless: map[string]error{}}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		g.env[name] = value
	}
	if !isGen3(g.env) {
		return g
	}
	if g.path = g.env["SECRET_CONFIG"]; g.path != "" {
		g.values = g.readJSON("SECRET_CONFIG", g.path)
	}
	g.set("listen", []any{":80", ":8000"}, "both ports of the Python service's pod")
	if address, from := g.text(g.values, "WTS_BASE_URL"); address != "" {
		g.set("url", strings.TrimRight(address, "/"), from)
	} else {
		g.missing("WTS_BASE_URL", from)
	}
	g.database()
	if key, from := g.text(g.values, "ENCRYPTION_KEY"); key != "" {
		g.set("gen3", map[string]any{"encryption_key": key}, from)
	} else {
		g.missing("ENCRYPTION_KEY", from)
	}
	if paths := g.allowed(list(g.values["aggregate_endpoint_allowlist"])); len(paths) > 0 {
		g.set("aggregate", map[string]any{"endpoints": paths}, "aggregate_endpoint_allowlist in "+g.path)
	}
	if g.env["KUBERNETES_SERVICE_HOST"] != "" {
		g.set("kubernetes", map[string]any{"enabled": true}, "KUBERNETES_SERVICE_HOST: this is a pod; those of every namespace count, as they did")
	}
	g.set("session", map[string]any{"idle": "1h"}, "the portal has sessions of its own: those of wts are for its logins and pages")
	g.providers()
	return g
}

// set puts a setting into the tree and notes where it is from.
func (g *deployment) set(name string, value any, from string) {
	g.tree[name] = value
	shown := "(set)"
	switch value := value.(type) {
	case string:
		shown = value
	case []any:
		shown = strings.Trim(fmt.Sprint(value), "[]")
	}
	g.said = append(g.said, fmt.Sprintf("%s = %s, from %s", name, shown, from))
}

func (g *deployment) missing(name, looked string) {
	g.faults = append(g.faults, fmt.Errorf("%s: is missing (%s)", name, looked))
}

// text looks a value up as the Python service does: the JSON file wins, and an empty or null value in
// it is no reason to look at the environment. Where nothing is found, from says where it was sought.
func (g *deployment) text(values map[string]any, name string) (value, from string) {
	key := strings.ToLower(name)
	if found, there := values[key]; there {
		text, _ := found.(string)
		if text == "" {
			return "", key + " in " + g.path + " is empty, which hides the environment's"
		}
		return text, key + " in " + g.path
	}
	if g.env[name] != "" {
		return g.env[name], name + " in the environment"
	}
	return "", "neither " + key + " in SECRET_CONFIG nor " + name + " in the environment"
}

func (g *deployment) readJSON(setting, path string) (values map[string]any) {
	text, err := os.ReadFile(path)
	if err == nil && len(text) > maxFile {
		err = errors.New("the file is larger than 1 MiB")
	}
	if err == nil && json.Unmarshal(text, &values) != nil {
		err = fmt.Errorf("%s is not a JSON object", path) // its text is not repeated: it is full of secrets
	}
	if err != nil {
		g.faults = append(g.faults, fmt.Errorf("%s: %w", setting, err))
	}
	return values
}

func list(value any) []any {
	items, _ := value.([]any)
	return items
}

// allowed are the paths of the allow-list. The Python service starts with any list, and so does this one: an
// entry without a slash is given one, and one that is no path is left out.
func (g *deployment) allowed(entries []any) (paths []any) {
	for i, entry := range entries {
		text, _ := entry.(string)
		path := "/" + strings.Trim(text, "/")
		switch {
		case (aggregate.Config{Endpoints: []string{path}}).Validate() != nil:
			g.warnings = append(g.warnings, fmt.Sprintf("aggregate_endpoint_allowlist[%d]: %q is not a path like /authz/mapping, and is left out", i, text))
			continue
		case !strings.HasPrefix(text, "/"):
			g.warnings = append(g.warnings, fmt.Sprintf("aggregate_endpoint_allowlist[%d]: %q lacks the slash at its beginning, and is read as %s", i, text, path))
		}
		paths = append(paths, path)
	}
	return paths
}

// database finds the database: POSTGRES_CREDS_FILE wins over SQLALCHEMY_DATABASE_URI.
func (g *deployment) database() {
	if path, from := g.text(g.values, "POSTGRES_CREDS_FILE"); path != "" {
		values := g.readJSON("POSTGRES_CREDS_FILE", path)
		part := func(name string) string {
			text, _ := values[name].(string)
			if text == "" && values != nil {
				g.faults = append(g.faults, fmt.Errorf("POSTGRES_CREDS_FILE: %s lacks %s", path, name))
			}
			return text
		}
		g.setDatabase(part("db_host"), part("db_username"), part("db_password"), part("db_database"), "", path+", named by "+from)
		return
	}
	uri, from := g.text(g.values, "SQLALCHEMY_DATABASE_URI")
	if uri == "" {
		g.missing("POSTGRES_CREDS_FILE or SQLALCHEMY_DATABASE_URI", from)
		return
	}
	// The chart puts the URI together without escaping anything, so that the parts are better.
	host, user, password, name := g.env["PGHOST"], g.env["PGUSER"], g.env["PGPASSWORD"], g.env["PGDB"]
	if host != "" && uri == "postgresql://"+user+":"+password+"@"+host+":5432/"+name {
		g.setDatabase(host, user, password, name, "", "PGHOST, PGUSER, PGPASSWORD and PGDB in the environment, of which SQLALCHEMY_DATABASE_URI is made")
		return
	}
	g.takeURI(uri, from)
}

// takeURI takes a URI apart as SQLAlchemy does, which wants nothing escaped in a password but "@";
// that one too is taken as it stands.
func (g *deployment) takeURI(uri, from string) {
	scheme, rest, ok := strings.Cut(uri, "://")
	dialect, _, _ := strings.Cut(scheme, "+")
	at := strings.LastIndex(rest, "@")
	if !ok || dialect != "postgresql" && dialect != "postgres" || at < 0 {
		g.faults = append(g.faults, errors.New("SQLALCHEMY_DATABASE_URI: is not like postgresql://user:password@host:5432/name"))
		return
	}
	user, password, _ := strings.Cut(rest[:at], ":")
	host, name, _ := strings.Cut(rest[at+1:], "/")
	name, query, _ := strings.Cut(name, "?")
	g.setDatabase(host, unescaped(user), unescaped(password), name, query, from)
}

func unescaped(text string) string {
	if clear, err := url.PathUnescape(text); err == nil {
		return clear
	}
	return text
}

func (g *deployment) setDatabase(host, user, password, name, query, from string) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "5432")
	}
	address := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: host, Path: "/" + name, RawQuery: query}
	g.tree["database"] = map[string]any{"url": address.String()}
	g.said = append(g.said, fmt.Sprintf("database.url = postgres://%s:(set)@%s/%s, from %s", user, host, name, from))
}

// providers are the default Fence, and those of external_oidc.
func (g *deployment) providers() {
	all := map[string]any{}
	base, from := g.text(g.values, "FENCE_BASE_URL")
	if base == "" {
		g.missing("FENCE_BASE_URL", from)
	} else {
		all[defaultID] = g.withClient(defaultID, g.values, map[string]any{
			"type": provider.TypeFence, "name": "fence", "issuer": strings.TrimRight(base, "/"),
		}, from)
	}
	position := 0
	for i, item := range list(g.values["external_oidc"]) {
		entry, _ := item.(map[string]any)
		base, from := g.text(entry, "BASE_URL")
		options, _ := entry["login_options"].(map[string]any)
		if base == "" {
			g.faults = append(g.faults, fmt.Errorf("external_oidc[%d].base_url: is missing", i))
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(options)) {
			option, _ := options[id].(map[string]any)
			position++
			if strings.ContainsAny(id, "/ \t\n") {
				g.warnings = append(g.warnings, fmt.Sprintf("external_oidc[%d]: the id %q of a login option has a blank or a slash; it can have no callback of its own", i, id))
			}
			if id == defaultID {
				g.said = append(g.said, fmt.Sprintf("NOTE: external_oidc[%d] has a login option called default: it takes the place of the default provider, as it did", i))
			}
			all[id] = g.external(id, base, from, position, entry, option)
		}
	}
	g.tree["providers"], g.tree["default_provider"] = all, defaultID
}

const defaultID = "default"

// external is one login option: a Fence, or where auth_url and token_url are given any provider.
func (g *deployment) external(id, base, from string, position int, entry, option map[string]any) map[string]any {
	params, _ := option["params"].(map[string]any)
	text := func(name string) string { value, _ := params[name].(string); return value }
	// One redirect URI is registered for all (Gen3 contract 2.1).
	settings := map[string]any{"base_url": base, "position": position, "callback": provider.CallbackShared}
	if name, _ := option["name"].(string); name != "" {
		settings["name"] = name
	}
	if redirect, _ := g.text(entry, "REDIRECT_URI"); redirect != "" {
		settings["redirect_uri"] = redirect
	}
	if text("auth_url") == "" || text("token_url") == "" {
		settings["type"] = provider.TypeFence
		login := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(params)) {
			switch {
			case name == "scope":
				settings["scopes"] = asAny(strings.Fields(text(name)))
			case provider.Reserved(name):
				g.said = append(g.said, fmt.Sprintf("NOTE: providers.%s: the parameter %s is passed over: it is for wts to set", id, name))
			case params[name] != nil:
				login[name] = fmt.Sprint(params[name])
			}
		}
		settings["login_params"] = login
		return g.withClient(id, entry, settings, from)
	}
	settings["auth_url"], settings["token_url"] = joined(base, text("auth_url")), joined(base, text("token_url"))
	settings["scopes"] = asAny(strings.Fields(firstOf(text("scope"), "openid data user")))
	settings["username_claim"] = firstOf(text("id_token_username_field"), text("id_token_username"), "email")
	return g.withClient(id, entry, settings, from)
}

// withClient adds the client: the entry's own, else the environment's, which is the default one's.
func (g *deployment) withClient(id string, values, settings map[string]any, from string) map[string]any {
	client, clientFrom := g.text(values, "OIDC_CLIENT_ID")
	secret, secretFrom := g.text(values, "OIDC_CLIENT_SECRET")
	switch {
	case client == "":
		g.clientless[id] = fmt.Errorf("OIDC_CLIENT_ID: is missing (of provider %s: %s)", id, clientFrom)
	case secret == "":
		g.clientless[id] = fmt.Errorf("OIDC_CLIENT_SECRET: is missing (of provider %s: %s)", id, secretFrom)
	}
	settings["client_id"], settings["client_secret"] = client, secret
	issuer, _ := settings["issuer"].(string)
	commons, _ := settings["base_url"].(string)
	kind := "OpenID Connect"
	if settings["type"] == provider.TypeFence {
		kind = "Fence"
	}
	g.said = append(g.said, fmt.Sprintf("providers.%s = %s at %s, from %s; its client from %s", id, kind, firstOf(issuer, commons), from, clientFrom))
	return settings
}

// joined resolves an address against the base, as Python's urljoin does.
func joined(base, reference string) string {
	parsed, err := url.Parse(base)
	if err != nil {
		return reference
	}
	resolved, err := parsed.Parse(reference)
	if err != nil {
		return reference
	}
	return resolved.String()
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

func asAny(texts []string) (all []any) {
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

// merge lays one tree over another.
func merge(under, over map[string]any) map[string]any {
	for name, value := range over {
		lower, both := under[name].(map[string]any)
		if upper, ok := value.(map[string]any); ok && both {
			under[name] = merge(lower, upper)
			continue
		}
		under[name] = value
	}
	return under
}
