package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/audit"
)

// table keeps chains in memory, as the database does.
type table struct {
	mu      sync.Mutex
	chains  []audit.Chain
	highest int64
	entries map[string][]audit.Entry
	err     error // of each call
	lose    bool  // the answer of an Append that was stored
}

func newTable() *table { return &table{entries: map[string][]audit.Entry{}} }

func (t *table) BeginChain(_ context.Context, chain audit.Chain) (audit.Chain, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain.Number, chain.Sealed = t.highest+1, true
	if t.err == nil {
		t.highest++
		t.chains = append(t.chains, chain)
	}
	return chain, t.err
}

func (t *table) Append(_ context.Context, chain string, entries []audit.Entry, from, to audit.Head) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	for i := range t.chains {
		one := &t.chains[i]
		switch {
		case one.ID != chain:
		case one.Head == to:
			return nil
		case one.Head.Seq == from.Seq:
			one.Head = to
			t.entries[chain] = append(t.entries[chain], entries...)
			if t.lose {
				t.lose = false
				return errors.New("the connection was lost")
			}
			return nil
		}
	}
	return audit.ErrMoved
}

func (t *table) Chains(context.Context) ([]audit.Chain, error) { return t.chains, t.err }

func (t *table) Entries(_ context.Context, chain string, after int64, limit int) (found []audit.Entry, err error) {
	for _, one := range t.entries[chain] {
		if one.Seq > after && len(found) < limit {
			found = append(found, one)
		}
	}
	return found, t.err
}

func (t *table) Highest(context.Context) (int64, bool, error) { return t.highest, true, t.err }

func (*table) Find(context.Context, audit.Filter) ([]audit.Entry, error) { return nil, nil }

func (t *table) verify(test *testing.T) audit.Verified {
	test.Helper()
	found, err := audit.Verify(test.Context(), t, nil)
	if err != nil {
		test.Fatal(err)
	}
	return found
}

// fill has a process mint some tokens.
func fill(t *testing.T, kept *table, process string, count int) *audit.Trail {
	t.Helper()
	trail := audit.NewTrail(kept, process, time.Now)
	for i := range count {
		trail.Add(audit.Event{Action: audit.Mint, UserID: "u", Username: "alice", Proof: "pod", Actor: "pod 10.0.0.7", Audience: "files", Token: fmt.Sprintf("t%d", i)}, fmt.Sprintf("r%d", i), "10.0.0.7")
	}
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return trail
}

