package authn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// A program's token is proven three times over: by the signature, which says that wts made it for this audience; by the
// login that it names, which its person or an operator may have ended since; and by the user, who may be disabled.

// ownAudience is the audience of tokens for this service itself (issuer.OwnAudience).
const ownAudience = "wts"

// login takes the caller for the person who let a program act for them, by the program's access token.
func (a *Authenticator) login(ctx context.Context, token string) (Caller, error) {
	claims, err := a.Minted(ctx, token, "")
	if err != nil {
		return Caller{}, err
	}
	if !slices.Equal(claims.Audience, []string{ownAudience}) {
		return Caller{}, fmt.Errorf("%w: it is a token that this service made for another one", ErrBearer)
	}
	session, err := a.loginOf(ctx, claims)
	caller := Caller{Proof: Login, Actor: "login " + hex.EncodeToString(session.Digest[:4])}
	if err != nil {
		return caller, err
	}
	if caller.User, err = a.Owner(ctx, session.UserID); err != nil {
		return caller, err
	}
	caller.Since, caller.Scopes = session.CreatedAt, append([]string{}, claims.Scopes...)
	return caller, nil
}

// Lives tells a verified token whose login, where it is of one, goes on. The errors are ErrBearer, and outages.
func (a *Authenticator) Lives(ctx context.Context, claims *verifier.Claims) error {
	_, err := a.loginOf(ctx, claims)
	if errors.Is(err, errNoLogin) {
		return nil
	}
	return err
}

// errNoLogin: a token names no login.
var errNoLogin = fmt.Errorf("%w: it is of no login", ErrBearer)

// loginOf is the login that a verified token names. It is looked up through memory: one that its person has ended is
// refused everywhere within seconds, although its token is good for a few minutes more.
func (a *Authenticator) loginOf(ctx context.Context, claims *verifier.Claims) (BrowserSession, error) {
	raw, err := hex.DecodeString(claims.Session)
	if err != nil || len(raw) != len(SessionDigest{}) {
		return BrowserSession{}, errNoLogin
	}
	session, err := a.sessions.load(context.WithoutCancel(ctx), SessionDigest(raw))
	switch {
	case errors.Is(err, ErrNoProof), err == nil && !a.sessions.now().Before(session.EndsAt):
		return BrowserSession{Digest: SessionDigest(raw)}, fmt.Errorf("%w: its login was ended", ErrBearer)
	case err != nil:
		return BrowserSession{}, err
	case session.Client == "" || session.Client != claims.ClientID || session.UserID != claims.Subject:
		return BrowserSession{Digest: SessionDigest(raw)}, fmt.Errorf("%w: its login is another one's", ErrBearer)
	}
	return session, nil
}
