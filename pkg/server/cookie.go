package server

import (
	"net/http"
	"time"
)

// cookieName adds the prefix by which browsers vouch that this very host set the cookie over https.
func (x *exchange) cookieName(name string) string {
	if x.secure {
		return "__Host-" + name
	}
	return name
}

// setCookie sets a cookie of this service alone: not for scripts, not for other sites, and under https for nothing else.
func (x *exchange) setCookie(name, value string, life time.Duration) {
	x.cookie(x.cookieName(name), value, life)
}

// cookie sets a cookie, or with a negative life drops it.
func (x *exchange) cookie(name, value string, life time.Duration) {
	age := int(life / time.Second)
	if life < 0 {
		age = -1
	}
	http.SetCookie(x.Writer, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: x.secure, SameSite: http.SameSiteLaxMode,
	})
}
