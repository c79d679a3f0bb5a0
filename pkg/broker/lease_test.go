package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// Who is silent is told by this process's own clock alone, and by looks that it made.
func TestWhoIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peers{seen: map[string]heard{}}
		look := func(beats map[string]int64) { p.look(Pulse{Beats: beats}, time.Now(), time.Now()) }
		expect := func(what, id string, want time.Duration) {
			t.Helper()
			if got := p.silent(id); got != want {
				t.Errorf("%s: silent for %s, want %s", what, got, want)
			}
		}
		look(map[string]int64{"a": 1, "b": 1})
		for i := range int64(5) {
			time.Sleep(time.Second)
			look(map[string]int64{"a": 1 + i*1_000_000, "b": 1}) // a's database clock steps, and it beats
		}
		expect("one that beats", "a", 0)
		expect("one that does not", "b", 5*time.Second)
		time.Sleep(2 * time.Second)
		expect("without a new look nothing is known", "b", 5*time.Second)

		time.Sleep(10 * time.Second) // the database was away, or this process was suspended
		look(map[string]int64{"a": 5, "b": 1})
		expect("just after an outage nobody is silent", "b", 0)
		for range 3 {
			time.Sleep(time.Second)
			look(map[string]int64{"a": 5, "b": 1})
		}
		expect("a lease's life later", "b", 3*time.Second)
		if alive := p.alive(); len(alive) != 0 {
			t.Errorf("alive: %v, want nobody", alive)
		}
		time.Sleep(time.Second)
		look(map[string]int64{"a": 5})
		expect("one whose line was deleted", "b", 4*time.Second)
		expect("one that nobody ever heard of", "c", 0)
		if alive := p.alive(); len(alive) != 0 {
			t.Errorf("alive: %v, want none: one that was never heard of is not", alive)
		}
		time.Sleep(time.Second)
		look(map[string]int64{"a": 5})
		expect("and counts from the first look on", "c", time.Second)
	})
}

// A lease lapses by the larger of the two clocks: the monotonic one stands still while a machine is
// suspended, the wall clock may be set back.
func TestALeaseLapsesByEitherClock(t *testing.T) {
	now := time.Now()
	for name, row := range map[string]struct {
		later time.Time
		holds bool
	}{
		"a moment later":                {now.Add(time.Second), true},
		"a lease's life later":          {now.Add(leaseLife), false},
		"suspended for an hour":         {wallStep(now, time.Hour), false},
		"the wall clock was set back":   {wallStep(now.Add(leaseLife), -time.Hour), false},
		"it was set back a little, now": {wallStep(now.Add(time.Second), -time.Hour), true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &lease{}
			l.renewed(now, now, false)
			if _, holds := l.now(row.later); holds != row.holds {
				t.Errorf("the lease holds: %t, want %t", holds, row.holds)
			}
			before, _ := l.now(now)
			l.renewed(row.later, row.later, false)
			if epoch, _ := l.now(row.later); (epoch == before) != row.holds {
				t.Errorf("the epoch went from %d to %d, and the lease had held: %t", before, epoch, row.holds)
			}
		})
	}
}

