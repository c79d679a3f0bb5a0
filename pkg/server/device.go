package server

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/web"
)

// The pages of the device flow tell a person what RFC 8628 5.4 fears: that another one began it and sent them the
// link. They see which program asks, from which address, and what it calls itself; the code is theirs to compare; and
// nothing is allowed but by the form of that page, in a session of the last hour.

// deviceAnswer is the answer to a program that shows a code (RFC 8628 3.2).
type deviceAnswer struct {
	DeviceCode      string `json:"device_code"`
	UserCode        string `json:"user_code"`
	VerificationURI string `json:"verification_uri"`
	Complete        string `json:"verification_uri_complete"`
	ExpiresIn       int    `json:"expires_in"` // seconds
	Interval        int    `json:"interval"`   // seconds
}

// device answers POST /oauth2/device_authorization (RFC 8628 3.1).
func (g *grants) device(x *exchange) error {
	form, err := readForm(x)
	if err != nil {
		return err
	}
	if err := g.limits.take(x, devices, nil); err != nil {
		return err
	}
	begun, err := g.service.BeginDevice(x.Request.Context(), grant.Request{
		Client: form.Get("client_id"), Audience: form.Get("audience"), Scopes: strings.Fields(form.Get("scope")),
	}, x.peer.Addr.Unmap().String(), readable(x.GetHeader("User-Agent"), maxAgent))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, deviceAnswer{
		DeviceCode: begun.DeviceCode, UserCode: begun.UserCode, VerificationURI: g.public + "/device",
		Complete: g.public + "/device?user_code=" + begun.UserCode, ExpiresIn: int(grant.DeviceLife / time.Second), Interval: int(grant.PollEvery / time.Second),
	})
}

// showDevice answers GET /device: the person says which code their program shows, and sees who asks.
func (g *grants) showDevice(x *exchange) error {
	code, _ := x.param("user_code")
	if loggedIn, err := g.loggedIn(x, grant.Client{Refresh: true}, false); err != nil || !loggedIn {
		if err != nil {
			return err
		}
		return g.logIn(x, "/device?"+url.Values{"user_code": {cut(code)}}.Encode())
	}
	if code == "" {
		x.page(http.StatusOK, web.Device{})
		return nil
	}
	if err := g.limits.take(x, changes, nil); err != nil {
		return err
	}
	waiting, err := g.service.Waiting(x.Request.Context(), code)
	if errors.Is(err, grant.ErrUnknown) {
		x.page(http.StatusNotFound, web.Device{Unknown: true})
		return nil
	}
	if err != nil {
		return err
	}
	client, _ := g.service.Client(waiting.Client)
	page := g.consent(x, client, waiting, url.Values{"user_code": {code}, "for": {x.caller.User.ID}})
	page.Action, page.Code, page.Here = "/device", grant.ShownUserCode(code), x.peer.Addr.Unmap().String()
	x.page(http.StatusOK, page)
	return nil
}

// decideDevice answers POST /device: what the person said.
func (g *grants) decideDevice(x *exchange) error {
	form, err := g.form(x)
	if err != nil {
		return err
	}
	switch loggedIn, err := g.loggedIn(x, grant.Client{Refresh: true}, false); {
	case err != nil:
		return err
	case !loggedIn, form.Get("for") != x.caller.User.ID:
		return g.logInOrAsk(x, loggedIn, "/device?"+url.Values{"user_code": {cut(form.Get("user_code"))}}.Encode())
	}
	x.event.Action = audit.Allow
	if err := g.limits.take(x, changes, nil); err != nil {
		return err
	}
	allow := form.Get("decision") == "allow"
	decided, err := g.service.Decide(x.Request.Context(), form.Get("user_code"), allow, x.caller.User.ID, x.caller.Since)
	x.event.Audience, x.event.Client = decided.Audience, decided.Client
	switch {
	case errors.Is(err, grant.ErrUnknown):
		x.event.Reason = err.Error()
		x.page(http.StatusNotFound, web.Device{Unknown: true})
		return nil
	case err != nil:
		return err
	case !allow:
		x.event.Reason = grant.ErrDenied.Error()
		x.page(http.StatusOK, web.Message{Title: "Not allowed", Text: "The program gets nothing. You can close this window."})
		return nil
	}
	x.page(http.StatusOK, web.Message{Title: "Allowed", Text: "The program goes on by itself. You can close this window; Sessions shows the program, and ends it.", Steps: []web.Step{{Label: "Sessions", Address: x.base + "/sessions"}}})
	return nil
}

// A device asks again and again until its person has decided. What is remembered of that is in this replica's memory: a
// device that is led to another replica may ask once more than it should, and learns nothing more by it.

// poll asks for a device, which waits between two questions: who does not is told to (RFC 8628 3.5).
func (g *grants) poll(x *exchange, client, code string) (grant.Issued, error) {
	key := "poll " + cut(code)
	share, asked := g.limits.shares.GetIfPresent(key)
	if asked && !share.Allow() {
		return grant.Issued{}, errSlow
	}
	done, err := g.service.Poll(x.Request.Context(), client, code)
	switch {
	case err == nil:
		g.limits.shares.Invalidate(key)
	case errors.Is(err, grant.ErrPending) && !asked:
		share = rate.NewLimiter(rate.Every(grant.PollEvery-time.Second), 1) // a second for clocks and networks
		share.Allow()
		g.limits.shares.Set(key, share)
	}
	return done, err
}
