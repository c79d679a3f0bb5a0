package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// desk is a database of one row, which the engine's own rules change, and its provider. A test says what
// fails.
type desk struct {
	mu    sync.Mutex
	row   Row
	taken []Action // that were stored

	before func(Action) error // the database is away
	after  func(Action) error // what is stored, and not acknowledged
	answer func(provider.Gate) (provider.Tokens, error)
	beats  func() (map[string]int64, error)
	beaten int64
	asked  int
	when   time.Time // when it was last asked

	look    Look     // of the last sweep
	blind   bool     // sweeps fail
	others  bool     // the replica "other" beats
	rotates bool     // the provider, at another connection
	told    []string // which replicas are gone
	deaf    bool     // it cannot be told
}

var errAway = errors.New("the database is away")

func (d *desk) Row(ctx context.Context, _, _ string) (Row, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.read(), ctx.Err()
}

func (d *desk) read() Row {
	row := d.row
	row.Reading = Reading{Database: time.Now(), Sent: time.Now(), Received: time.Now()}
	return row
}

func (d *desk) Rows(context.Context, string) ([]Row, error) { return []Row{d.read()}, nil }

func (d *desk) Apply(ctx context.Context, _ Row, action Action) (Change, error) {
	if err := ctx.Err(); err != nil {
		return Change{}, err
	}
	d.mu.Lock()
	before, after := d.before, d.after
	d.mu.Unlock()
	if before != nil {
		if err := before(action); err != nil {
			return Change{}, err
		}
	}
	d.mu.Lock()
	change, err := Apply(d.read(), Event{At: time.Now(), Action: action})
	if err == nil && !change.Keep {
		d.row = change.Row
	}
	if err == nil {
		d.taken = append(d.taken, action)
	}
	d.mu.Unlock()
	if err == nil && after != nil {
		if err := after(action); err != nil {
			return Change{}, err
		}
	}
	if err == nil {
		err = change.Refusal
	}
	return change, err
}

func (d *desk) Disconnect(ctx context.Context, _, _ string) error {
	_, err := d.Apply(ctx, Row{}, Disconnect{})
	return err
}

func (d *desk) Orphans(ctx context.Context, look Look) (orphans []Orphan, pulse Pulse, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look = look
	if d.blind {
		return nil, Pulse{}, errAway
	}
	beats := map[string]int64{look.Replica: d.beaten}
	if d.others {
		beats["other"] = time.Now().UnixNano()
	}
	row := d.read()
	held := row.Reading.Database.Sub(row.ClaimedAt)
	flight := row.FlightID != "" && held >= time.Second && (row.Replica == look.Replica || !slices.Contains(look.Healthy, row.Replica) || held >= look.Overdue)
	doubt := row.FlightID == "" && row.Phase == Suspect && row.Reading.Database.Sub(row.NextAttemptAt) >= time.Second
	if flight || doubt {
		orphans = []Orphan{{Row: row, ProviderRotates: d.rotates}}
	}
	return orphans, Pulse{Beats: beats, Settled: true}, ctx.Err()
}

func (d *desk) Beat(ctx context.Context, beat Beat) (Pulse, error) {
	d.mu.Lock()
	d.beaten++
	beaten, beats := d.beaten, d.beats
	d.mu.Unlock()
	if beats != nil {
		found, err := beats()
		return Pulse{Beats: found, Settled: true}, err
	}
	return Pulse{Beats: map[string]int64{beat.Replica: beaten}, Settled: true}, ctx.Err()
}

func (d *desk) Gone(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaf {
		return errAway
	}
	d.told = append(d.told, id)
	return nil
}

// A desk never fails over.
func (d *desk) Behind(context.Context, []Row) ([]int, error)     { return nil, nil }
func (d *desk) Restore(context.Context, Restore) error           { return ErrSuperseded }
func (d *desk) RestoreEnds(context.Context, time.Duration) error { return nil }
func (d *desk) Settle(context.Context, string) error             { return nil }
func (d *desk) Recommit(context.Context, string, string, Commit) (Change, error) {
	return Change{}, ErrSuperseded
}

func (d *desk) TakeRevocation(context.Context, string, time.Duration) (Revocation, error) {
	return Revocation{}, nil
}
func (d *desk) Revoked(context.Context, string) error { return nil }

func (d *desk) Refresh(ctx context.Context, _ secret.Text, _ string, gate provider.Gate) (provider.Tokens, error) {
	if ctx.Err() != nil {
		return provider.Tokens{}, &provider.Error{Outcome: provider.Unsent}
	}
	d.mu.Lock()
	d.asked, d.when = d.asked+1, time.Now()
	answer := d.answer
	d.mu.Unlock()
	return answer(gate)
}

func (d *desk) Revoke(context.Context, secret.Text, provider.Gate) error { return nil }

// now is the row, and how often the provider was asked.
func (d *desk) now() (Row, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.row, d.asked
}

// set changes what a desk does while the engine runs.
func (d *desk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// claimsAlone are all that a database takes, and butClaims all but those.
func claimsAlone(action Action) error {
	if _, claim := action.(Claim); !claim {
		return errAway
	}
	return nil
}

func butClaims(action Action) error {
	if _, claim := action.(Claim); claim {
		return errAway
	}
	return nil
}

// rotates answers with a successor.
func rotates(provider.Gate) (provider.Tokens, error) {
	return provider.Tokens{RefreshToken: "r2", AccessToken: "a2", IssuedAt: time.Now(), AccessExpiresAt: time.Now().Add(time.Hour)}, nil
}

// fails answers with a failure.
func fails(outcome provider.Outcome) func(provider.Gate) (provider.Tokens, error) {
	return func(provider.Gate) (provider.Tokens, error) {
		return provider.Tokens{}, &provider.Error{Outcome: outcome}
	}
}

var deskKey = cacheKey{"u", "main"}

// newDesk is a broker over a desk whose token has run out. It does not run yet: it has no lease.
func newDesk(config provider.Config) (*Broker, *desk, *upstream) {
	now := time.Now()
	d := &desk{answer: rotates}
	d.row = Row{
		Connection: Connection{
			UserID: "u", Provider: "main", Phase: Ready, Version: 7, RefreshToken: "r1", AccessToken: "a1", Rotates: RotationUnknown,
			AccessIssuedAt: now.Add(-time.Hour), AccessExpiresAt: now.Add(-time.Minute),
		},
		Digest: []byte("r1"), StoredVersion: 7,
	}
	b := New(Parts{
		Config: Config{DefaultProvider: "main", Wait: 5 * time.Second, SpoolWait: 12 * time.Second},
		Store:  d, Replicas: d, Outbox: d, Failovers: d, Now: time.Now,
	})
	b.engine.digest = func(token string) []byte { return []byte(token) }
	up := newUpstream("main", d, config)
	up.served = func(time.Duration) {}
	b.engine.upstreams["main"] = up
	b.engine.lease.begin()
	return b, d, up
}

// run keeps the engine until the function is called that it returns.
func (e *engine) running() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.run(ctx); close(done) }()
	time.Sleep(time.Millisecond) // for the first heartbeat
	return func() { cancel(); <-done }
}

