package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
)

// presented notes for the audit which token a request presents, and takes the request out of its share: who presents
// what is no token takes none away from others.
func (a *apiTokens) presented(x *exchange, token apitoken.Token, kind string) error {
	x.event.Audience, x.event.Resource, x.event.Token = token.Audience, token.Resource, token.ID
	if token.ID == "" {
		return nil
	}
	x.event.UserID, x.event.Proof, x.event.Actor = token.UserID, string(authn.APIToken), "token "+token.ID
	x.share = "token " + token.ID
	return a.limits.take(x, kind, nil)
}

// self answers the token that is presented about itself, as it is worth today.
func (a *apiTokens) self(x *exchange) error {
	token, _, err := a.service.Present(x.Request.Context(), authn.BearerToken(x.Request), x.peer.Addr)
	if many := a.presented(x, token, reads); err == nil {
		err = many
	}
	if err != nil {
		return ofToken(err)
	}
	tellEnd(x, token.ExpiresAt)
	return x.json(http.StatusOK, view(token, time.Now()))
}

// rotateSelf lets a program rotate its own token, before it ends.
func (a *apiTokens) rotateSelf(x *exchange) error {
	overlap, err := readOverlap(x)
	if err != nil {
		return err
	}
	value := authn.BearerToken(x.Request)
	token, err := a.service.Check(x.Request.Context(), value, x.peer.Addr)
	if many := a.presented(x, token, changes); err == nil {
		err = many
	}
	if err != nil && !errors.Is(err, apitoken.ErrReplaced) {
		return ofToken(err)
	}
	token, fresh, err := a.service.RotateSelf(x.Request.Context(), value, x.peer.Addr, overlap)
	if err != nil {
		return ofToken(err)
	}
	x.record()
	shown := view(token, time.Now())
	shown.Token = fresh
	return x.json(http.StatusOK, shown)
}

// ofToken is an error of a token that is presented: one that is not known is not good, rather than not there.
func ofToken(err error) error {
	if errors.Is(err, apitoken.ErrUnknown) {
		return fmt.Errorf("%w: %w", authn.ErrBearer, err)
	}
	return err
}

// leaked is called by scanners that found tokens where none should be: each is revoked. The answer is what GitHub's
// secret scanning wants of a partner; the value itself is not repeated.
func (a *apiTokens) leaked(x *exchange) error {
	var sent []struct {
		Token  string `json:"token"`
		Type   string `json:"type"`
		URL    string `json:"url"`
		Source string `json:"source"`
	}
	if err := readBody(x, &sent); err != nil {
		return err
	}
	if len(sent) > 100 {
		return &inputError{"more than 100 reports at once"}
	}
	type verdict struct {
		TokenHash string `json:"token_hash"` // SHA-256, in hex
		Type      string `json:"token_type"`
		Label     string `json:"label"`
	}
	var failed error
	verdicts := make([]verdict, 0, len(sent))
	for _, report := range sent {
		where := report.URL
		if where == "" {
			where = report.Source
		}
		token, found, err := a.service.Report(x.Request.Context(), report.Token, where)
		if failed = errors.Join(failed, err); err != nil {
			continue // to the next, which may be revoked
		}
		if token.ID != "" {
			event := audit.Event{Action: audit.RevokeToken, Actor: "a report", UserID: token.UserID, Audience: token.Audience, Resource: token.Resource, Token: token.ID}
			alsoDone(x, event)
		}
		label := "false_positive"
		if found {
			label = "true_positive"
		}
		digest := apitoken.DigestOf(report.Token)
		verdicts = append(verdicts, verdict{TokenHash: fmt.Sprintf("%x", digest[:]), Type: cut(report.Type), Label: label})
	}
	if failed != nil {
		return failed
	}
	return x.json(http.StatusOK, verdicts)
}
