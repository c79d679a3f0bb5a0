package broker

import (
	"context"
	"time"
)

// A page shows a connection without using it: nothing is refreshed for it, no provider is asked, and no token is read into
// memory that is not there. What it says may be as old as the row.

// Standing is how a user is connected to one provider, for a page that shows it.
type Standing struct {
	Listed
	// Flaw is why the connection is not good: ErrNotConnected, ErrGrantExpired or ErrGrantBroken; nil for one that is.
	Flaw    error
	Account string    // what the user is called there
	Since   time.Time // of the last login there
	// Ends is when the grant runs out; zero where that is not known. Expected: the provider did not state it, and is known
	// to end its grants at that age.
	Ends     time.Time
	Expected bool
	Working  time.Time // until when what was handed out works; zero where that is not known
	// FailingSince is since when refreshes of a good connection fail; zero where they do not.
	FailingSince time.Time
}

// Standings are a user's standings at every provider, in their order. It is one statement.
func (b *Broker) Standings(ctx context.Context, userID string) ([]Standing, error) {
	rows, err := b.store.Rows(ctx, userID)
	if err != nil {
		return nil, outage(err)
	}
	byProvider := map[string]*Row{}
	for i := range rows {
		byProvider[rows[i].Provider] = &rows[i]
	}
	var all []Standing
	for _, listed := range b.Providers() {
		one := Standing{Listed: listed, Flaw: ErrNotConnected}
		if row := byProvider[listed.ID]; row != nil {
			local := row.local()
			one.Flaw, one.Account, one.Since, one.Ends, one.Working = row.flaw(b.now()), row.Account, local.ConnectedAt, local.ends(), local.AccessExpiresAt
			if one.Flaw == nil {
				one.Ends, one.Expected = b.Ending(local)
			}
			if one.Flaw == nil {
				one.FailingSince = row.Reading.Local(row.FailingSince)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// How a provider is, is known from refreshes, which happen all day: there is no need to ask it. Each replica knows of its
// own alone; a page that shows it says so.

// Condition is how a provider has been since this process began, as it saw it.
type Condition struct {
	Listed
	// Posts are the refreshes that were sent, and Failures those that brought neither tokens nor a verdict.
	Posts, Failures int64
	Success         time.Time // of the last refresh; zero for none
	// Rejects: it rejects this service's client credentials. Failing is since when nobody was served; zero where
	// some user is.
	Rejects bool
	Failing time.Time
}

// ConditionsOf are those of every provider of a broker, in their order. Nothing is asked for them.
func ConditionsOf(b *Broker) []Condition {
	var all []Condition
	for _, listed := range b.Providers() {
		all = append(all, b.engine.upstreams[listed.ID].condition(listed, b.now()))
	}
	return all
}

// condition says how the provider is.
func (u *upstream) condition(listed Listed, now time.Time) Condition {
	u.mu.Lock()
	defer u.mu.Unlock()
	found := Condition{Listed: listed, Posts: u.posts, Failures: u.failures, Success: u.answered}
	if len(u.failing) > 0 && now.Sub(u.failed) <= quietTime {
		found.Failing, found.Rejects = u.since, len(u.clientless) > 0
	}
	return found
}

// GroupsAtHand are the groups that are known of a user without asking for them: none where they have not been asked for
// lately, which begins then, so that the next caller has them.
func (c *claims) GroupsAtHand(userID string) []string {
	known, ok := c.entries.GetIfPresent(userID)
	if !ok || c.broker.now().Sub(known.At) >= c.broker.config.ClaimsMaxAge {
		c.broker.engine.background(func(ctx context.Context) { _, _ = c.About(ctx, userID) })
	}
	if !ok {
		return nil
	}
	return known.Groups
}
