package web

import (
	"cmp"
	"strings"
	"time"
)

// Deed is an event of the audit, as people read it.
type Deed struct {
	At    time.Time
	Times int64
	// Action and its objects are those of the audit; names are what people call them.
	Action, Provider, Audience, Resource, Client, TokenName string
	Actor, Address, Reason                                  string
	// Person is whom it was done for, where that is not who reads it.
	Person string
	// Report is where the reader says that it was not them; empty where there is nothing to end.
	Report string
}

// deeds are the audit's actions in a person's words.
var deeds = map[string]string{ //nolint:gosec // no credentials: words about tokens
	"handout": "Token for", "mint": "Token for", "login": "Signed in at", "logout": "Signed out", "connect": "Connected", "disconnect": "Disconnected", "list events": "Activity looked at",
	"list sessions": "Sessions looked at", "end session": "Session ended", "list tokens": "API tokens looked at", "create token": "API token made", "edit token": "API token renamed",
	"rotate token": "API token rotated", "revoke token": "API token revoked", "use token": "API token used", "report token": "API token reported", "exchange": "Token exchanged for",
	"introspect": "Token checked by", "allow": "Program let in", "put resource": "Resource changed", "user disable": "Account disabled", "user enable": "Account enabled",
	"user rename": "Account renamed", "add publisher": "Publisher added to", "remove publisher": "Publisher removed from", "add key": "Signing key added",
	"make audience key": "Next key made for", "activate audience key": "Next key activated for", "drop audience key": "Next key dropped of", "test integration": "Integration tested",
}

// tried are those of them that say otherwise where nothing came of it.
var tried = map[string]string{ //nolint:gosec // as above
	"login": "Sign in at", "connect": "Connect", "disconnect": "Disconnect", "end session": "End a session", "create token": "Make an API token for", "edit token": "Rename an API token",
	"rotate token": "Rotate an API token", "revoke token": "Revoke an API token", "use token": "Use an API token", "allow": "Let a program in", "put resource": "Change a resource",
	"add publisher": "Add a publisher to", "remove publisher": "Remove a publisher from", "exchange": "Exchange a token for",
	"make audience key": "Make the next key for", "activate audience key": "Activate the next key for", "drop audience key": "Drop the next key of", "test integration": "Test an integration",
}

// Deeds are the actions that a person may look for, by the audit's names.
var Deeds = []string{"handout", "mint", "login", "connect", "disconnect", "create token", "rotate token", "revoke token", "allow", "end session"}

// What says what was done, or tried.
func (d Deed) What() string {
	switch {
	case d.Reason != "":
		return cmp.Or(tried[d.Action], What(d.Action))
	case d.Action == "create token" && d.TokenName == "":
		return "API token made for"
	}
	return What(d.Action)
}

// What says in a person's words what an action of the audit is.
func What(action string) string { return cmp.Or(deeds[action], action) }

// Of says of what.
func (d Deed) Of() string {
	switch {
	case d.TokenName != "" && strings.Contains(d.Action, "token"):
		return "“" + d.TokenName + "”"
	case d.Resource != "":
		return d.Resource
	}
	return cmp.Or(d.Audience, d.Provider, d.Client)
}

// Who says who asked, by what the audit knows of the proof.
func (d Deed) Who() string {
	kind, of, _ := strings.Cut(d.Actor, " ")
	switch kind {
	case "pod":
		name, _, _ := strings.Cut(of, " ")
		return "workspace " + name[strings.LastIndexByte(name, '/')+1:]
	case "worker":
		return "workspace at " + of
	case "session":
		return "you, in a browser"
	case "login":
		return "program " + cmp.Or(d.Client, "that you let in")
	case "token":
		if d.TokenName != "" {
			return "API token “" + d.TokenName + "”"
		}
		return "a token"
	}
	return cmp.Or(d.Actor, "a browser")
}

// Outcome says how it ended, in a word.
func (d Deed) Outcome() string {
	switch {
	case d.Reason != "":
		return "refused"
	case d.Action == "handout", d.Action == "mint", d.Action == "exchange":
		return "given"
	}
	return "done"
}

// Tone is the colour of the outcome.
func (d Deed) Tone() string {
	if d.Reason != "" {
		return "bad"
	}
	return "good"
}

// Activity is the page of what was done in a person's name.
type Activity struct {
	Days              []Bar
	From, Most        string
	Actions           []Choice
	Refused, Filtered bool
	Rows              []Deed
	Next              string
}

func (Activity) page() page {
	return page{file: "activity.html", view: ViewActivity, title: "Activity"}
}

// Bar is one day of the chart, in its units.
type Bar struct {
	X, Y, Height int
	Count        int64
	Label        string
	Most         bool
}

const (
	barWidth  = 20 // of one day, with the room beside it
	barHeight = 80
)

// Chart draws the counts of days as bars, the last of them today's, and says which day had most.
func Chart(counts []int64, today time.Time) (bars []Bar, from, most string) {
	highest := 0
	for i, count := range counts {
		if count > counts[highest] {
			highest = i
		}
		day := today.AddDate(0, 0, i+1-len(counts))
		bars = append(bars, Bar{X: i*barWidth + 3, Count: count, Label: day.Format("2 January")})
	}
	for i := range bars {
		bar := &bars[i]
		if bar.Count > 0 {
			bar.Height = max(int(bar.Count*barHeight/counts[highest]), 2)
		}
		bar.Y = barHeight + 2 - bar.Height
		bar.Most = i == highest && bar.Count > 0
		if bar.Most {
			most = bar.Label
		}
	}
	if len(bars) > 0 {
		from = bars[0].Label
	}
	return bars, from, most
}

// NotMe is the page for a person who finds something that they did not do.
type NotMe struct {
	Provider, Request string
	Token             *TokenRow // the API token that did it, if one did
	RevokeAll, EndAll Confirm
}

func (NotMe) page() page {
	return page{file: "notme.html", view: ViewActivity, title: "Something was not me"}
}

// Admin is the page of operators of tokens.
type Admin struct {
	Name      string // whom they look for
	People    []PersonRow
	Cut       bool // there are more
	Providers []ProviderRow
	Keys      []KeyRow
	Refusals  []Deed
}

func (Admin) page() page { return page{file: "admin.html", view: ViewAdmin, title: "Administration"} }

// PersonRow is a person as an admin sees them: what they have, and none of it.
type PersonRow struct {
	Username           string
	Disabled, SetAside bool
	Since, Seen        time.Time
	Connected          []string
	Tokens, Sessions   int
	Enable             string // where enabling is posted to; empty for a person who is not disabled
	Disable            Confirm
}

// ProviderRow is how a provider is.
type ProviderRow struct {
	ID, Name, Tone, State, Text string
	Posts, Failures             int64
	Success                     time.Time
}

// KeyRow is a signing key.
type KeyRow struct {
	ID, Algorithm, State, Tone, Text string
	PEM                              string // of the next key of an audience's own
	From, At                         time.Time
}
