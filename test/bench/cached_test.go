package bench

import (
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/paired"
)

// newCached runs a service that has a person's token in memory, and logs at a level.
func newCached(b *testing.B, level string, connections int) *target {
	b.Helper()
	r := deployment.New(b, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 100, Log: level})
	r.Connect(b, r.Names[0], time.Hour, false)
	one := &target{address: r.WTS[0].Address, pid: r.WTS[0].PID()}
	one.load = newLoad(b, one.address, "/token/?expires=600", 0, connections)
	return one
}

// A cached token, beside a bare gin handler with the same body, both in processes of
// their own, at eight connections.
func BenchmarkCachedTokenServed(b *testing.B) {
	gin := newBareGin(b)
	gin.load = newLoad(b, gin.address, "/token/", 0, 8)
	targets := []*target{gin, newCached(b, "error", 8), newCached(b, "info", 8)}
	for b.Loop() {
		found := rounds(b, targets, func(round []window) []float64 {
			gin, plain, logged := round[0], round[1], round[2]
			return []float64{plain.rate / gin.rate, plain.cpu / gin.cpu, logged.rate / gin.rate, logged.cpu / gin.cpu}
		})
		paired.Report(b, found[0], "x-rate-of-bare-gin", "≥0.85")
		paired.Report(b, found[1], "x-CPU-of-bare-gin", "≤1.15")
		paired.Report(b, found[2], "x-rate-with-log-and-audit", "≥0.70")
		paired.Report(b, found[3], "x-CPU-with-log-and-audit", "≤1.45")
	}
}

// A token of a provider beside the default one, asked for with a bearer of the default one's, which was seen before;
// beside the same token asked for from a pod.
func BenchmarkBearerServed(b *testing.B) {
	r := deployment.New(b, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 100, Log: "info", Bearers: true})
	r.Connect(b, r.Names[0], time.Hour, true)
	const path, stranger = "/token/?idp=second&expires=600", 1
	pod := &target{address: r.WTS[0].Address, pid: r.WTS[0].PID()}
	bearer := &target{address: pod.address, pid: pod.pid}
	pod.load = newLoad(b, pod.address, path, 0, 8)
	bearer.load = newLoad(b, pod.address, path, stranger, 8)
	bearer.load.request = requestOf(pod.address, path, "Authorization: Bearer "+refreshed(b, r.Provider, r.Provider.Grant("wts", r.Names[0])))
	for b.Loop() {
		found := rounds(b, []*target{pod, bearer}, func(round []window) []float64 {
			return []float64{round[1].cpu / round[0].cpu, round[1].rate / round[0].rate}
		})
		paired.Report(b, found[0], "x-CPU-of-a-pod's", "≤2.5")
		paired.Report(b, found[1], "x-rate-of-a-pod's", "-")
	}
}

// The slowest of a hundred at 64 connections; and the probe while as many ask as
// saturate the machine twice over. (Each of them waits for all others: what waits is the queue.)
func BenchmarkCrowd(b *testing.B) {
	gin, wts := newBareGin(b), newCached(b, "info", 64)
	gin.load = newLoad(b, gin.address, "/token/", 0, 64)
	for b.Loop() {
		found := rounds(b, []*target{gin, wts}, func(round []window) []float64 {
			return []float64{float64(paired.Percentile(round[1].latencies, .99)) / float64(paired.Percentile(round[0].latencies, .99))}
		})
		paired.Report(b, found[0], "x-p99-of-bare-gin", "≤1.5")
		probe := newLoad(b, wts.address, "/_status", 0, 1)
		idle := paired.Percentile(probe.run(b, 2*time.Second), .5)
		var saturated time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(200 * time.Millisecond)
			saturated = paired.Percentile(probe.run(b, 2*time.Second), .5)
		}()
		saturating := &load{request: wts.load.request, lanes: wts.load.lanes[:8*cores()]}
		saturating.run(b, 3*time.Second)
		<-done
		paired.Report(b, float64(saturated)/float64(idle), "x-idle-status-while-saturated", "≤10")
	}
}
