package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// standings answers /api/v1/connections and /api/v1/user: who a person is here, and what they have connected.
type standings struct{ broker *broker.Broker }

// user answers GET of the person who asks.
func (s *standings) user(x *exchange) error {
	who := x.caller.User
	if who.ID == "" {
		return errNoPerson
	}
	return x.json(http.StatusOK, api.User{ID: who.ID, Username: who.Username})
}

// list answers GET of a person's connections, one line for each provider. Nothing is refreshed for it.
func (s *standings) list(x *exchange) error {
	if x.caller.User.ID == "" {
		return errNoPerson
	}
	all, err := s.broker.Standings(x.Request.Context(), x.caller.User.ID)
	if err != nil {
		return err
	}
	shown := []api.Connection{}
	for i := range all {
		one := &all[i]
		line := api.Connection{
			Provider: one.ID, Name: one.Name, Default: one.Default, State: stateOfStanding(one.Flaw),
			ConnectURL: x.public + "/oauth2/authorization_url?" + url.Values{"idp": {one.ID}}.Encode(),
		}
		if line.State != notConnected {
			line.Account, line.ConnectedAt, line.EndsAt, line.Expected, line.FailingSince = one.Account, when(one.Since), when(one.Ends), one.Expected, when(one.FailingSince)
		}
		shown = append(shown, line)
	}
	return x.json(http.StatusOK, map[string]any{"connections": shown})
}

const notConnected = "not_connected"

// stateOfStanding is why a connection is not good, in a word.
func stateOfStanding(flaw error) string {
	switch {
	case flaw == nil:
		return "connected"
	case errors.Is(flaw, broker.ErrNotConnected):
		return notConnected
	case errors.Is(flaw, broker.ErrGrantExpired):
		return "expired"
	}
	return "broken"
}

// end answers DELETE of a connection.
func (s *standings) end(x *exchange) error {
	id, err := s.broker.Provider(x.Param("provider"))
	if err != nil {
		return unknownProvider(x.Param("provider"))
	}
	x.event.Provider = id
	if x.caller.User.ID == "" {
		return errNoPerson
	}
	if err := s.broker.Disconnect(x.Request.Context(), x.caller.User.ID, id); err != nil && !errors.Is(err, broker.ErrNotConnected) {
		return err
	}
	if !revokes(x, s.broker, id) {
		x.Header("Wts-Notice", noRevocation)
	}
	x.Status(http.StatusNoContent)
	return nil
}

// noRevocation is what a program is told whose connection ended here alone.
const noRevocation = "the provider has no revocation endpoint"

// revokes tells a provider that is told of the end of a connection; the log has it where one is not.
func revokes(x *exchange, broker *broker.Broker, id string) bool {
	told := broker.Revokes(id)
	if !told {
		x.log.Info("a connection was ended here, and not at its provider, which has no revocation endpoint", slog.String("provider", id), slog.String("request", x.id))
	}
	return told
}