// A replica claims while its lease holds, and sends while the lease under which it claimed lasts.
func TestTheLeaseOfAFlight(t *testing.T) {
	gap := func(e *engine) {
		time.Sleep(leaseLife)
		e.lease.renewed(time.Now(), time.Now(), false)
	}
	for name, line := range map[string]struct {
		claiming, claimed func(e *engine) // what happens meanwhile, and after that
		sends             bool
	}{
		"it holds":                       {sends: true},
		"it is renewed":                  {claimed: func(e *engine) { e.lease.renewed(time.Now(), time.Now(), false) }, sends: true},
		"the database failed over":       {claimed: func(e *engine) { e.lease.renewed(time.Now(), time.Now(), true) }},
		"it lapses after the claim":      {claimed: func(*engine) { time.Sleep(leaseLife) }},
		"another begins after the claim": {claimed: gap},
		"another begins with the claim":  {claiming: gap},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, up := newDesk(provider.Config{})
				e := b.engine
				if _, err := e.claim(t.Context(), d.read(), Claim{}, 0); !errors.Is(err, errLapsed) || len(d.taken) > 0 {
					t.Fatalf("without a lease: got %v and %d changes, want errLapsed and none", err, len(d.taken))
				}
				e.lease.renewed(time.Now(), time.Now(), false)
				if line.claiming != nil {
					d.after = func(Action) error { line.claiming(e); return nil }
				}
				flight, err := e.claim(t.Context(), d.read(), Claim{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				d.after = nil
				if line.claimed != nil {
					line.claimed(e)
				}
				sent := false
				d.answer = func(gate provider.Gate) (provider.Tokens, error) {
					if sent = gate(); sent {
						return rotates(gate)
					}
					return provider.Tokens{}, &provider.Error{Outcome: provider.Unsent}
				}
				_, _ = (&presentation{e, up, flight}).fly(t.Context())
				if sent != line.sends {
					t.Errorf("the token is sent: %t, want %t", sent, line.sends)
				}
			})
		})
	}
}

// A heartbeat that the database did not acknowledge renews nothing.
func TestALeaseIsRenewedByTheDatabaseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, _ := newDesk(provider.Config{})
		defer b.engine.running()()
		if !b.Beating() {
			t.Fatal("there is no lease after the first heartbeat")
		}
		time.Sleep(time.Minute)
		if epoch, holds := b.engine.lease.now(time.Now()); !holds || epoch != 1 {
			t.Errorf("a minute later the lease holds: %t, epoch %d; want one unbroken lease", holds, epoch)
		}
		d.set(func() { d.beats = func() (map[string]int64, error) { return nil, errAway } })
		time.Sleep(leaseLife + beatEvery)
		if b.Beating() {
			t.Error("the lease holds although no heartbeat was acknowledged for as long as it lasts")
		}
	})
}

// A flight whose result the database has not taken is still under way: a sweeper of its own replica would
// else release its token as never sent. The result is offered until it is stored.
func TestAResultThatTheDatabaseDoesNotTake(t *testing.T) {
	for name, line := range map[string]struct {
		answer func(provider.Gate) (provider.Tokens, error)
		phase  Phase
		served bool
	}{
		"a successor":        {answer: rotates, phase: Ready, served: true},
		"a doubt":            {answer: fails(provider.Unknown), phase: Suspect},
		"the grant's end":    {answer: fails(provider.Refused), phase: Broken},
		"that it was unsent": {answer: fails(provider.Unsent), phase: Ready},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{})
				e := b.engine
				defer e.running()()
				d.set(func() { d.answer, d.before = line.answer, claimsAlone })
				spool := opened(t, t.TempDir(), e.replica)
				e.keys, e.spool = spoolKeys(t), spool
				got, err := e.fresh(t.Context(), deskKey, 0, 5*time.Second)
				if served := err == nil && got.value == "a2"; served != line.served {
					t.Errorf("the caller gets %v, served %t; want served %t", err, served, line.served)
				}
				for range 10 { // of sweeps
					time.Sleep(time.Second)
					row, _ := d.now()
					if row.Phase != Refreshing || !e.aloft.has(row.FlightID) {
						t.Fatalf("the row is %s, and its flight is under way: %t", row.Phase, e.aloft.has(row.FlightID))
					}
					if spooled := spool.open == 1 && spool.size > 0; spooled != line.served {
						t.Fatalf("it is in the spool: %t, want %t", spooled, line.served)
					}
				}
				d.set(func() { d.before = butClaims })
				time.Sleep(3 * time.Second)
				if row, asked := d.now(); row.Phase != line.phase || row.FlightID != "" || e.aloft.count() != 0 || asked != 1 {
					t.Errorf("the row is %s, flight %q, %d flights are under way after %d posts; want %s and none after one", row.Phase, row.FlightID, e.aloft.count(), asked, line.phase)
				}
				if spool.open != 0 || spool.size != 0 {
					t.Errorf("the spool has %d records open, and %d bytes; want none", spool.open, spool.size)
				}
				if known, ok := b.cache.get(deskKey); line.served && (!ok || known.value != "a2") {
					t.Error("the token that was stored in the end is not remembered")
				}
			})
		})
	}
}

// The replica that learns of a grant's end forgets its token at once, and not when the change feed says so
// (R12).
func TestABrokenGrantIsForgottenAtOnce(t *testing.T) {
	for name, line := range map[string]struct {
		identity string
		answer   func(provider.Gate) (provider.Tokens, error)
		away     bool // the database, for a while
	}{
		"refused":                            {answer: fails(provider.Refused)},
		"refused, and the database was away": {answer: fails(provider.Refused), away: true},
		"another person's":                   {answer: flawed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{})
				defer b.engine.running()()
				d.set(func() { d.row.AccessExpiresAt = time.Now().Add(10 * time.Minute) })
				if _, err := b.Token(t.Context(), "u", "main", 0); err != nil {
					t.Fatal(err)
				}
				d.set(func() { d.answer = line.answer })
				if line.away {
					d.set(func() { d.before = claimsAlone })
				}
				_, _ = b.engine.fresh(t.Context(), deskKey, wholeLife, 5*time.Second)
				time.Sleep(time.Second)
				d.set(func() { d.before = nil })
				time.Sleep(3 * time.Second)
				row, _ := d.now()
				if _, ok := b.cache.get(deskKey); ok || row.Phase != Broken {
					t.Errorf("its token is remembered: %t, and the row is %s", ok, row.Phase)
				}
			})
		})
	}
}

// What is to be forgotten while a refresh is under way is not remembered when it ends, stored or not (P5b).
func TestWhatIsForgottenDuringARefresh(t *testing.T) {
	for name, line := range map[string]struct {
		before    func(Action) error
		forgotten bool
	}{
		"stored, and forgotten":     {forgotten: true},
		"not stored, and forgotten": {before: claimsAlone, forgotten: true},
		"stored":                    {},
		"not stored":                {before: claimsAlone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{})
				defer b.engine.running()()
				d.set(func() {
					d.before = line.before
					d.answer = func(gate provider.Gate) (provider.Tokens, error) {
						if line.forgotten {
							b.Forget("u", "main")
						}
						return rotates(gate)
					}
				})
				if got, err := b.engine.fresh(t.Context(), deskKey, 0, 5*time.Second); err != nil || got.value != "a2" {
					t.Errorf("the caller gets %v, want the token", err)
				}
				if _, remembered := b.cache.get(deskKey); remembered == line.forgotten {
					t.Errorf("it is remembered: %t, want %t", remembered, !line.forgotten)
				}
			})
		})
	}
}

// A flight that was taken over within the grace is not sent once that is over: its former owner may come
// back.
func TestATakeoverThatIsTooLate(t *testing.T) {
	const grace = 10 * time.Second
	for name, line := range map[string]struct {
		over, alone      bool
		grace, presented time.Duration // presented: before the claim
		later            time.Duration // since the claim
		want             bool
	}{
		"within the grace":               {over: true, grace: grace, presented: 4 * time.Second, later: 4 * time.Second},
		"in its last moment":             {over: true, grace: grace, presented: 4 * time.Second, later: 5 * time.Second},
		"a moment later":                 {over: true, grace: grace, presented: 4 * time.Second, later: 5*time.Second + time.Millisecond, want: true},
		"of a replica that is dead":      {grace: grace, presented: 4 * time.Second, later: 8 * time.Second},
		"there is no other process":      {over: true, alone: true, grace: grace, presented: 4 * time.Second, later: 8 * time.Second},
		"without a grace":                {over: true, presented: 4 * time.Second, later: 8 * time.Second},
		"claimed when it was over":       {over: true, grace: grace, presented: grace, later: time.Second},
		"claimed just before it is over": {over: true, grace: grace, presented: grace - time.Millisecond, later: time.Second, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _, up := newDesk(provider.Config{ReuseGrace: line.grace})
				b.engine.alone = line.alone
				flight := Flight{over: line.over, Presented: line.presented, claimed: time.Now()}
				time.Sleep(line.later)
				if got := (&presentation{b.engine, up, flight}).tooLate(); got != line.want {
					t.Errorf("got %t, want %t", got, line.want)
				}
			})
		})
	}
}

