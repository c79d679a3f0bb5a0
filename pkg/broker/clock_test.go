package broker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A step back of the database's clock is seen in two readings, and counts for what was written before it.
func TestTheDatabasesClockIsSetBack(t *testing.T) {
	began := time.Now()
	// at is a reading after so long of this process, by a clock that is ahead by that much.
	at := func(after, ahead time.Duration) Reading {
		now := began.Add(after)
		return Reading{Database: now.Add(ahead), Sent: now.Add(-time.Millisecond), Received: now}
	}
	written := func(after, ahead time.Duration) time.Time { return began.Add(after + ahead) }
	for name, row := range map[string]struct {
		readings []Reading
		written  time.Time
		behind   time.Duration
	}{
		"it runs on":                       {[]Reading{at(0, time.Hour), at(time.Second, time.Hour)}, written(0, time.Hour), 0},
		"set forward":                      {[]Reading{at(0, 0), at(time.Second, time.Minute)}, written(0, 0), 0},
		"written before":                   {[]Reading{at(0, 0), at(time.Second, -5*time.Second)}, written(0, 0), 5 * time.Second},
		"written when it was as far again": {[]Reading{at(0, 0), at(time.Second, -5*time.Second)}, written(10*time.Second, -5*time.Second), 0},
		"written since, and not as far":    {[]Reading{at(0, 0), at(time.Second, -5*time.Second)}, written(2*time.Second, -5*time.Second), 5 * time.Second},
		"written before two steps":         {[]Reading{at(0, 0), at(time.Second, -5*time.Second), at(2*time.Second, -9*time.Second)}, written(0, 0), 9 * time.Second},
		"written between two steps":        {[]Reading{at(0, 0), at(time.Second, -5*time.Second), at(20*time.Second, -9*time.Second)}, written(19*time.Second, -5*time.Second), 4 * time.Second},
		"a slow reading says nothing":      {[]Reading{at(0, 0), {Database: began, Sent: began, Received: began.Add(5 * time.Second)}, at(6*time.Second, 0)}, written(0, 0), 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := &databaseClock{}
			for _, reading := range row.readings {
				c.note(reading)
			}
			if got := c.behind(row.written); (got - row.behind).Abs() > 10*time.Millisecond {
				t.Errorf("behind by %s, want %s; seen: %v", got, row.behind, c.steps)
			}
		})
	}
}

// A process that begins after a step hears of it, once, from the others and from their heartbeats.
func TestAStepIsHeardOf(t *testing.T) {
	now := time.Now()
	reading := Reading{Database: now.Add(-5 * time.Second), Sent: now, Received: now}
	step := Step{Until: now, By: 5 * time.Second}
	c := &databaseClock{}
	c.note(reading)
	if !c.adopt([]Step{step}) || c.behind(now.Add(-time.Second)) != step.By {
		t.Errorf("behind by %s, want %s", c.behind(now.Add(-time.Second)), step.By)
	}
	again := Step{Until: now.Add(time.Second), By: step.By + time.Millisecond} // as another replica saw it
	if c.adopt([]Step{step}) || !c.adopt([]Step{again}) || c.behind(now) != again.By {
		t.Errorf("behind by %s, want %s: both saw the same step", c.behind(now), again.By)
	}
	alone := &databaseClock{}
	alone.begin(Pulse{Reading: reading, Beats: map[string]int64{"dead": now.Add(-time.Second).UnixMilli()}})
	if got := alone.behind(now.Add(-2 * time.Second)); got < 4*time.Second || got > 6*time.Second {
		t.Errorf("by a heartbeat that lies ahead: behind by %s, want about 5 s", got)
	}
	alone = &databaseClock{}
	alone.begin(Pulse{Reading: reading, Beats: map[string]int64{"alive": now.Add(-6 * time.Second).UnixMilli()}})
	if got := alone.behind(now); got != 0 {
		t.Errorf("by a heartbeat of a second ago: behind by %s, want 0", got)
	}
}

