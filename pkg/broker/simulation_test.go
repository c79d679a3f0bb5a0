//go:build !race

package broker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// The simulation runs the engine alone: several people, several replicas, their database and their
// provider in memory, on virtual time, with faults at every boundary between two steps. The rules are the
// engine's own (Apply, Judge); what is simulated is what lies around them: a database whose commits come
// late or whose acknowledgements are lost, a provider that is slow, a network that drops, processes that
// hang or die, spools that fail, people who log in and disconnect.
//
// A schedule plays the same again: every fault is drawn from a stream of its own, by process, kind of step
// and count, and no two steps fall on the same instant. (The race detector's runtime does not survive
// thousands of such bubbles: `make test-exact` runs this without it.)
var (
	schedules = flag.Int("simulation.schedules", 1500, "how many")
	firstOne  = flag.Uint64("simulation.first", 1, "the number of the first one")
	planted   = flag.String("simulation.plant", "", "a bug to put in")
)

// plants are bugs that can be put in on purpose, each at one place around the rules, and the number of the
// first schedule that found it when it was last looked for: the search begins there.
var plants = map[string]struct {
	what  string
	first uint64
}{
	"epoch":   {"the gate does not compare epochs", 5177},
	"version": {"a swap does not ask for the version that the rule saw", 1},
	"digest":  {"a successor is stored whatever token is stored by now", 2},
	"claim":   {"a claim is given although another flight has the row", 1},
	"beat":    {"heartbeats are acknowledged and not kept", 9},
	"spool":   {"the spool acknowledges a record and drops it", 4764},
	"feed":    {"lines of the change feed are lost", 21},
	"abort":   {"a request that was given up is delivered later", 434},
	"fence":   {"a login does not look for a revocation on its way", 2},
	"kept":    {"what was stored is not offered after a failover", 176},
	"settled": {"a database is used before all have offered", 54},
	"renamed": {"a swap does not ask whether the database is still the same", 2986},
	"clock":   {"a step back of the database's clock is not noticed", 68},
	"ends":    {"ends are not brought back", 32},
}

const (
	simPeople  = 3
	simLife    = 8 * time.Second // of access tokens
	simTimeout = 6 * time.Second // refresh_timeout
	simWait    = 12 * time.Second
	simEnd     = 45 * time.Second
	simQuiet   = 70 * time.Second // without faults, at the end
)

// simulation is one schedule.
type simulation struct {
	number  uint64
	plant   string
	grace   time.Duration
	rotates bool
	shared  bool // a revocation ends all of a person's grants
	slow    bool // the provider answers later than its grace lasts

	mu    sync.Mutex
	quiet bool
	count map[string]uint64 // steps so far, by stream

	simDatabase
	standby []simDatabase // as it was of late: what a standby holds that lags
	skew    time.Duration // of the database's clock

	minted  int
	ends    map[string]time.Time // of access tokens
	tokens  map[string]*simToken
	current map[string]*simPresentation // under way, by token
	spooled []simRecord
	gone    map[cacheKey]simEnded // people who are disconnected
	unknown map[cacheKey]bool     // whose disconnect a failover lost, and only the dead knew of it
	running []*simReplica

	trace []string
	found []string
}

// simDatabase is what a database holds.
type simDatabase struct {
	at       time.Time
	rows     map[cacheKey]Row
	lines    []simLine // of the change feed
	beats    map[string]int64
	offered  map[string]string
	stepped  map[string]Step
	buried   map[string]bool // replicas that are said to be dead
	revoked  []simRevocation
	timeline int64
	settled  map[string]bool
}

// simLine is a line of the feed: a connection that changed, and its tombstone where it has ended.
type simLine struct {
	key   cacheKey
	ended Row
}

// simEnded is an end and the version of its tombstone.
type simEnded struct {
	at      time.Time
	version int64
}

func (d *simDatabase) incarnation() string { return fmt.Sprintf("simulated/%08X", d.timeline) }

// copied is the database as a standby has it.
func (d *simDatabase) copied() simDatabase {
	other := *d
	other.at = time.Now()
	other.rows, other.beats, other.offered, other.settled = maps.Clone(d.rows), maps.Clone(d.beats), maps.Clone(d.offered), maps.Clone(d.settled)
	other.stepped, other.buried = maps.Clone(d.stepped), maps.Clone(d.buried)
	other.lines, other.revoked = slices.Clip(d.lines), slices.Clone(d.revoked)
	return other
}

type simToken struct {
	person     string
	family     *simFamily
	generation int
	spent      time.Time
	successor  string
	excused    bool // a fault kept its successor from being stored
	stored     bool // it was stored in the database or in a spool
	storedAt   time.Time
	spooled    bool
	holder     *simReplica
}

// simFamily is what descends from one login.
type simFamily struct {
	person  string
	revoked bool
	why     string
	began   time.Time
}

type simPresentation struct {
	replica *simReplica
	epoch   int64
	began   time.Time
}

type simRecord struct {
	owner  *simReplica
	record spooled
}

type simRevocation struct {
	id         string
	key        cacheKey
	subject    string
	token      secret.Text
	next       time.Time
	takenUntil time.Time
	ended      time.Time
}

// simReplica is a process and whether it lives.
type simReplica struct {
	*simulation
	name   string
	broker *Broker
	stop   context.CancelFunc
	heard  int   // lines of the feed
	of     int64 // the timeline whose lines they are
	ends   []Row // tombstones that it wrote or heard of
	beaten time.Time
	pod    int  // whose spool folder it has; one below zero sees them all
	found  bool // its spool was found and replayed
	died   time.Time
	polled atomic.Int64
	dead   atomic.Bool
	hung   atomic.Int64 // until when, in unix nanoseconds
}