// What was done to the entries of a database is found, whatever it was.
func TestVerify(t *testing.T) {
	change := func(change func(e *audit.Entry)) func(kept *table) {
		return func(kept *table) { change(&kept.entries[kept.chains[1].ID][4]) }
	}
	of := func(kept *table) []audit.Entry { return kept.entries[kept.chains[1].ID] }
	for name, row := range map[string]struct {
		do   func(kept *table)
		says string // empty: nothing is found
	}{
		"nothing":           {func(*table) {}, ""},
		"another user":      {change(func(e *audit.Entry) { e.UserID = "v" }), "entry 5 was altered"},
		"another name":      {change(func(e *audit.Entry) { e.Username = "bob" }), "entry 5 was altered"},
		"another action":    {change(func(e *audit.Entry) { e.Action = audit.Login }), "entry 5 was altered"},
		"another reason":    {change(func(e *audit.Entry) { e.Reason = "x" }), "entry 5 was altered"},
		"another proof":     {change(func(e *audit.Entry) { e.Proof = "session" }), "entry 5 was altered"},
		"another actor":     {change(func(e *audit.Entry) { e.Actor = "x" }), "entry 5 was altered"},
		"another provider":  {change(func(e *audit.Entry) { e.Provider = "x" }), "entry 5 was altered"},
		"another audience":  {change(func(e *audit.Entry) { e.Audience = "x" }), "entry 5 was altered"},
		"another resource":  {change(func(e *audit.Entry) { e.Resource = "x" }), "entry 5 was altered"},
		"another client":    {change(func(e *audit.Entry) { e.Client = "x" }), "entry 5 was altered"},
		"another token":     {change(func(e *audit.Entry) { e.Token = "x" }), "entry 5 was altered"},
		"another request":   {change(func(e *audit.Entry) { e.Request = "x" }), "entry 5 was altered"},
		"another peer":      {change(func(e *audit.Entry) { e.Peer = "x" }), "entry 5 was altered"},
		"another time":      {change(func(e *audit.Entry) { e.At = e.At.Add(time.Millisecond) }), "entry 5 was altered"},
		"another count":     {change(func(e *audit.Entry) { e.Times = 2 }), "entry 5 was altered"},
		"another digest":    {change(func(e *audit.Entry) { e.Digest[0]++ }), "entry 5 was altered"},
		"a part that moved": {change(func(e *audit.Entry) { e.UserID, e.Username = "ua", "lice" }), "entry 5 was altered"},
		"one removed": {func(kept *table) {
			kept.entries[kept.chains[1].ID] = append(of(kept)[:4:4], of(kept)[5:]...)
		}, "entry 5 was removed"},
		"one removed, and those behind numbered anew": {func(kept *table) {
			left := append(of(kept)[:4:4], of(kept)[5:]...)
			for i := range left {
				left[i].Seq = int64(i + 1)
			}
			kept.entries[kept.chains[1].ID] = left
		}, "entry 5 was altered"},
		"two in each other's place": {func(kept *table) {
			of(kept)[4], of(kept)[5] = of(kept)[5], of(kept)[4]
			of(kept)[4].Seq, of(kept)[5].Seq = 5, 6
		}, "entry 5 was altered"},
		"cut off at its end": {func(kept *table) { kept.entries[kept.chains[1].ID] = of(kept)[:7] }, "cut off after entry 7"},
		"cut off, and its head with it": {func(kept *table) {
			kept.entries[kept.chains[1].ID] = of(kept)[:7]
			kept.chains[1].Head.Seq = 7
		}, "does not end where its process left it"},
		"all entries of a process": {func(kept *table) { delete(kept.entries, kept.chains[1].ID) }, "cut off after entry 0"},
		"a chain":                  {func(kept *table) { kept.chains = append(kept.chains[:1:1], kept.chains[2]) }, "chain 2 is missing"},
		"the newest chain":         {func(kept *table) { kept.chains = kept.chains[:2] }, "chain 3 is missing"},
		"all chains":               {func(kept *table) { kept.chains = nil }, "chain 3 is missing"},
		"another process":          {func(kept *table) { kept.chains[1].Process = "another" }, "entry 1 was altered"},
		"another beginning":        {func(kept *table) { kept.chains[1].BeganAt = time.Now().Add(time.Hour) }, "entry 1 was altered"},
		"a seal":                   {func(kept *table) { kept.chains[1].Sealed = false }, "does not open"},
		"one of another chain": {func(kept *table) {
			of(kept)[4] = kept.entries[kept.chains[0].ID][4]
		}, "entry 5 was altered"},
	} {
		t.Run(name, func(t *testing.T) {
			kept := newTable()
			for _, process := range []string{"one", "two", "three"} {
				fill(t, kept, process, 10)
			}
			row.do(kept)
			found := kept.verify(t)
			switch {
			case row.says == "" && (len(found.Faults) > 0 || found.Entries != 30 || found.Chains != 3):
				t.Errorf("got %+v, want 30 good entries in 3 chains", found)
			case row.says != "" && (len(found.Faults) != 1 || !strings.Contains(found.Faults[0], row.says)):
				t.Errorf("got %q, want that %s", found.Faults, row.says)
			}
		})
	}
}

