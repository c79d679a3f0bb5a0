package broker

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// When grants end. Most providers state it. Some state nothing and end every grant at the same age, which is learnt
// from the grants that they ended. What is learnt is for warnings alone: it ends nothing and refuses nothing.

// Ended is a grant that its provider ended without having stated an end.
type Ended struct {
	Provider, UserID     string
	ConnectedAt, EndedAt time.Time
}

func (e Ended) age() time.Duration { return e.EndedAt.Sub(e.ConnectedAt) }

// alike is by how much two ages may differ that are still the same habit.
func alike(age time.Duration) time.Duration { return max(age/20, time.Hour) }

// ObserveEnd tells whether a change of a row shows how old its provider lets a grant become: the provider has just
// refused the refresh token without any doubt on our side, it had stated no end, and it had served the grant until
// shortly before. A grant that was idle for long may have ended at any time, and for being idle.
func ObserveEnd(was, next Row, at time.Time) (Ended, bool) {
	ended := Ended{Provider: next.Provider, UserID: next.UserID, ConnectedAt: next.ConnectedAt, EndedAt: at}
	byProvider := was.Phase != Broken && next.Phase == Broken && next.Reason == revoked
	if !byProvider || !next.ends().IsZero() || next.AccessIssuedAt.IsZero() || ended.age() <= 0 {
		return Ended{}, false
	}
	idle, life := at.Sub(next.AccessIssuedAt), next.AccessExpiresAt.Sub(next.AccessIssuedAt)
	return ended, idle <= max(life, alike(ended.age()))
}

// What makes a habit: of the latest grants that a provider ended, more than half ended at the same age, of at least
// three users, and not all of them on one day, as they do in an incident.
const (
	// HabitsOfLatest is how many of the latest grants that a provider ended are looked at.
	HabitsOfLatest = 20
	habitUsers     = 3
	habitDays      = 24 * time.Hour
)

// Habits are the ages at which providers end grants whose end they do not state, by provider.
type Habits map[string]time.Duration

// HabitsOf learns the providers' habits from grants that they ended.
func HabitsOf(ended []Ended) Habits {
	byProvider := map[string][]Ended{}
	for _, one := range ended {
		byProvider[one.Provider] = append(byProvider[one.Provider], one)
	}
	habits := Habits{}
	for id, all := range byProvider {
		if age, ok := habitOf(all); ok {
			habits[id] = age
		}
	}
	return habits
}

// habitOf finds the age at which one provider ends grants: the smallest of the largest group of ages that agree.
func habitOf(ended []Ended) (age time.Duration, found bool) {
	slices.SortFunc(ended, func(a, b Ended) int { return b.EndedAt.Compare(a.EndedAt) })
	ended = ended[:min(len(ended), HabitsOfLatest)]
	slices.SortFunc(ended, func(a, b Ended) int { return int(max(min(a.age()-b.age(), 1), -1)) })
	var group []Ended
	for first := range ended {
		last := first
		for last < len(ended) && ended[last].age() <= ended[first].age()+alike(ended[first].age()) {
			last++
		}
		if last-first > len(group) {
			group = ended[first:last]
		}
	}
	if 2*len(group) <= len(ended) || !habitual(group) {
		return 0, false
	}
	return group[0].age(), true
}

// habitual tells whether grants that ended at one age are of several users, and ended at different times.
func habitual(group []Ended) bool {
	users := map[string]struct{}{}
	first, last := group[0].EndedAt, group[0].EndedAt
	for _, one := range group {
		users[one.UserID] = struct{}{}
		if one.EndedAt.Before(first) {
			first = one.EndedAt
		}
		if one.EndedAt.After(last) {
			last = one.EndedAt
		}
	}
	return len(users) >= habitUsers && last.Sub(first) >= habitDays
}

// Ending is when a connection's grant ends, which its provider stated, or is expected from the provider's habit. It is
// zero where nothing is known, and for a connection that has outlived the habit or is no longer good.
func (h Habits) Ending(connection Connection, now time.Time) (at time.Time, expected bool) {
	return h.Ends(connection.Provider, connection.Phase, connection.ends(), connection.ConnectedAt, now)
}

// Ends is Ending, of a connection of which this much is at hand.
func (h Habits) Ends(providerID string, phase Phase, stated, connectedAt, now time.Time) (at time.Time, expected bool) {
	if phase == Broken || phase == Disconnected {
		return time.Time{}, false
	}
	return h.ending(providerID, stated, connectedAt, now)
}

func (h Habits) ending(providerID string, stated, connectedAt, now time.Time) (at time.Time, expected bool) {
	if !stated.IsZero() {
		return stated, false
	}
	age, known := h[providerID]
	if at = connectedAt.Add(age); !known || !now.Before(at) {
		return time.Time{}, false
	}
	return at, true
}

// EndedStore keeps the latest grants that providers ended without having stated an end.
type EndedStore interface {
	Ended(ctx context.Context) ([]Ended, error)
}

// endings are the providers' habits, in memory.
type endings struct {
	store  EndedStore
	habits atomic.Pointer[Habits]
	now    func() time.Time
}

func newEndings(store EndedStore, now func() time.Time) *endings {
	e := &endings{store: store, now: now}
	e.habits.Store(&Habits{})
	return e
}

// Learn reads what is known of the providers' habits. It is for the start, and for every few minutes.
func (e *endings) Learn(ctx context.Context) error {
	ended, err := e.store.Ended(ctx)
	if err != nil {
		return err
	}
	habits := HabitsOf(ended)
	e.habits.Store(&habits)
	return nil
}

// Ending is Habits.Ending by what was learnt, now. It asks neither the database nor the network.
func (e *endings) Ending(connection Connection) (at time.Time, expected bool) {
	return e.habits.Load().Ending(connection, e.now())
}

// endOf is Ending of what memory holds of a connection.
func (e *endings) endOf(key cacheKey, known *held, now time.Time) (at time.Time, expected bool) {
	if known.grantEnds != 0 {
		return time.Unix(0, known.grantEnds), false
	}
	return e.habits.Load().ending(key.provider, time.Time{}, time.Unix(0, known.connected), now)
}
