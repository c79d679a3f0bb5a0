package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/web"
)

// Seals seals what a browser keeps for the next page, so that it can be neither read nor made there.
type Seals interface {
	Seal(text []byte, place keyring.Place) []byte
	Open(sealed []byte, place keyring.Place) ([]byte, error)
}

// wantsPage tells a person in a browser from a program, by Accept. The API is for programs alone.
func (x *exchange) wantsPage() bool {
	return x.forPeople || !x.api && strings.Contains(x.GetHeader("Accept"), "text/html")
}

// page renders one of our pages. They hold what only this person may see, and nothing may frame
// them, or learn their address.
func (x *exchange) page(status int, content web.Content) {
	frame := web.Frame{}
	if (x.caller.Proof == authn.Session || x.portal && x.caller.Proof == authn.Bearer) && !x.caller.User.Disabled {
		frame.Person, frame.Admin = x.caller.User.Username, x.isAdmin(x.caller.User)
	}
	if said := takeNotice(x, false); said.Text != "" {
		frame.Notice = &said.Notice
	}
	body := bytes.NewBuffer(x.out[:0])
	if err := x.site.Write(body, frame, content); err != nil {
		x.err = err
	}
	x.out = body.Bytes()
	header := x.Writer.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", web.PolicyOf(content))
	header.Set("X-Frame-Options", "DENY")
	header.Set("Vary", "Accept, Cookie")
	x.Writer.WriteHeader(status)
	_, _ = x.Writer.Write(x.out)
}

// isAdmin tells whether a user is shown the view of admins, by what is known of them without asking.
func (e *edge) isAdmin(user authn.User) bool {
	who := issuer.Person{ID: user.ID, Username: user.Username}
	if e.apiTokens.AdminsByGroup() && who.ID != "" {
		who.Groups = e.broker.GroupsAtHand(who.ID)
	}
	return e.apiTokens.IsAdmin(who)
}

// An action answers with a redirect, so that reload repeats nothing. What it did is said on the page after it, and a
// token that it made is shown there, once: both go with the browser, sealed for its user.

// noticeCookie holds what the next page says.
const noticeCookie = "wts-notice"

// notice is what the next page says.
type notice struct {
	web.Notice
	Made *web.Made `json:",omitempty"`
	At   time.Time
}

// noticeLife is how long after an action a page says what it did, and madeLife how long a value waits for its page.
const (
	noticeLife = 5 * time.Minute
	madeLife   = 2 * time.Minute
)

// noticePlace is whose notice it is: a user's, and with a token's value a session's.
func noticePlace(of authn.Caller, made bool) keyring.Place {
	place := keyring.Place{Table: "cookie", Owner: of.User.ID, Column: "notice"}
	if made {
		place.Owner, place.Column = of.User.ID+" "+of.Actor, "value"
	}
	return place
}

// leave has the next page of this user say something.
func leave(x *exchange, said notice) { leaveFor(x, x.caller, said) }

// leaveFor has the next page say something to who is there then: after the end of a session, to nobody who is known.
func leaveFor(x *exchange, whom authn.Caller, said notice) {
	said.At = x.began
	text, err := json.Marshal(said)
	if err != nil {
		return
	}
	sealed := x.seals.Seal(text, noticePlace(whom, said.Made != nil))
	x.setLong(noticeCookie, base64.RawURLEncoding.EncodeToString(sealed))
}

// takeNotice is what this page has to say; it is said once. A token's value waits for a page of tokens, whatever other
// page is loaded before it.
func takeNotice(x *exchange, ofTokens bool) (said notice) {
	if x.noticed != nil {
		return *x.noticed
	}
	x.noticed = &said
	sealed, err := base64.RawURLEncoding.DecodeString(long(x, noticeCookie))
	if err != nil || len(sealed) == 0 || x.Request.Method == http.MethodHead {
		return said
	}
	life, made := noticeLife, false
	text, err := x.seals.Open(sealed, noticePlace(x.caller, false))
	if err != nil {
		life, made = madeLife, true
		text, err = x.seals.Open(sealed, noticePlace(x.caller, true))
	}
	if err != nil || made && !ofTokens { // another person's, or not for this page: it goes by its age
		return said
	}
	x.takeLong(noticeCookie)
	_ = json.Unmarshal(text, &said)
	if x.began.Sub(said.At) > life {
		said = notice{}
	}
	return said
}

