package namespace_test

import (
	"fmt"
	"testing"

	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// Every caller with every action and every visibility; what is not in a row is 404.
func TestDecide(t *testing.T) {
	callers := map[string]namespace.Caller{
		"anonymous":            {},
		"orgs without a login": {Orgs: []string{"databio"}},
		"stranger":             {Login: "eve", Orgs: []string{"other", ""}},
		"owner":                {Login: "databio"},
		"owner, in capitals":   {Login: "DataBio"},
		"member":               {Login: "alice", Orgs: []string{"other", "databio"}},
		"member, in capitals":  {Login: "alice", Orgs: []string{"DATABIO"}},
	}
	kinds := map[string]int{"anonymous": 0, "orgs without a login": 0, "stranger": 1}
	table := map[string][3]int{ // anonymous, neither owner nor member, owner or member
		"read public": {200, 200, 200}, "read private": {404, 404, 200}, "read missing": {404, 404, 404},
		"submit public": {401, 403, 200}, "submit private": {401, 403, 200}, "submit missing": {401, 403, 200},
		"edit public": {401, 403, 200}, "edit private": {404, 404, 200}, "edit missing": {404, 404, 404},
		"delete public": {401, 403, 200}, "delete private": {404, 404, 200}, "delete missing": {404, 404, 404},
		"read ": {404, 404, 404}, "edit secret": {404, 404, 404}, "submit ": {401, 403, 200},
		"own public": {404, 404, 404}, " public": {404, 404, 404}, "READ public": {404, 404, 404},
	}
	for row, want := range table {
		for who, caller := range callers {
			for _, name := range []string{"databio", "DATAbio"} {
				t.Run(fmt.Sprintf("%s %s %s", who, row, name), func(t *testing.T) {
					kind, known := kinds[who]
					if !known {
						kind = 2
					}
					var action, visibility string
					for i, letter := range row {
						if letter == ' ' {
							action, visibility = row[:i], row[i+1:]
						}
					}
					got := namespace.Decide(caller, namespace.Action(action), name, namespace.Visibility(visibility))
					if got.Status() != want[kind] || got.Allowed() != (want[kind] == 200) {
						t.Errorf("%d, want %d", got.Status(), want[kind])
					}
				})
			}
		}
	}
}

// A name that only looks like another one is another name, and an empty one is no caller's.
func TestNamesThatAreAlike(t *testing.T) {
	for name, row := range map[string]struct {
		caller    namespace.Caller
		namespace string
		want      bool
	}{
		"the long s":      {namespace.Caller{Login: "\u017fam"}, "sam", false},
		"the Kelvin sign": {namespace.Caller{Login: "kim"}, "\u212aim", false},
		"itself":          {namespace.Caller{Login: "\u017fam"}, "\u017fAM", true},
		"a part":          {namespace.Caller{Login: "sam"}, "sam-2", false},
		"none":            {namespace.Caller{Login: "sam", Orgs: []string{""}}, "", false},
		"with a space":    {namespace.Caller{Login: "sam"}, "sam ", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := row.caller.Owns(row.namespace); got != row.want {
				t.Errorf("%t, want %t", got, row.want)
			}
		})
	}
}
