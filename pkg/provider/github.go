package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// GitHub is no OpenID provider: no token says who a person is, which its API does
// (https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps). An OAuth app gives an access
// token that does not end, and no refresh token; a GitHub App gives both, which end after eight hours and six months
// (https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens).
// The organisations that a person is in are their groups.

const publicGitHub = "https://github.com"

// withGitHubDefaults fills in what is the same for all of GitHub. Base URL is that of an own server (GitHub Enterprise
// Server).
func (c Config) withGitHubDefaults() Config {
	c.BaseURL = cmp.Or(strings.TrimRight(c.BaseURL, "/"), publicGitHub)
	c.Issuer = cmp.Or(c.Issuer, c.BaseURL) // the name by which its people are known
	c.ClientAuth = cmp.Or(c.ClientAuth, AuthPost)
	c.UsernameClaim = cmp.Or(c.UsernameClaim, "login")
	c.GroupsClaim = cmp.Or(c.GroupsClaim, githubOrganisations)
	c.Quirks = cmp.Or(c.Quirks, "github")
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"read:org"}
	}
	return c
}

// githubOrganisations is the claim under which a person's organisations are found, beside those of its user object.
const githubOrganisations = "organisations"

// githubEndpoints are known without a document.
func (d *discovery) githubEndpoints() *endpoints {
	base := d.Config.BaseURL
	api := base + "/api/v3"
	if base == publicGitHub {
		api = "https://api.github.com"
	}
	return &endpoints{oauth: d.oauth(base+"/login/oauth/authorize", base+"/login/oauth/access_token"), userInfo: api, fixed: true}
}

// github asks GitHub's API.
type github struct{ *Provider }

// user asks GitHub whose an access token is, and which organisations they are in. A subject is GitHub's number for
// the person, which stays when the login is renamed, or is taken by another person.
func (p github) user(ctx context.Context, ends *endpoints, access secret.Text) (Identity, *Error) {
	claims := map[string]any{}
	if _, failure := p.get(ctx, ends.userInfo+"/user", access, &claims); failure != nil {
		return Identity{}, failure
	}
	number, _ := claims["id"].(json.Number)
	login, _ := claims["login"].(string)
	if number == "" || login == "" || textFlaw(login) != "" {
		return Identity{}, p.distrust("user", "the user object has no id, or no login")
	}
	claims["login"] = strings.ToLower(login) // as it is compared everywhere at GitHub
	organisations, failure := p.organisations(ctx, ends, access)
	hidden := failure != nil && (failure.Status == http.StatusForbidden || failure.Status == http.StatusNotFound) && failure.Outcome == Untrusted
	if failure != nil && !hidden {
		return Identity{}, failure
	}
	if !hidden { // else the token may not see them, which says nothing
		claims[githubOrganisations] = organisations
	}
	identity := Identity{Issuer: p.Config.Issuer, Subject: number.String(), Username: claimAt(claims, p.Config.UsernameClaim), Account: login}
	identity.Groups = p.Config.groupsOf(claims)
	claims["email_verified"] = true // what GitHub shows of it
	identity.Name, identity.Email = p.Config.calledOf(claims)
	identity.NameFlaw = p.Config.nameFlaw(claims, identity.Username)
	return identity, nil
}

// Accepts asks a provider that gives no refresh tokens whether it still accepts an access token. The errors are *Error:
// Refused where it does not.
func (p *Provider) Accepts(ctx context.Context, access secret.Text) error {
	if !p.Config.AccessIsGrant() {
		return nil
	}
	ends, err := p.discover(ctx)
	if err != nil {
		return err
	}
	var said struct{}
	if _, failure := (github{p}).get(ctx, ends.userInfo+"/user", access, &said); failure != nil {
		return failure
	}
	return nil
}

// AccessIsGrant tells a provider whose access tokens may have no end and no refresh token behind them: what ends them is
// found out by asking.
func (c Config) AccessIsGrant() bool { return c.Type == TypeGitHub }

