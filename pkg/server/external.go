package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
)

// external answers /external_oidc.
type external struct {
	broker *broker.Broker
	url    string // of this service
}

// externalProvider is a provider as the clients of /external_oidc read it (Gen3 contract 1.1).
type externalProvider struct {
	BaseURL string     `json:"base_url"`
	IDP     string     `json:"idp"`
	Name    string     `json:"name"`
	URLs    []loginURL `json:"urls"`
	// Expiration is how long the caller's grant lives, in words; null where there is none.
	Expiration *string `json:"refresh_token_expiration"`
}

type loginURL struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// list lists the providers that may be connected beside the default one. With unexpired=true
// it lists those that the caller has connected.
func (e *external) list(x *exchange) error {
	unexpired, _ := x.param("unexpired")
	connections, err := e.broker.Connections(x.Request.Context(), x.caller.User.ID)
	if err != nil {
		return err
	}
	ends := map[string]time.Time{}
	for _, one := range connections {
		ends[one.Provider] = one.Ends()
	}
	listed := []externalProvider{}
	for _, one := range e.broker.Providers() {
		end, connected := ends[one.ID]
		if one.Default || strings.EqualFold(unexpired, "true") && !connected {
			continue
		}
		line := externalProvider{
			BaseURL: one.BaseURL, IDP: one.ID, Name: one.Name,
			URLs: []loginURL{{Name: one.Name, URL: e.url + "/oauth2/authorization_url?idp=" + url.QueryEscape(one.ID)}},
		}
		if connected {
			words := lifeInWords(end, time.Now())
			line.Expiration = &words
		}
		listed = append(listed, line)
	}
	return x.json(http.StatusOK, map[string]any{"providers": listed})
}

// lifeInWords is the time left in its largest unit, rounded down, always in the plural, as Gen3's
// clients show it after "expires in".
func lifeInWords(end, now time.Time) string {
	if end.IsZero() {
		return "an unknown time"
	}
	left := int64(max(end.Sub(now), 0) / time.Second)
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"days", 86400}, {"hours", 3600}, {"minutes", 60}} {
		if left >= unit.seconds {
			return fmt.Sprintf("%d %s", left/unit.seconds, unit.name)
		}
	}
	return fmt.Sprintf("%d seconds", left)
}
