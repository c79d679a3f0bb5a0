package server

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/web"
)

// wantsPage tells a person in a browser from a program, by Accept. The API is for programs alone.
func (x *exchange) wantsPage() bool {
	return !x.api && strings.Contains(x.GetHeader("Accept"), "text/html")
}

// page renders one of our pages. They hold what only this person may see, and nothing may frame
// them, or learn their address.
func (x *exchange) page(status int, content web.Content) {
	header := x.Writer.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", web.PolicyOf(content))
	header.Set("X-Frame-Options", "DENY")
	header.Set("Vary", "Accept, Cookie")
	x.Writer.WriteHeader(status)
	_ = content.Render(x.Writer, x.base)
}

// The reference is rendered here, without a script: what is served to people of Redocly loads one from another host,
// which the policy of our pages forbids, and which a site without the internet does not reach.

// reference answers /docs and /openapi.yaml: what every route wants and answers.
type reference struct{ page func() rendered }

// newReference renders the page when it is first asked for, and keeps it. That the description can be read is
// shown by a test.
func newReference(base string) *reference {
	return &reference{sync.OnceValue(func() rendered {
		var page bytes.Buffer
		docs, _ := web.NewDocs(api.Description)
		_ = docs.Render(&page, base)
		return page.Bytes()
	})}
}

// rendered is a page that is the same for all.
type rendered []byte

// Render implements web.Content.
func (r rendered) Render(w io.Writer, _ string) error {
	_, err := w.Write(r)
	return err
}

func (r *reference) show(x *exchange) error {
	x.page(http.StatusOK, r.page())
	return nil
}

func (*reference) file(x *exchange) error {
	x.Header("Cache-Control", "public, max-age=300")
	x.Data(http.StatusOK, "application/yaml", api.Description)
	return nil
}

// stylesheet serves the style of all pages, which holds nothing of any user.
func stylesheet(x *exchange) error {
	x.Header("Cache-Control", "public, max-age=3600")
	x.Data(http.StatusOK, "text/css; charset=utf-8", []byte(web.Stylesheet()))
	return nil
}
