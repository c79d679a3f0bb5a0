package server

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
)

// written keeps what the trail stores.
type written struct{ entries []audit.Entry }

func (*written) BeginChain(_ context.Context, chain audit.Chain) (audit.Chain, error) {
	return chain, nil
}

func (w *written) Append(_ context.Context, _ string, entries []audit.Entry, _, _ audit.Head) error {
	w.entries = append(w.entries, entries...)
	return nil
}

// People read why they were refused; what an outage's error names (hosts, addresses) is for the log alone.
func TestWhatPeopleReadOfAFailure(t *testing.T) {
	kept := &written{}
	trail := audit.NewTrail(kept, "one", time.Now)
	for _, row := range []struct {
		status int
		err    error
	}{
		{http.StatusForbidden, errTokenScope},
		{http.StatusServiceUnavailable, errors.New("dial tcp 10.0.0.5:5432: refused")},
		{http.StatusInternalServerError, errors.New("a handler panicked")},
		{http.StatusOK, nil},
	} {
		x := &exchange{edge: &edge{trail: trail}, caller: authn.Caller{User: alice, Proof: authn.Session}, err: row.err, event: audit.Event{Action: audit.Mint}}
		addEvent(x, row.status, "192.0.2.1")
		if row.err != nil && x.event.Reason != row.err.Error() {
			t.Errorf("%d: the log has %q, want %q", row.status, x.event.Reason, row.err)
		}
	}
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for i := range kept.entries {
		reasons = append(reasons, viewOfEvent(&kept.entries[i]).Reason)
	}
	if diff := cmp.Diff([]string{errTokenScope.Error(), outage, ""}, reasons); diff != "" { // the two outages are alike
		t.Errorf("what people read (-want +got):\n%s", diff)
	}
}
