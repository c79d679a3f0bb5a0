package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/paired"
)

const (
	workspaces = 10_000
	// perSecond is what Gen3's sidecar asks in them: two tokens and one list of providers each ten seconds.
	perSecond = workspaces * 3 / 10
)

// A core carries ten thousand workspaces: wts has one core for itself, and the provider, PostgreSQL and the callers have
// the others. A workspace asks when it is due, however late the answers to others are, each time on a new connection.
func BenchmarkWorkspacesOnACore(b *testing.B) {
	for b.Loop() {
		for _, rights := range []string{"watch", "list-only"} {
			carry(b, rights)
		}
	}
}

// carry measures with the right to watch pods, or without.
func carry(b *testing.B, rights string) {
	b.Helper()
	cluster := newPods(b, rights, workspaces)
	b.Setenv("GOMAXPROCS", "1")
	r := deployment.New(b, deployment.Setup{People: workspaces, Replicas: 1, Life: time.Hour, Rate: 1000, Log: "info", Kubeconfig: cluster.file})
	connectAll(b, r)
	apart(b, r)
	pid := strconv.Itoa(r.WTS[0].PID())
	visit(b, r.WTS[0].Address, 10*time.Second) // what is asked for again and again is in memory
	_, before := cluster.Calls()
	used, began := ticks(pid), time.Now()
	took, others := visit(b, r.WTS[0].Address, 20*time.Second)
	_, after := cluster.Calls()
	refused := 0
	for _, count := range others {
		refused += count
	}
	if refused > 0 && rights == "watch" {
		b.Errorf("%d were served, and others were not: %v", len(took), others)
	}
	paired.Report(b, float64(refused)/float64(refused+len(took)), "refused-"+rights, "0")
	paired.Report(b, paired.Percentile(took, .99).Seconds()*1000, "ms-p99-"+rights, "<250")
	paired.Report(b, paired.Percentile(took, .5).Seconds()*1000, "ms-p50-"+rights, "-")
	paired.Report(b, (ticks(pid)-used)/100/time.Since(began).Seconds(), "cores-"+rights, "≤1")
	paired.Report(b, float64(after["list"]-before["list"])/time.Since(began).Seconds(), "lists-a-second-"+rights, "-")
}

// connectAll stores a grant of everybody's.
func connectAll(b *testing.B, r *deployment.Deployment) {
	b.Helper()
	var all errgroup.Group
	all.SetLimit(8)
	for _, name := range r.Names {
		all.Go(func() error { r.Connect(b, name, time.Hour, false); return nil })
	}
	_ = all.Wait() // Connect fails the benchmark itself
	time.Sleep(2 * time.Second)
}

// apart gives the first core to wts, and the others to this process and to PostgreSQL.
func apart(b *testing.B, r *deployment.Deployment) {
	b.Helper()
	database, err := r.Database.PID()
	if err != nil {
		b.Fatal(err)
	}
	var first, others unix.CPUSet
	first.Set(0)
	for core := 1; core < cores(); core++ {
		others.Set(core)
	}
	if others.Count() == 0 {
		b.Skip("there is one core, which wts would have to share")
	}
	place := func(pid int, on *unix.CPUSet) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
		for _, thread := range threads {
			id, _ := strconv.Atoi(filepath.Base(thread)) // the kernel names them by numbers
			_ = unix.SchedSetaffinity(id, on)            // one that has ended meanwhile needs no place
		}
	}
	place(r.WTS[0].PID(), &first)
	place(os.Getpid(), &others)
	place(database, &others)
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		if fields := statOf(path); len(fields) > 2 && fields[2] == strconv.Itoa(database) {
			id, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			place(id, &others)
		}
	}
	b.Cleanup(func() {
		others.Set(0)
		place(os.Getpid(), &others)
	})
}

// visit has workspaces ask for so long, at random, and returns how long after its time each had its answer, and what others were told.
func visit(b *testing.B, address string, duration time.Duration) (took []time.Duration, others map[string]int) {
	b.Helper()
	others = map[string]int{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	due := time.Now()
	for until := due.Add(duration); due.Before(until); {
		due = due.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / perSecond))
		if wait := time.Until(due); wait > time.Millisecond { // those that are due within a moment come at once
			time.Sleep(wait)
		}
		path := "/token/?expires=600"
		if rand.IntN(3) == 0 {
			path = "/external_oidc/"
		}
		mine, who := due, rand.IntN(workspaces)
		asking.Go(func() {
			status := once(address, path, who)
			mu.Lock()
			defer mu.Unlock()
			if status != "200" {
				others[status]++
				return
			}
			took = append(took, time.Since(mine))
		})
	}
	asking.Wait()
	return slices.Clip(took), others
}

// once asks on a connection of its own.
func once(address, path string, who int) (status string) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(deployment.AddressOf(who))}, Timeout: 10 * time.Second}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(connection, "GET "+path+" HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n")
	text, err := io.ReadAll(connection)
	if err != nil {
		return err.Error()
	}
	_, status, _ = strings.Cut(string(text), " ")
	return status[:min(3, len(status))]
}
