package web

import (
	"strings"
	"time"
	"unicode"
)

// Step is a way on: a link, or a button that posts. The address is a path of this host.
type Step struct {
	Label, Address string
	Post           bool
	Fields         []Field // that go with a post
}

// Field is a field of a form that is not shown.
type Field struct{ Name, Value string }

// Confirm is a button that asks before it posts. Its zero value is not shown.
type Confirm struct {
	Ask, Of string // what the button says, and of what, for readers
	Text    string // what stops working
	Do      string // what the button says that does it
	Action  string // where it posts to
	Danger  bool
}

// Message is a page that says one thing, and the way on.
type Message struct {
	Title, Text string
	TitleTime   time.Time // goes on with the title
	Until       time.Time // until when running work goes on; zero where that is not known
	Alert       bool      // something went wrong
	At          time.Time
	RequestID   string // for an operator who is asked for help
	Steps       []Step // the ways on, the best one first
	Refresh     string // where the browser goes on by itself
}

func (m Message) page() page {
	return page{file: "message.html", title: m.Title, refresh: m.Refresh}
}

// SignIn is what a person sees who is not signed in.
type SignIn struct {
	Provider, Address string
	Back              string // where they come back to; empty for the first page
	Again             bool   // they are signed in, and the sign-in is too old for what they want to do
}

func (SignIn) page() page { return page{file: "signin.html", title: "Sign in"} }

// Connections is the page of a person's connections.
type Connections struct{ Cards []Card }

func (Connections) page() page {
	return page{file: "connections.html", view: ViewConnections, title: "Connections"}
}

// Card is one provider, and how a person is connected to it.
type Card struct {
	Name, Account string
	Tone, Pill    string // good, warn, bad or none, and the same as a word
	PillTime      time.Time
	Connected     bool
	Since, UsedAt time.Time
	UsedBy        string
	Text          string // what else there is to know
	TextTime      time.Time
	// Connect is where a connection begins; empty where there is no need to.
	Connect, ConnectLabel string
	Disconnect            *Confirm
}

// Initials stand for a provider's picture.
func (c Card) Initials() string {
	var initials []rune
	for _, word := range strings.FieldsFunc(c.Name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		initials = append(initials, unicode.ToUpper([]rune(word)[0]))
	}
	switch letters := []rune(c.Name); {
	case len(initials) >= 2:
		return string(initials[0]) + string(initials[len(initials)-1])
	case len(letters) >= 2:
		return strings.ToUpper(string(letters[:2]))
	}
	return strings.ToUpper(c.Name)
}

// TokenLists are API tokens: those that work, and those that do not any more.
type TokenLists struct {
	Active, Past TokenTable
	Filter       bool   // there are so many that one looks for some
	More         string // where the list goes on; empty at its end
}

// TokenTable is a table of API tokens.
type TokenTable struct {
	ID, Caption string
	Acts        bool // they can be changed
	Rows        []TokenRow
}

// TokenRow is an API token as who may manage it sees it.
type TokenRow struct {
	Name, Description, Audience, Hint, MadeBy string
	New                                       bool // it was made just now
	Soon                                      bool // it ends within a week
	Left                                      bool // who made it does not maintain the resource any more
	Scopes, Networks                          []string
	// Zero times: it has no end, was not used, was not revoked, has no former value that works.
	Created, Expires, LastUsed, Revoked, OldUntil time.Time
	LastUsedFrom, RevokedBy, RevokedFor           string
	Rotate, Revoke                                Confirm
}

// Made is a token's value, on the one page that shows it.
type Made struct {
	Name, Value, Audience, Public string
	Scopes                        []string
	Expires                       time.Time
}

// Tokens is the page of a person's own API tokens.
type Tokens struct {
	TokenLists
	CanMake bool
	Made    *Made
}

func (Tokens) page() page { return page{file: "tokens.html", view: ViewTokens, title: "API tokens"} }

// NewToken is the form that makes one, for a person or for a resource.
type NewToken struct {
	Action, Back, Fault         string
	Resource                    string
	First                       bool // there is no token yet: the form stands in the place of the list
	Name, Description, Networks string
	JWTs                        bool // some of the audiences take JWTs
	JWT, Open                   bool
	Audiences                   []AudienceChoice
	Presets                     []Choice
}

func (NewToken) page() page {
	return page{file: "newtoken.html", view: ViewTokens, title: "New API token"}
}

// AudienceChoice is what a token may be for, with the scopes that one may have there.
type AudienceChoice struct {
	ID     string
	Chosen bool
	Scopes []ScopeChoice
}

// ScopeChoice is a scope that a token may be given.
type ScopeChoice struct {
	Value, Name, Text string
	Chosen            bool
}

// Choice is an entry of a list to choose from.
type Choice struct {
	Value, Label string
	Chosen       bool
}

// Resources is the page of what a person maintains.
type Resources struct{ Resources []ResourceRow }

func (Resources) page() page {
	return page{file: "resources.html", view: ViewResources, title: "Resources"}
}

// ResourceRow is one of them.
type ResourceRow struct {
	Audience, ID, Name string
	Maintainers        []string
}

// Resource is the page of one resource and its tokens.
type Resource struct {
	ResourceRow
	TokenLists
	CanMake bool
	New     string // where a token is made
	Left    string // how many tokens were made by who does not maintain it any more; empty for none
	Made    *Made
}

func (r Resource) page() page { return page{file: "resource.html", view: ViewResources, title: r.Name} }

// Sessions is the page of where a person is signed in.
type Sessions struct {
	Sessions []SessionRow
	EndAll   Confirm
}

func (Sessions) page() page {
	return page{file: "sessions.html", view: ViewSessions, title: "Sessions"}
}

// SessionRow is a browser that is signed in, or a program that was let in.
type SessionRow struct {
	Name, Address     string
	Current, Program  bool
	Since, Seen, Ends time.Time
	End               Confirm
}

// Consent is the page that asks whether a program may act for a person.
type Consent struct {
	Client, Username string
	// Site is where the browser is sent back to, and Target the same as the policy of a page says it; Address and Agent are those of a program that shows a code instead.
	Site, Target               string
	Code, Address, Agent, Here string // of a program that shows a code instead; Here is the person's own address
	Own                        bool   // it asks for tokens of wts itself, whose scopes have words
	Audience                   string
	Scopes                     []string
	Lasting                    bool // it goes on without the person
	Action                     string
	Fields                     []Field // what the form sends again
}

func (c Consent) page() page { return page{file: "consent.html", title: "Allow " + c.Client + "?"} }

// Words say what a scope of wts itself lets a program do; empty for others.
func (c Consent) Words(scope string) string {
	if !c.Own {
		return ""
	}
	return ScopeWords(scope)
}

// ScopeWords say what a scope of wts itself lets a program do; empty for others.
func ScopeWords(scope string) string {
	if provider, ok := strings.CutPrefix(scope, "provider:"); ok {
		return "get your access tokens of " + provider
	}
	return map[string]string{
		"token": "get tokens that wts makes for you", "api:read": "see your API tokens, resources and sessions", "api": "change and end your API tokens, resources and sessions",
		"api:create": "make API tokens in your name, which go on when the program itself was ended",
	}[scope]
}

// Elsewhere tells a program that asks from another address than the person's.
func (c Consent) Elsewhere() bool { return c.Address != c.Here }

// Device is the page on which a person types the code that a program shows. Unknown: no program shows that one.
type Device struct{ Unknown bool }

func (Device) page() page { return page{file: "device.html", title: "Connect a program"} }
