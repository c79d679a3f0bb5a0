package provider

// quirk is a known way in which a provider differs from RFC 6749. To add one: a line here, with its
// source, its name in Config.Quirks, and a case in quirks_test.go with the provider's own answer.
type quirk struct {
	// verdicts are the error codes that mean something else there.
	verdicts map[string]Outcome
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
	"hydra": {verdicts: map[string]Outcome{"invalid_client": Unexpected}},
	// Entra wants the scope with each refresh, and answers with a token for another API without it.
	"entra": {scopeOnRefresh: true},
}