// What each failure does to a row that was in doubt before, and to one that was not (refresh-engine.md
// step 8).
func TestWhatAFailureDoesToARow(t *testing.T) {
	const rest = 4 * time.Second
	const wait = 12 * time.Second // newDesk's spool_wait
	fresh, doubt := Flight{First: true}, Flight{Doubtful: true, Row: Row{Connection: Connection{Reason: takenOver}}}
	late := Flight{First: true, Presented: time.Minute}
	for name, line := range map[string]struct {
		flight  Flight
		failure provider.Error
		config  provider.Config
		phase   Phase
		reason  string
		after   time.Duration // at least, and less than a fifth of a second more
		unsent  bool
	}{
		"unsent":                                {flight: fresh, failure: provider.Error{Outcome: provider.Unsent}, phase: Ready, after: rest, unsent: true},
		"unsent, in doubt":                      {flight: doubt, failure: provider.Error{Outcome: provider.Unsent}, phase: Suspect, reason: takenOver, after: rest, unsent: true},
		"cut off":                               {flight: fresh, failure: provider.Error{Outcome: provider.Unknown}, phase: Suspect, reason: doubted, after: rest},
		"cut off, in doubt":                     {flight: doubt, failure: provider.Error{Outcome: provider.Unknown}, phase: Suspect, reason: takenOver, after: rest},
		"cut off, within the grace":             {flight: fresh, failure: provider.Error{Outcome: provider.Unknown}, config: provider.Config{ReuseGrace: 3 * time.Second}, phase: Suspect, reason: doubted, after: 300 * time.Millisecond},
		"cut off, the grace is over":            {flight: late, failure: provider.Error{Outcome: provider.Unknown}, config: provider.Config{ReuseGrace: 3 * time.Second}, phase: Suspect, reason: doubted, after: rest},
		"not answered":                          {flight: fresh, failure: provider.Error{Outcome: provider.Unanswered}, phase: Suspect, reason: doubted, after: wait},
		"not answered, within the grace":        {flight: fresh, failure: provider.Error{Outcome: provider.Unanswered}, config: provider.Config{ReuseGrace: 3 * time.Second}, phase: Suspect, reason: doubted, after: 300 * time.Millisecond},
		"not answered, by one that keeps":       {flight: fresh, failure: provider.Error{Outcome: provider.Unanswered}, config: provider.Config{Rotates: new(bool)}, phase: Suspect, reason: doubted, after: rest},
		"our credentials":                       {flight: fresh, failure: provider.Error{Outcome: provider.Misconfigured, Code: "invalid_client"}, phase: Ready},
		"our credentials, in doubt":             {flight: doubt, failure: provider.Error{Outcome: provider.Misconfigured, Code: "invalid_client"}, phase: Suspect, reason: takenOver, after: rest},
		"what may be about this grant alone":    {flight: fresh, failure: provider.Error{Outcome: provider.Misconfigured, Code: "invalid_scope"}, phase: Ready, after: rest},
		"throttled":                             {flight: fresh, failure: provider.Error{Outcome: provider.Throttled, Status: 429}, phase: Ready},
		"throttled, in doubt":                   {flight: doubt, failure: provider.Error{Outcome: provider.Throttled, Status: 429}, phase: Suspect, reason: takenOver, after: rest},
		"another answer":                        {flight: fresh, failure: provider.Error{Outcome: provider.Unexpected, Status: 418}, phase: Ready, after: rest},
		"another answer, in doubt":              {flight: doubt, failure: provider.Error{Outcome: provider.Unexpected, Status: 418}, phase: Suspect, reason: takenOver, after: rest},
		"in doubt, and no reason was kept":      {flight: Flight{Doubtful: true}, failure: provider.Error{Outcome: provider.Unsent}, phase: Suspect, reason: doubted, after: rest, unsent: true},
		"cut off, what the provider said of it": {flight: fresh, failure: provider.Error{Outcome: provider.Unknown, Status: 502}, phase: Suspect, reason: doubted, after: rest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _, up := newDesk(line.config)
				line.flight.claimed = time.Now()
				got := (&presentation{b.engine, up, line.flight}).verdictOf(&line.failure, rest)
				if got.Phase != line.phase || got.Reason != line.reason || got.Unsent != line.unsent || got.First != line.flight.First || got.Failure != line.failure.Answer() {
					t.Errorf("got %+v; want %s, %q, unsent %t, first %t, and %q", got, line.phase, line.reason, line.unsent, line.flight.First, line.failure.Answer())
				}
				if got.After < line.after || got.After > line.after+200*time.Millisecond {
					t.Errorf("it rests for %s, want %s", got.After, line.after)
				}
			})
		})
	}
}

// What a sweeper knows of a flight's owner. One whose spool lock was found free is dead, unless its heartbeat
// was heard since: a spool folder may be lost under a process that lives.
func TestWhatIsKnownOfAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := newDesk(provider.Config{})
		e := b.engine
		beats := map[string]int64{"other": 1, "heard": 1, "dead": 1}
		look := func() { e.peers.look(Pulse{Beats: beats}, time.Now(), time.Now()) }
		look()
		s := &sweeper{engine: e, gone: map[string]time.Time{"dead": time.Now(), "heard": time.Now()}}
		for range 4 {
			time.Sleep(beatEvery)
			beats["heard"]++
			look()
		}
		e.aloft.add("held")
		for name, line := range map[string]struct {
			flight, replica string
			want            Owner
		}{
			"a doubt has none":           {"", e.replica, Owner{}},
			"its own, which it holds":    {"held", e.replica, Owner{Self: true, Holds: true}},
			"its own, which it does not": {"lost", e.replica, Owner{Self: true}},
			"another, which is silent":   {"f", "other", Owner{Silent: 4 * beatEvery}},
			"one whose lock is free":     {"f", "dead", Owner{Silent: 4 * beatEvery, Dead: true}},
			"one that was heard since":   {"f", "heard", Owner{}},
		} {
			orphan := Orphan{Row: Row{FlightID: line.flight, Replica: line.replica}}
			if got := s.owner(orphan); got != line.want {
				t.Errorf("%s: got %+v, want %+v", name, got, line.want)
			}
		}
	})
}

// found is a spool in which a replica that is gone was found, and what it had left there.
type found struct {
	spooler
	gone    []string
	records []spooled
	refused []error // what became of each offer
}

func (f *found) replay(ctx context.Context, _ *keyring.Keyring, offer func(context.Context, spooled) error) []string {
	for _, one := range f.records {
		f.refused = append(f.refused, offer(ctx, one))
	}
	gone := f.gone
	f.gone, f.records = nil, nil
	return gone
}

