package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

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

// A browser takes 4096 bytes a cookie, and hundreds of cookies: what is longer goes in parts, of which the first has the
// name and the others a number behind it. They are read until one is missing, so that setting fewer drops the rest.

// setLong gives the browser a value in as many cookies as it needs: a login's sealed state is larger than one may be
// where its redirect is long.
func (x *exchange) setLong(name, value string) {
	for part := 0; value != ""; part++ {
		length := min(len(value), flowPart)
		x.setCookie(partOf(name, part), value[:length], broker.FlowLife)
		value = value[length:]
		if value == "" {
			dropLong(x, name, part+1)
		}
	}
}

// dropLong drops the parts of a value from one on, as far as the browser sent them: none is left over to be read with
// those of the next value.
func dropLong(x *exchange, name string, part int) {
	for ; ; part++ {
		if _, err := x.Request.Cookie(x.cookieName(partOf(name, part))); err != nil {
			return
		}
		x.setCookie(partOf(name, part), "", -1)
	}
}

// long returns a value that was set so; empty where the browser has none.
func long(x *exchange, name string) (value string) {
	for part := 0; ; part++ {
		cookie, err := x.Request.Cookie(x.cookieName(partOf(name, part)))
		if err != nil {
			return value
		}
		value += cookie.Value
	}
}

// takeLong returns such a value and drops its cookies; empty where the browser has none.
func (x *exchange) takeLong(name string) (value string) {
	value = long(x, name)
	dropLong(x, name, 0)
	return value
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

// wayBackCookie holds where the last login that was begun leads to: a login whose own cookie is lost or used up is begun
// again with the same provider and the same way back. It says nothing that the browser could not ask for.
const wayBackCookie = "wts-back"

// maxWayBack bounds the redirect that is kept so, and in the address of a failure, in bytes.
const maxWayBack = 2000

// The cookies of logins under way say the same, and are gone when they are needed for this: used up by the callback, or
// dropped after ten minutes. So the last one is kept apart, for an hour.

// keepWayBack notes a login that begins.
func keepWayBack(x *exchange, state, provider, redirect string) {
	if len(url.QueryEscape(redirect)) > maxWayBack {
		redirect = ""
	}
	query := url.Values{"of": {flowCookie(state)}, "idp": {provider}, "redirect": {redirect}}
	x.setCookie(wayBackCookie, query.Encode(), wayBackLife)
}

const wayBackLife = time.Hour

// wayBack is the provider and the way back of a login; empty where it is not the last one.
func wayBack(x *exchange, state string) (provider, redirect string) {
	cookie, err := x.Request.Cookie(x.cookieName(wayBackCookie))
	if err != nil {
		return "", ""
	}
	kept, err := url.ParseQuery(cookie.Value)
	if err != nil || kept.Get("of") != flowCookie(state) {
		return "", ""
	}
	return kept.Get("idp"), kept.Get("redirect")
}
