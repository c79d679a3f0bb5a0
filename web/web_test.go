package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/web"
)

func render(t *testing.T, content web.Content) string {
	t.Helper()
	var page strings.Builder
	if err := content.Render(&page, "/wts"); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func TestPagesEscapeWhatTheyShow(t *testing.T) {
	const hostile = `"><script>alert(1)</script>`
	for name, page := range map[string]string{
		"a message": render(t, web.Message{Title: hostile, Text: hostile, RequestID: hostile, Steps: []web.Step{{Label: hostile, Address: hostile}, {Label: hostile, Address: hostile, Post: true}}}),
		"consent":   render(t, web.Consent{Client: hostile, Username: hostile, Site: hostile, Agent: hostile, Address: hostile, Audience: hostile, Scopes: []string{hostile}, Fields: []web.Field{{Name: hostile, Value: hostile}}}),
		"a device":  render(t, web.Device{Unknown: true}),
		"the docs":  render(t, web.Docs{Title: hostile, Description: "`" + hostile + "`", Schemas: []web.DocsSchema{{Name: hostile, Fields: []web.DocsField{{Name: hostile, Of: hostile, Description: hostile}}}}}),
		"home":      render(t, web.Home{Username: hostile, Providers: []web.Provider{{ID: hostile, Name: hostile}, {ID: hostile, Name: hostile, Connected: true}}}),
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(page, "<script") {
				t.Errorf("%s:\n%s", name, page)
			}
			if !strings.Contains(page, `href="/wts/static/wts.css"`) || strings.Contains(page, "style=") {
				t.Errorf("%s needs what its policy forbids, or forgets where it lives:\n%s", name, page)
			}
		})
	}
}

func TestHomeSaysHowThingsAre(t *testing.T) {
	if page := render(t, web.Home{}); !strings.Contains(page, `href="/wts/oauth2/authorization_url"`) || strings.Contains(page, "<table") {
		t.Errorf("to somebody who is not logged in:\n%s", page)
	}
	page := render(t, web.Home{Username: "alice", Providers: []web.Provider{
		{ID: "a", Name: "A", Connected: true, Ends: time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)}, {ID: "b", Name: "B"}, {ID: "c", Name: "C", LoginAgain: true},
	}})
	for _, want := range []string{
		"<strong>alice</strong>", "connected until", "2 January 2027", `action="/wts/oauth2/logout?idp=a"`, "not connected",
		`href="/wts/oauth2/authorization_url?idp=b"`, "has to be connected again",
	} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(page, want) {
				t.Errorf("no %q in:\n%s", want, page)
			}
		})
	}
}