// When a sweeper presents a token whose flight has lost its replica, or whose last presentation has no known
// outcome (refresh-engine.md steps 8 and 9). The times count from the sweeper's start, at which
// the flight was a second and a half old.
func TestWhenASweeperPresentsAToken(t *testing.T) {
	const (
		timeout = 6 * time.Second
		wait    = 12 * time.Second // newDesk's spool_wait
		never   = time.Duration(-1)
	)
	doubt := func(reason string, due time.Duration) func(*desk, *engine) {
		return func(d *desk, _ *engine) {
			d.row.land()
			d.row.Phase, d.row.Reason, d.row.NextAttemptAt = Suspect, reason, time.Now().Add(due)
		}
	}
	dead := func(_ *desk, e *engine) { e.spool = &found{spooler: e.spool, gone: []string{"other"}} }
	for name, line := range map[string]struct {
		config provider.Config
		change func(*desk, *engine)
		after  time.Duration // at least, and less than two seconds and a half more
		more   time.Duration // that it may take beside these
		reason string        // of the claim
	}{
		"silent, no grace":                {after: wait, reason: takenOver},
		"silent, within the grace":        {config: provider.Config{ReuseGrace: 30 * time.Second}, after: leaseLife, reason: takenOver},
		"silent, the grace is short":      {config: provider.Config{ReuseGrace: 4 * time.Second}, after: wait, reason: takenOver},
		"silent, and tokens never rotate": {config: provider.Config{Rotates: new(bool)}, after: leaseLife, reason: takenOver},
		"silent, none was seen to rotate": {change: func(d *desk, _ *engine) { d.row.Rotates = RotationNo }, after: leaseLife, reason: takenOver},
		"silent, another has rotated":     {change: func(d *desk, _ *engine) { d.row.Rotates, d.rotates = RotationNo, true }, after: wait, reason: takenOver},
		"dead":                            {change: dead, after: timeout - 1500*time.Millisecond, reason: doubted},
		"dead, within the grace":          {config: provider.Config{ReuseGrace: 30 * time.Second}, change: dead, reason: doubted},
		"alone":                           {change: func(_ *desk, e *engine) { e.alone = true }, after: timeout - 1500*time.Millisecond, reason: takenOver},
		"alive":                           {change: func(d *desk, _ *engine) { d.others = true }, after: timeout + flightSlack + wait, more: timeout + flightSlack, reason: takenOver},
		"alive, and tokens never rotate":  {config: provider.Config{Rotates: new(bool)}, change: func(d *desk, _ *engine) { d.others = true }, after: timeout + flightSlack, more: timeout + flightSlack, reason: takenOver},
		"a doubt that is due":             {change: doubt(doubted, -time.Second), reason: doubted},
		"a doubt that will be":            {change: doubt(doubted, 5*time.Second), after: 6 * time.Second, reason: doubted},
		"a doubt of a token taken over":   {change: doubt(takenOver, 5*time.Second), after: 5*time.Second + wait, reason: takenOver},
		"no such provider":                {change: func(_ *desk, e *engine) { delete(e.upstreams, "main") }, after: never},
		"it cannot be read":               {change: func(d *desk, _ *engine) { d.row.Unreadable = true }, after: never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				line.config.RefreshTimeout = timeout
				b, d, _ := newDesk(line.config)
				began := time.Now().Add(-1500 * time.Millisecond)
				d.row.Phase, d.row.FlightID, d.row.Replica, d.row.ClaimedAt, d.row.PresentedAt = Refreshing, "f", "other", began, began
				if line.change != nil {
					line.change(d, b.engine)
				}
				var claim Claim
				d.after = func(action Action) error {
					if one, ok := action.(Claim); ok {
						claim = one
					}
					return nil
				}
				started, reason := time.Now(), ""
				d.answer = func(gate provider.Gate) (provider.Tokens, error) {
					row, _ := d.now()
					reason = row.Reason
					if !gate() {
						t.Error("it is presented without the right to")
					}
					return rotates(gate)
				}
				stop := b.engine.running()
				time.Sleep(time.Minute)
				stop()
				row, asked := d.now()
				if line.after == never {
					if asked != 0 {
						t.Errorf("it is presented after %s", d.when.Sub(started))
					}
					return
				}
				if took := d.when.Sub(started); asked != 1 || took < line.after || took > line.after+line.more+2500*time.Millisecond {
					t.Errorf("it is presented %d times, after %s; want once, after %s", asked, took, line.after)
				}
				if row.RefreshToken != "r2" || row.Phase != Ready || reason != line.reason || claim.Replica != b.engine.replica {
					t.Errorf("the successor is stored: %t, the row is %s, and was %q for %s", row.RefreshToken == "r2", row.Phase, reason, claim.Replica)
				}
			})
		})
	}
}

