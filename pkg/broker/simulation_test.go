//go:build !race

package broker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// The simulation runs the engine alone: several replicas, their store and their provider in memory, on
// virtual time, with faults at every boundary between two steps: an answer that is late, an error
// before or after something was done, a process that hangs or dies. What must never be is checked at
// every step. (The race detector's runtime does not survive thousands of such bubbles: `make test-exact`
// runs this without it.)
var (
	schedules = flag.Int("simulation.schedules", 1500, "how many")
	firstOne  = flag.Uint64("simulation.first", 1, "the number of the first one")
)

// plants are bugs that can be put in on purpose, each into one place, to see that they are found.
var plants = map[string]string{
	"claim":  "a claim is given although another flight has the row",
	"commit": "a successor is stored whatever token is stored by now",
	"empty":  "an answer without a refresh token overwrites the one that is stored",
	"orphan": "flights of replicas that live are taken for orphans of long ago",
	"broken": "a verdict is taken whatever token is stored by now",
	"beat":   "heartbeats are acknowledged and not kept",
}

const (
	simLife  = 8 * time.Second // of access tokens
	simWait  = 6 * time.Second // spool_wait
	simEnd   = 35 * time.Second
	simQuiet = 60 * time.Second // without faults, at the end: longer than the longest back-off and what hangs before it
)

// world is one schedule.
type world struct {
	chance  *rand.Rand
	plant   string
	grace   time.Duration
	rotates bool
	mu      sync.Mutex
	quiet   bool

	// The row, as store keeps it.
	row      Connection
	digest   string
	parent   string
	flight   string
	replica  string
	claimed  time.Time
	first    time.Time // presented first
	next     time.Time
	storedAt int64
	beats    map[string]time.Time

	// The provider.
	generation int                      // of the newest token
	tokens     map[string]*simToken     // by value
	presenting map[string]*presentation // under way, by replica
	spooled    []spooled

	found []string // violations
}

type simToken struct {
	family     *simFamily
	generation int
	spent      time.Time
	doubtful   bool // its answer was lost
}

// simFamily is what descends from one login.
type simFamily struct{ revoked bool }

type presentation struct {
	token   string
	process *process
	epoch   int64 // of its lease: an older one is a flight that others may have taken over
	began   time.Time
}

// process is a replica and whether it lives.
type process struct {
	*world
	broker *Broker
	stop   context.CancelFunc
	dead   atomic.Bool
	hung   atomic.Int64 // until when, in unix nanoseconds
}

var (
	errSimDead   = errors.New("the process is dead")
	errSimBefore = errors.New("the database is away")
	errSimAfter  = errors.New("the acknowledgement was lost")
)

func (w *world) violation(format string, arguments ...any) {
	w.found = append(w.found, fmt.Sprintf(format, arguments...))
}

// step is a boundary between two steps: whatever may go wrong does so here.
func (p *process) step() error {
	p.mu.Lock()
	wait, dies, hangs, fails := time.Duration(0), false, time.Duration(0), false
	if !p.quiet {
		switch roll := p.chance.IntN(1000); {
		case roll < 100:
			wait = time.Duration(p.chance.IntN(400)) * time.Millisecond
		case roll < 112:
			dies = true
		case roll < 130:
			hangs = time.Duration(p.chance.IntN(9000)) * time.Millisecond
		case roll < 170:
			fails = true
		}
	}
	p.mu.Unlock()
	time.Sleep(wait)
	if dies {
		p.die()
	}
	if hangs > 0 {
		p.hung.Store(time.Now().Add(hangs).UnixNano())
	}
	if until := p.hung.Load(); time.Now().UnixNano() < until {
		time.Sleep(time.Duration(until - time.Now().UnixNano()))
	}
	if p.dead.Load() {
		return errSimDead
	}
	if fails {
		return errSimBefore
	}
	return nil
}

func (p *process) die() {
	if !p.dead.Swap(true) {
		p.stop()
	}
}

// after is the way back of an answer, on which it may be lost.
func (p *process) after() error {
	if err := p.step(); err != nil {
		return errors.Join(errSimAfter, err)
	}
	return nil
}

// living tells that a process has every right to be taken for alive.
func (*world) living(p *process) bool {
	_, holds := p.broker.lease.now(time.Now())
	return !p.dead.Load() && holds && time.Now().UnixNano() >= p.hung.Load()
}

