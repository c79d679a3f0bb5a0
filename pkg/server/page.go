package server

import (
	"net/http"
	"strings"

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

// stylesheet serves the style of all pages, which holds nothing of any user.
func stylesheet(x *exchange) error {
	x.Header("Cache-Control", "public, max-age=3600")
	x.Data(http.StatusOK, "text/css; charset=utf-8", []byte(web.Stylesheet()))
	return nil
}