// What a sweeper asks for, and what it does with its own: a claim whose acknowledgement was lost is released,
// and neither its doubt nor the time of its first presentation goes with it.
func TestASweeperAndItsOwn(t *testing.T) {
	for name, line := range map[string]struct {
		reason string
		phase  Phase
		kept   bool // the time of the first presentation
	}{
		"the first presentation": {phase: Ready},
		"a doubt":                {reason: doubted, phase: Suspect, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{RefreshTimeout: 6 * time.Second})
				b.engine.upstreams["second"] = newUpstream("second", d, provider.Config{RefreshTimeout: 40 * time.Second})
				began := time.Now()
				d.row.Phase, d.row.Reason, d.row.FlightID, d.row.Replica, d.row.ClaimedAt, d.row.PresentedAt = Refreshing, line.reason, "f", b.engine.replica, began, began
				d.row.NextAttemptAt = began
				d.others = true
				d.answer = fails(provider.Unsent)
				stop := b.engine.running()
				time.Sleep(1500 * time.Millisecond)
				row, asked := d.now()
				stop()
				if row.Phase != line.phase || row.Reason != line.reason || row.FlightID != "" || asked != 0 || row.PresentedAt.IsZero() == line.kept {
					t.Errorf("the row is %s, %q, flight %q, presented at %s, after %d posts; want %s", row.Phase, row.Reason, row.FlightID, row.PresentedAt, asked, line.phase)
				}
				want := Look{Replica: b.engine.replica, Healthy: []string{"other"}, Overdue: 6*time.Second + flightSlack, Rested: time.Second}
				if diff := cmp.Diff(want, d.look); diff != "" {
					t.Errorf("it asks for (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// What a process that is gone has left in its spool is offered to the database, under the same rules as a
// commit, and only then its flights are judged.
func TestWhatAProcessThatIsGoneLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, _ := newDesk(provider.Config{RefreshTimeout: 6 * time.Second, ReuseGrace: time.Minute})
		d.row.Phase, d.row.FlightID, d.row.Replica, d.row.ClaimedAt, d.row.PresentedAt = Refreshing, "f", "other", time.Now(), time.Now()
		tokens, _ := rotates(nil)
		record := recordOf("u", "main", Commit{Flight: "f", Version: 8, Presented: []byte("r1"), Token: "r1", Tokens: tokens})
		old := record
		old.Digest = []byte("another")
		left := &found{spooler: b.engine.spool, gone: []string{"other"}, records: []spooled{old, record}}
		b.engine.spool = left
		stop := b.engine.running()
		time.Sleep(10 * time.Second)
		stop()
		row, asked := d.now()
		if row.RefreshToken != "r2" || row.Phase != Ready || string(row.Digest) != "r2" || string(row.Parent) != "r1" || asked != 0 {
			t.Errorf("the row is %s, its successor stored: %t, after %d posts; want it stored without a post", row.Phase, row.RefreshToken == "r2", asked)
		}
		if len(left.refused) != 2 || !errors.Is(left.refused[0], ErrSuperseded) || left.refused[1] != nil {
			t.Errorf("the offers: %v; want that the first is superseded", left.refused)
		}
	})
}

// What a caller gets by way of the row, and after how long (refresh-engine.md steps 3 and 4). The caller waits
// for 5 s at most, and asks for a minute.
func TestWhatACallerGets(t *testing.T) {
	valid := func(d *desk, _ *engine) { d.row.AccessExpiresAt = time.Now().Add(30 * time.Second) }
	flying := func(d *desk, _ *engine) {
		d.row.Phase, d.row.FlightID, d.row.Replica, d.row.ClaimedAt, d.row.PresentedAt = Refreshing, "f", "other", time.Now(), time.Now()
		d.others = true
	}
	landing := func(d *desk, after time.Duration) {
		time.AfterFunc(after, func() {
			tokens, _ := rotates(nil)
			d.set(func() {
				change, _ := Apply(d.row, Event{At: time.Now(), Action: Commit{Flight: "f", Version: d.row.Version, Presented: []byte("r1"), Tokens: tokens, Successor: []byte("r2")}})
				d.row = change.Row
			})
		})
	}
	lapse := func(d *desk, _ *engine) {
		d.set(func() { d.beats = func() (map[string]int64, error) { return nil, errAway } })
		time.Sleep(leaseLife + time.Second)
	}
	rests := func(d *desk, _ *engine) { d.row.NextAttemptAt = time.Now().Add(20 * time.Second) }
	both := func(all ...func(*desk, *engine)) func(*desk, *engine) {
		return func(d *desk, e *engine) {
			for _, one := range all {
				one(d, e)
			}
		}
	}
	for name, line := range map[string]struct {
		change   func(*desk, *engine)
		value    secret.Text // empty: an error
		degraded bool
		err      error
		retry    time.Duration // at least
		after    time.Duration
		posts    int
		open     int // flights whose result is not stored
	}{
		"a token of the provider's":         {value: "a2", posts: 1},
		"one that another replica stored":   {change: func(d *desk, _ *engine) { d.row.AccessExpiresAt = time.Now().Add(time.Hour) }, value: "a1"},
		"a grant without a refresh token":   {change: func(d *desk, e *engine) { valid(d, e); d.row.RefreshToken = "" }, value: "a1"},
		"a flight of another replica lands": {change: func(d *desk, e *engine) { flying(d, e); landing(d, 1200*time.Millisecond) }, value: "a2", after: 1500 * time.Millisecond},
		"it lands, and this replica is told": {change: func(d *desk, e *engine) {
			flying(d, e)
			landing(d, 1200*time.Millisecond)
			time.AfterFunc(1201*time.Millisecond, func() { e.landings.land(deskKey) })
		}, value: "a2", after: 1201 * time.Millisecond},
		"it does not land":                           {change: flying, err: ErrUnavailable, retry: time.Second, after: 5 * time.Second},
		"it does not land, and the token is valid":   {change: both(valid, flying), value: "a1", degraded: true, after: 5 * time.Second},
		"the connection rests":                       {change: rests, err: ErrUnavailable, retry: 20 * time.Second},
		"it rests, and the token is valid":           {change: both(valid, rests), value: "a1", degraded: true},
		"a doubt that rests":                         {change: func(d *desk, e *engine) { rests(d, e); d.row.Phase, d.row.Reason = Suspect, doubted }, err: ErrUnavailable, retry: 20 * time.Second},
		"the lease has lapsed":                       {change: lapse, err: ErrUnavailable, retry: time.Second, after: 5 * time.Second},
		"it has lapsed, and the token is valid":      {change: both(valid, lapse), value: "a1", degraded: true},
		"the claim fails":                            {change: func(d *desk, _ *engine) { d.before = butClaims }, err: ErrUnavailable, retry: time.Second},
		"it fails, and the token is valid":           {change: func(d *desk, e *engine) { valid(d, e); d.before = butClaims }, value: "a1", degraded: true},
		"the row is another by now":                  {change: func(d *desk, _ *engine) { d.before = superseded(1) }, value: "a2", posts: 1},
		"it is another again and again":              {change: func(d *desk, _ *engine) { d.before = superseded(1000) }, err: ErrUnavailable, retry: time.Second, after: 5 * time.Second},
		"the process is about to end":                {change: func(_ *desk, e *engine) { e.aloft.close() }, err: ErrUnavailable, retry: time.Second},
		"a broken grant":                             {change: func(d *desk, _ *engine) { d.row.Phase = Broken }, err: ErrGrantBroken},
		"a tombstone":                                {change: func(d *desk, _ *engine) { d.row.Phase = Disconnected }, err: ErrNotConnected},
		"a grant that has expired":                   {change: func(d *desk, _ *engine) { d.row.RefreshExpiresAt = time.Now() }, err: ErrGrantExpired},
		"one that cannot be read":                    {change: func(d *desk, _ *engine) { d.row.Unreadable = true }, err: ErrGrantBroken},
		"the provider refuses":                       {change: func(d *desk, _ *engine) { d.answer = fails(provider.Refused) }, err: ErrGrantBroken, posts: 1},
		"it fails":                                   {change: func(d *desk, _ *engine) { d.answer = fails(provider.Unexpected) }, err: ErrUnavailable, retry: time.Second, posts: 1},
		"another account's id_token":                 {change: func(d *desk, _ *engine) { d.answer = flawed }, err: ErrGrantBroken, posts: 1},
		"no access token":                            {change: func(d *desk, _ *engine) { d.answer = bare }, err: ErrUnavailable, retry: time.Second, posts: 1},
		"the commit fails, and the token is valid":   {change: func(d *desk, e *engine) { valid(d, e); d.before = claimsAlone }, value: "a2", posts: 1, open: 1},
		"one that is refused, and another is stored": {change: func(d *desk, _ *engine) { d.answer = overtakenBy(d, fails(provider.Refused)) }, value: "a9", posts: 1},
		"one that fails, and another is stored":      {change: func(d *desk, _ *engine) { d.answer = overtakenBy(d, fails(provider.Unknown)) }, value: "a9", posts: 1},
		"another token is stored during the refresh": {change: func(d *desk, _ *engine) { d.answer = overtakenBy(d, rotates) }, value: "a9", posts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{RefreshTimeout: time.Minute})
				defer b.engine.running()()
				synctest.Wait() // nothing else is under way
				if line.change != nil {
					line.change(d, b.engine)
				}
				synctest.Wait()
				began := time.Now()
				got, err := b.engine.fresh(t.Context(), deskKey, time.Minute, 10*time.Second)
				took := time.Since(began)
				if open, awaited := b.engine.aloft.count(), len(b.engine.landings.awaited); open != line.open || awaited != 0 {
					t.Errorf("%d flights are under way and %d are waited for, want %d and none", open, awaited, line.open)
				}
				_, posts := d.now()
				if posts != line.posts || took < line.after || took > line.after+10*time.Millisecond {
					t.Errorf("after %s and %d posts, want %s and %d", took, posts, line.after, line.posts)
				}
				if line.value == "" {
					var outage *Unavailable
					if !errors.Is(err, line.err) || line.retry > 0 && (!errors.As(err, &outage) || outage.RetryAfter < line.retry) {
						t.Errorf("got %v, want %v, and to try again after %s", err, line.err, line.retry)
					}
					return
				}
				if err != nil || got.value != line.value || got.degraded != line.degraded {
					t.Fatalf("got %+v, %v; want %s, degraded %t", got, err, string(line.value), line.degraded)
				}
				if known, ok := b.cache.get(deskKey); !ok || known.value != line.value || known.degraded {
					t.Error("it is not remembered as it is in the row")
				} else if renew := time.Unix(0, known.renewAt.Load()); line.degraded && !renew.Equal(time.Now().Add(renewAgain)) {
					t.Errorf("it is renewed after %s, want %s", time.Until(renew), renewAgain)
				}
			})
		})
	}
}

// superseded refuses that many claims, each after a tenth of a second but the first.
func superseded(times int) func(Action) error {
	refused := 0
	return func(action Action) error {
		if _, claim := action.(Claim); !claim || refused == times {
			return nil
		}
		if refused++; refused > 1 {
			time.Sleep(100 * time.Millisecond)
		}
		return ErrSuperseded
	}
}

