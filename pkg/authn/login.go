package authn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// A program's token is proven three times over: by the signature, which says that wts made it for this audience; by the
// login that it names, which its person or an operator may have ended since; and by the user, who may be disabled.

// ownAudience is the audience of tokens for this service itself (issuer.OwnAudience).
const ownAudience = "wts"

// login takes the caller for the person who let a program act for them, by the program's access token. The login is
// looked up through memory: one that its person has ended is refused everywhere within seconds, although its token is
// good for a few minutes more.
func (a *Authenticator) login(ctx context.Context, token string) (Caller, error) {
	claims, err := a.Minted(ctx, token, "")
	if err != nil {
		return Caller{}, err
	}
	var said struct {
		Session string `json:"sid"`
	}
	_ = claims.Decode(&said) // what was verified is JSON
	raw, err := hex.DecodeString(said.Session)
	if err != nil || len(raw) != len(SessionDigest{}) || !slices.Equal(claims.Audience, []string{ownAudience}) {
		return Caller{}, fmt.Errorf("%w: it is a token that this service made for another one", ErrBearer)
	}
	caller := Caller{Proof: Login, Actor: "login " + hex.EncodeToString(raw[:4])}
	session, err := a.sessions.load(context.WithoutCancel(ctx), SessionDigest(raw))
	switch {
	case errors.Is(err, ErrNoProof), err == nil && !a.sessions.now().Before(session.EndsAt):
		return caller, fmt.Errorf("%w: its login was ended", ErrBearer)
	case err != nil:
		return caller, err
	case session.Client == "" || session.Client != claims.ClientID || session.UserID != claims.Subject:
		return caller, fmt.Errorf("%w: its login is another one's", ErrBearer)
	}
	if caller.User, err = a.Owner(ctx, session.UserID); err != nil {
		return caller, err
	}
	caller.Since, caller.Scopes = session.CreatedAt, append([]string{}, claims.Scopes...)
	return caller, nil
}