// An answer of the database that was lost has no entry stored twice; a chain that a failover has set back goes on as
// another one; and while the database is away, entries wait.
func TestTheDatabaseIsAway(t *testing.T) {
	kept := newTable()
	trail := fill(t, kept, "one", 3)
	mint := func(token string) { trail.Add(audit.Event{Action: audit.Mint, Token: token}, "", "") }

	kept.err = errors.New("it is away")
	mint("waits")
	if err := trail.Flush(t.Context()); err == nil {
		t.Error("the database is away, and nothing says so")
	}
	kept.err, kept.lose = nil, true
	if err := trail.Flush(t.Context()); err == nil {
		t.Error("the answer was lost, and nothing says so")
	}
	mint("later")
	for range 2 {
		if err := trail.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var tokens []string
	for _, one := range kept.entries[kept.chains[0].ID] {
		tokens = append(tokens, one.Token)
	}
	if diff := cmp.Diff([]string{"t0", "t1", "t2", "waits", "later"}, tokens); diff != "" {
		t.Errorf("what was stored (-want +got):\n%s", diff)
	}

	chain := &kept.chains[0]
	entries := kept.entries[chain.ID]
	kept.entries[chain.ID], chain.Head = entries[:4], audit.Head{Seq: 4, Digest: entries[3].Digest}
	mint("after the failover")
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := kept.verify(t); len(found.Faults) > 0 || found.Chains != 2 || found.Entries != 6 {
		t.Errorf("got %+v, want a second chain with an entry that says so, and no fault", found)
	}
}

// Events that repeat within a minute have one entry at once and one for all others; a change has an entry each.
func TestEventsThatRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newTable()
		trail := audit.NewTrail(kept, "one", time.Now)
		handout := audit.Event{Action: audit.Handout, UserID: "u", Token: "sha"}
		refusal := audit.Event{Action: audit.Mint, Reason: "no"}
		for range 100 {
			trail.Add(handout, "r", "10.0.0.7")
			trail.Add(refusal, "r", "10.0.0.8")
			trail.Add(audit.Event{Action: audit.RevokeToken, Token: "t"}, "r", "10.0.0.7")
			time.Sleep(10 * time.Millisecond)
		}
		trail.Add(handout, "r", "10.0.0.9")
		other := handout
		other.Token = "another"
		trail.Add(other, "r", "10.0.0.7")
		counted := func() map[string]int64 {
			if err := trail.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			sums := map[string]int64{}
			for _, one := range kept.entries[kept.chains[0].ID] {
				key := string(one.Action) + " " + one.Token + " " + one.Peer
				sums[key+" entries"]++
				sums[key+" events"] += one.Times
			}
			return sums
		}
		at := map[string]int64{
			"handout sha 10.0.0.7 entries": 1, "handout sha 10.0.0.7 events": 1, "mint  10.0.0.8 entries": 1, "mint  10.0.0.8 events": 1,
			"revoke token t 10.0.0.7 entries": 100, "revoke token t 10.0.0.7 events": 100, "handout sha 10.0.0.9 entries": 1, "handout sha 10.0.0.9 events": 1,
			"handout another 10.0.0.7 entries": 1, "handout another 10.0.0.7 events": 1,
		}
		if diff := cmp.Diff(at, counted()); diff != "" {
			t.Errorf("at once (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		at["handout sha 10.0.0.7 entries"], at["handout sha 10.0.0.7 events"] = 2, 100
		at["mint  10.0.0.8 entries"], at["mint  10.0.0.8 events"] = 2, 100
		if diff := cmp.Diff(at, counted()); diff != "" {
			t.Errorf("after the minute (-want +got):\n%s", diff)
		}
		// The next minute counts anew, and what was counted is stored once.
		trail.Add(handout, "r", "10.0.0.7")
		at["handout sha 10.0.0.7 entries"], at["handout sha 10.0.0.7 events"] = 3, 101
		if diff := cmp.Diff(at, counted()); diff != "" {
			t.Errorf("in the next minute (-want +got):\n%s", diff)
		}
		time.Sleep(time.Second)
		trail.Add(handout, "late", "10.0.0.7")
		again := time.Now()
		if diff := cmp.Diff(at, counted()); diff != "" {
			t.Errorf("a second later (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		at["handout sha 10.0.0.7 entries"], at["handout sha 10.0.0.7 events"] = 4, 102
		if diff := cmp.Diff(at, counted()); diff != "" {
			t.Errorf("after that minute (-want +got):\n%s", diff)
		}
		all := kept.entries[kept.chains[0].ID]
		if last := all[len(all)-1]; !last.At.Equal(again.Truncate(time.Millisecond)) || last.Request != "late" {
			t.Errorf("what was counted is of %v (%s), want that of the last one, %v", last.At, last.Request, again)
		}
		if found := kept.verify(t); len(found.Faults) > 0 {
			t.Errorf("got %+v", found)
		}
	})
}

// What callers write who prove nothing makes no entry each, and what one who is known asks in vain makes so many a
// minute.
func TestAFloodOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newTable()
		trail := audit.NewTrail(kept, "one", time.Now)
		for i := range 1000 {
			trail.Add(audit.Event{Action: audit.Exchange, Reason: fmt.Sprintf("no %d", i), Audience: fmt.Sprint("audience ", i), Resource: fmt.Sprint(i)}, "r", fmt.Sprintf("2001:db8::%x", i))
		}
		trail.Add(audit.Event{Action: audit.Exchange, Reason: "no"}, "r", "2001:db8:0:1::1")
		trail.Add(audit.Event{Action: audit.Exchange, Reason: "no"}, "r", "10.0.0.1")
		trail.Add(audit.Event{Action: audit.Exchange, Reason: "no"}, "r", "10.0.0.2")
		stored := func() (entries int, events int64) {
			if err := trail.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, one := range kept.entries[kept.chains[0].ID] {
				entries++
				events += one.Times
			}
			return entries, events
		}
		if entries, events := stored(); entries != 4 || events != 4 {
			t.Errorf("got %d entries of %d events, want one of each network", entries, events)
		}
		for i := range 30_000 {
			trail.Add(audit.Event{Action: audit.Mint, Proof: "pod", UserID: "u", Reason: fmt.Sprintf("no %d", i)}, "r", "10.0.0.7")
		}
		entries, _ := stored()
		time.Sleep(time.Minute)
		if all, events := stored(); entries > 10_005 || all > entries+3 || events != 31_003 {
			t.Errorf("got %d entries at once and %d of %d events after a minute, want 10,000, and those that differ counted", entries, all, events)
		}
	})
}

