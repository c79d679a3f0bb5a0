package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrMoved: a chain is not where its process left it, as after a failover that lost its last entries.
var ErrMoved = errors.New("the chain of the audit is not where it was left")

// Store keeps chains.
type Store interface {
	// BeginChain stores a chain without entries and gives it its number.
	BeginChain(ctx context.Context, chain Chain) (Chain, error)
	// Append stores entries and where the chain ends with them, in one transaction. What is stored already is no error;
	// ErrMoved where the chain is elsewhere.
	Append(ctx context.Context, chain string, entries []Entry, from, to Head) error
}

const (
	// maxWaiting bounds the entries in memory while the database is away. The log has them all.
	maxWaiting = 100_000
	// maxAppend is how many entries one transaction stores.
	maxAppend = 2000
	// maxRepeats bounds the kinds of event that are counted in a minute, and so the entries of them.
	maxRepeats = 10_000
	// flushEvery is how long an entry waits for others.
	flushEvery = 500 * time.Millisecond
	// countEvery is for how long events that are alike are counted to one entry.
	countEvery = time.Minute
)

// An event's way: Add puts it in the queue, under a lock that is held for no longer than that; Flush, twice a second,
// takes what waits, chains it, and has it stored in one transaction with the new end of the chain. What may have been
// stored, or not, since the database's answer was lost, is tried again as it is: the store knows it by its digest.

// Trail is the audit of one process, on its way to the database. It is safe for concurrent use.
type Trail struct {
	store   Store
	process string
	now     func() time.Time

	mu       sync.Mutex
	waiting  []Entry
	lost     int64
	repeats  map[repeated]*count
	counting time.Time // when the counting of what is alike began

	flushing sync.Mutex // one flush at a time
	chain    *Chain
	tried    []Entry // what may be stored or not: it is tried again as it is, so that it is not stored twice
}

// repeated is what events have in common that are counted to one entry.
type repeated struct {
	event Event
	peer  string
}

type count struct {
	times int64 // beside the one that has an entry
	last  Entry
}

// NewTrail begins a chain for a process with its first entry.
func NewTrail(store Store, process string, now func() time.Time) *Trail {
	return &Trail{store: store, process: process, now: now, repeats: map[repeated]*count{}, counting: now()}
}

// Add takes an event, and keeps no caller waiting. Of events that repeat within a minute (a token that is handed out again,
// a refusal) the first has an entry at once, and the others one together: what anonymous callers do costs no row each.
func (t *Trail) Add(event Event, request, peer string) {
	if t == nil { // the log alone has it
		return
	}
	entry := Entry{Event: event, At: t.now(), Times: 1, Request: request, Peer: peer}
	t.mu.Lock()
	defer t.mu.Unlock()
	if event.repeats() && t.counted(&entry) {
		return
	}
	t.wait(entry)
}

// counted counts an event that is like another one of the minute. What is refused to someone who proved nothing is alike
// whatever they wrote, and from whichever address of their network: only the first is kept as it was. Where there are
// too many that are not alike, the others are. t.mu is held.
func (t *Trail) counted(entry *Entry) bool {
	key := repeated{entry.Event, entry.Peer}
	if entry.Reason != "" && entry.Proof == "" {
		key = repeated{Event{Action: entry.Action}, networkOf(entry.Peer)}
	}
	if _, known := t.repeats[key]; !known && len(t.repeats) >= maxRepeats {
		key = repeated{event: Event{Action: entry.Action, Reason: "further ones, which differ"}}
	}
	seen, known := t.repeats[key]
	if !known {
		t.repeats[key] = &count{last: *entry}
		return false
	}
	seen.times++
	seen.last = *entry
	return true
}

// networkOf is the network of an address: an IPv4 address itself, or an IPv6 one's /64.
func networkOf(text string) string {
	address, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil || address.Unmap().Is4() {
		return text
	}
	network, err := address.Prefix(64)
	if err != nil {
		return text
	}
	return network.String()
}

