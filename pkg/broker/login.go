package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
)

var (
	// ErrState: the callback is of no login that this browser began, or came too late.
	ErrState = errors.New("the login was not begun in this browser, or took too long")
	// ErrReplayed: the callback came before.
	ErrReplayed = errors.New("the login is over already")
	// ErrLoginFailed: the provider refused, or what it said does not hold. What wraps it says why.
	ErrLoginFailed = errors.New("the login did not succeed")
	// ErrSignInFirst: only somebody who is signed in can connect a further provider.
	ErrSignInFirst = errors.New("sign in first")
	// ErrSignedOut: whoever began to connect a provider is not signed in any more.
	ErrSignedOut = errors.New("the user who began the login is not signed in any more")
	// ErrNoCode: the provider sent the browser back without a code. It is ErrLoginFailed, and what wraps
	// it says what the provider said.
	ErrNoCode = fmt.Errorf("%w: it came back without a code", ErrLoginFailed)
	// ErrDeclined goes with ErrNoCode where the person, or who owns the account, did not allow it.
	ErrDeclined = errors.New("declined there")
	// ErrOtherAccount: the provider is connected, with another account.
	ErrOtherAccount = errors.New("the provider is connected with another account")
	// ErrOtherPerson: a login at the default provider is another user's than it has to be.
	ErrOtherPerson = errors.New("the login is another user's")
	// ErrRevoking: a disconnect of the same account is being told to the provider, which may end the grant
	// that this login gave.
	ErrRevoking = errors.New("a disconnect of the same account is under way")
	// ErrClientRejected: the provider rejects the credentials of this service; only an operator can fix it.
	ErrClientRejected = errors.New("the provider rejects this service's client credentials")
	// ErrUserDisabled: an operator shut the user out.
	ErrUserDisabled = errors.New("the user is disabled")
)

// OtherAccount is ErrOtherAccount, with what the person is called by the account that is connected and by the one that
// they logged in with; either may be empty.
type OtherAccount struct{ Connected, SignedIn string }

func (o *OtherAccount) Error() string { return ErrOtherAccount.Error() }

// Unwrap gives ErrOtherAccount.
func (o *OtherAccount) Unwrap() error { return ErrOtherAccount }

// FlowLife is how long a person may take to log in.
const FlowLife = 10 * time.Minute

// flow is one login under way. It travels sealed in a cookie of its own, so that any replica can
// finish it and two tabs do not get in each other's way.
type flow struct {
	provider.Login
	Provider string    `json:"p"`
	Redirect string    `json:"r,omitempty"`
	UserID   string    `json:"u,omitempty"` // who connects; empty at the default provider
	Begun    time.Time `json:"b"`
}

// Begun is a login under way: where to send the browser, and what it has to bring back.
type Begun struct {
	URL    string
	State  string // which the provider hands to the callback
	Sealed string // which the browser keeps meanwhile, in a cookie
}