// A gap between heartbeats begins when the first is sent and ends when the second is acknowledged: between these
// two moments no other replica need have seen either.
func TestHowLongAGapIs(t *testing.T) {
	now := time.Now()
	for name, row := range map[string]struct {
		acknowledged       time.Duration // of the first, which was sent at 0
		sent, answered     time.Duration // of the second
		begins             bool          // a new epoch
		holdsUntil, lapsed time.Duration
	}{
		"every second":                        {sent: time.Second, answered: time.Second, holdsUntil: 3999 * time.Millisecond, lapsed: 4 * time.Second},
		"a moment less than the lease's life": {sent: 2 * time.Second, answered: 2999 * time.Millisecond, holdsUntil: 4999 * time.Millisecond, lapsed: 5 * time.Second},
		"acknowledged too late":               {sent: 2 * time.Second, answered: 3 * time.Second, begins: true, holdsUntil: 4999 * time.Millisecond, lapsed: 5 * time.Second},
		"the first was slow":                  {acknowledged: time.Second, sent: 2900 * time.Millisecond, answered: 3 * time.Second, begins: true, holdsUntil: 5899 * time.Millisecond, lapsed: 5900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			l := &lease{}
			l.renewed(now, now.Add(row.acknowledged), false)
			before, _ := l.now(now)
			l.renewed(now.Add(row.sent), now.Add(row.answered), false)
			after, holds := l.now(now.Add(row.holdsUntil))
			if begins := after != before; begins != row.begins || !holds {
				t.Errorf("a new epoch begins: %t, and holds: %t; want %t and true", begins, holds, row.begins)
			}
			if _, holds := l.now(now.Add(row.lapsed)); holds {
				t.Error("it holds for longer than its life since it was sent")
			}
		})
	}
}

// wallStep is a reading whose wall clock has stepped and whose monotonic clock has not, as after a
// suspension. Package time has no way to make one: of its first word the seconds begin at bit 30.
func wallStep(at time.Time, by time.Duration) time.Time {
	words := (*[2]uint64)(unsafe.Pointer(&at))
	words[0] += uint64(by/time.Second) << 30
	return at
}

// A look that another overtook says nothing; a replica whose line is gone counts as silent for as long as its
// flights may be judged, and is forgotten after that.
func TestLooksThatOvertakeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peers{seen: map[string]heard{}}
		began := time.Now()
		beat := func(n int64) Pulse { return Pulse{Beats: map[string]int64{"a": n}} }
		p.look(beat(1), began, began)
		time.Sleep(2 * time.Second)
		p.look(beat(2), began.Add(2*time.Second), time.Now())
		p.look(beat(1), began.Add(time.Second), time.Now()) // sent before, and answered after
		if since := p.since("a"); !since.Equal(began.Add(2*time.Second)) || p.silent("a") != 0 {
			t.Errorf("heard at %s, silent for %s; want at the second look", since.Sub(began), p.silent("a"))
		}
		time.Sleep(time.Second)
		p.look(beat(2), began.Add(3*time.Second), time.Now())
		if since := p.since("a"); !since.Equal(began.Add(2 * time.Second)) {
			t.Errorf("heard at %s though its heartbeat is the same, want 2 s", since.Sub(began))
		}
		if !p.since("unknown").IsZero() {
			t.Error("one that was never heard of was heard")
		}
		// One sent late is answered later: a heartbeat counts as heard when its word is here.
		p.look(beat(3), began.Add(3500*time.Millisecond), began.Add(4*time.Second))
		if since := p.since("a"); !since.Equal(began.Add(4 * time.Second)) {
			t.Errorf("heard at %s, want when the answer came, at 4 s", since.Sub(began))
		}
		for at := 5 * time.Second; at < goneKept; at += 2 * time.Second {
			p.look(Pulse{}, began.Add(at), began.Add(at))
		}
		if _, kept := p.seen["a"]; !kept {
			t.Error("it is forgotten too early")
		}
		last := began.Add(goneKept + 4*time.Second)
		p.look(Pulse{}, last.Add(-2*time.Second), last)
		p.look(Pulse{}, last, last)
		if _, kept := p.seen["a"]; kept {
			t.Error("it is kept for longer than that")
		}
	})
}

// Before its first heartbeat was acknowledged a replica has no lease, and knows that it never had one.
func TestBeforeTheFirstHeartbeat(t *testing.T) {
	now, l := time.Now(), &lease{}
	if epoch, holds := l.now(now); !l.never() || epoch != 0 || holds {
		t.Errorf("never: %t, epoch %d, holds %t; want true, 0, false", l.never(), epoch, holds)
	}
	l.renewed(now, now, false)
	if epoch, holds := l.now(now); l.never() || epoch != 1 || !holds {
		t.Errorf("after it: never %t, epoch %d, holds %t; want false, 1, true", l.never(), epoch, holds)
	}
}