// wait puts an entry in the queue; t.mu is held. Half of it is for what was done.
func (t *Trail) wait(entry Entry) {
	if size := len(t.waiting); size >= maxWaiting || size >= maxWaiting/2 && entry.Reason != "" {
		t.lost += entry.Times
		return
	}
	t.waiting = append(t.waiting, entry)
}

// looks are the actions that change nothing, and so may come again and again.
var looks = []Action{Handout, UseToken, Introspect, ListTokens, ListSessions, ListEvents}

// repeats tells an event that may come again and again: a look, and what was refused.
func (e *Event) repeats() bool { return e.Reason != "" || slices.Contains(looks, e.Action) }

// Run stores what waits, until the context ends, and then once more. Trouble is told of when it begins.
func (t *Trail) Run(ctx context.Context, trouble func(err error)) {
	defer func() {
		t.mu.Lock()
		t.count()
		t.mu.Unlock()
		if err := t.Flush(context.WithoutCancel(ctx)); err != nil {
			trouble(err)
		}
	}()
	failed := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(flushEvery):
		}
		err := t.Flush(context.WithoutCancel(ctx))
		if err != nil && !failed && ctx.Err() == nil {
			trouble(err)
		}
		failed = err != nil
	}
}

// Flush stores what waits. What cannot be stored waits on.
func (t *Trail) Flush(ctx context.Context) error {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	for {
		if len(t.tried) == 0 {
			t.tried = t.take()
		}
		if len(t.tried) == 0 {
			return nil
		}
		if err := t.append(ctx, t.tried); err != nil {
			return err
		}
		t.tried = nil
	}
}

// take takes a batch from the queue, with what was counted in the minute that is over.
func (t *Trail) take() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now().Sub(t.counting) >= countEvery {
		t.count()
	}
	if t.lost > 0 && len(t.waiting) < maxWaiting {
		t.waiting = append(t.waiting, Entry{Event: Event{Action: Lost, Reason: "more than could wait while the database was away; the log has them"}, At: t.now(), Times: t.lost})
		t.lost = 0
	}
	size := min(len(t.waiting), maxAppend)
	batch := append([]Entry(nil), t.waiting[:size]...)
	t.waiting = append(t.waiting[:0], t.waiting[size:]...)
	return batch
}

// count makes an entry of each kind of event that was counted, and begins anew; t.mu is held.
func (t *Trail) count() {
	for _, seen := range t.repeats {
		if seen.times > 0 {
			seen.last.Times = seen.times
			t.wait(seen.last)
		}
	}
	clear(t.repeats)
	t.counting = t.now()
}

// append chains entries and stores them; in a chain of their own where the one before is not where it was left.
func (t *Trail) append(ctx context.Context, entries []Entry) error {
	for {
		began := t.chain == nil
		if began {
			chain, err := t.store.BeginChain(ctx, Chain{ID: rand.Text(), Process: clean(t.process), BeganAt: t.now().Truncate(time.Millisecond)})
			if err != nil {
				return err
			}
			chain.Head.Digest = chain.beginning()
			t.chain = &chain
		}
		from := t.chain.Head
		to := chained(entries, t.chain.ID, from)
		switch err := t.store.Append(ctx, t.chain.ID, entries, from, to); {
		case errors.Is(err, ErrMoved) && !began:
			t.Add(Event{Action: Moved, Reason: ErrMoved.Error(), Token: t.chain.ID, Actor: fmt.Sprintf("chain %d, entry %d", t.chain.Number, t.chain.Head.Seq)}, "", "")
			t.chain = nil
		case err != nil:
			return err
		default:
			t.chain.Head = to
			return nil
		}
	}
}

// chained makes entries those that follow a head, and says where they end.
func chained(entries []Entry, chain string, head Head) Head {
	for i := range entries {
		entry := &entries[i]
		for _, text := range entry.texts() {
			*text = clean(*text)
		}
		entry.Chain, entry.Seq, entry.At = chain, head.Seq+1, entry.At.Truncate(time.Millisecond)
		entry.Digest = entry.after(head.Digest)
		head = Head{entry.Seq, entry.Digest}
	}
	return head
}

// clean is a text as every database takes it.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