// A process that stops says how often what it counted came.
func TestCountsAreStoredAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newTable()
		trail := audit.NewTrail(kept, "one", time.Now)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { trail.Run(ctx, func(err error) { t.Error(err) }); close(ended) }()
		for range 50 {
			trail.Add(audit.Event{Action: audit.Handout, UserID: "u", Token: "sha"}, "r", "10.0.0.7")
		}
		time.Sleep(time.Second)
		stop()
		<-ended
		sum := int64(0)
		for _, one := range kept.entries[kept.chains[0].ID] {
			sum += one.Times
		}
		if sum != 50 {
			t.Errorf("%d of 50 handouts are stored", sum)
		}
	})
}

// A verification beside a process that writes finds nothing wrong with what came since it began.
func TestVerifyBesideAWriter(t *testing.T) {
	kept := newTable()
	trail := fill(t, kept, "one", 3)
	before := append([]audit.Chain(nil), kept.chains...)
	trail.Add(audit.Event{Action: audit.Mint, Token: "since"}, "", "")
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept.chains = before
	if found := kept.verify(t); len(found.Faults) > 0 || found.Entries != 3 {
		t.Errorf("got %+v, want the three entries of then, and no fault", found)
	}
}

// A process says once that the database is away, brings its last entry in when it stops, and begins no chain after the
// other where none is taken.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := newTable()
		trail := audit.NewTrail(kept, "one", time.Now)
		ctx, stop := context.WithCancel(t.Context())
		ended, said := make(chan struct{}), 0
		go func() { trail.Run(ctx, func(error) { said++ }); close(ended) }()
		mint := func(token string) { trail.Add(audit.Event{Action: audit.Mint, Token: token}, "", "") }
		mint("first")
		time.Sleep(time.Second)
		kept.mu.Lock()
		kept.err = errors.New("away")
		kept.mu.Unlock()
		mint("waits")
		time.Sleep(time.Minute)
		kept.mu.Lock()
		kept.err = nil
		kept.mu.Unlock()
		time.Sleep(time.Second)
		mint("last")
		stop()
		<-ended
		if stored := len(kept.entries[kept.chains[0].ID]); said != 1 || stored != 3 {
			t.Errorf("trouble was told %d times, and %d entries are stored; want once, and 3", said, stored)
		}
	})
	if err := audit.NewTrail(nowhere{}, "one", time.Now).Flush(t.Context()); err != nil {
		t.Errorf("nothing to store: %v", err)
	}
	trail := audit.NewTrail(nowhere{}, "one", time.Now)
	trail.Add(audit.Event{Action: audit.Mint}, "", "")
	if err := trail.Flush(t.Context()); !errors.Is(err, audit.ErrMoved) {
		t.Errorf("got %v, want that the chain cannot be written", err)
	}
}

// nowhere takes no entry.
type nowhere struct{}

func (nowhere) BeginChain(_ context.Context, chain audit.Chain) (audit.Chain, error) {
	return chain, nil
}

func (nowhere) Append(context.Context, string, []audit.Entry, audit.Head, audit.Head) error {
	return audit.ErrMoved
}

// What does not fit in memory while the database is away is counted, and what no database takes is replaced.
func TestWhatCannotBeKept(t *testing.T) {
	kept := newTable()
	trail := audit.NewTrail(kept, "on\x00e", time.Now)
	trail.Add(audit.Event{Action: audit.Login, Username: "al\xffice\x00"}, "", "")
	for range 100_005 {
		trail.Add(audit.Event{Action: audit.Mint}, "", "")
	}
	if err := trail.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries := kept.entries[kept.chains[0].ID]
	last := entries[len(entries)-1]
	if len(entries) != 100_001 || last.Action != audit.Lost || last.Times != 6 || last.Reason == "" {
		t.Errorf("got %d entries, the last one %+v; want 100,000, and one that says how many were lost", len(entries), last)
	}
	if first := entries[0]; first.Username != "al\uFFFDice\uFFFD" || strings.Contains(kept.chains[0].Process, "\x00") {
		t.Errorf("got %q of %q, want text that every database takes", first.Username, kept.chains[0].Process)
	}
	if found := kept.verify(t); len(found.Faults) > 0 {
		t.Errorf("got %+v", found)
	}
}
