package server

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/issuer"
)

// defaultLife is the life that a caller can count on who asks for none.
const defaultLife = 5 * time.Minute

// tokens answers /token.
type tokens struct {
	broker          *broker.Broker
	issuer          *issuer.Issuer
	limits          *limits
	defaultAudience string // for requests that name neither an audience nor an idp
}

// tokenWanted is what a request of /token asks for.
type tokenWanted struct {
	idp      string
	idpNamed bool
	audience string // empty: the provider's own token
	provider string // the id of the idp; empty where there is no such one
	// Of an integration: the datasets that are asked for, all where there is none, and the person's address.
	datasets []string
	address  netip.Addr
}

// wanted reads what is asked for, once for each request. A provider that is not configured is no error yet: who asks
// is judged before what is asked for.
func (t *tokens) wanted(x *exchange) (want tokenWanted) {
	want.idp, want.idpNamed = x.param("idp")
	want.audience, _ = x.param("audience")
	if want.audience == "" && !want.idpNamed {
		want.audience = t.defaultAudience
	}
	if id, err := t.broker.Provider(want.idp); err == nil {
		want.provider = id
	}
	return want
}

// proofs reads what is asked for. It passes over a provider's bearer where the upstream token of the default
// provider is wanted: else a token of twenty minutes could renew itself for ever (Gen3 contract 1.2).
func (t *tokens) proofs(x *exchange, accepts authn.Accepts) authn.Accepts {
	x.want = t.wanted(x)
	if x.want.audience == "" {
		accepts.PassOverBearer = x.want.provider != "" && t.broker.IsDefault(x.want.provider)
	}
	return accepts
}

// token answers GET /token: an upstream access token, or for an audience one of our own.
func (t *tokens) token(x *exchange) error {
	want := x.want
	if err := t.scoped(x); err != nil {
		return err
	}
	tellEnd(x, x.caller.ExpiresAt)
	text, _ := x.param("expires")
	life, err := lifetime(text)
	if err != nil {
		return err
	}
	if want.audience != "" {
		return t.mint(x, life)
	}
	if want.provider == "" || want.idpNamed && want.idp == "" { // contract 1.2: an empty idp is no default here
		return unknownProvider(want.idp)
	}
	token, err := t.handout(x, life)
	if err != nil {
		return err
	}
	x.Writer.Header()["Content-Type"] = jsonType
	x.Writer.WriteHeader(http.StatusOK)
	x.out = append(append(x.out[:0], token.Body...), `,"token_type":"Bearer"`...)
	if !token.ExpiresAt.IsZero() {
		x.out = strconv.AppendInt(append(x.out, `,"expires_in":`...), int64(time.Until(token.ExpiresAt)/time.Second), 10)
	}
	x.out = append(x.out, "}\n"...)
	_, _ = x.Writer.Write(x.out) // a caller who went away meanwhile is nobody's error
	return nil
}

// handout hands on an access token of the provider that is wanted. The audit has it before the caller does.
func (t *tokens) handout(x *exchange, life time.Duration) (broker.Token, error) {
	want := x.want
	x.event.Provider = want.provider
	if life == 0 {
		life = defaultLife
	}
	refusal := func() error { return t.broker.Living(x.Request.Context(), x.caller.User.ID, want.provider) }
	if err := t.limits.take(x, handouts, refusal); err != nil {
		return broker.Token{}, err
	}
	token, err := t.broker.Token(x.Request.Context(), x.caller.User.ID, want.provider, life)
	if err != nil {
		return broker.Token{}, err
	}
	x.event.Token = hex.EncodeToString(token.SHA256[:])
	if token.Degraded {
		x.Header("Wts-Degraded", "the token lives, and no better one can be had at the moment")
	}
	tellGrantEnd(x, token)
	x.record()
	return token, nil
}

// tellGrantEnd says of a provider's token whose grant ends within seven days when it does: after that a person has to
// log in again.
func tellGrantEnd(x *exchange, token broker.Token) {
	if token.GrantEnds.IsZero() || time.Until(token.GrantEnds) >= 7*24*time.Hour {
		return
	}
	x.Header("Wts-Grant-Ends", token.GrantEnds.UTC().Format(time.RFC3339))
	if token.GrantEndExpected {
		x.Header("Wts-Grant-Ends-Expected", "true")
	}
}

// tellEnd says of an API token that ends within thirty days when it does, to the program that has it.
func tellEnd(x *exchange, ends time.Time) {
	if !ends.IsZero() && time.Until(ends) < 30*24*time.Hour {
		x.Header("Wts-Token-Expires", ends.UTC().Format(time.RFC3339))
	}
}

