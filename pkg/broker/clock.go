package broker

import (
	"slices"
	"sync"
	"time"
)

// databaseClock watches the database's clock, which every replica's times are kept by. A step back of it
// would make every token that was stored before look as if it lived longer, by as much as the step.
type databaseClock struct {
	mu    sync.Mutex
	last  Reading
	steps []Step
}

// Step is a step back of the database's clock.
type Step struct {
	// Until is the latest time that the database may have written before the step.
	Until time.Time
	By    time.Duration
}

const (
	// clockSlack is how much two readings may differ before the clock counts as set back.
	clockSlack = 50 * time.Millisecond
	// slowReading is how long a statement may take that the clock is judged by.
	slowReading = 300 * time.Millisecond
	// stepNoticed is how long after one replica has noticed a step another may still write by the old clock.
	stepNoticed = 2 * beatEvery
	// stepKept is how long a step is remembered: longer than access tokens live.
	stepKept = 24 * time.Hour
)

// note takes account of a reading of the clock, and tells whether it was set back since the last one. The server read its
// clock at some time between sending and receiving, so that however slow a reading is, and whatever was sent at the same
// time, at least the time passed from the last one's end to this one's beginning.
func (c *databaseClock) note(reading Reading) (stepped bool) {
	if reading.Database.IsZero() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slow := reading.Received.Sub(reading.Sent) > slowReading
	if last := c.last; !last.Received.IsZero() {
		least, most, went := reading.Sent.Sub(last.Received), reading.Received.Sub(last.Sent), reading.Database.Sub(last.Database)
		stepped = went < least-clockSlack
		if stepped {
			c.steps = append(c.steps, Step{Until: last.Database.Add(most + stepNoticed), By: most - went})
		} else if least < 0 {
			return false // the last one says more about the next
		}
	}
	if slow && !stepped {
		return false // it bounds the next one too little
	}
	c.last = reading
	c.steps = slices.DeleteFunc(c.steps, func(one Step) bool { return reading.Database.Sub(one.Until) > stepKept })
	return stepped
}

// adopt takes over what other replicas saw, and tells whether there was anything new: this process may have
// begun since, or hung meanwhile.
func (c *databaseClock) adopt(seen []Step) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, step := range seen {
		if step.By <= 0 || c.last.Database.Sub(step.Until) > stepKept {
			continue
		}
		known := slices.IndexFunc(c.steps, step.same)
		if known < 0 {
			c.steps, news = append(c.steps, step), true
			continue
		}
		one := &c.steps[known]
		news = news || step.By > one.By || step.Until.After(one.Until)
		one.By = max(one.By, step.By)
		if step.Until.After(one.Until) {
			one.Until = step.Until
		}
	}
	return news
}

// begin takes account of the first heartbeat of this process: one of another replica that lies ahead of the
// clock was written before a step. The step may have come a heartbeat later.
func (c *databaseClock) begin(pulse Pulse) {
	last := int64(0)
	for _, beat := range pulse.Beats {
		last = max(last, beat)
	}
	until := time.UnixMilli(last).Add(beatEvery)
	if by := until.Sub(pulse.Reading.Database); by > beatEvery+clockSlack {
		c.adopt([]Step{{Until: until, By: by}})
	}
}

// newest is the later of a reading and the last one of all.
func (c *databaseClock) newest(reading Reading) Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Sent.After(reading.Sent) {
		reading.Database, reading.Sent, reading.Received = c.last.Database, c.last.Sent, c.last.Received
	}
	return reading
}

// same tells that two replicas saw one step, each by its own readings.
func (s Step) same(other Step) bool {
	return s.Until.Sub(other.Until).Abs() < 2*beatEvery+slowReading && (s.By-other.By).Abs() <= 2*slowReading
}

// latest is the last step that was seen, for those who begin later.
func (c *databaseClock) latest() Step {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.steps) == 0 {
		return Step{}
	}
	return c.steps[len(c.steps)-1]
}

// behind is how much earlier than the clock says a time has to be taken that was written then. A time that
// was written since the step, and before the clock had come as far again, counts as older than it is.
func (c *databaseClock) behind(written time.Time) (behind time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := false
	for _, one := range c.steps { // what was written before one was written before the later ones
		if before = before || !written.After(one.Until); before {
			behind += one.By
		}
	}
	return behind
}
