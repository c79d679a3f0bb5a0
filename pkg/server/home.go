package server

import (
	"errors"
	"net/http"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/web"
)

// home answers /.
type home struct{ broker *broker.Broker }

// show tells a program what there is, and shows a person their connections.
func (h *home) show(x *exchange) error {
	if !x.wantsPage() {
		return x.json(http.StatusOK, map[string]string{
			"/token":                 "get temporary token",
			"/external_oidc":         "list available identity providers",
			"/oauth2":                "oauth2 resources",
			"/.well-known/jwks.json": "keys that verify our tokens",
		})
	}
	content := web.Home{Username: x.caller.User.Username}
	for _, listed := range h.broker.Providers() {
		line := web.Provider{ID: listed.ID, Name: listed.Name, Default: listed.Default}
		if x.caller.User.ID != "" {
			connection, err := h.broker.Connection(x.Request.Context(), x.caller.User.ID, listed.ID)
			if errors.Is(err, broker.ErrUnavailable) {
				return err
			}
			line.Connected = err == nil
			line.LoginAgain = errors.Is(err, broker.ErrGrantBroken) || errors.Is(err, broker.ErrGrantExpired)
			line.Ends = connection.RefreshExpiresAt
		}
		content.Providers = append(content.Providers, line)
	}
	x.page(http.StatusOK, content)
	return nil
}
