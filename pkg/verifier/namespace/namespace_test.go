package namespace_test

import (
	"testing"

	"github.com/workspace-token-service/wts/pkg/verifier/namespace"
)

// The whole table: each action, each visibility, each kind of caller.
func TestDecide(t *testing.T) {
	anonymous := namespace.Caller{}
	stranger := namespace.Caller{Login: "mallory", Organisations: []string{"databi", "databio2", "pepkit"}}
	owner := namespace.Caller{Login: "DataBio"}
	member := namespace.Caller{Login: "alice", Organisations: []string{"pepkit", "databio"}}
	type row struct {
		action     namespace.Action
		visibility namespace.Visibility
	}
	for asked, want := range map[row][3]int{
		{namespace.Read, namespace.Public}:    {200, 200, 200},
		{namespace.Read, namespace.Private}:   {404, 404, 200},
		{namespace.Read, namespace.Missing}:   {404, 404, 404},
		{namespace.Submit, namespace.Public}:  {401, 403, 200},
		{namespace.Submit, namespace.Private}: {401, 403, 200},
		{namespace.Submit, namespace.Missing}: {401, 403, 200},
		{namespace.Submit, ""}:                {401, 403, 200},
		{namespace.Edit, namespace.Public}:    {401, 403, 200},
		{namespace.Edit, namespace.Private}:   {404, 404, 200},
		{namespace.Edit, namespace.Missing}:   {404, 404, 404},
		{namespace.Delete, namespace.Public}:  {401, 403, 200},
		{namespace.Delete, namespace.Private}: {404, 404, 200},
		{namespace.Delete, namespace.Missing}: {404, 404, 404},
		{"rename", namespace.Public}:          {403, 403, 403},
		{namespace.Read, "hidden"}:            {403, 403, 403},
	} {
		for at, callers := range [][]namespace.Caller{{anonymous}, {stranger}, {owner, member}} {
			for _, who := range callers {
				for _, name := range []string{"databio", "DATABIO"} {
					if got := namespace.Decide(who, asked.action, name, asked.visibility); got != want[at] {
						t.Errorf("%q %q of %q by %+v: %d, want %d", asked.action, asked.visibility, name, who, got, want[at])
					}
				}
			}
		}
	}
	for _, name := range []string{"", " ", "data"} {
		if got := namespace.Decide(namespace.Caller{Organisations: []string{""}}, namespace.Submit, name, ""); got == 200 {
			t.Errorf("who has no login owns %q", name)
		}
	}
}