func flawed(gate provider.Gate) (provider.Tokens, error) {
	tokens, err := rotates(gate)
	tokens.IdentityFlaw = "another person"
	return tokens, err
}

func bare(gate provider.Gate) (provider.Tokens, error) {
	tokens, err := rotates(gate)
	tokens.AccessToken = ""
	return tokens, err
}

// overtakenBy has the person log in again before an answer comes.
func overtakenBy(d *desk, answer func(provider.Gate) (provider.Tokens, error)) func(provider.Gate) (provider.Tokens, error) {
	return func(gate provider.Gate) (provider.Tokens, error) {
		login, _ := rotates(gate)
		login.RefreshToken, login.AccessToken = "r9", "a9"
		d.set(func() {
			change, _ := Apply(d.row, Event{At: time.Now(), Action: Login{Tokens: login, Digest: []byte("r9")}})
			d.row = change.Row
		})
		return answer(gate)
	}
}

// A step that fails is tried again after growing pauses, of two seconds at most, until it is done or the
// engine ends; and nothing is begun before the engine runs or after it.
func TestWhatIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := newDesk(provider.Config{})
		e := b.engine
		e.again(func(context.Context) bool { t.Error("begun before the engine runs"); return true })
		stop := e.running()
		last, pauses, ended := time.Now(), []time.Duration{}, false
		e.again(func(context.Context) bool {
			pauses, last = append(pauses, time.Since(last)), time.Now()
			return len(pauses) == 8
		})
		e.again(func(context.Context) bool { ended = true; return false })
		time.Sleep(time.Minute)
		const unit = 100 * time.Millisecond
		began := time.Now()
		stop()
		if took := time.Since(began); took != 0 || !ended {
			t.Errorf("the engine ended after %s, and the other step was tried: %t; want at once, and true", took, ended)
		}
		if diff := cmp.Diff([]time.Duration{unit, 2 * unit, 4 * unit, 8 * unit, 16 * unit, 20 * unit, 20 * unit, 20 * unit}, pauses); diff != "" {
			t.Errorf("the pauses (-want +got):\n%s", diff)
		}
		e.again(func(context.Context) bool { t.Error("begun after the engine"); return true })
		time.Sleep(time.Minute)
	})
}

// A process that is told to stop begins no flight, and waits for those under way for as long as it may.
func TestDraining(t *testing.T) {
	for name, line := range map[string]struct {
		answers, patience, took time.Duration
		left                    int
	}{
		"nothing is under way":   {patience: 10 * time.Second},
		"a flight that lands":    {answers: 3 * time.Second, patience: 10 * time.Second, took: 3 * time.Second},
		"a flight that does not": {answers: 30 * time.Second, patience: 10 * time.Second, took: 10 * time.Second, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{RefreshTimeout: time.Minute})
				defer b.engine.running()()
				if line.answers > 0 {
					d.set(func() {
						d.answer = func(gate provider.Gate) (provider.Tokens, error) { time.Sleep(line.answers); return rotates(gate) }
					})
					go func() { _, _ = b.engine.fresh(context.Background(), deskKey, 0, time.Minute) }()
					synctest.Wait()
				}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), line.patience)
				defer cancel()
				left := b.Drain(ctx)
				if took := time.Since(began); left != line.left || took < line.took || took > line.took+50*time.Millisecond {
					t.Errorf("%d flights are left after %s, want %d after %s", left, took, line.left, line.took)
				}
				if _, err := b.engine.claim(t.Context(), d.read(), Claim{}, 0); !errors.Is(err, errClosing) || b.engine.aloft.count() != line.left {
					t.Errorf("another flight: got %v, want errClosing", err)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// Callers who wait for a connection's flight are told when it lands; those who wait for another are not.
func TestLandings(t *testing.T) {
	l := &landings{awaited: map[cacheKey]chan struct{}{}}
	closed := func(channel <-chan struct{}) bool {
		select {
		case <-channel:
			return true
		default:
			return false
		}
	}
	one, same, other := l.await(deskKey), l.await(deskKey), l.await(cacheKey{"u", "second"})
	l.land(deskKey)
	l.land(deskKey) // without a caller who waits
	if !closed(one) || !closed(same) || closed(other) || closed(l.await(deskKey)) {
		t.Errorf("told: %t, %t; another connection's: %t; one who came later: %t; want only the first two", closed(one), closed(same), closed(other), closed(l.await(deskKey)))
	}
}

// What a refresh brought, as an action: in times of the database's clock, and never later than they are.
func TestWhatARefreshBrought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		tokens := provider.Tokens{RefreshToken: "r2", AccessToken: "a2", IssuedAt: now, AccessExpiresAt: now.Add(time.Hour), RefreshExpiresAt: now.Add(24 * time.Hour)}
		flight := Flight{Row: Row{
			Connection: Connection{UserID: "u", Provider: "main", Version: 8, RefreshToken: "r1"},
			FlightID:   "f", Digest: []byte("r1"), Reading: Reading{Database: now.Add(time.Minute), Sent: now, Received: now},
		}}
		later := tokens
		later.IssuedAt, later.AccessExpiresAt, later.RefreshExpiresAt = now.Add(time.Minute), now.Add(61*time.Minute), now.Add(24*time.Hour+time.Minute)
		want := Commit{Flight: "f", Version: 8, Presented: []byte("r1"), Token: "r1", Tokens: later, Successor: []byte("r2")}
		change := func(one func(*Commit)) Commit { c := want; one(&c); return c }
		for name, line := range map[string]struct {
			tokens func(*provider.Tokens)
			config provider.Config
			want   Commit
		}{
			"a successor":         {want: want},
			"the same token":      {tokens: func(t *provider.Tokens) { t.RefreshToken = "r1" }, want: change(func(c *Commit) { c.Tokens.RefreshToken, c.Successor = "", nil })},
			"no token":            {tokens: func(t *provider.Tokens) { t.RefreshToken = "" }, want: change(func(c *Commit) { c.Tokens.RefreshToken, c.Successor = "", nil })},
			"another person's":    {tokens: func(t *provider.Tokens) { t.IdentityFlaw = "x" }, want: change(func(c *Commit) { c.Tokens.IdentityFlaw, c.Broken = "x", identityChanged })},
			"it revokes access":   {config: provider.Config{RevokesAccess: true}, want: change(func(c *Commit) { c.Tell = true })},
			"no access token":     {tokens: func(t *provider.Tokens) { t.AccessToken = "" }, want: change(func(c *Commit) { c.Tokens.AccessToken, c.After = "", minBackOff })},
			"no end is known yet": {tokens: func(t *provider.Tokens) { t.RefreshExpiresAt = time.Time{} }, want: change(func(c *Commit) { c.Tokens.RefreshExpiresAt = time.Time{} })},
		} {
			b, _, up := newDesk(line.config)
			brought := tokens
			if line.tokens != nil {
				line.tokens(&brought)
			}
			got := (&presentation{b.engine, up, flight}).commitOf(brought, flight.Reading)
			if line.want.After > 0 && got.After >= line.want.After && got.After < line.want.After*3/2 {
				got.After = line.want.After // it has jitter
			}
			if diff := cmp.Diff(line.want, got, cmp.Comparer(func(a, b secret.Text) bool { return string(a) == string(b) })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}

// What a claimed row says of its flight.
func TestTheFlightOfARow(t *testing.T) {
	for name, line := range map[string]struct {
		row  Row
		want Flight
	}{
		"the first presentation":   {claimedRow(), Flight{First: true}},
		"a later one":              {claimedRow(func(r *Row) { r.PresentedAt = after(-time.Minute) }), Flight{Presented: 55 * time.Second}},
		"in doubt":                 {claimedRow(func(r *Row) { r.Reason = doubted }), Flight{Doubtful: true}},
		"taken over":               {claimedRow(func(r *Row) { r.Reason, r.PresentedAt = takenOver, after(-time.Minute) }), Flight{Doubtful: true, over: true, Presented: 55 * time.Second}},
		"a doubt without a flight": {readyRow(func(r *Row) { r.Phase = Suspect; r.ClaimedAt = r.PresentedAt }), Flight{Doubtful: true}},
		"a reason of a ready row":  {readyRow(func(r *Row) { r.Reason = doubted; r.ClaimedAt = r.PresentedAt }), Flight{First: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := flightOf(line.row)
			if got.First != line.want.First || got.Doubtful != line.want.Doubtful || got.over != line.want.over || got.Presented != line.want.Presented {
				t.Errorf("first %t, doubtful %t, over %t, presented %s before; want %t, %t, %t, %s",
					got.First, got.Doubtful, got.over, got.Presented, line.want.First, line.want.Doubtful, line.want.over, line.want.Presented)
			}
		})
	}
}

// The database counts as away for a second after a statement that failed, and a caller who went away is no
// sign of it.
func TestWhenTheDatabaseCountsAsAway(t *testing.T) {
	for name, line := range map[string]struct {
		err  error
		gone bool // the caller
		away bool
	}{
		"it fails":               {err: errAway, away: true},
		"the caller went away":   {err: context.Canceled, gone: true},
		"there is no connection": {err: ErrNotConnected},
		"it answers":             {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{})
				b.engine.store = failsToRead{d, line.err}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if line.gone {
					cancel()
				}
				_, err := b.engine.read(ctx, deskKey)
				if (err != nil) != (line.err != nil) || errors.Is(err, ErrUnavailable) != (line.away || line.gone) {
					t.Errorf("got %v", err)
				}
				if got := b.engine.away(time.Now()); got != line.away {
					t.Errorf("it is away: %t, want %t", got, line.away)
				}
				time.Sleep(time.Second)
				if b.engine.away(time.Now()) {
					t.Error("it is away a second later")
				}
			})
		})
	}
}

