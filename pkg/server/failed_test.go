package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
)

// A person is told what failed, and above all whose fault it is: the provider's, ours, or neither.
func TestWhatAPersonReads(t *testing.T) {
	database := &broker.Unavailable{Cause: errors.New("the database is away")}
	down := &broker.Unavailable{Cause: &provider.Error{Provider: "p", Outcome: provider.Unknown}}
	login := func(err error) error { return &loginError{error: err, callback: true} }
	tests := map[string]struct {
		err   error
		title string
	}{
		"a provider that is down":             {login(down), "%s is not answering"},
		"one that says so at the callback":    {login(fmt.Errorf("%w (%w)", broker.ErrNoCode, broker.ErrUnavailable)), "%s is not answering"},
		"one that is down, as a login begins": {&loginError{error: down}, "%s is not answering"},
		"our database, in a login":            {login(database), "This service cannot finish the sign-in"},
		"our database, who is it":             {login(fmt.Errorf("%w: x", authn.ErrUnavailable)), "This service cannot finish the sign-in"},
		"our database, on a page":             {database, "This service cannot look that up"},
		"our database, of tokens":             {fmt.Errorf("%w: x", apitoken.ErrUnavailable), "This service cannot look that up"},
		"our database, of the audit":          {errUnreadable, "This service cannot look that up"},
		"a client that is refused":            {login(&broker.Unavailable{Cause: fmt.Errorf("%w: %w", broker.ErrClientRejected, &provider.Error{})}), "%s does not know this service"},
		"a revocation under way":              {login(&broker.Unavailable{Cause: broker.ErrRevoking}), "%s is still ending your former connection"},
		"declined":                            {login(fmt.Errorf("%w (%w)", broker.ErrNoCode, broker.ErrDeclined)), "You declined at %s"},
		"another answer without a code":       {login(broker.ErrNoCode), "The sign-in at %s did not succeed"},
		"used before":                         {login(broker.ErrReplayed), "This sign-in took too long, or was opened twice"},
		"disabled":                            {authn.ErrDisabled, "Your account is disabled"},
		"too many":                            {&errTooMany{kind: kinds[changes]}, "Too many changes at once"},
		"too many pages":                      {&errTooMany{kind: kinds[reads]}, "Too many requests"},
		"not the portal's":                    {errPortal, "Sign in at the portal first"},
		"without a proof":                     {authn.ErrNoProof, "Sign in first"},
		"anything else":                       {errors.New("a surprise"), "That did not work"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := failureOf(test.err); got.title != test.title {
				t.Errorf("got %q, want %q", got.title, test.title)
			}
		})
	}
	for _, one := range failures {
		words := one.worded()
		if words.title == "" || words.text == "" || strings.Contains(words.title+words.text, http.StatusText(words.status)+" ") && words.status != http.StatusOK {
			t.Errorf("a person reads %q: %q", words.title, words.text)
		}
	}
}
