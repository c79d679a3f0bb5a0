package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// errNextRefused: the ProteinPaint server would refuse people once the next key signs.
var errNextRefused = errors.New("the ProteinPaint server does not accept a token that the next key signed")

// A key is replaced in three steps: the next one is made and shown, the ProteinPaint server is told of it, and then it
// begins to sign. The last step tries the next key at the server first, where that is known, so that a step that was
// forgotten refuses nobody.

// integrationKeys answers /api/v1/integrations/{id}/keys.
type integrationKeys struct{ *integrations }

// audienceKeyView is a key as an admin sees it.
type audienceKeyView struct {
	ID          string     `json:"id"`
	Algorithm   string     `json:"algorithm"`
	State       string     `json:"state"` // next, active or retired
	CreatedAt   *time.Time `json:"created_at"`
	ActivatedAt *time.Time `json:"activated_at"`
	RetiredAt   *time.Time `json:"retired_at,omitempty"`
	PEM         string     `json:"pem,omitempty"`
	// Secret is shown in the answer that made it and in no other.
	Secret string `json:"secret,omitempty"`
}

func viewOfKey(key issuer.AudienceKey) audienceKeyView {
	shown := audienceKeyView{
		ID: key.ID, Algorithm: key.Algorithm, State: string(key.State()), CreatedAt: when(key.CreatedAt), ActivatedAt: when(key.ActivatesAt), RetiredAt: when(key.RetiredAt),
	}
	if key.Public != nil {
		shown.PEM = key.PEM()
	}
	return shown
}

// keys answers GET of the integration's keys, the newest first.
func (i *integrationKeys) keys(x *exchange) error {
	id, _ := i.of(x)
	keys, err := i.issuer.AudienceKeys(x.Request.Context(), id)
	if err != nil {
		return errUnreadable
	}
	shown := []audienceKeyView{}
	for _, key := range keys {
		shown = append(shown, viewOfKey(key))
	}
	return x.json(http.StatusOK, map[string]any{"keys": shown})
}

// makeKey answers POST: the next key, whose secret is shown this once.
func (i *integrationKeys) makeKey(x *exchange) error {
	made, err := i.made(x)
	if err != nil {
		return err
	}
	shown := viewOfKey(made)
	shown.Secret = string(made.Secret)
	return x.json(http.StatusCreated, shown)
}

// made makes the next key. The audit has the line before the admin has the secret.
func (i *integrationKeys) made(x *exchange) (issuer.AudienceKey, error) {
	if err := recent(x); err != nil {
		return issuer.AudienceKey{}, err
	}
	id, _ := i.of(x)
	made, err := i.issuer.MakeAudienceKey(x.Request.Context(), id)
	if err != nil {
		return made, ofKeys(err)
	}
	x.event.Token = made.ID
	x.record()
	return made, nil
}

// Two admins who activate at once find one next key: the second is told that there is none; and one whose key another
// admin has dropped and made anew after the trial is told so too. Where the server was not
// told of the key, the trial says so before anything has changed: force is for one that this service cannot reach.

// activateKey answers POST: the next key signs from now on. With ?force=true the ProteinPaint server is not asked.
func (i *integrationKeys) activateKey(x *exchange) error {
	activated, err := i.activated(x)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, viewOfKey(activated))
}

// activated activates the next key, once the ProteinPaint server has accepted a token of it.
func (i *integrationKeys) activated(x *exchange) (issuer.AudienceKey, error) {
	if err := recent(x); err != nil {
		return issuer.AudienceKey{}, err
	}
	id, of := i.of(x)
	force, _ := x.param("force")
	tried := "" // any
	if of.InstanceURL != "" && force != "true" {
		var err error
		if tried, err = i.tryNext(x, id, of); err != nil {
			return issuer.AudienceKey{}, err
		}
	}
	activated, err := i.issuer.ActivateAudienceKey(x.Request.Context(), id, tried)
	x.event.Token = activated.ID
	return activated, ofKeys(err)
}

// tryNext has the ProteinPaint server judge a token that the next key signed, and returns the id of that key.
func (i *integrationKeys) tryNext(x *exchange, id string, of issuer.Integration) (keyID string, err error) {
	ctx, cancel := withinTest(x)
	defer cancel()
	token, err := i.trialToken(x, id, i.issuer.Trial)
	if err != nil {
		return "", err
	}
	if tried := i.accepted(ctx, of, of.Embedders[0], token.Value); !tried.Passed {
		return "", fmt.Errorf("%w: %s; give it the key first, or activate it with force=true", errNextRefused, tried.Detail)
	}
	return token.KeyID, nil
}

// dropKey answers DELETE of the next key, which never signed.
func (i *integrationKeys) dropKey(x *exchange) error {
	if err := i.dropped(x); err != nil {
		return err
	}
	x.Status(http.StatusNoContent)
	return nil
}

func (i *integrationKeys) dropped(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	id, _ := i.of(x)
	dropped, err := i.issuer.DropAudienceKey(x.Request.Context(), id)
	x.event.Token = dropped.ID
	return ofKeys(err)
}

// ofKeys is an error of changing keys: what the admin can do something about, or an outage.
func ofKeys(err error) error {
	for _, known := range []error{nil, issuer.ErrPending, issuer.ErrNoNext, issuer.ErrNotOwn, issuer.ErrAudience} {
		if errors.Is(err, known) {
			return err
		}
	}
	return errUnreadable
}
