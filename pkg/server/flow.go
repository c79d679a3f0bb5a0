package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/workspace-token-service/wts/pkg/broker"
)

const (
	// maxFlows is how many logins a browser may have under way, and maxFlowBytes how large their cookies may be
	// in all: more would not fit the head of a request.
	maxFlows, maxFlowBytes = 8, 24 << 10
	// flowPart is how much of a login fits one cookie; browsers take 4096 bytes with the name (RFC 6265 6.1).
	flowPart   = 3800
	flowPrefix = "wts-login-"
)

// flowCookie names the cookie of a login by its state, which the callback brings back.
func flowCookie(state string) string {
	digest := sha256.Sum256([]byte(state))
	return flowPrefix + hex.EncodeToString(digest[:8])
}

// setFlow gives the browser a login's sealed state, in as many cookies as it needs: a long redirect makes
// it larger than one may be.
func (x *exchange) setFlow(name, sealed string) {
	for part := 0; sealed != ""; part++ {
		length := min(len(sealed), flowPart)
		x.setCookie(partOf(name, part), sealed[:length], broker.FlowLife)
		sealed = sealed[length:]
	}
}

// takeFlow returns a login's sealed state and drops its cookies; empty where the browser has none.
func (x *exchange) takeFlow(name string) (sealed string) {
	for part := 0; ; part++ {
		cookie, err := x.Request.Cookie(x.cookieName(partOf(name, part)))
		if err != nil {
			return sealed
		}
		sealed += cookie.Value
		x.setCookie(partOf(name, part), "", -1)
	}
}

// partOf is the name of one part of a cookie that is too long for one.
func partOf(name string, part int) string {
	if part == 0 {
		return name
	}
	return fmt.Sprintf("%s.%d", name, part)
}

// dropOldFlows drops the oldest logins under way, which browsers send first (RFC 6265 5.4), until there is
// room for another.
func (x *exchange) dropOldFlows() {
	prefix := x.cookieName(flowPrefix)
	var cookies []*http.Cookie
	bytes := 0
	for _, cookie := range x.Request.Cookies() {
		if strings.HasPrefix(cookie.Name, prefix) {
			cookies, bytes = append(cookies, cookie), bytes+len(cookie.Value)
		}
	}
	for len(cookies) >= maxFlows || bytes > maxFlowBytes {
		x.setCookie(flowPrefix+strings.TrimPrefix(cookies[0].Name, prefix), "", -1)
		bytes -= len(cookies[0].Value)
		cookies = cookies[1:]
	}
}