var (
	errSimDead   = errors.New("the process is dead")
	errSimBefore = errors.New("the database is away")
	errSimAfter  = errors.New("the acknowledgement was lost")
	errSimSets   = errors.New("the database is not settled")
)

// note writes a line of the trace. The caller holds the lock.
func (s *simulation) note(format string, arguments ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%12s ", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))+fmt.Sprintf(format, arguments...))
}

func (s *simulation) violation(format string, arguments ...any) {
	s.found = append(s.found, fmt.Sprintf(format, arguments...))
	s.note("VIOLATION: "+format, arguments...)
}

// dice draws from the stream of a name. The caller holds the lock.
func (s *simulation) dice(stream string) *rand.Rand {
	s.count[stream]++
	sum := fnv.New64a()
	fmt.Fprint(sum, stream)
	return rand.New(rand.NewPCG(s.number<<20+s.count[stream], sum.Sum64()))
}

// step is a boundary between two steps of a replica: whatever may go wrong does so here.
func (r *simReplica) step(stream string) error {
	r.mu.Lock()
	dice := r.dice(r.name + " " + stream)
	wait := time.Duration(1 + dice.IntN(2_000_000)) // so that no two steps fall on one instant
	dies, hangs, fails := false, time.Duration(0), false
	if !r.quiet {
		switch roll := dice.IntN(1000); {
		case roll < 80:
			wait += time.Duration(dice.IntN(400)) * time.Millisecond
		case roll < 88:
			dies = true
		case roll < 100:
			hangs = time.Duration(dice.IntN(9000)) * time.Millisecond
		case roll < 140:
			fails = true
		}
	}
	if dies || hangs > 0 {
		r.note("%s dies %t, hangs %s, at %s", r.name, dies, hangs, stream)
	}
	r.mu.Unlock()
	time.Sleep(wait)
	if dies {
		r.die()
	}
	if hangs > 0 {
		r.hung.Store(time.Now().Add(hangs).UnixNano())
	}
	for until := r.hung.Load(); time.Now().UnixNano() < until; until = r.hung.Load() {
		time.Sleep(time.Duration(until-time.Now().UnixNano()) + wait)
	}
	if r.dead.Load() {
		return errSimDead
	}
	if fails {
		return errSimBefore
	}
	return nil
}

// die kills the process; what it alone held is lost.
func (r *simReplica) die() {
	if r.dead.Swap(true) {
		return
	}
	r.mu.Lock()
	r.died = time.Now()
	for _, token := range r.tokens {
		if token.holder == r && !token.stored {
			token.excused = true
		}
	}
	r.mu.Unlock()
	r.stop()
}

// after is the way back of an answer, on which it may be lost.
func (r *simReplica) after(stream string) error {
	if err := r.step(stream); err != nil {
		return errors.Join(errSimAfter, err)
	}
	return nil
}

// alive tells that a process has every right to count as alive.
func (r *simReplica) alive() bool {
	_, holds := r.broker.engine.lease.now(time.Now())
	return !r.dead.Load() && holds && time.Now().UnixNano() >= r.hung.Load()
}

// read is a row as a statement returns it. The caller holds the lock.
func (s *simulation) read(key cacheKey) Row {
	row, ok := s.rows[key]
	if !ok {
		row = Row{Connection: Connection{UserID: key.userID, Provider: key.provider}}
	}
	now := time.Now()
	row.Reading = Reading{Database: now.Add(s.skew), Sent: now, Received: now, Incarnation: s.incarnation()}
	if s.plant == "clock" {
		row.Reading.Sent = now.Add(-slowReading - time.Millisecond)
	}
	return row
}

// usable tells whether the database is settled. The caller holds the lock.
func (s *simulation) usable() error {
	if !s.settled[s.incarnation()] && s.plant != "settled" {
		return errSimSets
	}
	return nil
}

