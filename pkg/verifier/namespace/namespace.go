// Package namespace decides who may read, submit, edit and delete what stands in a namespace, by the table that PEPhub
// documents: a namespace is a user's or an organisation's, and what is in it is public or private.
//
//	decision := namespace.Decide(caller, namespace.Edit, "databio", namespace.Public)
//	if !decision.Allowed() {
//		w.WriteHeader(decision.Status())
//	}
//
// It owns the table and how names are compared. It holds neither tokens nor requests, so that a service in another
// language can be told the same decisions.
package namespace

import (
	"net/http"
	"slices"
	"strings"
)

// Caller is a person, by what their token says. The zero Caller is anonymous: one without a login has no organisations.
type Caller struct {
	Login string
	Orgs  []string
}

// Anonymous tells whether it is not known who calls.
func (c Caller) Anonymous() bool { return c.Login == "" }

// Owns tells whether a namespace is the caller's own, or that of an organisation of theirs.
func (c Caller) Owns(name string) bool {
	key := Key(name)
	if c.Anonymous() || key == "" {
		return false
	}
	return Key(c.Login) == key || slices.ContainsFunc(c.Orgs, func(org string) bool { return Key(org) == key })
}

// Key is a name in the form in which names are compared: without regard to the case of ASCII letters. Other letters
// stay as they are, since two that look alike under Unicode's case folding may be the logins of two people.
func Key(name string) string {
	return strings.Map(func(letter rune) rune {
		if 'A' <= letter && letter <= 'Z' {
			return letter + 'a' - 'A'
		}
		return letter
	}, name)
}

// Action is what a caller wants to do.
type Action string

// The actions. Submit is about a namespace, the others about a thing in it.
const (
	Read   Action = "read"
	Submit Action = "submit"
	Edit   Action = "edit"
	Delete Action = "delete"
)

// Visibility is who may know of a thing: everybody, its namespace, or that there is none.
type Visibility string

// The visibilities. For Submit it is of no account.
const (
	Public  Visibility = "public"
	Private Visibility = "private"
	Missing Visibility = "missing"
)

// Decision is an answer, as a status of HTTP (RFC 9110 15).
type Decision int

// The decisions.
const (
	Allow Decision = http.StatusOK
	// Authenticate asks who calls: a caller with a name may be allowed.
	Authenticate Decision = http.StatusUnauthorized
	Forbid       Decision = http.StatusForbidden
	// Hide says that there is nothing, also where there is: who may not read a private thing does not learn of it.
	Hide Decision = http.StatusNotFound
)

// Allowed tells whether the caller may go on.
func (d Decision) Allowed() bool { return d == Allow }

// Status is the decision as a status of HTTP.
func (d Decision) Status() int { return int(d) }

// Decide answers whether a caller may do this in a namespace, with a thing of that visibility:
//
//	                         anonymous  neither owner nor member  owner or member
//	read public              200        200                       200
//	read private             404        404                       200
//	submit                   401        403                       200
//	edit or delete public    401        403                       200
//	edit or delete private   404        404                       200
//	read, edit or delete what is missing  404, for everybody
//
// An action or a visibility that it does not know is nothing that anybody may do: 404.
func Decide(caller Caller, action Action, name string, visibility Visibility) Decision {
	switch action {
	case Submit:
		return change(caller, name)
	case Read, Edit, Delete:
	default:
		return Hide
	}
	switch {
	case visibility == Public && action == Read:
		return Allow
	case visibility == Public:
		return change(caller, name)
	case visibility == Private && caller.Owns(name):
		return Allow
	}
	return Hide
}

// change decides on what is no secret, and only its owner and members may change.
func change(caller Caller, name string) Decision {
	switch {
	case caller.Owns(name):
		return Allow
	case caller.Anonymous():
		return Authenticate
	}
	return Forbid
}