// goTo ends an action: the browser loads a page of ours, which says what was done.
func goTo(x *exchange, path, said string) error {
	if said != "" {
		leave(x, notice{Notice: web.Notice{Text: said}})
	}
	x.Redirect(http.StatusSeeOther, x.base+path)
	return nil
}

// signedOut ends a session's last action. The audit still knows whose it was.
func signedOut(x *exchange, said string) error {
	leaveFor(x, authn.Caller{}, notice{Notice: web.Notice{Text: said}})
	return goTo(x, "/", "")
}

// people are what the pages of a person who is signed in have in common: who it is, and what they may do. A page does
// what the API does, by the same service and within the same limits.
type people struct{ *apiTokens }

// signedIn shows a page to a person who is signed in, and to any other the way to sign in and come back. Behind Gen3's
// portal the sign-in is the portal's.
func (p *people) signedIn(handle func(*exchange) error) func(*exchange) error {
	limited := p.limits.limited(reads, handle)
	return func(x *exchange) error {
		switch {
		case x.caller.User.ID != "":
			return limited(x)
		case x.portal:
			return errPortal
		}
		signInPage(x, x.Request.URL.RequestURI(), false)
		return nil
	}
}

// acting is signedIn for a form: a person who is not signed in any more gets to the page that the form stood on.
func (p *people) acting(page string, handle func(*exchange) error) func(*exchange) error {
	answer := p.changing(p.limits.limited(changes, func(x *exchange) error {
		if x.caller.User.ID == "" {
			return goTo(x, page, "")
		}
		return handle(x)
	}))
	return func(x *exchange) error {
		if x.from = page; page == "/resources" || page == "/tokens" {
			x.from = listOf(x)
		}
		return answer(x)
	}
}

// A sign-in page stands at the address that was asked for, with a link that leads back to it: reload and bookmarks work,
// and no address is passed on that a proxy before us could not reach.

// signInPage is the page on which a person signs in, who then comes back to a path of ours.
func signInPage(x *exchange, here string, again bool) {
	name, address := x.broker.NameOf(x.defaultProvider), x.base+"/oauth2/authorization_url"
	page := web.SignIn{Provider: name, Address: address, Again: again}
	if path := x.base + here; here != "/" && localPath(path) {
		page.Address, page.Back = withRedirect(address, "", path), path
	}
	x.page(http.StatusOK, page)
}

// The reference is rendered here, without a script: what is served to people of Redocly loads one from another host,
// which the policy of our pages forbids, and which a site without the internet does not reach.

// reference answers /docs and /openapi.yaml: what every route wants and answers.
type reference struct{ docs func() web.Docs }

// newReference reads the description when it is first asked for, and keeps it. That it can be read is shown by a test.
func newReference() *reference {
	return &reference{sync.OnceValue(func() web.Docs {
		docs, _ := web.NewDocs(api.Description)
		return docs
	})}
}

func (r *reference) show(x *exchange) error {
	x.page(http.StatusOK, r.docs())
	return nil
}

func (*reference) file(x *exchange) error {
	x.Header("Cache-Control", "public, max-age=300")
	x.Data(http.StatusOK, "application/yaml", api.Description)
	return nil
}

// asset serves style, script and pictures of the pages, which hold nothing of any user.
func asset(x *exchange) error {
	if !x.site.Asset(x.Writer, x.Param("file")) {
		return errNotFound
	}
	return nil
}
