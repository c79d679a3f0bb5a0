package broker

import "time"

// Orphan is a flight that may have lost its replica, or a row of which an earlier presentation's outcome
// is not known and that nobody has claimed since, with what a sweeper knows about it.
type Orphan struct {
	Row
	// Since the claim was made and since this token was first presented, by the database's clock or the
	// sweeper's own observation, whichever is longer.
	Claimed, Presented time.Duration
	// ProviderRotates: some connection of the provider got a new refresh token at a refresh.
	ProviderRotates bool
}

// Owner is what a sweeper knows about the replica that holds a flight, by its own clock alone.
type Owner struct {
	Self   bool          // it is the sweeper's own replica
	Holds  bool          // and it has the flight in memory
	Silent time.Duration // since its heartbeat last changed
	// Dead: its spool lock was found free, and what its spool held was offered to the database.
	Dead bool
}

// Policy is what the configuration says of the provider, and of the process.
type Policy struct {
	Grace, Timeout, SpoolWait time.Duration
	NeverRotates              bool
	Alone                     bool // no other process uses the database
}

// Judgement is what a sweeper does with an orphan.
type Judgement int

// The judgements.
const (
	// Wait: its owner may still hold it, or come back with the successor.
	Wait Judgement = iota
	// Release ends a flight of this process that it does not hold: its token was never sent.
	Release
	// Present presents the token again.
	Present
)

// Judge says what a sweeper does with an orphan (refresh-engine.md step 9).
func Judge(orphan Orphan, owner Owner, policy Policy) Judgement {
	overdue := policy.Timeout + flightSlack
	switch {
	case orphan.RefreshToken == "" || orphan.Unreadable:
		return Wait
	case orphan.FlightID == "": // a doubt
		if wait := waits(orphan.Row, policy, orphan.Reading.Now()); wait > 0 {
			return Wait
		}
		return Present
	case owner.Self && !owner.Holds:
		return Release
	case owner.Self:
		return Wait
	case !owner.Dead && owner.Silent < leaseLife && orphan.Claimed <= overdue:
		return Wait
	case safe(orphan, policy):
		return Present
	case owner.Dead, policy.Alone:
		// No successor will come; but the provider may still be working on what was sent.
		if orphan.Presented >= policy.Timeout {
			return Present
		}
		return Wait
	case owner.Silent >= leaseLife && owner.Silent >= policy.SpoolWait,
		owner.Silent < leaseLife && orphan.Claimed > overdue+policy.SpoolWait:
		return Present // nothing is left to lose
	}
	return Wait
}

// waits is how long a row still rests that is in doubt and that no flight holds. A token that was taken over
// from a replica that may come back is presented within the grace; once that is over, the replica has its
// time to come back, as if nobody had tried.
func waits(row Row, policy Policy, now time.Time) time.Duration {
	due := row.NextAttemptAt
	if row.Phase == Suspect && row.Reason == takenOver && !policy.Alone && !policy.NeverRotates && now.Sub(row.PresentedAt)+graceSlack > policy.Grace {
		due = due.Add(policy.SpoolWait)
	}
	return due.Sub(now)
}

// safe tells that presenting the token again cannot end the grant, whatever became of the first time.
func safe(orphan Orphan, policy Policy) bool {
	switch {
	case policy.NeverRotates, orphan.Rotates == RotationNo && !orphan.ProviderRotates:
		return true
	default:
		return orphan.Presented+graceSlack < policy.Grace
	}
}