// login replaces the grant by a new one, as a person does who logs in again; the old one may end.
func (w *world) login() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.tokens[w.digest]; old != nil && w.chance.IntN(2) == 0 {
		old.family.revoked = true
	}
	w.generation++
	value, now := fmt.Sprint("refresh-", w.generation), time.Now()
	w.tokens[value] = &simToken{family: &simFamily{}}
	w.digest, w.parent, w.flight, w.replica, w.first, w.next = value, "", "", "", time.Time{}, time.Time{}
	w.row.RefreshToken, w.row.AccessToken, w.row.Phase, w.row.Reason = secret.Text(value), "access", Ready, ""
	w.row.AccessIssuedAt, w.row.AccessExpiresAt = now, now.Add(simLife)
	w.row.Version++
	w.storedAt = w.row.Version
}

// Connection implements Store.
func (p *process) Connection(context.Context, string, string) (Connection, error) {
	if err := p.step(); err != nil {
		return Connection{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.row, nil
}

// Connections implements Store.
func (p *process) Connections(context.Context, string) ([]Connection, error) { return nil, nil }

// Disconnect implements Store.
func (p *process) Disconnect(context.Context, string, string) error { return nil }

// Claim implements Flights.
func (p *process) Claim(_ context.Context, claim Claim) (Flight, error) {
	if err := p.step(); err != nil {
		return Flight{}, err
	}
	flight, err := p.claimRow(claim)
	if err == nil {
		if lost := p.after(); lost != nil {
			return Flight{}, lost
		}
	}
	return flight, err
}

func (p *process) claimRow(claim Claim) (Flight, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	planted := p.plant == "claim" && p.flight != ""
	switch {
	case p.row.Phase == Broken:
		return Flight{}, ErrSuperseded
	case planted:
	case p.flight != claim.Over:
		return Flight{}, ErrClaimed
	case p.row.Version != claim.Version:
		return Flight{}, ErrSuperseded
	case claim.Over == "" && time.Now().Before(p.next):
		return Flight{}, &NotYet{In: time.Until(p.next)}
	}
	doubtful := p.row.Phase == Suspect || p.flight != "" || p.row.Reason == string(Suspect)
	if p.first.IsZero() {
		p.first = time.Now()
	}
	p.flight, p.replica, p.claimed = claim.ID, claim.Replica, time.Now()
	p.row.Version++
	p.row.Phase, p.row.Reason = Refreshing, ""
	if doubtful {
		p.row.Reason = string(Suspect)
	}
	return Flight{ID: claim.ID, Connection: p.row, Digest: []byte(p.digest), Doubtful: doubtful, First: !doubtful && p.first.Equal(p.claimed), Presented: time.Since(p.first)}, nil
}

// Commit implements Flights.
func (p *process) Commit(_ context.Context, flight Flight, tokens provider.Tokens) error {
	if err := p.step(); err != nil {
		return err
	}
	if err := p.commitRow(flight, tokens); err != nil {
		return err
	}
	return p.after()
}

func (w *world) commitRow(flight Flight, tokens provider.Tokens) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	rotated := tokens.RefreshToken != "" && tokens.RefreshToken != flight.RefreshToken
	switch {
	case w.plant == "commit":
	case w.digest == string(flight.Digest):
	case rotated && w.digest == string(tokens.RefreshToken):
		return nil
	case rotated && w.parent == string(flight.Digest) && flight.Version > w.storedAt && w.flight == "" && w.first.IsZero():
	default:
		return ErrSuperseded
	}
	next := string(tokens.RefreshToken)
	if !rotated {
		next = w.digest
	}
	if w.plant == "empty" {
		next = string(tokens.RefreshToken)
	}
	if next == "" || w.tokens[next] == nil {
		w.violation("an empty token was stored")
	} else if now, then := w.tokens[next], w.tokens[w.digest]; then != nil && now.family != then.family {
		w.violation("a login's token was overwritten")
	} else if then != nil && now.generation < then.generation && w.parent != string(flight.Digest) {
		w.violation("a token of generation %d was stored over one of %d", now.generation, then.generation)
	}
	if rotated {
		w.parent = string(flight.Digest)
		w.row.Rotates = RotationYes
	}
	w.digest, w.row.RefreshToken = next, secret.Text(next)
	w.row.AccessToken, w.row.AccessIssuedAt, w.row.AccessExpiresAt = tokens.AccessToken, tokens.IssuedAt, tokens.AccessExpiresAt
	if rotated || w.flight == flight.ID || w.flight == "" {
		w.flight, w.replica, w.first = "", "", time.Time{}
		w.row.Phase, w.row.Reason = Ready, ""
	}
	w.next, w.storedAt = time.Time{}, flight.Version
	w.row.Version++
	return nil
}

// Settle implements Flights.
func (p *process) Settle(_ context.Context, flight Flight, verdict Verdict) error {
	if err := p.step(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.plant != "broken" && (p.digest != string(flight.Digest) || verdict.Phase != Broken && p.flight != flight.ID) {
		p.mu.Unlock()
		return ErrSuperseded
	}
	p.flight, p.replica = "", ""
	p.row.Phase, p.row.Reason, p.next = verdict.Phase, verdict.Reason, time.Now().Add(verdict.After)
	if verdict.Unsent && flight.First {
		p.first = time.Time{}
	}
	p.row.Version++
	p.mu.Unlock()
	return p.after()
}

// Beat implements Flights.
func (p *process) Beat(_ context.Context, replica string) (int, error) {
	if err := p.step(); err != nil {
		return 0, err
	}
	p.mu.Lock()
	if p.plant != "beat" {
		p.beats[replica] = time.Now()
	}
	p.mu.Unlock()
	return 1, p.after()
}

// Orphans implements Flights.
func (p *process) Orphans(context.Context, string, []string) ([]Orphan, error) {
	if err := p.step(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	inFlight := p.flight != "" && now.Sub(p.claimed) >= time.Second
	if !inFlight && (p.row.Phase != Suspect || p.flight != "" || now.Sub(p.next) < time.Second) {
		return nil, nil
	}
	one := Orphan{
		Connection: p.row, Digest: []byte(p.digest), Flight: p.flight, Replica: p.replica, ProviderRotates: p.rotates,
		Silent: now.Sub(p.beats[p.replica]), Claimed: now.Sub(p.claimed), Presented: now.Sub(p.first), First: p.first.Equal(p.claimed) && p.row.Reason != string(Suspect),
	}
	if p.plant == "orphan" {
		one.Silent = time.Hour
	}
	return []Orphan{one}, nil
}

// TakeRevocation implements Outbox.
func (p *process) TakeRevocation(context.Context) (Revocation, error) { return Revocation{}, nil }

// Revoked implements Outbox.
func (p *process) Revoked(context.Context, string) error { return nil }

// Refresh implements Refresher: the provider, strict, with or without a grace.
func (p *process) Refresh(ctx context.Context, refreshToken secret.Text, gate provider.Gate) (provider.Tokens, error) {
	if err := p.step(); err != nil || !gate() {
		return provider.Tokens{}, &provider.Error{Outcome: provider.Unsent}
	}
	tokens, outcome := p.present(string(refreshToken))
	p.mu.Lock()
	slow := time.Duration(0)
	if !p.quiet && p.chance.IntN(10) == 0 {
		slow = time.Duration(p.chance.IntN(2800)) * time.Millisecond
	}
	p.mu.Unlock()
	time.Sleep(slow)
	lost := p.after()
	p.mu.Lock()
	delete(p.presenting, p.broker.replica)
	if token := p.tokens[string(refreshToken)]; lost != nil && token != nil {
		token.doubtful = true
	}
	p.mu.Unlock()
	switch {
	case lost != nil || ctx.Err() != nil:
		return provider.Tokens{}, &provider.Error{Outcome: provider.Unknown}
	case outcome != "":
		return provider.Tokens{}, &provider.Error{Outcome: outcome}
	}
	return tokens, nil
}

func (p *process) present(value string) (provider.Tokens, provider.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, other := range p.presenting {
		if epoch, _ := other.process.broker.lease.now(now); other.token == value && epoch == other.epoch && p.living(other.process) && now.Sub(other.began) < p.broker.upstreams["main"].config.RefreshTimeout {
			p.violation("a token was presented while a flight that holds it was living")
		}
	}
	epoch, _ := p.broker.lease.now(now)
	p.presenting[p.broker.replica] = &presentation{token: value, process: p, epoch: epoch, began: now}
	token := p.tokens[value]
	switch {
	case token == nil || token.family.revoked:
		return provider.Tokens{}, provider.Refused
	case !p.rotates:
	case token.spent.IsZero():
		token.spent = now
	case now.Sub(token.spent) > p.grace:
		if !token.doubtful && p.living(p) && now.Sub(token.spent) < simWait && p.flight == "" && p.digest == value {
			p.violation("a spent token was presented %s after, outside the rule", now.Sub(token.spent))
		}
		token.family.revoked = true
		return provider.Tokens{}, provider.Refused
	}
	answer := provider.Tokens{AccessToken: secret.Text(fmt.Sprint("access-", now.UnixNano())), IssuedAt: now, AccessExpiresAt: now.Add(simLife)}
	if p.rotates {
		p.generation++
		successor := fmt.Sprint("refresh-", p.generation)
		p.tokens[successor] = &simToken{family: token.family, generation: token.generation + 1}
		answer.RefreshToken = secret.Text(successor)
	}
	return answer, ""
}

// Revoke implements Refresher.
func (p *process) Revoke(context.Context, secret.Text) error { return nil }

// memory is a spool that outlives its process.
type memory struct{ *process }

func (m memory) add(_ *keyring.Keyring, record spooled) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead.Load() {
		return errSimDead
	}
	m.spooled = append(m.spooled, record)
	return nil
}
func (memory) done()  {}
func (memory) close() {}
func (m memory) replay(_ context.Context, _ *keyring.Keyring, commit func(Flight, spooled) error) []string {
	m.mu.Lock()
	records := m.spooled
	m.spooled = nil
	m.mu.Unlock()
	for _, one := range records {
		if err := commit(one.flight(), one); err != nil && !errors.Is(err, ErrSuperseded) {
			m.mu.Lock()
			m.spooled = append(m.spooled, one)
			m.mu.Unlock()
		}
	}
	return nil
}

// begin starts a replica.
func (w *world) begin() *process {
	p := &process{world: w}
	config := provider.Config{RefreshTimeout: 3 * time.Second, ReuseGrace: w.grace, RefreshRate: 1000, Rotates: nil}
	p.broker = New(Parts{Config: Config{DefaultProvider: "main", Wait: 5 * time.Second, SpoolWait: simWait}, Store: p, Flights: p, Outbox: p, Observer: quiet{}, Now: time.Now})
	p.broker.spool = memory{p}
	p.broker.upstreams["main"] = newUpstream("main", p, config)
	p.broker.upstreams["main"].served = func(time.Duration) {}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.broker.Run(ctx)
	return p
}

// run plays one schedule and returns what was found.
func run(t *testing.T, number uint64, plant string) (found []string) {
	synctest.Test(t, func(*testing.T) {
		chance := rand.New(rand.NewPCG(number, 7))
		w := &world{
			chance: rand.New(rand.NewPCG(number, 8)), plant: plant, rotates: chance.IntN(5) > 0, beats: map[string]time.Time{}, presenting: map[string]*presentation{},
			tokens: map[string]*simToken{"refresh-0": {family: &simFamily{}}}, digest: "refresh-0",
		}
		if w.rotates && chance.IntN(2) == 0 {
			w.grace = 10 * time.Second
		}
		now := time.Now()
		w.row = Connection{
			UserID: "u", Provider: "main", Phase: Ready, Version: 1, RefreshToken: "refresh-0", AccessToken: "access", Rotates: RotationUnknown,
			AccessIssuedAt: now, AccessExpiresAt: now.Add(time.Second),
		}
		processes := []*process{w.begin(), w.begin(), w.begin()}
		for time.Since(now) < simEnd {
			at := chance.IntN(len(processes))
			if processes[at].dead.Load() {
				processes[at] = w.begin()
			}
			if chance.IntN(40) == 0 {
				w.login()
			}
			one := processes[at]
			go func() { _, _ = one.broker.Token(context.Background(), "u", "main", 600*time.Second) }()
			time.Sleep(time.Duration(chance.IntN(400)) * time.Millisecond)
		}
		w.mu.Lock()
		w.quiet = true
		w.mu.Unlock()
		time.Sleep(simQuiet)
		one := w.begin()
		time.Sleep(5 * time.Second)
		_, err := one.broker.Token(context.Background(), "u", "main", time.Second)
		w.mu.Lock()
		token := w.tokens[w.digest]
		if token == nil || !token.family.revoked && (token.spent.IsZero() || !w.rotates) && err != nil {
			w.violation("the provider honours the grant, and it is not served: %v (%s)", err, w.row.Phase)
		}
		w.mu.Unlock()
		for _, each := range append(processes, one) {
			each.die()
		}
		time.Sleep(time.Minute)
		found = w.found
	})
	return found
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
			for number := next.Add(1) - 1; number < last && bad.Load() < 5; number = next.Add(1) - 1 {
				if found := run(t, number, ""); len(found) > 0 {
					bad.Add(1)
					t.Errorf("schedule %d: %v", number, found)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d schedules in %s", *schedules, time.Since(began).Round(time.Millisecond))
}

// Each of the bugs that are planted is found, mostly in one of the first hundred schedules.
func TestSimulationFindsWhatIsPlanted(t *testing.T) {
	for plant, what := range plants {
		t.Run(plant, func(t *testing.T) {
			for number := range uint64(10_000) {
				if found := run(t, number+1, plant); len(found) > 0 {
					t.Logf("%s: schedule %d: %s", what, number+1, found[0])
					return
				}
			}
			t.Errorf("%s, and 10,000 schedules find nothing", what)
		})
	}
}
