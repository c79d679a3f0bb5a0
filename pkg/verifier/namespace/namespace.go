// Package namespace decides who may do what with a project in a namespace, as PEPhub has it: a namespace is a person's
// login, or an organisation that they are in.
//
//	decision := namespace.Decide(caller, namespace.Edit, "databio", namespace.Private)
//	if decision != http.StatusOK { ... }
//
// It knows no request and no token. What it is given has to be proven: package verifier does that.
package namespace

import (
	"net/http"
	"strings"
)

// Action is what is to be done.
type Action string

// The actions.
const (
	Read   Action = "read"
	Submit Action = "submit" // a project that is not there yet
	Edit   Action = "edit"
	Delete Action = "delete"
)

// Known tells one of the actions.
func (a Action) Known() bool { return a == Read || a == Submit || a == Edit || a == Delete }

// Visibility is who may see a project.
type Visibility string

// The visibilities.
const (
	Public  Visibility = "public"
	Private Visibility = "private"
	Missing Visibility = "missing" // there is no such project
)

// Known tells one of the visibilities.
func (v Visibility) Known() bool { return v == Public || v == Private || v == Missing }

// Caller is who asks, by the claims of a verified token; the zero Caller is one without a token.
type Caller struct {
	Login         string
	Organisations []string // claim orgs
}

// Anonymous tells a caller who has shown no token.
func (c Caller) Anonymous() bool { return c.Login == "" }

// Owns tells whether a namespace is the caller's own, or of an organisation that they are in. GitHub's logins and
// organisations are the same whatever their case.
func (c Caller) Owns(namespace string) bool {
	if c.Anonymous() || namespace == "" {
		return false
	}
	if strings.EqualFold(c.Login, namespace) {
		return true
	}
	for _, name := range c.Organisations {
		if strings.EqualFold(name, namespace) {
			return true
		}
	}
	return false
}

// Decide is the status of an answer: 200 where the caller may, 401 where a token might help, 403 where theirs does not,
// and 404 where they are not to know that there is anything. An action or a visibility that is none of the known is
// refused with 403.
//
//	                       no token   neither owner nor member   owner, or member
//	read public            200        200                        200
//	read private           404        404                        200
//	submit                 401        403                        200
//	edit, delete public    401        403                        200
//	edit, delete private   404        404                        200
//	any of a missing one   404        404                        404
func Decide(who Caller, action Action, namespace string, visibility Visibility) int {
	owns := who.Owns(namespace)
	switch {
	case !action.Known() || action != Submit && !visibility.Known():
		return http.StatusForbidden
	case action == Submit:
		return denied(who, owns)
	case visibility == Missing, visibility == Private && !owns:
		return http.StatusNotFound
	case action == Read:
		return http.StatusOK
	}
	return denied(who, owns)
}

// denied is 200 for an owner; what is said to others depends on whether they have shown who they are.
func denied(who Caller, owns bool) int {
	switch {
	case owns:
		return http.StatusOK
	case who.Anonymous():
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}