// about is About at GitHub.
func (p github) about(ctx context.Context, ends *endpoints, access secret.Text, subject string) (Identity, error) {
	identity, failure := p.user(ctx, ends, access)
	switch {
	case failure != nil:
		return Identity{}, failure
	case identity.Subject != subject:
		return Identity{}, p.distrust("user", "it is about another person")
	}
	return identity.orNoGroups(), nil
}

// Organisations are read so many a page that a page fits maxDocument, each of them being up to a kilobyte; maxPages
// bounds the pages.
const (
	pageOfGroups = 50
	maxPages     = maxGroups / pageOfGroups
)

// organisations reads the organisations of a person that a token may see, a page at a time.
func (p github) organisations(ctx context.Context, ends *endpoints, access secret.Text) (all []any, failure *Error) {
	all = []any{}
	next := ends.userInfo + "/user/orgs?per_page=" + strconv.Itoa(pageOfGroups)
	for range maxPages {
		var page []struct{ Login string }
		header, failure := p.get(ctx, next, access, &page)
		if failure != nil {
			return nil, failure
		}
		for _, one := range page {
			all = append(all, strings.ToLower(one.Login))
		}
		if next = nextPage(header, ends.userInfo); next == "" {
			break
		}
	}
	return all, nil
}

var nextLink = regexp.MustCompile(`<([^>]+)>; *rel="next"`)

// A list is followed at the API alone: an address that it names elsewhere would be sent the person's token.

// nextPage is where a list goes on (RFC 8288), at the same API; empty at its end.
func nextPage(header http.Header, api string) string {
	found := nextLink.FindStringSubmatch(header.Get("Link"))
	if found == nil || !strings.HasPrefix(found[1], api+"/") {
		return ""
	}
	return found[1]
}

// get reads an answer of the API. A token that was revoked is refused with 401; one that may not see what is asked
// for gets 403 or 404; and who asks too often 403 or 429, with the time when they may again.
func (p github) get(ctx context.Context, address string, access secret.Text, into any) (http.Header, *Error) {
	const doing = "user"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, p.distrust(doing, "the endpoint is not a URL")
	}
	request.Header.Set("Authorization", "Bearer "+string(access))
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("X-Github-Api-Version", "2022-11-28")
	request.Header.Set("User-Agent", userAgent) // without one nothing is answered
	response, err := p.reader.Do(request)
	if err != nil {
		return nil, &Error{Provider: p.ID, Doing: doing, Outcome: Unknown, Reason: "it cannot be had: " + plain(err)}
	}
	defer response.Body.Close()
	failure := &Error{Provider: p.ID, Doing: doing, Status: response.StatusCode, RetryAfter: githubPause(response.Header)}
	switch status := response.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusUnauthorized:
		failure.Outcome, failure.Reason = Refused, "GitHub does not accept the token any more"
		return nil, failure
	case failure.RetryAfter > 0 && (status == http.StatusForbidden || status == http.StatusTooManyRequests):
		failure.Outcome = Throttled
		return nil, failure
	case status == http.StatusForbidden, status == http.StatusNotFound:
		failure.Outcome, failure.Reason = Untrusted, "the token may not see it"
		return nil, failure
	default:
		failure.Outcome = Unknown
		return nil, failure
	}
	decoder := json.NewDecoder(io.LimitReader(response.Body, maxDocument))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return nil, p.distrust(doing, "the answer is not the JSON that is expected")
	}
	return response.Header, nil
}

// Its rate is counted for a person and hour, so that waiting for it means waiting long: the caller goes on with what is
// known.

// githubPause is how long GitHub wants to be left alone: by Retry-After, or where nothing of the rate is left by when
// there is some again.
func githubPause(header http.Header) time.Duration {
	if pause := retryAfter(header); pause > 0 {
		return pause
	}
	if header.Get("X-Ratelimit-Remaining") != "0" {
		return 0
	}
	at, err := strconv.ParseInt(header.Get("X-Ratelimit-Reset"), 10, 64)
	if err != nil {
		return time.Minute
	}
	return min(max(time.Until(time.Unix(at, 0)), time.Second), time.Hour)
}
