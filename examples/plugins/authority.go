package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// authority is wts, as the site calls it by the credentials of its audience: to say who maintains a plugin, and to ask
// what a token is worth at the moment.
type authority struct {
	url, audience, secret string
	log                   *slog.Logger
}

// errRefused: wts understood a call and refused it; to try again does not help.
var errRefused = errors.New("wts refuses")

// patient bounds every call.
var patient = http.Client{Timeout: 10 * time.Second}

// registerAll registers the plugins as resources of the audience. While wts is away it tries again: what is registered
// already stays so, and the site serves meanwhile.
func (a *authority) registerAll(ctx context.Context, plugins owned) {
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		for pause := time.Second; ; pause = min(2*pause, time.Minute) {
			err := a.register(ctx, name, plugins[name])
			if err == nil {
				a.log.Info("a plugin is registered at wts", slog.String("plugin", name), slog.Any("maintainers", plugins[name]))
				break
			}
			a.log.Warn("a plugin is not registered at wts", slog.String("plugin", name), slog.String("error", err.Error()))
			if errors.Is(err, errRefused) {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// register makes a plugin a resource of the audience. The site is what knows who maintains it: the list replaces the
// one that wts has.
func (a *authority) register(ctx context.Context, name string, maintainers []string) error {
	body, err := json.Marshal(map[string]any{"name": name, "maintainers": append([]string{}, maintainers...)})
	if err != nil {
		return err
	}
	path := "/api/v1/resources/" + url.PathEscape(a.audience) + "/" + url.PathEscape(name)
	return a.call(ctx, http.MethodPut, path, "application/json", body, nil)
}

// introspected is what wts says of a token now (RFC 7662 2.2), and what the maintainers call it.
type introspected struct {
	Active      bool   `json:"active"`
	Name        string `json:"token_name"`
	Description string `json:"token_description"`
}

// introspect asks what a token is worth at the moment. The credentials are in the form (RFC 6749 2.3.1).
func (a *authority) introspect(ctx context.Context, token string) (said introspected, err error) {
	form := url.Values{"token": {token}, "client_id": {a.audience}, "client_secret": {a.secret}}.Encode()
	err = a.call(ctx, http.MethodPost, "/oauth2/introspect", "application/x-www-form-urlencoded", []byte(form), &said)
	return said, err
}

// call calls wts and reads its answer where one is wanted. JSON goes with the audience's credentials by HTTP Basic (RFC
// 7617), as they are; an OAuth endpoint would read them form-encoded there, so that a form holds its own.
func (a *authority) call(ctx context.Context, method, path, kind string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--wts: %w", err)
	}
	request.Header.Set("Content-Type", kind)
	if kind == "application/json" {
		request.SetBasicAuth(a.audience, a.secret)
	}
	response, err := patient.Do(request)
	if err != nil {
		return fmt.Errorf("wts cannot be reached: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("the answer of wts is cut off: %w", err)
	case response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w the site's own credentials: compare --audience and --secret-file with audiences.%s of wts", errRefused, a.audience)
	case response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests:
		return fmt.Errorf("%w: %d %s", errRefused, response.StatusCode, strings.TrimSpace(string(answer)))
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("wts answered %d", response.StatusCode)
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}
