package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/paired"
)

// envGrowth names a folder in which `make bench` draws what these curves say, one file of JSON for each.
const envGrowth = "WTS_BENCH_GROWTH"

// curve is what something costs as something grows.
type curve struct {
	Title, X, Y string
	Lines       []line
}

type line struct {
	Name   string
	Points [][2]float64
}

// keep writes a curve where it is to be drawn, and reports its ends.
func (c curve) keep(b *testing.B, name string) {
	b.Helper()
	for _, one := range c.Lines {
		first, last := one.Points[0], one.Points[len(one.Points)-1]
		b.Logf("%s, %s: %v", c.Title, one.Name, one.Points)
		b.ReportMetric(last[1]/first[1], fmt.Sprintf("x-%s-from-%.0f-to-%.0f", one.Name, first[0], last[0]))
	}
	dir := os.Getenv(envGrowth)
	if dir == "" {
		return
	}
	text, err := json.MarshalIndent(c, "", "\t")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// What the first question for a person's token takes, as more people's tokens are stored.
func BenchmarkGrowthOfUsers(b *testing.B) {
	const each = 250
	sizes := []int{1_000, 10_000, 100_000, 1_000_000}
	for b.Loop() {
		r := deployment.New(b, deployment.Setup{People: each * len(sizes), Replicas: 1, Life: time.Hour, Rate: 100})
		connectAll(b, r)
		stored, found := len(r.Names), line{Name: "first-token"}
		for step, size := range sizes {
			if size > stored {
				r.Exec(b, `INSERT INTO users (id, issuer, subject, username, created_at)
					SELECT 'filler-' || n, 'https://op', 'filler-' || n, 'filler-' || n, 0 FROM generate_series($1::int, $2::int) n`, stored+1, size)
				r.Exec(b, `INSERT INTO connections (user_id, provider, subject, phase, version, refresh_token, refresh_digest, access_token, access_issued_at, access_expires_at, connected_at, updated_at)
					SELECT 'filler-' || n, 'main', 'filler-' || n, 'ready', 1, 'x', decode(md5(n::text), 'hex'), 'x', 1, 2, 0, 0 FROM generate_series($1::int, $2::int) n`, stored+1, size)
				r.Exec(b, "ANALYZE")
				time.Sleep(5 * time.Second)
				stored = size
			}
			var took []time.Duration
			for person := step * each; person < (step+1)*each; person++ {
				l := newLoad(b, r.WTS[0].Address, "/token/", person, 1)
				began := time.Now()
				if status := l.lanes[0][0].ask(l.request); status != http.StatusOK {
					b.Fatalf("answered %d", status)
				}
				took = append(took, time.Since(began))
				l.close()
			}
			found.Points = append(found.Points, [2]float64{float64(size), float64(paired.Percentile(took, .5).Microseconds()) / 1000})
		}
		curve{"The first question for a person's token", "connections stored", "milliseconds", []line{found}}.keep(b, "users")
	}
}

// What a new connection's question takes, as more pods run, with the right to watch them and without.
func BenchmarkGrowthOfPods(b *testing.B) {
	for b.Loop() {
		found := curve{Title: "A question on a new connection, eight at once", X: "pods", Y: "milliseconds"}
		for _, rights := range []string{"watch", "list-only"} {
			one := line{Name: rights}
			for _, pods := range []int{100, 1_000, 3_000, 10_000} {
				one.Points = append(one.Points, [2]float64{float64(pods), atPods(b, rights, pods)})
			}
			found.Lines = append(found.Lines, one)
		}
		found.keep(b, "pods")
	}
}

// atPods is the median time of a question, in milliseconds, of eight at once.
func atPods(b *testing.B, rights string, pods int) float64 {
	b.Helper()
	const people, lanes = 80, 8
	cluster := newPods(b, rights, pods)
	r := deployment.New(b, deployment.Setup{People: people, Replicas: 1, Life: time.Hour, Rate: 100, Kubeconfig: cluster.file})
	connectAll(b, r)
	for deadline := time.Now().Add(time.Minute); rights == "watch"; time.Sleep(time.Second) { // until the pods are known
		before, _ := cluster.Calls()
		status := once(r.WTS[0].Address, "/token/", 0)
		if after, _ := cluster.Calls(); after == before && status == "200" {
			break
		}
		if time.Now().After(deadline) {
			b.Fatal("a watched pod is asked for")
		}
	}
	var mu sync.Mutex
	var took []time.Duration
	var all errgroup.Group
	for lane := range lanes {
		all.Go(func() error {
			for turn := range 4 * people / lanes {
				began := time.Now()
				if status := once(r.WTS[0].Address, "/token/", (turn*lanes+lane)%people); status != "200" {
					return fmt.Errorf("answered %s", status)
				}
				if turn >= people/lanes { // those before read the row
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	r.WTS[0].Kill()
	return float64(paired.Percentile(took, .5).Microseconds()) / 1000
}

// podCluster is an API server with pods, of which the first are people's workers.
type podCluster struct {
	*kubetest.Server
	file string // a kubeconfig
}

func newPods(b *testing.B, rights string, pods int) podCluster {
	b.Helper()
	c := podCluster{kubetest.Start(b), filepath.Join(b.TempDir(), "kubeconfig")}
	if rights == "list-only" {
		c.ForbidWatch()
	}
	for i := range pods {
		pod := kubetest.Grown(kubetest.Pod("work", fmt.Sprintf("workspace-%d", i), deployment.AddressOf(i), fmt.Sprintf("user%d", i)))
		pod.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
		c.Put(pod)
	}
	if err := os.WriteFile(c.file, []byte(c.Kubeconfig()), 0o600); err != nil {
		b.Fatal(err)
	}
	return c
}

// What a cached token takes of the processor, as more connections stand open beside those that ask.
func BenchmarkGrowthOfConnections(b *testing.B) {
	for b.Loop() {
		one := newCached(b, "info", 8)
		found := line{Name: "cached-token"}
		var idle []*busy
		for _, open := range []int{8, 100, 1_000, 5_000} {
			for len(idle)+8 < open {
				next := newBusy(b, one.address, 0)
				if status := next.ask(one.load.request); status != http.StatusOK {
					b.Fatalf("answered %d", status)
				}
				idle = append(idle, next)
			}
			medians := rounds(b, []*target{one}, func(round []window) []float64 { return []float64{round[0].cpu * 10_000} })
			found.Points = append(found.Points, [2]float64{float64(open), medians[0]})
		}
		curve{"A cached token: processor time", "connections open", "microseconds", []line{found}}.keep(b, "connections")
	}
}

// Three replicas, and two, beside one on the same cores: rotations a second.
func BenchmarkColdOverReplicas(b *testing.B) {
	const lanes, most = 16, 3
	for b.Loop() {
		var deployments []*cold
		for replicas := 1; replicas <= most; replicas++ {
			deployments = append(deployments, newCold(b, "", replicas))
		}
		found := line{Name: "rotations"}
		for i, one := range deployments {
			ratio := rotating{rate: 1, wts: 1, database: 1}
			if i > 0 {
				ratio = beside(b, deployments[0], one, lanes)
			}
			found.Points = append(found.Points, [2]float64{float64(i + 1), ratio.rate})
			if i+1 == most {
				paired.Report(b, ratio.rate, "x-rotations-of-one-replica", "≥1.0")
				paired.Report(b, ratio.wts, "x-CPU-of-wts-of-one-replica", "-")
				paired.Report(b, ratio.database, "x-CPU-of-PostgreSQL-of-one-replica", "-")
			}
		}
		curve{"Cold tokens on the same " + strconv.Itoa(cores()) + " cores", "replicas", "of one replica's rate", []line{found}}.keep(b, "replicas")
	}
}
