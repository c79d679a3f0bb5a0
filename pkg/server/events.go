package server

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
)

// A person sees what stands in the audit under their id: what they did in a browser, what their workers and programs
// did for them, and what was refused. Which resource's tokens others made is the resource's, and not shown here.

// events answers /api/v1/events: what the audit has of the person who asks.
type events struct{ history audit.History }

// eventView is an entry of the audit as its person sees it.
type eventView struct {
	At       time.Time `json:"at"`
	Times    int64     `json:"times"` // how many like it there were in a minute; at is that of the last one
	Action   string    `json:"action"`
	Outcome  string    `json:"outcome"` // done or refused
	Reason   string    `json:"reason,omitempty"`
	Proof    string    `json:"proof,omitempty"`
	Actor    string    `json:"actor,omitempty"`
	Provider string    `json:"provider,omitempty"`
	Audience string    `json:"audience,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Client   string    `json:"client,omitempty"`
	Token    string    `json:"token,omitempty"` // its id, or the SHA-256 of a provider's
	Address  string    `json:"address,omitempty"`
	Request  string    `json:"request_id,omitempty"`
}

// list answers GET, the newest first: ?action=&refused=true&after=<next>.
func (e *events) list(x *exchange) error {
	filter := audit.Filter{UserID: x.caller.User.ID, Limit: pageSize}
	if filter.UserID == "" {
		return errNoPerson
	}
	action, _ := x.param("action")
	refused, _ := x.param("refused")
	filter.Action, filter.Refused = audit.Action(action), refused == "true"
	if text, ok := x.param("after"); ok {
		last, err := parsePlace(text)
		if err != nil {
			return err
		}
		filter.Before = last
	}
	found, err := e.history.Find(x.Request.Context(), filter)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	answer := struct {
		Events []eventView `json:"events"`
		// Next is to be sent as after for the next page; it is left out where there is none.
		Next string `json:"next,omitempty"`
	}{Events: []eventView{}}
	for i := range found {
		answer.Events = append(answer.Events, viewOfEvent(&found[i]))
	}
	if len(found) == pageSize {
		last := &found[len(found)-1]
		answer.Next = placeOf(last)
	}
	return x.json(http.StatusOK, answer)
}

// viewOfEvent shows an entry to its person, with the words that the log has.
func viewOfEvent(one *audit.Entry) eventView {
	outcome := "done"
	if one.Reason != "" {
		outcome = "refused"
	}
	return eventView{
		At: one.At.UTC(), Times: one.Times, Action: string(one.Action), Outcome: outcome, Reason: one.Reason, Proof: one.Proof, Actor: one.Actor, Provider: one.Provider,
		Audience: one.Audience, Resource: one.Resource, Client: one.Client, Token: one.Token, Address: one.Peer, Request: one.Request,
	}
}

// parsePlace reads where a list goes on.
func parsePlace(text string) (*audit.Entry, error) {
	parts := strings.Split(text, ".")
	if len(parts) == 3 {
		at, wrong := strconv.ParseInt(parts[0], 10, 64)
		seq, bad := strconv.ParseInt(parts[2], 10, 64)
		if wrong == nil && bad == nil {
			return &audit.Entry{At: time.UnixMilli(at), Chain: parts[1], Seq: seq}, nil
		}
	}
	return nil, &inputError{"after: has to be the next of a list"}
}
