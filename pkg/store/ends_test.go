package store

import (
	"testing"
	"time"
)

// What is kept of ends: the latest of each thing, and where there is no more room the old ones go.
func TestWhichEndsAreKept(t *testing.T) {
	now := time.Now()
	e := &ends{heard: map[string]end{}}
	e.keep(change{Kind: sessionChanged, Object: "old"}, now.Add(-changesKept-time.Second))
	e.keep(change{Kind: sessionChanged, Object: "recent"}, now.Add(-time.Second))
	for number := range maxEnds - len(e.heard) {
		e.heard[string(rune(number))+"-filler"] = end{at: now}
	}
	for len(e.heard) < maxEnds {
		e.heard[time.Duration(len(e.heard)).String()] = end{at: now}
	}
	e.keep(change{Kind: sessionChanged, Object: "new"}, now)
	for name, want := range map[string]bool{"old": false, "recent": true, "new": true} {
		t.Run(name, func(t *testing.T) {
			if _, kept := e.heard[string(sessionChanged)+" "+name]; kept != want {
				t.Errorf("%s is kept: %t", name, kept)
			}
		})
	}
	e.lost()
	if len(e.since(time.Hour)) != 0 {
		t.Error("what was heard before a gap is told as if nothing were missing")
	}
}

func TestWhatTheFeedSaysOfAnEnd(t *testing.T) {
	for object, good := range map[string]bool{"u/p/5/1700000000000": true, "u/p/five/1700000000000": false, "u/p/5/then": false, "u/p/5": false, "u/p/x/y": false} {
		t.Run(object, func(t *testing.T) {
			if row, ok := endedRow(object); ok != good || ok && (row.UserID != "u" || row.Provider != "p" || row.Version != 5 || row.ConnectedAt.UnixMilli() != 1700000000000) {
				t.Errorf("got %v, %t; want u, p, version 5, 1700000000000 where it can be read: %t", row, ok, good)
			}
		})
	}
}