// A gap between two looks that is as long as a lease's life is an outage, in which no heartbeat could be
// heard; a shorter one is not.
func TestHowLongAReplicaIsBlind(t *testing.T) {
	began := time.Now()
	for gap, want := range map[time.Duration]time.Duration{leaseLife: 0, leaseLife - time.Millisecond: leaseLife - time.Millisecond} {
		t.Run(fmt.Sprint(gap), func(t *testing.T) {
			p := &peers{seen: map[string]heard{}}
			p.look(Pulse{Beats: map[string]int64{"a": 1}}, began, began)
			p.look(Pulse{Beats: map[string]int64{"a": 1}}, began.Add(gap), began.Add(gap))
			if got := p.silent("a"); got != want {
				t.Errorf("after a gap of %s: silent for %s, want %s", gap, got, want)
			}
			if alive := p.alive(); len(alive) != 1 {
				t.Errorf("after a gap of %s: alive are %v, want a", gap, alive)
			}
		})
	}
}

// A replica whose spool lock was found free is dead until its heartbeat is seen to change: neither the first
// look nor one after an outage of the database is a sign of life. Else a database that restarts beside a kill
// lets the provider's grace pass.
func TestWhoIsDead(t *testing.T) {
	for name, row := range map[string]struct {
		looks func(look func(beat int64, gone bool))
		dead  bool
	}{
		"its beat never changed": {func(look func(int64, bool)) {
			look(1, false)
			time.Sleep(time.Second)
			look(1, false)
		}, true},
		"the first look comes late": {func(look func(int64, bool)) {
			time.Sleep(2 * time.Second)
			look(1, false)
		}, true},
		"the database was away": {func(look func(int64, bool)) {
			look(1, false)
			time.Sleep(leaseLife + time.Second)
			look(1, false)
		}, true},
		"it beats": {func(look func(int64, bool)) {
			look(1, false)
			time.Sleep(2 * time.Second)
			look(2, false)
		}, false},
		"it beat before its lock was found": {func(look func(int64, bool)) {
			look(1, false)
			time.Sleep(500 * time.Millisecond)
			look(2, false)
		}, true},
		"it beats, and another said before that it is dead": {func(look func(int64, bool)) {
			look(1, true)
			time.Sleep(2 * time.Second)
			look(2, false)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &engine{replica: "self", peers: peers{seen: map[string]heard{}}, aloft: aloft{ids: map[string]struct{}{}}}
				s := &sweeper{engine: e, gone: map[string]time.Time{"other": time.Now()}}
				row.looks(func(beat int64, gone bool) {
					e.peers.look(Pulse{Beats: map[string]int64{"other": beat}, Gone: map[string]bool{"other": gone}}, time.Now(), time.Now())
				})
				orphan := Orphan{Row: Row{FlightID: "f", Replica: "other"}}
				if got := s.owner(orphan).Dead; got != row.dead {
					t.Errorf("dead: %t, want %t", got, row.dead)
				}
			})
		})
	}
	t.Run("another replica found its lock", func(t *testing.T) {
		e := &engine{replica: "self", peers: peers{seen: map[string]heard{}}, aloft: aloft{ids: map[string]struct{}{}}}
		e.peers.look(Pulse{Beats: map[string]int64{"other": 1}, Gone: map[string]bool{"other": true}}, time.Now(), time.Now())
		if !(&sweeper{engine: e}).owner(Orphan{Row: Row{FlightID: "f", Replica: "other"}}).Dead {
			t.Error("it is not dead, want the other replica believed")
		}
	})
}

// since is from when on a replica's silence counts.
func (p *peers) since(id string) time.Time { return p.seen[id].since }
