package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// Login is the secret half of one authorization request; all of it belongs to one browser.
type Login struct {
	State    string
	Nonce    string
	Verifier string // RFC 7636 4.1
}

// NewLogin makes up a login's secrets.
func (p *Provider) NewLogin() Login {
	return Login{State: p.statePrefix + rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
}

// sharedPrefix begins the state of a login whose redirect URI is another host's, which sends the
// browser on to us by it: the first label of our host name (Gen3 contract 1.1).
func sharedPrefix(redirectURI, own string) string {
	shared, err := url.Parse(redirectURI)
	ours, err2 := url.Parse(own)
	if err != nil || err2 != nil || shared.Host == ours.Host {
		return ""
	}
	label, _, _ := strings.Cut(ours.Hostname(), ".")
	return label + "-"
}

// Tokens is what a token endpoint gave.
type Tokens struct {
	AccessToken  secret.Text
	RefreshToken secret.Text // empty where none came
	// Zero times are unknown: an access token without expires_in, a refresh token that states no end.
	IssuedAt, AccessExpiresAt, RefreshExpiresAt time.Time
	// IdentityFlaw says why the tokens of a refresh must not be handed out; empty where they may be.
	IdentityFlaw string
}

// Identity is who the provider says the person is. Issuer and subject name them for ever (OIDC
// Core 5.7); the username is what they are called today.
type Identity struct {
	Issuer, Subject, Username string
	// Account is what to show a person of it; empty where the provider says nothing that can be shown.
	Account string
	// Groups are those that the person is in; nil where the provider does not say them.
	Groups []string
	// Name is what they are called in full, and Email an address that the provider has verified; empty where it does not
	// say so.
	Name, Email string
	// NameFlaw says why Username must not name anybody; empty where it may. At a provider that only
	// is connected the name does not matter.
	NameFlaw string
	// NameOutage is why the name could not be asked for just now; nil where that is not the reason.
	NameOutage error
}

// LoginURL is where the person's browser goes: code flow, PKCE S256 whether or not the provider
// says that it knows it (RFC 9700 2.1.1).
func (p *Provider) LoginURL(ctx context.Context, login Login) (string, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(login.Verifier)}
	if p.Config.Type != TypeGitHub { // whose answer has nothing that repeats it
		options = append(options, oidc.Nonce(login.Nonce))
	}
	if p.Config.Prompt != "" {
		options = append(options, oauth2.SetAuthURLParam("prompt", p.Config.Prompt))
	}
	for name, value := range p.Config.LoginParams {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	return ends.oauth.AuthCodeURL(login.State, options...), nil
}

// CheckIssuer compares the callback's iss (RFC 9207 2.4) before the code is sent anywhere, so that
// a code of one provider never reaches another's token endpoint. Others are the issuers of the other
// providers: an iss among them is refused even where this provider's own is not known.
func (p *Provider) CheckIssuer(ctx context.Context, iss string, others []string) error {
	find := p.discover
	if iss != "" && p.Config.Issuer == "" {
		find = p.keyed // a document may state the issuer
	}
	ends, err := find(ctx)
	if err != nil {
		return err
	}
	own := p.Issuer()
	switch {
	case iss == "" && ends.issParam:
		return p.distrust("callback", "the issuer is missing from it, though the provider always sends it")
	case iss != "" && iss != own && (own != "" || slices.Contains(others, iss)):
		return p.distrust("callback", "it comes from another issuer")
	}
	return nil
}

// Exchange trades a code for tokens and the verified identity of the person. Errors are *Error.
func (p *Provider) Exchange(ctx context.Context, code string, login Login) (Tokens, Identity, error) {
	ends, err := p.keyed(ctx)
	if err != nil {
		return Tokens{}, Identity{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	issuedAt := p.now()
	said, failure := p.ask(ctx, "code exchange", ends, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {p.redirectURL}, "code_verifier": {login.Verifier},
	}, p.Config.ClientSecret, nil)
	if failure != nil {
		return Tokens{}, Identity{}, failure
	}
	if !said.usable() {
		return Tokens{}, Identity{}, p.distrust("code exchange", "the access token is missing, is no bearer token, or has characters that none may have")
	}
	tokens := read(said, issuedAt)
	if !p.Config.Identifies() {
		return tokens, Identity{NameFlaw: "the provider does not say who a person is"}, nil
	}
	if p.Config.Type == TypeGitHub {
		identity, failure := github{p}.user(ctx, ends, said.access)
		if failure != nil {
			return Tokens{}, Identity{}, failure
		}
		return tokens, identity, nil
	}
	identity, err := p.identify(ctx, ends, said, login.Nonce)
	if err != nil {
		return Tokens{}, Identity{}, err
	}
	return tokens, identity, nil
}

// identify verifies an id_token (OIDC Core 3.1.3.7): signature, issuer, audience and expiry by
// go-oidc; nonce and authorized party here.
func (p *Provider) identify(ctx context.Context, ends *endpoints, said answer, nonce string) (Identity, error) {
	const doing = "id_token"
	raw := string(said.idToken)
	if raw == "" {
		return Identity{}, p.distrust(doing, "none came; is openid among the scopes?")
	}
	var unreachable keysUnreachable
	token, err := ends.verifier.Verify(context.WithValue(ctx, keysUnreachableKey{}, &unreachable), raw)
	if err != nil {
		if unreachable {
			return Identity{}, &Error{Provider: p.ID, Doing: doing, Outcome: Unknown, Reason: "the provider's keys cannot be had"}
		}
		var expired *oidc.TokenExpiredError
		if errors.As(err, &expired) {
			return Identity{}, p.distrust(doing, "it has expired; compare the clocks")
		}
		return Identity{}, p.distrust(doing, "its signature, issuer, audience or form does not hold")
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return Identity{}, p.distrust(doing, "its claims cannot be read")
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(nonce)) != 1 {
		return Identity{}, p.distrust(doing, "its nonce is of another login")
	}
	party, named := claims["azp"].(string)
	if named && party != p.Config.ClientID || !named && len(token.Audience) > 1 {
		return Identity{}, p.distrust(doing, "its authorized party is not this client")
	}
	if token.Subject == "" || textFlaw(token.Subject) != "" {
		return Identity{}, p.distrust(doing, "its subject "+cmp.Or(textFlaw(token.Subject), "is missing"))
	}
	identity := Identity{Issuer: token.Issuer, Subject: token.Subject, Username: claimAt(claims, p.Config.UsernameClaim), Account: accountOf(claims)}
	identity.Groups = p.Config.groupsOf(claims)
	identity.Name, identity.Email = p.Config.calledOf(claims)
	identity.NameFlaw = p.Config.nameFlaw(claims, identity.Username)
	if identity.NameFlaw != "" && ends.userInfo != "" {
		identity.NameFlaw, identity.Username, identity.NameOutage = p.completeName(ctx, ends, said.access, token.Subject, claims)
	}
	if identity.NameFlaw == "" {
		identity.Account = identity.Username
	}
	return identity, nil
}

// accountOf is what a person is called by the claims that are meant to be shown (OIDC Core 5.1).
func accountOf(claims map[string]any) string {
	for _, name := range []string{"preferred_username", "email", "name"} {
		if text, _ := claims[name].(string); text != "" && textFlaw(text) == "" {
			return text
		}
	}
	return ""
}

// calledOf is a person's full name and their address (OIDC Core 5.1), as far as they can be shown. An address that the
// provider has not verified may be anybody's.
func (c Config) calledOf(claims map[string]any) (name, email string) {
	name, _ = claims["name"].(string)
	email, _ = claims["email"].(string)
	if verified := claims["email_verified"]; verified != true && verified != "true" && !c.TrustUnverifiedEmail || textFlaw(email) != "" {
		email = ""
	}
	if textFlaw(name) != "" {
		name = ""
	}
	return name, email
}

// completeName asks UserInfo for claims that the id_token lacks, as many providers leave them out there
// when they give an access token (OIDC Core 5.4). Its sub has to be the id_token's (OIDC Core 5.3.2).
func (p *Provider) completeName(ctx context.Context, ends *endpoints, access secret.Text, subject string, claims map[string]any) (flaw, username string, outage error) {
	found, failure := p.userInfo(ctx, ends, access)
	switch {
	case failure != nil && failure.Outcome == Untrusted:
		return failure.Reason, "", nil
	case failure != nil:
		return failure.Reason, "", failure
	case found["sub"] != subject:
		return "UserInfo is about another person than the id_token", "", nil
	}
	for name, value := range claims {
		found[name] = value // what was signed wins
	}
	username = claimAt(found, p.Config.UsernameClaim)
	return p.Config.nameFlaw(found, username), username, nil
}

// userInfo reads the person's claims (OIDC Core 5.3).
func (p *Provider) userInfo(ctx context.Context, ends *endpoints, access secret.Text) (map[string]any, *Error) {
	const doing = "userinfo"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, ends.userInfo, nil)
	if err != nil {
		return nil, p.distrust(doing, "the endpoint is not a URL")
	}
	request.Header.Set("Authorization", "Bearer "+string(access))
	request.Header.Set("Accept", "application/json")
	response, err := p.reader.Do(request)
	if err != nil {
		return nil, &Error{Provider: p.ID, Doing: doing, Outcome: Unknown, Reason: "UserInfo cannot be had: " + plain(err)}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		outcome := Untrusted
		if response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests {
			outcome = Unknown
		}
		return nil, &Error{Provider: p.ID, Doing: doing, Outcome: outcome, Status: response.StatusCode, Reason: "the id_token lacks the name, and UserInfo refuses to say it"}
	}
	claims := map[string]any{}
	if err := json.NewDecoder(response.Body).Decode(&claims); err != nil {
		return nil, p.distrust(doing, "the id_token lacks the name, and UserInfo does not answer with JSON")
	}
	return claims, nil
}

// nameFlaw judges the name. Pods are matched to people by it, so that an address which anyone could
// have typed in at the provider must not become one.
func (c Config) nameFlaw(claims map[string]any, username string) string {
	if username == "" {
		return "neither id_token nor UserInfo has the claim " + c.UsernameClaim + "; see username_claim and scopes"
	}
	verified := claims["email_verified"]
	if flaw := textFlaw(username); flaw != "" {
		return "the claim " + c.UsernameClaim + " " + flaw
	}
	if c.UsernameClaim == "email" && verified != true && verified != "true" && !c.TrustUnverifiedEmail {
		return "the provider does not say that it has verified the person's e-mail address, which username_claim uses; see trust_unverified_email"
	}
	return ""
}

// maxName is how long a name or a subject may be, in bytes (OIDC Core 2 has 255 for a subject).
const maxName = 256

// textFlaw says why a text is no name: what a person cannot see in it would let two names look the same.
func textFlaw(text string) string {
	switch {
	case len(text) > maxName:
		return fmt.Sprintf("is longer than %d bytes", maxName)
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case strings.TrimSpace(text) != text:
		return "begins or ends with a blank"
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }):
		return "has a control or format character"
	}
	return ""
}

// Scopes are those that logins ask for.
func (p *Provider) Scopes() []string { return slices.Clone(p.Config.Scopes) }