type failsToRead struct {
	*desk
	err error
}

func (f failsToRead) Row(ctx context.Context, userID, providerID string) (Row, error) {
	if f.err != nil {
		return Row{}, f.err
	}
	return f.desk.Row(ctx, userID, providerID)
}

// A doubt is presented again by its own replica, once it has rested, without a caller and without the sweeper.
func TestADoubtIsResolved(t *testing.T) {
	for name, line := range map[string]struct {
		grace time.Duration
		away  bool // the database, when the doubt is to be stored
	}{"within the grace": {grace: 10 * time.Second}, "without one": {}, "stored later": {away: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{ReuseGrace: line.grace})
				e := b.engine
				if line.away {
					d.before = claimsAlone
				}
				ctx, cancel := context.WithCancel(t.Context())
				e.begin(ctx)
				e.lease.renewed(time.Now(), time.Now(), false)
				d.answer = fails(provider.Unknown)
				_, _ = e.fresh(t.Context(), deskKey, 0, 5*time.Second)
				if line.away {
					d.set(func() { d.before = nil })
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
				}
				row, _ := d.now()
				rest := time.Until(row.NextAttemptAt)
				if within := line.grace > 0; row.Phase != Suspect || rest <= 0 || within && rest > 1500*time.Millisecond || !within && rest < time.Second {
					t.Fatalf("the row is %s, and rests for %s", row.Phase, rest)
				}
				d.set(func() { d.answer = rotates })
				time.Sleep(rest - time.Millisecond)
				if _, asked := d.now(); asked != 1 {
					t.Errorf("it is presented before it has rested")
				}
				time.Sleep(20 * time.Millisecond)
				if row, asked := d.now(); row.RefreshToken != "r2" || row.Phase != Ready || asked != 2 {
					t.Errorf("a moment after it has rested the row is %s, after %d posts; want ready, after 2", row.Phase, asked)
				}
				cancel()
				e.tasks.running.Wait()
			})
		})
	}
}

// told is an observer that notes what it hears.
type told struct {
	mu    sync.Mutex
	heard []string
}

func (o *told) hear(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = append(o.heard, what)
}

func (o *told) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.heard)
}

func (o *told) observer() Observer {
	return Observer{
		Refreshed:   func(_, outcome string, took time.Duration) { o.hear(fmt.Sprint("refreshed ", outcome, " ", took)) },
		GrantLost:   func(_, cause string) { o.hear("lost " + cause) },
		Doubted:     func(string) { o.hear("doubted") },
		Resolved:    func(_, how string) { o.hear("resolved " + how) },
		SpoolFailed: func(error) { o.hear("spool failed") },
	}.withSilence()
}

// fullSpool has no room.
type fullSpool struct{ spooler }

func (fullSpool) add(*keyring.Keyring, spooled) error { return errors.New("no space left") }

// What the observer hears of a refresh, so that metrics and logs are true.
func TestWhatTheObserverHears(t *testing.T) {
	slow := func(answer func(provider.Gate) (provider.Tokens, error)) func(provider.Gate) (provider.Tokens, error) {
		return func(gate provider.Gate) (provider.Tokens, error) { time.Sleep(time.Second); return answer(gate) }
	}
	orphan := func(d *desk, _ *engine) {
		d.row.Phase, d.row.Reason, d.row.FlightID, d.row.Replica = Refreshing, doubted, "f", "other"
		d.row.ClaimedAt, d.row.PresentedAt = time.Now().Add(-2*time.Second), time.Now().Add(-2*time.Second)
	}
	for name, line := range map[string]struct {
		change func(*desk, *engine)
		answer func(provider.Gate) (provider.Tokens, error)
		want   []string
	}{
		"a success":               {answer: slow(rotates), want: []string{"refreshed refreshed 1s"}},
		"a doubt":                 {answer: slow(fails(provider.Unknown)), want: []string{"refreshed unknown 1s", "doubted"}},
		"no answer":               {answer: fails(provider.Unanswered), want: []string{"refreshed unanswered 0s", "doubted"}},
		"another failure":         {answer: fails(provider.Unexpected), want: []string{"refreshed unexpected 0s"}},
		"the grant's end":         {answer: fails(provider.Refused), want: []string{"refreshed refused 0s", "lost revoked"}},
		"another person's":        {answer: flawed, want: []string{"refreshed refreshed 0s", "lost identity_changed"}},
		"an error of its own":     {answer: func(provider.Gate) (provider.Tokens, error) { return provider.Tokens{}, errAway }, want: []string{"refreshed failed 0s", "doubted"}},
		"the spool is full":       {change: func(d *desk, e *engine) { e.spool = fullSpool{e.spool}; d.before = claimsAlone }, answer: rotates, want: []string{"refreshed refreshed 0s", "spool failed"}},
		"an orphan is kept":       {change: orphan, answer: rotates, want: []string{"refreshed refreshed 0s", "resolved kept"}},
		"an orphan is lost":       {change: orphan, answer: fails(provider.Refused), want: []string{"refreshed refused 0s", "lost lost_in_rotation", "resolved lost"}},
		"an orphan is superseded": {change: func(d *desk, e *engine) { orphan(d, e); d.answer = overtakenBy(d, rotates) }, want: []string{"refreshed refreshed 0s", "resolved superseded"}},
		"an orphan is open still": {change: orphan, answer: fails(provider.Unanswered), want: []string{"refreshed unanswered 0s", "doubted", "resolved open"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, _ := newDesk(provider.Config{RefreshTimeout: time.Minute, Rotates: new(bool)})
				observer := &told{}
				b.engine.observer, d.answer = observer.observer(), line.answer
				if line.change != nil {
					line.change(d, b.engine)
				}
				taken := d.row.FlightID != ""
				stop := b.engine.running()
				if !taken {
					_, _ = b.engine.fresh(t.Context(), deskKey, 0, time.Second+time.Millisecond)
				}
				for began := time.Now(); observer.count() < len(line.want) && time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
					synctest.Wait()
				}
				stop()
				if diff := cmp.Diff(line.want, observer.heard); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A sweeper presents no more orphans to one provider at once than it may, and leaves those alone whose turn
// would not come; what is within a grace does not wait for a turn.
func TestASweeperHoldsItselfBack(t *testing.T) {
	for name, line := range map[string]struct {
		queue     int // that is reserved of a rate of ten a second
		takeovers int
		presented time.Duration
		failing   bool // the provider
		begins    bool
	}{
		"nothing is in the way":              {presented: 20 * time.Second, begins: true},
		"a queue that is long":               {queue: 400, presented: 20 * time.Second},
		"a queue that is long, in the grace": {queue: 400, presented: 5 * time.Second, begins: true},
		"a provider that fails":              {failing: true, presented: 20 * time.Second},
		"one that fails, in the grace":       {failing: true, presented: 5 * time.Second, begins: true},
		"as many as there may be":            {takeovers: maxTakeovers, presented: 5 * time.Second},
		"one less":                           {takeovers: maxTakeovers - 1, presented: 5 * time.Second, begins: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d, up := newDesk(provider.Config{RefreshRate: 10, RefreshTimeout: 10 * time.Second, ReuseGrace: 10 * time.Second})
				e := b.engine
				ctx, cancel := context.WithCancel(t.Context())
				e.begin(ctx)
				e.lease.renewed(time.Now(), time.Now(), false)
				for range line.queue {
					up.rate.Reserve()
				}
				for range line.takeovers {
					up.takeovers <- struct{}{}
				}
				if line.failing {
					up.hold(time.Now().Add(time.Minute), errFailing)
				}
				d.row.Phase, d.row.FlightID, d.row.Replica = Refreshing, "f", "other"
				d.row.ClaimedAt, d.row.PresentedAt = time.Now().Add(-line.presented), time.Now().Add(-line.presented)
				orphan := Orphan{Row: d.read(), Claimed: line.presented, Presented: line.presented}
				newSweeper(e).judge(t.Context(), orphan, Owner{Dead: true}, 0)
				synctest.Wait()
				if _, asked := d.now(); (asked == 1) != line.begins || len(up.takeovers) != line.takeovers {
					t.Errorf("it is presented %d times, with %d takeovers after it; want it presented: %t", asked, len(up.takeovers), line.begins)
				}
				cancel()
				e.tasks.running.Wait()
			})
		})
	}
}

