package provider

// quirk is a known way in which a provider differs from RFC 6749. Three tables say what an error means:
//   - verdicts (errors.go): a code that means the same at every provider, or that no other provider has;
//   - quirks: a code that means something else at one provider, which the operator names by quirks;
//   - deadGrants: a provider's own words in error_description, where its code alone says too little.
//
// To add to one of them: a line here, with its source; a row of TestQuirks (quirks_test.go) with the provider's own
// answer; and for a new name a word in the comments of Config.Quirks and of config/example.yaml.
type quirk struct {
	// verdicts are the error codes that mean something else there.
	verdicts map[string]Outcome
	// separateGrants: each login is a grant of its own, so that a new one does not take the place of the
	// former, which is revoked.
	separateGrants bool
	// scopeOnRefresh sends the scopes with each refresh.
	scopeOnRefresh bool
}

// quirks, by name; the empty name has none. What needs no switch is always so: an error code in an
// answer of status 200 (GitHub), a form instead of JSON, expires_in as a string or absent, no id_token
// on a refresh, HTML from a firewall.
var quirks = map[string]quirk{
	"": {},
	// GitHub Apps answer 200 with bad_refresh_token, and incorrect_client_credentials for a wrong secret.
	"github": {verdicts: map[string]Outcome{"bad_refresh_token": Refused, "incorrect_client_credentials": Misconfigured}},
	// Gitea says unauthorized_client of a refresh token that was revoked or used before.
	"gitea": {verdicts: map[string]Outcome{"unauthorized_client": Refused}},
	// Hydra says invalid_client while its database is down: nothing is wrong with the client then.
	// Each login there is a grant of its own.
	"hydra": {verdicts: map[string]Outcome{"invalid_client": Unexpected}, separateGrants: true},
	// Entra wants the scope with each refresh, and answers with a token for another API without it.
	"entra": {scopeOnRefresh: true},
}

// deadGrants are providers' own words for a dead grant where they do not say invalid_grant. The words are
// specific enough to show the provider by themselves, so that nothing needs to be configured.
var deadGrants = []struct {
	status int
	code   string
	says   string // a part of error_description
}{
	// Dex, server/refreshhandlers.go: revoked, spent or unknown; and beyond absoluteLifetime or
	// validIfNotUsedFor.
	{400, "invalid_request", "Refresh token is invalid or has already been claimed by another client"},
	{400, "invalid_request", "Refresh token expired"},
	// Fence, fence/oidc/grants/refresh_token_grant.py: its user was deleted.
	{400, "invalid_request", `There is no "user" for this token`},
}

// SeparateGrants tells whether each login at the provider is a grant of its own.
func (c Config) SeparateGrants() bool { return quirks[c.Quirks].separateGrants }
