// Package paired measures one thing beside another, in the same run: the ratio is what stays the same
// on another machine, and on this one while it does something else.
package paired

import (
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pairs = 40
	slice = 2 * time.Millisecond
)

// CPU is how many times the processor time of baseline a subject takes: the median over pairs of slices
// of a few milliseconds, one right after the other on one thread, by that thread's own clock.
func CPU(subject, baseline func()) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	of, at := calibrate(subject), calibrate(baseline)
	ratios := make([]float64, 0, pairs)
	for pair := range pairs {
		var a, b float64
		if pair%2 == 0 {
			a, b = each(subject, of), each(baseline, at)
		} else {
			b, a = each(baseline, at), each(subject, of)
		}
		ratios = append(ratios, a/b)
	}
	return Median(ratios)
}

// calibrate is how often something is to run to fill a slice.
func calibrate(work func()) int {
	for times := 1; ; times *= 2 {
		if took := each(work, times) * float64(times); took > float64(slice) {
			return times
		}
	}
}

// each is the processor time of one run, in nanoseconds.
func each(work func(), times int) float64 {
	began := thread()
	for range times {
		work()
	}
	return float64(thread()-began) / float64(times)
}

func thread() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now) // it is there on every Linux
	return now.Nano()
}

// Median is the one in the middle; not a number without any.
func Median(of []float64) float64 {
	if len(of) == 0 {
		return math.NaN()
	}
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

// Percentile is the value below which that share of them lies.
func Percentile(of []time.Duration, share float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[min(int(share*float64(len(of))), len(of)-1)]
}

// Report makes a benchmark say what it found beside what performance.md wants, and nothing else.
func Report(b *testing.B, found float64, unit, target string) {
	b.ReportMetric(0, "ns/op") // it would be the time of the whole comparison
	if target != "" {
		unit += "(" + target + ")"
	}
	b.ReportMetric(found, unit)
}