// Row implements Store.
func (r *simReplica) Row(_ context.Context, userID, providerID string) (Row, error) {
	if err := r.step("row " + userID); err != nil {
		return Row{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	row := r.read(cacheKey{userID, providerID})
	if err := r.usable(); err != nil {
		return Row{}, err
	}
	if row.Version == 0 {
		return Row{}, ErrNotConnected
	}
	return row, nil
}

// Rows implements Store.
func (r *simReplica) Rows(context.Context, string) ([]Row, error) { return nil, nil }

// Apply implements Store: the engine's own rules, and a swap by version.
func (r *simReplica) Apply(_ context.Context, row Row, action Action) (Change, error) {
	stream := fmt.Sprintf("%T %s", action, row.UserID)
	key := cacheKey{row.UserID, row.Provider}
	fresh := row.Version > 0 && !row.Reading.Database.IsZero()
	for range 20 {
		if !fresh {
			if err := r.step(stream + " read"); err != nil {
				return Change{}, err
			}
			r.mu.Lock()
			row = r.read(key)
			err := r.usable()
			r.mu.Unlock()
			if err != nil {
				return Change{}, err
			}
		}
		fresh = false
		change, err := Apply(r.planted(row, action))
		if err != nil {
			return Change{}, err
		}
		if err := r.step(stream); err != nil {
			r.late(row, change, stream)
			return Change{}, err
		}
		r.mu.Lock()
		swapped := r.swap(row, change, r.name+" "+stream)
		if swapped && change.Row.Phase == Disconnected && change.Tell {
			r.ends = append(r.ends, change.Row)
		}
		r.mu.Unlock()
		if swapped {
			if lost := r.after(stream + " acknowledged"); lost != nil {
				return Change{}, lost
			}
			return change, change.Refusal
		}
	}
	return Change{}, errors.New("the row changed again and again")
}

// planted puts bugs around a rule.
func (r *simReplica) planted(row Row, action Action) (Row, Event) {
	event := Event{At: row.Reading.Now(), Timeline: row.Reading.Timeline(), Action: action}
	switch action := action.(type) {
	case Claim:
		if r.plant == "claim" && row.FlightID != "" && row.FlightID != action.Over {
			row.FlightID = action.Over
		}
	case Commit:
		if r.plant == "digest" {
			row.Digest = action.Presented
		}
	}
	return row, event
}

// late lets some statements that the caller gave up take effect up to 40 s later, as a partition does.
func (r *simReplica) late(row Row, change Change, stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dice := r.dice(r.name + " late " + stream)
	if r.quiet || dice.IntN(3) > 0 {
		return
	}
	delay := time.Duration(dice.Int64N(int64(40 * time.Second)))
	go func() {
		time.Sleep(delay)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.swap(row, change, r.name+" "+stream+", late") {
			r.note("%s %s takes effect %s late", r.name, stream, delay)
		}
	}()
}

// swap stores a change with all that belongs to it. The caller holds the lock.
func (s *simulation) swap(row Row, change Change, who string) bool {
	key := cacheKey{row.UserID, row.Provider}
	stored := s.rows[key]
	if !change.Keep && stored.Version != row.Version && s.plant != "version" {
		return false
	}
	if row.Reading.Incarnation != s.incarnation() && s.plant != "renamed" {
		return false
	}
	if !change.Keep {
		s.checkSwap(stored, change.Row)
		s.rows[key] = change.Row
		s.note("%s: %s v%d %s %q token %s", who, key.userID, change.Row.Version, change.Row.Phase, change.Row.Reason, string(change.Row.RefreshToken))
		if token := s.tokens[string(change.Row.RefreshToken)]; token != nil {
			token.stored, token.storedAt = true, time.Now()
		}
		if end, gone := s.gone[key]; gone && change.Row.StoredVersion > end.version {
			delete(s.gone, key)
		}
		if _, gone := s.gone[key]; !gone && change.Row.Phase == Disconnected {
			s.gone[key] = simEnded{time.Now(), change.Row.Version}
		}
	}
	for _, unwanted := range change.Revoke {
		if token := s.tokens[string(unwanted.Token)]; token != nil {
			token.stored = true
		}
		s.revoked = append(s.revoked, simRevocation{id: fmt.Sprint(len(s.revoked)), key: key, subject: unwanted.Subject, token: unwanted.Token, next: time.Now()})
	}
	if change.Cancel {
		for i := range s.revoked {
			one := &s.revoked[i]
			if one.key == key && one.ended.IsZero() && !time.Now().Before(one.takenUntil) {
				one.ended = time.Unix(1, 0)
			}
		}
	}
	if change.Tell && s.plant != "feed" {
		line := simLine{key: key}
		if change.Row.Phase == Disconnected {
			line.ended = change.Row
		}
		s.lines = append(s.lines, line)
	}
	return true
}

// checkSwap holds what is stored to what it takes the place of.
func (s *simulation) checkSwap(was, next Row) {
	before, after := s.tokens[string(was.RefreshToken)], s.tokens[string(next.RefreshToken)]
	switch {
	case next.RefreshToken == "":
		if next.Phase != Disconnected {
			s.violation("a grant without a refresh token was stored")
		}
	case after == nil:
		s.violation("a token was stored that nobody gave")
	case after.person != next.UserID:
		s.violation("%s's token was stored for %s", after.person, next.UserID)
	case was.Phase == Disconnected && next.StoredVersion <= was.Version:
		s.violation("an ended connection is alive again")
	case before != nil && before.family != after.family && after.family.began.Before(before.family.began):
		s.violation("a login's token was overwritten by an older one")
	case before != nil && before.family == after.family && after.generation < before.generation:
		s.violation("generation %d was stored over %d", after.generation, before.generation)
	}
}

// Disconnect implements Store.
func (r *simReplica) Disconnect(ctx context.Context, userID, providerID string) error {
	_, err := r.Apply(ctx, Row{Connection: Connection{UserID: userID, Provider: providerID}}, Disconnect{})
	return err
}

// Beat implements Replicas.
func (r *simReplica) Beat(_ context.Context, beat Beat) (Pulse, error) {
	if err := r.step("beat"); err != nil {
		return Pulse{}, err
	}
	r.mu.Lock()
	if r.beaten = time.Now(); r.plant != "beat" {
		r.beats[beat.Replica] = max(r.beats[beat.Replica]+1, time.Now().Add(r.skew).UnixMilli())
	}
	r.offered[beat.Replica], r.stepped[beat.Replica] = beat.Offered, beat.Stepped
	delete(r.buried, beat.Replica)
	pulse := r.pulse()
	r.mu.Unlock()
	return pulse, r.after("beat acknowledged")
}

// pulse is what a heartbeat finds. The caller holds the lock.
func (s *simulation) pulse() Pulse {
	pulse := Pulse{
		Reading: s.read(cacheKey{}).Reading, Beats: maps.Clone(s.beats), Gone: maps.Clone(s.buried), Offered: map[string]bool{}, Settled: s.settled[s.incarnation()],
	}
	for id, in := range s.offered {
		pulse.Offered[id] = in == s.incarnation()
	}
	for _, step := range s.stepped {
		pulse.Stepped = append(pulse.Stepped, step)
	}
	return pulse
}

// Gone implements Replicas.
func (r *simReplica) Gone(_ context.Context, id string) error {
	if err := r.step("gone"); err != nil {
		return err
	}
	r.mu.Lock()
	r.buried[id] = true
	r.mu.Unlock()
	return r.after("gone acknowledged")
}

// Behind implements Failovers.
func (r *simReplica) Behind(_ context.Context, rows []Row) (behind []int, err error) {
	if err := r.step("behind"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, row := range rows {
		held := r.rows[cacheKey{row.UserID, row.Provider}]
		if (held.Version < row.Version || held.StoredVersion < row.StoredVersion) && r.plant != "kept" {
			behind = append(behind, i)
		}
	}
	return behind, nil
}

// Restore implements Failovers.
func (r *simReplica) Restore(_ context.Context, lost Restore) error {
	if err := r.step("restore " + lost.Row.UserID); err != nil {
		return err
	}
	r.mu.Lock()
	row := r.read(cacheKey{lost.Row.UserID, lost.Row.Provider})
	change, err := Apply(row, Event{At: row.Reading.Now(), Timeline: row.Reading.Timeline(), Action: lost})
	if err == nil {
		r.swap(row, change, r.name+" restores")
		err = change.Refusal
	}
	r.mu.Unlock()
	return errors.Join(err, r.after("restored "+lost.Row.UserID))
}

// Recommit implements Failovers.
func (r *simReplica) Recommit(_ context.Context, userID, providerID string, commit Commit) (Change, error) {
	if err := r.step("recommit " + userID); err != nil {
		return Change{}, err
	}
	r.mu.Lock()
	row := r.read(cacheKey{userID, providerID})
	change, err := Apply(row, Event{At: row.Reading.Now(), Action: commit})
	if err == nil {
		r.swap(row, change, r.name+" recommits")
		err = change.Refusal
		if token := r.tokens[string(commit.Tokens.RefreshToken)]; token != nil {
			token.holder, token.spooled = r, false // who knows of it from now on
		}
	}
	r.mu.Unlock()
	return change, errors.Join(err, r.after("recommitted "+userID))
}

// RestoreEnds implements Failovers.
func (r *simReplica) RestoreEnds(ctx context.Context, _ time.Duration) error {
	r.mu.Lock()
	ends := slices.Clone(r.ends)
	r.mu.Unlock()
	for _, row := range ends {
		if r.plant == "ends" {
			break
		}
		lost := Row{Connection: Connection{UserID: row.UserID, Provider: row.Provider, Phase: Disconnected, Version: row.Version, ConnectedAt: row.ConnectedAt}}
		if err := r.Restore(ctx, Restore{Row: lost}); err != nil && !errors.Is(err, ErrSuperseded) {
			return err
		}
	}
	return nil
}

// Settle implements Failovers.
func (r *simReplica) Settle(_ context.Context, incarnation string) error {
	if err := r.step("settle"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if incarnation == r.incarnation() && !r.settled[incarnation] {
		r.settled[incarnation] = true
		r.note("%s settles %s", r.name, incarnation)
		for _, other := range r.running {
			if r.offered[other.name] != incarnation && time.Since(other.beaten) >= failoverPatience-2*beatEvery {
				other.missedFailover()
			}
		}
		r.forgotten(func(other *simReplica) bool { return r.offered[other.name] == incarnation })
	}
	return nil
}

// missedFailover excuses what a replica alone knew that died, or was silent for too long, at a failover. The
// caller holds the lock.
func (r *simReplica) missedFailover() {
	for _, token := range r.tokens {
		if token.holder == r && !token.stored {
			token.excused = true
		}
	}
}

// failOver puts a standby in the database's place that lacks its last commits.
func (s *simulation) failOver(lag time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.timeline
	for i := len(s.standby) - 1; i >= 0; i-- {
		if time.Since(s.standby[i].at) >= lag || i == 0 {
			s.simDatabase = s.standby[i].copied()
			s.at = s.standby[i].at
			break
		}
	}
	s.standby = nil
	s.timeline = was + 1
	s.note("failover to %s, as it was %s ago", s.incarnation(), time.Since(s.at))
	for _, token := range s.tokens {
		if token.storedAt.After(s.at) && !token.spooled {
			token.stored = false
			if token.holder != nil && token.holder.dead.Load() {
				token.excused = true
			}
		}
	}
	s.forgotten(func(r *simReplica) bool { return !r.dead.Load() })
}

// forgotten excuses ends that a failover lost and of which only replicas knew that could not tell. The caller
// holds the lock.
func (s *simulation) forgotten(tells func(*simReplica) bool) {
	for key, end := range s.gone {
		known := s.rows[key].Phase == Disconnected
		for _, r := range s.running {
			known = known || tells(r) && slices.ContainsFunc(r.ends, func(row Row) bool { return row.UserID == key.userID && row.Version >= end.version })
		}
		if !known {
			s.note("only the dead knew that %s was disconnected", key.userID)
			delete(s.gone, key)
			s.unknown[key] = true
		}
	}
}

// replicate keeps what a standby holds that lags by up to two seconds.
func (s *simulation) replicate(until time.Time) {
	for time.Now().Before(until) {
		s.mu.Lock()
		s.standby = append(s.standby, s.copied())
		if len(s.standby) > 20 {
			s.standby = slices.Delete(s.standby, 0, 1)
		}
		s.mu.Unlock()
		time.Sleep(100*time.Millisecond + 777*time.Nanosecond)
	}
}

// Orphans implements Store.
func (r *simReplica) Orphans(_ context.Context, look Look) (orphans []Orphan, pulse Pulse, err error) {
	if err := r.step("orphans"); err != nil {
		return nil, Pulse{}, err
	}
	r.mu.Lock()
	if err := r.usable(); err != nil {
		r.mu.Unlock()
		return nil, Pulse{}, err
	}
	for i := range simPeople {
		row := r.read(cacheKey{person(i), "main"})
		now := row.Reading.Database
		flight := row.FlightID != "" && now.Sub(row.ClaimedAt) >= time.Second &&
			(row.Replica == look.Replica || !slices.Contains(look.Healthy, row.Replica) || now.Sub(row.ClaimedAt) >= look.Overdue)
		doubt := row.Phase == Suspect && row.FlightID == "" && now.Sub(row.NextAttemptAt) >= time.Second
		if flight || doubt {
			orphans = append(orphans, Orphan{Row: row, ProviderRotates: r.rotates})
		}
	}
	pulse = r.pulse()
	r.mu.Unlock()
	return orphans, pulse, r.after("orphans answered")
}

// TakeRevocation implements Outbox.
func (r *simReplica) TakeRevocation(_ context.Context, _ string, lease time.Duration) (Revocation, error) {
	if err := r.step("take"); err != nil {
		return Revocation{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usable(); err != nil {
		return Revocation{}, err
	}
	for i := range r.revoked {
		one := &r.revoked[i]
		if one.ended.IsZero() && !time.Now().Before(one.next) {
			one.takenUntil, one.next = time.Now().Add(lease), time.Now().Add(max(lease, 20*time.Second))
			return Revocation{ID: one.id, Provider: "main", Token: one.token}, nil
		}
	}
	return Revocation{}, nil
}

// Revoked implements Outbox.
func (r *simReplica) Revoked(_ context.Context, id string) error {
	if err := r.step("revoked"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.revoked {
		if r.revoked[i].id == id {
			r.revoked[i].ended = time.Now()
		}
	}
	return nil
}

// travel is the way of a request to the provider, which may be long. It tells whether the request arrives
// before its sender gives it up: then its connection is aborted, and it never does.
func (r *simReplica) travel(ctx context.Context, stream, value string) bool {
	r.mu.Lock()
	dice := r.dice(r.name + " travel " + stream)
	way := time.Duration(1 + dice.IntN(3_000_000))
	if !r.quiet {
		switch roll := dice.IntN(100); {
		case roll < 10:
			way += time.Duration(dice.IntN(2500)) * time.Millisecond
		case roll < 14:
			way += time.Duration(dice.IntN(25)) * time.Second // its packets are dropped for a while
		}
	}
	if way > graceSlack && r.grace > 0 {
		// A takeover within the grace has no more time than that: a slow way on top of a replica that hangs
		// is two faults.
		if token := r.tokens[value]; token != nil && !token.spent.IsZero() {
			token.excused = true
		}
	}
	r.mu.Unlock()
	if r.plant == "abort" {
		time.Sleep(way)
		return true
	}
	select {
	case <-time.After(way):
		return ctx.Err() == nil && !r.dead.Load()
	case <-ctx.Done():
		return false
	}
}

// Refresh implements Refresher.
func (r *simReplica) Refresh(ctx context.Context, refreshToken secret.Text, subject string, gate provider.Gate) (provider.Tokens, error) {
	if r.step("dial "+subject) != nil {
		return provider.Tokens{}, &provider.Error{Outcome: provider.Unsent}
	}
	_, holds := r.broker.engine.lease.now(time.Now())
	if !gate() && (r.plant != "epoch" || !holds) {
		return provider.Tokens{}, &provider.Error{Outcome: provider.Unsent}
	}
	r.mu.Lock()
	r.checkSending(string(refreshToken))
	r.mu.Unlock()
	type result struct {
		tokens  provider.Tokens
		outcome provider.Outcome
	}
	answers := make(chan result, 1)
	go func() {
		if !r.travel(ctx, subject, string(refreshToken)) {
			return
		}
		tokens, outcome := r.present(string(refreshToken), subject)
		r.mu.Lock()
		dice, think := r.dice(r.name+" think "+subject), time.Duration(0)
		if !r.quiet && r.slow {
			think = time.Duration(dice.IntN(int(simTimeout - time.Second)))
		}
		r.mu.Unlock()
		time.Sleep(think + time.Duration(1+dice.IntN(1_000_000)))
		answers <- result{tokens, outcome}
	}()
	outcome := provider.Unanswered
	var got result
	select {
	case got = <-answers:
		outcome = got.outcome
		if lost := r.after("answer " + subject); lost != nil {
			outcome = provider.Unknown
		}
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if under := r.current[string(refreshToken)]; under != nil && under.replica == r {
		delete(r.current, string(refreshToken))
	}
	r.note("%s presented %s: %q", r.name, string(refreshToken), outcome)
	if outcome == "" {
		return got.tokens, nil
	}
	if outcome == provider.Unknown || outcome == provider.Unanswered {
		if token := r.tokens[string(refreshToken)]; token != nil {
			token.excused = true
			for _, other := range r.tokens {
				if other.family == token.family && other.generation == token.generation+1 {
					other.excused = true
				}
			}
		}
	}
	return provider.Tokens{}, &provider.Error{Outcome: outcome}
}

// checkSending holds a presentation to what others are doing. The caller holds the lock.
func (r *simReplica) checkSending(value string) {
	now := time.Now()
	if other := r.current[value]; other != nil && other.replica != r {
		epoch, _ := other.replica.broker.engine.lease.now(now)
		if epoch == other.epoch && other.replica.alive() && now.Sub(other.began) < simTimeout {
			r.violation("%s presents %s while %s, which is alive, does", r.name, value, other.replica.name)
		}
	}
	epoch, _ := r.broker.engine.lease.now(now)
	r.current[value] = &simPresentation{replica: r, epoch: epoch, began: now}
}

// present is the provider: strict, with or without a grace.
func (r *simReplica) present(value, person string) (provider.Tokens, provider.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	token := r.tokens[value]
	switch {
	case token == nil || token.family.revoked:
		return provider.Tokens{}, provider.Refused
	case !r.rotates:
	case token.spent.IsZero():
		token.spent = now
	case now.Sub(token.spent) > r.grace:
		r.note("provider: %s comes back %s after it was spent, excused %t", value, now.Sub(token.spent), token.excused || r.successorExcused(token))
		if !token.excused && !r.successorExcused(token) {
			r.violation("%s presented %s again, %s after it was spent, and no fault had kept its successor away", r.name, value, now.Sub(token.spent))
		}
		token.family.revoked, token.family.why = true, "reuse"
		return provider.Tokens{}, provider.Refused
	}
	r.minted++
	answer := provider.Tokens{AccessToken: secret.Text(fmt.Sprint(person, " access ", r.minted)), IssuedAt: now, AccessExpiresAt: now.Add(simLife)}
	r.simulation.ends[string(answer.AccessToken)] = answer.AccessExpiresAt
	if r.rotates {
		successor := fmt.Sprint("refresh-", r.minted)
		r.tokens[successor] = &simToken{person: token.person, family: token.family, generation: token.generation + 1, holder: r, excused: r.dead.Load()}
		token.successor = successor
		answer.RefreshToken = secret.Text(successor)
	}
	return answer, ""
}

// successorExcused tells that a fault explains why a token's successor was not stored: its holder died with
// it, its answer was lost, or its holder was silent for longer than spool_wait.
func (s *simulation) successorExcused(token *simToken) bool {
	next := s.tokens[token.successor]
	switch {
	case next == nil:
		return false
	case next.holder.dead.Load():
		return next.excused || !next.stored || next.spooled && time.Since(next.holder.died) >= simWait
	}
	return next.excused || time.Since(next.holder.beaten) >= simWait
}

// Revoke implements Refresher.
func (r *simReplica) Revoke(ctx context.Context, refreshToken secret.Text, gate provider.Gate) error {
	if r.step("revoke") != nil || !gate() {
		return &provider.Error{Outcome: provider.Unsent}
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	if !r.travel(ctx, "revoke", "") {
		return &provider.Error{Outcome: provider.Unknown}
	}
	r.mu.Lock()
	token := r.tokens[string(refreshToken)]
	for _, other := range r.tokens {
		if token != nil && (other.family == token.family || r.shared && other.person == token.person) && !other.family.revoked {
			other.family.revoked, other.family.why = true, "revoked by "+string(refreshToken)
			r.note("provider: %s's family is revoked by %s", other.person, string(refreshToken))
			row := r.rows[cacheKey{other.person, "main"}]
			if now := r.tokens[string(row.RefreshToken)]; other.family != token.family && now != nil && now.family == other.family {
				r.violation("a revocation of a former login ended %s's new one", other.person)
			}
		}
	}
	r.mu.Unlock()
	return r.after("revocation")
}

// simSpool is a spool that outlives its process, and sometimes fails.
type simSpool struct{ *simReplica }

func (m simSpool) add(_ *keyring.Keyring, record spooled) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dice := m.dice(m.name + " spool")
	if m.dead.Load() {
		return errSimDead
	}
	if !m.quiet && dice.IntN(10) == 0 {
		m.note("%s cannot spool %s", m.name, record.Refresh)
		return errors.New("no space left on device")
	}
	if token := m.tokens[record.Refresh]; token != nil {
		token.stored, token.spooled = true, true
	}
	if m.plant != "spool" {
		m.spooled = append(m.spooled, simRecord{m.simReplica, record})
	}
	return nil
}
func (simSpool) done()      {}
func (simSpool) close(bool) {}
func (m simSpool) replay(ctx context.Context, _ *keyring.Keyring, offer func(context.Context, spooled) error) (gone []string) {
	m.mu.Lock()
	records, running := m.spooled, m.running
	m.mu.Unlock()
	theirs := func(other *simReplica) bool { return other.dead.Load() && (other.pod == m.pod || m.pod < 0) }
	left := map[*simReplica]bool{}
	for _, one := range records {
		if !theirs(one.owner) || left[one.owner] {
			continue
		}
		if err := offer(ctx, one.record); err != nil && !errors.Is(err, ErrSuperseded) {
			left[one.owner] = true
			continue
		}
		m.mu.Lock()
		m.spooled = slices.DeleteFunc(slices.Clone(m.spooled), func(other simRecord) bool { return other.record.Refresh == one.record.Refresh })
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range running {
		if theirs(other) && !left[other] && !other.found {
			other.found = true // and its file is gone
			gone = append(gone, other.name)
		}
	}
	return gone
}

// follow reads the change feed every two seconds.
func (r *simReplica) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if r.step("feed") == nil {
			r.mu.Lock()
			if r.usable() != nil {
				r.mu.Unlock()
				time.Sleep(time.Second)
				continue
			}
			another := r.of != r.timeline
			if another {
				r.of, r.heard = r.timeline, len(r.lines)
			}
			lines := r.lines[r.heard:]
			r.heard = len(r.lines)
			for _, line := range lines {
				if line.ended.Version > 0 {
					r.ends = append(r.ends, line.ended)
				}
			}
			r.polled.Store(time.Now().UnixNano())
			r.mu.Unlock()
			if another {
				r.broker.ForgetAll()
			}
			for _, line := range lines {
				r.broker.Forget(line.key.userID, line.key.provider)
			}
		}
		time.Sleep(2 * time.Second)
	}
}

func person(i int) string { return fmt.Sprint("person", i) }

// begin starts a replica.
func (s *simulation) begin(name string, pod int) *simReplica {
	r := &simReplica{simulation: s, name: name, pod: pod}
	config := provider.Config{RefreshTimeout: simTimeout, Timeout: 4 * time.Second, ReuseGrace: s.grace, RefreshRate: 1000}
	r.broker = New(Parts{Config: Config{DefaultProvider: "main", Wait: 5 * time.Second, SpoolWait: simWait}, Store: r, Replicas: r, Outbox: r, Failovers: r, Keys: simKeys(), Now: time.Now})
	r.broker.engine.replica = name
	r.broker.engine.spool = simSpool{r}
	r.broker.engine.digest = func(token string) []byte { return []byte(token) }
	up := newUpstream("main", r, config)
	up.served = func(time.Duration) {}
	r.broker.engine.upstreams["main"] = up
	s.mu.Lock()
	r.heard, r.of = len(s.lines), s.timeline
	s.running = append(s.running, r)
	s.mu.Unlock()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go r.broker.Run(ctx)
	go r.follow(ctx)
	return r
}

var simKeys = sync.OnceValue(func() *keyring.Keyring {
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		panic(err)
	}
	return keys
})

// login stores a new grant of a person's, as a callback does at a replica; nil is before there is any.
func (s *simulation) login(i int, began time.Duration, at *simReplica) {
	s.mu.Lock()
	key := cacheKey{person(i), "main"}
	s.minted++
	value, access, now := fmt.Sprint("refresh-", s.minted), fmt.Sprint(key.userID, " access ", s.minted), time.Now()
	family := &simFamily{person: key.userID}
	s.tokens[value] = &simToken{person: key.userID, family: family}
	s.mu.Unlock()
	time.Sleep(began) // from the exchange of the code to the storing of the grant
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.revoked {
		if s.plant != "fence" && one.key == key && (one.ended.IsZero() && !one.takenUntil.Before(now) || one.ended.After(now)) {
			s.note("login of %s meets a revocation, and is refused", key.userID)
			return
		}
	}
	row := s.read(key)
	if s.usable() != nil {
		return
	}
	family.began = time.Now()
	change, err := Apply(row, Event{At: row.Reading.Database, Timeline: row.Reading.Timeline(), Action: Login{
		Subject: key.userID, Digest: []byte(value),
		Tokens: provider.Tokens{RefreshToken: secret.Text(value), AccessToken: secret.Text(access), IssuedAt: row.Reading.Database, AccessExpiresAt: row.Reading.Database.Add(simLife)},
	}})
	if err == nil {
		s.ends[string(change.Row.AccessToken)] = time.Now().Add(simLife)
		s.swap(row, change, "login")
		if at != nil && !at.dead.Load() {
			s.tokens[value].holder = at
			at.broker.engine.kept.keep(change, nil, false)
		}
	}
}

// ask is a worker's call, whose answer is held to what may be handed out.
func (r *simReplica) ask(i int) {
	key := cacheKey{person(i), "main"}
	asked := time.Now()
	token, err := r.broker.Token(context.Background(), key.userID, "main", 600*time.Second)
	if err != nil || r.dead.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var owner string
	if _, _ = fmt.Sscan(string(token.Value), &owner); owner != key.userID {
		r.violation("%s is handed %q", key.userID, string(token.Value))
	}
	if ends, known := r.simulation.ends[string(token.Value)]; known && ends.Before(asked) {
		r.violation("%s is handed %q by %s, which ended %s before the call", key.userID, string(token.Value), r.name, asked.Sub(ends))
	}
	end, gone := r.gone[key]
	since := end.at
	if polled := time.Unix(0, r.polled.Load()); gone && since.Before(asked) && polled.Sub(since) > time.Second && asked.Sub(since) > 5*time.Second {
		r.violation("%s was disconnected %s before the call, and is served by %s", key.userID, asked.Sub(since), r.name)
	}
}

// play plays one schedule.
func play(t *testing.T, number uint64, plant string) *simulation {
	s := &simulation{
		number: number, plant: plant, count: map[string]uint64{}, tokens: map[string]*simToken{}, current: map[string]*simPresentation{}, gone: map[cacheKey]simEnded{}, unknown: map[cacheKey]bool{}, ends: map[string]time.Time{},
		simDatabase: simDatabase{rows: map[cacheKey]Row{}, beats: map[string]int64{}, offered: map[string]string{}, stepped: map[string]Step{}, buried: map[string]bool{}, timeline: 1, settled: map[string]bool{}},
	}
	s.settled[s.incarnation()] = true
	synctest.Test(t, func(*testing.T) {
		dice := rand.New(rand.NewPCG(number, 7))
		s.rotates = dice.IntN(5) > 0
		s.shared, s.slow = dice.IntN(2) == 0, dice.IntN(3) == 0
		if s.rotates && dice.IntN(2) == 0 {
			s.grace = []time.Duration{3 * time.Second, 10 * time.Second}[dice.IntN(2)]
		}
		for i := range simPeople {
			s.login(i, 0, nil)
		}
		fails := number%2 == 0 // the database, now and then
		if fails {
			go s.replicate(time.Now().Add(simEnd))
		}
		names := 0
		begin := func(pod int) *simReplica { names++; return s.begin(fmt.Sprint("r", names), pod) }
		replicas := []*simReplica{begin(0), begin(1), begin(2)}
		for began := time.Now(); time.Since(began) < simEnd; time.Sleep(time.Duration(dice.Int64N(int64(300 * time.Millisecond)))) {
			i, who := dice.IntN(len(replicas)), dice.IntN(simPeople)
			if replicas[i].dead.Load() {
				replicas[i] = begin(i)
			}
			r := replicas[i]
			switch roll := dice.IntN(200); {
			case roll < 3:
				go s.login(who, time.Duration(dice.IntN(800))*time.Millisecond, r)
			case roll < 6:
				go func() { _ = r.broker.Disconnect(context.Background(), person(who), "main") }()
			case roll == 6 && number%4 == 0:
				s.mu.Lock()
				s.skew += time.Duration(dice.IntN(33)-8) * time.Second
				s.note("the database's clock steps to %s ahead", s.skew)
				s.mu.Unlock()
			case roll == 7 && fails:
				s.failOver(time.Duration(dice.IntN(1500)) * time.Millisecond)
			default:
				go r.ask(who)
			}
		}
		s.mu.Lock()
		s.quiet = true
		s.note("quiet")
		s.mu.Unlock()
		time.Sleep(simQuiet)
		last := begin(-1)
		time.Sleep(5 * time.Second)
		s.settle(last)
		for _, each := range append(replicas, last) {
			each.die()
		}
		time.Sleep(time.Minute)
	})
	return s
}

// settle checks what has to hold when all is well again: every grant that the provider honours is served,
// and no successor was lost without a fault.
func (s *simulation) settle(last *simReplica) {
	for i := range simPeople {
		key := cacheKey{person(i), "main"}
		_, err := last.broker.Token(context.Background(), key.userID, "main", time.Second)
		s.mu.Lock()
		row := s.rows[key]
		token := s.tokens[string(row.RefreshToken)]
		switch {
		case row.Phase == Disconnected:
			if err == nil {
				s.violation("%s is disconnected, and served", key.userID)
			}
		case token == nil:
			s.violation("%s has no token", key.userID)
		case !token.family.revoked && (token.spent.IsZero() || !s.rotates) && err != nil:
			s.violation("the provider honours %s's grant, and it is not served: %v (%s)", key.userID, err, row.Phase)
		case !token.family.revoked && !token.spent.IsZero() && s.rotates && !s.successorExcused(token) && !token.excused:
			s.violation("%s's successor of %s was lost, and no fault explains it", key.userID, string(row.RefreshToken))
		case token.family.revoked && token.family.why != "reuse" && !s.unknown[key]:
			s.violation("%s's grant was ended: %s", key.userID, token.family.why)
		}
		s.mu.Unlock()
	}
}

// report prints what was found and the end of the trace.
func (s *simulation) report() string {
	text := fmt.Sprintf("schedule %d: %v\n", s.number, s.found)
	for _, line := range s.trace[max(0, len(s.trace)-400):] {
		text += "  " + line + "\n"
	}
	return text + fmt.Sprintf("again: go test ./pkg/broker -run '^TestSimulation$' -simulation.first=%d -simulation.schedules=1 -simulation.plant=%s", s.number, s.plant)
}

func TestSimulation(t *testing.T) {
	began := time.Now()
	var next atomic.Uint64
	next.Store(*firstOne)
	last := *firstOne + uint64(*schedules)
	var all sync.WaitGroup
	var bad atomic.Int32
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for number := next.Add(1) - 1; number < last && bad.Load() < 2; number = next.Add(1) - 1 {
				if s := play(t, number, *planted); len(s.found) > 0 {
					bad.Add(1)
					t.Error(s.report())
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d schedules in %s", *schedules, time.Since(began).Round(time.Millisecond))
}

// Each of the bugs that are planted is found, and the schedule that found it finds it again.
func TestSimulationFindsWhatIsPlanted(t *testing.T) {
	for plant, known := range plants {
		t.Run(plant, func(t *testing.T) {
			for number := known.first; number < known.first+20_000; number++ {
				s := play(t, number, plant)
				if len(s.found) == 0 {
					continue
				}
				t.Logf("%s: schedule %d: %s", known.what, number, s.found[0])
				for replay := range 10 {
					if again := play(t, number, plant); len(again.found) == 0 || again.found[0] != s.found[0] {
						t.Errorf("replay %d finds %v, want %s", replay, again.found, s.found[0])
					}
				}
				return
			}
			t.Errorf("%s, and 20,000 schedules find nothing", known.what)
		})
	}
}