// A refresh waits for its turn no longer than its callers do, and no longer than leaves the provider half of
// its timeout.
func TestHowLongARefreshMayQueue(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{4 * time.Second: 2 * time.Second, 10 * time.Second: 5 * time.Second, time.Minute: 5 * time.Second} {
		t.Run(fmt.Sprint(timeout), func(t *testing.T) {
			b, _, up := newDesk(provider.Config{RefreshTimeout: timeout}) // its callers wait for 5 s
			if got := b.engine.maxQueue(up); got != want {
				t.Errorf("a timeout of %s: %s, want %s", timeout, got, want)
			}
		})
	}
}

// Every heartbeat gives each provider's rate this replica's part of it.
func TestReplicasShareTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, up := newDesk(provider.Config{RefreshRate: 40})
		defer b.engine.running()()
		whole := up.rate.Limit()
		d.set(func() {
			d.beats = func() (map[string]int64, error) {
				return map[string]int64{"one": time.Now().UnixNano(), "two": time.Now().UnixNano()}, nil
			}
			d.others = true
		})
		time.Sleep(10 * time.Second)
		if got := up.rate.Limit(); got >= whole {
			t.Errorf("%v a second with others as without: %v", got, whole)
		}
	})
}

// A process without a lease asks ten times a second for one, until it has it: the schema may be about to be
// made. After that it beats every second.
func TestHowOftenAReplicaBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, _ := newDesk(provider.Config{})
		d.beats = func() (map[string]int64, error) { return nil, errAway }
		stop := b.engine.running()
		beats := func(within time.Duration) int64 {
			d.mu.Lock()
			before := d.beaten
			d.mu.Unlock()
			time.Sleep(within)
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.beaten - before
		}
		if got := beats(time.Second); got < 9 || got > 11 {
			t.Errorf("%d in the first second, want 10", got)
		}
		d.set(func() { d.beats = nil })
		time.Sleep(time.Second)
		if got := beats(10 * time.Second); got < 9 || got > 11 {
			t.Errorf("%d in ten seconds with a lease, want 10", got)
		}
		stop()
		if got := beats(10 * time.Second); got != 0 {
			t.Errorf("%d after the end", got)
		}
	})
}

// The others are told once that a replica is gone, as soon as the database takes it: its spool is found by one alone.
func TestThatAReplicaIsGoneIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, _ := newDesk(provider.Config{})
		b.engine.spool = &found{spooler: b.engine.spool, gone: []string{"other"}}
		s := newSweeper(b.engine)
		for _, deaf := range []bool{true, false, false} {
			d.deaf = deaf
			s.sweepOnce(t.Context())
			if told := slices.Equal(d.told, []string{"other"}); told == deaf || deaf && len(d.told) > 0 {
				t.Errorf("told %v, where the database is away: %t", d.told, deaf)
			}
		}
	})
}

// Replicas that were found to be gone are remembered for an hour, and flights that are seen for as long as
// they last.
func TestWhatASweeperRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, _ := newDesk(provider.Config{RefreshTimeout: time.Hour})
		began := time.Now()
		d.row.Phase, d.row.FlightID, d.row.Replica, d.row.ClaimedAt, d.row.PresentedAt = Refreshing, "f", "other", began, began
		b.engine.spool = &found{spooler: b.engine.spool, gone: []string{"other"}}
		s := newSweeper(b.engine)
		for _, line := range []struct {
			at   time.Duration
			gone bool
			seen bool
		}{{at: time.Second, gone: true, seen: true}, {at: 30 * time.Minute, gone: true, seen: true}, {at: time.Hour + time.Second, gone: true, seen: true}, {at: time.Hour + 2*time.Second}} {
			for time.Since(began) < line.at {
				time.Sleep(time.Second)
				s.sweepOnce(t.Context())
			}
			if _, gone := s.gone["other"]; gone != line.gone || line.seen && !s.seen["f"].Equal(began.Add(time.Second)) {
				t.Errorf("after %s: gone %t, first seen after %s; want %t, 1s", line.at, gone, s.seen["f"].Sub(began), line.gone)
			}
		}
		s.seen["f"], d.blind = began, true
		s.sweepOnce(t.Context())
		if !s.seen["f"].Equal(began) {
			t.Error("a sweep that failed forgets since when a flight is seen")
		}
		d.blind = false
		time.Sleep(leaseLife - time.Millisecond)
		s.sweepOnce(t.Context())
		if !s.seen["f"].Equal(began) {
			t.Errorf("after a short gap the flight is first seen %s after it began, want 0", s.seen["f"].Sub(began))
		}
		// What the database would not take while it was away comes first, its holder's successor above all.
		time.Sleep(leaseLife)
		s.sweepOnce(t.Context())
		if !s.seen["f"].Equal(time.Now()) {
			t.Error("a flight counts from before an outage of the database, want from the look after it")
		}
		d.row.land()
		s.sweepOnce(t.Context())
		if len(s.seen) != 0 {
			t.Errorf("a flight that landed is remembered: %v", s.seen)
		}
	})
}
