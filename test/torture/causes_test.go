//go:build torture

package torture

import (
	"fmt"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// What excuses a loss is itself tested: a rule that is too kind hides a bug.
func TestCauses(t *testing.T) {
	start := time.Now()
	at := func(milliseconds int) time.Time { return start.Add(time.Duration(milliseconds) * time.Millisecond) }
	befell := func(what string, replica, from, to int) fault {
		return fault{what: what, replica: replica, began: at(from), ended: at(to), over: at(to)}
	}
	for name, of := range map[string]struct {
		received int // 0 for never
		lost     bool
		faults   []fault
		want     string
	}{
		"without a fault":                          {received: 20, want: byNothing},
		"cut off":                                  {lost: true, want: byCut},
		"killed before the answer came":            {faults: []fault{befell(kill, 1, 5, 300)}, want: byKill},
		"killed when it had just come":             {received: 20, faults: []fault{befell(kill, 1, 100, 300)}, want: byKill},
		"killed long after":                        {received: 20, faults: []fault{befell(kill, 1, 2000, 2300)}, want: byNothing},
		"killed long after, the database away":     {received: 20, faults: []fault{befell(restart, everyone, 0, 1900), befell(kill, 1, 2000, 2300)}, want: byKill},
		"killed long before":                       {received: 20, faults: []fault{befell(kill, 1, -3000, -2800)}, want: byNothing},
		"another replica was killed":               {received: 20, faults: []fault{befell(kill, 2, 5, 300)}, want: byNothing},
		"dropped":                                  {faults: []fault{befell(dropProvider, 1, -10, 5000)}, want: byDrop},
		"dropped with the database's":              {faults: []fault{befell(dropAll, 1, -10, 5000)}, want: byDrop},
		"received, though packets were dropped":    {received: 4000, faults: []fault{befell(dropProvider, 1, -10, 3000)}, want: byNothing},
		"another replica's packets were dropped":   {faults: []fault{befell(dropProvider, 0, -10, 5000)}, want: byNothing},
		"packets of the database alone":            {faults: []fault{befell(dropDatabase, 1, -10, 5000)}, want: byNothing},
		"stopped gracefully":                       {received: 20, faults: []fault{befell(stop, 1, 5, 300)}, want: byNothing},
		"paused":                                   {received: 20, faults: []fault{befell(pause, 1, 5, 3000)}, want: byNothing},
		"a step of the clock":                      {received: 20, faults: []fault{befell(stepForward, everyone, 5, 6)}, want: byNothing},
		"the provider was away later":              {received: 20, faults: []fault{befell(notThere, everyone, 500, 1500)}, want: byNothing},
		"never received, and nothing explains why": {want: byNothing},
	} {
		t.Run(name, func(t *testing.T) {
			const from = "10.77.12.1:4711" // replica 1
			rotated := providertest.Event{What: providertest.Rotated, At: at(1), Post: 7, From: from, Subject: "a", Presented: "old", Given: "new", AnswerLost: of.lost}
			events := []providertest.Event{{What: providertest.Posted, At: at(0), Post: 7, From: from, Subject: "a", Presented: "old"}, rotated}
			if of.received > 0 {
				events = append(events, providertest.Event{What: providertest.Received, At: at(of.received), Post: 7, From: from, Subject: "a"})
			}
			events = append(events, providertest.Event{What: providertest.Reused, At: at(30_000), Post: 9, Subject: "a", Presented: "old", SpentAt: at(1)})
			losses := read(events).losses(events, of.faults)
			if len(losses) != 1 || losses[0].cause != of.want {
				t.Errorf("want %s, got %s", of.want, fmt.Sprint(losses))
			}
		})
	}
}