// scoped wants of an API token, and of a program's login, that it holds the scope for what it asks: token for tokens that wts mints, and
// provider:<id> for those of a provider; and that its user may still have such a token.
func (t *tokens) scoped(x *exchange) error {
	if x.caller.Scopes == nil { // no proof that scopes narrow
		return nil
	}
	needed := "token"
	if x.want.audience == "" {
		needed = "provider:" + x.want.provider
	}
	if !slices.Contains(x.caller.Scopes, needed) {
		return errTokenScope
	}
	if x.caller.Proof == authn.Login { // made within minutes, by what its person may do
		return nil
	}
	if policy, ok := t.issuer.APITokens(issuer.OwnAudience); !ok || !policy.Personal {
		return fmt.Errorf("%w: personal tokens are off", issuer.ErrAccess)
	}
	who, err := t.person(x, issuer.OwnAudience)
	if err != nil {
		return err
	}
	return t.issuer.Allow(issuer.OwnAudience, who, []string{needed})
}

// person is the caller, with their groups where an audience asks for them.
func (t *tokens) person(x *exchange, audience string) (who issuer.Person, err error) {
	who = issuer.Person{ID: x.caller.User.ID, Username: x.caller.User.Username}
	if t.issuer.AsksGroups(audience) {
		return about(x, t.broker, who)
	}
	return who, nil
}

// about adds what the default provider says of a person.
func about(x *exchange, connections *broker.Broker, who issuer.Person) (issuer.Person, error) {
	said, err := connections.About(x.Request.Context(), who.ID)
	who.Groups, who.Subject, who.Name, who.Email = said.Groups, said.Subject, said.Name, said.Email
	return who, err
}

// minted is the answer with a token of our own.
type minted struct {
	Token     string `json:"token"`
	TokenType string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"` // seconds
	Audience  string `json:"audience"`
}

// mint answers a request for a token of our own. Who asks was proven before; what they may have is the issuer's to say.
func (t *tokens) mint(x *exchange, life time.Duration) error {
	want := x.want
	x.event.Action, x.event.Audience = audit.Mint, cut(want.audience)
	if want.idpNamed {
		return badRequest("message", "idp and audience exclude each other: idp asks for a provider's token, audience for one that wts mints")
	}
	if !t.issuer.Audience(want.audience) {
		return badRequest("message", fmt.Sprintf("The audience %q is not registered", cut(want.audience)))
	}
	datasets, _ := x.param("datasets")
	address, _ := x.param("ip")
	if err := t.narrow(x, datasets, address); err != nil {
		return err
	}
	scope, _ := x.param("scope")
	token, err := t.minted(x, life, strings.Fields(scope))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, minted{Token: token.Value, TokenType: "Bearer", ExpiresIn: token.ExpiresIn, Audience: token.Audience})
}

// minted mints a token for the audience that is wanted. The audit has it before the caller does.
func (t *tokens) minted(x *exchange, life time.Duration, scopes []string) (issuer.Token, error) {
	want := x.want
	x.event.Action, x.event.Audience = audit.Mint, cut(want.audience)
	// A token of ours is tied to the living grant of its user. One that ran out by time lets API tokens go on for a while.
	unseen := time.Duration(0)
	if policy, ok := t.issuer.APITokens(want.audience); ok && x.caller.Proof == authn.APIToken {
		unseen = policy.MaxUnseen
	}
	defaultID, _ := t.broker.Provider("") // there always is one
	if err := t.broker.LivingWithin(x.Request.Context(), x.caller.User.ID, defaultID, unseen); err != nil {
		return issuer.Token{}, err
	}
	who, err := t.person(x, want.audience)
	if err != nil {
		return issuer.Token{}, err
	}
	refusal := func() error { return t.issuer.Allow(want.audience, who, scopes) }
	if err := t.limits.take(x, mints, refusal); err != nil {
		return issuer.Token{}, err
	}
	token, err := t.issuer.Mint(issuer.Request{
		Audience: want.audience, Person: who,
		ClientID: string(x.caller.Proof), Actor: issuer.Actor{Subject: x.caller.Actor},
		Scopes: scopes, Lifetime: life, Datasets: x.want.datasets, Address: x.want.address,
	})
	if err != nil {
		return issuer.Token{}, err
	}
	x.event.Token = token.ID
	x.record()
	return token, nil
}

// maxExpires keeps seconds within what a time.Duration holds; no token lives a century.
const maxExpires = 100 * 365 * 24 * 3600

// lifetime reads expires, in seconds; 0 where it is absent or empty (Gen3 contract 1.2, 1.4).
func lifetime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, badRequest("error", "expires has to be an integer")
	}
	if seconds <= 0 {
		return 0, badRequest("error", "expires has to be a positive number of seconds")
	}
	return time.Duration(min(seconds, maxExpires)) * time.Second, nil
}

// json renders a value.
func (x *exchange) json(status int, value any) error { return x.render(status, jsonType, value) }

// render answers with a value as JSON, under a type that says more.
func (x *exchange) render(status int, kind []string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("rendering an answer: %w", err)
	}
	x.Writer.Header()["Content-Type"] = kind
	x.Writer.WriteHeader(status)
	_, _ = x.Writer.Write(append(body, '\n')) // a caller who went away meanwhile is nobody's error
	return nil
}
