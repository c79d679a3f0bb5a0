package server

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/web"
)

// sessionPages are the page of a person's sessions.
type sessionPages struct {
	sessions *authn.Sessions
	programs *grant.Service
}

// A session is shown by what its browser said of itself when it signed in, and by the address it came from then: enough
// to tell one's own from another's. Its id is a digest, which opens nothing.

// list answers GET /sessions: where a person is signed in, and the programs that they let in.
func (v *sessionPages) list(x *exchange) error {
	all, own, err := v.sessions.Of(x.Request, x.caller.User.ID)
	if err != nil {
		return err
	}
	page := web.Sessions{EndAll: endAll(x)}
	for i := range all {
		one := &all[i]
		row := web.SessionRow{
			Name: browserOf(one.Agent), Address: one.Address, Current: one.Digest == own, Since: one.CreatedAt, Seen: one.SeenAt, Ends: one.EndsAt,
			End: web.Confirm{
				Ask: "End", Do: "End session", Danger: true, Action: x.base + "/sessions/" + hex.EncodeToString(one.Digest[:]) + "/end",
				Text: "That browser has to sign in again. Workspaces and API tokens go on.",
			},
		}
		if one.Client != "" {
			row.Name, row.Program = nameOfClient(v.programs, one.Client), true
			row.End.Text = "The program gets no more tokens, and has to be let in again."
		}
		row.End.Of = row.Name
		page.Sessions = append(page.Sessions, row)
	}
	x.page(http.StatusOK, page)
	return nil
}

// nameOfClient is what a program is called.
func nameOfClient(programs *grant.Service, id string) string {
	if client, known := programs.Client(id); known && client.Name != "" {
		return client.Name
	}
	return id
}

// endAll is the button that ends every session.
func endAll(x *exchange) web.Confirm {
	return web.Confirm{
		Ask: "End all", Of: "sessions", Do: "End all sessions", Danger: true, Action: x.base + "/sessions/end",
		Text: "You are signed out everywhere, here too, and programs that you let in are refused. Workspaces and API tokens go on.",
	}
}

// browserOf is what a browser and its machine are called, by what it says of itself.
func browserOf(agent string) string {
	browser, machine := "", ""
	for _, known := range [][2]string{{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"}} {
		if strings.Contains(agent, known[0]) {
			browser = known[1]
			break
		}
	}
	for _, known := range [][2]string{{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"}, {"Mac OS", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"}} {
		if strings.Contains(agent, known[0]) {
			machine = known[1]
			break
		}
	}
	switch {
	case browser != "" && machine != "":
		return browser + " on " + machine
	case browser != "":
		return browser
	case agent != "":
		return cut(agent)
	}
	return "A browser"
}

// end answers POST of the button that ends one session.
func (v *sessionPages) end(x *exchange) error {
	raw, err := hex.DecodeString(x.Param("id"))
	if err != nil || len(raw) != len(authn.SessionDigest{}) {
		return errNoSuchSession
	}
	digest := authn.SessionDigest(raw)
	ended, err := v.sessions.EndOf(x.Request.Context(), x.caller.User.ID, &digest)
	switch {
	case err != nil:
		return err
	case ended == 0:
		return errNoSuchSession
	}
	return goTo(x, "/sessions", "The session has ended.")
}

// endAll answers POST of the button that ends them all.
func (v *sessionPages) endAll(x *exchange) error {
	ended, err := v.sessions.EndOf(x.Request.Context(), x.caller.User.ID, nil)
	if err != nil {
		return err
	}
	x.cookie(v.sessions.Cookie, "", -1)
	return signedOut(x, counted(ended, "session has", "sessions have")+" ended. Your workspaces and API tokens go on.")
}