// The bounds of what a reading of the clock says.
func TestWhatAReadingSays(t *testing.T) {
	began := time.Now()
	reading := func(sent, received, database time.Duration) Reading {
		return Reading{Sent: began.Add(sent), Received: began.Add(received), Database: began.Add(database)}
	}
	for name, row := range map[string]struct {
		second  Reading
		stepped bool
		counts  bool // it is what the next one is compared with
	}{
		"no time":                       {second: Reading{Sent: began.Add(time.Second), Received: began.Add(time.Second)}},
		"as slow as may be":             {second: reading(time.Second, time.Second+slowReading, time.Second), counts: true},
		"slower":                        {second: reading(time.Second, time.Second+slowReading+1, time.Second)},
		"slower, and set back":          {second: reading(time.Second, time.Second+slowReading+1, -time.Hour), stepped: true, counts: true},
		"slower, since it was sent":     {second: reading(time.Second, 10*time.Second, time.Second)},
		"sent when the last one came":   {second: reading(0, time.Millisecond, -time.Minute), stepped: true, counts: true},
		"sent before the last one came": {second: reading(-1, time.Millisecond, -time.Minute), stepped: true, counts: true},
		"the same, and read before it":  {second: reading(-20*time.Millisecond, time.Millisecond, -20*time.Millisecond)},
		"late within the slack":         {second: reading(time.Second, time.Second, time.Second-clockSlack+time.Millisecond), counts: true},
		"late beyond the slack":         {second: reading(time.Second, time.Second, time.Second-clockSlack-time.Millisecond), stepped: true, counts: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &databaseClock{}
			first := reading(-time.Millisecond, 0, 0)
			c.note(first)
			if stepped := c.note(row.second); stepped != row.stepped {
				t.Errorf("stepped: %t", stepped)
			}
			if counts := c.last == row.second; counts != row.counts {
				t.Errorf("it counts: %t", counts)
			}
		})
	}
	c := &databaseClock{}
	c.note(reading(10*time.Second, 10*time.Second+time.Millisecond, 12*time.Second))
	if got := c.newest(reading(9*time.Second, 9*time.Second, 9*time.Second)); !got.Database.Equal(began.Add(12*time.Second)) || !got.Sent.Equal(began.Add(10*time.Second)) {
		t.Errorf("the newest of an older reading is %v", got)
	}
	if got := c.newest(reading(13*time.Second, 13*time.Second, 14*time.Second)); !got.Database.Equal(began.Add(14 * time.Second)) {
		t.Errorf("the newest of a newer reading is %v", got)
	}
}

// A row that was read since the clock was set back, and before that was noticed, is not believed any more once it is.
func TestWhatWasReadBeforeAStepIsNoticed(t *testing.T) {
	now := time.Now()
	reading := func(after, ahead time.Duration) Reading {
		at := now.Add(after)
		return Reading{Database: at.Add(ahead), Sent: at, Received: at.Add(time.Millisecond)}
	}
	e := &engine{cache: newCache()}
	key := cacheKey{"alice", "main"}
	kept := func() bool {
		_, found := e.cache.get(key)
		return found
	}
	e.noteClock(reading(0, 0))
	e.cache.remember(key, Row{}, e.cache.stamp())
	if stepped := e.noteClock(reading(time.Second, 0)); stepped || !kept() {
		t.Errorf("a clock that runs on: stepped %t, and the row is kept: %t", stepped, kept())
	}
	if stepped := e.noteClock(reading(2*time.Second, -5*time.Second)); !stepped || kept() {
		t.Errorf("a clock that was set back: stepped %t, and the row is kept: %t", stepped, kept())
	}
}

// What a replica takes over of steps that others saw.
func TestWhichStepsAreAdopted(t *testing.T) {
	now := time.Now()
	known := Step{Until: now, By: 5 * time.Second}
	for name, row := range map[string]struct {
		seen Step
		news bool
		want []Step
	}{
		"none":                       {seen: Step{Until: now}, want: []Step{known}},
		"one that is none, long ago": {seen: Step{Until: now.Add(-stepKept - time.Hour)}, want: []Step{known}},
		"one of long ago":            {seen: Step{Until: now.Add(-stepKept - 1), By: time.Hour}, want: []Step{known}},
		"the oldest that is kept":    {seen: Step{Until: now.Add(-stepKept), By: time.Hour}, news: true, want: []Step{known, {Until: now.Add(-stepKept), By: time.Hour}}},
		"the same":                   {seen: known, want: []Step{known}},
		"the same, a little later":   {seen: Step{Until: now.Add(time.Millisecond), By: known.By}, news: true, want: []Step{{Until: now.Add(time.Millisecond), By: known.By}}},
		"the same, a little larger":  {seen: Step{Until: now.Add(-time.Millisecond), By: known.By + time.Millisecond}, news: true, want: []Step{{Until: now, By: known.By + time.Millisecond}}},
		"another":                    {seen: Step{Until: now, By: time.Minute}, news: true, want: []Step{known, {Until: now, By: time.Minute}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &databaseClock{steps: []Step{known}, last: Reading{Database: now}}
			if news := c.adopt([]Step{row.seen}); news != row.news {
				t.Errorf("news: %t", news)
			}
			if diff := cmp.Diff(row.want, c.steps); diff != "" {
				t.Error(diff)
			}
		})
	}
}