// Begin starts a login. A provider other than the default one needs the id of a signed-in user.
func (b *Broker) Begin(ctx context.Context, providerID, userID, redirect string) (Begun, error) {
	upstream, ok := b.providers[providerID]
	switch {
	case !ok:
		return Begun{}, ErrProvider
	case b.IsDefault(providerID):
		userID = "" // whoever logs in there is who they are, whoever was signed in before
	case userID == "":
		return Begun{}, ErrSignInFirst
	}
	begun := flow{
		Login:    upstream.NewLogin(),
		Provider: providerID, Redirect: redirect, UserID: userID, Begun: b.now(),
	}
	address, err := upstream.LoginURL(ctx, begun.Login)
	if err != nil {
		return Begun{}, &Unavailable{RetryAfter: 5 * time.Second, Cause: err}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it is no HTML, and a cookie has no room to spare
	if err := encoder.Encode(begun); err != nil {
		return Begun{}, fmt.Errorf("a login's cookie: %w", err)
	}
	sealed := b.keys.Seal(text.Bytes(), flowPlace(begun.State))
	return Begun{URL: address, State: begun.State, Sealed: base64.RawURLEncoding.EncodeToString(sealed)}, nil
}

func flowPlace(state string) keyring.Place {
	return keyring.Place{Table: "cookie", Owner: state, Column: "login"}
}

// Callback is what came back from a provider: these parameters, and no other ever reaches the
// token endpoint.
type Callback struct {
	State, Code, Issuer, Error string
	// Provider is whose own callback was called; empty for the one that is shared.
	Provider string
	Sealed   string // the flow cookie's value, empty where the browser had none
	// Admit is asked once the login is known to be this browser's own, before anything is written or sent
	// because of it; its error ends the login.
	Admit func(provider string) error
	// Username is whose login at the default provider it has to be; empty for anybody's.
	Username string
	UserID   string // who is signed in, empty where nobody is
}

// Connected is a login that succeeded.
type Connected struct {
	UserID, Username string
	Provider         string
	Redirect         string
	Default          bool // a login at the default provider: a session begins
	// Account is what the person is called there, and Ends when the grant ends; empty and zero where that is not known.
	Account string
	Ends    time.Time
	// Lasting: a refresh token came, or was there; else the connection ends with the access token.
	Lasting bool
}

// Grant is what a login gave, to be stored.
type Grant struct {
	// UserID is who connects. It is empty at the default provider: there the identity says who it
	// is, and a user is made for one that is new.
	UserID   string
	Provider string
	Identity provider.Identity
	// Tokens are in times of this process's clock.
	Tokens provider.Tokens
	// Separate: each login at the provider is a grant of its own; the former one is to be revoked.
	Separate bool
	// Began is when the code was about to be exchanged: a revocation for the same person that was sent
	// since may have ended the new grant.
	Began time.Time
}

// Stored is a grant that was stored.
type Stored struct {
	UserID, Username string
	// Lasting: there is a refresh token, this login's or one from before, or the access token does not
	// expire: the connection does not end with its first access token.
	Lasting bool
	// Change is what the login made of the connection.
	Change Change
}

// LoginStore keeps logins. Each method is one transaction.
type LoginStore interface {
	// UseState notes a login's state, once: ErrReplayed where it was noted before. It may forget the
	// state after that long.
	UseState(ctx context.Context, digest []byte, life time.Duration) error
	// Connect stores a grant and returns whose it is. The errors are ErrOtherAccount, ErrUserDisabled,
	// ErrRevoking and, for a user that is gone, ErrSignInFirst.
	Connect(ctx context.Context, grant Grant) (Stored, error)
}

// Finish ends a login: the steps are in this order so that none of them can be skipped, and nothing
// is asked of a provider before the browser has shown that the login is its own.
func (b *Broker) Finish(ctx context.Context, back Callback) (Connected, error) {
	// 1. The login is this browser's own, and recent, and this is the callback of its provider: another
	// provider, which sent the browser to the one whose code this is, gets nothing (RFC 9700 4.4.2).
	begun, err := b.openFlow(back)
	if err != nil {
		return Connected{}, err
	}
	result := Connected{Provider: begun.Provider, Redirect: begun.Redirect, Default: b.IsDefault(begun.Provider)}
	if back.Admit != nil {
		if err := back.Admit(begun.Provider); err != nil {
			return result, err
		}
	}
	// 2. It is good for one callback, on any replica.
	digest := sha256.Sum256([]byte(begun.State))
	if err := b.logins.UseState(ctx, digest[:], FlowLife); errors.Is(err, ErrReplayed) {
		return result, ErrReplayed
	} else if err != nil {
		return result, outage(err)
	}
	// 3. Whoever began to connect a provider is still the one who is signed in.
	switch {
	case !result.Default && back.UserID == "":
		return result, ErrSignedOut
	case !result.Default && begun.UserID != back.UserID:
		return result, ErrSignInFirst
	}
	upstream, ok := b.providers[begun.Provider]
	if !ok {
		return result, ErrProvider
	}
	// 4. It is this provider that answers (RFC 9207).
	if err := upstream.CheckIssuer(ctx, back.Issuer, b.issuersBeside(begun.Provider)); err != nil {
		return result, loginFailure(err)
	}
	// 5. The provider said yes.
	if back.Error != "" || back.Code == "" {
		return result, noCode(back)
	}
	// 6. The code becomes a grant, and the id_token says whose it is.
	exchanged := time.Now()
	tokens, identity, err := upstream.Exchange(ctx, back.Code, begun.Login)
	if err != nil {
		return result, loginFailure(err)
	}
	if result.Default {
		result.Username = identity.Username // for the audit, whatever becomes of the login
		if err := checkName(result.Provider, identity, back.Username); err != nil {
			return result, err
		}
	}
	// 7. Stored, for that user and nobody else.
	stored, err := b.logins.Connect(ctx, Grant{
		UserID: begun.UserID, Provider: begun.Provider, Identity: identity, Tokens: tokens, Separate: upstream.Config.SeparateGrants(), Began: exchanged,
	})
	if stored.UserID != "" {
		result.UserID, result.Username, result.Lasting = stored.UserID, stored.Username, stored.Lasting
	}
	switch {
	case errors.Is(err, ErrRevoking):
		return result, &Unavailable{RetryAfter: revocationSlack, Cause: err}
	case errors.Is(err, ErrOtherAccount), errors.Is(err, ErrUserDisabled), errors.Is(err, ErrSignInFirst):
		return result, err
	case err != nil:
		return result, outage(err)
	}
	if !b.engine.alone {
		var person *Person
		if result.Default {
			person = &Person{UserID: stored.UserID, Identity: identity}
		}
		b.engine.kept.keep(stored.Change, person, upstream.Config.SeparateGrants())
	}
	b.Forget(result.UserID, result.Provider)
	result.Account, result.Ends = identity.Account, tokens.AccessExpiresAt
	return result, nil
}

// Who declined is told so, and not that something failed: it may have been the right thing to do. Where the provider says
// that it has trouble, trying again is what helps.

// noCode is why a callback has no code: the error codes of RFC 6749 4.1.2.1, and those of OIDC Core 3.1.2.6 that say
// that a person did not agree.
func noCode(back Callback) error {
	said := fmt.Errorf("%w: the provider answered %s", ErrNoCode, reasonOf(back))
	switch back.Error {
	case "access_denied", "consent_required", "interaction_required", "login_required":
		return fmt.Errorf("%w (%w)", said, ErrDeclined)
	case "server_error", "temporarily_unavailable":
		return fmt.Errorf("%w (%w)", said, ErrUnavailable)
	}
	return said
}

// checkName wants of the default provider a name that a user can have, and the same one as the caller's where the
// portal has said who is calling.
func checkName(providerID string, identity provider.Identity, caller string) error {
	switch {
	case identity.NameOutage != nil:
		return loginFailure(identity.NameOutage)
	case identity.NameFlaw != "":
		return fmt.Errorf("%w: %w", ErrLoginFailed, &provider.Error{
			Provider: providerID, Doing: "username", Outcome: provider.Untrusted, Reason: identity.NameFlaw,
		})
	case caller != "" && identity.Username != caller:
		return ErrOtherPerson
	}
	return nil
}

// openFlow opens the cookie of a login that a callback belongs to. Every fault is the same error: which one it was is
// of use to an attacker alone.
func (b *Broker) openFlow(back Callback) (flow, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(back.Sealed)
	if err != nil || back.State == "" {
		return flow{}, ErrState
	}
	text, err := b.keys.Open(sealed, flowPlace(back.State))
	if err != nil {
		return flow{}, ErrState
	}
	var begun flow
	if err := json.Unmarshal(text, &begun); err != nil {
		return flow{}, ErrState
	}
	age := b.now().Sub(begun.Begun)
	if subtle.ConstantTimeCompare([]byte(begun.State), []byte(back.State)) != 1 || age < -time.Minute || age >= FlowLife {
		return flow{}, ErrState
	}
	if back.Provider != b.callbackOf(begun.Provider) {
		return flow{}, ErrState
	}
	return begun, nil
}

// reasonOf says what a callback without a code said.
func reasonOf(back Callback) string {
	if back.Error != "" {
		return provider.CallbackCode(back.Error)
	}
	return "nothing else"
}

// loginFailure tells what the person can mend from what only time can.
func loginFailure(err error) error {
	var failure *provider.Error
	if errors.As(err, &failure) {
		switch failure.Outcome {
		case provider.Refused, provider.Untrusted:
			return fmt.Errorf("%w: %w", ErrLoginFailed, err)
		case provider.Misconfigured:
			return &Unavailable{RetryAfter: time.Minute, Cause: fmt.Errorf("%w: %w", ErrClientRejected, err)}
		case provider.Unsent, provider.Unknown, provider.Unanswered, provider.Throttled, provider.Unexpected:
		}
	}
	return &Unavailable{RetryAfter: 5 * time.Second, Cause: err}
}
