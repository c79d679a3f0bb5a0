package pgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// fakeClock preloads libfaketime into PostgreSQL, which then adds what a file says to every time of day that
// it reads. The monotonic clock, by which PostgreSQL waits, stays as it is.
func (c *Cluster) fakeClock() error {
	var found []string
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1"} {
		paths, _ := filepath.Glob(pattern) // fails for a bad pattern alone
		found = append(found, paths...)
	}
	if len(found) == 0 {
		return errors.New("the database's clock cannot be stepped: libfaketime is not here; install the package faketime")
	}
	file := c.dir + "/clock"
	c.clock = []string{
		"LD_PRELOAD=" + found[0], "FAKETIME_TIMESTAMP_FILE=" + file, "FAKETIME_NO_CACHE=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1", // the names of newer and older versions
	}
	return c.StepClock(0)
}

// StepClock moves the clock of a cluster that was made with Options.Clock, for all of its sessions at once.
func (c *Cluster) StepClock(by time.Duration) error {
	c.offset += by
	next := c.dir + "/clock.next"
	err := os.WriteFile(next, fmt.Appendf(nil, "%+.3f\n", c.offset.Seconds()), 0o644) // PostgreSQL's user reads it
	if err == nil {
		err = os.Rename(next, c.dir+"/clock")
	}
	if err != nil {
		return fmt.Errorf("stepping the database's clock: %w", err)
	}
	return nil
}
