package bench

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

// first is the commit that the refresh engine's costs are compared with: the one that was measured beside Dex, Hydra
// and the Python service.
const first = "fe03dfe"

// cold is a deployment whose people's tokens are dead whenever they are asked for: they live for two seconds, and there
// are so many people that the next question for one comes later, at up to 1,500 a second. Each question is a refresh,
// with rotation.
type cold struct {
	*deployment.Deployment
	database int
	crowd    *load
}

const coldPeople = 3600

// newCold logs people in.
func newCold(b *testing.B, older string, replicas int) *cold {
	b.Helper()
	c := &cold{Deployment: deployment.New(b, deployment.Setup{People: coldPeople, Replicas: replicas, Life: 2 * time.Second, Rate: 100_000, Older: older})}
	var all errgroup.Group
	all.SetLimit(8)
	for _, name := range c.Names {
		all.Go(func() error { return c.LogIn(b.Context(), name) })
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	var err error
	if c.database, err = c.Database.PID(); err != nil {
		b.Fatal(err)
	}
	return c
}

// rotating is what a deployment did in a few seconds.
type rotating struct {
	rate          float64 // rotations a second
	wts, database float64 // milliseconds of processor time for each
	foreign       bool
}

// open opens a connection for each person, which stays open from round to round.
func (c *cold) open(b *testing.B, lanes int) {
	b.Helper()
	var addresses []string
	for _, one := range c.WTS {
		addresses = append(addresses, one.Address)
	}
	people := make([]int, coldPeople)
	for i := range people {
		people[i] = i
	}
	c.crowd = newCrowd(b, addresses, "/token/", people, lanes)
}

// rotate asks for a few seconds, and wants a refresh for every answer.
func (c *cold) rotate(b *testing.B) (did rotating) {
	b.Helper()
	posts, machine, mine, began := c.Provider.Ledger().TokenPosts, ticks(""), ours(), time.Now()
	wts, database := c.used(), family(c.database)
	answers := len(c.crowd.run(b, 3*time.Second))
	took := time.Since(began).Seconds()
	posts = c.Provider.Ledger().TokenPosts - posts
	if posts < answers*9/10 {
		b.Fatalf("%d answers, and %d posts", answers, posts)
	}
	rotations := float64(max(1, posts))
	did.rate = rotations / took
	did.wts, did.database = (c.used()-wts)*10/rotations, (family(c.database)-database)*10/rotations
	did.foreign = ticks("")-machine-(ours()-mine) > 0.1*took*100*float64(cores())
	return did
}

// used is the processor time of the replicas, in hundredths of a second.
func (c *cold) used() (sum float64) {
	for _, one := range c.WTS {
		sum += ticks(strconv.Itoa(one.PID()))
	}
	return sum
}

// family is the processor time of a process with its children, those that have ended too, in hundredths of a second.
func family(of int) (sum float64) {
	parent := strconv.Itoa(of)
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		fields := statOf(path)
		switch {
		case len(fields) < 16:
		case filepath.Base(filepath.Dir(path)) == parent:
			sum += sumOf(fields[12:16])
		case fields[2] == parent:
			sum += sumOf(fields[12:14])
		}
	}
	return sum
}

// beside measures deployments in turn until each has seven undisturbed rounds, and returns the medians of the ratios of
// the second's figures to the first's.
func beside(b *testing.B, one, other *cold, lanes int) (ratio rotating) {
	b.Helper()
	var rates, wts, databases []float64
	for _, c := range []*cold{one, other} {
		c.open(b, lanes)
		defer c.crowd.close()
	}
	for range 3 { // until statements are prepared and caches warm
		one.rotate(b)
		other.rotate(b)
	}
	for turn := 0; len(rates) < 7; turn++ {
		if turn == 30 {
			b.Fatalf("the machine is busy with something else: %d of %d rounds were undisturbed", len(rates), turn)
		}
		var before, after rotating
		if turn%2 == 0 {
			before, after = one.rotate(b), other.rotate(b)
		} else {
			after, before = other.rotate(b), one.rotate(b)
		}
		b.Logf("%.0f and %.0f a second, wts %.2f and %.2f ms, PostgreSQL %.2f and %.2f ms", before.rate, after.rate, before.wts, after.wts, before.database, after.database)
		if before.foreign || after.foreign {
			continue
		}
		rates, wts, databases = append(rates, after.rate/before.rate), append(wts, after.wts/before.wts), append(databases, after.database/before.database)
	}
	return rotating{rate: paired.Median(rates), wts: paired.Median(wts), database: paired.Median(databases)}
}

// What a cold token costs, beside the first version that was measured.
func BenchmarkColdBesideTheFirst(b *testing.B) {
	older := instance.BinaryOf(b, first)
	for b.Loop() {
		before, after := newCold(b, older, 1), newCold(b, "", 1)
		for _, lanes := range []int{1, 8} {
			found := beside(b, before, after, lanes)
			at := "-" + strconv.Itoa(lanes) + "-at-once"
			paired.Report(b, found.wts, "x-CPU-of-wts"+at, "≤0.6")
			paired.Report(b, found.database, "x-CPU-of-PostgreSQL"+at, "≤0.6")
			paired.Report(b, found.rate, "x-rotations"+at, ">1")
		}
	}
}
