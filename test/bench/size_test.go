package bench

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/paired"
)

// The program, static, as it is released.
func BenchmarkBinary(b *testing.B) {
	path := filepath.Join(b.TempDir(), "wts")
	build := exec.Command("go", "build", "-trimpath", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", path, "github.com/workspace-token-service/wts/cmd/wts")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	for b.Loop() {
		if output, err := build.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, output)
		}
	}
	built, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	paired.Report(b, float64(built.Size())/1e6, "MB", "≤44.5")
}

// A token that is read from a table of a million connections, beside one of a
// thousand.
func BenchmarkAMillionConnections(b *testing.B) {
	const people = 1000
	for b.Loop() {
		var deployments [2]*deployment.Deployment
		for i := range deployments {
			deployments[i] = deployment.New(b, deployment.Setup{People: people, Replicas: 1, Life: time.Hour, Rate: 100})
			for _, name := range deployments[i].Names {
				deployments[i].Connect(b, name, time.Hour, false)
			}
		}
		many := deployments[1]
		many.Exec(b, `INSERT INTO users (id, issuer, subject, username, created_at) SELECT 'filler-' || n, 'https://op', 'filler-' || n, 'filler-' || n, 0 FROM generate_series(1, 1000000) n`)
		many.Exec(b, `INSERT INTO connections (user_id, provider, subject, phase, version, refresh_token, refresh_digest, access_token, access_issued_at, access_expires_at, connected_at, updated_at)
			SELECT 'filler-' || n, 'main', 'filler-' || n, 'ready', 1, 'x', decode(md5(n::text), 'hex'), 'x', 1, 2, 0, 0 FROM generate_series(1, 1000000) n`)
		many.Exec(b, "ANALYZE")
		time.Sleep(5 * time.Second)
		var ratios []float64
		var took [2]time.Duration
		for person := range people {
			for step := range deployments {
				at := (person + step) % 2
				l := newLoad(b, deployments[at].WTS[0].Address, "/token/", person, 1)
				began := time.Now()
				if status := l.lanes[0][0].ask(l.request); status != http.StatusOK {
					b.Fatalf("answered %d", status)
				}
				took[at] = time.Since(began)
			}
			ratios = append(ratios, float64(took[1])/float64(took[0]))
		}
		paired.Report(b, paired.Median(ratios), "x-time-with-1,000-connections", "≤1.3")
	}
}
